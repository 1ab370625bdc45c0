"""The four codecs of record batches: compress, and decompress within a limit.

Decompression is where a few bytes can ask for gigabytes (zstd: 32,000 to 1), and where a library's
"maximum output size" may be no limit at all. The rules here:

* a limit is always given, and no more than limit + 1 bytes of output ever exist;
* sizes that the data claims about itself are compared with what its length makes possible before
  anything is allocated for them (see `logd.record.frames`);
* the input is one stream that ends where the records end: cut streams and trailing bytes are
  errors.

The libraries are imported on first use: a server whose topics are not compacted never needs them.

Snappy comes raw (librdkafka) or in snappy-java's frame, told apart by its magic as Kafka does:

    position  size  field
    0         8     82 53 4e 41 50 50 59 00   "\\x82SNAPPY\\0"
    8         4     version                   big-endian, 1
    12        4     lowest compatible version big-endian, 1
    16        …     blocks: 4-byte big-endian size, then that many bytes of raw snappy

Source: Apache Kafka, "Record Batch"; snappy-java SnappyInputStream's format; KIP-57 (LZ4), KIP-110.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from logd.errors import CorruptRecordsError, DecompressedTooLargeError
from logd.record import frames
from logd.record.batch import Readable
from logd.units import KIB

NONE: Final = 0
GZIP: Final = 1
SNAPPY: Final = 2
LZ4: Final = 3
ZSTD: Final = 4
CODEC_NAMES: Final = ("none", "gzip", "snappy", "lz4", "zstd")

XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = struct.Struct(">8sii")
_XERIAL_VERSION: Final = 1
_XERIAL_BLOCK_BYTES: Final = 32 * KIB  # snappy-java's default
_BLOCK_SIZE: Final = struct.Struct(">i")

# Snappy's densest element copies 64 bytes and takes 3; the claimed length is a varint in front.
_SNAPPY_RATIO_MAX: Final = 22
# zlib's code for a gzip header and trailer around the largest window.
_GZIP_WINDOW_BITS: Final = 31


def decompress(codec: int, data: Readable, *, limit_bytes: int) -> bytes:
    """Return the content of `data`, which is one whole stream of the codec (0: `data` itself).

    Args:
        limit_bytes: the most content that is accepted; memory use stays near it, whatever
            `data` claims.

    Raises:
        DecompressedTooLargeError: there is more content than `limit_bytes`.
        CorruptRecordsError: cut short, trailing bytes, a bad checksum, or no such codec.
    """
    assert limit_bytes >= 0
    if codec == NONE:
        return _check_limit(bytes(data), limit_bytes)
    if codec == GZIP:
        return _decompress_gzip(data, limit_bytes)
    if codec == SNAPPY:
        return _decompress_snappy(memoryview(data), limit_bytes)
    if codec == LZ4:
        return _decompress_lz4(data, limit_bytes)
    if codec == ZSTD:
        return _decompress_zstd(data, limit_bytes)
    raise CorruptRecordsError(f"unknown codec {codec}")


def compress(codec: int, data: Readable) -> bytes:
    """Return `data` compressed as Kafka's Java producer would frame it (0: as it is).

    Snappy is framed as snappy-java does, LZ4 blocks are independent: Kafka's Java consumer reads
    no others. The same data gives the same bytes.

    Raises:
        ValueError: no such codec.
    """
    if codec == NONE:
        return bytes(data)
    if codec == GZIP:
        compressor = zlib.compressobj(wbits=_GZIP_WINDOW_BITS)
        return compressor.compress(data) + compressor.flush()
    if codec == SNAPPY:
        return _compress_snappy(memoryview(data))
    if codec == LZ4:
        return _compress_lz4(data)
    if codec == ZSTD:
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    raise ValueError(f"unknown codec {codec}")


def _check_limit(content: bytes, limit_bytes: int) -> bytes:
    if len(content) > limit_bytes:
        _refuse_size(limit_bytes)
    return content


def _refuse_size(limit_bytes: int) -> None:
    raise DecompressedTooLargeError(f"the records decompress to more than {limit_bytes} bytes")


def _decompress_gzip(data: Readable, limit_bytes: int) -> bytes:
    stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
    try:
        content = stream.decompress(data, limit_bytes + 1)
    except zlib.error as error:
        raise CorruptRecordsError(f"gzip: {error}") from error
    _check_limit(content, limit_bytes)
    if not stream.eof:
        raise CorruptRecordsError("the gzip stream is cut short")
    if stream.unused_data:
        raise CorruptRecordsError(f"{len(stream.unused_data)} bytes follow the gzip stream")
    return content


def _decompress_snappy(view: memoryview, limit_bytes: int) -> bytes:
    if bytes(view[:8]) != XERIAL_MAGIC:
        return _decompress_snappy_raw(view, rest_bytes=limit_bytes, limit_bytes=limit_bytes)
    if len(view) < _XERIAL_HEADER.size:
        raise CorruptRecordsError("the snappy-java header is cut short")
    _, _, compatible = _XERIAL_HEADER.unpack_from(view)
    if compatible > _XERIAL_VERSION:
        raise CorruptRecordsError(f"unknown snappy-java version {compatible}")
    blocks: list[bytes] = []
    position, rest_bytes = _XERIAL_HEADER.size, limit_bytes
    while position < len(view):
        if len(view) - position < _BLOCK_SIZE.size:
            raise CorruptRecordsError("a snappy block's size is cut short")
        (size,) = _BLOCK_SIZE.unpack_from(view, position)
        position += _BLOCK_SIZE.size
        if not 0 < size <= len(view) - position:
            raise CorruptRecordsError(f"a snappy block cannot have {size} bytes here")
        block = view[position : position + size]
        blocks.append(_decompress_snappy_raw(block, rest_bytes=rest_bytes, limit_bytes=limit_bytes))
        rest_bytes -= len(blocks[-1])
        position += size
    return b"".join(blocks)


def _decompress_snappy_raw(view: memoryview, *, rest_bytes: int, limit_bytes: int) -> bytes:
    """Return the block's content, of which `rest_bytes` of the limit are left."""
    import cramjam

    try:
        claimed = cramjam.snappy.decompress_raw_len(view)
        if claimed > len(view) * _SNAPPY_RATIO_MAX:
            raise CorruptRecordsError(
                f"snappy claims {claimed} bytes, {len(view)} bytes cannot hold them"
            )
        if claimed > rest_bytes:
            _refuse_size(limit_bytes)
        return bytes(cramjam.snappy.decompress_raw(view))
    except cramjam.DecompressionError as error:
        raise CorruptRecordsError(str(error)) from error


