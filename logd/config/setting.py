"""What a setting is: one row of a table, and how its value is read, checked and written.

Settings are data. `TOPIC_SETTINGS` and `SERVER_SETTINGS` are tables of `Setting` rows; everything
that has to do with settings (reading files, flags and the environment, CreateTopics,
DescribeConfigs, `logd config`, docs/configuration.md) is a loop over them.

A value is written in two ways. Kafka's clients send plain numbers: `604800000`. People, in a file,
a flag or the environment, may also write `7d` or `64MiB`. Both mean the same value, and a value is
always written back plain (`format_value`), so that every client can read what any of them wrote.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from logd.units import INT32_MAX, INT64_MAX, parse_byte_count, parse_duration_ms

Effect = Literal["now", "later", "never"]
"""Whether a setting does anything: in this version, in a later one, or not at all here."""

Value = bool | int | float | str | tuple[str, ...]
"""A parsed value. Lists are tuples, so that settings can be shared between threads."""

TEXT_LIMIT: Final = 4096
"""Characters that a written value may have: far beyond any honest one, small enough to echo."""

_EFFECT_SENTENCES: Final[dict[Effect, str]] = {
    "now": "",
    "later": " Accepted and checked; not in effect in this version.",
    "never": " Accepted for the sake of clients; it has no effect on this server.",
}
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_DECIMAL: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


class Kind(enum.Enum):
    """The type of a setting's value."""

    BOOLEAN = "boolean"
    INT = "int"
    LONG = "long"
    DOUBLE = "double"
    STRING = "string"
    LIST = "list"


class Source(enum.Enum):
    """Where a value comes from, weakest first: a later source overrides an earlier one."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"
    BROKER = "broker"
    """Set while running, for the whole server; kept in the catalog."""
    TOPIC = "topic"
    """Set while running, for one topic; kept in the catalog."""

    @property
    def rank(self) -> int:
        """The place in the order of precedence; the highest wins."""
        return _SOURCE_RANKS[self]


_SOURCE_RANKS: Final = {source: rank for rank, source in enumerate(Source)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of a table of settings.

    Attributes:
        default: the value when nobody set it; None: worked out at start, or given by another
            setting.
        doc: what it does, in our own words; a sentence or two.
        unit: "ms", "min", "h", "bytes" or None.
        low: least value allowed; high: greatest one.
        choices: the words allowed, for strings and lists.
        rule: a further check of the parsed value; returns the reason for refusing, or None.
        server_names: for a topic's setting, the server settings that give its default, first the
            one that wins when several are given by the same source.
        effect: whether it does anything; all settings are accepted, checked and listed alike.
        dynamic: whether it may be changed while the server runs.
        ours: whether Kafka has no such setting.
    """

    name: str
    kind: Kind
    default: Value | None
    doc: str
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    rule: Callable[[Value], str | None] | None = None
    server_names: tuple[str, ...] = ()
    effect: Effect = "now"
    dynamic: bool = False
    ours: bool = False

    @property
    def attribute(self) -> str:
        """The name of the field that holds the value: `retention.ms` is `retention_ms`."""
        return self.name.replace(".", "_")

    @property
    def documentation(self) -> str:
        """What it does, and whether it does so in this version, as clients are told."""
        return self.doc + _EFFECT_SENTENCES[self.effect]

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest number allowed."""
        if self.kind is Kind.DOUBLE:
            low, high = -math.inf, math.inf
        else:
            high = INT32_MAX if self.kind is Kind.INT else INT64_MAX
            low = -high - 1
        return (low if self.low is None else self.low, high if self.high is None else self.high)


def parse_value(setting: Setting, text: str, *, with_units: bool) -> Value:
    """Return the value that `text` means for the setting.

    Args:
        with_units: whether `64MiB` and `7d` are understood, as people write them; if not, only the
            plain numbers that Kafka's clients send.

    Raises:
        ValueError: the text is not a value of this setting. The message is the reason.
    """
    if len(text) > TEXT_LIMIT:
        raise ValueError(f"the value has {len(text)} characters, at most {TEXT_LIMIT} are allowed")
    value = _PARSERS[setting.kind](setting, text.strip(), with_units)
    reason = setting.rule(value) if setting.rule else None
    if reason is not None:
        raise ValueError(reason)
    return value


def format_value(value: Value | None) -> str | None:
    """Return a value as Kafka's clients read and write it; None stays None."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)


def _parse_boolean(_setting: Setting, text: str, _with_units: bool) -> Value:
    word = text.lower()
    if word not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return word == "true"


def _parse_integer(setting: Setting, text: str, with_units: bool) -> Value:
    if _INTEGER.fullmatch(text):
        # 40 digits are beyond every limit already; int() of more only costs time.
        number = int(text[:40])
    elif with_units and setting.unit == "bytes":
        number = parse_byte_count(text)
    elif with_units and setting.unit == "ms":
        number = parse_duration_ms(text)
    else:
        raise ValueError(f"{text!r} is not a whole number")
    return int(_check_limits(setting, number))


def _parse_double(setting: Setting, text: str, _with_units: bool) -> Value:
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{text!r} is not a decimal number")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is too large for a decimal number")
    return _check_limits(setting, number)


def _check_limits(setting: Setting, number: float) -> float:
    low, high = setting.limits
    if number < low:
        raise ValueError(f"{number} is less than {low}")
    if number > high:
        raise ValueError(f"{number} is more than {high}")
    return number


def _parse_string(setting: Setting, text: str, _with_units: bool) -> Value:
    if not text.isprintable():
        raise ValueError("control characters are not allowed")
    if setting.choices and text not in setting.choices:
        raise ValueError(f"{text!r} is none of {', '.join(setting.choices)}")
    return text


def _parse_list(setting: Setting, text: str, _with_units: bool) -> Value:
    words = tuple(word.strip() for word in text.split(",")) if text else ()
    for word in words:
        if not word or not word.isprintable():
            raise ValueError("empty words and control characters are not allowed in a list")
        if setting.choices and word not in setting.choices:
            raise ValueError(f"{word!r} is none of {', '.join(setting.choices)}")
    if len(set(words)) != len(words):
        raise ValueError("a word is given twice")
    return words


_PARSERS: Final[dict[Kind, Callable[[Setting, str, bool], Value]]] = {
    Kind.BOOLEAN: _parse_boolean,
    Kind.INT: _parse_integer,
    Kind.LONG: _parse_integer,
    Kind.DOUBLE: _parse_double,
    Kind.STRING: _parse_string,
    Kind.LIST: _parse_list,
}
