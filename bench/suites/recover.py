"""Row F: how soon the server is ready, after what, and how much memory it keeps.

Where curves are asked for: how the start grows with the number of segments that a partition keeps.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from contextlib import ExitStack
from typing import Final

from bench import protocol
from bench.load import append_batches, connect, make_batch
from bench.measurement import Measurement, Window
from bench.process import Server, memory_bytes, read_frame
from bench.runner import Plan, Run, memory_row
from bench.suites.shapes import KIB, MIB


def recover_rows(run: Run) -> list[Measurement]:
    """Row F: start to ready (empty, full after a clean stop, after kill -9), and memory."""
    rows = [_start_empty(run)]
    with run.server() as server:
        rows.append(memory_row(run, server, "memory after start", "VmRSS"))
        rows.append(_idle_connections(run, server))
    rows += _start_full(run)
    rows.append(_start_killed(run))
    return rows + _segments_kept(run)


def _start_empty(run: Run) -> Measurement:
    start_empty(run)  # the first one may compile the modules
    return run.row("start, empty directory", "s", lambda: Window(start_empty(run)))


def start_empty(run: Run) -> float:
    """Start a server on a directory that does not exist, and stop it; return seconds to ready."""
    data = run.directory / "empty"
    server = Server(data)
    try:
        elapsed = server.start()
        server.stop()
    finally:
        server.kill()
        shutil.rmtree(data, ignore_errors=True)
    return elapsed


IDLE_CONNECTIONS: Final = 200


def _idle_connections(run: Run, server: Server) -> Measurement:
    """Connections that asked once and then wait, on top of some that filled the server's pools.

    They stay open until the end: what one window has closed, the next would find again.
    """
    with ExitStack() as opened:
        for _ in range(IDLE_CONNECTIONS // 2):
            opened.enter_context(_asked(server))

        def grow() -> Window:
            before = memory_bytes(server.pid)
            for _ in range(IDLE_CONNECTIONS):
                opened.enter_context(_asked(server))
            return Window(max(1.0, (memory_bytes(server.pid) - before) / IDLE_CONNECTIONS))

        return run.row(
            "memory of an idle connection",
            "bytes",
            grow,
            conditions={
                "connections": IDLE_CONNECTIONS,
                "note": "resident memory; the kernel's sockets are not in it",
            },
        )


def _asked(server: Server) -> socket.socket:
    connection = connect(server.kafka)
    connection.sendall(protocol.api_versions_request())
    read_frame(connection)
    return connection


def _start_full(run: Run) -> list[Measurement]:
    """After a clean stop with many partitions and much data: nothing may be read."""
    options = run.options
    free = os.statvfs(run.directory).f_bavail * os.statvfs(run.directory).f_frsize
    fill_bytes = min(options.fill_bytes, free // 3)
    batch, _ = make_batch(MIB, timestamp_ms=time.time_ns() // 1_000_000)
    partitions = options.fill_partitions
    count = max(partitions, fill_bytes // len(batch))
    conditions = {"partitions": partitions, "log_bytes": count * len(batch)}
    with run.server("full") as server:
        server.create_topic("full", partitions=partitions)
        run.options.progress(f"filling {partitions} partitions")
        append_batches(server.kafka, "full", list(range(partitions)), batch, count)

        def restart() -> Window:
            server.stop()
            return Window(server.start())

        name = f"start after a clean stop, {partitions} partitions"
        rows = [run.row(name, "s", restart, conditions=conditions)]
        rows.append(
            memory_row(run, server, f"memory after start, {partitions} partitions", "VmRSS")
        )
    return rows


def _start_killed(run: Run) -> Measurement:
    """After kill -9 with an active segment of nearly 1 GiB."""
    batch, _ = make_batch(MIB, timestamp_ms=time.time_ns() // 1_000_000)
    count = min(run.options.fill_bytes, 1000 * MIB) // len(batch)
    with run.server("killed") as server:
        server.create_topic("killed")
        append_batches(server.kafka, "killed", [0], batch, count)

        def restart() -> Window:
            append_batches(server.kafka, "killed", [0], batch, 1)
            server.kill()
            return Window(server.start())

        return run.row(
            "start after kill -9", "s", restart, conditions={"log_bytes": count * len(batch)}
        )


SEGMENTS: Final = (10, 100, 1000, 5000)
SEGMENT_BYTES: Final = 16 * KIB


def _segments_kept(run: Run) -> list[Measurement]:
    """Starts after a clean stop, with few and with many segments in one partition."""
    if not run.options.curves:
        return []
    with ExitStack() as stack:
        return run.rows([_kept(run, stack, count) for count in SEGMENTS])


def _kept(run: Run, stack: ExitStack, count: int) -> Plan:
    batch, _ = make_batch(SEGMENT_BYTES, timestamp_ms=time.time_ns() // 1_000_000)
    server = stack.enter_context(run.server(f"kept-{count}"))
    # A batch fills a segment.
    server.create_topic("kept", segment_bytes=str(SEGMENT_BYTES), flush_mode="os")
    run.options.progress(f"writing {count:,} segments")
    append_batches(server.kafka, "kept", [0], batch, count)

    def restart() -> Window:
        server.stop()
        return Window(server.start())

    return Plan(
        f"start with {count:,} segments in a partition", "s", restart,
        ceiling=lambda _: Window(start_empty(run)),
        ceiling_name="a start on an empty directory",
        conditions={"curve": "segments kept", "x": count, "segment_bytes": SEGMENT_BYTES},
    )  # fmt: skip
