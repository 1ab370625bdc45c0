"""How a row comes about: the sides take turns, window by window, and neighbours are compared.

A `Side` is one server in one configuration. Several sides can share a turn (ours twice, theirs
twice): every pair of them is a row, and all pairs come from the same minutes. Before each window
what earlier ones left dirty is synced away, and before those that write a lot the page cache is
primed: neither side pays for the other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.measurement import CLIENT_BOUND_CORES, Measurement, Window, summarize
from bench.process import BenchError
from bench.protocol import AnswerError
from bench.runner import Run


@dataclass(frozen=True, slots=True)
class Side:
    """One server in one configuration."""

    name: str
    window: Callable[[], Window]


@dataclass(frozen=True, slots=True)
class Row:
    """Our figure and theirs. A ratio above 1 is in our favour, whichever way the unit counts."""

    peer: str
    section: str
    name: str
    unit: str
    ratio: float | None
    ours: Measurement
    theirs: Measurement


@dataclass(slots=True)
class Session:
    """All that one run of the comparison collects.

    only: measure the rows whose names contain one of these; empty for all.
    deadline: no row begins after it (`time.monotonic`).
    warm_seconds: how long a side is loaded at most, before anything is measured, until it is warm.
    notes: what a reader of the figures should know of the run.
    """

    run: Run
    warm_seconds: float = 60.0
    only: tuple[str, ...] = ()
    deadline: float | None = None
    rows: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def wants(self, name: str) -> bool:
        """Return whether a row of this name is to be measured."""
        return not self.only or any(word in name for word in self.only)

    def attempt(self, name: str, measure: Callable[[], Sequence[Row]]) -> None:
        """Measure rows unless they are not wanted or time is up; an error fails them alone."""
        if not self.wants(name):
            return
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.left_out.append(name)
            return
        self.guard(name, lambda: self.rows.extend(measure()))

    def guard(self, name: str, work: Callable[[], None]) -> None:
        """Do a part of the run; note it as failed if it meets an error, and go on."""
        self.run.options.progress(name)
        try:
            work()
        except (BenchError, AnswerError, OSError) as error:
            self.failed[name] = str(error)
            self.run.options.progress(f"FAILED: {name}: {error}")


def take_turns(
    run: Run, sides: Sequence[Side], *, prime: bool = False, repetitions: int | None = None
) -> dict[str, list[Window]]:
    """Return the windows of each side, one a turn."""
    windows: dict[str, list[Window]] = {side.name: [] for side in sides}
    for _ in range(repetitions or run.options.repetitions):
        for side in sides:
            os.sync()
            if prime:
                run.prime()
            windows[side.name].append(side.window())
    return windows


def compare(
    peer: str, section: str, name: str, unit: str, ours: Sequence[Window],
    theirs: Sequence[Window], conditions: Mapping[str, Any] | None = None,
) -> Row:  # fmt: skip
    """Return the row of two sides whose windows took turns."""
    left = summarize(name, unit, ours, ceilings=theirs, conditions=conditions)
    right = summarize(name, unit, theirs, conditions=conditions)
    # The other side's figure stands in its own measurement: here it would be called a ceiling.
    alone = replace(left, ceiling=None, ceiling_name=None, ratio=None)
    return Row(peer, section, name, unit, left.ratio, alone, right)


# --- Figures that follow from windows -----------------------------------------------------------


def as_cpu_per_gb(window: Window) -> Window:
    """CPU seconds of the server for each 10^9 bytes."""
    assert window.server_cpu_s is not None
    return replace(window, value=window.server_cpu_s / max(1, window.bytes) * 1e9)


def as_cpu_per_request(window: Window) -> Window:
    """CPU microseconds of the server for each request."""
    assert window.server_cpu_s is not None
    return replace(window, value=window.server_cpu_s / max(1, window.requests) * 1e6)


def client_is_bound(measured: Measurement) -> bool:
    """Return whether the client had no time left: the figure is then the client's."""
    return float(measured.conditions.get("client_cores", 0.0)) >= CLIENT_BOUND_CORES
