"""The benchmarks that `logd bench NAME` runs: each a function from a Run to its rows.

Rows of one record are in requests a second, of large batches in MB (10^6 bytes of batches) a
second, end to end in microseconds from send to receipt (the median).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bench.measurement import Measurement
from bench.runner import GIB, Options, Run
from bench.suites.append import append_rows
from bench.suites.commits import commit_rows
from bench.suites.compact import compact_rows
from bench.suites.degraded import degraded_rows
from bench.suites.disk import SPACE_BYTES, disk_rows
from bench.suites.encode import encode_rows
from bench.suites.fetch import fetch_rows
from bench.suites.node import node_rows
from bench.suites.recover import recover_rows
from bench.suites.repair import repair_rows

SUITES: Final[dict[str, Callable[[Run], list[Measurement]]]] = {
    "disk": disk_rows,
    "append": append_rows,
    "commits": commit_rows,
    "fetch": fetch_rows,
    "encode": encode_rows,
    "node": node_rows,
    "degraded": degraded_rows,
    "repair": repair_rows,
    "recover": recover_rows,
    "compact": compact_rows,
}

# Names of later work, and why they are refused.
NOT_YET: Final[dict[str, str]] = {}

# What a window writes at most, and how many rows' bytes may wait for their deletion.
_BYTES_PER_S: Final = 2 * GIB


def space_of(name: str, options: Options) -> int:
    """Return how many bytes a suite may have on the disk at its fullest."""
    written = int(options.repetitions * options.seconds * _BYTES_PER_S)
    needs = {
        "disk": SPACE_BYTES,
        "append": written + GIB,
        "fetch": 2 * GIB,
        "degraded": 4 * GIB,
        "encode": 4 * GIB,
        "compact": 3 * min(options.fill_bytes, GIB),
        # Less than asked for is filled where less is free.
        "repair": 5 * GIB if options.curves else 2 * GIB,
        "recover": min(options.fill_bytes, GIB) + GIB,
    }
    return needs.get(name, GIB) + options.prime_bytes
