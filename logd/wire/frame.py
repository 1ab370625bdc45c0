"""Frames: a 4-byte big-endian length, then that many bytes.

A request's frame begins with api key, api version and correlation id; a response's with the
correlation id alone (and an empty tag section, where the version is flexible).

Source: Kafka protocol guide, "Network" and "Requests"; KIP-482.
"""

from __future__ import annotations

import struct
from typing import Final

LENGTH: Final = struct.Struct(">i")
LENGTH_BYTES: Final = 4
assert LENGTH.size == LENGTH_BYTES

# api key, api version, correlation id
REQUEST_START: Final = struct.Struct(">hhi")
# The shortest request: those three and a null client id.
REQUEST_BYTES_MIN: Final = 8

_RESPONSE_START: Final = struct.Struct(">ii")


def response_frame(correlation_id: int, body: bytes, *, flexible: bool) -> bytes:
    """Return a whole response: length, header (version 1 where flexible, else 0), body."""
    if flexible:
        return _RESPONSE_START.pack(len(body) + 5, correlation_id) + b"\0" + body
    return _RESPONSE_START.pack(len(body) + 4, correlation_id) + body
