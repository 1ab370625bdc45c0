"""What appends and fetches wait while the cold tier works on the same disk: encoding, and repair.

A server has six nodes that are directories beside its log. Batches come at a fixed rate and wait
for their sync; the value is their 99th percentile while segments are coded, or lost chunks are made
again at the default rate, the ceiling the same a moment before. All is on one disk, as it is not
where that matters: the worst case, and the only one that a benchmark on any machine has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.load import append_batches, make_batch
from bench.measurement import Measurement, Window
from bench.process import BenchError, Server
from bench.runner import Plan, Run, as_p99
from bench.suites.degraded import CODED_S, NODES, PROFILE, run_logd
from bench.suites.shapes import KIB, MIB

SEGMENT_BYTES: Final = 128 * MIB
SEGMENTS: Final = 4
BATCH_BYTES: Final = 64 * KIB
APPENDED_BYTES: Final = 16 * KIB
PER_SECOND: Final = 200
FETCHED_BYTES: Final = MIB
WINDOW_S: Final = 2.0
FETCHED, APPENDED, COLD = "fetched", "appended", "cold"
FETCHED_BATCHES: Final = 64
CEILING: Final = "the same a moment before, while the cold tier rests"


def encode_beside_rows(run: Run) -> list[Measurement]:
    """Appends while segments are coded."""
    with _server(run, "beside-encode") as server:

        def begin() -> None:
            _fill(server, COLD)
            run_logd(server, "cold", "encode", COLD, "--no-wait")

        return [_row(run, server, "encoding", "append", begin, lambda: server.delete_topic(COLD))]


def repair_beside_rows(run: Run) -> list[Measurement]:
    """Appends, and fetches of what is warm, while a lost node's chunks are made again."""
    with _server(run, "beside-repair") as server:
        _fill(server, COLD)
        run_logd(server, "cold", "encode", COLD)
        _await_rest(server)

        def begin() -> None:
            for path in _chunks(server, NODES[0]):
                path.unlink()
            run_logd(server, "repair", "--no-wait")

        return [_row(run, server, "repair", kind, begin) for kind in ("append", "fetch")]


@contextmanager
def _server(run: Run, name: str) -> Iterator[Server]:
    """A server with nodes and a topic of its own for what is measured."""
    home = run.directory / name
    home.mkdir()
    nodes = [word for node in NODES for word in ("--node", f"{node}={home / node}")]
    with Server(home / "data", arguments=nodes) as server:
        server.create_topic(APPENDED)
        server.create_topic(FETCHED)
        append_batches(server.kafka, FETCHED, [0], _batch()[0], FETCHED_BATCHES)
        yield server


def _batch() -> tuple[bytes, int]:
    """Return a batch and its number of records: four of them are a fetch."""
    return make_batch(FETCHED_BYTES // 4, timestamp_ms=time.time_ns() // 1_000_000)


def _fill(server: Server, topic: str) -> None:
    """Make a topic with as many sealed segments as are coded in a window."""
    server.create_topic(
        topic, segment_bytes=str(SEGMENT_BYTES), cold_enable="true", cold_profile=PROFILE,
        cold_after_ms=str(10**12), cold_grace_ms=str(10**12),
    )  # fmt: skip
    batch, _ = make_batch(BATCH_BYTES, timestamp_ms=time.time_ns() // 1_000_000)
    append_batches(server.kafka, topic, [0], batch, SEGMENTS * SEGMENT_BYTES // len(batch) + 1)


def _chunks(server: Server, node: str = "*", suffix: str = ".chunk") -> list[Path]:
    return list(server.directory.parent.glob(f"{node}/chunks/*{suffix}"))


def _is_working(server: Server) -> bool:
    return bool(_chunks(server, suffix=".tmp"))


def _await_work(server: Server) -> None:
    """Return when a chunk is being written, or was."""
    before = len(_chunks(server))
    deadline = time.monotonic() + CODED_S
    while not _is_working(server) and len(_chunks(server)) <= before:
        if time.monotonic() > deadline:
            raise BenchError(f"the cold tier does not begin; log: {server.log_tail()}")
        time.sleep(0.01)


def _await_rest(server: Server) -> None:
    """Return when nothing is being written, and has not been for a moment."""
    quiet_since = time.monotonic()
    deadline = quiet_since + CODED_S
    while time.monotonic() < quiet_since + 1:
        if _is_working(server):
            quiet_since = time.monotonic()
        if time.monotonic() > deadline:
            raise BenchError(f"the cold tier does not rest; log: {server.log_tail()}")
        time.sleep(0.05)


def _row(
    run: Run,
    server: Server,
    work: str,
    kind: str,
    begin: Callable[[], None],
    end: Callable[[], None] = lambda: None,
) -> Measurement:
    """Measure a row; `begin` starts the cold tier's work, `end` takes away what came of it."""
    noted: dict[str, Any] = {"profile": PROFILE, "flush_mode": "commit"}

    def foreground() -> Window:
        return as_p99(_foreground(run, server, kind))

    resting: list[Window] = []

    def ours() -> Window:
        resting.append(foreground())
        begin()
        _await_work(server)
        window = foreground()
        noted["worked_throughout"] = _is_working(server)
        _await_rest(server)
        end()
        return window

    name = "durable 16 KiB, 200/s" if kind == "append" else "fetch 1 MiB of warm data"
    plan = Plan(
        f"{name}, p99 during {work}", "us", ours, ceiling=lambda _: resting[-1],
        ceiling_name=CEILING, conditions=noted,
    )  # fmt: skip
    return run.rows([plan])[0]


def _foreground(run: Run, server: Server, kind: str) -> Window:
    """One window of durable appends, or of fetches."""
    load: dict[str, Any] = {
        "address": server.kafka, "server_pid": server.pid, "seconds": WINDOW_S,
    }  # fmt: skip
    if kind == "append":
        return run.job(
            "open-produce", topic=APPENDED, acks=-1, per_second=PER_SECOND, connections=4,
            batch_bytes=APPENDED_BYTES, **load,
        )  # fmt: skip
    batch, records = _batch()
    return run.job(
        "fetch", topic=FETCHED, max_bytes=FETCHED_BYTES, connections=1, batch_bytes=len(batch),
        batch_records=records, end_offset=FETCHED_BATCHES * records, **load,
    )  # fmt: skip
