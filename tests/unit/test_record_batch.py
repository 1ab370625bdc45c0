"""Record batch headers: what may be appended, and what a server patches in place."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from crc32c import crc32c

from logd.errors import (
    CorruptMessageError,
    InvalidRecordError,
    InvalidTxnStateError,
    MessageTooLargeError,
    RequestError,
    UnsupportedCompressionTypeError,
)
from logd.record import batch
from logd.record.build import NewRecord, encode_batch, set_crc

NOW_MS = 1_700_000_000_000
MAX_MESSAGE_BYTES = 1_048_588


def make_batch(count: int = 3, *, attributes: int = 0, **producer: int) -> bytearray:
    records: list[NewRecord] = [
        (b"key", b"value %d" % number, [], NOW_MS + number) for number in range(count)
    ]
    return encode_batch(records, attributes=attributes, **producer)


def patched(position: int, form: str, value: int, *, crc: bool = True) -> bytearray:
    """A good batch with one field changed, and the CRC made good again."""
    data = make_batch()
    struct.pack_into(form, data, position, value)
    if crc:
        set_crc(data)
    return data


def check(data: bytes | bytearray, *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
    batch.check_appendable(data, 0, len(data), max_message_bytes=max_message_bytes)


def flipped(position: int) -> bytearray:
    data = make_batch()
    data[position] ^= 1
    return data


BAD_BATCHES: list[tuple[str, Callable[[], bytes | bytearray], type[RequestError], str]] = [
    ("no bytes", lambda: b"", InvalidRecordError, "exactly one record batch"),
    ("one byte", lambda: b"\0", CorruptMessageError, "no record batch"),
    ("a header cut short", lambda: make_batch()[:60], CorruptMessageError, "no record batch"),
    ("a message of magic 0, short", lambda: bytes(30), InvalidRecordError, "magic 2, not 0"),
    ("a record cut off", lambda: make_batch()[:-1], CorruptMessageError, "bytes"),
    ("length too large", lambda: patched(8, ">i", 1000), CorruptMessageError, "1012 bytes"),
    ("length negative", lambda: patched(8, ">i", -5), CorruptMessageError, "7 bytes"),
    ("length least of all", lambda: patched(8, ">i", -(2**31)), CorruptMessageError, "bytes"),
    ("length less than a header", lambda: patched(8, ">i", 48), CorruptMessageError, "60 bytes"),
    ("two batches", lambda: make_batch() + make_batch(), InvalidRecordError, "follow the first"),
    ("trailing byte", lambda: make_batch() + b"x", InvalidRecordError, "1 bytes follow"),
    ("magic 0", lambda: patched(16, ">b", 0), InvalidRecordError, "magic 2, not 0"),
    ("magic 1", lambda: patched(16, ">b", 1), InvalidRecordError, "magic 2, not 1"),
    ("magic 3", lambda: patched(16, ">b", 3), CorruptMessageError, "magic 3"),
    ("magic negative", lambda: patched(16, ">b", -1), CorruptMessageError, "magic -1"),
    ("a bad CRC", lambda: patched(17, ">I", 12345, crc=False), CorruptMessageError, "CRC"),
    ("an attribute flipped", lambda: flipped(22), CorruptMessageError, "CRC"),
    ("a record's byte flipped", lambda: flipped(70), CorruptMessageError, "CRC"),
    ("codec 5", lambda: patched(21, ">h", 5), UnsupportedCompressionTypeError, "5"),
    ("codec 6", lambda: patched(21, ">h", 6), UnsupportedCompressionTypeError, "6"),
    ("codec 7", lambda: patched(21, ">h", 7), UnsupportedCompressionTypeError, "7"),
    ("transactional", lambda: patched(21, ">h", 0x10), InvalidTxnStateError, "transactions"),
    ("control", lambda: patched(21, ">h", 0x20), InvalidRecordError, "control"),
    ("control, transactional", lambda: patched(21, ">h", 0x30), InvalidRecordError, "control"),
    ("delete horizon", lambda: patched(21, ">h", 0x40), InvalidRecordError, "delete horizon"),
    ("no records", lambda: encode_batch([]), InvalidRecordError, "0 records"),
    ("count 0", lambda: patched(57, ">i", 0), InvalidRecordError, "0 records"),
    ("count negative", lambda: patched(57, ">i", -1), InvalidRecordError, "-1 records"),
    ("count too large", lambda: patched(57, ">i", 4), InvalidRecordError, "delta 2"),
    ("last offset delta too large", lambda: patched(23, ">i", 3), InvalidRecordError, "delta 3"),
    ("last offset delta too small", lambda: patched(23, ">i", 1), InvalidRecordError, "delta 1"),
    ("last offset delta negative", lambda: patched(23, ">i", -1), InvalidRecordError, "delta -1"),
    (
        "an idempotent batch without sequence",
        lambda: make_batch(producer_id=7, producer_epoch=0),
        InvalidRecordError,
        "epoch and sequence",
    ),
    (
        "an idempotent batch without epoch",
        lambda: make_batch(producer_id=7, base_sequence=0),
        InvalidRecordError,
        "epoch and sequence",
    ),
]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [row[1:] for row in BAD_BATCHES],
    ids=[row[0] for row in BAD_BATCHES],
)
def test_bad_batches_are_refused(
    make: Callable[[], bytes | bytearray], error: type[RequestError], words: str
) -> None:
    """Each kind of bad batch gets its own error, and the bytes stay as they were."""
    data = make()
    before = bytes(data)
    with pytest.raises(error, match=words) as caught:
        check(data)
    assert caught.type is error
    assert data == before


def test_a_batch_of_exactly_the_maximum_passes_and_a_byte_more_does_not() -> None:
    """max.message.bytes counts the whole batch, header included."""
    data = make_batch()
    check(data, max_message_bytes=len(data))
    with pytest.raises(MessageTooLargeError, match=f"has {len(data)} bytes"):
        check(data, max_message_bytes=len(data) - 1)


@pytest.mark.parametrize("codec", range(5))
def test_good_batches_pass_with_every_codec(codec: int) -> None:
    """The records are not looked into, so each codec passes and the header comes back."""
    data = encode_batch(
        [(None, b"v" * 100, [], NOW_MS)], codec=codec, producer_id=7, producer_epoch=0,
        base_sequence=2**31 - 1,
    )  # fmt: skip
    header = batch.check_appendable(data, 0, len(data), max_message_bytes=MAX_MESSAGE_BYTES)
    assert header == batch.read_header(data)
    assert header.codec == codec
    assert header.size == len(data)
    assert header.base_sequence == 2**31 - 1


def test_a_count_that_lies_inside_a_compressed_batch_passes() -> None:
    """Header and CRC agree, so append accepts it; `logd check` finds it (documented)."""
    data = encode_batch([(None, b"v" * 100, [], NOW_MS)], codec=1)
    struct.pack_into(">i", data, 57, 5)
    struct.pack_into(">i", data, 23, 4)
    set_crc(data)
    check(data)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_batch_is_checked_where_it_lies(
    kind: Callable[[bytes], bytes | bytearray | memoryview],
) -> None:
    """Position and size are honoured in any kind of buffer: neighbours do not matter."""
    data = make_batch()
    buffer = kind(b"before " + bytes(data) + b" after")
    header = batch.check_appendable(buffer, 7, len(data), max_message_bytes=MAX_MESSAGE_BYTES)
    assert header.count == 3
    assert batch.has_valid_crc(buffer, 7, header)


def test_every_flipped_byte_is_caught_but_for_the_servers_own_fields() -> None:
    """A flip anywhere fails the check, except in base offset and leader epoch, which it sets."""
    data = make_batch()
    uncovered = set()
    for position in range(len(data)):
        data[position] ^= 0x55
        try:
            check(data)
            uncovered.add(position)
        except RequestError:
            pass  # caught, as it must be
        data[position] ^= 0x55
    assert uncovered == {*range(8), *range(12, 16)}


def test_every_cut_is_caught() -> None:
    """No prefix of a batch is a batch."""
    data = make_batch()
    for size in range(len(data)):
        with pytest.raises(RequestError):
            batch.check_appendable(data, 0, size, max_message_bytes=MAX_MESSAGE_BYTES)


def test_set_place_leaves_the_crc_valid() -> None:
    """Offset and epoch are patched in place, at the batch's position, and nothing else changes."""
    data = make_batch()
    buffer = bytearray(5) + data + bytearray(5)
    batch.set_place(buffer, 5, base_offset=2**40 + 1, leader_epoch=9)
    header = batch.read_header(buffer, 5)
    assert (header.base_offset, header.leader_epoch) == (2**40 + 1, 9)
    assert (header.last_offset, header.next_offset) == (2**40 + 3, 2**40 + 4)
    assert batch.has_valid_crc(buffer, 5, header)
    assert buffer[5 + 16 : -5] == data[16:]
    assert buffer[5 + 8 : 5 + 12] == data[8:12]
    assert buffer[:5] == buffer[-5:] == bytes(5)


