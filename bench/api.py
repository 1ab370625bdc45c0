"""The one call of the package: run a benchmark by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.measurement import Measurement
from bench.place import require_free
from bench.process import BenchError
from bench.protocol import AnswerError
from bench.runner import Options, Run, open_run
from bench.suites import NOT_YET, SUITES, space_of

ALL: Final = "all"
NAMES: Final[tuple[str, ...]] = (*SUITES, *NOT_YET, ALL)


class NotAvailableError(Exception):
    """The benchmark exists by name, but not what it would measure. The text says why."""


@dataclass(slots=True)
class Results:
    """What a run has found so far.

    Attributes:
        suites: the rows of each suite that was run, in order.
        skipped: what could not be measured here, and why.
        failed: suites that met an error, and which; the others of `all` are run all the same.
        waiting: suites that are still to come.
    """

    name: str
    started: str
    options: dict[str, Any]
    suites: dict[str, list[Measurement]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rows(self) -> list[Measurement]:
        """All rows, in order."""
        return [row for rows in self.suites.values() for row in rows]


def run(
    name: str,
    *,
    directory: Path | str | None = None,
    seconds: float | None = None,
    progress: Callable[[str], None] | None = None,
    options: Options | None = None,
) -> list[Measurement]:
    """Run one benchmark, or all that there are; return its rows. Arguments as for `measure`."""
    chosen = options or Options()
    if seconds is not None:
        chosen = replace(chosen, seconds=seconds)
    if progress is not None:
        chosen = replace(chosen, progress=progress)
    return measure(name, directory=directory, options=chosen).rows


def measure(
    name: str,
    *,
    directory: Path | str | None = None,
    options: Options | None = None,
    after_suite: Callable[[Results], None] | None = None,
) -> Results:
    """Run one benchmark, or all that there are.

    Args:
        directory: on the disk to be measured; a directory of the run's own is made in it, and
            removed at the end. Default: the current directory.
        options: how much; `progress` is called with what is measured, before it is.
        after_suite: is called with what is there after each suite.

    Raises:
        ValueError: no benchmark has this name.
        NotAvailableError: this version of the server has nothing that it could measure.
        BenchError, AnswerError: the directory is refused; or, of a benchmark that was asked for
            by its name, the server did not start, died, or answered with an error.
    """
    if name not in NAMES:
        raise ValueError(f"no benchmark {name!r}; there are {', '.join(NAMES)}")
    if name in NOT_YET:
        raise NotAvailableError(f"bench {name} is not available in this version: {NOT_YET[name]}")
    chosen = options or Options()
    begin = time.monotonic()
    results = Results(name, f"{datetime.now(UTC):%Y-%m-%d %H:%M}", _said(chosen))
    results.waiting = list(SUITES) if name == ALL else [name]
    results.skipped = dict(NOT_YET) if name == ALL else {}
    with open_run(directory, chosen) as opened:
        for suite in list(results.waiting):
            with _failing_alone(results, suite, alone=name != ALL):
                _measure_suite(opened, suite, results)
            results.waiting.remove(suite)
            results.seconds = time.monotonic() - begin
            if after_suite is not None:
                after_suite(results)
    return results


def _measure_suite(opened: Run, suite: str, results: Results) -> None:
    require_free(opened.directory, space_of(suite, opened.options))
    number = len(results.suites) + len(results.failed) + 1
    total = number - 1 + len(results.waiting)
    place = f"{suite}, " if total == 1 else f"{suite} ({number} of {total}), "
    outer = opened.options
    opened.options = replace(outer, progress=lambda text: outer.progress(place + text))
    try:
        results.suites[suite] = SUITES[suite](opened)
    finally:
        opened.options = outer
        results.skipped.update(opened.skipped)


@contextmanager
def _failing_alone(results: Results, suite: str, *, alone: bool) -> Iterator[None]:
    """A suite that was asked for by name fails the run; of all, one fails by itself."""
    try:
        yield
    except (BenchError, AnswerError, OSError) as error:
        if alone:
            raise
        results.failed[suite] = str(error)


def _said(options: Options) -> dict[str, Any]:
    return {
        "seconds": options.seconds,
        "pairs": options.repetitions,
        "curves": options.curves,
        "primed_bytes": options.prime_bytes,
        "fill_bytes": options.fill_bytes,
    }
