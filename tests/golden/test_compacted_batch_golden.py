"""What Kafka's own cleaner code makes of a batch, kept as hex: ours is the same, byte for byte.

The files were written by `MemoryRecords.filterTo` of Kafka 4.1.1, from the batch below: all its
records taken out; the last four kept, at `NOW_MS` with delete.retention.ms of a day; and of that
the third and the fifth.
"""

from __future__ import annotations

from pathlib import Path

from logd.record.batch import DELETE_HORIZON_BIT, HEADER_BYTES, BatchHeader, read_header
from logd.record.keys import read_keys
from logd.record.records import BatchBuilder, Headers, check_records, iterate
from logd.record.survivors import delete_horizon_ms, empty_batch, rebuild_batch
from logd.units import DAY_MS

T0_MS = 1_700_000_000_000
NOW_MS = T0_MS + 1_000_000
ROWS: list[tuple[bytes, bytes | None, Headers, int]] = [
    (b"user-1", b"one", [("trace", b"\x01\x02")], T0_MS),
    (b"user-2", None, [], T0_MS + 7),
    (b"user-1", b"two", [], T0_MS - 1000),
    (b"user-3", None, [("e", None)], T0_MS + 70_000),
    (b"user-4", b"x" * 300, [], T0_MS + 5),
]


def golden(name: str) -> bytes:
    return bytes.fromhex((Path(__file__).parent / f"{name}.hex").read_text())


def source() -> bytes:
    builder = BatchBuilder()
    for key, value, headers, timestamp_ms in ROWS:
        builder.append(key, value, headers, timestamp_ms=timestamp_ms)
    return bytes(
        builder.build(
            base_offset=100, leader_epoch=3, producer_id=4711, producer_epoch=2, base_sequence=12
        )
    )


def pieces(batch: bytes) -> tuple[BatchHeader, list[tuple[int, int]]]:
    header = read_header(batch)
    found = read_keys(
        batch,
        HEADER_BYTES,
        len(batch),
        header.count,
        last_delta=header.last_offset_delta,
        want_starts=True,
    )
    return header, list(zip(found.starts, [*found.starts[1:], found.end], strict=True))


def test_an_emptied_batch() -> None:
    """A header alone: no codec, no base timestamp; offsets, producer and latest time stay."""
    assert empty_batch(read_header(source())).hex() == golden("emptied_batch_kafka").hex()


def test_a_batch_that_gets_a_delete_horizon() -> None:
    """The horizon stands in the base timestamp's place, and every record's delta is moved."""
    header, cuts = pieces(source())
    ours = rebuild_batch(header, source(), cuts[1:], horizon_ms=NOW_MS + DAY_MS)
    assert ours.hex() == golden("delete_horizon_batch_kafka").hex()


def test_a_batch_that_has_a_delete_horizon_keeps_it() -> None:
    """Records cut out of such a batch leave horizon and deltas as they are."""
    batch = golden("delete_horizon_batch_kafka")
    header, cuts = pieces(batch)
    ours = rebuild_batch(header, batch, [cuts[1], cuts[3]])
    assert ours.hex() == golden("delete_horizon_kept_kafka").hex()
    assert empty_batch(header).hex() == golden("emptied_batch_kafka").hex()


def test_what_kafka_wrote_is_read() -> None:
    """Times and offsets of the records are the original ones, whatever the header says."""
    batch = golden("delete_horizon_batch_kafka")
    header = read_header(batch)
    check_records(batch)
    assert header.attributes == DELETE_HORIZON_BIT
    assert delete_horizon_ms(header) == NOW_MS + DAY_MS
    assert [(r.offset, r.timestamp_ms, r.key, r.value) for r in iterate(batch)] == [
        (100 + at, timestamp_ms, key, value)
        for at, (key, value, _, timestamp_ms) in enumerate(ROWS)
        if at > 0
    ]
