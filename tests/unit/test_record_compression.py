"""The four codecs: whole streams come back, everything else is an error, and memory is bounded."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import cramjam
import pytest
import zstandard

import logd
from logd.errors import CorruptRecordsError, DecompressedTooLargeError
from logd.record.compression import CODEC_NAMES, XERIAL_MAGIC, compress, decompress
from logd.units import MIB

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CODECS = (GZIP, SNAPPY, LZ4, ZSTD)
TEXT = b"".join(b"line %d of a log that repeats itself\n" % number for number in range(5000))
NOISE = bytes(zlib.crc32(b"%d" % number) & 0xFF for number in range(100_000))


def raw_snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


@pytest.mark.parametrize("codec", range(5), ids=CODEC_NAMES)
@pytest.mark.parametrize(
    "data", [b"", b"x", TEXT, NOISE], ids=["empty", "one byte", "text", "noise"]
)
def test_round_trip(codec: int, data: bytes) -> None:
    """What is compressed comes back, also with a limit of exactly its size, from any buffer."""
    packed = compress(codec, data)
    for form in (bytes, bytearray, memoryview):
        assert decompress(codec, form(packed), limit_bytes=len(data)) == data
        assert compress(codec, form(data)) == packed


@pytest.mark.parametrize("codec", range(5), ids=CODEC_NAMES)
def test_one_byte_over_the_limit_is_too_large(codec: int) -> None:
    """The limit is exact for every codec, however the stream was made."""
    for data in (TEXT, NOISE, b"x"):
        packed = compress(codec, data)
        for limit_bytes in (len(data) - 1, len(data) // 2, 0):
            with pytest.raises(DecompressedTooLargeError, match=f"more than {limit_bytes} bytes"):
                decompress(codec, packed, limit_bytes=limit_bytes)


@pytest.mark.parametrize("codec", CODECS, ids=CODEC_NAMES[1:])
def test_every_cut_is_corrupt(codec: int) -> None:
    """A stream that ends early is an error wherever it ends; a snappy frame may end at a block."""
    data = TEXT[:300]
    packed = compress(codec, data)
    boundaries = {16} if codec == SNAPPY else set()
    for size in set(range(len(packed))) - boundaries:
        with pytest.raises(CorruptRecordsError):
            decompress(codec, packed[:size], limit_bytes=MIB)


@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_long_streams_cut_between_blocks_are_corrupt(codec: int) -> None:
    """The libraries stop silently at some of these cuts; we do not."""
    packed = compress(codec, NOISE * 4)
    for size in range(0, len(packed), 4096):
        with pytest.raises(CorruptRecordsError):
            decompress(codec, packed[:size], limit_bytes=MIB)
    with pytest.raises(CorruptRecordsError):
        decompress(codec, packed[:-1], limit_bytes=MIB)


@pytest.mark.parametrize("codec", CODECS, ids=CODEC_NAMES[1:])
@pytest.mark.parametrize("garbage", [b"\0", b"xyz", b"garbage that is long", bytes(64)])
def test_trailing_bytes_are_corrupt(codec: int, garbage: bytes) -> None:
    """One stream, and nothing after it."""
    with pytest.raises(CorruptRecordsError):
        decompress(codec, compress(codec, TEXT) + garbage, limit_bytes=MIB)


@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_a_second_stream_is_corrupt(codec: int) -> None:
    """Concatenated streams are trailing bytes too: no producer writes them."""
    packed = compress(codec, b"text" * 50)
    with pytest.raises(CorruptRecordsError, match="follow"):
        decompress(codec, packed + packed, limit_bytes=MIB)


@pytest.mark.parametrize("codec", [*CODECS, 5, 6, 7, -1])
def test_other_bytes_are_corrupt(codec: int) -> None:
    """What is no stream of the codec, or of no codec at all, is refused."""
    for data in (b"", b"?", TEXT, bytes(100), b"\xff" * 100):
        with pytest.raises(CorruptRecordsError):
            decompress(codec, data, limit_bytes=MIB)


def test_compress_refuses_an_unknown_codec() -> None:
    """Codec 5 is a mistake of the caller's, not of any data."""
    with pytest.raises(ValueError, match="codec 5"):
        compress(5, b"")


