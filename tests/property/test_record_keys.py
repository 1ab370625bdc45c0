"""The quick reading of keys gives what the careful reading of whole records gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logd.errors import CorruptRecordsError
from logd.record.batch import HEADER_BYTES, read_header
from logd.record.keys import RecordKeys, read_keys
from logd.record.records import BatchBuilder, iterate

BOUNDED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)

keys = st.one_of(
    st.none(), st.binary(max_size=3), st.binary(min_size=60, max_size=70), st.just(b"same key")
)
values = st.one_of(st.none(), st.binary(max_size=4), st.just(b"x" * 70), st.just(b"y" * 9000))
times = st.one_of(st.just(0), st.integers(-(2**40), 2**40))
gaps = st.one_of(st.just(0), st.just(0), st.integers(0, 300))
# What producers send: runs of records of one shape, some broken by an odd one.
shapes = st.lists(st.tuples(keys, values, times, gaps, st.integers(1, 90)), min_size=1, max_size=5)


def build(
    shapes: Sequence[tuple[bytes | None, bytes | None, int, int, int]],
) -> bytearray:
    """Return a batch of runs: (key, value, time, gap before the run, records in it)."""
    builder = BatchBuilder()
    delta = 0
    for key, value, time_ms, gap, count in shapes:
        delta += gap
        for number in range(count):
            own = None if key is None else key + b"%02d" % number if len(key) > 3 else key
            builder.append(own, value, timestamp_ms=time_ms + number // 7, offset_delta=delta)
            delta += 1
    return builder.build()


def read(batch: bytes, *, want_starts: bool = True) -> RecordKeys:
    """Read the keys of a whole, uncompressed batch."""
    header = read_header(batch)
    return read_keys(
        batch,
        HEADER_BYTES,
        len(batch),
        header.count,
        last_delta=header.last_offset_delta,
        want_starts=want_starts,
    )


@BOUNDED
@given(shapes)
def test_keys_offsets_and_tombstones_are_those_of_the_records(
    shapes: list[tuple[bytes | None, bytes | None, int, int, int]],
) -> None:
    """Whatever the shapes of the records, each key, offset and missing value is found."""
    batch = bytes(build(shapes))
    records = list(iterate(batch))
    found = read(batch)
    assert found.keys == [record.key for record in records]
    assert list(found.deltas) == [record.offset for record in records]
    assert found.tombstones == [i for i, record in enumerate(records) if record.value is None]
    assert found.end == len(batch)
    assert read(batch, want_starts=False).starts == []


@BOUNDED
@given(shapes)
def test_each_start_is_where_a_record_begins(
    shapes: list[tuple[bytes | None, bytes | None, int, int, int]],
) -> None:
    """Cut at its start, and at the next one's, a record is the one of that number."""
    batch = bytes(build(shapes))
    found = read(batch)
    ends = [*found.starts[1:], found.end]
    for number, (start, end) in enumerate(zip(found.starts, ends, strict=True)):
        one = read_keys(
            batch, start, end, 1, last_delta=found.deltas[number] + 1, want_starts=False
        )
        assert one.keys == [found.keys[number]]
        assert list(one.deltas) == [found.deltas[number]]


@pytest.mark.parametrize("count", [63, 64, 65, 8191, 8192, 8193, 9000])
def test_offset_deltas_of_every_length_are_read(count: int) -> None:
    """Offset deltas of one, two and three bytes, in one run of equal records."""
    batch = bytes(build([(b"a key", b"value", 0, 0, count)]))
    found = read(batch)
    assert len(found.keys) == count
    assert found.deltas == range(count)
    assert found.keys[-1] == b"a key%02d" % (count - 1)


@BOUNDED
@given(shapes, st.data())
def test_bytes_that_are_no_records_are_refused_and_nothing_else_happens(
    shapes: list[tuple[bytes | None, bytes | None, int, int, int]], data: st.DataObject
) -> None:
    """Any byte changed, or the end cut off: a result of the right length, or the one error."""
    batch = build(shapes)
    at = data.draw(st.integers(HEADER_BYTES, len(batch) - 1), "at")
    batch[at] ^= data.draw(st.integers(1, 255), "by")
    end = data.draw(st.sampled_from([len(batch), at]), "end")
    header = read_header(batch)
    try:
        found = read_keys(
            bytes(batch),
            HEADER_BYTES,
            end,
            header.count,
            last_delta=header.last_offset_delta,
            want_starts=True,
        )
    except CorruptRecordsError:
        return
    assert len(found.keys) == len(found.deltas) == len(found.starts) == header.count
    assert found.end == end


@pytest.mark.parametrize("last_delta", [0, 5])
def test_offset_deltas_outside_the_batch_are_refused(last_delta: int) -> None:
    """A record whose offset delta is not the one that must follow is corrupt."""
    builder = BatchBuilder()
    builder.append(b"k", b"v", timestamp_ms=1, offset_delta=7)
    batch = bytes(builder.build())
    with pytest.raises(CorruptRecordsError):
        read_keys(batch, HEADER_BYTES, len(batch), 1, last_delta=last_delta, want_starts=False)
