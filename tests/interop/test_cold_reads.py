"""Real clients read coded segments like any others: all of them, across the border, nodes lost."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

import aiokafka
import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from tests.forked import run_logd
from tests.server_process import ServerProcess

with warnings.catch_warnings():
    # kafka-python imports by ways that Python gives up; that is not what is looked at here.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka

pytestmark = pytest.mark.interop

TOPIC = "coded"
RECORDS = 6000
NODES = "abcdef"
TIMEOUT_S = 60
FIRST_MS = 1_700_000_000_000
Digest = tuple[int, str]


def value_of(number: int) -> bytes:
    return b"%08d-" % number * (10 + number % 60)


def digest_of(values: Iterator[bytes]) -> Digest:
    """How many, and a digest of all in order."""
    count, found = 0, hashlib.sha256()
    for value in values:
        count += 1
        found.update(value)
    return count, found.hexdigest()


EXPECTED = digest_of(value_of(number) for number in range(RECORDS))


class Coded(ServerProcess):
    """A server with six directories as nodes, and a topic whose sealed segments are in chunks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        nodes = [word for name in NODES for word in ("--node", f"{name}={path / name}")]
        super().__init__(path / "data", *nodes)

    def fill(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        config = {
            "segment.bytes": str(256 * 1024), "cold.enable": "true", "cold.profile": "4+2",
            "cold.grace.ms": "0", "retention.ms": "-1",
            "message.timestamp.before.max.ms": str(2**62),
        }  # fmt: skip
        admin.create_topics([NewTopic(TOPIC, 1, 1, config=config)])[TOPIC].result(TIMEOUT_S)
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": self.bootstrap, "batch.size": 30_000, "linger.ms": 5}
        )
        for number in range(RECORDS):
            producer.produce(TOPIC, value_of(number), timestamp=FIRST_MS + number)
            producer.poll(0)
        assert producer.flush(TIMEOUT_S) == 0

    def hot_segments(self) -> list[int]:
        """The base offsets of segments that have a .log."""
        return sorted(
            int(path.name[:20]) for path in (self.path / "data/topics" / f"{TOPIC}-0").glob("*.log")
        )

    def code(self) -> None:
        """Wait until all but the active segment are released."""
        deadline = time.monotonic() + TIMEOUT_S
        while len(self.hot_segments()) > 1:
            self.logd("cold", "encode", TOPIC)
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.2)

    def logd(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        host, port = self.admin
        return run_logd(*words, "--admin", f"{host}:{port}", timeout_s=TIMEOUT_S)

    def restart_without(self, *names: str) -> None:
        """Stop, take these nodes away and bring the others back, start: nothing is in memory."""
        assert self.stop() == 0
        for name in NODES:
            here, away = self.path / name, self.path / f"{name}.away"
            if name in names and here.exists():
                here.rename(away)
            elif name not in names and away.exists():
                away.rename(here)
        self.start()

    def counter(self, name: str) -> float:
        host, port = self.admin
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=TIMEOUT_S) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coded]:
    """A server with all of its sealed segments in chunks, just started again."""
    with Coded(tmp_path_factory.mktemp("coded")) as process:
        process.fill()
        process.code()
        process.restart_without()
        yield process
        assert "Traceback" not in process.log()


def read_confluent(server: Coded) -> Digest:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": server.bootstrap, "group.id": "unused", "check.crcs": True}
    )
    consumer.assign([confluent_kafka.TopicPartition(TOPIC, 0, 0)])

    def values() -> Iterator[bytes]:
        expected, deadline = 0, time.monotonic() + TIMEOUT_S
        while expected < RECORDS:
            assert time.monotonic() < deadline
            for message in consumer.consume(1000, 1):
                assert message.error() is None
                assert message.offset() == expected
                expected += 1
                yield message.value() or b""

    found = digest_of(values())
    consumer.close()
    return found


def read_kafka_python(server: Coded) -> Digest:
    consumer = kafka.KafkaConsumer(bootstrap_servers=server.bootstrap, enable_auto_commit=False)
    consumer.assign([kafka.TopicPartition(TOPIC, 0)])
    consumer.seek_to_beginning()

    def values() -> Iterator[bytes]:
        expected, deadline = 0, time.monotonic() + TIMEOUT_S
        while expected < RECORDS:
            assert time.monotonic() < deadline
            for records in consumer.poll(1000).values():
                for record in records:
                    assert record.offset == expected
                    expected += 1
                    yield record.value

    found = digest_of(values())
    consumer.close()
    return found


