"""Keys, values and snapshots of the offsets log: come back as they went; bad bytes are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logd.errors import CorruptFileError, CorruptRecordsError
from logd.record import group_records as codec
from logd.record.batch import read_header
from logd.record.build import BatchBuilder
from logd.record.last_values import LastValues, gather
from logd.record.records import iterate
from logd.storage.group_snapshot import decode_group_snapshot, encode_group_snapshot

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=40)
BYTES = st.binary(max_size=100)
MEMBERS = st.builds(
    codec.GroupMember, TEXT, st.none() | TEXT, TEXT, TEXT, INT32, INT32, BYTES, BYTES
)
GROUPS = st.builds(
    codec.GroupValue,
    TEXT,
    INT32,
    st.none() | TEXT,
    st.none() | TEXT,
    INT64,
    st.lists(MEMBERS, max_size=4).map(tuple),
)
EDITS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=4)
RECORDS = st.lists(
    st.tuples(
        # Few keys, some of two bytes of length; values on both sides of what is a byte of length.
        st.sampled_from([b"a", b"b" * 60, b"c" * 64, b"d" * 200, b"e" * 9000, None]),
        st.none() | st.binary(max_size=80),
        st.lists(st.tuples(TEXT, st.none() | BYTES), max_size=2),
        st.integers(0, 2**40) | st.just(5000),
    ),
    min_size=1,
    max_size=90,
)


def edited(data: bytes, edits: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for position, value in edits:
        changed[position % len(changed)] = value
    return bytes(changed)


@given(TEXT, TEXT, INT32)
def test_keys_come_back(group: str, topic: str, partition: int) -> None:
    """Decoding a key gives what was encoded."""
    key = codec.encode_offset_key(group, topic, partition)
    assert codec.decode_key(key) == codec.OffsetKey(group, topic, partition)
    assert codec.decode_key(codec.encode_group_key(group)) == codec.GroupKey(group)


@given(INT64, INT32, TEXT, INT64)
def test_offsets_come_back(offset: int, epoch: int, metadata: str, time_ms: int) -> None:
    """Decoding a commit gives what was encoded."""
    value = codec.encode_offset_value(offset, epoch, metadata, commit_timestamp_ms=time_ms)
    assert codec.decode_offset_value(value) == codec.OffsetValue(offset, epoch, metadata, time_ms)


@given(GROUPS)
def test_groups_come_back(group: codec.GroupValue) -> None:
    """Decoding a group gives what was encoded."""
    assert codec.decode_group_value(codec.encode_group_value(group)) == group


@given(GROUPS, TEXT, EDITS, st.integers(0, 4))
def test_edited_bytes_are_a_value_or_an_error(
    group: codec.GroupValue, text: str, edits: list[tuple[int, int]], version: int
) -> None:
    """Whatever was changed, of whatever version: a value or CorruptRecordsError, nothing else."""
    stamp = b"\0" + bytes([version])
    value = codec.encode_offset_value(5, 1, text, commit_timestamp_ms=7)
    for decode, raw in (
        (codec.decode_group_value, codec.encode_group_value(group)),
        (codec.decode_offset_value, value),
        (codec.decode_key, codec.encode_offset_key(text, text, 3)),
    ):
        for candidate in (edited(raw, edits), stamp + edited(raw, edits)[2:]):
            try:
                decode(candidate)
            except CorruptRecordsError:
                pass  # the expected refusal


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_an_error(raw: bytes) -> None:
    """No input makes a decoder raise anything else."""
    for decode in (codec.decode_key, codec.decode_offset_value, codec.decode_group_value):
        try:
            decode(raw)
        except CorruptRecordsError:
            pass  # the expected refusal


def batch_of(
    records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]],
    codec_number: int,
) -> bytes:
    builder = BatchBuilder()
    for key, value, headers, timestamp_ms in records:
        builder.append(key, value, headers, timestamp_ms=timestamp_ms)
    return bytes(builder.build(base_offset=77, codec=codec_number))


@given(RECORDS, st.integers(0, 4), st.binary(max_size=10))
def test_gathered_values_are_those_of_the_records(
    records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]],
    codec_number: int,
    before: bytes,
) -> None:
    """The fast way sees what the careful one does: the last value and time of each key."""
    raw = batch_of(records, codec_number)
    expected = {record.key: (record.value, record.timestamp_ms) for record in iterate(raw)}
    last: LastValues = {}
    gather(before + raw, len(before), read_header(raw), last)
    assert last == expected


@given(RECORDS, EDITS)
def test_gathering_edited_records_is_exact_or_an_error(
    records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]],
    edits: list[tuple[int, int]],
) -> None:
    """Where the careful way reads a batch, the fast one agrees; else it fails as it should."""
    raw = batch_of(records, 0)
    raw = raw[:61] + edited(raw[61:], edits)
    last: LastValues = {}
    try:
        gather(raw, 0, read_header(raw), last)
    except CorruptRecordsError:
        with pytest.raises(CorruptRecordsError):
            list(iterate(raw))
        return
    try:
        found = list(iterate(raw))
    except CorruptRecordsError:
        return  # Offsets and header keys are not looked at by the fast way.
    assert last == {record.key: (record.value, record.timestamp_ms) for record in found}


PAIRS = st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=300)), max_size=20)


@given(PAIRS, st.integers(0, 2**63 - 1), EDITS)
def test_snapshots_come_back_and_edited_ones_are_a_value_or_an_error(
    pairs: list[tuple[bytes, bytes]], offset: int, edits: list[tuple[int, int]]
) -> None:
    """Lengths are checked before they are used, whatever they say."""
    payload = encode_group_snapshot(pairs, topic_id=bytes(16), partition=4, offset=offset)
    assert decode_group_snapshot("x", payload) == (bytes(16), 4, offset, pairs)
    try:
        snapshot = decode_group_snapshot("x", edited(payload, edits))
    except CorruptFileError:
        return
    sizes = [len(key) + len(value) for key, value in snapshot.pairs]
    assert sum(sizes) + 8 * len(sizes) + 32 == len(payload)
