"""Compaction as clients see it, and everything that may happen to it meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiokafka
import confluent_kafka
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, ResourceType

from tests.forked import run_logd
from tests.interop.compacted import (
    TIMEOUT_S,
    Model,
    alter,
    cleaner_pids,
    create,
    held,
    produce,
    random_pairs,
    read,
    slow_down,
    survivors,
)
from tests.logd_command import Logd
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

# Only what a test asks for is compacted, unless it says otherwise.
QUIET = ("--set", "log.cleaner.enable=false")

_names = itertools.count()


@pytest.fixture(scope="module")
def logd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logd]:
    """A server for the tests that leave it as it was; each uses topics of its own."""
    with ServerProcess(tmp_path_factory.mktemp("compaction") / "data", *QUIET) as server:
        yield Logd(server)
        assert "Traceback" not in server.log()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Logd]:
    """A server of the test's own."""
    with ServerProcess(tmp_path / "data", *QUIET) as server:
        yield Logd(server)
        assert "Traceback" not in server.log()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def filled(
    logd: Logd, rng: random.Random, *, count: int = 8000, **config: str
) -> tuple[str, Model]:
    """Return a new topic with one partition, and the model of what is in it."""
    topic, model = f"compacted-{next(_names)}", Model()
    create(logd.server, topic, **config)
    produce(logd.server, topic, random_pairs(rng, count, keys=200), model)
    return topic, model


@contextmanager
def slowed_down(logd: Logd, bytes_per_s: int) -> Iterator[None]:
    """Inside, a round that begins takes its time."""
    slow_down(logd.server, bytes_per_s)
    try:
        yield
    finally:
        slow_down(logd.server, None)


def left_over(server: ServerProcess) -> list[str]:
    """Return what rounds left behind."""
    return [
        str(path)
        for path in Path(server.data, "topics").rglob("*")
        if path.name.endswith(".cleaned") or path.name == "replacement"
    ]


