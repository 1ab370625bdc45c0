"""`logd bench`: the measurements of the package `bench`, as a command."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from cli.errors import Refused
from cli.options import Target, common_options, pass_target
from cli.render import print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench import Measurement, Results

NAMES: Final = (
    "disk",
    "append",
    "commits",
    "fetch",
    "encode",
    "node",
    "degraded",
    "repair",
    "compact",
    "recover",
    "all",
)


@click.command()
@click.argument("name", type=click.Choice(NAMES))
@click.option(
    "--dir",
    "directory",
    # One that is made for a mistyped mount point would be on another disk.
    type=click.Path(exists=True, file_okay=False),
    help="On the disk to be measured, not a server's own directory  [default: here]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.05),
    default=0.5,
    show_default=True,
    help="Length of one window; each figure is the median of several.",
)
@click.option(
    "--curves",
    is_flag=True,
    help="Also how figures scale: record and batch size, partitions, connections, requests in "
    "flight, k+m, segments kept. Takes some minutes more.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False), metavar="FILE", help="Write the figures as JSON."
)
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Compare with the figures in FILE; a change is called real only beyond the noise.",
)
@click.option(
    "--report",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write a page with charts (index.html) and the JSON into DIR, after each part of the run.",
)
@common_options("json")
@pass_target
def bench(
    target: Target,
    name: str,
    directory: str | None,
    seconds: float,
    curves: bool,
    out: str | None,
    against: str | None,
    report: str | None,
) -> None:
    """Measure this machine, and the server on it.

    Every figure stands beside a ceiling measured in the same run: the ratio is what counts.

    \b
    Example:
      logd bench disk --dir /mnt/new-disk
      logd bench all --dir /var/tmp --report out --against yesterday/measurements.json
    """
    import bench as benchmarks

    before = _read(against)

    def write(results: Results) -> None:
        if report is not None:
            changes = benchmarks.compare(results.rows, before)
            benchmarks.write_report(results, report, comparisons=changes)

    results = _measure(name, directory, seconds=seconds, curves=curves, after_suite=write)
    rows = results.rows
    if target.json:
        print_json([asdict(row) for row in rows])
    else:
        changes = benchmarks.compare(rows, before)
        benchmarks.print_table(rows, comparisons=changes, skipped=results.skipped)
    if out is not None:
        benchmarks.write_json(rows, out)
    if results.failed:
        raise Refused("; ".join(f"{suite}: {text}" for suite, text in results.failed.items()))


def _read(against: str | None) -> list[Measurement]:
    """Return the figures to compare with; they are read before the work."""
    import bench as benchmarks

    try:
        return benchmarks.read_json(against) if against is not None else []
    except ValueError as error:
        raise Refused(str(error)) from error


def _measure(
    name: str,
    directory: str | None,
    *,
    seconds: float,
    curves: bool,
    after_suite: Callable[[Results], None],
) -> Results:
    import bench as benchmarks

    options = benchmarks.Options(seconds=seconds, curves=curves, progress=_progress())
    try:
        return benchmarks.measure(
            name, directory=directory, options=options, after_suite=after_suite
        )
    except (
        benchmarks.BenchError,
        benchmarks.AnswerError,
        benchmarks.NotAvailableError,
        ValueError,
    ) as error:
        raise Refused(str(error)) from error
    finally:
        if sys.stderr.isatty():
            click.echo("\r\033[K", err=True, nl=False)


def _progress() -> Callable[[str], None]:
    """Return what says what is measured and since when: on a terminal, in one line that changes."""
    begin = time.monotonic()

    def say(text: str) -> None:
        if sys.stderr.isatty():
            minutes, seconds = divmod(int(time.monotonic() - begin), 60)
            click.echo(f"\r\033[K{minutes}:{seconds:02} {text}"[:120], err=True, nl=False)

    return say