def read_aiokafka(server: Coded) -> Digest:
    async def read() -> list[bytes]:
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=server.bootstrap, enable_auto_commit=False
        )
        await consumer.start()
        try:
            place = aiokafka.TopicPartition(TOPIC, 0)
            consumer.assign([place])
            await consumer.seek_to_beginning()
            values: list[bytes] = []
            async with asyncio.timeout(TIMEOUT_S):
                while len(values) < RECORDS:
                    for record in (await consumer.getmany(timeout_ms=1000)).get(place, []):
                        assert record.offset == len(values)
                        values.append(record.value or b"")
            return values
        finally:
            await consumer.stop()

    return digest_of(iter(asyncio.run(read())))


READERS = [read_confluent, read_kafka_python, read_aiokafka]


@pytest.mark.parametrize("lost", ["", "bd", "ae"], ids=lambda lost: lost or "none")
def test_every_client_reads_all_of_it(server: Coded, lost: str) -> None:
    """From the first offset in chunks to the last hot one, with up to two of six nodes gone."""
    server.restart_without(*lost)
    for read in READERS:
        assert read(server) == EXPECTED
    assert server.counter('logd_cold_reads_total{result="failed"}') == 0
    is_degraded = server.counter('logd_cold_reads_total{result="degraded"}') > 0
    # A chunk that is slow to come, on a busy machine, is computed from the others as well.
    is_slow = server.counter("logd_cold_hedges_total") > 0
    assert is_degraded if lost else is_slow or not is_degraded
    assert server.counter("logd_cold_read_bytes_total") > 0
    assert len(server.hot_segments()) == 1


def test_times_lead_into_coded_segments(server: Coded) -> None:
    """Offsets by time, the latest record, and what is hot and what is coded; with a node gone."""
    server.restart_without("c")
    place = confluent_kafka.TopicPartition(TOPIC, 0)
    admin = AdminClient({"bootstrap.servers": server.bootstrap})

    def offset(spec: OffsetSpec) -> int:
        return int(admin.list_offsets({place: spec})[place].result(TIMEOUT_S).offset)

    for number in (0, 1, 777, RECORDS // 2, RECORDS - 1):
        assert offset(OffsetSpec.for_timestamp(FIRST_MS + number)) == number
    assert offset(OffsetSpec.for_timestamp(FIRST_MS + RECORDS)) == -1
    assert offset(OffsetSpec.max_timestamp()) == RECORDS - 1
    assert offset(OffsetSpec.earliest()) == 0
    assert offset(OffsetSpec.latest()) == RECORDS
    consumed = run_logd(
        "consume", TOPIC, "--bootstrap", server.bootstrap,
        "--from", "2023-11-14T22:13:21.500Z", "--count", "2", "--format", "%o %v\\n",
    )  # fmt: skip
    assert consumed.returncode == 0, consumed.stderr
    assert consumed.stdout.split() == [b"1500", value_of(1500), b"1501", value_of(1501)]


def test_what_too_few_chunks_are_left_for_is_named(server: Coded) -> None:
    """Status says which offsets, with exit code 4; what is left is served, and the hot end too."""
    # Who has which chunk is chance: of the first segment the first of its four parts is to be left.
    first = json.loads(server.logd("segments", TOPIC, "--json").stdout)[0]
    holders = {chunk["index"]: chunk["node"] for chunk in first["chunks"]}
    server.restart_without(holders[1], holders[4], holders[5])
    assert server.logd("status").returncode == 4  # At once, before anybody has read.
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": server.bootstrap, "group.id": "unused",
         "fetch.error.backoff.ms": 50}
    )  # fmt: skip
    seen: set[int] = set()
    for start in (*range(0, RECORDS - 1, 500), RECORDS - 1):
        consumer.assign([confluent_kafka.TopicPartition(TOPIC, 0, start)])
        deadline = time.monotonic() + (TIMEOUT_S if start in (0, RECORDS - 1) else 0.5)
        # A place that nothing is left of takes all the time it is given.
        while start not in seen and time.monotonic() < deadline:
            for message in consumer.consume(500, 0.5):
                if message.error() is None:
                    assert message.value() == value_of(message.offset() or 0)
                    seen.add(message.offset() or 0)
    consumer.close()
    assert seen >= {0, RECORDS - 1}
    assert len(seen) < RECORDS * 9 // 10
    status = server.logd("status", "--json")
    assert status.returncode == 4
    problems = [
        each
        for each in json.loads(status.stdout)["problems"]
        if each["kind"] == "cold_range_unreadable"
    ]
    assert problems
    assert "3 of 6 chunks can be read, 4 are needed" in problems[0]["message"]
    server.restart_without()
    assert read_confluent(server) == EXPECTED