@pytest.mark.parametrize("codec", [GZIP, ZSTD])
def test_a_bad_checksum_is_corrupt(codec: int) -> None:
    """Content checksums, where the frame has one, are verified."""
    packed = bytearray(compress(codec, TEXT))
    if codec == ZSTD:
        packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(TEXT))
    assert decompress(codec, packed, limit_bytes=MIB) == TEXT
    packed[-6 if codec == GZIP else -1] ^= 1
    with pytest.raises(CorruptRecordsError):
        decompress(codec, packed, limit_bytes=MIB)


def test_an_lz4_checksum_is_verified() -> None:
    """Frames with linked blocks and a content checksum, as cramjam's default, are read."""
    packed = bytearray(cramjam.lz4.compress(TEXT))
    assert decompress(LZ4, packed, limit_bytes=MIB) == TEXT
    packed[-1] ^= 1
    with pytest.raises(CorruptRecordsError):
        decompress(LZ4, packed, limit_bytes=MIB)


def test_raw_snappy_and_the_snappy_java_frame_are_told_apart() -> None:
    """librdkafka sends the former and Java the latter; we write the latter, in 32 KiB blocks."""
    framed = compress(SNAPPY, TEXT)
    assert framed.startswith(XERIAL_MAGIC + b"\0\0\0\1\0\0\0\1")
    assert decompress(SNAPPY, raw_snappy(TEXT), limit_bytes=len(TEXT)) == TEXT
    size = int.from_bytes(framed[16:20], "big")
    assert bytes(cramjam.snappy.decompress_raw(framed[20 : 20 + size])) == TEXT[: 32 * 1024]


HEADER = XERIAL_MAGIC + b"\0\0\0\1\0\0\0\1"


@pytest.mark.parametrize(
    "data",
    [
        XERIAL_MAGIC,
        HEADER[:15],
        XERIAL_MAGIC + b"\0\0\0\2\0\0\0\2" + b"\0\0\0\1\0",
        HEADER + b"\0\0\0",
        HEADER + b"\0\0\0\0",
        HEADER + b"\xff\xff\xff\xff\0",
        HEADER + b"\x7f\xff\xff\xff\0",
        HEADER + b"\0\0\0\2\0",
        HEADER + b"\0\0\0\1\x05",
    ],
)
def test_bad_snappy_frames_are_corrupt(data: bytes) -> None:
    """Each field of the frame is checked against the bytes that are there."""
    with pytest.raises(CorruptRecordsError):
        decompress(SNAPPY, data, limit_bytes=MIB)


def test_a_claimed_snappy_length_is_not_believed() -> None:
    """A few bytes that claim 4 GiB are corrupt at once, whatever the limit allows."""
    with pytest.raises(CorruptRecordsError, match="cannot hold"):
        decompress(SNAPPY, b"\xff\xff\xff\xff\x0f" + b"a" * 20, limit_bytes=2**40)


def test_the_limit_holds_for_all_blocks_of_a_snappy_frame_together() -> None:
    """Each block is small, their sum is what counts."""
    framed = compress(SNAPPY, bytes(320 * 1024))
    with pytest.raises(DecompressedTooLargeError):
        decompress(SNAPPY, framed, limit_bytes=300 * 1024)


def test_the_largest_zstd_window_is_read() -> None:
    """The window of level 22, 128 MiB, is accepted; only what the content fills is touched."""
    window = zstandard.ZstdCompressionParameters(
        window_log=27, strategy=1, hash_log=10, chain_log=10
    )
    stream = zstandard.ZstdCompressor(compression_params=window).compressobj()
    packed = stream.compress(TEXT) + stream.flush()
    assert zstandard.get_frame_parameters(packed).window_size == 128 * MIB
    assert decompress(ZSTD, packed, limit_bytes=len(TEXT)) == TEXT


