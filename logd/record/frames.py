"""Where an LZ4 or zstd frame ends, and how much it can hold: found by walking its block headers.

Both libraries decompress happily past a frame's end, stop silently where a frame is cut, or
believe the content size that the frame claims. So the frame is walked first, without decompressing
anything: a few bytes a block. What comes out is trustworthy because it is counted, not claimed:

* the frame is whole, and nothing follows it;
* `content_bytes_max`, a bound on the content that the input's own size enforces, so that a buffer
  for a few kilobytes of input is never a claimed gigabyte.

Checksums are left to the libraries, which verify them while they decompress.

Source: LZ4 Frame Format 1.6.x; RFC 8878 (Zstandard), section 3.1.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from logd.errors import CorruptRecordsError, DecompressedTooLargeError
from logd.record.batch import Readable
from logd.units import KIB, MIB

LZ4_MAGIC: Final = 0x184D2204
ZSTD_MAGIC: Final = 0xFD2FB528

# Blocks are 64 KiB or more in what producers write, so this is 4 GiB of content and more; only
# frames made of tiny blocks, which cost far more time than bytes, come near it.
FRAME_BLOCKS_MAX: Final = 65_536

# The largest window that Kafka's own Java consumer accepts (zstd's default, level 22 uses it). The
# decoder reserves it but touches only what the content fills.
ZSTD_WINDOW_BYTES_MAX: Final = 128 * MIB

_U32: Final = struct.Struct("<I")
_LZ4_BLOCK_BYTES: Final = {4: 64 * KIB, 5: 256 * KIB, 6: MIB, 7: 4 * MIB}
_LZ4_STORED_BIT: Final = 0x8000_0000
# One more byte of an LZ4 match length adds at most 255 bytes of content.
_LZ4_RATIO_MAX: Final = 255
_ZSTD_BLOCK_BYTES: Final = 128 * KIB
_ZSTD_DICTIONARY_ID_BYTES: Final = (0, 1, 2, 4)
_ZSTD_RAW: Final = 0
_ZSTD_RLE: Final = 1
_ZSTD_COMPRESSED: Final = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame that fills its input exactly."""

    content_bytes_max: int
    """No decoder can get more out of the frame than this."""


def walk_lz4(data: Readable) -> Frame:
    """Return the bound of the one LZ4 frame that `data` must be.

    Raises:
        CorruptRecordsError: no LZ4 frame, cut short, followed by anything, or out of bounds.
    """
    try:
        end, content_bytes_max = _walk_lz4(memoryview(data))
    except (IndexError, struct.error) as error:
        raise CorruptRecordsError("the LZ4 frame is cut short") from error
    _check_end("LZ4", end, len(data))
    return Frame(content_bytes_max)


def walk_zstd(data: Readable) -> Frame:
    """Return the bound of the one zstd frame that `data` must be.

    Raises:
        DecompressedTooLargeError: the frame's window is larger than ZSTD_WINDOW_BYTES_MAX.
        CorruptRecordsError: no zstd frame, cut short, followed by anything, or out of bounds.
    """
    try:
        end, content_bytes_max = _walk_zstd(memoryview(data))
    except (IndexError, struct.error) as error:
        raise CorruptRecordsError("the zstd frame is cut short") from error
    _check_end("zstd", end, len(data))
    return Frame(content_bytes_max)


def _check_end(name: str, end: int, size: int) -> None:
    if end > size:
        raise CorruptRecordsError(f"the {name} frame is cut short: {size} of {end} bytes")
    if end < size:
        raise CorruptRecordsError(f"{size - end} bytes follow the {name} frame")


