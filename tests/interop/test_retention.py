"""Retention on a running server, seen by the clients that people use and by the command line."""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from logd.record.batch import read_header
from logd.record.build import encode_batch
from logd.wire.messages import fetch, produce
from tests.forked import run_logd
from tests.logd_command import Logd
from tests.raw_client import RawClient
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

TIMEOUT_S = 60  # Of a busy machine.
CHECK_MS = 200
HOUR_MS = 3_600_000
_names = itertools.count()


def started(data: Path) -> ServerProcess:
    """A server that looks often, not started yet; it compacts nothing by itself."""
    return ServerProcess(
        data,
        f"--set=log.retention.check.interval.ms={CHECK_MS}",
        "--set=log.cleaner.enable=false",
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with started(tmp_path_factory.mktemp("retention") / "data") as process:
        yield process


@pytest.fixture
def logd(server: ServerProcess) -> Logd:
    return Logd(server)


def new_topic(server: ServerProcess, **settings: str) -> str:
    """Create a topic of one partition."""
    name = f"r{next(_names)}"
    given = {key.replace("_", "."): value for key, value in settings.items()}
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    new = NewTopic(name, num_partitions=1, config=given)
    for made in admin.create_topics([new]).values():
        made.result(TIMEOUT_S)
    return name


def alter(server: ServerProcess, topic: str, name: str, value: str) -> None:
    """Change one setting of a topic; it holds once this returns."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(TIMEOUT_S)


def append(server: ServerProcess, topic: str, *values: list[bytes], age_ms: int = 0) -> None:
    """Append a batch of each list of values, made so long ago, with acks=all."""
    at_ms = int(time.time() * 1000) - age_ms
    with RawClient(server) as client:
        for batch in values:
            records = encode_batch([(b"key", value, [], at_ms) for value in batch])
            part = produce.PartitionProduceData(index=0, records=bytes(records))
            request = produce.ProduceRequest(
                acks=-1,
                timeout_ms=5000,
                topic_data=[produce.TopicProduceData(name=topic, partition_data=[part])],
            )
            answer = client.ask(produce, request, 7)
            assert answer.responses[0].partition_responses[0].error_code == 0


def wait_for(what: Callable[[], bool], seconds: float = TIMEOUT_S) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.02)


def watermarks(server: ServerProcess, topic: str) -> tuple[int, int]:
    """Return where the partition begins and ends, as a consumer is told."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": server.bootstrap, "group.id": "w"})
    try:
        found = consumer.get_watermark_offsets(
            confluent_kafka.TopicPartition(topic, 0), timeout=TIMEOUT_S, cached=False
        )
        assert found is not None
        return found
    finally:
        consumer.close()


def read_all(
    server: ServerProcess,
    topic: str,
    end: int,
    on_offset: Callable[[int], None] = lambda _: None,
    *,
    reset: str = "error",
) -> list[int]:
    """Return the offsets that a consumer reads from the beginning up to `end`; each is told of.

    `reset`: what it does where an offset is gone.
    """
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": server.bootstrap,
            "group.id": "reader",
            "enable.auto.commit": False,
            "auto.offset.reset": reset,
        }
    )
    offsets: list[int] = []
    try:
        beginning = confluent_kafka.TopicPartition(topic, 0, confluent_kafka.OFFSET_BEGINNING)
        consumer.assign([beginning])
        ends = time.monotonic() + TIMEOUT_S
        while not offsets or offsets[-1] < end - 1:
            assert time.monotonic() < ends, f"only {offsets} came"
            for message in consumer.consume(1000, timeout=0.2):
                assert message.error() is None, message.error()
                offsets.append(message.offset())
                on_offset(offsets[-1])
    finally:
        consumer.close()
    return offsets


# A machine may be as busy as it likes: what is wrong is a check that does not come by itself.
LATE_S = 30.0


def admin_json(server: ServerProcess, path: str) -> Any:
    with urllib.request.urlopen("http://{}:{}".format(*server.admin) + path) as answer:
        return json.load(answer)


def test_an_idle_topic_loses_its_records_in_time(server: ServerProcess) -> None:
    """The last record, too, within a check of when it is due; consumers are told the new start, and
    an old offset is out of range."""
    topic = new_topic(server, retention_ms="1500")
    began = time.monotonic()
    append(server, topic, [b"a", b"b"], [b"c"])
    appended = time.monotonic()
    before = watermarks(server, topic)
    # On a machine that is slow enough, the records are due before anybody can look.
    assert before == (0, 3) or time.monotonic() - began > 1.4
    wait_for(lambda: watermarks(server, topic) == (3, 3))
    assert time.monotonic() - began > 1.4
    assert time.monotonic() - appended < 1.5 + CHECK_MS / 1000 + LATE_S
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": server.bootstrap, "group.id": "late", "auto.offset.reset": "error"}
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    message = consumer.poll(TIMEOUT_S)
    assert message is not None
    assert message.error().code() == confluent_kafka.KafkaError._AUTO_OFFSET_RESET
    consumer.close()
    alter(server, topic, "retention.ms", "-1")  # However long it takes to come and read it.
    append(server, topic, [b"d"])
    assert read_all(server, topic, 4) == [3]


