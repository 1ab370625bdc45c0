"""Which rows of a suite make a chart, and how: curves over a quantity, and latency by percentile.

A row with `curve` (what was varied) and `x` (its value) among its conditions is a point of a chart;
`chart`, where it is there, is the chart's title, and keeps rows of different kinds apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from bench.measurement import Measurement
from bench.report import figure
from bench.svg import Point, Series, line_chart, short

# Percentiles as places on an axis: how many values lie below each one that lies beyond.
_NINES: Final = {
    "50": 2.0, "75": 4.0, "90": 10.0, "95": 20.0, "99": 100.0, "99.5": 200.0, "99.9": 1e3,
    "99.95": 2e3, "99.99": 1e4, "99.999": 1e5,
}  # fmt: skip
_NAMES: Final = {
    2.0: "50 %", 10.0: "90 %", 100.0: "99 %", 1e3: "99.9 %", 1e4: "99.99 %", 1e5: "99.999 %"
}  # fmt: skip
# Each is two lines where its ceiling has latencies, too.
LINES_MAX: Final = 4
_DASHED: Final = " dashed"
_WORDS: Final = {"s": "seconds", "us": "microseconds"}
# What is said below a chart where all that is drawn has it in common.
_SHARED: Final = (
    ("windows", "{} windows"), ("flush_mode", "flush.mode {}"), ("acks", "acks {}"),
    ("batch_bytes", "{} bytes a batch"), ("connections", "connections: {}"),
    ("depth", "{} in flight each"), ("cache", "cache {}"),
)  # fmt: skip


def charts_of(rows: Sequence[Measurement]) -> Iterator[str]:
    """Return the charts of a suite's rows as one block, or nothing where there are none."""
    figures = [*_curves(rows), *_latencies(rows)]
    if figures:
        yield '<div class="charts">' + "".join(figures) + "</div>"


def _curves(rows: Sequence[Measurement]) -> Iterator[str]:
    """A chart for each quantity that rows were measured over, and each unit."""
    groups: dict[tuple[str, str, str], list[Measurement]] = {}
    for row in rows:
        if "curve" in row.conditions and row.value > 0:
            found = row.conditions
            key = (str(found.get("chart", "")), str(found["curve"]), row.unit)
            groups.setdefault(key, []).append(row)
    for (chart, x_label, unit), members in groups.items():
        if len(members) > 1:
            title = chart or f"{_WORDS.get(unit, unit)} by {x_label}"
            drawn = [_ours(members), *_ceilings(members)]
            yield _figure(
                title, drawn, members,
                line_chart(drawn, label=title, x_label=x_label, y_label=unit,
                           x_name=_bytes if "bytes" in x_label else short),
            )  # fmt: skip


def _ours(rows: Sequence[Measurement]) -> Series:
    points = []
    for row in sorted(rows, key=lambda found: float(found.conditions["x"])):
        low, high = row.conditions.get("spread", (row.value, row.value))
        points.append(
            Point(
                float(row.conditions["x"]), row.value, max(low, 1e-9), high,
                f"{row.name}: {figure(row.value)} {row.unit}",
            )
        )  # fmt: skip
    return Series("measured", "s0", tuple(points))


def _ceilings(rows: Sequence[Measurement]) -> Iterator[Series]:
    named = [row for row in rows if row.ceiling and row.ceiling > 0]
    if not named:
        return
    points = []
    for row in sorted(named, key=lambda found: float(found.conditions["x"])):
        assert row.ceiling is not None
        low, high = row.conditions.get("ceiling_spread", (row.ceiling, row.ceiling))
        said = f"{row.ceiling_name}: {figure(row.ceiling)} {row.unit}"
        points.append(Point(float(row.conditions["x"]), row.ceiling, max(low, 1e-9), high, said))
    yield Series(f"ceiling: {named[0].ceiling_name}", "bare", tuple(points))


def _latencies(rows: Sequence[Measurement]) -> Iterator[str]:
    """How slow the slow ones are, for rows that measure latency."""
    chosen = [row for row in rows if row.unit == "us" and row.conditions.get("latency_us")]
    for first in range(0, len(chosen), LINES_MAX):
        members = chosen[first : first + LINES_MAX]
        drawn = [one for index, row in enumerate(members) for one in _latency_lines(row, index)]
        ticks = [place for place in _NAMES if place <= max(p.x for s in drawn for p in s.points)]
        title = "Latency by percentile"
        yield _figure(
            title, drawn, members,
            line_chart(drawn, label=title, x_label="share of requests that took no longer",
                       y_label="us", x_name=lambda x: _NAMES.get(x, ""), x_ticks=ticks),
        )  # fmt: skip


def _latency_lines(row: Measurement, index: int) -> Iterator[Series]:
    """What the row measured and, in the same colour and dashed, what its ceiling did."""
    for key, style in (("latency_us", ""), ("ceiling_latency_us", _DASHED)):
        name = f"{row.ceiling_name}, " if style else ""
        points = tuple(
            Point(_NINES[p], us, us, us, f"{name}{p} %: {figure(us)} us")
            for p, us in row.conditions.get(key, {}).items()
            if p in _NINES and us > 0
        )
        if points:
            yield Series(row.name, f"s{index}{style}", points)


def _figure(title: str, series: Sequence[Series], rows: Sequence[Measurement], picture: str) -> str:
    names = [(one.style, one.name) for one in series if not one.style.endswith(_DASHED)]
    if len(names) < len(series):
        names.append(("bare", "dashed: the ceiling of the row of that colour"))
    legend = "".join(f'<span class="{style}"><i></i>{escape(name)}</span>' for style, name in names)
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{picture}"
        f'<div class="legend">{legend}</div><p class="shared">{escape(_shared(rows))}</p></figure>'
    )


def _shared(rows: Sequence[Measurement]) -> str:
    """Return the conditions that all rows of a chart have in common."""
    said = []
    for key, text in _SHARED:
        found = {str(row.conditions.get(key, "")) for row in rows}
        if len(found) == 1 and found != {""}:
            is_one = (key, *found) == ("batch_bytes", "0")
            said.append("one record a batch" if is_one else text.format(*found))
    return ", ".join(said)


def _bytes(value: float) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"
