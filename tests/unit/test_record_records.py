"""Records inside batches: read what was written, refuse everything that contradicts itself."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress

import pytest

from logd.errors import CorruptRecordsError, DecompressedTooLargeError
from logd.record import batch, records
from logd.record.build import BatchBuilder, NewRecord, encode_batch, set_crc
from logd.record.compression import compress
from logd.record.records import Record
from logd.record.varint import write_varint

NOW_MS = 1_700_000_000_000
THREE: list[NewRecord] = [
    (b"key", b"value", [("h", b"1"), ("h", None), ("", b"")], NOW_MS),
    (None, None, [], NOW_MS - 5),
    (b"", b"x" * 10_000, [("ключ", b"\xff")], NOW_MS + 70_000),
]


def varints(*values: int) -> bytes:
    out = bytearray()
    for value in values:
        write_varint(out, value)
    return bytes(out)


def raw_batch(payload: bytes, *, count: int, last: int | None = None) -> bytearray:
    """A batch with a hand-made payload and a header that fits but for what is given."""
    data = encode_batch([(None, b"", [], NOW_MS)])
    data[batch.HEADER_BYTES :] = payload
    struct.pack_into(">i", data, 8, len(data) - batch.LENGTH_OVERHEAD_BYTES)
    struct.pack_into(">i", data, 23, count - 1 if last is None else last)
    struct.pack_into(">i", data, 57, count)
    set_crc(data)
    return data


def raw_record(body: bytes, *, length: int | None = None) -> bytes:
    return varints(len(body) if length is None else length) + body


GOOD_BODY = b"\0" + varints(0, 0, -1, 1) + b"v" + varints(0)


@pytest.mark.parametrize("codec", range(5))
def test_what_is_written_is_read(codec: int) -> None:
    """Null, empty and large fields, headers and times survive; offsets count from the base."""
    data = encode_batch(THREE, base_offset=2**40, codec=codec)
    expected = [
        Record(2**40 + index, timestamp_ms, key, value, list(headers))
        for index, (key, value, headers, timestamp_ms) in enumerate(THREE)
    ]
    for form in (bytes, bytearray, memoryview):
        assert list(records.iterate(form(data))) == expected
    records.check_records(data)
    header = batch.read_header(data)
    assert batch.has_valid_crc(data, 0, header)
    assert (header.base_timestamp, header.max_timestamp) == (NOW_MS, NOW_MS + 70_000)


def test_all_the_headers_fields_are_written() -> None:
    """What the builder is told stands in the header."""
    data = encode_batch(
        THREE, base_offset=5, leader_epoch=4, attributes=batch.TRANSACTIONAL_BIT,
        producer_id=7, producer_epoch=3, base_sequence=9,
    )  # fmt: skip
    header = batch.read_header(data)
    assert (header.base_offset, header.leader_epoch, header.magic) == (5, 4, 2)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 3, 9)
    assert header.attributes == batch.TRANSACTIONAL_BIT
    assert (header.count, header.last_offset_delta) == (3, 2)


def test_the_builder_knows_its_size_and_can_build_twice() -> None:
    """size_bytes is the size of the uncompressed batch, before and after building it."""
    builder = BatchBuilder()
    assert builder.size_bytes == batch.HEADER_BYTES
    for key, value, headers, timestamp_ms in THREE:
        builder.append(key, value, headers, timestamp_ms=timestamp_ms)
        assert len(builder.build()) == builder.size_bytes
    assert builder.count == 3
    assert builder.build(codec=1) == builder.build(codec=1)
    assert len(builder.build(codec=1)) < builder.size_bytes


@pytest.mark.parametrize("codec", range(5))
def test_compaction_may_leave_gaps(codec: int) -> None:
    """Offset deltas may skip, also before the first and after the last record."""
    builder = BatchBuilder()
    builder.append(b"k", b"v", timestamp_ms=NOW_MS, offset_delta=3)
    builder.append(b"k", b"v", timestamp_ms=NOW_MS, offset_delta=200)
    builder.append(b"k", b"v", timestamp_ms=NOW_MS)
    data = builder.build(base_offset=1000, last_offset_delta=500, codec=codec)
    assert [record.offset for record in records.iterate(data)] == [1003, 1200, 1201]
    assert batch.read_header(data).next_offset == 1501
    records.check_records(data)


@pytest.mark.parametrize("codec", range(5))
def test_an_empty_batch_has_no_records(codec: int) -> None:
    """Compaction may keep a header alone, to remember offsets and a producer's sequence."""
    data = BatchBuilder().build(base_offset=7, codec=codec, last_offset_delta=9)
    assert list(records.iterate(data)) == []
    records.check_records(data)
    assert records.null_key_indexes(data) == []
    assert records.first_at_or_after(data, 0) is None


