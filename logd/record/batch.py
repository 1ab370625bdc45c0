"""The header of a record batch, magic 2: read it, check it, give it its place in the log.

    position  size  field
    0         8     base offset             set by the server
    8         4     batch length            bytes after this field
    12        4     partition leader epoch  set by the server
    16        1     magic                   2
    17        4     CRC-32C                 of everything from position 21 on
    21        2     attributes              bits 0-2 codec, 3 timestamp type, 4 transactional,
                                            5 control, 6 delete horizon
    23        4     last offset delta
    27        8     base timestamp
    35        8     max timestamp
    43        8     producer id             -1: none
    51        2     producer epoch
    53        4     base sequence
    57        4     record count
    61        …     records, compressed or not

The CRC does not cover the base offset and the leader epoch: the server patches both in place, so
the producer's checksum stays the one that a consumer checks, years later. Batches stay opaque
bytes here.

Source: Apache Kafka, "Record Batch" in the protocol's message format; KIP-98, KIP-101, KIP-534.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from logd.errors import (
    CorruptMessageError,
    InvalidRecordError,
    InvalidTxnStateError,
    MessageTooLargeError,
    UnsupportedCompressionTypeError,
)
from logd.record.crc32c import crc32c

HEADER: Final = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES: Final = 61
assert HEADER.size == HEADER_BYTES

# The base offset and the length field itself come before what `length` counts.
LENGTH_OVERHEAD_BYTES: Final = 12
CRC_START: Final = 21
MAGIC: Final = 2

CODEC_MASK: Final = 0x07
LOG_APPEND_TIME_BIT: Final = 0x08
TRANSACTIONAL_BIT: Final = 0x10
CONTROL_BIT: Final = 0x20
DELETE_HORIZON_BIT: Final = 0x40
CODEC_COUNT: Final = 5  # none, gzip, snappy, lz4, zstd

NO_PRODUCER_ID: Final = -1
NO_TIMESTAMP: Final = -1

# Base offset, length and leader epoch lie side by side: one call writes all three, where the length
# is known. The append path does so; `set_place` is the same for everybody else.
PLACE: Final = struct.Struct(">qii")
_LENGTH: Final = struct.Struct(">i")
_SIZE_AND_MAGIC: Final = struct.Struct(">qiib")
_CRC: Final = struct.Struct(">I")
_ATTRIBUTES: Final = struct.Struct(">h")
_MAX_TIMESTAMP: Final = struct.Struct(">q")

Readable = bytes | bytearray | memoryview
Writable = bytearray | memoryview


class BatchHeader(NamedTuple):
    """The fields of a batch header, in the order of the bytes."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int  # type: ignore[assignment]  # hides tuple.count(), which nobody asks a header for

    @property
    def size(self) -> int:
        """Bytes of the whole batch, header included."""
        return self.length + LENGTH_OVERHEAD_BYTES

    @property
    def last_offset(self) -> int:
        """The offset of the batch's last record (or of the last one it once had)."""
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        """The offset that follows the batch."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def codec(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd; 5 to 7 do not exist."""
        return self.attributes & CODEC_MASK


def read_header(buffer: Readable, position: int = 0) -> BatchHeader:
    """Return the header at `position`, unchecked. The buffer must hold 61 bytes from there."""
    return BatchHeader._make(HEADER.unpack_from(buffer, position))


def check_appendable(
    buffer: Readable, position: int, size: int, *, max_message_bytes: int
) -> BatchHeader:
    """Check the one batch that a producer sent for a partition; return its header.

    The bytes are not changed and the records are not looked into: a count that lies inside a
    compressed batch passes here, and `logd check` finds it.

    Args:
        buffer: holds the batch at `position`; `size` bytes were sent for the partition.
        max_message_bytes: the topic's limit on a batch.

    Raises:
        CorruptMessageError: shorter than a header, lengths that do not fit, unknown magic, bad CRC.
        InvalidRecordError: no batch or several, magic 0 or 1, a count or last offset delta that
            cannot be, a control batch, an idempotent batch without a sequence.
        MessageTooLargeError: larger than max_message_bytes.
        UnsupportedCompressionTypeError: a codec that does not exist.
        InvalidTxnStateError: a transactional batch.
    """
    if size < HEADER_BYTES:
        _refuse_short(buffer, position, size)
    # What `_make` does, without the call: this is once for each batch that is appended.
    header = tuple.__new__(BatchHeader, HEADER.unpack_from(buffer, position))
    (_, length, _, magic, crc, attributes, last_offset_delta, _, _, producer_id, epoch, sequence,
     count) = header  # fmt: skip
    if magic != MAGIC:
        _refuse_magic(magic)
    if length + LENGTH_OVERHEAD_BYTES != size:
        _refuse_length(length, size)
    if size > max_message_bytes:
        raise MessageTooLargeError(
            f"the batch has {size} bytes, max.message.bytes allows {max_message_bytes}"
        )
    if crc32c(memoryview(buffer)[position + CRC_START : position + size]) != crc:
        raise CorruptMessageError("the batch fails its CRC-32C")
    if count < 1 or last_offset_delta != count - 1:
        raise InvalidRecordError(
            f"a batch of {count} records cannot have last offset delta {last_offset_delta}"
        )
    if attributes & ~LOG_APPEND_TIME_BIT:
        _refuse_attributes(attributes)
    if producer_id >= 0 and (sequence < 0 or epoch < 0):
        raise InvalidRecordError(
            f"an idempotent batch needs epoch and sequence, not {epoch} and {sequence}"
        )
    return header


