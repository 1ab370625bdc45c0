"""The benchmarks that `logd bench NAME` runs: each a function from a Run to its rows.

Rows of one record are in requests a second, of large batches in MB (10^6 bytes of batches) a
second, end to end in microseconds from send to receipt (the median).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bench.measurement import Measurement
from bench.runner import Run
from bench.suites.append import append_rows
from bench.suites.commits import commit_rows
from bench.suites.compact import compact_rows
from bench.suites.degraded import degraded_rows
from bench.suites.disk import disk_rows
from bench.suites.encode import encode_rows
from bench.suites.fetch import fetch_rows
from bench.suites.node import node_rows
from bench.suites.recover import recover_rows

SUITES: Final[dict[str, Callable[[Run], list[Measurement]]]] = {
    "disk": disk_rows,
    "append": append_rows,
    "commits": commit_rows,
    "fetch": fetch_rows,
    "encode": encode_rows,
    "node": node_rows,
    "degraded": degraded_rows,
    "recover": recover_rows,
    "compact": compact_rows,
}

NOT_YET: Final[dict[str, str]] = {
    "repair": "nothing repairs chunks in this version",
}
