"""A disk that is really full: a server on a small file system of its own, filled by a real client.

Both ways of being full are taken: below the reserve, where appends are refused before they are
tried, and without a reserve, where the write itself meets ENOSPC. What must hold: the client is
told, the log holds exactly what was acknowledged, reading and deleting go on, and once there is
space the waiting producer is served without anybody's help.

The image is mounted through a loop device, so these tests need root and are skipped without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from logd.broker.disk_space import CHECK_INTERVAL_S
from logd.storage.layout import BALLAST_NAME
from logd.units import KIB, MIB
from tests.forked import run_logd
from tests.server_process import ServerProcess

TOPIC = "full"
TIMEOUT_S = 60  # Of a busy machine.
VALUE_BYTES: Final = 16 * KIB
BATCH_BYTES: Final = 256 * KIB
SEGMENT_BYTES: Final = 2 * MIB
DISK_BYTES: Final = 64 * MIB
# Free space is measured each second: what is produced in that time must be less than the reserve.
# So the last steps are small ones, some seconds' worth of the reserve, if the measure comes late.
RESERVE_BYTES: Final = 16 * MIB
PACE_BYTES_PER_S: Final = 4 * MIB
REST_BYTES: Final = 2 * MIB  # Less is free after an ENOSPC; more when the reserve refused.
DELETE_DELAY_MS: Final = 500
STEP: Final = 16  # Records between two looks at what is free.
WAITING: Final = 512  # Records of the producer that waits: 8 MiB, more than any rest of space.
_FILLER = b"." * VALUE_BYTES


class SmallDisk:
    """A file system of its own, on an image file or in memory; see `small_disk`."""

    def __init__(self, directory: Path, kind: str, size_bytes: int) -> None:
        self.path = directory / "disk"
        self._image = directory / "disk.image"
        self._kind = kind
        self._size_bytes = size_bytes

    def make(self) -> None:
        """Make the image; skips the test without mkfs."""
        self.path.mkdir()
        if self._kind == "ext4":
            with self._image.open("wb") as image:
                image.truncate(self._size_bytes)
            if shutil.which("mkfs.ext4") is None:
                pytest.skip("mkfs.ext4 is not installed")
            command = ["mkfs.ext4", "-q", "-F", "-m", "0", str(self._image)]
            subprocess.run(command, check=True)

    def mount(self) -> str:
        """Mount it; return why that was refused, or nothing."""
        source, options = str(self._image), "loop"
        if self._kind == "tmpfs":
            source, options = "tmpfs", f"size={self._size_bytes}"
        command = ["mount", "-t", self._kind, "-o", options, source, str(self.path)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr

    def unmount(self, *, is_final: bool = False) -> None:
        """Unmount it, and wait for the loop device, if it is to be mounted again.

        A process of another test that has mounts of its own keeps a copy of this one till its end,
        and with it the device, which then is let go of by itself. Nothing is done if it is not
        mounted.
        """
        if not os.path.ismount(self.path):
            return
        done = subprocess.run(["umount", self.path], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            subprocess.run(["umount", "--lazy", self.path], check=True)
            raise AssertionError(f"unmounted only lazily, something held it: {done.stderr}")
        if not is_final:
            until(self._is_let_go, "the loop device is let go of")

    def _is_let_go(self) -> bool:
        """A process that had mounts of its own may keep the device for a moment after its end."""
        command = ["losetup", "--associated", str(self._image)]
        return self._kind == "tmpfs" or not subprocess.check_output(command)


@contextlib.contextmanager
def small_disk(directory: Path, kind: str, *, size_bytes: int) -> Iterator[SmallDisk]:
    """A mounted file system of so many bytes; unmounted in any case."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    disk = SmallDisk(directory, kind, size_bytes)
    disk.make()
    try:
        refused = disk.mount()
        if refused:
            pytest.skip(f"mount is refused here: {refused.strip()}")
        yield disk
    finally:
        disk.unmount(is_final=True)


def logd(*arguments: str) -> tuple[int, Any]:
    """Run the command line with --json; return its exit code and its document."""
    done = run_logd(*arguments, "--json", timeout_s=TIMEOUT_S)
    assert done.stdout, f"{arguments}: {done.returncode}: {done.stderr.decode()}"
    return done.returncode, json.loads(done.stdout)


