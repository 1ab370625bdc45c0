"""How appending scales: with the size of records and batches, with depth, connections, partitions.

Each curve is a set of rows that take turns. They are measured when they are asked for: a curve of
six points takes as long as six rows. acks=1 stands beside a bare loop that does the same, acks=all
over partitions beside threads that sync as many files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from bench import protocol
from bench.load import make_batch
from bench.measurement import Measurement, Window
from bench.process import Server
from bench.runner import Plan, Run, as_megabytes, as_requests
from bench.suites.bare import bare_append
from bench.suites.shapes import CLIENT_DEPTH, KIB, MIB, SYNC_THREADS, counted, size_name

RECORD_SIZES: Final = (10, 100, KIB, 10 * KIB, 100 * KIB, MIB)
# The server's default bound of a batch is a MiB and a little.
BATCH_SIZES: Final = (KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB)
DEPTHS: Final = (1, 3, 10, 30, 100, 300, 1000)
CONNECTIONS: Final = (1, 10, 100, 1000, 5000)
PARTITIONS: Final = (1, 10, 100, 1000, 10_000)
PARTITION_DEPTH: Final = 64
Value = Callable[[Window], Window]


def append_curves(run: Run, server: Server) -> list[Measurement]:
    """All curves of appending, or none where nobody asked for them."""
    if not run.options.curves:
        return []
    curves = (_record_sizes, _batch_sizes, _depths, _connections, _partitions)
    rows: list[Measurement] = []
    for curve in curves:
        with ExitStack() as stack:
            rows += run.rows(list(curve(run, server, stack)))
    return rows


def _against_bare(
    run: Run, server: Server, stack: ExitStack, *, name: str, curve: str, x: int, unit: str,
    value: Value, load: dict[str, Any],
) -> Plan:  # fmt: skip
    """A point of acks=1, beside a bare loop that receives, checks, writes and syncs behind."""
    topic = stack.enter_context(run.topic(server))
    record_bytes = load.get("record_bytes", protocol.RECORD_VALUE_BYTES)
    address, pid = stack.enter_context(
        bare_append(run, topic, load["batch_bytes"], sync=True, record_bytes=record_bytes)
    )
    spec = {"topic": topic, "acks": 1, **load}
    return Plan(
        name, unit,
        lambda: value(
            run.job("produce", address=server.kafka, server_pid=server.pid, **spec)
        ),
        ceiling=lambda _: value(run.job("produce", address=address, server_pid=pid, **spec)),
        ceiling_name="bare receive, CRC-32C, write, sync behind",
        conditions={"flush_mode": "commit", "curve": curve, "x": x, **load, "acks": 1},
    )  # fmt: skip


def _record_sizes(run: Run, server: Server, stack: ExitStack) -> Iterator[Plan]:
    for size in RECORD_SIZES:
        # A record of a MiB must leave room for what stands around it.
        value_bytes = size if size < MIB else MIB - KIB
        yield _against_bare(
            run, server, stack, name=f"append one record of {_named(size)}",
            curve="bytes a record", x=size, unit="MB/s", value=as_megabytes,
            load={"batch_bytes": 0, "record_bytes": value_bytes, "connections": 1,
                  "depth": CLIENT_DEPTH},
        )  # fmt: skip


def _named(size: int) -> str:
    return f"{size} B" if size < KIB else size_name(size)


def _batch_sizes(run: Run, server: Server, stack: ExitStack) -> Iterator[Plan]:
    for size in BATCH_SIZES:
        yield _against_bare(
            run, server, stack, name=f"append batches of {size_name(size)}",
            curve="bytes a batch", x=size, unit="MB/s", value=as_megabytes,
            load={"batch_bytes": size, "connections": 1, "depth": CLIENT_DEPTH},
        )  # fmt: skip


def _depths(run: Run, server: Server, stack: ExitStack) -> Iterator[Plan]:
    for depth in DEPTHS:
        yield _against_bare(
            run, server, stack, name=f"append with {depth:,} in flight",
            curve="requests in flight", x=depth, unit="requests/s", value=as_requests,
            load={"batch_bytes": 0, "connections": 1, "depth": depth},
        )  # fmt: skip


def _connections(run: Run, server: Server, stack: ExitStack) -> Iterator[Plan]:
    for connections in CONNECTIONS:
        yield _against_bare(
            run, server, stack, name=f"append over {counted(connections, 'connection')}",
            curve="connections", x=connections, unit="requests/s", value=as_requests,
            load={"batch_bytes": 0, "connections": connections, "depth": 1},
        )  # fmt: skip


def _partitions(run: Run, server: Server, stack: ExitStack) -> Sequence[Plan]:
    """acks=all, requests over all partitions in turn: many files to sync."""
    size = len(make_batch(0, timestamp_ms=0)[0])
    return [_partition_point(run, server, stack, size, count) for count in PARTITIONS]


def _partition_point(run: Run, server: Server, stack: ExitStack, size: int, count: int) -> Plan:
    load = {"acks": -1, "batch_bytes": 0, "connections": 1, "depth": PARTITION_DEPTH,
            "partitions": count}  # fmt: skip
    # What is in flight to one partition can share a sync: the bare threads' syncs carry as much.
    shared = max(1, PARTITION_DEPTH // count)
    bare = {"directory": str(run.directory), "bytes": size * shared, "files": count,
            "threads": SYNC_THREADS}  # fmt: skip
    run.options.progress(f"making {count:,} partitions")
    topic = stack.enter_context(run.topic(server, partitions=count))

    def ceiling(_: Window) -> Window:
        window = run.job("round-robin", **bare)
        return as_requests(replace(window, requests=window.requests * shared))

    return Plan(
        f"durable over {counted(count, 'partition')}", "requests/s",
        lambda: as_requests(
            run.job("produce", address=server.kafka, server_pid=server.pid, topic=topic, **load)
        ),
        ceiling=ceiling,
        ceiling_name=f"{SYNC_THREADS} threads that sync as many files, as many appends each",
        conditions={"flush_mode": "commit", "curve": "partitions", "x": count, **load},
    )  # fmt: skip
