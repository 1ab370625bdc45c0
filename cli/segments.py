"""`logd segments`: a topic's segments, over the admin port."""

from __future__ import annotations

from typing import Any, Final

import click

from cli.admin import get
from cli.options import Target, common_options, pass_target
from cli.render import Cell, print_json, print_table, readable_time
from logd.units import format_byte_count

_HEADERS: Final = (
    "partition",
    "base offset",
    "next offset",
    "size",
    "state",
    "hot",
    "first",
    "last",
)
_CODED_HEADERS: Final = ("gen", "code", "margin", "chunks")


@click.command()
@click.argument("topic")
@click.option("--partition", type=click.IntRange(min=0), help="Only this one  [default: all]")
@common_options("admin", "json")
@pass_target
def segments(target: Target, topic: str, partition: int | None) -> None:
    """List a topic's segments: offsets, size, state and times.

    Of coded ones also generation, profile, margin, and the node of each chunk in the order of the
    chunks, with its state where that is not live; --json has the bytes as well.

    \b
    Example:
      logd segments orders --partition 0
    """
    rows = get(target.admin, "/v1/segments", topic=topic, partition=partition)
    if target.json:
        print_json(rows)
        return
    if any(map(_is_coded, rows)):
        print_table(_HEADERS + _CODED_HEADERS, [_cells(row) + _coded_cells(row) for row in rows])
    else:
        print_table(_HEADERS, [_cells(row) for row in rows])


def _is_coded(row: dict[str, Any]) -> bool:
    return row["generation"] is not None


def _coded_cells(row: dict[str, Any]) -> tuple[Cell, ...]:
    if not _is_coded(row):
        return ("-",) * len(_CODED_HEADERS)
    chunks = sorted(row["chunks"], key=lambda chunk: chunk["index"])
    return (
        row["generation"],
        f"{row['k']}+{row['m']}",
        "-" if row["margin"] is None else row["margin"],
        " ".join(_chunk(chunk) for chunk in chunks),
    )


def _chunk(chunk: dict[str, Any]) -> str:
    """Return where a chunk is, and its state unless nothing is known against it."""
    node = chunk["node"] or "-"
    return node if chunk["state"] == "live" else f"{node}({chunk['state']})"


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
