"""Batches that a Kafka client's library built, kept as hex: we read them and write the same.

Each `record_batch_<codec>.hex` holds the four records below as aiokafka 0.14 encodes them. They
must never change: they stand for the data that lies in people's logs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.record import batch, records
from logd.record.build import NewRecord, encode_batch
from logd.record.compression import CODEC_NAMES
from logd.record.records import Record

T0_MS = 1_700_000_000_000
RECORDS: list[NewRecord] = [
    (b"user-1", b'{"event":"login"}', [("trace", b"\x01\x02"), ("empty", None)], T0_MS),
    (None, b"no key", [], T0_MS + 7),
    (b"user-2", None, [], T0_MS - 1000),
    (b"", b"repeat " * 40, [("é", b"")], T0_MS + 70_000),
]


def golden(name: str) -> bytearray:
    return bytearray.fromhex((Path(__file__).parent / f"record_batch_{name}.hex").read_text())


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_golden_batches_are_read(name: str) -> None:
    """Header, CRC and all records of each codec are what the client meant."""
    data = golden(name)
    header = batch.check_appendable(data, 0, len(data), max_message_bytes=len(data))
    assert header.codec == CODEC_NAMES.index(name)
    assert (header.base_timestamp, header.max_timestamp) == (T0_MS, T0_MS + 70_000)
    batch.set_place(data, 0, base_offset=100, leader_epoch=0)
    records.check_records(data)
    assert list(records.iterate(data)) == [
        Record(100 + index, timestamp_ms, key, value, list(headers))
        for index, (key, value, headers, timestamp_ms) in enumerate(RECORDS)
    ]


def test_the_golden_header_field_by_field() -> None:
    """The layout of the header, spelled out once against known bytes."""
    data = golden("none")
    assert batch.read_header(data) == (
        0, len(data) - 12, -1, 2, int.from_bytes(data[17:21], "big"), 0, 3,
        T0_MS, T0_MS + 70_000, 4711, 3, 12, 4,
    )  # fmt: skip


def test_our_bytes_are_the_golden_bytes() -> None:
    """Without compression there is one way to write these records, and we write it."""
    ours = encode_batch(RECORDS, producer_id=4711, producer_epoch=3, base_sequence=12)
    assert ours.hex() == golden("none").hex()


@pytest.mark.parametrize(("name", "header_bytes"), [("snappy", 16), ("lz4", 7)])
def test_our_frames_are_the_golden_frames(name: str, header_bytes: int) -> None:
    """Snappy and LZ4 are framed as clients frame them: magic, versions, flags, block size."""
    ours = encode_batch(RECORDS, codec=CODEC_NAMES.index(name))
    end = batch.HEADER_BYTES + header_bytes
    assert ours[batch.HEADER_BYTES : end] == golden(name)[batch.HEADER_BYTES : end]
