"""Heads of HTTP/1.1 in the one shape that our own nodes and stores give them, without a parser.

A request for a range is half a millisecond of a general parser's work on both sides together, as
much as a MiB costs otherwise. What both ends say is always the same: so a request is put together
from parts whose characters are checked, and an answer is taken as it is if every character of it
is where one of our nodes would have put it. Anything else, however legal, is h11's to judge: both
functions then return None.

Source: RFC 9112 (3, 5) and RFC 9110 (5.6.2) for which characters are harmless.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

# A status without a body (204, 304), or before the real one (1xx), is not among them.
_STATUSES: Final = rb"20[0-36-9]|30[0-35-9]|[45][0-9][0-9]"
_ANSWER: Final = re.compile(
    rb"HTTP/1\.1 (" + _STATUSES + rb") [ -~]{0,64}\r\n"
    rb"((?:[a-z][a-z0-9-]{0,63}: [!-~](?:[ -~]{0,1022}[!-~])?\r\n){1,32})\r\n"
)
_TARGET: Final = re.compile(r"/[!-~]*")
_LINES: Final = re.compile(r"(?:[a-z][a-z0-9-]*: [!-~](?:[ -~]*[!-~])?\r\n)+")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


def plain_get(target: str, headers: Sequence[tuple[str, str]]) -> bytes | None:
    """Return the head of a GET without a body; None: it is for h11 to say it, or to refuse it."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if not _TARGET.fullmatch(target) or not _LINES.fullmatch(lines):
        return None
    if not lines.startswith("host: ") or lines.count("\r\n") != len(headers):
        return None
    return f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode("ascii")


def plain_answer(data: bytes) -> tuple[int, dict[str, str], int] | None:
    """Return status and headers of the answer that some bytes begin with, and its head's length.

    None: the head is not whole, or not in our own shape, or does not say how long its body is.
    """
    found = _ANSWER.match(data)
    if found is None:
        return None
    lines = found[2].decode("ascii").split("\r\n")[:-1]
    headers = dict([line.split(": ", 1) for line in lines])
    if len(headers) != len(lines) or "transfer-encoding" in headers:
        return None
    if not _LENGTH.fullmatch(headers.get("content-length", "")):
        return None
    return int(found[1]), headers, found.end()
