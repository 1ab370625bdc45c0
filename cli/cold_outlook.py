"""`logd cold durability` and `simulate`: how safe coded segments are, over the admin port."""

from __future__ import annotations

from typing import Any

import click

from cli.admin import get
from cli.errors import DataAtRisk
from cli.options import Target, common_options, pass_target
from cli.render import escape, print_json, print_table
from logd.units import format_byte_count


@click.command(short_help="Show the margins, and what a model says of the profiles in use.")
@click.option(
    "--afr",
    type=click.FloatRange(min=0, min_open=True),
    help="Failures of a node a year  [default: 0.02]",
)
@click.option(
    "--repair-hours",
    type=click.FloatRange(min=0, min_open=True),
    help="How long a loss stays  [default: as measured]",
)
@common_options("admin", "json")
@pass_target
def durability(target: Target, afr: float | None, repair_hours: float | None) -> None:
    """Show the margins there are, and what a model says of the profiles in use.

    The model's figures hold under its assumptions, which are printed; real failures are not
    independent, and that costs most of the nines.

    \b
    Example:
      logd cold durability --afr 0.05 --repair-hours 24
    """
    query = {
        "afr": None if afr is None else str(afr),
        "repair_hours": None if repair_hours is None else str(repair_hours),
    }
    document = get(target.admin, "/v1/durability", **query)
    if target.json:
        print_json(document)
        return
    _print_margins(document)
    rows = [
        (
            each["profile"],
            each["segments"],
            f"{each['stored_ratio']:.2f}",
            f"{each['repair_s'] / 3600:.2f} h",
            f"{each['nines']:.1f}",
            f"{each['nines_all']:.1f}",
            f"{each['nines_windows']:.1f}",
        )
        for each in document["profiles"]
    ]
    if rows:
        print_table(
            ("profile", "segments", "stored/source", "a loss stays", "nines a segment",
             "nines for all", "counted in windows"),
            rows,
        )  # fmt: skip
    click.echo("Assumed:")
    for text in document["assumptions"]:
        click.echo(escape(f"  {text}"))


def _print_margins(document: dict[str, Any]) -> None:
    counts = document["segments_by_margin"]
    told = [
        f"{count} lost" if name == "lost" else f"{count} survive {name}"
        for name, count in counts.items()
        if count
    ]
    words = f"{', '.join(told)} more losses of nodes" if told else "there are no coded segments"
    click.echo(f"Measured: {words}")
    if document["uncertain"]:
        click.echo(f"  {document['uncertain']} of them rest on chunks that nobody can see now")


@click.command(short_help="Say what would be lost or degraded if nodes failed now.")
@click.option("--fail", "fail", required=True, metavar="NODE,NODE", help="The nodes that fail.")
@common_options("admin", "json")
@pass_target
def simulate(target: Target, fail: str) -> None:
    """Say what would be lost, degraded, and how long repair would take, if nodes failed now.

    Nothing is changed. Exits with 4 if a segment would be lost.

    \b
    Example:
      logd cold simulate --fail n3,n7
    """
    document = get(target.admin, "/v1/simulate", fail=fail)
    if target.json:
        print_json(document)
    else:
        click.echo(escape(document["summary"]))
        for each in document["lost"]:
            size = format_byte_count(each["bytes"])
            name = f"{each['topic']}-{each['partition']}"
            click.echo(escape(f"lost: {name} at offset {each['base_offset']}, {size}"))
    if document["lost_count"]:
        raise DataAtRisk(f"{document['lost_count']} segments would be lost")