def _walk_lz4(view: memoryview) -> tuple[int, int]:
    """Return the position after the frame and the bound of its content."""
    if _U32.unpack_from(view, 0)[0] != LZ4_MAGIC:
        raise CorruptRecordsError("the records are no LZ4 frame")
    flags, block_class = view[4], view[5] >> 4 & 7
    if flags >> 6 != 1 or block_class not in _LZ4_BLOCK_BYTES:
        raise CorruptRecordsError(f"unknown LZ4 frame version or block size (flags {flags:#04x})")
    if flags & 0x01:
        raise CorruptRecordsError("the LZ4 frame needs a dictionary")
    checksum_bytes = 4 if flags & 0x10 else 0
    # Magic, flags, block size, content size if any, header checksum.
    position = 6 + (8 if flags & 0x08 else 0) + 1
    content = 0
    for _ in range(FRAME_BLOCKS_MAX):
        (word,) = _U32.unpack_from(view, position)
        position += _U32.size
        if word == 0:
            return position + (4 if flags & 0x04 else 0), content
        size = word & ~_LZ4_STORED_BIT
        if size > _LZ4_BLOCK_BYTES[block_class]:
            raise CorruptRecordsError(f"an LZ4 block of {size} bytes is larger than its frame says")
        stored = word & _LZ4_STORED_BIT
        content += size if stored else min(size * _LZ4_RATIO_MAX, _LZ4_BLOCK_BYTES[block_class])
        position += size + checksum_bytes
    raise CorruptRecordsError(f"the LZ4 frame has more than {FRAME_BLOCKS_MAX} blocks")


def _walk_zstd(view: memoryview) -> tuple[int, int]:
    """Return the position after the frame and the bound of its content."""
    position, claimed_bytes = _read_zstd_header(view)
    content = 0
    for _ in range(FRAME_BLOCKS_MAX):
        word = view[position] | view[position + 1] << 8 | view[position + 2] << 16
        kind, size = word >> 1 & 3, word >> 3
        position += 3 + (1 if kind == _ZSTD_RLE else size)
        if kind > _ZSTD_COMPRESSED or size > _ZSTD_BLOCK_BYTES:
            raise CorruptRecordsError(f"a zstd block of kind {kind} and {size} bytes cannot be")
        content += _ZSTD_BLOCK_BYTES if kind == _ZSTD_COMPRESSED else size
        if word & 1:
            break
    else:
        raise CorruptRecordsError(f"the zstd frame has more than {FRAME_BLOCKS_MAX} blocks")
    if claimed_bytes > content:
        raise CorruptRecordsError(
            f"the zstd frame claims {claimed_bytes} bytes, its blocks hold at most {content}"
        )
    return position + (4 if view[4] & 0x04 else 0), content


def _read_zstd_header(view: memoryview) -> tuple[int, int]:
    """Return the position of the first block and the claimed content size (0: none claimed)."""
    if _U32.unpack_from(view, 0)[0] != ZSTD_MAGIC:
        raise CorruptRecordsError("the records are no zstd frame")
    descriptor = view[4]
    single_segment = bool(descriptor & 0x20)
    if descriptor & 0x08:
        raise CorruptRecordsError("the zstd frame uses a reserved bit")
    position = 5
    if not single_segment:
        _check_window((1 << 10 + (view[5] >> 3)) * (8 + (view[5] & 7)) // 8)
        position = 6
    identity_bytes = _ZSTD_DICTIONARY_ID_BYTES[descriptor & 0x03]
    if any(view[position : position + identity_bytes]):
        raise CorruptRecordsError("the zstd frame needs a dictionary")
    position += identity_bytes
    size_class = descriptor >> 6
    claim_bytes = 1 << size_class if size_class or single_segment else 0
    claimed = int.from_bytes(view[position : position + claim_bytes], "little")
    if size_class == 1:
        claimed += 256
    if single_segment:
        _check_window(claimed)
    return position + claim_bytes, claimed


def _check_window(window_bytes: int) -> None:
    if window_bytes > ZSTD_WINDOW_BYTES_MAX:
        raise DecompressedTooLargeError(
            f"the zstd frame needs a window of {window_bytes} bytes,"
            f" at most {ZSTD_WINDOW_BYTES_MAX} are allowed"
        )
