"""What the clients' own test suites, run from outside, once found wrong: each a small case here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from logd.record.records import NewRecord, encode_batch
from logd.wire.messages import delete_records, list_offsets, produce
from tests.interop.group_server import TIMEOUT_S, group_server, new_name, new_topic
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


def produce_request(
    topic: str, records: list[NewRecord], *, acks: int = -1
) -> produce.ProduceRequest:
    batch = memoryview(encode_batch(records))
    data = produce.PartitionProduceData(index=0, records=batch)
    topic_data = produce.TopicProduceData(name=topic, partition_data=[data])
    return produce.ProduceRequest(acks=acks, timeout_ms=10_000, topic_data=[topic_data])


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


def test_an_acknowledged_record_is_before_the_end(server: ServerProcess) -> None:
    """Also with acks=1, and at once: aiokafka's tests write, ask for the end, and read from there;
    or write, and delete what they wrote.
    """
    topic = new_topic(server, partitions=1)
    asked = list_offsets.ListOffsetsRequest(
        topics=[
            list_offsets.ListOffsetsTopic(
                name=topic,
                partitions=[list_offsets.ListOffsetsPartition(partition_index=0, timestamp=-1)],
            )
        ]
    )
    with Line(server) as line:
        for end in range(2, 40, 2):
            line.ask(produce, produce_request(topic, [KEYED], acks=1), 9)
            (latest,) = line.ask(list_offsets, asked, 7).topics[0].partitions
            assert (latest.error_code, latest.offset) == (0, end - 1)
            line.ask(produce, produce_request(topic, [KEYED], acks=1), 9)
            (deleted,) = line.ask(delete_records, deletion(topic, end), 2).topics[0].partitions
            assert (deleted.error_code, deleted.low_watermark) == (0, end)


def deletion(topic: str, offset: int) -> delete_records.DeleteRecordsRequest:
    part = delete_records.DeleteRecordsPartition(partition_index=0, offset=offset)
    return delete_records.DeleteRecordsRequest(
        topics=[delete_records.DeleteRecordsTopic(name=topic, partitions=[part])], timeout_ms=10_000
    )
