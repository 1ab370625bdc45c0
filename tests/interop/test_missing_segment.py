"""A segment file that somebody removed while the server was down."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.forked import run_logd
from tests.logd_command import Logd
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop


def test_a_missing_segment_is_said_after_a_clean_stop(tmp_path: Path, rng: random.Random) -> None:
    """Its offsets are damage, on status with exit 4; what lies behind is read."""
    data = b"".join(rng.randbytes(250).hex().encode() + b"\n" for _ in range(12_000))
    with ServerProcess(tmp_path / "data", "--set", "disk.reserve.bytes=0") as server:
        logd = Logd(server)
        logd.run("topic", "create", "t", "--partitions", "1", "--config", "segment.bytes=1048576")
        logd.run("produce", "t", stdin=data)
        assert server.stop() == 0
        logs = sorted((tmp_path / "data" / "topics" / "t-0").glob("*.log"))
        assert len(logs) > 4
        first, behind = int(logs[1].stem), int(logs[2].stem)
        logs[1].unlink()
        server.start()
        logd = Logd(server)
        done = run_logd("status", environment=logd.environment)
        assert done.returncode == 4
        status = done.stdout.decode()
        assert f"{first} to {behind - 1}" in status
        consumed = logd.run("consume", "t", "--from", str(behind)).stdout
        assert consumed == b"".join(data.splitlines(keepends=True)[behind:])