def test_header_keys_that_are_no_utf8_lose_nothing() -> None:
    """Clients in C send any bytes: they are read, and written again as they were."""
    body = b"\0" + varints(0, 0, -1, -1, 1, 2) + b"\xff\xfe" + varints(0)
    data = raw_batch(raw_record(body), count=1)
    (record,) = records.iterate(data)
    again = encode_batch([(record.key, record.value, record.headers, NOW_MS)])
    assert again == data


def test_with_log_append_time_all_records_have_the_max_timestamp() -> None:
    """The records' own deltas no longer count."""
    data = encode_batch(THREE)
    batch.set_log_append_time(data, 0, len(data), now_ms=NOW_MS + 5)
    assert {record.timestamp_ms for record in records.iterate(data)} == {NOW_MS + 5}
    records.check_records(data)
    assert records.first_at_or_after(data, NOW_MS + 5) == (0, NOW_MS + 5)
    assert records.first_at_or_after(data, NOW_MS + 6) is None


def test_records_without_timestamp() -> None:
    """-1 is no timestamp and comes back as such."""
    data = encode_batch([(None, b"v", [], -1), (None, b"v", [], -1)])
    assert [record.timestamp_ms for record in records.iterate(data)] == [-1, -1]
    records.check_records(data)


@pytest.mark.parametrize(
    ("timestamp_ms", "expected"),
    [
        (0, (10, NOW_MS)),
        (NOW_MS, (10, NOW_MS)),
        (NOW_MS + 1, (12, NOW_MS + 70_000)),
        (NOW_MS + 70_000, (12, NOW_MS + 70_000)),
        (NOW_MS + 70_001, None),
    ],
)
@pytest.mark.parametrize("codec", [0, 4])
def test_first_at_or_after(timestamp_ms: int, expected: tuple[int, int] | None, codec: int) -> None:
    """Exact, in offset order, also where timestamps are not in order."""
    data = encode_batch(THREE, base_offset=10, codec=codec)
    assert records.first_at_or_after(data, timestamp_ms) == expected


@pytest.mark.parametrize("codec", range(5))
def test_null_key_indexes(codec: int) -> None:
    """An empty key is a key; null keys among others are found, up to the limit."""
    good: list[NewRecord] = [(b"", b"v", [], NOW_MS), (b"k", None, [], NOW_MS)]
    null: NewRecord = (None, b"v", [], NOW_MS)
    assert records.null_key_indexes(encode_batch(good, codec=codec)) == []
    mixed = encode_batch([*good, null, *good, null, null], codec=codec)
    assert records.null_key_indexes(mixed) == [2, 5, 6]
    assert records.null_key_indexes(mixed, limit=2) == [2, 5]


READERS: list[Callable[[bytearray, int], object]] = [
    lambda data, limit: list(records.iterate(data, limit_bytes=limit)),
    records.null_key_indexes,
    records.check_records,
    lambda data, limit: records.first_at_or_after(data, 2**62, limit_bytes=limit),
]


@pytest.mark.parametrize("read", READERS, ids=["iterate", "null key", "check", "by time"])
@pytest.mark.parametrize("codec", range(5))
def test_every_reader_keeps_to_its_limit(
    read: Callable[[bytearray, int], object], codec: int
) -> None:
    """Content of one byte more than allowed is refused, whatever is asked of the batch."""
    builder = BatchBuilder()
    builder.append(b"k", bytes(5000), timestamp_ms=NOW_MS)
    content_bytes = builder.size_bytes - batch.HEADER_BYTES
    data = builder.build(codec=codec)
    read(data, content_bytes)
    with pytest.raises(DecompressedTooLargeError):
        read(data, content_bytes - 1)


