"""Real input: each file of Python's standard library goes in by one client, comes out by others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from cli.roundtrip import (
    Rebuilder,
    Sent,
    Source,
    append,
    differing,
    lines,
    read_back,
    standard_library,
)
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

TOPIC = "library"
PARTITIONS = 3


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with a topic of several partitions."""
    with ServerProcess(tmp_path / "data", "--set", "segment.bytes=8MiB") as running:
        admin = AdminClient({"bootstrap.servers": running.bootstrap})
        wanted = NewTopic(TOPIC, num_partitions=PARTITIONS, replication_factor=1)
        admin.create_topics([wanted])[TOPIC].result(30)
        yield running


@pytest.mark.slow
@pytest.mark.timeout(400)  # Half a million records: more than a minute where others work, too.
def test_every_file_of_the_standard_library_comes_back(server: ServerProcess) -> None:
    """Appended line by line by one client, with kill -9 in the middle, read back by another: each
    file has the original's SHA-256."""
    sources = standard_library()
    assert len(sources) > 500

    def kill_in_the_middle(sent: Sent) -> None:
        if sent.files == len(sources) // 2:
            server.kill()
            server.start()

    settings = {"bootstrap.servers": server.bootstrap, "log_level": 0}
    sent = append(settings, TOPIC, sources, each=kill_in_the_middle)
    assert sent.files == len(sources)
    rebuilder = Rebuilder()
    read_back(settings, TOPIC, rebuilder)
    assert rebuilder.records == sent.records
    assert differing(sent.digests, rebuilder.digests()) == []


# kafka-python reads its message schemas in a way that Python 3.11 deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_client_of_another_family_reads_the_same(server: ServerProcess) -> None:
    """What librdkafka appended, kafka-python reads, file for file."""
    from kafka import KafkaConsumer, TopicPartition

    sources = standard_library()[::40]
    settings = {"bootstrap.servers": server.bootstrap, "log_level": 0}
    sent = append(settings, TOPIC, sources)
    consumer = KafkaConsumer(
        bootstrap_servers=server.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=20_000
    )
    consumer.assign([TopicPartition(TOPIC, number) for number in range(PARTITIONS)])
    rebuilder = Rebuilder()
    for record in consumer:
        rebuilder.add(record.key, record.value)
        if rebuilder.records == sent.records:
            break
    consumer.close()
    assert differing(sent.digests, rebuilder.digests()) == []


def test_lines_are_the_file(tmp_path: Path) -> None:
    """The lines of any bytes, joined, are these bytes; an empty file is one empty line."""
    for data in (b"", b"\n", b"a", b"a\r\nb\x00\n\n", bytes(range(256))):
        assert b"".join(lines(data)) == data
        assert list(lines(data))


def test_a_difference_is_found() -> None:
    """Missing, extra and changed files are all named."""
    sent = {b"same": "1", b"changed": "2", b"missing": "3"}
    rebuilt = {b"same": "1", b"changed": "x", b"extra": "4"}
    assert differing(sent, rebuilt) == ["changed", "extra", "missing"]


def test_the_library_is_found() -> None:
    """The sources are regular files under one root, each name once, no bytecode."""
    sources = standard_library()
    assert all(isinstance(source, Source) for source in sources)
    assert len({source.name for source in sources}) == len(sources)
    assert "os.py" in {source.name for source in sources}
    assert not any("__pycache__" in source.name for source in sources)
