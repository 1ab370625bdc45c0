"""What coding a segment costs a server: bytes read, bytes written, bytes stored, memory.

Counted by the kernel for a server in a process of its own, so nothing that the server does beside
the coding itself is left out. Batches are as long as clients make them at most, about 1 MB.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Self

import confluent_kafka
import pytest

from tests.logd_command import Logd
from tests.server_process import ServerProcess

RECORD_BYTES = 1_000_000
MIB = 1024 * 1024
GROWTH_MAX_BYTES = 100 * MIB
# The larger one would not fit into that.
SMALL_RECORDS, LARGE_RECORDS = 24, 160
# What a server reads and writes meanwhile that is no segment: requests, the catalog, its own state.
BESIDE_BYTES = MIB
TIMEOUT_S = 60


def fill(logd: Logd, topic: str, records: int) -> None:
    """Make a topic of one sealed segment with so many batches, and an active one with one record.

    The grace time is long: what a release checks is not counted here.
    """
    size = f"segment.bytes={records * (RECORD_BYTES + 1000)}"
    settings = ("cold.profile=4+2", "cold.grace.ms=3600000", size)
    words = [word for setting in settings for word in ("--config", setting)]
    logd.run("topic", "create", topic, "--partitions", "1", *words)
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": logd.server.bootstrap, "message.max.bytes": 2 * RECORD_BYTES,
         "batch.size": RECORD_BYTES, "acks": "all"}
    )  # fmt: skip
    for _ in range(records + 1):
        producer.produce(topic, os.urandom(RECORD_BYTES))
        producer.poll(0)
    assert producer.flush(TIMEOUT_S) == 0


class Costs:
    """What a command costs the server, by the kernel's count. Use as a context manager."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        self.read_bytes = self.written_bytes = self.grown_bytes = 0

    def __enter__(self) -> Self:
        (self._proc / "clear_refs").write_text("5")  # The peak is counted from now on.
        self.grown_bytes = -self._status("VmRSS")
        self.read_bytes, self.written_bytes = -self._io("rchar"), -self._io("wchar")
        return self

    def __exit__(self, *_: object) -> None:
        self.read_bytes += self._io("rchar")
        self.written_bytes += self._io("wchar")
        self.grown_bytes += self._status("VmHWM")

    def _io(self, name: str) -> int:
        return int(self._found(rf"^{name}: (\d+)", "io"))

    def _status(self, name: str) -> int:
        return 1024 * int(self._found(rf"^{name}:\s+(\d+) kB", "status"))

    def _found(self, pattern: str, name: str) -> str:
        found = re.search(pattern, (self._proc / name).read_text(), re.MULTILINE)
        assert found is not None, name
        return found[1]


def encode(logd: Logd, topic: str) -> tuple[dict[str, Any], Costs]:
    with Costs(logd.server.pid) as costs:
        done = logd.json("cold", "encode", topic)
    assert (done["encoded"], done["failed"]) == (1, 0)
    print(topic, done, vars(costs))
    return done, costs


@pytest.fixture
def logd(tmp_path: Path) -> Any:
    nodes = [word for name in "abcdef" for word in ("--node", f"{name}={tmp_path / name}")]
    with ServerProcess(tmp_path / "data", *nodes, "--set", "disk.reserve.bytes=0") as server:
        yield Logd(server)


def test_what_a_segment_costs(logd: Logd) -> None:
    """Each chunk byte is written once; the source is read once to be checked and once to be coded;
    1.52 times the source is stored at most; memory is bounded, whatever the segment's size."""
    logd.run("scrub", "pause")
    fill(logd, "first", 2)
    encode(logd, "first")  # The library is loaded, the kernel chosen.
    for topic, records in (("small", SMALL_RECORDS), ("large", LARGE_RECORDS)):
        fill(logd, topic, records)
        done, costs = encode(logd, topic)
        source, stored = done["source_bytes"], done["stored_bytes"]
        assert source >= records * RECORD_BYTES
        assert 1.5 * source < stored <= 1.52 * source
        assert stored <= costs.written_bytes <= stored + BESIDE_BYTES
        # Besides, each chunk is read back; then the k-th part of the source is decoded from k
        # chunks and compared.
        proof = stored + source + source / 4
        assert costs.read_bytes <= 2 * source + proof + BESIDE_BYTES
        assert costs.grown_bytes <= GROWTH_MAX_BYTES
