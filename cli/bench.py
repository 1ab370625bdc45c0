"""`logd bench`: the measurements of the package `bench`, as a command."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from cli.errors import Refused
from cli.options import Target, common_options, pass_target
from cli.render import print_json

if TYPE_CHECKING:
    from bench import Measurement

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
    type=click.Path(file_okay=False),
    help="On the disk to be measured  [default: here]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="Length of one window; each figure is the median of several.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False), metavar="FILE", help="Write the figures as JSON."
)
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Compare with the figures in FILE.",
)
@click.option(
    "--report", type=click.Path(file_okay=False), metavar="DIR", help="Write a report into DIR."
)
@common_options("json")
@pass_target
def bench(
    target: Target,
    name: str,
    directory: str | None,
    seconds: float,
    out: str | None,
    against: str | None,
    report: str | None,
) -> None:
    """Measure this machine, and the server on it.

    Every figure stands beside a ceiling measured in the same run: the ratio is what counts.

    \b
    Example:
      logd bench append --dir /srv/logd --out today.json --against yesterday.json
    """
    rows, before = _measure(name, directory, seconds, against)
    import bench as benchmarks

    if target.json:
        print_json([asdict(row) for row in rows])
    else:
        benchmarks.print_table(rows, comparisons=benchmarks.compare(rows, before))
    if out is not None:
        benchmarks.write_json(rows, out)
    if report is not None:
        benchmarks.write_report(rows, report)


def _measure(
    name: str, directory: str | None, seconds: float, against: str | None
) -> tuple[list[Measurement], list[Measurement]]:
    """Return the new rows, and those to compare with; the latter are read before the work."""
    import bench as benchmarks

    try:
        before = benchmarks.read_json(against) if against is not None else []
        rows = benchmarks.run(name, directory=directory, seconds=seconds, progress=_say)
    except (
        benchmarks.BenchError,
        benchmarks.AnswerError,
        benchmarks.NotAvailableError,
        ValueError,
    ) as error:
        raise Refused(str(error)) from error
    return rows, before


def _say(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"measuring {text}", err=True)
