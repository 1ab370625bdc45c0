"""The server's CPU time per request does not creep up.

Times on a shared machine say little; CPU time per request says more, and the ratio to a bare loop that is
measured in the same seconds, with the same client and the same bytes, says most: the kernel's part
and the machine's mood are in both. The bounds are about half as much again as what was measured when
they were set (beside each): a new allocation per request passes, a second parse does not.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from bench.process import Server
from bench.runner import Options, Run
from bench.suites.append import bare_append

WINDOW_S = 0.4
WINDOWS = 5
TOPIC = "budget"


def cpu_us_per_request(run: Run, load: dict[str, object], address: object, pid: int) -> float:
    """The server's CPU microseconds per request in one window."""
    window = run.job("produce", address=address, server_pid=pid, topic=TOPIC, **load)
    assert window.server_cpu_s is not None
    assert window.requests > 0
    return window.server_cpu_s / window.requests * 1e6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("connections", "depth", "bound"),
    [(1, 100, BOUND_PIPELINED), (50, 1, BOUND_CONNECTIONS)],
    ids=["100 in flight", "50 connections"],
)
def test_cpu_per_request_stays_low(
    tmp_path: Path, connections: int, depth: int, bound: float
) -> None:
    """One-record appends cost the server no more than `bound` times what they cost a bare loop."""
    run = Run(tmp_path, Options(seconds=WINDOW_S))
    load = {"acks": 1, "batch_bytes": 0, "connections": connections, "depth": depth}
    with Server(tmp_path / "data") as server:
        server.create_topic(TOPIC, flush_mode="os")
        with bare_append(run, TOPIC, 0, sync=False) as (address, pid):
            ratios = [
                cpu_us_per_request(run, load, server.kafka, server.pid)
                / cpu_us_per_request(run, load, address, pid)
                for _ in range(WINDOWS)
            ]
    assert statistics.median(ratios) < bound, f"ratios to the bare loop: {ratios}"