def test_a_reader_that_keeps_up_misses_nothing(server: ServerProcess) -> None:
    """Producer, consumer and retention at once, segment after segment: every record in order.

    What is appended and not read yet is less than retention.bytes: so the consumer keeps up,
    however slow the machine is.
    """
    topic = new_topic(
        server, retention_bytes="100000", segment_bytes="20000", file_delete_delay_ms="0"
    )
    count, ahead = 3000, 300
    was_read = [-1]
    failures: list[Exception] = []

    def send() -> None:
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": server.bootstrap, "linger.ms": 5, "acks": "all"}
        )
        try:
            for number in range(count):
                producer.produce(topic, f"{number} {'x' * 200}".encode(), partition=0)
                if number % 100 == 99:
                    assert producer.flush(TIMEOUT_S) == 0
                    wait_for(partial(has_read, number - ahead + 100))
                if number % 1000 == 999:
                    wait_for(partial(has_lost, number - 999))
        except Exception as error:  # Told of by the thread that the test runs in.
            failures.append(error)

    def has_read(offset: int) -> bool:
        return was_read[-1] >= offset

    def has_lost(offset: int) -> bool:
        return watermarks(server, topic)[0] > offset

    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert read_all(server, topic, count, was_read.append) == list(range(count))
    finally:
        sender.join()
    assert failures == []


def test_an_answer_under_way_is_sent_whole(server: ServerProcess, logd: Logd) -> None:
    """A slow client in the middle of a segment that is deleted and unlinked gets every byte of it,
    and each batch passes its CRC."""
    topic = new_topic(server, file_delete_delay_ms="0")
    batches = [[os.urandom(900_000)] for _ in range(16)]
    append(server, topic, *batches, age_ms=2 * HOUR_MS)
    directory = Path(server.data, "topics", f"{topic}-0")
    with RawClient(server) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        asked = fetch.FetchRequest(
            max_wait_ms=0,
            min_bytes=1,
            max_bytes=1 << 30,
            topics=[
                fetch.FetchTopic(
                    topic=topic,
                    partitions=[
                        fetch.FetchPartition(
                            partition=0, fetch_offset=0, partition_max_bytes=1 << 30
                        )
                    ],
                )
            ],
        )
        client.send(fetch, asked, 4)
        head = client.sock.recv(100)
        assert struct.unpack_from(">i", head)[0] > 16 * 900_000
        logd.run("topic", "alter", topic, "--config", "retention.ms=1h")
        wait_for(lambda: watermarks(server, topic) == (16, 16))
        wait_for(lambda: not list(directory.glob(f"{0:020d}.log*")))
        body = head + _rest(client.sock, struct.unpack_from(">i", head)[0] + 4 - len(head))
    response = fetch.decode_response(body, 4, 8, len(body))
    records = bytes(response.responses[0].partitions[0].records)
    at, found = 0, []
    while at < len(records):
        header = read_header(records, at)
        found.append(records[at : at + header.size])
        at += header.size
    assert len(found) == 16
    assert all(
        batch[-len(sent[0]) - 1 : -1] == sent[0] for batch, sent in zip(found, batches, strict=True)
    )


