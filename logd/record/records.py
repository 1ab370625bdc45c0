"""The records inside a batch: iterate, search by time, check against the header.

    length           varint   bytes after this field
    attributes       int8     none are defined
    timestamp delta  varlong  from the batch's base timestamp
    offset delta     varint   from the batch's base offset
    key              varint length (-1: null), bytes
    value            varint length (-1: null), bytes
    headers          varint count, then key (never null) and value each as above

What is read here came from a client and passed only the checks of the header: nothing inside is
trusted. Every length is compared with the bytes that are left before it is used, every record must
end where its length says, offset deltas rise strictly and stay within the last offset delta (so a
batch without gaps has 0, 1, 2, …; compaction leaves gaps), and records and header must agree on
the count.

The append path does not come here, except for compacted topics; `logd check` and `logd consume` do.

Source: Apache Kafka, "Record" in the protocol's message format.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from logd.errors import CorruptRecordsError
from logd.record import batch
from logd.record.batch import BatchHeader, Readable
from logd.record.build import BatchBuilder, Headers, NewRecord, encode_batch
from logd.record.compression import decompress
from logd.record.keys import is_plain
from logd.record.varint import read_varint, read_varlong
from logd.units import INT64_MAX, MIB

__all__ = [
    "CONTENT_BYTES_MAX",
    "NULL_KEYS_MAX",
    "BatchBuilder",
    "Headers",
    "NewRecord",
    "Record",
    "check_records",
    "encode_batch",
    "first_at_or_after",
    "iterate",
    "null_key_indexes",
]

# More than the largest request holds (socket.request.max.bytes, 100 MiB), so that whatever was
# appended uncompressed can be read; producers limit their batches before compression.
CONTENT_BYTES_MAX: Final = 128 * MIB

# A producer is told each of its records that lacks a key, but not a million of them.
NULL_KEYS_MAX: Final = 1000

# With a timestamp delta of five bytes there is still a time of 64 bits.
_PLAIN_TIME_MAX: Final = INT64_MAX // 2


class Record(NamedTuple):
    """One record, as a consumer sees it."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def iterate(data: Readable, *, limit_bytes: int = CONTENT_BYTES_MAX) -> Iterator[Record]:
    """Yield the records of the whole batch in `data`, in order.

    The CRC is not looked at. Errors come when the iteration reaches them: records that were
    yielded before are what the batch holds, but the batch contradicts itself.

    A header key that is no UTF-8 is decoded with `surrogateescape`, so no byte is lost.

    Args:
        data: one batch, header included, and nothing else.
        limit_bytes: the most content that its records may decompress to.

    Raises:
        DecompressedTooLargeError: there is more content than `limit_bytes`.
        CorruptRecordsError: the batch or a record is malformed, or records contradict the header.
    """
    header = _read_whole_header(data)
    yield from _records(_content(data, header, limit_bytes), header)


def _content(data: Readable, header: BatchHeader, limit_bytes: int) -> bytes:
    payload = memoryview(data)[batch.HEADER_BYTES :]
    # Compaction may keep only the header of a batch, codec bits included.
    if header.count == 0 and not payload:
        return b""
    return decompress(header.codec, payload, limit_bytes=limit_bytes)


def _records(content: bytes, header: BatchHeader) -> Iterator[Record]:
    try:
        yield from _parse(content, header)
    except IndexError as error:
        raise CorruptRecordsError(
            f"the records end after {len(content)} bytes, the header counts {header.count} records"
        ) from error


def null_key_indexes(
    data: Readable, limit_bytes: int = CONTENT_BYTES_MAX, *, limit: int = NULL_KEYS_MAX
) -> list[int]:
    """Return which records of the batch have no key: a compacted topic cannot keep them.

    They are counted from 0, gaps in the offsets or not; no more than the first `limit`.

    Raises:
        CorruptRecordsError: as `iterate`, unless that many null keys come first.
    """
    header = _read_whole_header(data)
    content = _content(data, header, limit_bytes)
    if (
        header.count == header.last_offset_delta + 1
        and abs(header.base_timestamp) <= _PLAIN_TIME_MAX
        and is_plain(content, header.count)
    ):
        return []
    rows = enumerate(_records(content, header))
    return list(islice((index for index, record in rows if record.key is None), limit))


def first_at_or_after(
    data: Readable, timestamp_ms: int, *, limit_bytes: int = CONTENT_BYTES_MAX
) -> tuple[int, int] | None:
    """Return offset and timestamp of the first record with at least this timestamp, if any.

    Raises:
        CorruptRecordsError: as `iterate`, unless the record comes first.
    """
    for record in iterate(data, limit_bytes=limit_bytes):
        if record.timestamp_ms >= timestamp_ms:
            return record.offset, record.timestamp_ms
    return None


