"""Losing a node of seven: how long until every segment has its full margin, without a person.

Seven directories are a server's storage nodes, the segments are coded 4+2; then the directory of
one is deleted under the running server. The clock starts at the end of repair's delay, counted from
when the server says that the node is dead, and stops when every segment has its full margin and
nothing is queued. Repair goes at its default rate, so the figure is one of settings as much as of
speed; there is nothing bare to hold it against. The promise is two minutes.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable
from typing import Any, Final

from bench.load import append_batches, make_batch
from bench.measurement import Measurement, Window
from bench.process import BenchError, Server
from bench.runner import Run
from bench.suites.shapes import KIB, MIB

NODES: Final = "abcdefg"
LOST: Final = "d"
SEGMENTS: Final = 100
SEGMENT_BYTES: Final = 16 * MIB
DELAY_S: Final = 15
"""repair.delay.ms: a fifteenth of it is what a segment waits that can lose one more."""

PROMISED_S: Final = 120
TIMEOUT_S: Final = 600.0
LOOK_S: Final = 0.1
TOPIC: Final = "lost"


def loss_rows(run: Run) -> list[Measurement]:
    """The one row, measured once; none where nobody asked for curves."""
    if not run.options.curves:
        return []
    noted: dict[str, Any] = {"nodes": len(NODES), "profile": "4+2", "promised_s": PROMISED_S}
    name = f"one node of seven lost, {SEGMENTS} segments of {SEGMENT_BYTES // MIB} MiB"
    return [run.row(name, "s", lambda: _lose_a_node(run, noted), repetitions=1, conditions=noted)]


def _lose_a_node(run: Run, noted: dict[str, Any]) -> Window:
    """Code the segments, lose the node; return the seconds to full margin."""
    home = run.directory / "loss"
    home.mkdir()
    words = [word for name in NODES for word in ("--node", f"{name}={home / name}")]
    words += ["--set", f"repair.delay.ms={1000 * DELAY_S}"]
    with Server(home / "data", arguments=words) as server:
        coded = _fill(server)
        shutil.rmtree(home / LOST)
        gone = time.monotonic()
        _wait(server, "the loss is seen", lambda status: status["nodes"]["live"] < len(NODES))
        due = time.monotonic() + DELAY_S / 15
        noted["until_seen_s"] = round(due - DELAY_S / 15 - gone, 2)
        full = _wait(server, "full margin", lambda status: _is_full(status, coded))
        ended = time.monotonic()
        counts = _counts(server)
        noted |= {"segments": coded, "margins": full["segments_by_margin"], **counts}
        return Window(max(ended - due, 0.001), bytes=counts["written_bytes"], seconds=ended - due)


def _fill(server: Server) -> int:
    """Append until there are segments enough, and wait until they are in chunks only."""
    batch, _ = make_batch(64 * KIB, timestamp_ms=time.time_ns() // 1_000_000)
    server.create_topic(
        TOPIC, segment_bytes=str(SEGMENT_BYTES), cold_enable="true", cold_profile="4+2",
        cold_grace_ms="0", file_delete_delay_ms="0",
    )  # fmt: skip
    append_batches(server.kafka, TOPIC, [0], batch, SEGMENTS * (SEGMENT_BYTES // len(batch)) + 1)
    logs = server.directory / "topics" / f"{TOPIC}-0"

    def is_coded(status: dict[str, Any]) -> bool:
        return status["segments_by_margin"]["2"] >= SEGMENTS and len(list(logs.glob("*.log"))) <= 1

    status = _wait(server, "all is coded", is_coded)
    coded: int = status["segments_by_margin"]["2"]
    return coded


def _is_full(status: dict[str, Any], coded: int) -> bool:
    is_busy = status["repair"]["queued"] + status["repair"]["running"]
    return not is_busy and status["segments_by_margin"]["2"] == coded


def _wait(server: Server, what: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the first status that is so."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        status: dict[str, Any] = json.loads(_get(server, "/v1/status"))
        if is_so(status):
            return status
        if time.monotonic() > deadline:
            raise BenchError(f"not within {TIMEOUT_S:g} s: {what}; log: {server.log_tail()}")
        time.sleep(LOOK_S)


def _counts(server: Server) -> dict[str, int]:
    """Return what repair did, by the server's metrics."""
    found = {"chunks": 0, "read_bytes": 0, "written_bytes": 0}
    for line in _get(server, "/metrics").splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("logd_repair_chunks_total"):
            found["chunks"] += int(float(value))
        elif name == "logd_repair_read_bytes_total":
            found["read_bytes"] = int(float(value))
        elif name == "logd_repair_written_bytes_total":
            found["written_bytes"] = int(float(value))
    return found


def _get(server: Server, path: str) -> str:
    host, port = server.admin
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=30) as answer:
        text: str = answer.read().decode()
        return text
