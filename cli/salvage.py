"""`logd salvage`: segments out of chunk files alone, when there is nothing else left."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from cli.errors import DataAtRisk
from cli.options import Target, common_options, pass_target
from cli.render import Cell, counted, escape, print_json, print_table, progress
from logd.units import format_byte_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from logd.cold.chunk_search import Trouble
    from logd.cold.salvage_report import SalvagedPartition, SalvageReport

LINES_MAX: Final = 20
_STEPS: Final = 1000


class FromCommand(click.Command):
    """A command of which --from takes all words up to the next option: a shell's `nodes/*` fits."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, with `--from A B` read as `--from A --from B`."""
        spread: list[str] = []
        inside = fresh = False
        for word in args:
            if word.startswith("-") and word != "-":
                inside = fresh = word == "--from"
            elif inside and not fresh:
                spread.append("--from")
            else:
                fresh = False
            spread.append(word)
        return super().parse_args(ctx, spread)


@click.command(
    cls=FromCommand, short_help="Write what chunk files alone give as ordinary segments."
)
@click.argument("out", type=click.Path(file_okay=False))
@click.option(
    "--from",
    "sources",
    required=True,
    multiple=True,
    metavar="DIR...",
    type=click.Path(exists=True, file_okay=False, readable=False),
    help="Where chunk files are: storage nodes' directories, or any others; all below is searched.",
)
@click.option("--cluster", metavar="ID", help="Only chunks of this cluster.")
@common_options("json")
@pass_target
def salvage(target: Target, out: str, sources: tuple[str, ...], cluster: str | None) -> None:
    """Write what can be read from chunk files alone as ordinary segments into OUT.

    No server, no catalog and no identity of a node is needed. Of every range of offsets the newest
    encoding that is complete is decoded; where none is, the batches that are left are taken, and
    every gap is listed. Chunks of encodings that were replaced or deleted count too: nobody can
    tell without the catalog.

    Nothing is changed but OUT, which must be empty or absent. Its directories are read by `logd
    dump` and taken in by `logd topic adopt`. Exits with 4 if something could not be recovered.

    \b
    Example:
      logd salvage ./rescued --from /mnt/disk1 /mnt/disk2 /mnt/disk3
      logd topic adopt ./rescued/orders-0
    """
    from ec.kernels.choose import choose
    from logd.cold.salvage import salvage as run
    from logd.storage.files import Files

    with _TwoPhases() as show:
        report = run(
            Files(),
            os.path.abspath(out),
            sources,
            kernel=choose()[0],
            cluster=cluster,
            on_progress=show,
        )
    if target.json:
        print_json(_document(report))
    else:
        _print(report)
    if not report.is_complete:
        raise DataAtRisk(f"not all could be recovered; what could is in {out}")


class _TwoPhases:
    """A progress bar for each phase, one after the other."""

    def __init__(self) -> None:
        self._phase = ""
        self._bar: Any = None
        self._show: Callable[[int], None] = lambda _: None

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self._tell

    def _tell(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase:
            self._close()
            self._phase = phase
            self._bar = progress(phase, _STEPS)
            self._show = self._bar.__enter__()
        self._show(_STEPS * done // max(1, total))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def __exit__(self, *_: object) -> None:
        self._close()


# --- JSON -----------------------------------------------------------------------------------------


def _document(report: SalvageReport) -> dict[str, Any]:
    return {
        "complete": report.is_complete,
        "files": report.found.files,
        "chunks": len(report.found.chunks),
        "damaged": [_trouble(each) for each in report.found.damaged],
        "unreadable": [_trouble(each) for each in report.found.unreadable],
        "unknown": [each.name for each in report.unknown],
        "partitions": [_partition(each) for each in report.partitions],
    }


def _trouble(trouble: Trouble) -> dict[str, str]:
    return {"path": trouble.path, "reason": trouble.reason}


def _partition(made: SalvagedPartition) -> dict[str, Any]:
    return {
        "topic": made.topic,
        "topic_id": made.topic_id,
        "partition": made.partition,
        "directory": made.directory,
        "size_bytes": sum(each.size_bytes for each in made.segments),
        "segments": [
            {
                "base_offset": each.offsets.first,
                "next_offset": each.offsets.next_offset,
                "size_bytes": each.size_bytes,
                "generation": each.generation,
                "encoding": each.encoding,
                "whole": each.is_whole,
                "computed": each.is_computed,
            }
            for each in made.segments
        ],
        "missing": [
            {
                "first_offset": each.offsets.first,
                "next_offset": each.offsets.next_offset,
                "reason": each.reason,
            }
            for each in made.missing
        ],
        "left_out": made.left_out,
    }


# --- For people -----------------------------------------------------------------------------------


def _print(report: SalvageReport) -> None:
    for label, color, troubles in (
        ("damaged", "yellow", report.found.damaged),
        ("not readable", "red", report.found.unreadable),
    ):
        for each in troubles[:LINES_MAX]:
            click.secho(escape(f"{label}: {each.path}: {each.reason}"), fg=color)
        if len(troubles) > LINES_MAX:
            more = f"and {len(troubles) - LINES_MAX} places more ({label}); --json has them all"
            click.echo(more)
    if report.partitions:
        headers = ("topic", "partition", "offsets", "segments", "bytes", "missing", "directory")
        print_table(headers, [_row(each) for each in report.partitions])
    for partition in report.partitions:
        for missing in partition.missing:
            place = f"{partition.topic} partition {partition.partition}"
            offsets = f"offsets {missing.offsets.first} to {missing.offsets.next_offset - 1}"
            click.secho(escape(f"missing: {place}, {offsets}: {missing.reason}"), fg="red")
    for chunk in report.unknown:
        said = f"topic id {chunk.topic_id} partition {chunk.partition}, from {chunk.base_offset} on"
        click.secho(f"missing: {said}: of this segment no manifest can be read", fg="red")
    click.echo(
        f"{counted(len(report.found.chunks), 'chunk')} in {counted(report.found.files, 'file')}; "
        + ("all that they are of is there" if report.is_complete else "not all could be recovered")
    )


def _row(made: SalvagedPartition) -> tuple[Cell, ...]:
    size = sum(each.size_bytes for each in made.segments)
    ends = "-"
    if made.segments:
        first, last = made.segments[0].offsets.first, made.segments[-1].offsets.next_offset
        ends = f"{first}..{last - 1}"
    return (
        made.topic,
        made.partition,
        ends,
        len(made.segments),
        format_byte_count(size),
        sum(each.offsets.count for each in made.missing),
        made.directory,
    )