def problem_kinds(server: ServerProcess) -> tuple[int, set[str]]:
    """Return the exit code of `logd status`, and the kinds of its problems."""
    code, document = logd("status", "--admin", f"{server.admin[0]}:{server.admin[1]}")
    return code, {problem["kind"] for problem in document["problems"]}


def problems_now(server: ServerProcess) -> set[tuple[str, str]]:
    """Return kind and severity of the problems, by the admin port."""
    with urlopen("http://{}:{}/v1/status".format(*server.admin), timeout=TIMEOUT_S) as answer:
        document = json.load(answer)
    return {(problem["kind"], problem["severity"]) for problem in document["problems"]}


def create_topic(server: ServerProcess, name: str, **config: str) -> None:
    """Create a topic with one partition."""
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    dotted = {key.replace("_", "."): value for key, value in config.items()}
    admin.create_topics([NewTopic(name, 1, 1, config=dotted)])[name].result(TIMEOUT_S)


def read_all(server: ServerProcess, topic: str) -> dict[int, bytes]:
    """Return the records below the high watermark by offset; order and completeness are checked."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": server.bootstrap, "group.id": "unused", "check.crcs": True}
    )
    place = confluent_kafka.TopicPartition(topic, 0)
    low, high = consumer.get_watermark_offsets(place, TIMEOUT_S)
    place.offset = low
    consumer.assign([place])
    found: dict[int, bytes] = {}
    deadline = time.monotonic() + TIMEOUT_S
    while len(found) < high - low and time.monotonic() < deadline:
        for message in consumer.consume(1000, 0.2):
            assert message.error() is None, message.error()
            assert message.offset() == low + len(found), "once, in order, without a gap"
            found[message.offset()] = message.value()
            if len(found) == high - low:
                break  # What is appended meanwhile is not asked for.
    consumer.close()
    assert len(found) == high - low
    return found


class Client:
    """A producer that journals what was acknowledged, with offsets, and what was refused."""

    def __init__(self) -> None:
        self.acked: dict[int, bytes] = {}
        self.errors: list[confluent_kafka.KafkaError] = []
        self._sent = 0

    def fill(self, server: ServerProcess, *, slowly_from_bytes: int) -> None:
        """Produce without retries until something is refused.

        Slowly once less than so much is free: a step takes its time even if one before came late.
        """
        producer = self._producer(server, retries=0)
        limit = 2 * DISK_BYTES // VALUE_BYTES
        while not self.errors and self._sent < limit:
            self._send(producer)
            producer.poll(0)
            if self._sent % STEP == 0 and _free_bytes(server) < slowly_from_bytes:
                self._wait(producer, STEP * VALUE_BYTES / PACE_BYTES_PER_S)
            while len(producer) > 64:
                producer.poll(0.01)
        assert producer.flush(TIMEOUT_S) == 0

    @staticmethod
    def _wait(producer: confluent_kafka.Producer, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while len(producer) > 0 or time.monotonic() < ends:
            producer.poll(0.01)

    def start_waiting(self, server: ServerProcess) -> confluent_kafka.Producer:
        """Send through an idempotent producer that retries for as long as it must."""
        producer = self._producer(server, **{"enable.idempotence": True})
        for _ in range(WAITING):
            self._send(producer)
        return producer

    def _producer(self, server: ServerProcess, **config: Any) -> confluent_kafka.Producer:
        common = {"bootstrap.servers": server.bootstrap, "acks": "all", "linger.ms": 5}
        return confluent_kafka.Producer({**common, "batch.size": BATCH_BYTES, **config})

    def _send(self, producer: confluent_kafka.Producer) -> None:
        value = (b"%08d" % self._sent + _FILLER)[:VALUE_BYTES]
        self._sent += 1
        producer.produce(TOPIC, value=value, partition=0, on_delivery=self._delivered)

    def _delivered(self, error: confluent_kafka.KafkaError | None, message: Any) -> None:
        if error is not None:
            self.errors.append(error)
            return
        assert message.offset() not in self.acked, "an offset was given twice"
        self.acked[message.offset()] = message.value()


def until(check: Callable[[], bool], what: str) -> None:
    """Ask again and again; the checks here are processes and requests, which take their time."""
    deadline = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < deadline, f"not within {TIMEOUT_S} s: {what}"


def fill_up(server: ServerProcess, *, is_enospc: bool) -> Client:
    """Make the topic and fill the disk with it; the refusals are checked, and what is left."""
    assert Path(server.data, BALLAST_NAME).exists(), "it is there before the first append"
    create_topic(
        server,
        TOPIC,
        segment_bytes=str(SEGMENT_BYTES),
        # As Kafka, logd keeps a deleted segment's file for a minute, full disk or not.
        file_delete_delay_ms=str(DELETE_DELAY_MS),
    )
    client = Client()
    client.fill(server, slowly_from_bytes=0 if is_enospc else 2 * RESERVE_BYTES)
    assert client.errors, "the disk never became full"
    codes = {error.code() for error in client.errors}
    assert codes == {confluent_kafka.KafkaError.KAFKA_STORAGE_ERROR}
    assert len(client.acked) * VALUE_BYTES > DISK_BYTES // 3, "full far too early"
    assert read_all(server, TOPIC) == client.acked, "exactly what was acknowledged is in the log"
    free_bytes = _free_bytes(server)
    assert (free_bytes < REST_BYTES) == is_enospc, f"{free_bytes} free: full in the other way"
    return client


def _free_bytes(server: ServerProcess) -> int:
    return shutil.disk_usage(server.data).free


def delete_half(server: ServerProcess, client: Client) -> None:
    """Free space as an operator would."""
    before = len(client.acked) // 2
    place = ("--partition", "0", "--before", str(before), "--yes")
    code, _ = logd("delete-records", TOPIC, *place, "--bootstrap", server.bootstrap)
    assert code == 0
    for offset in range(before):
        del client.acked[offset]


def resume(server: ServerProcess, client: Client) -> None:
    """A producer waits on the full disk; half is deleted; all that waited is served by itself."""
    client.errors.clear()
    producer = client.start_waiting(server)
    until(
        lambda: problems_now(server) == {("disk_reserve", "warning")},
        "status says so, as a warning",
    )
    checked_again = time.monotonic() + 2 * CHECK_INTERVAL_S
    while time.monotonic() < checked_again:
        assert problems_now(server) == {("disk_reserve", "warning")}, "for as long as it is full"
    assert len(producer) > 0, "nothing waited"
    delete_half(server, client)
    # A few seconds; many, on a machine that has other things to do.
    assert producer.flush(TIMEOUT_S) == 0, "appends resume by themselves"
    assert not client.errors
    assert read_all(server, TOPIC) == client.acked


CASES = [(kind, reserve) for kind in ("ext4", "tmpfs") for reserve in (RESERVE_BYTES, 0)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "reserve_bytes"), CASES)
def test_a_full_disk_refuses_appends_and_resumes_by_itself(
    tmp_path: Path, kind: str, reserve_bytes: int
) -> None:
    """Refused with an error, nothing lost, nothing half written; deleting is all that it takes."""
    with small_disk(tmp_path, kind, size_bytes=DISK_BYTES) as disk:
        reserve = ("--set", f"disk.reserve.bytes={reserve_bytes}")
        server = ServerProcess(disk.path / "data", *reserve)
        server.log_path = str(tmp_path / "server.log")
        with server:
            first = server.pid
            client = fill_up(server, is_enospc=reserve_bytes == 0)
            resume(server, client)
            assert server.pid == first
            assert server.process is not None
            assert server.process.poll() is None, "the server stayed up"
            server.kill()
            server.start()
            assert read_all(server, TOPIC) == client.acked
            assert problem_kinds(server)[0] == 0
            assert "Traceback" not in server.log()


@pytest.mark.slow
@pytest.mark.parametrize("reserve_bytes", [RESERVE_BYTES, 0])
def test_a_server_killed_on_a_full_disk_starts_on_it(tmp_path: Path, reserve_bytes: int) -> None:
    """kill -9 while full: it starts without space, serves all, and can be relieved as before."""
    with small_disk(tmp_path, "ext4", size_bytes=DISK_BYTES) as disk:
        reserve = ("--set", f"disk.reserve.bytes={reserve_bytes}")
        # Here what the server has to say goes to the full disk as well: that must not end it.
        with ServerProcess(disk.path / "data", *reserve) as server:
            client = fill_up(server, is_enospc=reserve_bytes == 0)
            server.kill()
            server.start()
            assert read_all(server, TOPIC) == client.acked
            resume(server, client)
            assert server.stop() == 0
            code, report = logd("check", server.data)
            assert code == 0, report
