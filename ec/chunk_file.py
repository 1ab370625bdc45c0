"""Chunk file, version 1: the bytes behind a chunk's payload, and the regions that they describe.

    payload        a part of the segment as it is, or parity; from byte 0, so that sendfile and log
                   tools work on it
    checksums      XXH3-64 of each 64 KiB block of the payload, 8 bytes each
    offset index   entries of the batches that begin in this chunk; parity chunks carry all
    time index     likewise
    manifest       JSON, the same in all chunks of the encoding
    trailer        128 bytes: magic, version, lengths, which chunk this is, checksum

Everything is covered: a block by its checksum, the checksums and the indexes by digests in the
manifest, the manifest by a digest in the trailer, the trailer by its own checksum. So one flipped
bit anywhere is found, and named by its region. docs/formats/chunk-file.md is the specification.

All functions here are pure: bytes in, values out.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ec import checksums
from ec.checksums import DIGEST_BYTES
from ec.chunk_id import GENERATION_MAX, ChunkId
from ec.errors import ChunkDamagedError, ChunkVersionError
from ec.geometry import BLOCK_BYTES, SEGMENT_BYTES_MAX, ByteRange, block_span, blocks_of
from ec.indexes import INDEX_BYTES_MAX, Indexes
from ec.kernels.operands import Buffer
from ec.manifest import (
    MANIFEST_BYTES_MAX,
    ChunkEntry,
    Manifest,
    ManifestError,
    checksums_bytes,
    decode_manifest,
    encode_manifest,
)
from ec.profile import CHUNKS_MAX

MAGIC: Final = b"logdchnk"
VERSION: Final = 1
TRAILER: Final = struct.Struct(">8sIHBBQ16sQQQQQ16s24sQ")
TRAILER_BYTES: Final = 128
_CHECKSUM_AT: Final = 120
assert TRAILER.size == TRAILER_BYTES

Region = Literal[
    "payload", "checksums", "offset index", "time index", "manifest", "trailer", "identity"
]


@dataclass(frozen=True, slots=True)
class Trailer:
    """The last 128 bytes, read: which chunk this is and how long each region is."""

    index: int
    k: int
    m: int
    generation: int
    encoding: str
    payload_bytes: int
    checksums_bytes: int
    offset_index_bytes: int
    time_index_bytes: int
    manifest_bytes: int
    manifest_digest: bytes

    @property
    def checksums_at(self) -> int:
        """Position of the block checksums."""
        return self.payload_bytes

    @property
    def offset_index_at(self) -> int:
        """Position of the offset index."""
        return self.checksums_at + self.checksums_bytes

    @property
    def time_index_at(self) -> int:
        """Position of the time index."""
        return self.offset_index_at + self.offset_index_bytes

    @property
    def manifest_at(self) -> int:
        """Position of the manifest."""
        return self.time_index_at + self.time_index_bytes

    @property
    def trailer_at(self) -> int:
        """Position of the trailer."""
        return self.manifest_at + self.manifest_bytes

    @property
    def file_bytes(self) -> int:
        """Length of the whole file."""
        return self.trailer_at + TRAILER_BYTES

    def region_at(self, position: int) -> Region:
        """Return the region that a byte of the file lies in."""
        assert 0 <= position < self.file_bytes
        ends: tuple[tuple[int, Region], ...] = (
            (self.checksums_at, "payload"),
            (self.offset_index_at, "checksums"),
            (self.time_index_at, "offset index"),
            (self.manifest_at, "time index"),
            (self.trailer_at, "manifest"),
        )
        found = next((region for end, region in ends if position < end), None)
        return "trailer" if found is None else found


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """All of an intact chunk file but its payload.

    Attributes:
        digest: XXH3-128 of everything behind the payload. It binds the payload too, by way of the
            block checksums: two chunks that verify and have one digest are equal.
    """

    id: ChunkId
    trailer: Trailer
    manifest: Manifest
    checksums: bytes
    indexes: Indexes
    digest: str

    @property
    def payload_bytes(self) -> int:
        """Length of the payload."""
        return self.trailer.payload_bytes

    @property
    def blocks(self) -> int:
        """How many blocks the payload has."""
        return blocks_of(self.trailer.payload_bytes)


# --- Writing --------------------------------------------------------------------------------------


def chunk_entry(payload_bytes: int, block_checksums: Buffer, indexes: Indexes) -> ChunkEntry:
    """Return what the manifest says of a chunk."""
    assert len(block_checksums) == checksums_bytes(payload_bytes)
    return ChunkEntry(
        payload_bytes=payload_bytes,
        checksums=checksums.digest(block_checksums),
        offset_index_bytes=len(indexes.offsets),
        offset_index=checksums.digest(indexes.offsets),
        time_index_bytes=len(indexes.times),
        time_index=checksums.digest(indexes.times),
    )


def source_digest(block_checksums: Sequence[Buffer]) -> str:
    """Return the digest of a segment from the block checksums of its data chunks, in order."""
    assert block_checksums
    return checksums.digest(*block_checksums)


def encode_tail(manifest: Manifest, index: int, block_checksums: Buffer, indexes: Indexes) -> bytes:
    """Return everything behind the payload of chunk `index`."""
    entry = manifest.chunks[index]
    assert entry == chunk_entry(entry.payload_bytes, block_checksums, indexes)
    written = encode_manifest(manifest)
    trailer = Trailer(
        index=index,
        k=manifest.k,
        m=manifest.m,
        generation=manifest.generation,
        encoding=manifest.encoding,
        payload_bytes=entry.payload_bytes,
        checksums_bytes=len(block_checksums),
        offset_index_bytes=len(indexes.offsets),
        time_index_bytes=len(indexes.times),
        manifest_bytes=len(written),
        manifest_digest=bytes.fromhex(checksums.digest(written)),
    )
    parts = (block_checksums, indexes.offsets, indexes.times, written, encode_trailer(trailer))
    return b"".join(parts)


def tail_bytes(manifest: Manifest, index: int) -> int:
    """Return how long `encode_tail` will be: digests need not be known for it, only lengths."""
    entry = manifest.chunks[index]
    behind = checksums_bytes(entry.payload_bytes) + entry.offset_index_bytes
    behind += entry.time_index_bytes + len(encode_manifest(manifest))
    return behind + TRAILER_BYTES


def encode_trailer(trailer: Trailer) -> bytes:
    """Return the 128 bytes of a trailer."""
    assert len(trailer.manifest_digest) == DIGEST_BYTES
    start = TRAILER.pack(
        MAGIC, VERSION, trailer.index, trailer.k, trailer.m, trailer.generation,
        bytes.fromhex(trailer.encoding), trailer.payload_bytes, trailer.checksums_bytes,
        trailer.offset_index_bytes, trailer.time_index_bytes, trailer.manifest_bytes,
        trailer.manifest_digest, bytes(24), 0,
    )[:_CHECKSUM_AT]  # fmt: skip
    return start + checksums.checksum(start).to_bytes(8, "big")


# --- Reading --------------------------------------------------------------------------------------


def decode_trailer(data: bytes, *, file_bytes: int, path: str) -> Trailer:
    """Return the trailer in a file's last 128 bytes.

    Args:
        file_bytes: length of the whole file.
        path: named in errors, not read.

    Raises:
        ChunkDamagedError: it is none, or says lengths that the file does not have.
        ChunkVersionError: intact, and of a newer version.
    """
    at = max(0, file_bytes - TRAILER_BYTES)

    def damaged(reason: str) -> ChunkDamagedError:
        return ChunkDamagedError(path, region="trailer", position=at, reason=reason)

    if len(data) < TRAILER_BYTES:
        raise damaged(f"the file has {file_bytes} bytes, a trailer alone {TRAILER_BYTES}")
    (magic, version, index, k, m, generation, encoding, payload, sums, offsets, times, manifest,
     digest, reserved, checksum) = TRAILER.unpack(data)  # fmt: skip
    if magic != MAGIC:
        raise damaged("other magic: no chunk file, or one that was cut short")
    if checksums.checksum(data[:_CHECKSUM_AT]) != checksum:
        raise damaged("the checksum does not fit")
    if version != VERSION:
        raise ChunkVersionError(path, version, VERSION)
    trailer = Trailer(
        index, k, m, generation, encoding.hex(), payload, sums, offsets, times, manifest, digest
    )
    if trailer.file_bytes != file_bytes:
        raise damaged(f"says {trailer.file_bytes} bytes of file, there are {file_bytes}")
    if not _is_sensible(trailer) or any(reserved):
        raise damaged("says what no writer writes")
    return trailer


def _is_sensible(trailer: Trailer) -> bool:
    return (
        0 <= trailer.index < trailer.k + trailer.m <= CHUNKS_MAX
        and 1 <= trailer.generation <= GENERATION_MAX
        and trailer.payload_bytes <= SEGMENT_BYTES_MAX
        and trailer.checksums_bytes == checksums_bytes(trailer.payload_bytes)
        and trailer.offset_index_bytes <= INDEX_BYTES_MAX
        and trailer.time_index_bytes <= INDEX_BYTES_MAX
        and trailer.manifest_bytes <= MANIFEST_BYTES_MAX
    )


def decode_head(trailer: Trailer, data: bytes, *, path: str) -> ChunkHead:
    """Return the head of a chunk from its trailer and all bytes behind the payload.

    Raises:
        ChunkDamagedError: a region is not what its digest says, or contradicts another.
    """
    start = trailer.checksums_at
    assert len(data) == trailer.file_bytes - start

    def part(begin: int, end: int) -> bytes:
        return data[begin - start : end - start]

    written = part(trailer.manifest_at, trailer.trailer_at)
    manifest = _checked_manifest(trailer, written, path=path)
    entry = manifest.chunks[trailer.index]
    block_checksums = part(trailer.checksums_at, trailer.offset_index_at)
    if checksums.digest(block_checksums) != entry.checksums:
        raise _differs(path, "checksums", trailer.checksums_at)
    offsets = part(trailer.offset_index_at, trailer.time_index_at)
    if checksums.digest(offsets) != entry.offset_index:
        raise _differs(path, "offset index", trailer.offset_index_at)
    times = part(trailer.time_index_at, trailer.manifest_at)
    if checksums.digest(times) != entry.time_index:
        raise _differs(path, "time index", trailer.time_index_at)
    return ChunkHead(
        id=manifest.chunk_id(trailer.index),
        trailer=trailer,
        manifest=manifest,
        checksums=block_checksums,
        indexes=Indexes(offsets, times),
        digest=checksums.digest(data),
    )


def _checked_manifest(trailer: Trailer, written: bytes, *, path: str) -> Manifest:
    at = trailer.manifest_at
    if bytes.fromhex(checksums.digest(written)) != trailer.manifest_digest:
        raise _differs(path, "manifest", at)
    try:
        manifest = decode_manifest(written)
    except ManifestError as error:
        raise ChunkDamagedError(path, region="manifest", position=at, reason=str(error)) from error
    said = (manifest.k, manifest.m, manifest.generation, manifest.encoding)
    entry = manifest.chunks[trailer.index] if trailer.index < len(manifest.chunks) else None
    if (
        said != (trailer.k, trailer.m, trailer.generation, trailer.encoding)
        or entry is None
        or (entry.payload_bytes, entry.offset_index_bytes, entry.time_index_bytes)
        != (trailer.payload_bytes, trailer.offset_index_bytes, trailer.time_index_bytes)
    ):
        reason = "contradicts the trailer"
        raise ChunkDamagedError(path, region="manifest", position=at, reason=reason)
    return manifest


def check_blocks(head: ChunkHead, first: int, payload: Buffer, *, path: str) -> None:
    """Check the blocks of a part of the payload that begins at block `first`.

    Raises:
        ChunkDamagedError: a block is not what its checksum says; the first one is named.
    """
    count = blocks_of(len(payload))
    span = block_span(first, first + count, head.payload_bytes)
    assert span.size == len(payload), "the part is whole blocks"
    size = checksums.BLOCK_CHECKSUM_BYTES
    expected = memoryview(head.checksums)[first * size : (first + count) * size]
    bad = checksums.first_difference(payload, expected)
    if bad is not None:
        at = (first + bad) * BLOCK_BYTES
        raise _differs(path, "payload", at, f" (block {first + bad})")


def check_identity(head: ChunkHead, expected: ChunkId, *, path: str) -> None:
    """Check that an intact chunk is the one that its name says.

    Raises:
        ChunkDamagedError: it is another one, under this name.
    """
    if head.id != expected:
        at = head.trailer.trailer_at
        reason = f"holds {head.id}, an intact chunk of another name"
        raise ChunkDamagedError(path, region="identity", position=at, reason=reason)


def tail_range(trailer: Trailer) -> ByteRange:
    """Return where everything behind the payload lies."""
    return ByteRange(trailer.checksums_at, trailer.file_bytes)


def _differs(path: str, region: Region, position: int, more: str = "") -> ChunkDamagedError:
    reason = f"does not fit its checksum{more}"
    return ChunkDamagedError(path, region=region, position=position, reason=reason)
