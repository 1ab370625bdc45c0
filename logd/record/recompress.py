"""One batch compressed anew with zstd: the same records in fewer bytes, or the batch as it was.

Everything of the header stays but the length, the codec in the attributes and the CRC; the record
section, decompressed, is the same bytes. That is not believed: what was compressed is decompressed
again and compared before it is used.

A batch stays as it is if it would not shrink (by a part in 32: less does not pay for what every
reader would have to compute), is zstd already, needs more memory than it may, or cannot be
decompressed: a producer's records are opaque to the server, and what passed when it was appended is
kept, byte for byte.

Source: Apache Kafka, "Record Batch"; KIP-110 (zstd), KIP-390 (levels).
"""

from __future__ import annotations

from typing import Final

from logd.errors import CorruptRecordsError
from logd.record import batch
from logd.record.batch import BatchHeader
from logd.record.build import set_crc
from logd.record.compression import ZSTD, decompress

_LEVEL_MIN: Final = -131_072
_LEVEL_MAX: Final = 22
_GAIN_MIN: Final = 32
_NOT_OURS: Final = batch.TRANSACTIONAL_BIT | batch.CONTROL_BIT


class Recompressor:
    """Compresses batches, one at a time; not for several threads at once.

    Args:
        level: zstd's; 3 is its usual one.
        content_bytes_max: batches that decompress to more stay as they are.
    """

    def __init__(self, *, level: int, content_bytes_max: int) -> None:
        import zstandard

        assert _LEVEL_MIN <= level <= _LEVEL_MAX
        assert content_bytes_max > 0
        self._compress = zstandard.ZstdCompressor(level=level).compress
        self._content_bytes_max = content_bytes_max

    def shrink(self, header: BatchHeader, data: memoryview) -> bytearray | None:
        """Return the whole batch in `data` with its records in zstd; None: it stays as it is."""
        assert len(data) == header.size
        if header.codec == ZSTD or header.attributes & _NOT_OURS or not header.count:
            return None
        payload = data[batch.HEADER_BYTES :]
        try:
            content = decompress(header.codec, payload, limit_bytes=self._content_bytes_max)
        except CorruptRecordsError:  # Too large, or no stream of its codec.
            return None
        packed = self._compress(content)
        most = len(payload) - max(1, len(payload) // _GAIN_MIN)
        if len(packed) > most or not _holds(packed, content):
            return None
        return _with_records(header, packed)


def _holds(packed: bytes, content: bytes) -> bool:
    """Whether a stream gives the content back."""
    try:
        return decompress(ZSTD, packed, limit_bytes=len(content)) == content
    except CorruptRecordsError:
        return False


def _with_records(header: BatchHeader, packed: bytes) -> bytearray:
    """Return the batch with this record section, in zstd."""
    out = bytearray(batch.HEADER_BYTES)
    fields = header._replace(
        length=batch.HEADER_BYTES - batch.LENGTH_OVERHEAD_BYTES + len(packed),
        crc=0,
        attributes=header.attributes & ~batch.CODEC_MASK | ZSTD,
    )
    batch.HEADER.pack_into(out, 0, *fields)
    out += packed
    set_crc(out)
    return out