# --- what clients see ----------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
def test_librdkafka_reads_the_last_record_of_each_key(
    logd: Logd, rng: random.Random, codec: str
) -> None:
    """From 0, a compacted topic is exactly the last record of each key, where it always was."""
    topic, model = f"compacted-{next(_names)}", Model()
    create(logd.server, topic, compression_type="producer")
    pairs = random_pairs(rng, 8000, keys=200)
    produce(logd.server, topic, pairs, model, **{"compression.type": codec})
    before = len(read(logd.server, topic))
    (row,) = logd.json("compact", topic)
    messages = read(logd.server, topic)
    assert survivors(messages) == model
    assert (row["records_before"], row["records_after"]) == (before, len(messages))
    assert len(messages) == len(model)
    assert row["bytes_after"] < row["bytes_before"]
    if codec == "none":  # Else all of it fits one segment.
        assert row["segments_after"] < row["segments_before"]
    rows = logd.json("segments", topic)
    assert sum(item["size_bytes"] for item in rows) == row["bytes_after"]
    # A reader that stands in the middle of a hole goes on behind it.
    middle = sorted(offset for offset, _ in model.values())[len(model) // 2]
    behind = [m.offset() for m in read(logd.server, topic, start=middle - 1)]
    assert behind == [m.offset() for m in messages if m.offset() >= middle - 1]


def test_a_group_goes_on_where_it_was(logd: Logd, rng: random.Random) -> None:
    """Offsets committed before a compaction are good behind it: nothing twice, nothing missing."""
    topic, model = filled(logd, rng)

    def member() -> confluent_kafka.Consumer:
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": logd.server.bootstrap,
                "group.id": f"group-{topic}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        consumer.subscribe([topic])
        return consumer

    first = member()
    seen: list[Any] = []
    while len(seen) < 3000:
        seen += first.consume(500, 0.1)
    first.commit(asynchronous=False)
    first.close()
    assert all(message.error() is None for message in seen)
    stopped_at = seen[-1].offset()
    logd.run("compact", topic)
    second = member()
    expected = sorted(offset for offset, _ in model.values() if offset > stopped_at)
    got: list[int] = []
    while len(got) < len(expected):
        got += [message.offset() for message in second.consume(500, 0.1)]
    second.close()
    assert got == expected


async def read_with_aiokafka(logd: Logd, topic: str, count: int, group: str | None) -> list[Any]:
    consumer = aiokafka.AIOKafkaConsumer(
        topic,
        bootstrap_servers=logd.server.bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    found: list[Any] = []
    try:
        while len(found) < count:
            for records in (await consumer.getmany(timeout_ms=10_000)).values():
                found += records
        # Nothing comes behind the last one.
        assert not await consumer.getmany(timeout_ms=200)
    finally:
        await consumer.stop()
    return found


@pytest.mark.parametrize("group", [None, "by-group"])
def test_aiokafka_reads_the_last_record_of_each_key(
    logd: Logd, rng: random.Random, group: str | None
) -> None:
    """From 0, alone and as a group's member."""
    topic, model = filled(logd, rng)
    logd.run("compact", topic)
    records = asyncio.run(read_with_aiokafka(logd, topic, len(model), group))
    assert {r.key: (r.offset, r.value) for r in records} == model
    assert len(records) == len(model)


def test_appends_and_reads_go_on_meanwhile(logd: Logd, rng: random.Random) -> None:
    """While a round runs, what is appended is acknowledged and read; nothing of it is lost."""
    topic, model = filled(logd, rng)
    with slowed_down(logd, 400_000):
        logd.run("compact", topic, "--no-wait")
        with held(logd.server) as pid:
            produce(logd.server, topic, random_pairs(rng, 5000, keys=300), model)
            assert survivors(read(logd.server, topic)) == model
            assert cleaner_pids(logd.server) == [pid], "the round was over before the appends"
    logd.run("compact", topic)
    logd.run("compact", topic)
    messages = read(logd.server, topic)
    assert survivors(messages) == model
    assert len(messages) == len(model)


# --- real input ----------------------------------------------------------------------------------


def process_samples(times: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield PID and the line of /proc/PID/stat of every process, so many times over."""
    for _ in range(times):
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat", "rb") as file:
                        yield name.encode(), file.read()
                except (FileNotFoundError, ProcessLookupError):
                    continue  # It has just ended.


@pytest.mark.slow
def test_the_last_sample_of_each_process_remains(logd: Logd) -> None:
    """The machine's own telemetry, a thousand samples of each process, keyed by PID over several
    partitions: after compaction exactly the last sample of each PID is there.
    """
    create(logd.server, "telemetry", 3, segment_bytes="2000000")
    models: list[Model] = [{}, {}, {}]
    last: dict[bytes, bytes] = {}

    places: dict[bytes, int] = {}  # In turn: of few processes, no partition is without one.

    def of_partition(index: int, samples: list[tuple[bytes, bytes]]) -> Iterator[Any]:
        for pid, _ in samples:
            places.setdefault(pid, len(places) % 3)
        return (pair for pair in samples if places[pair[0]] == index)

    for _ in range(10):
        samples = list(process_samples(100))
        last.update(samples)
        for index in range(3):
            produce(
                logd.server, "telemetry", of_partition(index, samples), models[index],
                partition=index, **{"compression.type": "zstd"},
            )  # fmt: skip
    rows = logd.json("compact", "telemetry")
    found: dict[bytes, bytes] = {}
    for index, row in enumerate(rows):
        messages = read(logd.server, "telemetry", partition=index)
        assert row["records_after"] == len(messages)
        assert survivors(messages) == models[index]
        for message in messages:
            assert message.key() not in found
            found[message.key()] = message.value()
    assert found == last
    assert sum(row["records_before"] for row in rows) >= 1000 * 3


# --- what may happen meanwhile -------------------------------------------------------------------


def test_a_killed_cleaner_is_told_and_tried_again(logd: Logd, rng: random.Random) -> None:
    """Killing its process costs a round: the command says so, `status` too; the next one works."""
    topic, model = filled(logd, rng)
    with slowed_down(logd, 10_000):
        command = subprocess.Popen(
            [*logd.PROGRAM, "compact", topic], env=logd.environment, stderr=subprocess.PIPE
        )
        until(lambda: bool(cleaner_pids(logd.server)), "no round began")
        for pid in cleaner_pids(logd.server):
            os.kill(pid, signal.SIGKILL)
        _, said = command.communicate(timeout=TIMEOUT_S)
    assert command.returncode == 1
    assert b"signal 9" in said
    (problem,) = logd.json("status")["problems"]
    assert (problem["kind"], problem["severity"]) == ("compaction_failed", "warning")
    assert left_over(logd.server) == []
    logd.run("compact", topic)
    assert logd.json("status")["problems"] == []
    assert survivors(read(logd.server, topic)) == model


def has_reached(logd: Logd, phase: str) -> bool:
    """Whether the newest job's round has a process, and is in that phase."""
    url = "http://{}:{}/v1/compact".format(*logd.server.admin)
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        jobs = json.loads(answer.read())
    share = 0.5 if phase == "copy" else 0
    return bool(jobs and jobs[-1]["progress"] >= share and cleaner_pids(logd.server))


def has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_kill_9_of_the_server_in_each_phase(own: Logd, rng: random.Random) -> None:
    """The cleaner dies with the server; the log is as it was, nothing of the round is left, and
    the next one comes to the same as if nothing had happened.
    """
    model: Model = {}
    create(own.server, "t")
    # Every other record survives, so that copying takes as long as reading.
    pairs = ((b"%d" % (number // 2), b"value" * 10) for number in range(6000))
    produce(own.server, "t", pairs, model)
    slow_down(own.server, 200_000)
    for phase in ("keys", "copy"):
        command = subprocess.Popen(
            [*own.PROGRAM, "compact", "t"], env=own.environment, stderr=subprocess.PIPE
        )
        until(partial(has_reached, own, phase), "no progress")
        (pid,) = cleaner_pids(own.server)
        own.server.kill()
        until(partial(has_ended, pid), "the cleaner goes on")
        _, said = command.communicate(timeout=TIMEOUT_S)
        assert (command.returncode, said.count(b"\n")) == (3, 1)
        assert b"nothing is left half done" in said
        own.server.start()
        own = Logd(own.server)
        assert left_over(own.server) == []
        assert survivors(read(own.server, "t")) == model
    slow_down(own.server, None)
    own.run("compact", "t")
    messages = read(own.server, "t")
    assert survivors(messages) == model
    assert len(messages) == len(model)


@pytest.mark.slow
def test_kill_9_around_the_commit(own: Logd, rng: random.Random) -> None:
    """Killed at any moment of a short round, the server comes up with the log before or behind
    it, and nothing of the round is left.
    """
    topic, model = filled(own, rng, count=3000, segment_bytes="5000")
    for _ in range(4):
        produce(own.server, topic, random_pairs(rng, 1000, keys=200), model)
        own.run("compact", topic, "--no-wait")
        time.sleep(rng.uniform(0.0, 0.5))
        own.server.kill()
        own.server.start()
        own = Logd(own.server)
        assert left_over(own.server) == []
        assert survivors(read(own.server, topic)) == model
    assert own.json("status")["problems"] == []
    assert own.server.stop() == 0
    checked = own.json("check", own.server.data)
    assert not [finding for finding in checked.get("findings", []) if finding]
    own.server.start()


def test_a_stop_cuts_a_round_short(own: Logd, rng: random.Random) -> None:
    """SIGTERM does not wait for the round: it is clean, quick, and leaves nothing of it."""
    topic, model = filled(own, rng)
    slow_down(own.server, 1000)  # It would take longer than this or any test may.
    own.run("compact", topic, "--no-wait")
    until(lambda: bool(cleaner_pids(own.server)), "no round began")
    (pid,) = cleaner_pids(own.server)
    assert own.server.stop() == 0
    assert not Path(f"/proc/{pid}").exists()
    assert left_over(own.server) == []
    assert Path(own.server.data, "clean-stop").exists()
    own.server.start()
    assert survivors(read(own.server, topic)) == model


def test_ctrl_c_ends_the_watching_and_not_the_work(logd: Logd, rng: random.Random) -> None:
    """Exit code 130 and a line that says so; the job goes on, and can be watched again."""
    topic, _ = filled(logd, rng)
    with slowed_down(logd, 400_000):
        command = subprocess.Popen(
            [*logd.PROGRAM, "compact", topic],
            env=logd.environment,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        with held(logd.server) as pid:
            time.sleep(0.2)  # Whenever it is, it must be said.
            os.killpg(command.pid, signal.SIGINT)
            _, said = command.communicate(timeout=TIMEOUT_S)
            assert (command.returncode, said.count(b"\n")) == (130, 1)
            assert b"goes on" in said
            assert cleaner_pids(logd.server) == [pid]
    (row,) = logd.json("compact", topic)
    assert row["records_after"] <= 200


def test_deleting_the_topic_ends_the_round(logd: Logd, rng: random.Random) -> None:
    """The topic is gone at once, and one of the same name is made at once; it has only what is
    its own.
    """
    topic, _ = filled(logd, rng)
    with slowed_down(logd, 20_000):
        command = subprocess.Popen(
            [*logd.PROGRAM, "compact", topic], env=logd.environment, stderr=subprocess.PIPE
        )
        until(lambda: bool(cleaner_pids(logd.server)), "no round began")
        logd.run("topic", "delete", topic, "--yes")
        assert cleaner_pids(logd.server) == []
        model: Model = {}
        create(logd.server, topic)
        produce(logd.server, topic, random_pairs(rng, 1000, keys=20), model)
        _, said = command.communicate(timeout=TIMEOUT_S)
        assert command.returncode == 1
        assert b"deleted" in said
    assert left_over(logd.server) == []
    logd.run("compact", topic)
    assert survivors(read(logd.server, topic)) == model


def test_records_deleted_during_a_round(logd: Logd, rng: random.Random) -> None:
    """delete-records does not wait for the round, and what it deleted does not come back."""
    topic, model = filled(logd, rng, cleanup_policy="compact,delete")
    with slowed_down(logd, 1_000_000):
        logd.run("compact", topic, "--no-wait")
        with held(logd.server):
            logd.run("delete-records", topic, "--partition", "0", "--before", "4321", "--yes")
            kept = {key: at for key, at in model.items() if at[0] >= 4321}
            assert survivors(read(logd.server, topic, start=4321)) == kept
    (row,) = logd.json("compact", topic)
    assert row["error"] is None
    messages = read(logd.server, topic, start=4321)
    assert survivors(messages) == kept
    assert len(messages) == len(kept)


def test_a_policy_that_changes_during_a_round(logd: Logd, rng: random.Random) -> None:
    """From compact to delete: the round that was under way removes nothing any more."""
    topic, _ = filled(logd, rng)
    before = [(m.offset(), m.key()) for m in read(logd.server, topic)]
    with slowed_down(logd, 2_000_000):
        command = subprocess.Popen(
            [*logd.PROGRAM, "compact", topic], env=logd.environment, stderr=subprocess.PIPE
        )
        with held(logd.server):
            alter(logd.server, ResourceType.TOPIC, topic, cleanup_policy="delete")
        _, said = command.communicate(timeout=TIMEOUT_S)
        assert command.returncode == 1
        assert b"not compacted" in said
    assert [(m.offset(), m.key()) for m in read(logd.server, topic)] == before
    assert left_over(logd.server) == []


def test_a_damaged_partition_does_not_stop_others(own: Logd, rng: random.Random) -> None:
    """A flipped bit in one partition: its compaction fails, says where, and `status` exits with
    4; the other partition is compacted.
    """
    create(own.server, "t", 2)
    models: list[Model] = [{}, {}]
    for index, model in enumerate(models):
        produce(own.server, "t", random_pairs(rng, 5000, keys=50), model, partition=index)
    log = sorted(Path(own.server.data, "topics", "t-0").glob("*.log"))[1]
    with log.open("r+b") as file:
        file.seek(200)
        byte = file.read(1)[0]
        file.seek(200)
        file.write(bytes((byte ^ 1,)))
    done = own.run("compact", "t", code=1)
    assert log.name.encode() in done.stderr
    assert done.stdout.splitlines()[1].split()[0] == b"1"
    status = run_logd("status", environment=own.environment)
    assert status.returncode == 4
    assert log.name.encode() in status.stdout
    assert survivors(read(own.server, "t", partition=1)) == models[1]


# --- by itself -----------------------------------------------------------------------------------


def test_what_is_dirty_is_compacted_by_itself(tmp_path: Path, rng: random.Random) -> None:
    """Nobody asks, and sealed segments are compacted all the same; the debt falls to nothing."""
    with ServerProcess(tmp_path / "data", "--set", "log.cleaner.backoff.ms=100") as server:
        logd = Logd(server)
        topic, model = filled(logd, rng)

        def sealed_bytes() -> int:
            rows = logd.json("segments", topic)
            return sum(row["size_bytes"] for row in rows if row["state"] == "sealed")

        until(lambda: sealed_bytes() < 100_000, "nothing was compacted")
        assert survivors(read(server, topic)) == model
        assert logd.json("status")["problems"] == []


# --- committed offsets ---------------------------------------------------------------------------


def commit(server: ServerProcess, group: str, *offsets: int) -> None:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": server.bootstrap, "group.id": group, "enable.auto.commit": False}
    )
    for offset in offsets:
        consumer.commit(offsets=[TopicPartition("t", 0, offset)], asynchronous=False)
    consumer.close()


def committed(server: ServerProcess, group: str) -> int:
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition("t", 0)])
    answer = admin.list_consumer_group_offsets([asked])[group].result(TIMEOUT_S)
    return int(answer.topic_partitions[0].offset)


def test_committed_offsets_survive_the_compaction_of_their_log(own: Logd) -> None:
    """__consumer_offsets is compacted like any other topic: after it, and after kill -9, each
    group has its last commit, and a deleted group does not come back.
    """
    create(own.server, "t")
    produce(own.server, "t", [(b"k", b"v")] * 100, {})
    for group in ("kept", "deleted"):
        commit(own.server, group, *range(60))
    own.run("group", "delete", "deleted", "--yes")
    (row,) = own.json("compact", "__consumer_offsets")
    assert row["error"] is None
    assert row["records_after"] < row["records_before"]
    commit(own.server, "late", 7)
    for _ in range(2):
        own.server.kill()
        own.server.start()
        own = Logd(own.server)
        assert committed(own.server, "kept") == 59
        assert committed(own.server, "late") == 7
        assert committed(own.server, "deleted") < 0
        assert "deleted" not in {row["group"] for row in own.json("group", "list")}
        own.run("compact", "__consumer_offsets")
