"""The result of a run as one JSON document: rows, and all that they depend on.

No name of a host and no path is in it: it is published.
"""

from __future__ import annotations

import json
import os
import platform
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


def machine_of(directory: Path) -> dict[str, Any]:
    """Return what the figures of a run in `directory` depend on, apart from the servers."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "file_system": _file_system(directory),
        "load_1m_at_start": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """Return the type of the file system, by its device number."""
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "unknown"


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
