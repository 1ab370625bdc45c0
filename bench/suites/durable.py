"""Appends with acks=all, beside a bare loop that writes and syncs as many bytes at a time.

How many bytes a sync carries is the server's own doing (it groups what waits), so the ceiling asks
its counter of syncs first: the bare loop then does what the server did in the same turn, with
nothing around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.load import make_batch
from bench.measurement import Window
from bench.process import Server
from bench.runner import Plan, Run, as_megabytes, as_requests
from bench.suites.shapes import KIB
from bench.suites.synced import syncs_of, with_bytes_per_sync

CEILING = "bare write and fdatasync, the same bytes a sync"


def durable_plan(
    run: Run, server: Server, topic: str, *, name: str, size: int, connections: int, depth: int,
    conditions: Mapping[str, Any] | None = None,
) -> Plan:  # fmt: skip
    """Return a row of durable appends; a `size` of 0 is one record a request."""
    load = {"acks": -1, "batch_bytes": size, "connections": connections, "depth": depth}
    value = as_megabytes if size else as_requests
    batch_bytes = len(make_batch(size, timestamp_ms=0)[0])

    def ours() -> Window:
        before = syncs_of(server)
        window = run.job(
            "produce", address=server.kafka, server_pid=server.pid, topic=topic, **load
        )
        in_flight = depth * connections
        return value(with_bytes_per_sync(window, batch_bytes, syncs_of(server), before, in_flight))

    def ceiling(ours: Window) -> Window:
        carried = ours.notes["bytes_per_sync"]
        bare = run.job("write-and-sync", directory=str(run.directory), bytes=carried)
        return value(replace(bare, requests=bare.bytes // batch_bytes))

    return Plan(
        name, "MB/s" if size else "requests/s", ours,
        ceiling=ceiling, ceiling_name=CEILING, prime=size >= 64 * KIB,
        conditions={"flush_mode": "commit", **load, **(conditions or {})},
    )  # fmt: skip
