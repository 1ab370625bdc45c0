"""Kafka's own tools, unchanged, on our files and against our server.

DumpLogSegments holds each index entry against the log beside it, so its silence is Kafka's word
that a Kafka broker would find its way through the files.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import confluent_kafka
import pytest

from tests.interop.java_tools import JavaTools, UnavailableError, find_tools
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
BATCHES = 40
BATCH_RECORDS = 25
SEGMENT_BYTES = 65_536  # Four segments a topic or more, each with several index entries.
TIMEOUT_S = 60
T0_MS = 1_700_000_000_000

CONSOLE_CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
CONSOLE_PRODUCER = "org.apache.kafka.tools.ConsoleProducer"
DELETE_RECORDS = "org.apache.kafka.tools.DeleteRecordsCommand"
DUMP = "kafka.tools.DumpLogSegments"
CONFIGS = "kafka.admin.ConfigCommand"
OFFSETS = "org.apache.kafka.tools.GetOffsetShell"
TOPICS = "org.apache.kafka.tools.TopicCommand"
VERIFIABLE_PRODUCER = "org.apache.kafka.tools.VerifiableProducer"
_names = itertools.count()

RECORD = re.compile(
    r"^\| offset: (\d+) CreateTime: (-?\d+) .* key: (\S+) payload: (.*)$", re.MULTILINE
)
BATCH = re.compile(
    r"^baseOffset: (?P<first>\d+) lastOffset: (?P<last>\d+) count: (?P<count>\d+) .*"
    r"compresscodec: (?P<codec>\w+) .*isvalid: (?P<valid>\w+)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Sent:
    """A record as it was produced."""

    timestamp_ms: int
    key: str
    value: str


@pytest.fixture(scope="module")
def java() -> JavaTools:
    try:
        return find_tools()
    except UnavailableError as reason:
        pytest.skip(str(reason))


# On files


@dataclass(frozen=True, slots=True)
class Stopped:
    """A cleanly stopped server's files, and what was sent to it, by topic."""

    topics: Path
    sent: dict[str, list[Sent]]

    def files(self, topic: str, ending: str) -> list[Path]:
        """The files of the topic's only partition, by base offset."""
        return sorted((self.topics / f"{topic}-0").glob(f"*.{ending}"))


