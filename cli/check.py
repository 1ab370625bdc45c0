"""`logd check`: a stopped server's data directory, every file and every checksum."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cli.errors import EXIT_DATA_AT_RISK
from cli.options import Target, common_options, pass_target
from cli.render import escape, print_json, progress
from logd.units import format_byte_count

if TYPE_CHECKING:
    from logd.storage.check_report import CheckReport, Finding


@click.command(short_help="Verify every file of a stopped server's data directory.")
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@common_options("json")
@pass_target
def check(target: Target, directory: str) -> None:
    """Verify a stopped server's data directory: every file, every checksum.

    Nothing is changed. Exits with 4 if anything is damaged. After a stop that was not clean, a torn
    end of a log is a note, not damage: the next start cuts it off.

    \b
    Example:
      logd check ./logd-data
    """
    from logd.storage.check import check_directory, log_bytes
    from logd.storage.files import Files

    files = Files()
    done = 0
    with (
        tempfile.TemporaryDirectory(prefix="logd-check-") as scratch,
        progress("checking", log_bytes(files, directory)) as show,
    ):

        def advance(size: int) -> None:
            nonlocal done
            done += size
            show(done)

        report = check_directory(files, directory, scratch=scratch, on_progress=advance)
    if target.json:
        print_json(_document(report))
    else:
        _print(report)
    if report.is_damaged:
        raise click.exceptions.Exit(EXIT_DATA_AT_RISK)


def _document(report: CheckReport) -> dict[str, Any]:
    return {
        "directory": report.directory,
        "clean_stop": report.clean_stop,
        "topics": report.topics,
        "partitions": report.partitions,
        "files": report.files,
        "size_bytes": report.bytes,
        "batches": report.batches,
        "records": report.records,
        "damage": [asdict(finding) for finding in report.damage],
        "notes": [asdict(finding) for finding in report.notes],
        "findings_not_listed": report.not_listed,
    }


def _print(report: CheckReport) -> None:
    for finding in (*report.notes, *report.damage):
        color = "red" if finding.severity == "damage" else "yellow"
        click.secho(escape(f"{finding.severity}: {_place(finding)}: {finding.reason}"), fg=color)
    if report.not_listed:
        click.echo(f"and {report.not_listed} findings more")
    click.echo(
        f"{report.files} files, {format_byte_count(report.bytes)}: {report.topics} topics, "
        f"{report.partitions} partitions, {report.batches} batches, {report.records} records"
    )
    count = len(report.damage)
    click.echo(f"{count} damaged places" if count else "no damage")


def _place(finding: Finding) -> str:
    at = "" if finding.position is None else f" at position {finding.position}"
    offsets = ""
    if finding.first_offset is not None and finding.next_offset is not None:
        offsets = f", offsets {finding.first_offset} to {finding.next_offset - 1}"
    return f"{finding.path}{at}{offsets}"
