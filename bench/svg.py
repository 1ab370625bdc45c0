"""Charts as SVG text, to be put into a page: a line chart, a bar with its ceiling, a strip of dots.

Colours and fonts are the page's: elements carry classes, never colours of their own, so that a page
can be light and dark. Text that comes from outside is escaped. Every mark has a `<title>`, which
browsers show under the pointer: no script is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Final

WIDTH: Final = 520
HEIGHT: Final = 250
LEFT: Final = 62
RIGHT: Final = 14
TOP: Final = 12
BOTTOM: Final = 40
_SHORT: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a chart; `low` and `high` are the ends of its whisker."""

    x: float
    y: float
    low: float
    high: float
    title: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart. Its class, `s0` to `s5` or `bare`, is the page's to colour."""

    name: str
    style: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values, on a logarithmic scale or a linear one, to places."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = True

    def at(self, value: float) -> float:
        """Return the place of a value; what is out of range lies on the edge."""
        bounded = min(max(value, self.low), self.high)
        if self.is_log:
            share = log10(bounded / self.low) / log10(self.high / self.low)
        else:
            share = (bounded - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def log_scale(values: Sequence[float], *, start: float, end: float) -> Scale:
    """Return a scale around positive values: to the next 1, 2 or 5 on both sides."""
    low, high = min(values), max(values)
    assert low > 0
    low, high = _round_down(low), _round_up(high)
    if low == high:
        low, high = low / 2, high * 2
    return Scale(low, high, start, end)


def _round_down(value: float) -> float:
    decade: float = 10.0 ** floor(log10(value))
    return max(step * decade for step in (1.0, 2.0, 5.0) if step * decade <= value * 1.0001)


def _round_up(value: float) -> float:
    decade: float = 10.0 ** floor(log10(value))
    return min(step * decade for step in (1.0, 2.0, 5.0, 10.0) if step * decade >= value * 0.9999)


def log_ticks(scale: Scale, *, most: int = 6) -> list[float]:
    """Return round values within a scale, as few as are enough."""
    decades = range(floor(log10(scale.low)), ceil(log10(scale.high)) + 1)
    found: list[float] = []
    for steps in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        values = [step * 10.0**decade for decade in decades for step in steps]
        found = [v for v in values if scale.low * 0.999 <= v <= scale.high * 1.001]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


def short(value: float) -> str:
    """Return a number as axes have it: 20k, 1.5M, 0.3; whole numbers below 10,000 as they are."""
    if 1000 <= abs(value) < 10_000 and value == int(value):
        return f"{value:,.0f}"
    for size, letter in _SHORT:
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_label: str,
    x_name: Callable[[float], str] = short,
    x_ticks: Sequence[float] | None = None,
) -> str:
    """Return a chart of lines with whiskers, both scales logarithmic.

    Args:
        label: what a screen reader says of the chart.
        x_ticks: where to write on the x axis; by default at the points, as far as there is room.
    """
    points = [point for one in series for point in one.points]
    assert points
    xs = log_scale_exact([p.x for p in points], start=LEFT, end=WIDTH - RIGHT)
    ys = log_scale([v for p in points for v in (p.low, p.high, p.y)], start=HEIGHT - BOTTOM,
                   end=TOP)  # fmt: skip
    parts = [*_grid(ys), *_x_axis(xs, x_ticks or sorted({p.x for p in points}), x_name)]
    for one in series:
        parts += _line(one, xs, ys)
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "axis", anchor="middle"))
    parts.append(
        f'<text class="axis" transform="rotate(-90)" x="{-(TOP + HEIGHT - BOTTOM) / 2:.0f}" y="13" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    return _svg(WIDTH, HEIGHT, parts, label)


def log_scale_exact(values: Sequence[float], *, start: float, end: float) -> Scale:
    """Return a logarithmic scale whose ends are the least and the greatest value."""
    low, high = min(values), max(values)
    assert low > 0
    return Scale(low, high, start, end) if low < high else Scale(low / 2, high * 2, start, end)


def _grid(ys: Scale) -> list[str]:
    parts = []
    for value in log_ticks(ys):
        y = ys.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" '
                     f'y2="{y:.1f}"/>')  # fmt: skip
        parts.append(_text(LEFT - 6, y + 4, short(value), "tick", anchor="end"))
    return parts


