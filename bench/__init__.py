"""logd bench: how fast the server is, as a ratio to what this machine gives to anyone.

    rows = bench.run("append", directory="/var/tmp", seconds=1.0)

The package drives a running server from outside, over its ports. It shares no code with it:
requests are built by hand (`bench.protocol`), clients run in processes of their own
(`bench.child`), and each row is measured in turn with a bare loop that does the least that any
server must (`bench.ceilings`, `bench.bare_disk`). README.md says how to read the table.
"""

from __future__ import annotations

from bench.api import NAMES, NotAvailableError, run
from bench.measurement import Comparison, Measurement, compare, read_json, write_json
from bench.process import BenchError
from bench.protocol import AnswerError
from bench.report import print_table, write_report
from bench.runner import Options

__all__ = [
    "NAMES",
    "AnswerError",
    "BenchError",
    "Comparison",
    "Measurement",
    "NotAvailableError",
    "Options",
    "compare",
    "print_table",
    "read_json",
    "run",
    "write_json",
    "write_report",
]
