"""Readers refuse what the encoding does not allow; writers write what readers read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from logd.errors import MalformedRequestError
from logd.units import INT32_MAX
from logd.wire import primitives as p

BUDGET = 100


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 16383, 16384, 2**21, 2**28, INT32_MAX])
def test_varints_round_trip(value: int) -> None:
    """A varint is read back, and takes no byte more than needed."""
    data = p.varint(value)
    assert p.read_varint(data + b"\xff", 0) == (value, len(data))
    assert len(data) == max(1, -(-value.bit_length() // 7))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x80\x80\x80\x08",  # 2^31
        b"\xff\xff\xff\xff\x0f",  # 2^32 - 1
        b"\xff\xff\xff\xff\x7f",
        b"\xff\xff\xff\xff\xff\x00",  # six bytes
        b"\x80\x80\x80\x80\x80\x00",  # six bytes that mean 0
    ],
)
def test_long_varints_are_refused(data: bytes) -> None:
    """A varint has five bytes at most and fits a signed 32-bit integer."""
    with pytest.raises(MalformedRequestError):
        p.read_varint(data, 0)


def test_a_padded_varint_is_read() -> None:
    """Zeros that a varint could do without are no error: Kafka reads them."""
    assert p.read_varint(b"\x81\x80\x80\x80\x00", 0) == (1, 5)


READERS: list[tuple[Callable[[p.Buffer, int, int], tuple[Any, int]], bytes, object]] = [
    (p.read_string, p.string("né"), "né"),
    (p.read_nullable_string, p.nullable_string("né"), "né"),
    (p.read_nullable_string, p.nullable_string(None), None),
    (p.read_compact_string, p.compact_string("né" * 90), "né" * 90),
    (p.read_compact_nullable_string, p.compact_nullable_string("né"), "né"),
    (p.read_compact_nullable_string, p.compact_nullable_string(None), None),
    (p.read_bytes, p.size(b"abc") + b"abc", b"abc"),
    (p.read_nullable_bytes, p.nullable_size(b"abc") + b"abc", b"abc"),
    (p.read_nullable_bytes, p.nullable_size(None), None),
    (p.read_compact_bytes, p.compact_size(b"abc") + b"abc", b"abc"),
    (p.read_compact_nullable_bytes, p.compact_nullable_size(b"abc") + b"abc", b"abc"),
    (p.read_compact_nullable_bytes, p.compact_nullable_size(None), None),
    (p.read_records, p.nullable_size(b"abc") + b"abc", b"abc"),
    (p.read_records, p.nullable_size(None), None),
    (p.read_compact_records, p.compact_nullable_size(bytes(300)) + bytes(300), bytes(300)),
    (p.read_compact_records, p.compact_nullable_size(None), None),
]


@pytest.mark.parametrize(("read", "data", "value"), READERS)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_values_round_trip(
    read: Callable[[p.Buffer, int, int], tuple[Any, int]],
    data: bytes,
    value: object,
    kind: Callable[[bytes], p.Buffer],
) -> None:
    """Strings and bytes are read from any kind of buffer, from the middle of it."""
    buffer = kind(b"\xff" * 3 + data + b"\xff" * 4)
    assert read(buffer, 3, 3 + len(data)) == (value, 3 + len(data))


@pytest.mark.parametrize(("read", "data", "value"), [row for row in READERS if row[2] is not None])
def test_lengths_beyond_the_end_are_refused(
    read: Callable[[p.Buffer, int, int], tuple[Any, int]], data: bytes, value: object
) -> None:
    """A value may not pass the end of its frame, although the buffer goes on."""
    with pytest.raises(MalformedRequestError):
        read(data + bytes(100), 0, len(data) - 1)


@pytest.mark.parametrize(
    ("read", "null"),
    [
        (p.read_string, b"\xff\xff"),
        (p.read_bytes, b"\xff\xff\xff\xff"),
        (p.read_compact_string, b"\x00"),
        (p.read_compact_bytes, b"\x00"),
        (lambda *args: p.read_count(*args, BUDGET), b"\xff\xff\xff\xff"),
        (lambda *args: p.read_compact_count(*args, BUDGET), b"\x00"),
    ],
)
def test_null_is_refused_where_it_is_not_allowed(
    read: Callable[[p.Buffer, int, int], tuple[Any, int]], null: bytes
) -> None:
    """Null for a value that must be there is an error that says so."""
    with pytest.raises(MalformedRequestError, match="null"):
        read(null + bytes(20), 0, 20)


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (p.read_nullable_string, b"\xff\xfe"),
        (p.read_nullable_bytes, b"\xff\xff\xff\xfe"),
        (p.read_records, b"\xff\xff\xff\xfe"),
        (p.read_records, b"\x80\x00\x00\x00"),
        (lambda *args: p.read_nullable_count(*args, BUDGET), b"\xff\xff\xff\xfe"),
    ],
)
def test_negative_lengths_other_than_null_are_refused(
    read: Callable[[p.Buffer, int, int], tuple[Any, int]], data: bytes
) -> None:
    """-1 is null, -2 is nonsense."""
    with pytest.raises(MalformedRequestError):
        read(data + bytes(20), 0, 20)


def test_counts_are_bounded_by_the_bytes_left() -> None:
    """An array cannot have more elements than there are bytes."""
    assert p.read_count(b"\x00\x00\x00\x02ab", 0, 6, BUDGET) == (2, 4)
    assert p.read_compact_count(b"\x03ab", 0, 3, BUDGET) == (2, 1)
    with pytest.raises(MalformedRequestError):
        p.read_count(b"\x00\x00\x00\x03ab", 0, 6, BUDGET)
    with pytest.raises(MalformedRequestError):
        p.read_compact_count(b"\x04ab", 0, 3, BUDGET)
    with pytest.raises(MalformedRequestError):
        p.read_int32s(bytes(100), 0, 11, 3)
    assert p.read_int32s(struct.pack(">3i", 1, -1, INT32_MAX), 0, 12, 3)[0] == [1, -1, INT32_MAX]


def test_counts_are_bounded_by_the_budget() -> None:
    """An array cannot have more elements than the message has left."""
    data = p.size(bytes(BUDGET + 1)) + bytes(200)
    compact = p.compact_size(bytes(BUDGET + 1)) + bytes(200)
    assert p.read_count(data, 0, 200, BUDGET + 1)[0] == BUDGET + 1
    assert p.read_compact_count(compact, 0, 200, BUDGET + 1)[0] == BUDGET + 1
    for read, buffer in ((p.read_count, data), (p.read_compact_count, compact)):
        with pytest.raises(MalformedRequestError, match="elements"):
            read(buffer, 0, 200, BUDGET)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 126, 127, 200])
def test_arrays_of_integers_are_packed(count: int) -> None:
    """Short and long arrays, both encodings: the length, then the numbers."""
    values = list(range(-1, count - 1))
    packed = struct.pack(f">{count}i", *values)
    assert p.int32s(values) == struct.pack(">i", count) + packed
    assert p.compact_int32s(values) == p.varint(count + 1) + packed


def test_records_are_not_copied() -> None:
    """Records are a view of the buffer: writing to one is writing to the other."""
    buffer = bytearray(p.compact_size(b"abc") + b"abc")
    view, _ = p.read_compact_records(buffer, 0, len(buffer))
    assert view is not None
    buffer[1:2] = b"x"
    assert bytes(view) == b"xbc"
    view[2] = ord("y")
    assert buffer.endswith(b"xby")


def test_tag_sections_are_skipped_by_size() -> None:
    """Unknown tagged fields are passed over, whatever is inside; sizes hold."""
    section = p.tag_section([p.tagged_field(5, [b"a", b"bc"]), p.tagged_field(900, [bytes(200)])])
    assert p.skip_tags(section + b"\xff", 0, len(section)) == len(section)
    assert p.skip_tags(b"\x00", 0, 1) == 1
    with pytest.raises(MalformedRequestError):
        p.skip_tags(section + bytes(9), 0, len(section) - 1)


def test_tag_counts_are_bounded() -> None:
    """More tagged fields than any schema could have are refused before they are walked."""
    most = p.tag_section([p.tagged_field(tag, []) for tag in range(p.TAG_COUNT_MAX)])
    assert p.skip_tags(most, 0, len(most)) == len(most)
    more = p.tag_section([p.tagged_field(tag, []) for tag in range(p.TAG_COUNT_MAX + 1)])
    with pytest.raises(MalformedRequestError):
        p.skip_tags(more, 0, len(more))


def test_known_tags_occur_once_and_fill_their_size() -> None:
    """A known tag given twice, or with a size that its value does not have, is refused."""
    assert p.mark_tag(p.mark_tag(0, 0), 3) == 0b1001
    with pytest.raises(MalformedRequestError):
        p.mark_tag(0b1001, 3)
    p.check_tag_end(7, 7)
    with pytest.raises(MalformedRequestError):
        p.check_tag_end(7, 8)


@pytest.mark.parametrize(
    "error",
    [
        struct.error("short"),
        IndexError("short"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        MalformedRequestError("refused"),
    ],
)
def test_decoders_fail_with_one_error(error: Exception) -> None:
    """Whatever a decoder stumbles over leaves as MalformedRequestError."""

    def decode(buffer: p.Buffer, version: int, position: int, end: int) -> tuple[int, int]:
        raise error

    with pytest.raises(MalformedRequestError):
        p.decode_body(decode, b"", 0, 0, 0)


@pytest.mark.parametrize("stop", [3, 5, 6])
def test_decoders_must_end_at_the_end(stop: int) -> None:
    """Bytes too many, or fields that were read across the end, are refused."""

    def decode(buffer: p.Buffer, version: int, position: int, end: int) -> tuple[str, int]:
        return "message", stop

    with pytest.raises(MalformedRequestError):
        p.decode_body(decode, bytes(10), 0, 0, 4)
    assert p.decode_body(decode, bytes(10), 0, 0, stop) == "message"


def test_a_string_that_is_too_long_is_a_bug_of_ours() -> None:
    """A 16-bit length cannot hold it; the encoder does not cut it."""
    with pytest.raises(struct.error):
        p.string("x" * 40_000)
