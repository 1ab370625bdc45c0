"""The one call of the package: run a benchmark by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.measurement import Measurement
from bench.runner import Options, open_run
from bench.suites import NOT_YET, SUITES

ALL: Final = "all"
NAMES: Final[tuple[str, ...]] = (*SUITES, *NOT_YET, ALL)


class NotAvailableError(Exception):
    """The benchmark exists by name, but not what it would measure. The text says why."""


def run(
    name: str,
    *,
    directory: Path | str | None = None,
    seconds: float | None = None,
    progress: Callable[[str], None] | None = None,
    options: Options | None = None,
) -> list[Measurement]:
    """Run one benchmark, or all that there are; return its rows.

    Args:
        directory: on the disk to be measured; a directory of the run's own is made in it and
        removed
            at the end. Default: the current directory.
        seconds: length of one window; a row has `options.repetitions` windows of each side.
        progress: is called with the name of each row before it is measured.

    Raises:
        ValueError: no benchmark has this name.
        NotAvailableError: this version of the server has nothing that it could measure.
        BenchError, AnswerError: the server did not start, died, or answered with an error.
    """
    if name not in NAMES:
        raise ValueError(f"no benchmark {name!r}; there are {', '.join(NAMES)}")
    if name in NOT_YET:
        raise NotAvailableError(f"bench {name} is not available in this version: {NOT_YET[name]}")
    chosen = options or Options()
    if seconds is not None:
        chosen = replace(chosen, seconds=seconds)
    if progress is not None:
        chosen = replace(chosen, progress=progress)
    rows: list[Measurement] = []
    with open_run(directory, chosen) as opened:
        for suite in SUITES if name == ALL else [name]:
            rows += SUITES[suite](opened)
    return rows