def _rest(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = sock.recv(65_536)
        assert chunk, "the connection was closed"
        data += chunk
    return bytes(data)


def test_settings_count_at_once(server: ServerProcess, logd: Logd) -> None:
    """retention.ms and retention.bytes, changed by a client while it runs, by the next check; what
    a policy of compact keeps stays until it says delete as well."""
    topic = new_topic(server, segment_offsets="1", cleanup_policy="compact")
    append(server, topic, *[[b"x" * 1000]] * 10, age_ms=HOUR_MS)
    logd.run("topic", "alter", topic, "--config", "retention.ms=1", "--config", "retention.bytes=0")
    assert logd.json("retain", topic)[0]["deleted_segments"] == 0
    segment = logd.json("segments", topic)[0]["size_bytes"]
    logd.run(
        "topic", "alter", topic, "--config", "cleanup.policy=compact,delete",
        "--config", f"retention.bytes={4 * segment}", "--config", "retention.ms=-1",
    )  # fmt: skip
    wait_for(lambda: watermarks(server, topic) == (6, 10))
    rows = logd.json("retain", topic, "--explain")
    assert {(row["action"], row["rule"]) for row in rows} == {("keep", None)}
    logd.run("topic", "alter", topic, "--config", "retention.ms=60000")
    wait_for(lambda: watermarks(server, topic) == (10, 10))


def test_explained_then_done(server: ServerProcess, logd: Logd) -> None:
    """What --explain said goes, goes; what it said stays, stays until its due_ms."""
    topic = new_topic(server, segment_offsets="2")
    append(server, topic, [b"a", b"b"], [b"c", b"d"], age_ms=5 * 24 * HOUR_MS)
    append(server, topic, [b"e", b"f"])
    before = logd.json("retain", topic, "--explain")
    week_ms = 7 * 24 * HOUR_MS
    assert [row["due_ms"] - int(time.time() * 1000) > 0 for row in before] == [True] * 3
    assert week_ms - before[2]["due_ms"] + int(time.time() * 1000) < 60_000
    logd.run("delete-records", topic, "--partition", "0", "--before", "1", "--yes")
    day_ms = 24 * HOUR_MS
    logd.run("topic", "alter", topic, "--config", f"retention.ms={day_ms}")
    wait_for(lambda: watermarks(server, topic) == (4, 6))
    after = logd.json("retain", topic, "--explain")
    assert [(row["base_offset"], row["action"]) for row in after] == [(4, "keep")]
    assert after[0]["due_ms"] == before[2]["due_ms"] - week_ms + day_ms


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("retain", "nowhere"), b"there is no topic 'nowhere'"),
        (("retain", "nowhere", "--explain"), b"there is no topic 'nowhere'"),
        (("retain", "TOPIC", "--partition", "9"), b"has no partition 9"),
    ],
)
def test_what_cannot_be_done_is_refused(
    server: ServerProcess, logd: Logd, arguments: tuple[str, ...], said: bytes
) -> None:
    """Exit code 1 and one line that names the thing."""
    topic = new_topic(server)
    done = logd.run(*(topic if text == "TOPIC" else text for text in arguments), code=1)
    assert said in done.stderr


def test_without_a_server(logd: Logd) -> None:
    """Exit code 3, as of every command that needs one."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*closed.getsockname())
        done = logd.run("retain", "t", "--admin", address, code=3)
    assert b"logd serve" in done.stderr


def test_a_topic_may_be_deleted_and_made_anew_in_the_middle(server: ServerProcess) -> None:
    """Again and again, while retention deletes and somebody appends: the new topic has its own
    records, all of them, from 0 on."""
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    name = f"again{next(_names)}"
    for number in range(6):
        new = NewTopic(name, num_partitions=1, config={"segment.offsets": "1"})
        for made in admin.create_topics([new]).values():
            made.result(TIMEOUT_S)
        append(server, name, *[[b"old"]] * 30, age_ms=8 * 24 * HOUR_MS)
        append(server, name, *[[b"new %d" % number]] * 3)
        wait_for(lambda: watermarks(server, name)[1] == 33)
        start, end = watermarks(server, name)
        # Between asking where the log begins and reading from there, its beginning may go.
        found = read_all(server, name, end, reset="earliest")
        assert set(found) >= set(range(max(start, 30), end))
        for gone in admin.delete_topics([name]).values():
            gone.result(TIMEOUT_S)
    assert "offline" not in server.log()
    assert admin_json(server, "/v1/status")["problems"] == []


def test_kills_in_the_middle_of_a_backlog(tmp_path: Path, seed: int, rng: random.Random) -> None:
    """kill -9 while two hundred segments go, twice, then a clean stop: in the end the young records
    are there, all of them, the old ones and their files are gone, and the check finds no damage."""
    print(f"seed {seed}")
    with started(tmp_path / "data") as server:
        topic = new_topic(server, segment_offsets="1", file_delete_delay_ms="0", retention_ms="-1")
        append(server, topic, *[[b"x" * 100]] * 200, age_ms=2 * HOUR_MS)
        append(server, topic, *[[b"young"]] * 5)
        alter(server, topic, "retention.ms", str(HOUR_MS))
        for pause_s in (0.0, CHECK_MS / 1000):
            time.sleep(pause_s + rng.random() * 0.3)  # Anywhere in the work.
            server.kill()
            begun = os.listdir(f"{server.data}/topics/{topic}-0")
            print(f"{sum(name.endswith('.log') for name in begun)} segments at the kill")
            server.start()
            assert watermarks(server, topic)[1] == 205
        assert server.stop() == 0
        server.start()
        wait_for(lambda: watermarks(server, topic) == (200, 205))
        assert read_all(server, topic, 205) == list(range(200, 205))
        assert server.stop() == 0
        names = os.listdir(f"{server.data}/topics/{topic}-0")
        assert len([name for name in names if name.endswith(".log")]) <= 6
        server.start()
        assert not [
            name
            for name in os.listdir(f"{server.data}/topics/{topic}-0")
            if name.endswith(".deleted")
        ]
        assert server.stop() == 0
    assert run_logd("check", server.data).returncode == 0