def _x_axis(xs: Scale, ticks: Sequence[float], name: Callable[[float], str]) -> list[str]:
    base = HEIGHT - BOTTOM
    parts = [f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>']
    taken = -1e9
    for value in ticks:
        x = xs.at(value)
        text = name(value)
        half = 3.6 * len(text)
        parts.append(f'<line class="base" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
        if x - half > taken + 6:
            shown = min(x, WIDTH - half)
            parts.append(_text(shown, base + 16, text, "tick", anchor="middle"))
            taken = x + half
    return parts


def _line(series: Series, xs: Scale, ys: Scale) -> list[str]:
    places = [(xs.at(p.x), ys.at(p.y), ys.at(p.low), ys.at(p.high), p) for p in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, *_ in places)
    parts = [f'<polyline class="line {series.style}" points="{path}"/>']
    for x, y, low, high, point in places:
        if abs(low - high) > 1:
            parts.append(f'<line class="whisker {series.style}" x1="{x:.1f}" x2="{x:.1f}" '
                         f'y1="{low:.1f}" y2="{high:.1f}"/>')  # fmt: skip
        parts.append(
            f'<circle class="dot {series.style}" cx="{x:.1f}" cy="{y:.1f}" r="3.2">'
            f"<title>{escape(point.title or f'{series.name}: {short(point.y)}')}</title></circle>"
        )
    return parts


def bar(
    value: float, spread: tuple[float, float], ceiling: float | None,
    ceiling_spread: tuple[float, float] | None, *, title: str, width: int = 140,
) -> str:  # fmt: skip
    """Return a value as a bar with a whisker, and its ceiling as a mark; both from zero."""
    height, middle = 20, 10
    most = max(value, spread[1], ceiling or 0.0, ceiling_spread[1] if ceiling_spread else 0.0)
    scale = Scale(0.0, max(most, 1e-12), 0.0, width - 2.0, is_log=False)
    parts = [
        f'<rect class="track" x="0" y="4" width="{width}" height="12" rx="2"/>',
        (
            f'<rect class="value" x="0" y="4" width="{max(1.0, scale.at(value)):.1f}" height="12" '
            'rx="2"/>'
        ),
    ]
    if ceiling is not None:
        if ceiling_spread is not None:
            low, high = scale.at(ceiling_spread[0]), scale.at(ceiling_spread[1])
            parts.append(f'<rect class="ceiling-spread" x="{low:.1f}" y="1" '
                         f'width="{max(1.0, high - low):.1f}" height="18"/>')  # fmt: skip
        at = scale.at(ceiling)
        parts.append(f'<line class="ceiling" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height}"/>')
    low, high = scale.at(spread[0]), scale.at(spread[1])
    if high - low > 1:
        parts.append(f'<path class="spread" d="M{low:.1f},{middle}H{high:.1f}M{low:.1f},7v6'
                     f'M{high:.1f},7v6"/>')  # fmt: skip
    parts.append(f"<title>{escape(title)}</title>")
    return _svg(width, height, parts, title, style="bar")


def strips(groups: Sequence[tuple[str, Sequence[tuple[float, str]]]], *, label: str) -> str:
    """Return a strip of dots for each group of (ratio, name); a line marks 1, the ceiling."""
    left, width, row = 110, 1000, 30
    height = row * len(groups) + 34
    values = [max(value, 1e-3) for _, dots in groups for value, _ in dots]
    scale = log_scale([*values, 0.5, 2.0], start=left, end=width - 16)
    parts = []
    for value in log_ticks(scale, most=12):
        x = scale.at(value)
        style = "one" if value == 1.0 else "grid"
        parts.append(f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="4" '
                     f'y2="{height - 26}"/>')  # fmt: skip
        parts.append(_text(x, height - 10, f"{value:g}", "tick", anchor="middle"))
    for index, (name, dots) in enumerate(groups):
        y = 4 + row * index + row / 2
        parts.append(_text(left - 12, y + 4, name, "name", anchor="end"))
        parts.append(f'<line class="base" x1="{left}" x2="{width - 16}" y1="{y}" y2="{y}"/>')
        parts += [
            f'<circle class="dot s0 loose" cx="{scale.at(max(value, 1e-3)):.1f}" cy="{y}" r="5">'
            f"<title>{escape(said)}: {value:.3g}</title></circle>"
            for value, said in dots
        ]
    return _svg(width, height, parts, label, style="strips")


def _text(x: float, y: float, text: str, style: str, *, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{style}" {place}>{escape(text)}</text>'


def _svg(width: int, height: int, parts: Sequence[str], label: str, *, style: str = "chart") -> str:
    return (
        f'<svg class="{style}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
