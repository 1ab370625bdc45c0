"""How measurements are shown in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from bench.comparison import CHANCE_MAX, CHANGE_MIN, Comparison
from bench.measurement import Measurement

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS: Final = (
    "row", "median", "spread", "ceiling", "ratio", "p50 us", "p99 us", "server CPU", "client CPU",
    "user + system s/GiB", "the ceiling's", "of sketch", "of Kafka",
)  # fmt: skip
# Columns that are left out where no row has anything in them.
_RARE: Final = ("user + system s/GiB", "the ceiling's", "of sketch", "of Kafka")
CLIENT_MARK: Final = " *"
CLIENT_NOTE: Final = (
    "* the client is the bottleneck: it used a whole core. The figure is the client's, and the "
    "server may do better."
)
RULE: Final = (
    "A change is called better or worse only when no pair of windows of one run reaches any pair "
    f"of the other (by chance in at most {CHANCE_MAX:.0%} of rows, with five pairs each in 0.8 %) "
    f"and the medians differ by {CHANGE_MIN:.0%}; all else is noise, or unknown where there are "
    "too few pairs to tell."
)


def cells(row: Measurement) -> list[str]:
    """Return a row as text, one string for each of COLUMNS."""
    conditions = row.conditions
    bound = CLIENT_MARK if conditions.get("bottleneck") == "client" else ""
    return [
        row.name,
        f"{figure(row.value)} {row.unit}{bound}",
        range_of(conditions.get("spread")),
        figure(row.ceiling),
        figure(row.ratio),
        figure(row.p50_us),
        figure(row.p99_us),
        cpu_of(conditions, "server"),
        cpu_of(conditions, "client"),
        both_of(conditions.get("cpu_s_per_gib")),
        both_of(conditions.get("ceiling_cpu_s_per_gib")),
        figure(conditions.get("of_sketch")),
        figure(conditions.get("of_kafka")),
    ]


def figure(value: float | None) -> str:
    """Return a number with three digits that mean something, or nothing."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def range_of(spread: Sequence[float] | None) -> str:
    """Return the least and the greatest window; nothing where there is one window."""
    if spread is None or spread[0] == spread[1]:
        return ""
    return f"{figure(spread[0])} to {figure(spread[1])}"


def cpu_of(conditions: dict[str, Any], side: str) -> str:
    """Return CPU per GB where gigabytes flowed, per request elsewhere."""
    per_gb = conditions.get(f"{side}_cpu_s_per_gb")
    if per_gb is not None:
        return f"{figure(per_gb)} s/GB"
    per_request = conditions.get(f"{side}_cpu_us_per_request")
    return "" if per_request is None else f"{figure(per_request)} us"


def both_of(seconds: dict[str, float] | None) -> str:
    """Return the CPU seconds of a GiB, in user space and in the kernel."""
    return f"{seconds['user']:.2f} + {seconds['system']:.2f}" if seconds else ""


def conditions_line(rows: Sequence[Measurement]) -> str:
    """Return what the machine is, in a sentence."""
    if not rows:
        return ""
    found = rows[0].conditions
    words = []
    for name, text in (
        ("cores", "{} cores"), ("cpu", "{}"), ("memory_gib", "{} GiB"), ("kernel", "Linux {}"),
        ("file_system", "{}"), ("device", "{}"), ("congestion_control", "TCP with {}"),
        ("python", "Python {}"), ("load_1m_at_start", "load {} at the start"),
    ):  # fmt: skip
        if name in found:
            words.append(text.format(found[name]))
    words += [f"{name} {version}" for name, version in found.get("versions", {}).items()]
    return ", ".join(words)


def print_table(
    rows: Sequence[Measurement],
    *,
    comparisons: Sequence[Comparison] = (),
    skipped: dict[str, str] | None = None,
    console: Console | None = None,
) -> None:
    """Print the rows, and how each changed where there is something to compare with."""
    from rich.console import Console as RichConsole

    out = console or RichConsole()
    if not out.is_terminal:
        out.width = max(out.width, 220)  # a pipe has no edge to cut at
    out.print(conditions_line(rows), highlight=False)
    out.print(_table(rows, comparisons))
    for row in rows:
        for words in row.conditions.get("verdict", ()):
            out.print(words, highlight=False)
    if any(row.conditions.get("bottleneck") == "client" for row in rows):
        out.print(CLIENT_NOTE, highlight=False)
    if comparisons:
        out.print(RULE, highlight=False)
    for name, reason in (skipped or {}).items():
        out.print(f"SKIPPED {name}: {reason}", highlight=False)


def _table(rows: Sequence[Measurement], comparisons: Sequence[Comparison]) -> Any:
    from rich.table import Table

    changes = {comparison.name: comparison for comparison in comparisons}
    texts = [cells(row) for row in rows]
    shown = [
        at for at, name in enumerate(COLUMNS) if name not in _RARE or any(t[at] for t in texts)
    ]
    table = Table(*(COLUMNS[at] for at in shown), *(["change"] if changes else []))
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    for row, text in zip(rows, texts, strict=True):
        extra = [_change(changes.get(row.name))] if changes else []
        table.add_row(*(text[at] for at in shown), *extra)
    return table


def _change(comparison: Comparison | None) -> str:
    if comparison is None:
        return "new"
    text = f"{comparison.change:+.0%} {comparison.verdict}"
    colour = {"better": "green", "worse": "red"}.get(comparison.verdict)
    return f"[{colour}]{text}[/{colour}]" if colour else text
