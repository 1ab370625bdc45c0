"""Walking LZ4 and zstd frames: their end and their bound, from block headers alone."""

from __future__ import annotations

import struct

import cramjam
import pytest
import zstandard

from logd.errors import CorruptRecordsError, DecompressedTooLargeError
from logd.record import frames
from logd.record.compression import decompress
from logd.units import KIB, MIB

SIZES = (0, 1, 1000, 64 * KIB, 200 * KIB, 1_000_000)


def zstd_frame(*blocks: bytes, descriptor: int = 0, header: bytes = b"\x38") -> bytes:
    """A frame of hand-made blocks; the default header is a window of 128 KiB and nothing else."""
    return struct.pack("<IB", frames.ZSTD_MAGIC, descriptor) + header + b"".join(blocks)


def zstd_block(kind: int, size: int, body: bytes, *, last: bool = True) -> bytes:
    return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + body


def lz4_frame(*blocks: bytes, flags: int = 0x60, block_class: int = 4) -> bytes:
    """A frame of hand-made blocks and an end mark; the header checksum is not looked at here."""
    head = struct.pack("<IBBB", frames.LZ4_MAGIC, flags, block_class << 4, 0)
    return head + b"".join(blocks) + bytes(4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("content_size", [False, True])
def test_the_bound_of_zstd_frames(size: int, checksum: bool, content_size: bool) -> None:
    """Every header form is walked to its end; the bound holds and is at most a block too much."""
    data = b"0123456789" * (size // 10) + bytes(size % 10)
    compressor = zstandard.ZstdCompressor(
        write_checksum=checksum, write_content_size=content_size, level=1
    )
    bound = frames.walk_zstd(compressor.compress(data)).content_bytes_max
    assert size <= bound <= size + 128 * KIB


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("linked", [False, True])
def test_the_bound_of_lz4_frames(size: int, checksum: bool, linked: bool) -> None:
    """Likewise for LZ4, whose blocks say how large they may be."""
    compressor = cramjam.lz4.Compressor(content_checksum=checksum, block_linked=linked)
    compressor.compress(b"0123456789" * (size // 10) + bytes(size % 10))
    bound = frames.walk_lz4(bytes(compressor.finish())).content_bytes_max
    assert size <= bound <= size + 64 * KIB


def test_a_small_input_has_a_small_bound() -> None:
    """A frame may announce blocks of 4 MiB: 20 bytes still cannot hold more than 255 times that."""
    block = struct.pack("<I", 20) + bytes(20)
    assert frames.walk_lz4(lz4_frame(block, block_class=7)).content_bytes_max == 20 * 255
    stored = struct.pack("<I", 20 | 1 << 31) + bytes(20)
    assert frames.walk_lz4(lz4_frame(stored, block_class=7)).content_bytes_max == 20


BAD_ZSTD = [
    ("wrong magic", b"\0" * 20, "no zstd frame"),
    ("cut in the magic", b"\x28\xb5", "cut short"),
    ("reserved bit", zstd_frame(zstd_block(0, 0, b""), descriptor=8), "reserved"),
    ("dictionary", zstd_frame(zstd_block(0, 0, b""), descriptor=1, header=b"\x38\7"), "dictionary"),
    ("reserved block", zstd_frame(zstd_block(3, 0, b"")), "kind 3"),
    ("block too large", zstd_frame(zstd_block(1, 128 * KIB + 1, b"x")), "131073 bytes"),
    ("no last block", zstd_frame(zstd_block(1, 5, b"x", last=False)), "cut short"),
    ("block cut", zstd_frame(zstd_block(0, 5, b"abcd")), "16 of 17|15 of|cut short"),
    ("checksum missing", zstd_frame(zstd_block(0, 1, b"a"), descriptor=4), "cut short"),
    ("checksum too long", zstd_frame(zstd_block(0, 1, b"a"), b"12345", descriptor=4), "1 bytes"),
    (
        "claims too much",
        zstd_frame(zstd_block(1, 5, b"x"), descriptor=0x20 | 0x80, header=b"\0\0\1\0"),
        "claims 65536 bytes, its blocks hold at most 5",
    ),
    (
        "endless blocks",
        zstd_frame(zstd_block(0, 0, b"", last=False) * (frames.FRAME_BLOCKS_MAX + 1)),
        "more than 65536 blocks",
    ),
]


@pytest.mark.parametrize(
    ("data", "words"), [row[1:] for row in BAD_ZSTD], ids=[row[0] for row in BAD_ZSTD]
)
def test_bad_zstd_frames(data: bytes, words: str) -> None:
    """Each way in which a zstd frame can be wrong is told apart."""
    with pytest.raises(CorruptRecordsError, match=words):
        frames.walk_zstd(data)


@pytest.mark.parametrize("claim", [2**28, 2**40, 2**63])
def test_windows_that_need_too_much_memory(claim: int) -> None:
    """A frame cannot make the decoder reserve more than 128 MiB, by window or by content size."""
    block = zstd_block(0, 0, b"")
    with pytest.raises(DecompressedTooLargeError, match="window"):
        frames.walk_zstd(zstd_frame(block, descriptor=0xE0, header=claim.to_bytes(8, "little")))
    with pytest.raises(DecompressedTooLargeError, match="window"):
        frames.walk_zstd(zstd_frame(block, header=b"\x89"))
    assert frames.walk_zstd(zstd_frame(block, header=b"\x88")).content_bytes_max == 0


def test_a_dictionary_id_of_zero_is_none() -> None:
    """The field may be there and say that there is no dictionary."""
    frame = zstd_frame(zstd_block(0, 2, b"hi"), descriptor=2, header=b"\x38\0\0")
    assert decompress(4, frame, limit_bytes=2) == b"hi"


BAD_LZ4 = [
    ("wrong magic", b"\0" * 20, "no LZ4 frame"),
    ("cut in the magic", b"\x04\x22", "cut short"),
    ("version 2", lz4_frame(flags=0xA0), "version"),
    ("block size 3", lz4_frame(block_class=3), "block size"),
    ("dictionary", lz4_frame(flags=0x61), "dictionary"),
    ("block too large", lz4_frame(struct.pack("<I", 64 * KIB + 1)), "65537 bytes"),
    ("no end mark", lz4_frame()[:-4], "cut short"),
    ("block cut", lz4_frame(struct.pack("<I", 9) + b"abc"), "cut short"),
    ("checksum missing", lz4_frame(flags=0x64), "cut short"),
    ("content size, then nothing", lz4_frame(flags=0x68), "cut short"),
    ("trailing", lz4_frame() + b"x", "1 bytes follow"),
    (
        "endless blocks",
        lz4_frame((struct.pack("<I", 1 | 1 << 31) + b"x") * (frames.FRAME_BLOCKS_MAX + 1)),
        "more than 65536 blocks",
    ),
]


@pytest.mark.parametrize(
    ("data", "words"), [row[1:] for row in BAD_LZ4], ids=[row[0] for row in BAD_LZ4]
)
def test_bad_lz4_frames(data: bytes, words: str) -> None:
    """Each way in which an LZ4 frame can be wrong is told apart."""
    with pytest.raises(CorruptRecordsError, match=words):
        frames.walk_lz4(data)


def test_block_checksums_are_stepped_over() -> None:
    """With the block checksum flag, four more bytes belong to each block."""
    block = struct.pack("<I", 3 | 1 << 31) + b"abc" + b"sum!"
    assert frames.walk_lz4(lz4_frame(block, block, flags=0x70)).content_bytes_max == 6
    assert frames.ZSTD_WINDOW_BYTES_MAX == 128 * MIB
