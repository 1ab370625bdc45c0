"""Latency of appends at a fixed rate of arrivals, and how it grows with the rate.

A closed loop shows how fast a server can be; this shows what its users wait when they come when
they come (`bench.open_load`). The value is the 99th percentile, from when each request was due. The
ceiling answers the same requests at the same rate, writes them, and never syncs.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final

from bench.measurement import Measurement
from bench.process import Server
from bench.runner import Plan, Run, as_p99
from bench.suites.bare import bare_append

RATES: Final = (1_000, 10_000)
CURVE_RATES: Final = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
CONNECTIONS: Final = 10
# A window lasts as long as two of other rows: a 99th percentile needs hundreds of requests.
WINDOWS: Final = 2
CEILING: Final = "the same arrivals at a bare loop that writes and does not sync"


def open_rows(run: Run, server: Server) -> list[Measurement]:
    """Rows of some rates, or of a curve of them, with and without waiting for the sync."""
    rates = CURVE_RATES if run.options.curves else RATES
    rows: list[Measurement] = []
    for acks in (1, -1):
        with ExitStack() as stack:
            topic = stack.enter_context(run.topic(server))
            bare = stack.enter_context(bare_append(run, topic, 0, sync=False))
            rows += run.rows([_plan(run, server, topic, bare, acks, rate) for rate in rates])
    return rows


def _plan(
    run: Run, server: Server, topic: str, bare: tuple[tuple[str, int], int], acks: int, rate: int
) -> Plan:
    load: dict[str, Any] = {
        "topic": topic,
        "per_second": rate,
        "connections": CONNECTIONS,
        "seconds": WINDOWS * run.options.seconds,
    }
    address, pid = bare
    kind = "acks=1" if acks == 1 else "durable"
    return Plan(
        f"open load, {rate:,}/s, {kind}", "us",
        lambda: as_p99(
            run.job("open-produce", address=server.kafka, server_pid=server.pid, acks=acks, **load)
        ),
        ceiling=lambda _: as_p99(
            run.job("open-produce", address=address, server_pid=pid, acks=1, **load)
        ),
        ceiling_name=CEILING,
        conditions={
            "flush_mode": "commit", "acks": acks, "connections": CONNECTIONS, "per_second": rate,
            "value": "99th percentile, from when a request was due",
            "curve": "requests a second", "x": rate, "chart": f"p99 under open load, {kind}",
        },
    )  # fmt: skip
