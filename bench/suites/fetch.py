"""Rows C and E: fetches of warm data against bare sendfile; the way from producer to consumer."""

from __future__ import annotations

import time
from typing import Final

from bench.load import append_batches, make_batch
from bench.measurement import Measurement
from bench.process import Server
from bench.runner import Run, as_megabytes, as_p50, memory_row
from bench.suites.bare import bare_append
from bench.suites.shapes import KIB, MIB, connections_name, size_name

FETCH_LOG_BYTES: Final = 512 * MIB
FETCH_BATCH_BYTES: Final = 64 * KIB


def fetch_rows(run: Run) -> list[Measurement]:
    """Rows C and E: fetches of warm data against bare sendfile, and end to end."""
    rows: list[Measurement] = []
    with run.server() as server:
        with run.topic(server) as topic:
            log = fill(run, server, topic, FETCH_LOG_BYTES)
            rows += [
                _fetch(run, server, topic, log, size, connections)
                for connections in (1, 4)
                for size in (MIB, 10 * MIB)
            ]
        rows += [
            _end_to_end(run, server, durable=durable, per_second=per_second)
            for durable in (False, True)
            for per_second in (500, 5000)
        ]
        rows.append(memory_row(run, server, "memory at its highest under fetches", "VmHWM"))
    return rows


def fill(run: Run, server: Server, topic: str, size: int) -> dict[str, int]:
    """Append about `size` bytes in batches of 64 KiB; return what a fetch client must know."""
    batch, records = make_batch(FETCH_BATCH_BYTES, timestamp_ms=time.time_ns() // 1_000_000)
    count = size // len(batch)
    path = run.directory / "fetch.log"
    with path.open("wb", buffering=MIB) as file:
        for _ in range(count):
            file.write(batch)
    append_batches(server.kafka, topic, [0], batch, count)
    return {"batch_bytes": len(batch), "batch_records": records, "end_offset": count * records}


def _fetch(
    run: Run, server: Server, topic: str, log: dict[str, int], size: int, connections: int
) -> Measurement:
    load = {"topic": topic, "max_bytes": size, "connections": connections, **log}
    bare = {"topic": topic, "file": str(run.directory / "fetch.log"),
            "records_bytes": size // log["batch_bytes"] * log["batch_bytes"]}  # fmt: skip
    with (
        run.bare("serve-send", **bare, unasked=False) as (address, pid),
        run.bare("serve-send", **bare, unasked=True) as (unasked, _),
    ):
        stream = as_megabytes(run.job("drain", address=unasked, **load))
        ours = {"address": server.kafka, "server_pid": server.pid, **load}
        ceiling = {"address": address, "server_pid": pid, **load}
        return run.row(
            f"fetch {size_name(size)}, {connections_name(connections)}",
            "MB/s",
            lambda: as_megabytes(run.job("fetch", **ours)),
            ceiling=lambda _: as_megabytes(run.job("fetch", **ceiling)),
            ceiling_name="bare sendfile, 256 KiB a call",
            conditions={
                "max_bytes": size,
                "connections": connections,
                "bare_sendfile_unasked_1_connection": round(stream.value),
            },
        )


def _end_to_end(run: Run, server: Server, *, durable: bool, per_second: int) -> Measurement:
    load = {"acks": -1 if durable else 1, "per_second": per_second}
    mode = "commit" if durable else "os"
    with (
        run.topic(server, flush_mode=mode) as topic,
        bare_append(run, topic, 0, sync=False) as (address, pid),
    ):
        ours = {"address": server.kafka, "server_pid": server.pid, "topic": topic, **load}
        bare = {"address": address, "server_pid": pid, "topic": topic, "acks": 1}
        bare |= {"batch_bytes": 0, "connections": 1, "depth": 1}
        return run.row(
            f"end to end, {'durable' if durable else 'page cache'}, {per_second}/s",
            "us",
            lambda: as_p50(run.job("end-to-end", **ours)),
            ceiling=lambda _: as_p50(run.job("produce", **bare)),
            ceiling_name="round trip to a bare loop that writes and does not sync",
            conditions={"flush_mode": mode, **load},
        )
