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
from bench.suites.disk import disk_rows
from bench.suites.fetch import fetch_rows
from bench.suites.recover import recover_rows

SUITES: Final[dict[str, Callable[[Run], list[Measurement]]]] = {
    "disk": disk_rows,
    "append": append_rows,
    "commits": commit_rows,
    "fetch": fetch_rows,
    "recover": recover_rows,
    "compact": compact_rows,
}

NOT_YET: Final[dict[str, str]] = {
    "encode": "there is no erasure coding in this version",
    "degraded": "there is no erasure coding in this version, so nothing is read degraded",
    "repair": "there is no erasure coding in this version, so there is nothing to repair",
}
