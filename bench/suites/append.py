"""Rows A, B and D: appends of one record and of large batches, with acks=1 and with acks=all.

acks=1 is measured against a bare loop that receives, checks, writes and syncs behind; acks=all
against a bare loop that writes and syncs as many bytes at a time as the server did in the same
turn. Rows marked `(os)` are of a topic with flush.mode=os: nothing is synced behind, on neither
side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from bench.load import make_batch
from bench.measurement import Measurement, Window
from bench.process import Server
from bench.runner import Run, as_megabytes, as_requests, memory_row
from bench.suites.bare import bare_append
from bench.suites.curves import append_curves
from bench.suites.open_rates import open_rows
from bench.suites.shapes import (
    CLIENT_DEPTH,
    KIB,
    MIB,
    ROUND_ROBIN_PARTITIONS,
    SYNC_THREADS,
    connections_name,
    shape_name,
    size_name,
)
from bench.suites.synced import syncs_of, with_bytes_per_sync

DURABLE_BATCH_BYTES: Final = 16 * KIB
DURABLE_DEPTH: Final = 64

Value = Callable[[Window], Window]


def append_rows(run: Run) -> list[Measurement]:
    """Rows A, B and D: acks=1 against a bare receiving loop, acks=all against bare sync loops."""
    rows: list[Measurement] = []
    with run.server() as server:
        for mode in ("commit", "os"):
            rows += [
                _small(run, server, mode, *shape) for shape in ((1, 1), (1, 10), (1, 100), (50, 1))
            ]
            rows += [
                _large(run, server, mode, size, connections)
                for size in (64 * KIB, MIB)
                for connections in (1, 4)
            ]
        rows += [_durable(run, server, 0, *shape) for shape in ((1, 1), (1, 100), (50, 1))]
        rows += [_durable(run, server, size, 1, CLIENT_DEPTH) for size in (64 * KIB, MIB)]
        rows.append(_durable(run, server, DURABLE_BATCH_BYTES, 1, DURABLE_DEPTH))
        rows.append(_durable_round_robin(run, server))
        rows += open_rows(run, server) + append_curves(run, server)
        rows.append(memory_row(run, server, "memory at its highest under appends", "VmHWM"))
    return rows


def _suffix(mode: str) -> str:
    return "" if mode == "commit" else f" ({mode})"


def _small(run: Run, server: Server, mode: str, connections: int, depth: int) -> Measurement:
    name = f"append one record, {shape_name(connections=connections, depth=depth)}{_suffix(mode)}"
    return _against_bare_loop(
        run, server, name, "requests/s", as_requests, mode, 0, connections, depth
    )


def _large(run: Run, server: Server, mode: str, size: int, connections: int) -> Measurement:
    name = f"append {size_name(size)}, {connections_name(connections)}{_suffix(mode)}"
    return _against_bare_loop(
        run, server, name, "MB/s", as_megabytes, mode, size, connections, CLIENT_DEPTH
    )


def _against_bare_loop(
    run: Run, server: Server, name: str, unit: str, value: Value, mode: str, size: int,
    connections: int, depth: int,
) -> Measurement:  # fmt: skip
    load = {"acks": 1, "batch_bytes": size, "connections": connections, "depth": depth}
    synced = mode == "commit"
    with (
        run.topic(server, flush_mode=mode) as topic,
        bare_append(run, topic, size, sync=synced) as (address, pid),
    ):
        bare = {"address": address, "server_pid": pid, "topic": topic}
        return run.row(
            name,
            unit,
            lambda: value(_produce(run, server, topic, load)),
            ceiling=lambda _: value(run.job("produce", **bare, **load)),
            ceiling_name="bare receive, CRC-32C, write" + (", sync behind" if synced else ""),
            prime=size > 0,
            conditions={"flush_mode": mode, **load},
        )


def _produce(run: Run, server: Server, topic: str, load: dict[str, Any]) -> Window:
    return run.job("produce", address=server.kafka, server_pid=server.pid, topic=topic, **load)


# --- Durable appends ----------------------------------------------------------------------------


def _durable(run: Run, server: Server, size: int, connections: int, depth: int) -> Measurement:
    """acks=all; the ceiling writes as many bytes a sync as the server did in the same turn."""
    load = {"acks": -1, "batch_bytes": size, "connections": connections, "depth": depth}
    small = size == 0
    value = as_requests if small else as_megabytes
    shape = shape_name(connections=connections, depth=depth)
    if size in (64 * KIB, MIB):
        shape = connections_name(connections)
    batch = make_batch(size, timestamp_ms=0)[0]
    place = str(run.directory)
    with run.topic(server) as topic:

        def ours() -> Window:
            before = syncs_of(server)
            window = _produce(run, server, topic, load)
            in_flight = depth * connections
            return value(
                with_bytes_per_sync(window, len(batch), syncs_of(server), before, in_flight)
            )

        def ceiling(ours: Window) -> Window:
            size = ours.notes["bytes_per_sync"]
            bare = run.job("write-and-sync", directory=place, bytes=size)
            return value(replace(bare, requests=bare.bytes // len(batch)))

        return run.row(
            f"durable {size_name(size)}, {shape}",
            "requests/s" if small else "MB/s",
            ours,
            ceiling=ceiling,
            ceiling_name="bare write and fdatasync, the same bytes a sync",
            prime=size >= 64 * KIB,
            conditions=load,
        )


def _durable_round_robin(run: Run, server: Server) -> Measurement:
    partitions, depth = ROUND_ROBIN_PARTITIONS, DURABLE_DEPTH
    load = {"acks": -1, "batch_bytes": DURABLE_BATCH_BYTES, "connections": 1, "depth": depth}
    load["partitions"] = partitions
    size = len(make_batch(DURABLE_BATCH_BYTES, timestamp_ms=0)[0])
    bare = {"directory": str(run.directory), "bytes": size, "files": partitions}
    with run.topic(server, partitions=partitions) as topic:
        return run.row(
            f"durable 16 KiB over {partitions} partitions, depth {depth}",
            "requests/s",
            lambda: as_requests(_produce(run, server, topic, load)),
            ceiling=lambda _: as_requests(run.job("round-robin", threads=SYNC_THREADS, **bare)),
            ceiling_name=f"{SYNC_THREADS} threads syncing {partitions} files",
            conditions=load,
        )
