"""Figures of other days, on a machine of the same kind: two shared cores, page cache primed.

`sketch` is what a throw-away server of 450 lines reached, without idempotence, metrics, rolls and
verified ranges; the server is to stay within 20 % of it. `kafka` is Apache Kafka 4.3.1's figure on
the same machine. They are printed beside a row as a yardstick; the row's own ratio is to a ceiling
that was measured in the same run, and only that compares across machines.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from bench.measurement import Measurement, less_is_better


class Mark(NamedTuple):
    """What the sketch and Kafka reached in a row, in the row's unit; None where nobody measured."""

    sketch: float | None
    kafka: float | None


MARKS: Final[dict[str, Mark]] = {
    "append one record, 1 connection, depth 1": Mark(14_500, 9_090),
    "append one record, 1 connection, depth 10": Mark(102_000, 12_160),
    "append one record, 1 connection, depth 100": Mark(285_000, 12_110),
    "append one record, 50 connections": Mark(92_000, 55_600),
    "append 64 KiB, 1 connection": Mark(1_450, 354),
    "append 64 KiB, 4 connections": Mark(1_180, 657),
    "append 1 MiB, 1 connection": Mark(1_900, 738),
    "append 1 MiB, 4 connections": Mark(1_400, 1_060),
    "durable one record, 1 connection, depth 1": Mark(3_550, 3_110),
    "durable one record, 1 connection, depth 100": Mark(166_000, 3_250),
    "durable one record, 50 connections": Mark(49_000, 3_900),
    "durable 64 KiB, 1 connection": Mark(419, 117),
    "durable 1 MiB, 1 connection": Mark(1_090, 475),
    "fetch 1 MiB, 1 connection": Mark(3_400, 2_590),
    "fetch 10 MiB, 1 connection": Mark(3_800, 3_100),
    "fetch 1 MiB, 4 connections": Mark(3_400, 4_710),
    "fetch 10 MiB, 4 connections": Mark(3_500, 4_710),
    "end to end, page cache, 500/s": Mark(130, 270),
    "end to end, page cache, 5000/s": Mark(120, 330),
    "end to end, durable, 500/s": Mark(365, None),
    "end to end, durable, 5000/s": Mark(640, None),
    "start, empty directory": Mark(0.2, 2.5),
    "memory after start": Mark(34, 404),
    "memory of an idle connection": Mark(550, 9_400),
}


def with_marks(row: Measurement) -> Measurement:
    """Return the row with its marks among the conditions; rows in another flush mode share them."""
    mark = MARKS.get(row.name.removesuffix(" (os)"))
    if mark is None:
        return row
    conditions = dict(row.conditions)
    for name, value in zip(mark._fields, mark, strict=True):
        if value is not None and row.value > 0:
            conditions[f"{name}_mark"] = value
            ratio = value / row.value if less_is_better(row.unit) else row.value / value
            conditions[f"of_{name}"] = round(ratio, 3)
    return replace(row, conditions=conditions)
