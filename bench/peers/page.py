"""docs/benchmarks.md from the JSON of one or more runs: every row, those that we lose first.

The page is generated and not edited, so that it cannot flatter: what was measured is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final

from bench.measurement import Measurement
from bench.peers.contest import Row, client_is_bound
from bench.peers.goals import GOALS
from bench.peers.results import Results
from bench.peers.start_rows import SECTION as START_SECTION
from bench.report import figure

# Latencies stand beside these; beside other figures of the same windows they would only repeat.
THROUGHPUT: Final = ("requests/s", "MB/s")

HEAD: Final = """# Benchmarks beside peers

Made by `make bench-peers` and `make bench-peers-page`; not edited by hand. How it is measured, and
how to repeat it: [../bench/README.md](../bench/README.md).

- A ratio above 1 is in logd's favour, whichever way the unit counts: for a latency or a size it is
  the peer's divided by ours. It is the median over pairs of windows that were neighbours in time.
- A figure is the median of its windows, with the least and the greatest behind it.
- `*`: the client used a whole core. The figure is then the client's, and the server may do better.
- Client and server share the cores of the machine. The client is the same program for all servers
  that speak the Kafka protocol; for the others it is the same loop with other bytes.
- What was acknowledged in a window was read back after it and compared byte by byte.
"""


def page(runs: Sequence[Results]) -> str:
    """Return the page of these runs."""
    blocks = [HEAD]
    for results in runs:
        blocks += _run(results)
    if not runs:
        blocks.append("No run on a machine of its own is recorded yet.\n")
    return "\n".join(blocks)


def _run(results: Results) -> Iterator[str]:
    peers = list(dict.fromkeys(row.peer for row in results.rows))
    yield f"## {results.date}: {', '.join(peers) or 'nothing measured'}\n"
    yield "\n".join(_conditions(results)) + "\n"
    for peer in peers:
        rows = [row for row in results.rows if row.peer == peer]
        sections = sorted({row.section for row in rows}, key=_rank)
        yield from _goals(peer, rows)
        yield from _summary(peer, rows, sections)
        yield from _losses(peer, rows, sections)
        for section in sections:
            yield f"### {peer}: {section}\n"
            yield _table(peer, [row for row in rows if row.section == section])


def _rank(section: str) -> tuple[int, str]:
    """Equal conditions first, start-up last."""
    if "both sides" in section:
        return 0, section
    return (2 if section == START_SECTION else 1), section


def _conditions(results: Results) -> Iterator[str]:
    machine = results.machine
    yield (
        f"- Machine: {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, {machine['file_system']}"
        f"{', TCP with ' + found if (found := machine.get('congestion_control')) else ''}; load "
        f"{machine['load_1m_at_start']} before the run."
    )
    options = results.options
    yield (
        f"- Windows of {options['seconds']:g} s, {options['repetitions']} of each side in turn; "
        f"{results.seconds / 60:.1f} minutes in all."
    )
    for name, conditions in results.servers.items():
        yield f"- {name}: {_told(conditions)}."
    for note in results.notes:
        yield f"- {note}."
    for name, reason in results.skipped.items():
        yield f"- **{name} was skipped**: {reason}."
    if results.failed:
        yield f"- **Failed, so not in the tables**: {'; '.join(results.failed)}."
    if results.left_out:
        yield f"- Not measured, for time was up: {'; '.join(results.left_out)}."


def _told(conditions: dict[str, Any]) -> str:
    parts = []
    for name, value in conditions.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}={what}" for key, what in value.items()) or "defaults"
        if value:
            parts.append(f"{name.replace('_', ' ')} {value}")
    return "; ".join(parts)


def _goals(peer: str, rows: Sequence[Row]) -> Iterator[str]:
    reached = [(goal, found) for goal in GOALS if (found := goal.rows(rows))]
    if not reached:
        return
    yield f"### {peer}: goals\n"
    heads = "| goal | least ratio | rows | reached by | the worst | met |"
    lines = [heads, "|---|---:|---:|---:|---|---|"]
    for goal, found in reached:
        worst, row = found[0]
        enough = sum(ratio >= goal.least for ratio, _ in found)
        lines.append(
            f"| {goal.text} | {figure(goal.least)} | {len(found)} | {enough} | {row.name}: "
            f"{figure(worst)} | {'yes' if worst >= goal.least else '**no**'} |"
        )
    yield "\n".join(lines) + "\n"


def _summary(peer: str, rows: Sequence[Row], sections: Sequence[str]) -> Iterator[str]:
    yield f"### {peer}: in short\n"
    lines = ["| section | rows | logd ahead | median ratio |", "|---|---:|---:|---:|"]
    for section in sections:
        ratios = [row.ratio for row in rows if row.section == section and row.ratio is not None]
        ahead = sum(ratio > 1 for ratio in ratios)
        middle = figure(median(ratios)) if ratios else ""
        lines.append(f"| {section} | {len(ratios)} | {ahead} | {middle} |")
    yield "\n".join(lines) + "\n"


def _losses(peer: str, rows: Sequence[Row], sections: Sequence[str]) -> Iterator[str]:
    """Where the peer is ahead stands before the tables: it is what a reader must not miss."""
    lost = [(row.ratio, row) for row in rows if row.ratio is not None and row.ratio < 1]
    if not lost:
        return
    lost.sort(key=lambda pair: (sections.index(pair[1].section), pair[0]))
    yield f"### {peer}: where it is ahead of logd\n"
    lines = ["| section | row | ratio |", "|---|---|---:|"]
    lines += [f"| {row.section} | {row.name} | {figure(ratio)} |" for ratio, row in lost]
    yield "\n".join(lines) + "\n"


def _table(peer: str, rows: Sequence[Row]) -> str:
    heads = ("row", "unit", "logd", peer, "ratio", "logd p50 / p99 us", f"{peer} p50 / p99 us",
             "cores: logd / it")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---|---" + "|---:" * (len(heads) - 2) + "|"]
    for row in rows:
        cells = [
            row.name, row.unit, _value(row.ours), _value(row.theirs), figure(row.ratio),
            *(_latency(side) if row.unit in THROUGHPUT else "" for side in (row.ours, row.theirs)),
            _cores(row),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _value(measured: Measurement) -> str:
    mark = "*" if client_is_bound(measured) else ""
    low, high = measured.conditions["spread"]
    spread = "" if low == high else f" ({figure(low)} to {figure(high)})"
    return f"{figure(measured.value)}{mark}{spread}"


def _latency(measured: Measurement) -> str:
    if measured.p50_us is None:
        return ""
    return f"{figure(measured.p50_us)} / {figure(measured.p99_us)}"


def _cores(row: Row) -> str:
    cores = [side.conditions.get("server_cores") for side in (row.ours, row.theirs)]
    return "" if None in cores else " / ".join(f"{value:.2f}" for value in cores)
