"""Real faults under a real server: the power is cut on ext4, and an fdatasync fails.

The cut is ext4's own emergency stop (FS_IOC_SHUTDOWN): from one moment on nothing reaches the
device any more, what was not forced there is lost, and every call gets EIO. The file system is then
unmounted and mounted again, as after a power cut: its journal is recovered first, then our logs.
The emergency stop is not of one piece: an fdatasync that is under way in that moment may return 0
with nothing written, to the simplest program too. A disk does not do that. So the server is stopped
for the moment of the cut, with no thread inside a system call, and goes on behind it.

It needs root and a loop device; the failing sync needs strace. Without them: skipped, with reason.

What the machine cannot give is another boot id, and recovery trusts the page cache of the same
boot: there, nothing short of damage explains missing bytes. So each start of the server gets a boot
id of its own: in a mount namespace that only this process has, a file lies over the kernel's. What
is on the disk is never touched: it is as the cut left it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import confluent_kafka
import pytest

from logd.server.ground import BOOT_ID_PATH
from logd.units import KIB, MIB
from tests.crash.test_full_disk import (
    SmallDisk,
    create_topic,
    problem_kinds,
    read_all,
    small_disk,
    until,
)
from tests.server_process import ServerProcess

FS_IOC_SHUTDOWN: Final = 0x8004587D
LOSE_ALL_UNSYNCED: Final = 2
KEEP_METADATA: Final = 1  # The file system's journal is written, the files' data is not.

DISK_BYTES: Final = 256 * MIB
TOPICS: Final = ("alpha", "beta", "gamma")
ROUNDS: Final = 3
LOAD_S: Final = (0.2, 1.0)
ROUND_ACKS_MIN: Final = 100
AFTER_CUT_S: Final = 0.3
SEGMENT_BYTES: Final = 256 * KIB  # Small: cuts fall into rolls as well.
TIMEOUT_S: Final = 60  # Of a busy machine.


class Load:
    """Numbered records to all topics with acks=all, a consumer behind them; both are journalled."""

    def __init__(self) -> None:
        self.acked: dict[tuple[str, int], bytes] = {}
        self.seen: dict[tuple[str, int], bytes] = {}
        self.refused = 0
        self._round = 0
        self._producer: confluent_kafka.Producer
        self._consumer: confluent_kafka.Consumer
        self._number = 0

    @contextlib.contextmanager
    def connected(self, server: ServerProcess) -> Iterator[None]:
        """Clients for one run of the server."""
        common = {"bootstrap.servers": server.bootstrap, "log_level": 0}
        self._producer = confluent_kafka.Producer(
            {**common, "acks": "all", "enable.idempotence": True, "linger.ms": 1}
        )
        quiet = {"group.id": "unused", "enable.auto.commit": False}  # No offsets on the cut disk.
        self._consumer = confluent_kafka.Consumer({**common, **quiet})
        end = confluent_kafka.OFFSET_END
        self._consumer.assign([confluent_kafka.TopicPartition(name, 0, end) for name in TOPICS])
        self._round += 1
        self._number = 0
        yield
        self._producer.purge()
        self._producer.flush(TIMEOUT_S)
        # Purged requests may still lie in its queue: it must be gone before the server is back.
        del self._producer

    def run(self, seconds: float) -> None:
        """Produce and consume for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if len(self._producer) < 600:
                for topic in TOPICS:
                    value = b"%d %d " % (self._round, self._number) + b"." * (self._number % 1500)
                    self._producer.produce(topic, value, partition=0, on_delivery=self._delivered)
                self._number += 1
            self._producer.poll(0.0 if len(self._producer) < 600 else 0.01)
            for message in self._consumer.consume(100, 0.0):
                if message.error() is None:
                    self.seen[message.topic(), message.offset()] = message.value()

    def stop_reading(self) -> None:
        """Close the consumer; without a server that takes librdkafka a long time."""
        self._consumer.close()

    def run_until_acked(self) -> None:
        """Go on until this round has seen acknowledgements, as many as it takes to prove a thing,
        and has read some: on a slow disk that is longer than the load would last.
        """
        enough = len(self.acked) + ROUND_ACKS_MIN
        deadline = time.monotonic() + TIMEOUT_S
        while len(self.acked) <= enough or not self.seen:
            assert time.monotonic() < deadline, "nothing is acknowledged"
            self.run(0.1)

    def _delivered(self, error: confluent_kafka.KafkaError | None, message: Any) -> None:
        if error is not None:
            self.refused += 1
            return
        place = (message.topic(), message.offset())
        assert place not in self.acked, f"{place} was acknowledged in an earlier round already"
        self.acked[place] = message.value()


