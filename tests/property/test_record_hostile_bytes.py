"""Any bytes at all: a typed error or a bounded answer, never another exception."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from logd.errors import CorruptRecordsError, RequestError
from logd.record import batch, records
from logd.record.build import encode_batch, set_crc
from logd.record.compression import compress, decompress
from logd.units import KIB

CODECS = st.integers(0, 4)
LIMIT_BYTES = 64 * KIB
EDITS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4)


def edited(data: bytes | bytearray, edits: list[tuple[int, int]], *, start: int = 0) -> bytearray:
    changed = bytearray(data)
    for position, value in edits:
        changed[start + position % (len(changed) - start)] = value
    return changed


def read(data: bytes | bytearray) -> None:
    """Read all records: a bounded number of them or a typed error."""
    try:
        found = list(records.iterate(data, limit_bytes=LIMIT_BYTES))
    except CorruptRecordsError:
        return
    header = batch.read_header(data)
    assert len(found) == header.count
    assert all(header.base_offset <= record.offset <= header.last_offset for record in found)


@settings(max_examples=100, deadline=None)
@given(CODECS, st.binary(max_size=300), st.binary(max_size=20))
def test_random_bytes_decompress_to_an_error_or_little(
    codec: int, data: bytes, before: bytes
) -> None:
    """No input makes a codec raise anything else, or return more than the limit."""
    for candidate in (data, compress(codec, before)[:8] + data):
        try:
            assert len(decompress(codec, candidate, limit_bytes=LIMIT_BYTES)) <= LIMIT_BYTES
        except CorruptRecordsError:
            pass  # the expected refusal


@settings(max_examples=100, deadline=None)
@given(CODECS, st.binary(min_size=1, max_size=500), st.integers(1, 50), EDITS)
def test_edited_streams_decompress_to_an_error_or_little(
    codec: int, data: bytes, repeats: int, edits: list[tuple[int, int]]
) -> None:
    """Streams that are almost right get far into a decoder; the same holds there."""
    packed = edited(compress(codec, data * repeats), edits)
    try:
        assert len(decompress(codec, packed, limit_bytes=LIMIT_BYTES)) <= LIMIT_BYTES
    except CorruptRecordsError:
        pass  # the expected refusal


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_random_payloads(payload: bytes, count: int, last: int) -> None:
    """A good header over any payload, with any count."""
    data = encode_batch([(None, b"", [], 0)])[: batch.HEADER_BYTES] + payload
    struct.pack_into(">i", data, 8, len(data) - batch.LENGTH_OVERHEAD_BYTES)
    struct.pack_into(">i", data, 23, last)
    struct.pack_into(">i", data, 57, count)
    read(data)


@settings(max_examples=100, deadline=None)
@given(CODECS, EDITS, st.integers(0, 30))
def test_edited_batches(codec: int, edits: list[tuple[int, int]], size: int) -> None:
    """Edits anywhere: appending refuses or accepts what is whole, reading stays typed."""
    good = encode_batch(
        [(b"key%d" % n, b"v" * n, [("h", b"1")], 10**12 + n) for n in range(size + 1)], codec=codec
    )
    changed = edited(good, edits)
    try:
        header = batch.check_appendable(changed, 0, len(changed), max_message_bytes=2**20)
    except RequestError:
        header = None
    # The base offset and the leader epoch are the server's: a client may have put anything there.
    same = changed[8:12] == good[8:12] and changed[16:] == good[16:]
    assert (header is not None) == same
    read(changed)
    deep = edited(good, edits, start=batch.HEADER_BYTES)
    set_crc(deep)
    assert batch.check_appendable(deep, 0, len(deep), max_message_bytes=2**20)
    read(deep)
