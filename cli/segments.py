"""`logd segments`: a topic's segments, over the admin port."""

from __future__ import annotations

from typing import Any

import click

from cli.admin import get
from cli.options import Target, common_options, pass_target
from cli.render import Cell, print_json, print_table, readable_time
from logd.units import format_byte_count


@click.command()
@click.argument("topic")
@click.option("--partition", type=click.IntRange(min=0), help="Only this one  [default: all]")
@common_options("admin", "json")
@pass_target
def segments(target: Target, topic: str, partition: int | None) -> None:
    """List a topic's segments: offsets, size, state and times.

    \b
    Example:
      logd segments orders --partition 0
    """
    rows = get(target.admin, "/v1/segments", topic=topic, partition=partition)
    if target.json:
        print_json(rows)
        return
    headers = ("partition", "base offset", "next offset", "size", "state", "hot", "first", "last")
    print_table(headers, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> tuple[Cell, ...]:
    return (
        row["partition"],
        row["base_offset"],
        row["next_offset"],
        format_byte_count(row["size_bytes"]),
        row["state"],
        "yes" if row["hot"] else "no",
        readable_time(row["first_timestamp_ms"]),
        readable_time(row["last_timestamp_ms"]),
    )