BAD_PAYLOADS: list[tuple[str, bytes, int, int | None, str]] = [
    ("no record at all", b"", 1, None, "end after 0 bytes"),
    ("count too large", raw_record(GOOD_BODY), 2, None, "counts 2"),
    ("count immense", raw_record(GOOD_BODY), 2**31 - 1, None, "counts 2147483647"),
    ("count too small", raw_record(GOOD_BODY) * 2, 1, 1, "bytes follow the 1 records"),
    ("trailing byte", raw_record(GOOD_BODY) + b"\0", 1, None, "1 bytes follow"),
    ("record length negative", varints(-1) + GOOD_BODY, 1, None, "record of length -1"),
    ("record length too large", raw_record(GOOD_BODY, length=99), 1, None, "record of length 99"),
    ("record length too small", raw_record(GOOD_BODY, length=4), 1, None, "field of length 1"),
    ("record longer inside", raw_record(GOOD_BODY + b"\0"), 1, None, "1 bytes before its length"),
    ("record of length 0", varints(0) + GOOD_BODY, 1, None, "field of length 1"),
    ("offset delta not 0", raw_record(b"\0" + varints(0, 1, -1, -1, 0)), 1, None, "delta 1"),
    ("offset delta negative", raw_record(b"\0" + varints(0, -1, -1, -1, 0)), 1, None, "delta -1"),
    ("offset delta twice", raw_record(GOOD_BODY) * 2, 2, None, "delta 0 follows 0"),
    ("key length", raw_record(b"\0" + varints(0, 0, -2, -1, 0)), 1, None, "field of length -2"),
    ("key too long", raw_record(b"\0" + varints(0, 0, 9, -1, 0)), 1, None, "field of length 9"),
    ("value length", raw_record(b"\0" + varints(0, 0, -1, -9, 0)), 1, None, "field of length -9"),
    ("headers negative", raw_record(b"\0" + varints(0, 0, -1, -1, -1)), 1, None, "headers of"),
    ("headers too many", raw_record(b"\0" + varints(0, 0, -1, -1, 99, 0)), 1, None, "headers of"),
    ("header key null", raw_record(b"\0" + varints(0, 0, -1, -1, 1, -1, 0)), 1, None, "no key"),
    ("header cut", raw_record(b"\0" + varints(0, 0, -1, -1, 1, 5, 0)), 1, None, "of length 5"),
    ("endless length", b"\xff" * 64, 1, None, "5 bytes"),
    ("endless timestamp", raw_record(b"\0" + b"\xff" * 64), 1, None, "10 bytes"),
    ("huge timestamp", raw_record(b"\0" + varints(2**63 - 1, 0, -1, -1, 0)), 1, None, "64 bits"),
    ("delta beyond 32 bits", raw_record(b"\0" + varints(0, 2**32)), 1, None, "32 bits"),
]


@pytest.mark.parametrize(
    ("payload", "count", "last", "words"),
    [row[1:] for row in BAD_PAYLOADS],
    ids=[row[0] for row in BAD_PAYLOADS],
)
@pytest.mark.parametrize("codec", [0, 1])
def test_records_that_contradict_themselves(
    payload: bytes, count: int, last: int | None, words: str, codec: int
) -> None:
    """Each lie inside a batch is found, compressed or not, although header and CRC are good."""
    data = raw_batch(compress(codec, payload), count=count, last=last)
    struct.pack_into(">h", data, 21, codec)
    with pytest.raises(CorruptRecordsError, match=words):
        list(records.iterate(data))
    with pytest.raises(CorruptRecordsError):
        records.check_records(data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:60], "60 bytes"),
        (lambda data: data[:-1], "there are"),
        (lambda data: data + b"x", "there are"),
        (lambda data: data[:16] + b"\1" + data[17:], "magic 2, not 1"),
        (lambda data: data[:57] + b"\xff\xff\xff\xff" + data[61:], "-1 records"),
        (lambda data: data[:22] + b"\5" + data[23:], "codec 5"),
    ],
)
def test_frames_that_make_no_sense(change: Callable[[bytearray], bytearray], words: str) -> None:
    """The batch must be whole, alone and of magic 2 before its records are looked at."""
    with pytest.raises(CorruptRecordsError, match=words):
        records.check_records(change(encode_batch(THREE)))


@pytest.mark.parametrize(("max_ms", "good"), [(-1, True), (NOW_MS + 70_000, True), (NOW_MS, False)])
def test_check_compares_the_max_timestamp(max_ms: int, good: bool) -> None:
    """A header that promises another latest time than its records have is found; unset is not."""
    data = encode_batch(THREE)
    struct.pack_into(">q", data, 35, max_ms)
    if good:
        records.check_records(data)
    else:
        with pytest.raises(CorruptRecordsError, match="max timestamp"):
            records.check_records(data)


def test_every_cut_of_the_payload_is_found() -> None:
    """No prefix of the records passes for all of them."""
    payload = bytes(encode_batch(THREE[:2])[batch.HEADER_BYTES :])
    for size in range(len(payload)):
        with pytest.raises(CorruptRecordsError):
            records.check_records(raw_batch(payload[:size], count=2))


def test_every_flipped_byte_is_an_error_or_another_record() -> None:
    """Whatever a byte becomes, there is a typed error or three records, never anything else."""
    data = encode_batch([(b"key", b"value", [("h", b"1")], NOW_MS)] * 3)
    for position in range(batch.HEADER_BYTES, len(data)):
        for mask in (0x01, 0x80, 0xFF):
            data[position] ^= mask
            with suppress(CorruptRecordsError):
                assert len(list(records.iterate(data))) == 3
            data[position] ^= mask
    records.check_records(data)
