"""`logd retain`: delete now what retention allows, or explain what goes, over the admin port."""

from __future__ import annotations

from typing import Any

import click

from cli.admin import post
from cli.errors import refuse_partitions
from cli.options import Target, common_options, pass_target
from cli.render import Cell, print_json, print_table, readable_time
from logd.units import format_byte_count


@click.command(short_help="Delete now what retention allows, or say what goes when.")
@click.argument("topic")
@click.option("--partition", type=click.IntRange(min=0), help="Only this one  [default: all]")
@click.option("--explain", is_flag=True, help="Delete nothing; say what goes, when, and why.")
@click.option(
    "--ignore-clock-guard",
    is_flag=True,
    help="Go by the wall clock, even where it ran ahead since the server started.",
)
@common_options("admin", "json")
@pass_target
def retain(
    target: Target, topic: str, partition: int | None, explain: bool, ignore_clock_guard: bool
) -> None:
    """Delete now what retention.ms and retention.bytes allow, segment by segment.

    The server does the same every log.retention.check.interval.ms.

    \b
    Example:
      logd retain orders --explain
    """
    answer = post(
        target.admin,
        "/v1/retain",
        {},
        topic=topic,
        partition=partition,
        explain="true" if explain else None,
        ignore_clock_guard="true" if ignore_clock_guard else None,
    )
    rows = answer["rows"]
    if target.json:
        print_json(rows)
    elif explain:
        _print_verdicts(rows)
    else:
        _print_removed(rows)
    if answer["held_back"]:
        click.echo(f"held back: {answer['held_back']}; see --ignore-clock-guard", err=True)
    refuse_partitions(
        ((row["topic"], row["partition"], row["reason"]) for row in answer["failed"]),
        as_json=target.json,
    )


def _print_verdicts(rows: list[dict[str, Any]]) -> None:
    headers = ("partition", "base offset", "size", "action", "rule", "due")
    print_table(headers, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> tuple[Cell, ...]:
    return (
        row["partition"],
        row["base_offset"],
        format_byte_count(row["size_bytes"]),
        row["action"],
        row["rule"] or "-",
        readable_time(row["due_ms"]),
    )


def _print_removed(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        count = row["deleted_segments"]
        click.echo(
            f"{row['topic']} partition {row['partition']}: {count} "
            f"segment{'' if count == 1 else 's'} deleted, "
            f"{format_byte_count(row['deleted_bytes'])}; it begins at offset "
            f"{row['log_start_offset']}"
        )