def _decompress_lz4(data: Readable, limit_bytes: int) -> bytes:
    import cramjam

    bound = frames.walk_lz4(data).content_bytes_max
    content = bytearray(min(bound, limit_bytes + 1))
    try:
        size = cramjam.lz4.decompress_into(data, content)
    except cramjam.DecompressionError as error:
        # With room for all that the frame can hold, a full buffer cannot be the reason.
        if len(content) < bound and "whole buffer" in str(error):
            _refuse_size(limit_bytes)
        raise CorruptRecordsError(str(error)) from error
    return _check_limit(bytes(memoryview(content)[:size]), limit_bytes)


def _decompress_zstd(data: Readable, limit_bytes: int) -> bytes:
    import zstandard

    bound = frames.walk_zstd(data).content_bytes_max
    decompressor = zstandard.ZstdDecompressor(max_window_size=frames.ZSTD_WINDOW_BYTES_MAX)
    try:
        # One byte more than can be: the reader then runs to the frame's end and its checksum.
        content = decompressor.stream_reader(data).read(min(bound, limit_bytes) + 1)
    except zstandard.ZstdError as error:
        raise CorruptRecordsError(str(error)) from error
    return _check_limit(content, limit_bytes)


def _compress_snappy(view: memoryview) -> bytes:
    import cramjam

    out = bytearray(_XERIAL_HEADER.pack(XERIAL_MAGIC, _XERIAL_VERSION, _XERIAL_VERSION))
    for start in range(0, len(view), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(view[start : start + _XERIAL_BLOCK_BYTES]))
        out += _BLOCK_SIZE.pack(len(block)) + block
    return bytes(out)


def _compress_lz4(data: Readable) -> bytes:
    import cramjam

    compressor = cramjam.lz4.Compressor(content_checksum=False, block_linked=False)
    compressor.compress(bytes(data))  # this one call takes no other buffer
    return bytes(compressor.finish())
