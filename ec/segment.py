"""What is to be coded, and the manifest of it: drafted before the first byte, completed behind the
last.

A draft has all lengths and no digests. Digests are written with a fixed number of digits, so the
draft says exactly how long each chunk file will be, and its space can be reserved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from ec import field, matrix
from ec.checksums import DIGEST_BYTES
from ec.chunk_file import TRAILER_BYTES, chunk_entry, source_digest
from ec.geometry import BLOCK_BYTES, Geometry
from ec.indexes import Indexes, split
from ec.manifest import (
    VERSION,
    ChunkEntry,
    FirstBatch,
    Manifest,
    checksums_bytes,
    encode_manifest,
)
from ec.profile import Profile

_UNKNOWN: Final = "0" * (2 * DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Segment:
    """A sealed segment, as the library sees it.

    Attributes:
        next_offset: the offset behind its last record.
        min_timestamp_ms, max_timestamp_ms: of its records; -1 where it has none.
        indexes: of the whole segment.
        cuts: from `geometry.choose_cuts`.
        first_batches: per data chunk, the first batch that begins in it.
    """

    cluster_id: str
    topic: str
    topic_id: str
    partition: int
    base_offset: int
    next_offset: int
    min_timestamp_ms: int
    max_timestamp_ms: int
    indexes: Indexes
    cuts: tuple[int, ...]
    first_batches: tuple[FirstBatch | None, ...]


def draft(
    segment: Segment, profile: Profile, *, generation: int, encoding: str, writer: str
) -> Manifest:
    """Return the manifest without its digests.

    Args:
        encoding: a uuid drawn for this attempt, 32 hex digits.
        writer: program and version.
    """
    assert len(segment.cuts) == profile.k + 1
    shape = Geometry(profile, segment.cuts)
    manifest = Manifest(
        version=VERSION,
        cluster_id=segment.cluster_id,
        topic=segment.topic,
        topic_id=segment.topic_id,
        partition=segment.partition,
        base_offset=segment.base_offset,
        next_offset=segment.next_offset,
        min_timestamp_ms=segment.min_timestamp_ms,
        max_timestamp_ms=segment.max_timestamp_ms,
        generation=generation,
        encoding=encoding,
        source_bytes=shape.source_bytes,
        source_digest=_UNKNOWN,
        field=field.NAME,
        matrix=matrix.NAME,
        k=profile.k,
        m=profile.m,
        coefficients=tuple(row.hex() for row in matrix.parity_rows(profile.k, profile.m)),
        block_bytes=BLOCK_BYTES,
        cuts=segment.cuts,
        first_batches=segment.first_batches,
        chunks=(),
        writer=writer,
    )
    entries = tuple(
        ChunkEntry(
            payload_bytes=shape.payload_bytes(index),
            checksums=_UNKNOWN,
            offset_index_bytes=len(part.offsets),
            offset_index=_UNKNOWN,
            time_index_bytes=len(part.times),
            time_index=_UNKNOWN,
        )
        for index, part in enumerate(chunk_indexes(manifest, segment.indexes))
    )
    return msgspec.structs.replace(manifest, chunks=entries)


def chunk_indexes(manifest: Manifest, whole: Indexes) -> tuple[Indexes, ...]:
    """Return the indexes that each chunk carries, data chunks first."""
    parts = split(whole, manifest.cuts, manifest.first_offsets)
    assert len(parts) == manifest.k
    return (*parts, *[whole] * manifest.m)


def complete(manifest: Manifest, checksums: Sequence[bytes], whole: Indexes) -> Manifest:
    """Return a draft with its digests.

    Args:
        checksums: the block checksums of every chunk.
    """
    assert len(checksums) == len(manifest.chunks)
    parts = chunk_indexes(manifest, whole)
    entries = tuple(
        chunk_entry(entry.payload_bytes, found, part)
        for entry, found, part in zip(manifest.chunks, checksums, parts, strict=True)
    )
    whole_digest = source_digest(checksums[: manifest.k])
    done = msgspec.structs.replace(manifest, chunks=entries, source_digest=whole_digest)
    assert len(encode_manifest(done)) == len(encode_manifest(manifest))
    return done


def file_bytes(manifest: Manifest) -> tuple[int, ...]:
    """Return how long each chunk file is; a draft will do."""
    written = len(encode_manifest(manifest))
    assert written > 0
    return tuple(
        entry.payload_bytes
        + checksums_bytes(entry.payload_bytes)
        + entry.offset_index_bytes
        + entry.time_index_bytes
        + written
        + TRAILER_BYTES
        for entry in manifest.chunks
    )