# Content of 1 GiB or more, for a limit of 16 MiB. Built of few bytes, not by compressing gigabytes.
BOMBS = """
import cramjam, resource, struct, sys, zlib
from logd.errors import DecompressedTooLargeError
from logd.record.compression import compress, decompress

MIB = 2**20

def address_space_bytes():
    with open("/proc/self/statm") as sizes:
        return int(sizes.read().split()[0]) * resource.getpagesize()

def gzip_bomb():
    stream = zlib.compressobj(wbits=31)
    first = stream.compress(bytes(MIB)) + stream.flush(zlib.Z_FULL_FLUSH)
    again = stream.compress(bytes(MIB)) + stream.flush(zlib.Z_FULL_FLUSH)
    return first + again * 1024 + stream.flush()

def xerial_bomb():
    block = bytes(cramjam.snappy.compress_raw(bytes(MIB)))
    header = b"\\x82SNAPPY\\0" + struct.pack(">ii", 1, 1)
    return header + (struct.pack(">i", len(block)) + block) * 1024

def raw_snappy_bomb():
    # A literal of one byte, then copies of 64 bytes at distance 1.
    copies = 2**30 // 64
    claimed, size = bytearray(), copies * 64 + 1
    while size > 0x7F:
        claimed.append(size & 0x7F | 0x80)
        size >>= 7
    claimed.append(size)
    return bytes(claimed) + b"\\0x" + b"\\xfe\\1\\0" * copies

def lz4_bomb():
    compressor = cramjam.lz4.Compressor(content_checksum=False, block_linked=False)
    compressor.compress(bytes(64 * 1024))
    frame = bytes(compressor.finish())
    return frame[:7] + frame[7:-4] * 16384 + bytes(4)

def zstd_bomb():
    # Blocks of 128 KiB in 4 bytes each (one byte, repeated), window 128 KiB, no content size.
    word = 128 * 1024 << 3 | 1 << 1
    block = struct.pack("<I", word)[:3] + b"x"
    last = struct.pack("<I", word | 1)[:3] + b"x"
    return struct.pack("<IBB", 0xFD2FB528, 0, 7 << 3) + block * 8192 + last

def zstd_claim_bomb():
    # The same with a claimed content size, which zstandard's max_output_size would believe.
    bomb = zstd_bomb()
    return bomb[:4] + b"\\xc0" + bomb[5:6] + struct.pack("<Q", 8193 * 128 * 1024) + bomb[6:]

name, codec, limit = sys.argv[1], int(sys.argv[2]), 16 * MIB
data = globals()[name]()
for each in range(1, 5):  # the libraries are imported before memory gets scarce
    assert decompress(each, compress(each, b"warm"), limit_bytes=4) == b"warm"
allowed = address_space_bytes() + 3 * limit
resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
try:
    decompress(codec, data, limit_bytes=limit)
except DecompressedTooLargeError:
    print("refused")
"""


@pytest.mark.parametrize(
    ("bomb", "codec"),
    [
        ("gzip_bomb", GZIP),
        ("xerial_bomb", SNAPPY),
        ("raw_snappy_bomb", SNAPPY),
        ("lz4_bomb", LZ4),
        ("zstd_bomb", ZSTD),
        ("zstd_claim_bomb", ZSTD),
    ],
)
def test_bombs_are_refused_in_little_memory(bomb: str, codec: int) -> None:
    """A gigabyte in disguise is refused by a process that can get no more than thrice the limit of
    16 MiB, in one piece or many."""
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, bomb, str(codec)],
        env={"PYTHONPATH": str(Path(logd.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "refused\n"


def test_the_libraries_are_not_imported_before_they_are_needed() -> None:
    """Starting the server must stay light: reading uncompressed records needs no codec."""
    code = (
        "import sys; from logd.record.records import encode_batch, iterate;"
        "list(iterate(encode_batch([(None, b'v', [], 0)])));"
        "print(sorted({'cramjam', 'zstandard'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(logd.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "[]\n"
