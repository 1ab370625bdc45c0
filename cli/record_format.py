"""`--format` of `logd consume`: kcat's placeholders, compiled once, applied to each record.

%t topic   %p partition   %o offset   %T timestamp in ms   %h headers (name=value, …)
%k key     %K length of the key (-1: null)
%v value   %V length of the value (-1: null); also as kcat has them: %s and %S
%%  a percent sign;  \\n \\r \\t \\0 \\\\ \\xNN  as in C
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Consumed:
    """One record as a consumer got it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


Piece = Callable[[Consumed], bytes]

_TOKEN: Final = re.compile(r"%(.)|\\x([0-9A-Fa-f]{2})|\\(.)|%$|\\$", re.DOTALL)
_ESCAPES: Final = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0", "\\": b"\\"}


def _size(data: bytes | None) -> bytes:
    return b"-1" if data is None else b"%d" % len(data)


def _headers(record: Consumed) -> bytes:
    return b",".join(name.encode() + b"=" + (value or b"") for name, value in record.headers)


_PIECES: Final[dict[str, Piece]] = {
    "t": lambda record: record.topic.encode(),
    "p": lambda record: b"%d" % record.partition,
    "o": lambda record: b"%d" % record.offset,
    "T": lambda record: b"%d" % record.timestamp_ms,
    "h": _headers,
    "k": lambda record: record.key or b"",
    "K": lambda record: _size(record.key),
    "v": lambda record: record.value or b"",
    "V": lambda record: _size(record.value),
    "s": lambda record: record.value or b"",
    "S": lambda record: _size(record.value),
    "%": lambda _: b"%",
}


def compile_format(text: str) -> Callable[[Consumed], bytes]:
    """Return a function that gives a record's bytes.

    Raises:
        ValueError: an unknown placeholder or escape; the text names it.
    """
    pieces: list[Piece] = []
    end = 0
    for match in _TOKEN.finditer(text):
        if match.start() > end:
            pieces.append(_literal(text[end : match.start()].encode()))
        pieces.append(_piece(match))
        end = match.end()
    if end < len(text):
        pieces.append(_literal(text[end:].encode()))
    return lambda record: b"".join([piece(record) for piece in pieces])


def _piece(match: re.Match[str]) -> Piece:
    placeholder, code, escape = match[1], match[2], match[3]
    if placeholder in _PIECES:
        return _PIECES[placeholder]
    if code is not None:
        return _literal(bytes([int(code, 16)]))
    if escape in _ESCAPES:
        return _literal(_ESCAPES[escape])
    known = " ".join(f"%{name}" for name in _PIECES)
    raise ValueError(f"unknown {match[0]!r}; there are {known}")


def _literal(data: bytes) -> Piece:
    return lambda _: data
