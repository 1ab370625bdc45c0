"""What a command prints: JSON, tables, progress.

Results go to stdout, progress to stderr and only when it is a terminal. A table is drawn with rich
on a terminal; anywhere else it is plain columns, as wide as they need to be and never cut, which
costs no import and can be read by awk. Text that came from clients is escaped before a terminal
sees it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

Cell = str | int | float | None


def print_json(document: Any) -> None:
    """Print one JSON document; indented when a person looks at it."""
    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:  # Another locale, or a name that is no text at all.
        text = json.dumps(document, indent=indent)
    click.echo(text)


def json_line(document: Any) -> bytes:
    """Return one line of a JSON stream, with its end."""
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def json_bytes(data: bytes | None) -> str | dict[str, str] | None:
    """Return bytes as JSON has them: text where they are UTF-8, else {"base64": …}."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        from base64 import b64encode

        return {"base64": b64encode(data).decode()}


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows under headers; numbers stand to the right."""
    if sys.stdout.isatty():
        _print_rich_table(headers, rows)
    else:
        _print_plain_table(headers, rows)


def escape(text: str) -> str:
    """Return text that a terminal can be shown: control characters as \\xNN."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def escape_bytes(data: bytes | None) -> str:
    """Return bytes as one line of readable text; null stays visible as such."""
    return "null" if data is None else escape(data.decode(errors="backslashreplace"))


def readable_time(timestamp_ms: int | None) -> str:
    """Return a timestamp in UTC to the second; `-` where there is none, else the number itself."""
    if timestamp_ms is None or timestamp_ms < 0:
        return "-"
    try:
        at = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return str(timestamp_ms)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 topic`, `2 topics`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr while the block runs, if stderr is a terminal.

    Yields:
        A function that takes the amount done so far, in the unit of `total`.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, completed=done)


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return escape(cell) if isinstance(cell, str) else str(cell)


def _print_plain_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    lines = [list(headers), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    right = _numeric_columns(headers, rows)
    for line in lines:
        cells = (
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, right, strict=True)
        )
        click.echo("  ".join(cells).rstrip())


def _print_rich_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header, number in zip(headers, _numeric_columns(headers, rows), strict=True):
        table.add_column(header, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_text(cell)) for cell in row))
    Console().print(table)


def _numeric_columns(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[bool]:
    return [
        bool(rows) and all(not isinstance(row[i], str) for row in rows) for i in range(len(headers))
    ]
