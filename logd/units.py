"""Sizes and durations: constants, and how people write them.

Words, used everywhere (docs/glossary.md): an *offset* is a record's number, a *position* is a
byte's place in a file. Quantities carry their unit last in the name: `retention_ms`,
`segment_bytes`.
"""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

INT16_MAX = 2**15 - 1
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

_SIZE_FACTORS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1024 * GIB,
}
_DURATION_FACTORS_MS = {
    "": 1,
    "ms": 1,
    "s": SECOND_MS,
    "m": MINUTE_MS,
    "min": MINUTE_MS,
    "h": HOUR_MS,
    "d": DAY_MS,
    "w": 7 * DAY_MS,
}
_QUANTITY = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_byte_count(text: str) -> int:
    """Return the number of bytes in `64MiB`, `1GB`, `4096` or `-1`.

    Raises:
        ValueError: no number, an unknown unit, or a fraction of a byte.
    """
    return _parse_quantity(text, _SIZE_FACTORS, "bytes, e.g. 64MiB, 1GB or 4096")


def parse_duration_ms(text: str) -> int:
    """Return the milliseconds in `7d`, `90s`, `1500` or `-1`.

    Raises:
        ValueError: no number, an unknown unit, or a fraction of a millisecond.
    """
    return _parse_quantity(text, _DURATION_FACTORS_MS, "a duration, e.g. 7d, 90s or 1500 (ms)")


def _parse_quantity(text: str, factors: dict[str, int], expected: str) -> int:
    match = _QUANTITY.fullmatch(text)
    factor = factors.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not {expected}")
    if "." not in match[1]:
        return int(match[1]) * factor
    value = float(match[1]) * factor
    if value != int(value):
        raise ValueError(f"{text!r} is not a whole number of units")
    return int(value)


def format_byte_count(count: int) -> str:
    """Return `count` bytes as a person reads it: `64.0 MiB`, `512 B`."""
    if abs(count) < KIB:
        return f"{count} B"
    for name, factor in (("TiB", 1024 * GIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(count) >= factor:
            return f"{count / factor:.1f} {name}"
    raise AssertionError("unreachable: a count of at least 1 KiB has a unit")


def format_duration_ms(duration_ms: int) -> str:
    """Return a duration as a person reads it: `7d`, `1h30m`, `250ms`."""
    if duration_ms < 0:
        return str(duration_ms)
    parts: list[str] = []
    rest = duration_ms
    for name, factor in (("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS)):
        count, rest = divmod(rest, factor)
        if count:
            parts.append(f"{count}{name}")
    if rest or not parts:
        parts.append(f"{rest}ms")
    return "".join(parts)
