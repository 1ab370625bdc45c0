"""A storage node over loopback: ranges of a chunk beside a bare sendfile loop."""

from __future__ import annotations

from typing import Any

from bench.measurement import Measurement
from bench.runner import Run, as_megabytes
from bench.suites.shapes import KIB, MIB, size_name


def node_rows(run: Run) -> list[Measurement]:
    """Ask a node for ranges of three lengths, as any client and as the server of logs."""
    directory = str(run.directory)
    rows = []
    with run.bare("serve-node", directory=directory) as (address, node_pid):
        node = {"address": address, "server_pid": node_pid}
        for size in (64 * KIB, MIB, 8 * MIB):
            with run.bare("serve-ranges", directory=directory, range_bytes=size) as (bare, pid):
                ceiling = {"address": bare, "server_pid": pid}
                rows.append(_row(run, "GET", "get-ranges", size, node, ceiling))
                rows.append(_row(run, "read and verify", "read-ranges", size, node, ceiling))
    return rows


def _row(
    run: Run, name: str, job: str, size: int, node: dict[str, Any], ceiling: dict[str, Any]
) -> Measurement:
    return run.row(
        f"{name} {size_name(size)} of a chunk",
        "MB/s",
        lambda: as_megabytes(run.job(job, **node, range_bytes=size)),
        ceiling=lambda _: as_megabytes(run.job("get-ranges", **ceiling, range_bytes=size)),
        ceiling_name="bare sendfile, 256 KiB a call",
    )
