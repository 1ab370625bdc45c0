"""Heads of requests, however they were read, and the plain way to read and answer one of our own.

A server of logs asks its storage nodes for ranges by GETs that all look alike. A general parser
takes as long for one, and for its answer, as sending a MiB does. So a request that has come whole,
with nothing behind it, and in the one shape that `ec.store.http_head` gives it, is taken as it is.
Any other, however legal or not, is for h11.

Source: RFC 9112 (3, 5) and RFC 9110 (5.6.2) for which characters are harmless.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

_GET: Final = re.compile(
    rb"GET (/[!-~]{0,2000}) HTTP/1\.1\r\n"
    rb"((?:[a-z][a-z0-9-]{0,63}: [!-~](?:[ -~]{0,1022}[!-~])?\r\n){1,32})\r\n"
)
_LINES: Final = re.compile(r"(?:[a-z][a-z0-9-]*: [!-~](?:[ -~]*[!-~])?\r\n)*")
# What changes how a request or its connection is to be read; h11 knows how.
_NOT_PLAIN: Final = frozenset(
    ("connection", "content-length", "expect", "transfer-encoding", "upgrade", "te", "trailer")
)
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request.

    Attributes:
        headers: names in lower case; the last value of a repeated one.
        length_bytes: the announced length of the body; None where it comes in chunks.
    """

    method: str
    target: bytes
    headers: dict[str, str]
    length_bytes: int | None


def plain_request(data: bytes) -> Head | None:
    """Return the head of a GET that some bytes are, whole and in our own shape; None: ask h11."""
    found = _GET.fullmatch(data)
    if found is None:
        return None
    lines = found[2].decode("ascii").split("\r\n")[:-1]
    headers = dict([line.split(": ", 1) for line in lines])
    if len(headers) != len(lines) or "host" not in headers or not _NOT_PLAIN.isdisjoint(headers):
        return None
    return Head("GET", found[1], headers, 0)


def plain_response(status: int, headers: Sequence[tuple[str, str]]) -> bytes | None:
    """Return the head of an answer; None: h11 must say it, or refuse to."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if not _LINES.fullmatch(lines) or lines.count("\r\n") != len(headers):
        return None
    return f"HTTP/1.1 {status} {_PHRASES[status]}\r\n{lines}\r\n".encode("ascii")