def check_run(
    buffer: Readable,
    position: int,
    *,
    size: int,
    stride: int,
    count: int,
    earliest_ms: int,
    latest_ms: int,
) -> list[tuple[int, int]]:
    """Check batches of one size that lie `stride` bytes apart, as `check_appendable` would.

    Only what most batches are passes here: no idempotent producer, both timestamps given and in
    bounds. The first batch that is anything else ends the run; it is checked by itself, with an
    error that says what is wrong. In one loop, a batch costs a third of what it costs alone.

    Args:
        size: of each batch; the caller has compared it with max.message.bytes.
        count: how many batches there are, all of them inside the buffer.

    Returns:
        (records, max timestamp) of each batch of the run, which may be empty.
    """
    assert HEADER_BYTES <= size <= stride
    length_expected = size - LENGTH_OVERHEAD_BYTES
    unpack = HEADER.unpack_from
    view = memoryview(buffer)
    batches: list[tuple[int, int]] = []
    for at in range(position, position + stride * count, stride):
        (_, length, _, magic, crc, attributes, last_offset_delta, base_timestamp, max_timestamp,
         producer_id, _, _, records) = unpack(buffer, at)  # fmt: skip
        if (
            magic != MAGIC
            or length != length_expected
            or not 0 <= attributes < CODEC_COUNT
            or producer_id >= 0
            or records < 1
            or last_offset_delta != records - 1
            or not earliest_ms <= base_timestamp <= max_timestamp <= latest_ms
            or crc32c(view[at + CRC_START : at + size]) != crc
        ):
            break
        batches.append((records, max_timestamp))
    return batches


def _refuse_short(buffer: Readable, position: int, size: int) -> None:
    if size == 0:
        raise InvalidRecordError("a produce request must have exactly one record batch a partition")
    if size >= _SIZE_AND_MAGIC.size:
        magic = _SIZE_AND_MAGIC.unpack_from(buffer, position)[3]
        if magic != MAGIC:
            _refuse_magic(magic)
    raise CorruptMessageError(f"{size} bytes are no record batch, a header alone has 61")


def _refuse_magic(magic: int) -> None:
    if magic in (0, 1):
        raise InvalidRecordError(f"record batches must have magic 2, not {magic}")
    raise CorruptMessageError(f"unknown magic {magic}")


def _refuse_length(length: int, size: int) -> None:
    end = length + LENGTH_OVERHEAD_BYTES
    if HEADER_BYTES <= end < size:
        raise InvalidRecordError(
            "a produce request must have exactly one record batch a partition, "
            f"but {size - end} bytes follow the first"
        )
    raise CorruptMessageError(f"the batch says {end} bytes, {size} were sent")


def _refuse_attributes(attributes: int) -> None:
    if attributes & CODEC_MASK >= CODEC_COUNT:
        raise UnsupportedCompressionTypeError(f"unknown codec {attributes & CODEC_MASK}")
    if attributes & CONTROL_BIT:
        raise InvalidRecordError("clients may not write control batches")
    if attributes & TRANSACTIONAL_BIT:
        raise InvalidTxnStateError("transactions are not supported by this server")
    if attributes & DELETE_HORIZON_BIT:
        raise InvalidRecordError("clients may not set a delete horizon")


def has_valid_crc(buffer: Readable, position: int, header: BatchHeader) -> bool:
    """Return whether the whole batch at `position`, which must be in the buffer, fits its CRC."""
    view = memoryview(buffer)
    assert position + header.size <= len(view)
    return int(crc32c(view[position + CRC_START : position + header.size])) == header.crc


def is_plausible(header: BatchHeader) -> bool:
    """Return whether stored bytes may be a batch header at all: bounds only, no CRC.

    A run of zeros is not plausible (magic 0), nor is a length that would not hold a header.
    """
    return (
        header.magic == MAGIC
        and header.length >= HEADER_BYTES - LENGTH_OVERHEAD_BYTES
        and header.base_offset >= 0
        and header.last_offset_delta >= 0
        and header.count >= 0
    )


def set_place(buffer: Writable, position: int, *, base_offset: int, leader_epoch: int) -> None:
    """Give the batch its base offset and leader epoch, in place; the CRC covers neither."""
    (length,) = _LENGTH.unpack_from(buffer, position + 8)
    PLACE.pack_into(buffer, position, base_offset, length, leader_epoch)


def set_log_append_time(buffer: Writable, position: int, size: int, *, now_ms: int) -> None:
    """Make `now_ms` the time of all records of the batch, in place, and recompute the CRC."""
    (attributes,) = _ATTRIBUTES.unpack_from(buffer, position + 21)
    _ATTRIBUTES.pack_into(buffer, position + 21, attributes | LOG_APPEND_TIME_BIT)
    _MAX_TIMESTAMP.pack_into(buffer, position + 35, now_ms)
    crc = crc32c(memoryview(buffer)[position + CRC_START : position + size])
    _CRC.pack_into(buffer, position + 17, crc)
