"""How measurements are shown: a table in the terminal, JSON, and a report in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.measurement import Comparison, Measurement, write_json

if TYPE_CHECKING:
    from rich.console import Console

# A row that is worse than before by more than this is shown as such: below it lies the noise.
NOTABLE_CHANGE: Final = 0.10

COLUMNS: Final = (
    "row", "value", "ceiling", "ratio", "p50 us", "p99 us", "server CPU", "client CPU", "of sketch",
    "of Kafka",
)  # fmt: skip


def cells(row: Measurement) -> list[str]:
    """Return a row as text, one string for each of COLUMNS."""
    conditions = row.conditions
    return [
        row.name,
        f"{figure(row.value)} {row.unit}",
        figure(row.ceiling),
        figure(row.ratio),
        figure(row.p50_us),
        figure(row.p99_us),
        _cpu(conditions, "server"),
        _cpu(conditions, "client"),
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


def _cpu(conditions: dict[str, Any], side: str) -> str:
    """CPU per GB where gigabytes flowed, per request elsewhere."""
    per_gb = conditions.get(f"{side}_cpu_s_per_gb")
    if per_gb is not None:
        return f"{figure(per_gb)} s/GB"
    per_request = conditions.get(f"{side}_cpu_us_per_request")
    return "" if per_request is None else f"{figure(per_request)} us"


def print_table(
    rows: Sequence[Measurement],
    *,
    comparisons: Sequence[Comparison] = (),
    console: Console | None = None,
) -> None:
    """Print the rows, and how each changed where there is something to compare with."""
    from rich.console import Console as RichConsole
    from rich.table import Table

    out = console or RichConsole()
    if not out.is_terminal:
        out.width = max(out.width, 200)  # a pipe has no edge to cut at
    changes = {comparison.name: comparison for comparison in comparisons}
    table = Table(*COLUMNS, *(["change"] if changes else []))
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    for row in rows:
        extra = [_change(changes.get(row.name))] if changes else []
        table.add_row(*cells(row), *extra)
    out.print(table)


def _change(comparison: Comparison | None) -> str:
    if comparison is None:
        return "new"
    text = f"{comparison.change:+.0%}"
    if comparison.change < -NOTABLE_CHANGE:
        return f"[red]{text}[/red]"
    return f"[green]{text}[/green]" if comparison.change > NOTABLE_CHANGE else text


def markdown(rows: Sequence[Measurement]) -> str:
    """Return the rows as a Markdown document that says how they were measured."""
    lines = ["# logd bench", "", *_machine_lines(rows), ""]
    lines.append("| " + " | ".join(COLUMNS) + " |")
    lines.append("|---" + "|---:" * (len(COLUMNS) - 1) + "|")
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    lines += ["", "| row | windows | spread | ceiling | its spread |", "|---|---:|---:|---|---:|"]
    for row in rows:
        conditions = row.conditions
        lines.append(
            f"| {row.name} | {conditions.get('windows', '')} | {_range(conditions.get('spread'))} "
            f"| {row.ceiling_name or ''} | {_range(conditions.get('ceiling_spread'))} |"
        )
    return "\n".join(lines) + "\n"


def _machine_lines(rows: Sequence[Measurement]) -> list[str]:
    if not rows:
        return []
    names = ("python", "kernel", "cpus", "load_1m_at_start")
    conditions = rows[0].conditions
    return [", ".join(f"{name} {conditions[name]}" for name in names if name in conditions) + "."]


def _range(spread: Sequence[float] | None) -> str:
    return "" if spread is None else f"{figure(spread[0])} to {figure(spread[1])}"


def write_report(rows: Sequence[Measurement], directory: Path | str) -> list[Path]:
    """Write measurements.json and report.md into `directory`; return their paths."""
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    data, text = place / "measurements.json", place / "report.md"
    write_json(rows, data)
    text.write_text(markdown(rows), encoding="utf-8")
    return [data, text]
