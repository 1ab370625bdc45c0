"""The result of a run as one JSON document: rows, and all that they depend on.

No name of a host and no path is in it: it is published.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.measurement import Measurement
from bench.peers.contest import Row

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Results:
    """One run: its rows and conditions.

    skipped: peers that could not be had, and why. failed: rows that met an error, and which.
    left_out: rows for which no time was left. notes: what a reader should know besides.
    """

    date: str
    machine: dict[str, Any]
    options: dict[str, Any]
    servers: dict[str, dict[str, Any]]
    rows: list[Row]
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    format: int = FORMAT


def today() -> str:
    """Return the date, in UTC."""
    return datetime.now(UTC).date().isoformat()


def write(results: Results, path: Path) -> None:
    """Write the document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(results), indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Results:
    """Return the document that `write` wrote.

    Raises:
        ValueError: the file holds something else, or another format of it.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path.name} is no result of bench.peers in format {FORMAT}")
    return Results(**{**found, "rows": _rows(found["rows"])})


def _rows(found: Sequence[dict[str, Any]]) -> list[Row]:
    return [
        Row(**{**row, "ours": Measurement(**row["ours"]), "theirs": Measurement(**row["theirs"])})
        for row in found
    ]