def cut_power(path: Path, pid: int, how: int) -> None:
    """From now on nothing reaches the file system's device; see the module's docstring."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: _is_stopped(pid), "all threads of the server stand still")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", how))
    except OSError as error:
        pytest.skip(f"this file system cannot be shut down: {error}")
    finally:
        os.close(descriptor)
        os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    """Whether no thread is inside a system call any more: a stop waits until it returns."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


@pytest.fixture
def boots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that servers take for the kernel's boot id; see the module's docstring."""
    boot_id = tmp_path / "boot_id"
    start = tmp_path / "start"
    cover = f'mount --bind {boot_id} {BOOT_ID_PATH} && exec "$@"'
    start.write_text(
        f"#!/bin/sh\nexec unshare --mount sh -c '{cover}' sh {sys.executable} \"$@\"\n"
    )
    start.chmod(0o700)
    new_boot(boot_id)
    probe = subprocess.run([start, "-c", ""], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no boot id of one's own here: {probe.stderr.strip()}")
    monkeypatch.setattr(ServerProcess, "interpreter", str(start))
    return boot_id


def new_boot(boot_id: Path) -> None:
    """What starts from now on finds the machine booted anew."""
    boot_id.write_text(f"{uuid.uuid4()}\n")


def lost_records(
    records: dict[tuple[str, int], bytes], found: dict[str, dict[int, bytes]]
) -> list[tuple[str, int]]:
    """Return the places whose record is not there as it was."""
    return [
        (topic, offset)
        for (topic, offset), value in records.items()
        if found[topic].get(offset) != value
    ]


def check_once_in_order(records: dict[int, bytes]) -> None:
    """Each round's records are there from its first one on, each once, in order of sending."""
    sent = [tuple(map(int, value.split(b" ")[:2])) for value in records.values()]
    by_round: dict[int, list[int]] = {}
    for number, record in sent:
        by_round.setdefault(number, []).append(record)
    assert [number for number, _ in sent] == sorted(number for number, _ in sent)
    for number, numbers in by_round.items():
        assert numbers == list(range(len(numbers))), f"round {number}"


def run_and_cut(
    server: ServerProcess, disk: SmallDisk, load: Load, boots: Path, *, seconds: float, how: int
) -> dict[str, dict[int, bytes]]:
    """Load, cut, kill -9, mount again, start; return what is then in the logs."""
    with load.connected(server):
        load.run_until_acked()
        load.run(seconds)
        cut_power(disk.path, server.pid, how)
        load.run(AFTER_CUT_S)  # Whatever is acknowledged now counts like all else.
        load.stop_reading()
        server.kill()
    disk.unmount()
    assert not disk.mount()
    new_boot(boots)
    server.start()
    return {name: read_all(server, name) for name in TOPICS}


@pytest.mark.slow
@pytest.mark.parametrize("how", [LOSE_ALL_UNSYNCED, KEEP_METADATA])
def test_nothing_acknowledged_is_lost_by_a_power_cut(
    tmp_path: Path, rng: random.Random, boots: Path, how: int
) -> None:
    """Several cuts under load: all that was acknowledged or read is there, once, in order."""
    load = Load()
    with small_disk(tmp_path, "ext4", size_bytes=DISK_BYTES) as disk:
        server = ServerProcess(disk.path / "data")
        server.log_path = str(tmp_path / "server.log")  # It is to survive the cut.
        with server:
            for name in TOPICS:
                create_topic(server, name, segment_bytes=str(SEGMENT_BYTES))
            for _ in range(ROUNDS):
                seconds = rng.uniform(*LOAD_S)
                found = run_and_cut(server, disk, load, boots, seconds=seconds, how=how)
                assert not lost_records(load.acked, found), "acknowledged, and lost"
                assert not lost_records(load.seen, found), "read, and lost"
                for records in found.values():
                    check_once_in_order(records)
                assert problem_kinds(server) == (0, set()), "a power cut is no damage"
            assert len(load.acked) > ROUND_ACKS_MIN * ROUNDS
            assert load.seen


