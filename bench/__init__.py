"""logd bench: how fast the server is, as a ratio to what this machine gives to anyone.

    rows = bench.run("append", directory="/var/tmp", seconds=1.0)

The package drives a running server from outside, over its ports. It shares no code with it:
requests are built by hand (`bench.protocol`), clients run in processes of their own
(`bench.child`), and each row is measured in turn with a bare loop that does the least that any
server must (`bench.ceilings`, `bench.bare_disk`). README.md says how to read the table.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import NAMES, NotAvailableError, Results, measure, run
    from bench.comparison import Comparison, compare
    from bench.html_page import write_report
    from bench.measurement import Measurement, read_json, write_json
    from bench.process import BenchError
    from bench.protocol import AnswerError
    from bench.report import print_table
    from bench.runner import Options

_HOMES = {
    "bench.api": ("NAMES", "NotAvailableError", "Results", "measure", "run"),
    "bench.comparison": ("Comparison", "compare"),
    "bench.html_page": ("write_report",),
    "bench.measurement": ("Measurement", "read_json", "write_json"),
    "bench.process": ("BenchError",),
    "bench.protocol": ("AnswerError",),
    "bench.report": ("print_table",),
    "bench.runner": ("Options",),
}

__all__ = [
    "NAMES",
    "AnswerError",
    "BenchError",
    "Comparison",
    "Measurement",
    "NotAvailableError",
    "Options",
    "Results",
    "compare",
    "measure",
    "print_table",
    "read_json",
    "run",
    "write_json",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for.

    Every window is a process that imports this package: it must not pay for all suites.
    """
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
