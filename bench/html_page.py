"""One run as one HTML page that needs nothing else: no script, no font, no picture from elsewhere.

From top to bottom: what was measured where; the verdict; how far from their ceilings all rows are;
then suite by suite its rows, how they scale, and how slow the slow ones are. What was skipped or
failed stands beside what was measured, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from bench.comparison import Comparison
from bench.measurement import Measurement, less_is_better, write_json
from bench.page_charts import charts_of
from bench.page_style import STYLE
from bench.report import CLIENT_NOTE, RULE, figure, range_of
from bench.svg import bar, strips

if TYPE_CHECKING:
    from bench.api import Results

# What a row's details do not repeat: it stands elsewhere on the page.
_ELSEWHERE: Final = frozenset({
    "cpu", "cores", "memory_gib", "kernel", "file_system", "load_1m_at_start", "device", "python",
    "versions", "write_cache", "spread", "ceiling_spread", "verdict", "curve", "x",
})  # fmt: skip
_READING: Final = (
    """A figure is the <b>median</b> of its windows; the whisker and the spread column are the least
    and the greatest of them.""",
    """The <b>ceiling</b> (the upright mark; its band is its own spread) is the least that any
    program must do for the same result, measured in turn with the row. Each row says what it is
    when it is opened.""",
    """The <b>ratio</b> is the median over pairs of windows that were neighbours in time, so a slow
    minute of the machine is in both. Above 1 is better than the ceiling.""",
    """CPU is per 10<sup>9</sup> bytes where gigabytes flowed, per request elsewhere. MB are
    10<sup>6</sup> bytes; KiB and MiB are powers of 1024.""",
    """Latency by percentile is of all windows of the row together; only percentiles with ten or
    more values beyond them are drawn.""",
)


def page(results: Results, comparisons: Sequence[Comparison] = ()) -> str:
    """Return the page."""
    changes = {comparison.name: comparison for comparison in comparisons}
    body = [
        *_head(results), *_verdict(results.rows), *_overview(results), *_changes(comparisons),
        *(part for name, rows in results.suites.items() for part in _suite(name, rows, changes)),
        *_left_out(results), _how_to_read(bool(comparisons)),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>logd bench {escape(results.name)}, {escape(results.started)}</title>"
        f"<style>{STYLE}</style></head>\n<body><main>\n" + "\n".join(body) + "\n</main></body>"
        "</html>\n"
    )


def write_report(
    results: Results, directory: Path | str, *, comparisons: Sequence[Comparison] = ()
) -> list[Path]:
    """Write measurements.json and index.html into `directory`; return their paths."""
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    data, text = place / "measurements.json", place / "index.html"
    write_json(results.rows, data)
    text.write_text(page(results, comparisons), encoding="utf-8")
    return [data, text]


# --- The top --------------------------------------------------------------------------------------


def _head(results: Results) -> Iterator[str]:
    found = results.rows[0].conditions if results.rows else {}
    options = results.options
    yield f"<header><h1>logd bench {escape(results.name)}</h1>"
    state = f"; still to come: {', '.join(results.waiting)}" if results.waiting else ""
    when = f"{results.started} UTC, {_duration(results.seconds)}{state}"
    yield f'<p class="sub">{escape(when)}</p>'
    facts = [
        ("processor", f"{found.get('cores', '?')} × {found.get('cpu', '?')}"),
        ("memory", f"{found.get('memory_gib', '?')} GiB"),
        ("kernel", f"Linux {found.get('kernel', '?')}"),
        ("disk", (f"{found.get('file_system', '?')} on a {found.get('device', '?')}, "
                 f"cache: {found.get('write_cache', '?')}")),
        ("load at the start", str(found.get("load_1m_at_start", "?"))),
        ("windows", (f"{options.get('pairs', '?')} of each side in turn, "
                    f"{options.get('seconds', 0):g} s each")),
        ("Python", str(found.get("python", "?"))),
        *((name, version) for name, version in found.get("versions", {}).items()),
    ]  # fmt: skip
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts
    )
    yield f'<dl class="facts">{cards}</dl></header>'


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _verdict(rows: Sequence[Measurement]) -> Iterator[str]:
    for row in rows:
        words = row.conditions.get("verdict")
        if words:
            kind = "bad" if row.conditions.get("fdatasync") in ("suspicious", "not durable") else ""
            said = "".join(f"<p>{escape(sentence)}</p>" for sentence in words)
            yield f'<section class="verdict {kind}"><h2>Verdict on the disk</h2>{said}</section>'


def _overview(results: Results) -> Iterator[str]:
    groups = []
    for name, rows in results.suites.items():
        dots = [(row.ratio, row.name) for row in rows if row.ratio]
        if dots:
            groups.append((name, dots))
    if not groups:
        return
    yield "<section><h2>How far from the ceiling</h2>"
    yield (
        '<p class="sub">Each dot is a row: its ratio to a ceiling that was measured in the same '
        "seconds. 1 is the ceiling; to the right is better, whatever the unit.</p>"
    )
    yield strips(groups, label="ratio to the ceiling of every row, by suite")
    yield "<table><thead><tr><th>suite</th><th class=n>rows</th><th class=n>median ratio</th>"
    yield "<th class=n>lowest</th><th>which</th></tr></thead><tbody>"
    for name, dots in groups:
        least, which = min(dots)
        yield (
            f'<tr><td><a href="#{escape(name)}">{escape(name)}</a></td><td class=n>{len(dots)}</td>'
            f"<td class=n>{figure(median(ratio for ratio, _ in dots))}</td>"
            f"<td class=n>{figure(least)}</td><td>{escape(which)}</td></tr>"
        )
    yield "</tbody></table></section>"


def _changes(comparisons: Sequence[Comparison]) -> Iterator[str]:
    if not comparisons:
        return
    counts = dict.fromkeys(("better", "worse", "noise", "unknown"), 0)
    for comparison in comparisons:
        counts[comparison.verdict] += 1
    said = ", ".join(f"<b>{count}</b> {word}" for word, count in counts.items() if count)
    yield f"<section><h2>Against the earlier run</h2><p>{said}.</p>"
    yield f'<p class="sub">{escape(RULE)}</p>'
    real = [comparison for comparison in comparisons if comparison.is_real]
    if real:
        yield "<table><thead><tr><th>row</th><th>basis</th><th class=n>before</th><th class=n>now"
        yield "</th><th class=n>change</th></tr></thead><tbody>"
        for one in sorted(real, key=lambda found: found.change):
            yield (
                f"<tr><td>{escape(one.name)}</td><td>{one.basis}</td>"
                f"<td class=n>{figure(one.before)}</td><td class=n>{figure(one.now)}</td>"
                f"<td class=n>{_change(one)}</td></tr>"
            )
        yield "</tbody></table>"
    yield "</section>"


def _change(comparison: Comparison | None) -> str:
    if comparison is None:
        return '<span class="noise">new</span>'
    word = comparison.verdict
    said = "" if comparison.is_real else f" <small>{word}</small>"
    return f'<span class="{word}">{comparison.change:+.0%}{said}</span>'


# --- A suite --------------------------------------------------------------------------------------


def _suite(name: str, rows: Sequence[Measurement], changes: dict[str, Comparison]) -> Iterator[str]:
    shown = [row for row in rows if "verdict" not in row.conditions]
    yield f'<section id="{escape(name)}"><h2>{escape(name)}</h2>'
    yield from charts_of(shown)
    yield '<div class="wide"><table class="rows"><thead><tr><th>row</th><th class=n>median</th>'
    # On a narrow page the ratio stays beside the median, and what explains it is a tap away.
    yield '<th class="hide">&nbsp;</th><th class="n hide">spread</th>'
    yield '<th class="n hide">ceiling</th>'
    yield "<th class=n>ratio</th><th class=n>p50</th><th class=n>p99</th><th class=n>"
    yield "CPU, server / client</th>" + ("<th class=n>change</th>" if changes else "")
    yield "</tr></thead><tbody>"
    for row in shown:
        yield _row(row, changes)
    yield "</tbody></table></div></section>"


def _row(row: Measurement, changes: dict[str, Comparison]) -> str:
    found = row.conditions
    spread = found.get("spread") or (row.value, row.value)
    ceiling_spread = found.get("ceiling_spread")
    title = f"{figure(row.value)} {row.unit}; {range_of(spread) or 'one window'}"
    if row.ceiling_name:
        title += f"; ceiling {figure(row.ceiling)}: {row.ceiling_name}"
    picture = bar(
        row.value, (spread[0], spread[1]), row.ceiling,
        (ceiling_spread[0], ceiling_spread[1]) if ceiling_spread else None, title=title,
    )  # fmt: skip
    value = f"{figure(row.value)} <small>{escape(row.unit)}</small>"
    if less_is_better(row.unit):
        value += ' <small title="less is better">↓</small>'
    change = f"<td class=n>{_change(changes.get(row.name))}</td>" if changes else ""
    return (
        f"<tr><td><details><summary>{escape(row.name)}</summary>{_details(row)}</details></td>"
        f"<td class=n>{value}</td><td class='hide'>{picture}</td>"
        f"<td class='n hide'><small>{escape(range_of(found.get('spread')))}</small></td>"
        f"<td class='n hide'>{figure(row.ceiling)}</td><td class=n><b>{figure(row.ratio)}</b></td>"
        f"<td class=n>{_time(row.p50_us)}</td><td class=n>{_time(row.p99_us)}</td>"
        f"<td class=n>{_cpu(found)}</td>{change}</tr>"
    )


def _cpu(found: dict[str, Any]) -> str:
    """CPU of the server and of the client, in one unit."""
    for key, unit in (("cpu_s_per_gb", "s/GB"), ("cpu_us_per_request", "µs")):
        sides = [found.get(f"{side}_{key}") for side in ("server", "client")]
        if sides == [None, None]:
            continue
        server, client = (figure(value) or "–" for value in sides)
        if found.get("bottleneck") == "client":
            client = f'<b class="bound" title="{escape(CLIENT_NOTE)}">{client} ✱</b>'
        return f"{server} / {client} <small>{unit}</small>"
    return ""


def _time(us: float | None) -> str:
    if us is None:
        return ""
    return (
        f"{figure(us / 1000)} <small>ms</small>"
        if us >= 1000
        else f"{figure(us)} <small>µs</small>"
    )


def _details(row: Measurement) -> str:
    found: dict[str, Any] = {}
    if row.ceiling_name:
        found["ceiling"] = row.ceiling_name
    found |= {key: value for key, value in row.conditions.items() if key not in _ELSEWHERE}
    items = "".join(
        f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(_said(value))}</dd>"
        for key, value in found.items()
    )
    return f'<dl class="conditions">{items}</dl>'


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_said(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_said(each) for each in value)
    if isinstance(value, float):
        return figure(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


# --- The bottom -----------------------------------------------------------------------------------


def _left_out(results: Results) -> Iterator[str]:
    lines = [
        *(("failed", name, reason) for name, reason in results.failed.items()),
        *(("skipped", name, reason) for name, reason in results.skipped.items()),
    ]
    if lines:
        yield "<section><h2>Not measured</h2><table><tbody>"
        for kind, name, reason in lines:
            style = "worse" if kind == "failed" else "noise"
            yield (
                f'<tr><td class="{style}">{kind}</td><td>{escape(name)}</td>'
                f"<td>{escape(reason)}</td></tr>"
            )
        yield "</tbody></table></section>"


def _how_to_read(compared: bool) -> str:
    lines = [*_READING, escape(CLIENT_NOTE.replace("* the", "✱: the"))]
    if compared:
        lines.append(escape(RULE))
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f'<section class="read"><h2>How to read this</h2><ul>{items}</ul></section>'
