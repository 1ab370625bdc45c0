"""The keys of a batch's records, and where each record lies: all that compaction looks at.

A log of a gigabyte has ten million records, and a loop over them in bytecode is the whole cost of
compacting it. Most producers send records of one length in a row (telemetry, fixed schemas), which
differ in their varints only where they must. For such a run the bytes at one place of every record
are a column, `data[at::stride]`, and columns are compared, counted and cut by C code:

    length                 the same in all
    timestamp delta        any, of the same number of bytes
    offset delta           exactly the numbers from here on
    key length             the same in all
    value length           1, which is -1, in tombstones

`Struct.iter_unpack` then cuts the keys out. Where the next record differs, it is read by itself,
with every length checked, and begins a run again. On records of 100 bytes the columns cost 0.1 us a
record and the walk about 0.5.

What lies behind the key is not looked at, except whether there is a value.

Source: Apache Kafka, "Record" in the protocol's message format; see `records`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple

from logd.errors import CorruptRecordsError
from logd.record.varint import read_varint, read_varlong

RUN_MIN: Final = 8
"""Fewer equal records are not worth the columns."""

KEYS_AT_ONCE: Final = 64
"""Cut out by one call: a tuple for each key alone takes three times as long."""

PLAIN_RUNS_MAX: Final = 16
"""Records of more lengths than this are no faster by runs."""

PLAIN_TIME_BYTES_MAX: Final = 5

_MORE: Final = 0x80
_NULL_LENGTH: Final = 1  # -1, as a varint
_TOP_BIT: Final = bytes(byte >> 7 for byte in range(256))
_TWO_BYTES_FROM: Final = 64
_THREE_BYTES_FROM: Final = 8192
# The offset deltas 0, 1, 2, ... as varints: the first bytes and, from 64 on, the second ones.
_DELTA_FIRST: Final = bytes(
    delta << 1 & 0x7F | (_MORE if delta >= _TWO_BYTES_FROM else 0)
    for delta in range(_THREE_BYTES_FROM)
)
_DELTA_SECOND: Final = bytes(delta >> 6 for delta in range(_THREE_BYTES_FROM))


@dataclass(slots=True)
class RecordKeys:
    """The records of a batch, in order.

    Attributes:
        keys: None for a record without one.
        starts: where each record begins, in the data that was given; empty if not asked for.
        deltas: their offset deltas; a range where they have no gaps.
        tombstones: the indexes of records without a value, rising.
        end: where the last one ends.
    """

    keys: list[bytes | None] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    deltas: Sequence[int] = ()
    tombstones: list[int] = field(default_factory=list)
    end: int = 0


def read_keys(
    data: bytes, position: int, end: int, count: int, *, last_delta: int, want_starts: bool
) -> RecordKeys:
    """Return the keys of `count` records that are not compressed and fill `position` to `end`.

    Args:
        last_delta: the batch's last offset delta. Where it says that there is no gap, there must be
            none.

    Raises:
        CorruptRecordsError: lengths that do not fit, offset deltas that do not rise.
    """
    found = RecordKeys()
    try:
        if count == last_delta + 1:
            found.deltas = range(count)
            _read_dense(found, data, position, end, count, want_starts)
        else:
            _read_sparse(found, data, position, end, count, last_delta, want_starts)
    except (IndexError, struct.error) as error:
        raise CorruptRecordsError(f"the batch ends before its {count} records do") from error
    if found.end != end:
        raise CorruptRecordsError(f"{end - found.end} bytes follow the {count} records")
    return found


def _read_dense(
    found: RecordKeys, data: bytes, position: int, end: int, count: int, want_starts: bool
) -> None:
    """Read records whose offset deltas are 0, 1, 2, ...: by runs where there are any."""
    index = 0
    misses = 0
    while index < count:
        if misses < 2 and count - index >= RUN_MIN:
            run = _find_run(data, position, end, index, count)
            if run is not None:
                _take_run(found, data, position, index, run)
                run_end = position + run.records * run.stride
                if want_starts:
                    found.starts.extend(range(position, run_end, run.stride))
                index += run.records
                position = run_end
                misses = 0
                continue
            misses += 1
        # After two misses the batch counts as irregular, and the walk goes to its end.
        stop = count if misses >= 2 else index + 1
        position = _walk(found, data, position, end, index, stop, want_starts)
        index = stop
    found.end = position


def _walk(
    found: RecordKeys,
    data: bytes,
    position: int,
    end: int,
    index: int,
    stop: int,
    want_starts: bool,
) -> int:
    """Read the records `index` to `stop`, which have their index as offset delta."""
    append = found.keys.append
    for number in range(index, stop):
        if want_starts:
            found.starts.append(position)
        # Most records: two bytes of length at most, a short timestamp delta and key, and an offset
        # delta of at most two bytes. Whatever is not plainly so is read the careful way.
        first, second = data[position], data[position + 1]
        if first < _MORE:
            at = position + 1
            record_end = at + (first >> 1)
        else:
            at = position + 2
            record_end = at + ((first & 0x7F | second << 7) >> 1)
        at += 1  # Behind the attributes.
        while data[at] >= _MORE:
            at += 1
        at += 1
        delta = data[at]
        if delta >= _MORE:
            at += 1
            delta = delta & 0x7F | data[at] << 7
        key_size = data[at + 1]
        key_start = at + 2
        key_end = key_start + (key_size >> 1)
        if (
            (first | key_size) & 1
            or first & second & _MORE
            or delta != number << 1
            or key_size >= _MORE
            or key_end >= record_end
        ):
            position = _read_one(found, data, position, end, number)
            continue
        append(data[key_start:key_end])
        if data[key_end] == _NULL_LENGTH:
            found.tombstones.append(number)
        position = record_end
    if position > end:
        raise CorruptRecordsError(f"a record ends {position - end} bytes behind its batch")
    return position


def _read_one(found: RecordKeys, data: bytes, position: int, end: int, number: int) -> int:
    """Read one record, whatever it looks like, with this offset delta; return where it ends."""
    delta, key, has_value, record_end = _parse(data, position, end)
    if delta != number:
        raise CorruptRecordsError(f"the record of offset delta {number} says {delta}")
    if not has_value:
        found.tombstones.append(number)
    found.keys.append(key)
    return record_end


def _read_sparse(
    found: RecordKeys,
    data: bytes,
    position: int,
    end: int,
    count: int,
    last_delta: int,
    want_starts: bool,
) -> None:
    """Read records with gaps between their offsets, which compaction left."""
    deltas: list[int] = []
    previous = -1
    for number in range(count):
        if want_starts:
            found.starts.append(position)
        delta, key, has_value, position = _parse(data, position, end)
        if not previous < delta <= last_delta:
            raise CorruptRecordsError(
                f"offset delta {delta} follows {previous}, the last one is {last_delta}"
            )
        if not has_value:
            found.tombstones.append(number)
        found.keys.append(key)
        deltas.append(delta)
        previous = delta
    found.deltas = deltas
    found.end = position


def _parse(data: bytes, position: int, end: int) -> tuple[int, bytes | None, bool, int]:
    """Return offset delta, key, whether there is a value, and the end of the record."""
    length, at = read_varint(data, position)
    record_end = at + length
    if length < 0 or record_end > end:
        raise CorruptRecordsError(f"a record of length {length} cannot be, {end - at} bytes left")
    _, at = read_varlong(data, at + 1)  # Behind a byte of attributes.
    delta, at = read_varint(data, at)
    size, at = read_varint(data, at)
    if size < -1 or at + size > record_end:
        raise CorruptRecordsError(f"a key of length {size} cannot be, {record_end - at} bytes left")
    key = None
    if size >= 0:
        key = data[at : at + size]
        at += size
    value_size, at = read_varint(data, at)
    if value_size < -1 or at > record_end:
        raise CorruptRecordsError(f"a value of length {value_size} cannot be")
    return delta, key, value_size != -1, record_end


# --- runs of equal records ------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _key_struct(before: int, size: int, after: int, count: int) -> struct.Struct:
    return struct.Struct(f"{before}x{size}s{after}x" * count)


def _varint_end(data: bytes, position: int) -> int:
    while data[position] >= _MORE:
        position += 1
    return position + 1


class _Run(NamedTuple):
    """Equal records, one behind the other.

    Attributes:
        records: how many.
        stride: bytes of each.
        before: bytes of each that stand before its key.
        key_bytes: of its key.
        time_bytes: of its timestamp delta.
    """

    records: int
    stride: int
    before: int
    key_bytes: int
    time_bytes: int


def _find_run(data: bytes, position: int, end: int, index: int, count: int) -> _Run | None:
    """Return as many equal records as there are from here on; None for too few."""
    length, body = read_varint(data, position)
    stride = body - position + length
    time_end = _varint_end(data, body + 1)
    delta_end = _varint_end(data, time_end)
    key_size, key_start = read_varint(data, delta_end)
    key_end = key_start + key_size
    limit = _TWO_BYTES_FROM if index < _TWO_BYTES_FROM else _THREE_BYTES_FROM
    most = min(count, limit) - index
    if length <= 0 or key_size < 0 or key_end >= position + stride or most <= 0:
        return None
    most = min(most, (end - position) // stride)
    if delta_end - time_end != 1 + (index >= _TWO_BYTES_FROM):
        return None
    stop = position + most * stride
    same = chain(range(position, body), range(delta_end, key_start))
    taken = _equal_records(data, same, stop, stride, most)
    if taken >= RUN_MIN:
        stop = position + taken * stride
        taken = _equal_widths(data, range(body + 1, time_end), stop, stride, taken)
    if taken < RUN_MIN:
        return None
    stop = position + taken * stride
    if data[time_end:stop:stride] != _DELTA_FIRST[index : index + taken] or (
        delta_end - time_end == 2
        and data[time_end + 1 : stop : stride] != _DELTA_SECOND[index : index + taken]
    ):
        return None
    return _Run(taken, stride, key_start - position, key_size, time_end - body - 1)


def _equal_records(data: bytes, places: Iterable[int], stop: int, stride: int, most: int) -> int:
    """Return how many records have the first one's bytes at these places."""
    for at in places:
        column = data[at:stop:stride]
        different = len(column.lstrip(column[:1]))
        most = min(most, len(column) - different)
    return most