@pytest.mark.slow
def test_the_power_cut_is_a_real_one(tmp_path: Path, boots: Path) -> None:
    """Control: with flush.mode=os, where nothing is synced, the same cut takes records away."""
    load = Load()
    with small_disk(tmp_path, "ext4", size_bytes=DISK_BYTES) as disk:
        server = ServerProcess(disk.path / "data")
        server.log_path = str(tmp_path / "server.log")
        with server:
            for name in TOPICS:
                create_topic(server, name, flush_mode="os")
            found = run_and_cut(server, disk, load, boots, seconds=0.3, how=LOSE_ALL_UNSYNCED)
            assert lost_records(load.acked, found)
            for records in found.values():
                check_once_in_order(records)


# --- a sync that fails ---------------------------------------------------------------------------


@contextlib.contextmanager
def failing_fdatasync(pid: int, path: Path) -> Iterator[None]:
    """The process's next fdatasync of a file gets EIO; later ones are let through."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    inject = "inject=fdatasync:error=EIO:when=1"
    command = ["strace", "-f", "-p", str(pid), "-P", str(path), "-e", inject]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        try:
            assert strace.stderr is not None
            readable, _, _ = select.select([strace.stderr], [], [], TIMEOUT_S)
            line = strace.stderr.readline() if readable else "no answer"
            if "attached" not in line:
                pytest.skip(f"strace may not attach here: {line.strip()}")
            yield
        finally:
            strace.terminate()
            strace.communicate(timeout=TIMEOUT_S)


def produce(server: ServerProcess, topic: str, values: list[bytes]) -> tuple[list[int], set[int]]:
    """Produce without retries; return the offsets that were acknowledged, and the error codes."""
    offsets: list[int] = []
    codes: set[int] = set()

    def delivered(error: confluent_kafka.KafkaError | None, message: Any) -> None:
        if error is None:
            offsets.append(message.offset())
        else:
            codes.add(error.code())

    common = {"bootstrap.servers": server.bootstrap, "acks": "all", "retries": 0}
    producer = confluent_kafka.Producer(common)
    for value in values:
        producer.produce(topic, value, partition=0, on_delivery=delivered)
    assert producer.flush(TIMEOUT_S) == 0
    return offsets, codes


def test_a_failed_sync_takes_its_partition_offline_and_no_other(tmp_path: Path) -> None:
    """EIO from fdatasync, once: not acknowledged, offline until a restart, nothing lost by it."""
    values = [b"value %d" % number for number in range(100)]
    with ServerProcess(tmp_path / "data") as server:
        for name in ("broken", "sound"):
            create_topic(server, name)
            assert produce(server, name, values) == (list(range(100)), set())
        (log,) = (tmp_path / "data" / "topics").glob("broken-0/*.log")
        storage_error = {confluent_kafka.KafkaError.KAFKA_STORAGE_ERROR}
        with failing_fdatasync(server.pid, log):
            assert produce(server, "broken", [b"lost"]) == ([], storage_error)
        # The device would sync again by now. It must not be asked: the first failure stands.
        assert produce(server, "broken", [b"lost as well"]) == ([], storage_error)
        assert problem_kinds(server) == (4, {"partition_offline"})
        assert produce(server, "sound", values) == (list(range(100, 200)), set())
        server.kill()
        server.start()
        assert problem_kinds(server) == (0, set())
        assert list(read_all(server, "broken").values())[:100] == values
        assert list(read_all(server, "sound").values()) == values + values
        assert produce(server, "broken", values)[1] == set()
