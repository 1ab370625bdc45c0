"""The last value of each key: what a compacted log means, gathered batch by batch.

For replaying a log of many records and few keys. `records.iterate` gives a record at a time, with
headers and everything; here only keys and values count, a record costs half as much, about 1 us,
and what is superseded is dropped before anybody decodes it. That is worth the loop below.

The rules for malformed bytes are those of `records`: every length is compared with what is left,
and every record ends where its length says.

Source: Apache Kafka, "Record" in the protocol's message format; see `records`.
"""

from __future__ import annotations

from typing import Final

from logd.errors import CorruptRecordsError
from logd.record import batch
from logd.record.batch import BatchHeader
from logd.record.compression import decompress
from logd.record.records import CONTENT_BYTES_MAX
from logd.record.varint import read_varint, read_varlong

LastValues = dict[bytes | None, tuple[bytes | None, int]]
"""Key to (value or None for a tombstone, timestamp in milliseconds).

The key None, which no compacted topic should hold, stands for all records without a key.
"""

_NULL: Final = -1
_MORE: Final = 0x80
"""The bit of a varint's byte that says that another one follows."""


def gather(
    data: bytes,
    position: int,
    header: BatchHeader,
    last: LastValues,
    *,
    limit_bytes: int = CONTENT_BYTES_MAX,
) -> None:
    """Put the records of the batch at `position` into `last`; later ones replace earlier ones.

    The CRC is not looked at. Control batches hold no records.

    Args:
        limit_bytes: what the records may decompress to.

    Raises:
        CorruptRecordsError: a record is malformed; `last` holds those before it.
    """
    start, end = position + batch.HEADER_BYTES, position + header.size
    time_ms, is_fixed = header.base_timestamp, False
    if header.attributes & batch.CONTROL_BIT:
        return
    if header.attributes & batch.LOG_APPEND_TIME_BIT:
        time_ms, is_fixed = header.max_timestamp, True
    if header.codec and start < end:
        payload = memoryview(data)[start:end]
        data = decompress(header.codec, payload, limit_bytes=limit_bytes)
        start, end = 0, len(data)
    gather_plain(data, start, end, header.count, last, time_ms=time_ms, is_fixed=is_fixed)


def gather_plain(
    data: bytes,
    position: int,
    end: int,
    count: int,
    last: LastValues,
    *,
    time_ms: int,
    is_fixed: bool = False,
) -> None:
    """As `gather`, of `count` records that are not compressed and fill `position` to `end`.

    Args:
        time_ms: the batch's base timestamp.
        is_fixed: every record has that time, whatever it says itself.
    """
    try:
        for _ in range(count):
            # Nearly all records: one or two bytes of length, no time of their own, a key of less
            # than 8 KiB, a value of less than 64 bytes, no headers. Whatever is not plainly so is
            # left to the careful way.
            first, second = data[position], data[position + 1]
            if first < _MORE:
                at = position + 1
                record_end = at + (first >> 1)
            else:
                at = position + 2
                record_end = at + ((first & 0x7F | second << 7) >> 1)
            key_start, size, more = at + 4, data[at + 3], data[at + 4]
            if size >= _MORE:
                key_start, size, more = at + 5, size & 0x7F | more << 7, more & _MORE
            else:
                more = 0
            key_end = key_start + (size >> 1)
            value_size = data[key_end] if key_end < end else _MORE
            # The value must reach up to the last byte, which says that there are no headers.
            is_plain = (
                value_size == (record_end - key_end - 2) << 1 < _MORE
                and record_end <= end
                and not (first | size) & 1 | first & second & _MORE | more
                and not data[at + 1] | data[at + 2] & _MORE | data[record_end - 1]
            )
            if is_plain:
                last[data[key_start:key_end]] = data[key_end + 1 : record_end - 1], time_ms
                position = record_end
            else:
                position = _gather_one(data, position, end, last, time_ms, is_fixed)
    except IndexError as error:
        raise CorruptRecordsError(f"the batch ends before its {count} records do") from error
    if position != end:
        raise CorruptRecordsError(f"{end - position} bytes follow the {count} records")


def _gather_one(
    data: bytes, position: int, end: int, last: LastValues, time_ms: int, is_fixed: bool
) -> int:
    """Take the record at `position`, whatever it looks like; return the position after it."""
    length, position = read_varint(data, position)
    record_end = position + length
    if length < 0 or record_end > end:
        _refuse("record", length, end - position)
    delta_ms, position = read_varlong(data, position + 1)  # Behind a byte of attributes.
    _, position = read_varint(data, position)  # The offset delta: nobody asks for the offset.
    key, position = _read_field(data, position, record_end)
    value, position = _read_field(data, position, record_end)
    count, position = read_varint(data, position)
    for _ in range(2 * count):
        _, position = _read_field(data, position, record_end)
    if count < 0 or position != record_end:
        raise CorruptRecordsError(f"a record does not end where its length says, at {record_end}")
    last[key] = value, time_ms if is_fixed else time_ms + delta_ms
    return position


def _read_field(data: bytes, position: int, end: int) -> tuple[bytes | None, int]:
    """Return the key or value at `position` and the position after it."""
    length, position = read_varint(data, position)
    if length < 0:
        if length != _NULL:
            _refuse("field", length, end - position)
        return None, position
    if position + length > end:
        _refuse("field", length, end - position)
    return data[position : position + length], position + length


def _refuse(what: str, length: int, rest: int) -> None:
    raise CorruptRecordsError(f"a {what} of length {length} cannot be, {rest} bytes are left")