def _equal_widths(data: bytes, places: range, stop: int, stride: int, most: int) -> int:
    """Return how many records have varints at these places that end where the first one's do."""
    for at in places:
        column = data[at:stop:stride].translate(_TOP_BIT)
        different = len(column.lstrip(column[:1]))
        most = min(most, len(column) - different)
    return most


def _take_run(found: RecordKeys, data: bytes, position: int, index: int, run: _Run) -> None:
    """Add the keys of a run's records, which begin at `position`."""
    count, stride, before, key_size, _ = run
    after = stride - before - key_size
    stop = position + count * stride
    many = position + count // KEYS_AT_ONCE * stride * KEYS_AT_ONCE
    view = memoryview(data)
    for start, end, at_once in ((position, many, KEYS_AT_ONCE), (many, stop, 1)):
        if start < end:
            cut = _key_struct(before, key_size, after, at_once).iter_unpack(view[start:end])
            found.keys.extend(chain.from_iterable(cut))
    values = data[position + before + key_size : stop : stride]
    if _NULL_LENGTH in values:
        found.tombstones.extend(
            index + number for number, byte in enumerate(values) if byte == _NULL_LENGTH
        )


def is_plain(data: bytes, count: int) -> bool:
    """Return whether `data` is `count` records with keys, without headers or gaps, in a few runs.

    True: their timestamp deltas have five bytes at most, and there is nothing else in them that
    `records.iterate` could refuse. False: nobody knows.
    """
    index = position = 0
    for _ in range(PLAIN_RUNS_MAX):
        if index == count:
            break
        try:
            run = _find_run(data, position, len(data), index, count)
            if run is None or not _is_plain_run(data, position, run):
                return False
        except (IndexError, CorruptRecordsError):
            return False
        index += run.records
        position += run.records * run.stride
    return index == count and position == len(data)


def _is_plain_run(data: bytes, position: int, run: _Run) -> bool:
    """Return whether behind the keys there are values of one length, and no headers."""
    key_end = position + run.before + run.key_bytes
    last, stop = position + run.stride - 1, position + run.records * run.stride
    value_bytes, value_start = read_varint(data, key_end)
    lengths = range(key_end, value_start)
    return (
        run.time_bytes <= PLAIN_TIME_BYTES_MAX
        and value_bytes >= -1
        and value_start + max(value_bytes, 0) == last
        and _equal_records(data, lengths, stop, run.stride, run.records) == run.records
        and not any(data[last : stop : run.stride])
    )
