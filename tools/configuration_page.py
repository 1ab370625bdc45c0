"""Writes docs/configuration.md from the tables of settings: `python -m tools.configuration_page`.

A test compares the page with what this module makes of the tables, so it cannot fall behind them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from logd.config import SERVER_SETTINGS, TOPIC_SETTINGS, Kind, Setting, format_value
from logd.config.sources import environment_name
from logd.config.topic import NEVER
from logd.units import format_byte_count, format_duration_ms

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"

_HEAD = """\
# Configuration

Made from the tables in `logd/config` by `python -m tools.configuration_page`; edit those, not
this.

A setting of the server is given, strongest first, by a flag (`--set KEY=VALUE`), by the
environment (`LOGD_NUM_PARTITIONS=8` for `num.partitions`), or in a TOML file (`--config
FILE.toml`); what nobody gives has its default. Settings marked *running* can also be changed while
the server runs, by any Kafka admin client; such a change is kept in the catalog and is stronger
than all of the above, until it is deleted. `logd config` lists what is in force and where it came
from.

In the file, keys are written in one piece or as nested tables; both lines mean the same:

```toml
"log.retention.ms" = "7d"
log.segment.bytes = "512MiB"
```

Byte sizes may be written `64MiB` or `1GB`, durations `7d`, `90s` or `250ms`; a plain number is
bytes or milliseconds. Kafka's clients send and get plain numbers only. An unknown key, a key given
twice in one place, or a value that is not allowed stops the server from starting, with exit code
2.

A topic's settings are given when it is created and changed at any time, without a restart. What a
topic does not set is the server's default of it: a setting of the server under Kafka's name for
it, which may also be given under the topic's own name.

Names are Kafka's, with Kafka's meaning, wherever Kafka has the same thing; those that only logd
has are marked *ours*. Every setting that Kafka 4 lists for topics is accepted, because clients set
them; where one does nothing here, the table says so.
"""


def render() -> str:
    """Return the page."""
    own = [row for row in SERVER_SETTINGS.values() if not _is_default_of_topics(row)]
    parts = (
        _HEAD,
        "## Topics\n",
        _table(TOPIC_SETTINGS.values(), with_server_names=True),
        "## Server\n",
        _table(sorted(own, key=lambda row: row.name), with_server_names=False),
    )
    return "\n".join(parts)


def _is_default_of_topics(row: Setting) -> bool:
    return any(row.name in topic_row.server_names for topic_row in TOPIC_SETTINGS.values())


def _table(rows: Iterable[Setting], *, with_server_names: bool) -> str:
    last = "server default" if with_server_names else "environment"
    lines = [f"| name | type | default | {last} | |", "|---|---|---|---|---|"]
    for row in rows:
        names = row.server_names if with_server_names else (environment_name(row.name),)
        cells = (
            f"`{row.name}`{_marks(row)}",
            _type(row),
            _default(row),
            "<br>".join(f"`{name}`" for name in names) or "none",
            row.documentation,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _marks(row: Setting) -> str:
    marks = [word for word, holds in (("ours", row.ours), ("running", row.dynamic)) if holds]
    return f" *{', '.join(marks)}*" if marks else ""


def _type(row: Setting) -> str:
    if row.choices:
        words = " ".join(row.choices)
        return f"list of: {words}" if row.kind is Kind.LIST else f"one of: {words}"
    unit = f", {row.unit}" if row.unit else ""
    text = f"{row.kind.value}{unit}"
    bounds = [
        f"{sign} {bound:.15g}"
        for sign, bound in (("≥", row.low), ("≤", row.high))
        if bound is not None
    ]
    return f"{text}, {', '.join(bounds)}" if bounds else text


def _default(row: Setting) -> str:
    text = format_value(row.default)
    if text is None:
        return "not set"
    if row.default == NEVER:
        return f"{text} (never)"
    if isinstance(row.default, int) and row.default >= 1000:
        if row.unit == "ms":
            return f"{text} ({format_duration_ms(row.default)})"
        if row.unit == "bytes":
            return f"{text} ({format_byte_count(row.default)})"
    return text or "empty"


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
