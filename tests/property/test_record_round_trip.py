"""Any records, any codec, any split of headers: what is encoded is what comes back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from logd.errors import CorruptRecordsError
from logd.record import batch, records
from logd.record.build import BatchBuilder, NewRecord, encode_batch
from logd.record.compression import compress, decompress
from logd.record.varint import read_varlong, write_varint

CODECS = st.integers(0, 4)
FIELDS = st.none() | st.binary(max_size=200)
HEADERS = st.lists(st.tuples(st.text(max_size=10), FIELDS), max_size=3)
# What a log may see in reality, and what a hostile client may send.
TIMESTAMPS = st.integers(-1, 2**42) | st.integers(-1, 2**62)
RECORDS = st.lists(st.tuples(FIELDS, FIELDS, HEADERS, TIMESTAMPS), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(RECORDS, CODECS, st.integers(0, 2**62))
def test_records_round_trip(
    rows: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]],
    codec: int,
    base_offset: int,
) -> None:
    """Every field of every record survives, the header describes them, and the CRC holds."""
    data = encode_batch(rows, base_offset=base_offset, codec=codec)
    assert [
        (record.key, record.value, record.headers, record.timestamp_ms)
        for record in records.iterate(data)
    ] == rows
    header = batch.check_appendable(data, 0, len(data), max_message_bytes=len(data))
    assert header.max_timestamp == max(row[3] for row in rows)
    assert header.next_offset == base_offset + len(rows)
    null_keys = [index for index, row in enumerate(rows) if row[0] is None]
    assert records.null_key_indexes(data) == null_keys
    records.check_records(data)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 50), min_size=1, max_size=30), st.integers(-1, 51), CODECS)
def test_search_by_time_is_the_first_that_fits(
    timestamps: list[int], sought_ms: int, codec: int
) -> None:
    """The answer is what a plain scan over the records would say."""
    data = encode_batch([(None, b"", [], each) for each in timestamps], codec=codec)
    expected = next(((i, each) for i, each in enumerate(timestamps) if each >= sought_ms), None)
    assert records.first_at_or_after(data, sought_ms) == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=20, unique=True), st.integers(0, 99))
def test_gaps_round_trip(deltas: list[int], after: int) -> None:
    """Any rising offset deltas, as compaction leaves them, come back as offsets."""
    builder = BatchBuilder()
    for delta in sorted(deltas):
        builder.append(b"k", None, timestamp_ms=0, offset_delta=delta)
    data = builder.build(base_offset=7, last_offset_delta=max(deltas) + after)
    assert [record.offset - 7 for record in records.iterate(data)] == sorted(deltas)
    records.check_records(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=5000), st.integers(1, 100), CODECS)
def test_compression_round_trips(data: bytes, repeats: int, codec: int) -> None:
    """Any bytes come back, with a limit of exactly their number."""
    content = data * repeats
    assert decompress(codec, compress(codec, content), limit_bytes=len(content)) == content


@settings(max_examples=100, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=3))
def test_varints_round_trip(value: int, before: bytes) -> None:
    """Any 64-bit number comes back from wherever it stands."""
    out = bytearray(before)
    write_varint(out, value)
    assert read_varlong(bytes(out), len(before)) == (value, len(out))


def _null_keys_one_by_one(data: bytearray) -> list[int] | None:
    try:
        rows = list(records.iterate(data))
    except CorruptRecordsError:
        return None
    return [index for index, record in enumerate(rows) if record.key is None]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(8, 140),
    st.binary(max_size=9),
    st.none() | st.binary(max_size=70),
    st.sampled_from([0, 1, 2**40]),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), max_size=2),
)
def test_null_keys_of_equal_records(
    count: int, key: bytes, value: bytes | None, step_ms: int, flips: list[tuple[int, int]]
) -> None:
    """Records that are looked at by columns are refused where a look at each would refuse them."""
    rows: list[NewRecord] = [(key, value, [], index * step_ms) for index in range(count)]
    data = encode_batch(rows)
    for at, bits in flips:
        data[batch.HEADER_BYTES + at % (len(data) - batch.HEADER_BYTES)] ^= bits
    try:
        found: list[int] | None = records.null_key_indexes(data)
    except CorruptRecordsError:
        found = None
    assert found == _null_keys_one_by_one(data)