def check_records(data: Readable, limit_bytes: int = CONTENT_BYTES_MAX) -> None:
    """Check all of the batch but its CRC: every record, the count, the greatest timestamp.

    A max timestamp of -1 passes: some producers never set it.

    Raises:
        CorruptRecordsError: says what contradicts what.
    """
    header = _read_whole_header(data)
    latest_ms = max(
        (record.timestamp_ms for record in iterate(data, limit_bytes=limit_bytes)),
        default=header.max_timestamp,
    )
    if header.max_timestamp not in (batch.NO_TIMESTAMP, latest_ms):
        raise CorruptRecordsError(
            f"the header's max timestamp is {header.max_timestamp}, the records' is {latest_ms}"
        )


def _read_whole_header(data: Readable) -> BatchHeader:
    if len(data) < batch.HEADER_BYTES:
        raise CorruptRecordsError(f"{len(data)} bytes are no record batch, a header alone has 61")
    header = batch.read_header(data)
    if header.magic != batch.MAGIC:
        raise CorruptRecordsError(f"record batches have magic 2, not {header.magic}")
    if header.size != len(data):
        raise CorruptRecordsError(f"the batch says {header.size} bytes, there are {len(data)}")
    if header.count < 0:
        raise CorruptRecordsError(f"a batch cannot have {header.count} records")
    return header


def _parse(content: bytes, header: BatchHeader) -> Iterator[Record]:
    """Yield the records in `content`; IndexError where it ends too early."""
    base_offset, last_offset_delta = header.base_offset, header.last_offset_delta
    base_timestamp, fixed_timestamp = header.base_timestamp, _append_time(header)
    make_record = Record._make
    position, previous_delta, size = 0, -1, len(content)
    for _ in range(header.count):
        length, position = read_varint(content, position)
        end = position + length
        if length < 0 or end > size:
            _refuse_length("record", length, size - position)
        # One byte of attributes comes first; none are defined.
        delta_ms, position = read_varlong(content, position + 1)
        delta, position = read_varint(content, position)
        if not previous_delta < delta <= last_offset_delta:
            _refuse_delta(delta, previous_delta, last_offset_delta)
        previous_delta = delta
        key, position = _read_field(content, position, end)
        value, position = _read_field(content, position, end)
        byte = content[position]
        if byte:
            headers, position = _read_headers(content, position, end)
        else:
            headers, position = [], position + 1
        if position != end:
            raise CorruptRecordsError(f"a record ends {end - position} bytes before its length")
        timestamp = base_timestamp + delta_ms if fixed_timestamp is None else fixed_timestamp
        if not -INT64_MAX <= timestamp <= INT64_MAX:
            raise CorruptRecordsError(f"timestamp {timestamp} does not fit 64 bits")
        yield make_record((base_offset + delta, timestamp, key, value, headers))
    if position != size:
        raise CorruptRecordsError(
            f"{size - position} bytes follow the {header.count} records that the header counts"
        )


def _append_time(header: BatchHeader) -> int | None:
    """Return the one timestamp of all records, if the server set it at append."""
    return header.max_timestamp if header.attributes & batch.LOG_APPEND_TIME_BIT else None


def _read_field(content: bytes, position: int, end: int) -> tuple[bytes | None, int]:
    """Return the key or value at `position` and the position after it."""
    length, position = read_varint(content, position)
    if length >= 0:
        after = position + length
        if after > end:
            _refuse_length("field", length, end - position)
        return content[position:after], after
    if length != -1:
        _refuse_length("field", length, end - position)
    return None, position


def _read_headers(
    content: bytes, position: int, end: int
) -> tuple[list[tuple[str, bytes | None]], int]:
    """Return the headers at `position` and the position after them."""
    count, position = read_varint(content, position)
    # Each takes two bytes at least: its lengths.
    if not 0 <= count <= (end - position) // 2:
        _refuse_length("list of headers", count, end - position)
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        key, position = _read_field(content, position, end)
        if key is None:
            raise CorruptRecordsError("a header has no key")
        value, position = _read_field(content, position, end)
        headers.append((key.decode("utf-8", "surrogateescape"), value))
    return headers, position


def _refuse_length(what: str, length: int, rest: int) -> None:
    raise CorruptRecordsError(f"a {what} of length {length} cannot be, {rest} bytes are left")


def _refuse_delta(delta: int, previous: int, last: int) -> None:
    raise CorruptRecordsError(f"offset delta {delta} follows {previous}, the last one is {last}")
