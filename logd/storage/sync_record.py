"""The sync journal's bytes: its header, its records, and which of them count.

The file: a header of 4096 bytes, then two halves of `slots` records of 128 bytes.

    header    size  field
    0         8     magic: "logdsync"
    8         4     version, 1
    12        4     slots in a half
    16        8     XXH3-64 of bytes 0 to 15
    24        4072  zero

    record    size  field
    0         4     magic: "LSR1"
    4         4     partition
    8         8     sequence, higher in each record than in all before
    16        16    topic id
    32        16    boot id of the run that wrote it
    48        8     base offset of the segment
    56        8     synced offset: all below it is on the device
    64        8     position of that offset in the segment's .log
    72        48    zero
    120       8     XXH3-64 of bytes 0 to 119

All numbers are big-endian. Records do not cross a sector of 512 bytes. A slot that fails its
checksum (torn, never written, garbage) holds no record; of the others the highest sequence of a log
wins.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import xxhash

from logd.storage.layout import PARTITIONS_MAX, TOPIC_ID_BYTES

FORMAT_VERSION: Final = 1
HEADER_MAGIC: Final = b"logdsync"
HEADER: Final = struct.Struct(">8sIIQ")
HEADER_BYTES: Final = 4096
RECORD_MAGIC: Final = b"LSR1"
RECORD: Final = struct.Struct(">4siQ16s16sqqq48xQ")
RECORD_BYTES: Final = 128
_CHECKSUM: Final = struct.Struct(">Q")
_CHECKSUM_AT: Final = RECORD_BYTES - _CHECKSUM.size
assert RECORD.size == RECORD_BYTES
assert HEADER_BYTES % RECORD_BYTES == 0

# 512 MiB a half, enough for a million logs; a longer file is read up to here.
SLOTS_MAX: Final = 2**22

LogKey = tuple[bytes, int]


class SyncPoint(NamedTuple):
    """Below `synced_offset` the log is on the device; `position` is its place in the segment."""

    topic_id: bytes
    partition: int
    segment_base: int
    synced_offset: int
    position: int


class FoundRecord(NamedTuple):
    """What a slot holds, its checksum not looked at; slots are counted from the first half's."""

    sequence: int
    slot: int
    key: LogKey
    raw: bytes


def file_bytes(slots: int) -> int:
    """Return how long a file with so many slots in a half is."""
    assert slots > 0
    return HEADER_BYTES + 2 * slots * RECORD_BYTES


def encode_header(slots: int) -> bytes:
    """Return the header of a file with so many slots in a half."""
    assert 0 < slots <= SLOTS_MAX
    start = HEADER.pack(HEADER_MAGIC, FORMAT_VERSION, slots, 0)[:16]
    return (start + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(start))).ljust(HEADER_BYTES, b"\0")


def decode_header(data: bytes) -> tuple[int, int] | None:
    """Return (version, slots in a half) of a header's first bytes; None: it is not intact.

    Of a version that is not ours the slots mean nothing.
    """
    assert len(data) >= HEADER.size
    magic, version, slots, checksum = HEADER.unpack_from(data)
    if magic != HEADER_MAGIC or xxhash.xxh3_64_intdigest(data[:16]) != checksum:
        return None
    return int(version), int(slots)


def encode_record(point: SyncPoint, *, sequence: int, boot_id: bytes) -> bytes:
    """Return a point's record."""
    assert len(point.topic_id) == TOPIC_ID_BYTES
    assert 0 <= point.partition < PARTITIONS_MAX
    start = RECORD.pack(
        RECORD_MAGIC,
        point.partition,
        sequence,
        point.topic_id,
        boot_id,
        point.segment_base,
        point.synced_offset,
        point.position,
        0,
    )[:_CHECKSUM_AT]
    return start + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(start))


def is_intact(raw: bytes) -> bool:
    """Whether a slot holds what was written there."""
    assert len(raw) == RECORD_BYTES
    (checksum,) = _CHECKSUM.unpack_from(raw, _CHECKSUM_AT)
    return bool(xxhash.xxh3_64_intdigest(raw[:_CHECKSUM_AT]) == checksum)


def decode_record(raw: bytes) -> SyncPoint:
    """Return the point of an intact record."""
    assert raw.startswith(RECORD_MAGIC)
    _, partition, _, topic_id, _, base, synced_offset, position, _ = RECORD.unpack(raw)
    return SyncPoint(topic_id, partition, base, synced_offset, position)


def boot_id_of(record: bytes) -> str:
    """Return the boot id of the run that wrote a record, as the kernel prints it."""
    assert len(record) == RECORD_BYTES
    digits = record[32:48].hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def newest_of_each(found: list[FoundRecord]) -> list[FoundRecord]:
    """Return the intact record with the highest sequence of each log, the newest log first.

    Args:
        found: by falling sequence.
    """
    winners: dict[LogKey, FoundRecord] = {}
    for record in found:
        if record.key not in winners and is_intact(record.raw):
            winners[record.key] = record
    assert len(winners) <= len(found)
    return list(winners.values())


def place_to_go_on(
    found: list[FoundRecord], winners: list[FoundRecord], slots: int
) -> tuple[int, int] | None:
    """Return (half, next slot) of a half that holds every winner by itself; None if neither does.

    If both do, it is the one with more room left.

    Args:
        found: by falling sequence.
    """
    wanted = {record.raw for record in winners}
    sequences = {record.sequence for record in winners}
    places: list[tuple[int, int]] = []
    for half in (0, 1):
        inside = [record for record in found if record.slot // slots == half]
        if wanted <= {record.raw for record in inside if record.sequence in sequences}:
            # Slots are written by rising sequence; what lies behind the highest one is older.
            last = next((record for record in inside if is_intact(record.raw)), None)
            places.append((last.slot % slots + 1 if last else 0, half))
    if not places:
        return None
    next_slot, half = min(places)
    assert 0 <= next_slot <= slots
    return half, next_slot