@pytest.mark.parametrize("view", [False, True])
def test_log_append_time_recomputes_the_crc(view: bool) -> None:
    """The bit and the max timestamp are set, base timestamp and records stay, the CRC is right."""
    data = make_batch()
    buffer = bytearray(5) + data + bytearray(5)
    target = memoryview(buffer) if view else buffer
    batch.set_log_append_time(target, 5, len(data), now_ms=NOW_MS + 99)
    changed = bytes(buffer[5:-5])
    header = batch.read_header(changed)
    assert header.attributes == batch.LOG_APPEND_TIME_BIT
    assert header.max_timestamp == NOW_MS + 99
    assert header.base_timestamp == NOW_MS
    assert header.crc == crc32c(changed[21:]) != batch.read_header(data).crc
    assert changed[batch.HEADER_BYTES :] == data[batch.HEADER_BYTES :]
    check(changed)


def test_log_append_time_keeps_the_codec() -> None:
    """Setting the timestamp type does not touch the attributes' other bits."""
    data = encode_batch([(None, b"v" * 100, [], NOW_MS)], codec=4)
    batch.set_log_append_time(data, 0, len(data), now_ms=NOW_MS)
    assert batch.read_header(data).attributes == 4 | batch.LOG_APPEND_TIME_BIT


@pytest.mark.parametrize(
    ("position", "form", "value", "plausible"),
    [
        (0, ">q", 0, True),
        (0, ">q", 2**63 - 1, True),
        (0, ">q", -1, False),
        (8, ">i", 49, True),
        (8, ">i", 48, False),
        (8, ">i", -1, False),
        (16, ">b", 1, False),
        (16, ">b", 3, False),
        (23, ">i", -1, False),
        (57, ">i", 0, True),
        (57, ">i", -1, False),
    ],
)
def test_plausible_headers(position: int, form: str, value: int, plausible: bool) -> None:
    """Stored headers are judged by their bounds; an empty batch, as compaction leaves, may be."""
    header = batch.read_header(patched(position, form, value, crc=False))
    assert batch.is_plausible(header) is plausible


def test_a_zero_header_is_not_plausible() -> None:
    """A preallocated or torn tail reads as zeros: never as a batch."""
    assert not batch.is_plausible(batch.read_header(bytes(61)))
