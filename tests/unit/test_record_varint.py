"""Zigzag varints: right at every width, bounded whatever the bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from logd.errors import CorruptRecordsError
from logd.record.varint import read_varint, read_varlong, write_varint

EDGES = sorted(
    {sign * (1 << bits) + step for bits in range(63) for sign in (1, -1) for step in (-1, 0, 1)}
    | {2**63 - 1, -(2**63)}
)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (-1, "01"),
        (1, "02"),
        (63, "7e"),
        (-64, "7f"),
        (64, "8001"),
        (8191, "fe7f"),
        (8192, "808001"),
        (2**31 - 1, "feffffff0f"),
        (-(2**31), "ffffffff0f"),
        (-(2**63), "ffffffffffffffffff01"),
    ],
)
def test_golden(value: int, encoded: str) -> None:
    """The bytes are those of protobuf's sint32 and sint64."""
    out = bytearray()
    write_varint(out, value)
    assert out.hex() == encoded
    assert read_varlong(bytes(out), 0) == (value, len(out))


def test_every_width_comes_back() -> None:
    """Numbers around each power of two survive the round trip, in both readers where they fit."""
    for value in EDGES:
        out = bytearray(b"?")
        write_varint(out, value)
        assert read_varlong(bytes(out), 1) == (value, len(out))
        if -(2**31) <= value < 2**31:
            assert read_varint(bytes(out), 1) == (value, len(out))
        else:
            with pytest.raises(CorruptRecordsError):
                read_varint(bytes(out), 1)


@pytest.mark.parametrize("read", [read_varint, read_varlong])
def test_endless_varints_are_refused(read: Callable[[bytes, int], tuple[int, int]]) -> None:
    """A run of 0xff ends after the bytes that the number may have, not with the buffer."""
    with pytest.raises(CorruptRecordsError, match="bytes"):
        read(b"\xff" * 1000, 0)


def test_overflowing_bits_are_refused() -> None:
    """Bits that the number has no room for are an error, not dropped."""
    with pytest.raises(CorruptRecordsError, match="32 bits"):
        read_varint(b"\xff\xff\xff\xff\x1f", 0)
    with pytest.raises(CorruptRecordsError, match="64 bits"):
        read_varlong(b"\xff" * 9 + b"\x02", 0)


@pytest.mark.parametrize("size", range(5))
def test_a_cut_varint_is_an_index_error(size: int) -> None:
    """The reader's caller knows how long the buffer should be, and says so."""
    with pytest.raises(IndexError):
        read_varint(b"\x80" * size, 0)
