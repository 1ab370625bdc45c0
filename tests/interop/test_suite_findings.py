"""What the clients' own test suites, run from outside, once found wrong: each a small case here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from logd.record.records import NewRecord, encode_batch
from logd.wire.messages import produce
from tests.interop.group_server import TIMEOUT_S, group_server, new_name
from tests.interop.raw_group import Line
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

INVALID_RECORD = 87
NOW_MS = 1_700_000_000_000
KEYED: NewRecord = (b"k", b"v", [], NOW_MS)
UNKEYED: NewRecord = (None, b"v", [], NOW_MS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data: Path = tmp_path_factory.mktemp("suite-findings")
    with group_server(data) as server:
        yield server


def compacted_topic(server: ServerProcess) -> str:
    name = new_name("compacted")
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    new = NewTopic(name, 1, 1, config={"cleanup.policy": "compact"})
    for future in admin.create_topics([new]).values():
        future.result(timeout=TIMEOUT_S)
    return name


def produce_request(topic: str, records: list[NewRecord]) -> produce.ProduceRequest:
    batch = memoryview(encode_batch(records))
    data = produce.PartitionProduceData(index=0, records=batch)
    topic_data = produce.TopicProduceData(name=topic, partition_data=[data])
    return produce.ProduceRequest(acks=-1, timeout_ms=10_000, topic_data=[topic_data])


@pytest.mark.parametrize("version", [7, 8, 9, 11])
@pytest.mark.parametrize("warm", [False, True], ids=["first", "like the one before"])
def test_refused_records_are_named(server: ServerProcess, version: int, warm: bool) -> None:
    """A compacted topic says which records have no key, so that the others can be sent again."""
    topic = compacted_topic(server)
    with Line(server) as line:
        if warm:
            line.ask(produce, produce_request(topic, [KEYED] * 3), version)
        asked = produce_request(topic, [UNKEYED, KEYED, UNKEYED])
        (answer,) = line.ask(produce, asked, version).responses[0].partition_responses
    assert answer.error_code == INVALID_RECORD
    assert [record.batch_index for record in answer.record_errors] == [[0, 2], []][version < 8]