@pytest.fixture(scope="module")
def stopped(java: JavaTools, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """One topic per codec, in several segments, with timestamps that do not only rise."""
    data = tmp_path_factory.mktemp("java") / "data"
    settings = [f"segment.bytes={SEGMENT_BYTES}", "num.partitions=1"]
    rng = random.Random("java")  # The run's own numbers belong to one test each.
    with ServerProcess(data, *(f"--set={setting}" for setting in settings)) as server:
        sent = {codec: send_batches(server, codec, rng) for codec in CODECS}
        assert server.stop() == 0
    return Stopped(data / "topics", sent)


def send_batches(server: ServerProcess, codec: str, rng: random.Random) -> list[Sent]:
    """Produce to the topic of the codec's name, each batch for itself; their times may go back."""
    config = {"bootstrap.servers": server.bootstrap, "compression.type": codec, "acks": "all"}
    producer = confluent_kafka.Producer({**config, "linger.ms": 1000})
    failures: list[object] = []
    sent: list[Sent] = []
    for batch in range(BATCHES):
        records = [
            Sent(
                T0_MS + batch * 1000 + rng.randint(-5000, 5000),
                f"key-{batch}-{number}",
                # Text that no codec shrinks far, so that each topic fills its segments.
                base64.b64encode(rng.randbytes(rng.randint(0, 500))).decode(),
            )
            for number in range(BATCH_RECORDS)
        ]
        for record in records:
            producer.produce(
                codec, record.value, record.key, 0, timestamp=record.timestamp_ms,
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )  # fmt: skip
        assert producer.flush(TIMEOUT_S) == 0
        sent += records
    assert not failures
    return sent


def dump(java: JavaTools, files: list[Path], *options: str) -> tuple[str, str]:
    """Return what the tool shows, and its complaints: mismatches go to stderr, with exit code 0."""
    return java.run_both(DUMP, *options, "--files", ",".join(map(str, files)))


@pytest.mark.parametrize("codec", CODECS)
def test_kafka_reads_our_segments(java: JavaTools, stopped: Stopped, codec: str) -> None:
    """Every batch is valid and in its codec; offsets, times, keys and payloads are those sent."""
    logs = stopped.files(codec, "log")
    assert len(logs) >= 4
    text, complaints = dump(java, logs, "--deep-iteration", "--print-data-log")
    assert complaints == ""
    batches = [match.groupdict() for match in BATCH.finditer(text)]
    assert len(batches) >= BATCHES
    assert text.count("baseOffset:") == len(batches)
    assert {batch["valid"] for batch in batches} == {"true"}
    assert {batch["codec"] for batch in batches} <= {codec, "none"}  # Small ones may stay plain.
    assert any(batch["codec"] == codec for batch in batches)
    assert sum(int(batch["count"]) for batch in batches) == BATCHES * BATCH_RECORDS
    read = [(int(m[1]), Sent(int(m[2]), m[3], m[4])) for m in RECORD.finditer(text)]
    assert read == list(enumerate(stopped.sent[codec]))


@pytest.mark.parametrize("codec", CODECS)
def test_kafka_finds_its_way_by_our_indexes(java: JavaTools, stopped: Stopped, codec: str) -> None:
    """Each entry leads to a batch with that offset and that greatest time, in each segment,
    the active one included."""
    offset_indexes = stopped.files(codec, "index")
    time_indexes = stopped.files(codec, "timeindex")
    assert len(offset_indexes) == len(time_indexes) == len(stopped.files(codec, "log"))
    text, complaints = dump(java, [*offset_indexes, *time_indexes])
    entries = re.findall(r"^offset: \d+ position: \d+$", text, re.MULTILINE)
    times = re.findall(r"^timestamp: (\d+) offset: \d+$", text, re.MULTILINE)
    assert len(entries) == sum(path.stat().st_size for path in offset_indexes) // 8
    assert len(times) == sum(path.stat().st_size for path in time_indexes) // 12
    assert len(entries) >= 2 * len(offset_indexes)
    assert int(max(times)) == max(record.timestamp_ms for record in stopped.sent[codec])
    assert complaints == ""
    assert len(text.splitlines()) == len(entries) + len(times) + 2 * len(offset_indexes)


def test_our_indexes_pass_kafkas_sanity_check(java: JavaTools, stopped: Stopped) -> None:
    """What a Kafka broker demands of an index file at start holds of all of ours."""
    indexes = [f for c in CODECS for e in ("index", "timeindex") for f in stopped.files(c, e)]
    text, complaints = dump(java, indexes, "--index-sanity-check")
    assert complaints == ""
    assert text.splitlines() == [
        line for f in indexes for line in (f"Dumping {f}", f"{f} passed sanity check.")
    ]


def test_kafkas_tool_would_see_damage(java: JavaTools, stopped: Stopped, tmp_path: Path) -> None:
    """The oracle can say no: to a batch with one bit flipped, and to an entry one offset off."""
    log, index = (tmp_path / stopped.files("none", ending)[0].name for ending in ("log", "index"))
    damaged_log = bytearray(stopped.files("none", "log")[0].read_bytes())
    damaged_log[-1] ^= 1
    log.write_bytes(damaged_log)
    damaged_index = bytearray(stopped.files("none", "index")[0].read_bytes())
    damaged_index[3] += 1
    index.write_bytes(damaged_index)
    text, complaints = dump(java, [log, index])
    valid = [match["valid"] for match in BATCH.finditer(text)]
    assert valid[-1] == "false"
    assert set(valid[:-1]) == {"true"}
    assert complaints.startswith(f"Mismatches in :{index}\n")


def test_kafka_reads_a_segment_that_is_being_written(
    java: JavaTools, tmp_path: Path, rng: random.Random
) -> None:
    """The zeros behind an active index's entries disturb no reader, and kill -9 leaves the same."""
    data = tmp_path / "data"
    with ServerProcess(data, "--set=num.partitions=1") as server:
        send_batches(server, "none", rng)
        server.kill()
    stem = data / "topics" / "none-0" / ("0" * 20)
    log, index, times = (stem.with_suffix(ending) for ending in (".log", ".index", ".timeindex"))
    assert index.read_bytes().endswith(bytes(8)), "nothing is reserved: the case is gone"
    text, complaints = dump(java, [log, index, times])
    assert {match["valid"] for match in BATCH.finditer(text)} == {"true"}
    assert len(re.findall(r"^offset: \d+ position: \d+$", text, re.MULTILINE)) >= BATCHES // 2
    assert complaints == ""


# Against the server


@pytest.fixture(scope="module")
def server(java: JavaTools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(
        tmp_path_factory.mktemp("java") / "data", "--set=num.partitions=1"
    ) as process:
        yield process
        assert "Traceback" not in process.log()


@dataclass(frozen=True, slots=True)
class Client:
    """The tools pointed at one server and one topic."""

    java: JavaTools
    server: ServerProcess
    topic: str

    def run(self, tool: str, *arguments: str, stdin: str = "", code: int = 0) -> str:
        bootstrap = ("--bootstrap-server", self.server.bootstrap)
        return self.java.run(tool, *bootstrap, *arguments, stdin=stdin, code=code)

    def consume(self, *options: str, count: int) -> list[str]:
        """The lines of so many records of partition 0."""
        return self.run(
            CONSOLE_CONSUMER, "--topic", self.topic, "--partition", "0", *options,
            "--max-messages", str(count), "--timeout-ms", str(TIMEOUT_S * 1000),
        ).splitlines()  # fmt: skip


@pytest.fixture
def client(java: JavaTools, server: ServerProcess) -> Client:
    return Client(java, server, f"topic-{next(_names)}")


@pytest.mark.parametrize("codec", CODECS)
def test_console_round_trip(client: Client, codec: str) -> None:
    """What Java's idempotent producer wrote in each codec, Java's consumer reads from partition and
    offset, without a group: keys, headers, values, offsets."""
    lines = [f"source:java,n:{n}|key {n}|value ü {n}" for n in range(300)]
    options = ["parse.key=true", "key.separator=|", "parse.headers=true", "headers.delimiter=|"]
    client.run(
        CONSOLE_PRODUCER, "--topic", client.topic, "--compression-codec", codec,
        *(word for option in options for word in ("--property", option)),
        stdin="".join(f"{line}\n" for line in lines),
    )  # fmt: skip
    shown = ["print.key=true", "print.headers=true", "print.offset=true", "key.separator=|"]
    read = client.consume(
        "--offset", "100", "--isolation-level", "read_committed",
        *(word for option in shown for word in ("--property", option)),
        count=200,
    )  # fmt: skip
    wanted = [f"Offset:{offset}|{line}" for offset, line in enumerate(lines)][100:]
    # The consumer parts headers and offset from the rest by the same separator as the key.
    assert read == wanted


def test_verifiable_producer_is_acknowledged_in_order(client: Client) -> None:
    """With acks=all each record is acknowledged at the next offset, and offsets can be asked for
    by time."""
    said = client.run(
        VERIFIABLE_PRODUCER, "--topic", client.topic, "--max-messages", "500", "--acks", "-1"
    )
    events = [json.loads(line) for line in said.splitlines()]
    sent = [event for event in events if event["name"] == "producer_send_success"]
    assert [event["offset"] for event in sent] == list(range(500))
    assert not [event for event in events if event["name"] == "producer_send_error"]
    shown = ("--offset", "earliest", "--property", "print.timestamp=true")
    read = [line.split("\t") for line in client.consume(*shown, count=500)]
    assert [value for _, value in read] == [event["value"] for event in sent]
    stamps = [int(stamp.removeprefix("CreateTime:")) for stamp, _ in read]
    newest = stamps.index(max(stamps))  # The first of those with the greatest time.
    times = {"latest": 500, "max-timestamp": newest, str(max(stamps)): newest}
    for time, offset in times.items():
        told = client.run(OFFSETS, "--topic", client.topic, "--time", time)
        assert told == f"{client.topic}:0:{offset}\n"


def test_topics_are_administered(client: Client) -> None:
    """Create, list, describe, alter, describe, delete: each shows in the next."""
    name = ("--topic", client.topic)
    replicas = ("--replication-factor", "1")
    settings = ("--config", "retention.ms=7200000")
    client.run(TOPICS, "--create", *name, "--partitions", "2", *replicas, *settings)
    assert client.topic in client.run(TOPICS, "--list").splitlines()
    described = client.run(TOPICS, "--describe", *name)
    assert "PartitionCount: 2\t" in described
    assert "Configs: retention.ms=7200000\n" in described
    assert described.count("Leader: 1\tReplicas: 1\tIsr: 1") == 2
    client.run(TOPICS, "--alter", *name, "--partitions", "5")
    client.run(CONFIGS, "--alter", *name, "--add-config", "retention.ms=3600000")
    described = client.run(TOPICS, "--describe", *name)
    assert "PartitionCount: 5\t" in described
    assert "Configs: retention.ms=3600000\n" in described
    client.run(TOPICS, "--delete", *name)
    assert client.topic not in client.run(TOPICS, "--list").splitlines()


def test_refusals_reach_the_user(client: Client) -> None:
    """A topic that exists, and one with three replicas, are refused with the tool's exit code 1."""
    create = ("--create", "--topic", client.topic, "--partitions", "1")
    client.run(TOPICS, *create, "--replication-factor", "3", code=1)
    client.run(TOPICS, *create)
    client.run(TOPICS, *create, code=1)


def test_deleted_records_are_gone(client: Client, tmp_path: Path) -> None:
    """DeleteRecords moves the first offset, and a consumer from the earliest begins there."""
    numbers = [str(number) for number in range(10)]
    client.run(CONSOLE_PRODUCER, "--topic", client.topic, stdin="\n".join(numbers) + "\n")
    plan = tmp_path / "plan.json"
    partition = {"topic": client.topic, "partition": 0, "offset": 4}
    plan.write_text(json.dumps({"partitions": [partition], "version": 1}))
    done = client.run(DELETE_RECORDS, "--offset-json-file", str(plan))
    assert f"partition: {client.topic}-0\tlow_watermark: 4" in done
    assert client.consume("--offset", "earliest", count=6) == numbers[4:]
