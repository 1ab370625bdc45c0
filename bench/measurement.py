"""What a benchmark says: one Measurement a row, made from several interleaved windows.

A window is one run of a client against the server or against a ceiling. A row is the median of its
windows; the spread stands in its conditions, because a median without one says little on a shared
machine. Every row that has a ceiling has a ratio: 1 is the ceiling, more is better, whichever way
the unit counts (for a latency it is the ceiling's divided by ours). The values of all windows and
the ratios of all pairs are kept: `bench.comparison` tells noise from change by them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.histogram import Histogram
from bench.processor_time import SYSTEM_S, USER_S, per_gib

# Units of which less is better.
_LESS_IS_BETTER: Final = frozenset(
    {"us", "ms", "s", "bytes", "MB", "us/request", "s/GB", "% of a core"}
)


# A client of one thread that uses this much of a core had no time left: the figure is its own.
CLIENT_BOUND_CORES: Final = 0.9


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row: a figure, the ceiling measured in the same run, and how it was measured."""

    name: str
    value: float
    unit: str
    ceiling: float | None = None
    ceiling_name: str | None = None
    ratio: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    conditions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a client: what was reached, and who used how much CPU for it."""

    value: float
    p50_us: float | None = None
    p99_us: float | None = None
    client_cpu_s: float | None = None
    server_cpu_s: float | None = None
    requests: int = 0
    bytes: int = 0
    seconds: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)
    histogram: Histogram | None = None


def less_is_better(unit: str) -> bool:
    """Return whether a smaller value is the better one in `unit`."""
    return unit in _LESS_IS_BETTER


def summarize(
    name: str,
    unit: str,
    windows: Sequence[Window],
    *,
    ceilings: Sequence[Window] = (),
    ceiling_name: str | None = None,
    conditions: Mapping[str, Any] | None = None,
) -> Measurement:
    """Return the row of `windows` and the ceiling's windows that were interleaved with them.

    The ratio is the median of the ratios of neighbours, not the ratio of medians: both neighbours
    had the same minute of a machine that others use too.
    """
    assert windows
    value = median(window.value for window in windows)
    return Measurement(
        name=name,
        value=value,
        unit=unit,
        ceiling=median(window.value for window in ceilings) if ceilings else None,
        ceiling_name=ceiling_name if ceilings else None,
        ratio=_ratio(unit, windows, ceilings),
        p50_us=_median_of(windows, "p50_us"),
        p99_us=_median_of(windows, "p99_us"),
        conditions={
            **(conditions or {}),
            **_costs(windows),
            **_processor(windows, ""),
            **_processor(ceilings, "ceiling_"),
            **_spreads(unit, windows, ceilings),
            **_latencies(windows, ""),
            **_latencies(ceilings, "ceiling_"),
        },
    )


def _ratio(unit: str, windows: Sequence[Window], ceilings: Sequence[Window]) -> float | None:
    ratios = _ratios(unit, windows, ceilings)
    return median(ratios) if ratios else None


def _ratios(unit: str, windows: Sequence[Window], ceilings: Sequence[Window]) -> list[float]:
    """Return the ratio of each pair of neighbours; none at all where one of them cannot be."""
    pairs = [(w.value, c.value) for w, c in zip(windows, ceilings, strict=False)]
    if any(w <= 0 or c <= 0 for w, c in pairs):
        return []
    return [c / w if less_is_better(unit) else w / c for w, c in pairs]


def _median_of(windows: Sequence[Window], name: str) -> float | None:
    found = [value for window in windows if (value := getattr(window, name)) is not None]
    return median(found) if found else None


def _costs(windows: Sequence[Window]) -> dict[str, Any]:
    """CPU seconds of both sides over all windows, and what one request and one GB cost each."""
    costs: dict[str, Any] = {"windows": len(windows)}
    seconds = sum(window.seconds for window in windows)
    requests = sum(window.requests for window in windows)
    size = sum(window.bytes for window in windows)
    for side in ("client", "server"):
        used = [getattr(window, f"{side}_cpu_s") for window in windows]
        if None in used or not used:
            continue
        costs[f"{side}_cpu_s"] = round(sum(used), 3)
        if seconds:
            costs[f"{side}_cores"] = round(sum(used) / seconds, 2)
        if requests:
            costs[f"{side}_cpu_us_per_request"] = round(sum(used) / requests * 1e6, 2)
        if size > 1e8:
            costs[f"{side}_cpu_s_per_gb"] = round(sum(used) / size * 1e9, 3)
    if seconds:
        costs["seconds"] = round(seconds, 3)
    if costs.get("client_cores", 0.0) >= CLIENT_BOUND_CORES:
        costs["bottleneck"] = "client" if "server_cores" in costs else "processor"
    for window in windows:
        costs.update(window.notes)
    late, latency = costs.get("late_p99_us"), _median_of(windows, "p99_us")
    if late and latency and late > latency / 2:  # most of what it measured is its own lateness
        costs["bottleneck"] = "client"
    for help_only in ("requests_in_all", USER_S, SYSTEM_S):
        costs.pop(help_only, None)  # to reckon bytes a sync, and seconds a GiB: no conditions
    return costs


def _processor(windows: Sequence[Window], prefix: str) -> dict[str, Any]:
    """User and system seconds a GiB, where the job told them apart."""
    size = sum(window.bytes for window in windows)
    found = per_gib([window.notes for window in windows], size)
    return {f"{prefix}cpu_s_per_gib": found} if found else {}


def _spreads(unit: str, windows: Sequence[Window], ceilings: Sequence[Window]) -> dict[str, Any]:
    """What each window gave, and how far they lie apart."""
    values = [_rounded(window.value) for window in windows]
    spreads: dict[str, Any] = {"values": values, "spread": [min(values), max(values)]}
    if ceilings:
        values = [_rounded(window.value) for window in ceilings]
        spreads |= {"ceiling_values": values, "ceiling_spread": [min(values), max(values)]}
        spreads["ratios"] = [_rounded(ratio) for ratio in _ratios(unit, windows, ceilings)]
    return spreads


def _latencies(windows: Sequence[Window], prefix: str) -> dict[str, Any]:
    """The percentiles of all windows together, as far as there are values for them."""
    merged = Histogram()
    for window in windows:
        if window.histogram is not None:
            merged.merge(window.histogram)
    found = merged.summary()
    return {f"{prefix}latency_us": found} if found else {}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


# --- Files --------------------------------------------------------------------------------------


def write_json(measurements: Sequence[Measurement], path: Path | str) -> None:
    """Write the measurements as one JSON array."""
    text = json.dumps([asdict(row) for row in measurements], indent=1)
    Path(path).write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str) -> list[Measurement]:
    """Return the measurements that `write_json` wrote.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        return [Measurement(**row) for row in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no file of measurements, as --out and --report write: {error}"
        ) from error
