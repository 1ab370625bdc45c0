"""Whole encodings in memory, for tests: a source, its chunks as files, and the manifest."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from ec import chunk_file, field, matrix
from ec.checksums import block_checksums
from ec.chunk_id import ChunkId
from ec.codec import Codec
from ec.geometry import BLOCK_BYTES, Geometry, choose_cuts
from ec.indexes import POSITION_ENTRY, TIME_ENTRY, Indexes, split
from ec.kernels.portable import PortableKernel
from ec.manifest import ChunkEntry, FirstBatch, Manifest
from ec.profile import Profile

TOPIC_ID = "00112233445566778899aabbccddeeff"
ENCODING = "f0e1d2c3b4a5968778695a4b3c2d1e0f"
BASE_OFFSET = 1000
BATCH_RECORDS = 10
FOUR_AND_TWO = Profile(4, 2)


@dataclass(frozen=True)
class Encoded:
    """One encoding: the files of all chunks, in order, and what they are made of."""

    source: bytes
    manifest: Manifest
    payloads: tuple[bytes, ...]
    files: tuple[bytes, ...]

    @property
    def ids(self) -> list[ChunkId]:
        """The names of all chunks."""
        return [self.manifest.chunk_id(index) for index in range(len(self.files))]


def noise(size: int, seed: int = 7) -> bytes:
    """Return bytes that look random and are always the same."""
    return random.Random(seed).randbytes(size)


def encode(
    source: bytes,
    profile: Profile = FOUR_AND_TWO,
    *,
    batches: Sequence[int] = (),
    generation: int = 1,
    encoding: str = ENCODING,
    base_offset: int = BASE_OFFSET,
    changes: Mapping[str, object] | None = None,
) -> Encoded:
    """Return a source coded, as any writer would, but all at once.

    Args:
        batches: positions at which batches begin; each has ten records.
        changes: of the manifest: names, offsets, times.
    """
    cuts = choose_cuts(len(source), profile.k, batches)
    shape = Geometry(profile, cuts)
    data = [source[a:b] for a, b in pairwise(cuts)]
    payloads = [*data, *_parity(shape, data)]
    indexes, firsts = _indexes(shape, batches, base_offset)
    sums = [block_checksums(payload) for payload in payloads]
    entries = tuple(
        chunk_file.chunk_entry(len(payload), checksums, index)
        for payload, checksums, index in zip(payloads, sums, indexes, strict=True)
    )
    manifest = Manifest(
        version=1,
        cluster_id="cluster-of-tests",
        topic="sample",
        topic_id=TOPIC_ID,
        partition=3,
        base_offset=base_offset,
        next_offset=base_offset + max(1, len(batches)) * BATCH_RECORDS,
        min_timestamp_ms=1_700_000_000_000,
        max_timestamp_ms=1_700_000_001_000,
        generation=generation,
        encoding=encoding,
        source_bytes=len(source),
        source_digest=chunk_file.source_digest(sums[: profile.k]),
        field=field.NAME,
        matrix=matrix.NAME,
        k=profile.k,
        m=profile.m,
        coefficients=tuple(row.hex() for row in matrix.parity_rows(profile.k, profile.m)),
        block_bytes=BLOCK_BYTES,
        cuts=cuts,
        first_batches=firsts,
        chunks=entries,
        writer="tests 1",
    )
    manifest = msgspec.structs.replace(manifest, **(changes or {}))
    files = tuple(
        payload + chunk_file.encode_tail(manifest, at, sums[at], indexes[at])
        for at, payload in enumerate(payloads)
    )
    return Encoded(source, manifest, tuple(payloads), files)


def _parity(shape: Geometry, data: Sequence[bytes]) -> list[bytes]:
    parity = [bytearray(shape.parity_bytes) for _ in range(shape.profile.m)]
    padded = [chunk.ljust(shape.parity_bytes, b"\0") for chunk in data]
    if shape.parity_bytes:
        Codec(shape.profile, PortableKernel()).encode(padded, parity)
    return [bytes(row) for row in parity]


def _indexes(
    shape: Geometry, batches: Sequence[int], base_offset: int
) -> tuple[list[Indexes], tuple[FirstBatch | None, ...]]:
    whole = Indexes(
        b"".join(
            POSITION_ENTRY.pack((n + 1) * BATCH_RECORDS - 1, at) for n, at in enumerate(batches)
        ),
        b"".join(
            TIME_ENTRY.pack(1_700_000_000_000 + n, (n + 1) * BATCH_RECORDS - 1)
            for n in range(len(batches))
        ),
    )
    firsts = []
    for low, high in pairwise(shape.cuts):
        inside = [(n, at) for n, at in enumerate(batches) if low <= at < high]
        first = (
            FirstBatch(inside[0][1], base_offset + inside[0][0] * BATCH_RECORDS) if inside else None
        )
        firsts.append(first)
    relative = [first and first.offset - base_offset for first in firsts]
    parts = split(whole, shape.cuts, relative)
    return [*parts, *[whole] * shape.profile.m], tuple(firsts)


def without(manifest: Manifest, **changes: object) -> Manifest:
    """Return a manifest with fields changed, however little sense it makes."""
    return msgspec.structs.replace(manifest, **changes)


def entry_without(manifest: Manifest, index: int, **changes: object) -> tuple[ChunkEntry, ...]:
    """Return a manifest's chunks with fields of one changed."""
    chunks = list(manifest.chunks)
    chunks[index] = msgspec.structs.replace(chunks[index], **changes)
    return tuple(chunks)
