"""Zigzag varints, as records use them: small numbers of either sign in few bytes.

Seven bits a byte, lowest first, the top bit set on all but the last byte; zigzag maps 0, -1, 1, -2
to 0, 1, 2, 3. A 32-bit number has at most 5 bytes and a 64-bit one at most 10: longer ones, and
bits that overflow the last byte, are refused, so that a reader can never be kept busy by a run of
0xff.

Source: Apache Kafka, "Protocol Primitive Types", VARINT and VARLONG.
"""

from __future__ import annotations

from typing import Final

from logd.errors import CorruptRecordsError
from logd.units import INT64_MAX


def read_varint(buffer: bytes, position: int) -> tuple[int, int]:
    """Return the 32-bit number at `position` and the position after it.

    Raises:
        CorruptRecordsError: more than 5 bytes, or more than 32 bits.
        IndexError: the buffer ends inside the number.
    """
    first = buffer[position]
    if first < 0x80:
        return first >> 1 ^ -(first & 1), position + 1
    # Two bytes reach to ±8 KiB: lengths of records and values, offset deltas in a large batch.
    second = buffer[position + 1]
    if second < 0x80:
        return (first & 0x7F | second << 7) >> 1 ^ -(first & 1), position + 2
    return _read(buffer, position, bits=32, bytes_max=5)


def read_varlong(buffer: bytes, position: int) -> tuple[int, int]:
    """Return the 64-bit number at `position` and the position after it.

    Raises:
        CorruptRecordsError: more than 10 bytes, or more than 64 bits.
        IndexError: the buffer ends inside the number.
    """
    first = buffer[position]
    if first < 0x80:
        return first >> 1 ^ -(first & 1), position + 1
    second = buffer[position + 1]
    if second < 0x80:
        return (first & 0x7F | second << 7) >> 1 ^ -(first & 1), position + 2
    return _read(buffer, position, bits=64, bytes_max=10)


def _read(buffer: bytes, position: int, *, bits: int, bytes_max: int) -> tuple[int, int]:
    value = 0
    for index in range(bytes_max):
        byte = buffer[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value >> bits:
                raise CorruptRecordsError(f"a varint at position {position} exceeds {bits} bits")
            return value >> 1 ^ -(value & 1), position + index + 1
    raise CorruptRecordsError(f"a varint at position {position} exceeds {bytes_max} bytes")


def write_varint(out: bytearray, value: int) -> None:
    """Append `value` (at most 64 bits, signed) to `out` in as few bytes as it needs."""
    out += _KNOWN[value] if 0 <= value < _KNOWN_COUNT else _encode(value)


def varint(value: int) -> bytes:
    """Return `value` (at most 64 bits, signed) in as few bytes as it needs."""
    return _KNOWN[value] if 0 <= value < _KNOWN_COUNT else _encode(value)


def _encode(value: int) -> bytes:
    assert -INT64_MAX - 1 <= value <= INT64_MAX
    out = bytearray()
    rest = value << 1 ^ value >> 63
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


# Lengths and offset deltas are nearly always small: 70 KB save a loop in bytecode for each.
_KNOWN_COUNT: Final = 2048
_KNOWN: Final = tuple(map(_encode, range(_KNOWN_COUNT)))
