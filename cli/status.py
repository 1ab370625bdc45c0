"""`logd status`: how the server is, over the admin port; exit 4 while data is at risk."""

from __future__ import annotations

from typing import Any, Final

import click

from cli.admin import get
from cli.errors import EXIT_DATA_AT_RISK
from cli.options import Target, common_options, pass_target
from cli.render import escape, print_json
from logd.units import format_byte_count, format_duration_ms

_AT_RISK: Final = "damage"


@click.command()
@common_options("admin", "json")
@pass_target
def status(target: Target) -> None:
    """Show how the server is, and what is wrong.

    Exits with 4 while data is damaged, lost or below its target of redundancy; warnings leave 0.

    \b
    Example:
      logd status --json
    """
    document = get(target.admin, "/v1/status")
    if target.json:
        print_json(document)
    else:
        _print(document)
    if at_risk(document):
        raise click.exceptions.Exit(EXIT_DATA_AT_RISK)


def at_risk(document: dict[str, Any]) -> bool:
    """Return whether the status says that data is at risk, damaged or lost."""
    lost = (document.get("segments_by_margin") or {}).get("lost", 0)
    return bool(lost) or any(p.get("severity") == _AT_RISK for p in document.get("problems", ()))


def _print(document: dict[str, Any]) -> None:
    uptime = format_duration_ms(int(document["uptime_s"]) * 1000)
    click.echo(f"logd {document['version']}, up {uptime}")
    _print_margins(document)
    click.echo(f"{document['topics']} topics, {document['partitions']} partitions")
    click.echo(f"hot   {format_byte_count(document['hot_bytes'])}")
    if document.get("cold_source_bytes"):
        stored = format_byte_count(document["cold_stored_bytes"])
        click.echo(f"cold  {format_byte_count(document['cold_source_bytes'])} stored as {stored}")
    nodes = document.get("nodes") or {}
    if nodes.get("total"):
        click.echo(f"nodes {nodes['live']} live of {nodes['total']}")
    if document.get("kernel"):
        click.echo(f"coded by {document['kernel']}")
    problems = document.get("problems") or []
    more = document.get("problem_count", len(problems)) - len(problems)
    if not problems:
        click.echo("no problems")
    for problem in problems:
        risky = problem.get("severity") == _AT_RISK
        line = f"{problem.get('severity', 'problem')}: {problem.get('message', problem)}"
        click.secho(escape(line), fg="red" if risky else "yellow")

    if more > 0:
        click.echo(f"and {more} problems more")


def _print_margins(document: dict[str, Any]) -> None:
    """Say how near to loss coded segments are, where there are any."""
    margins = document.get("segments_by_margin") or {}
    if not any(margins.values()):
        return
    counts = ", ".join(f"{count} at {margin}" for margin, count in margins.items() if count)
    counts = counts.replace(" at lost", " lost")
    line = f"coded segments by margin: {counts}"
    unknown = document.get("chunks_unknown", 0)
    if unknown:
        line += f"; {unknown} chunks of which nothing is known now count as there"
    click.echo(line)
