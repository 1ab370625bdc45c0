"""The manifest of one encoding: the same bytes in all its k+m chunks, copied verbatim by repair.

It says which segment this is, how it was cut and coded, and how each chunk is recognised, so that
any chunk alone tells what the others must be, and the catalog can be made again from chunks only.
It names no node, path or wall-clock time: a chunk may move, and a repaired chunk is byte for byte
the lost one.

Its form is JSON, in the order of the fields below and without spaces (docs/formats/chunk-file.md).
What is read is checked whole: a manifest is used only if every part of it agrees with the others.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import msgspec

from ec import field, matrix
from ec.checksums import BLOCK_CHECKSUM_BYTES, DIGEST_BYTES
from ec.chunk_id import GENERATION_MAX, OFFSET_MAX, PARTITION_MAX, ChunkId, is_hex_id
from ec.errors import ProfileError
from ec.geometry import BLOCK_BYTES, SEGMENT_BYTES_MAX, Geometry, blocks_of
from ec.indexes import INDEX_BYTES_MAX, POSITION_ENTRY, TIME_ENTRY
from ec.profile import Profile

VERSION: Final = 1
# Twenty chunks, the longest names: some 6 KiB.
MANIFEST_BYTES_MAX: Final = 64 * 1024
NAME_CHARACTERS_MAX: Final = 249
WRITER_CHARACTERS_MAX: Final = 64
NO_TIMESTAMP: Final = -1


class ManifestError(ValueError):
    """A manifest that cannot be read, or whose parts contradict each other."""


class ChunkEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one chunk of the encoding is recognised.

    Attributes:
        payload_bytes: length of the payload.
        checksums: XXH3-128 of its block checksums, 32 hex digits.
        offset_index_bytes, time_index_bytes: lengths of its two indexes.
        offset_index, time_index: XXH3-128 of each.
    """

    payload_bytes: int
    checksums: str
    offset_index_bytes: int
    offset_index: str
    time_index_bytes: int
    time_index: str


class FirstBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The first batch that begins in a chunk: its position and first offset in the segment."""

    position: int
    offset: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See the module; docs/formats/chunk-file.md has each field.

    Attributes:
        next_offset: the offset behind the segment's last record.
        min_timestamp_ms, max_timestamp_ms: of the records; `NO_TIMESTAMP` where there is none.
        generation, encoding: number and uuid of this encoding; never mixed with another one's.
        source_digest: XXH3-128 of the block checksums of all data chunks, one behind the other.
        coefficients: per parity chunk, the factors of the data chunks, as hex.
        cuts: the k + 1 positions in the segment between which the data chunks lie.
        first_batches: per data chunk; None where no batch begins in it.
        chunks: all k + m, data chunks first.
        writer: program and version that encoded.
    """

    version: int
    cluster_id: str
    topic: str
    topic_id: str
    partition: int
    base_offset: int
    next_offset: int
    min_timestamp_ms: int
    max_timestamp_ms: int
    generation: int
    encoding: str
    source_bytes: int
    source_digest: str
    field: str
    matrix: str
    k: int
    m: int
    coefficients: tuple[str, ...]
    block_bytes: int
    cuts: tuple[int, ...]
    first_batches: tuple[FirstBatch | None, ...]
    chunks: tuple[ChunkEntry, ...]
    writer: str

    @property
    def profile(self) -> Profile:
        """The profile that the segment was coded with."""
        return Profile(self.k, self.m)

    @property
    def geometry(self) -> Geometry:
        """Where its bytes lie."""
        return Geometry(self.profile, self.cuts)

    def chunk_id(self, index: int) -> ChunkId:
        """Return the name of one of its chunks."""
        assert 0 <= index < self.k + self.m
        return ChunkId(
            topic_id=self.topic_id,
            partition=self.partition,
            base_offset=self.base_offset,
            generation=self.generation,
            encoding=self.encoding,
            index=index,
        )

    @property
    def first_offsets(self) -> tuple[int | None, ...]:
        """Per data chunk, the first offset less the segment's base, as `indexes.split` wants it."""
        base = self.base_offset
        return tuple(None if first is None else first.offset - base for first in self.first_batches)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest; equal manifests give equal bytes."""
    check_manifest(manifest)
    data = msgspec.json.encode(manifest)
    assert len(data) <= MANIFEST_BYTES_MAX
    return data


def decode_manifest(data: bytes | memoryview) -> Manifest:
    """Return the manifest in some bytes.

    Raises:
        ManifestError: it is none, or its parts contradict each other, or the bytes are not those
        that `encode_manifest` makes of it.
    """
    if len(data) > MANIFEST_BYTES_MAX:
        raise ManifestError(f"has {len(data)} bytes, at most {MANIFEST_BYTES_MAX}")
    try:
        manifest = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"is no manifest: {error}") from error
    check_manifest(manifest)
    if msgspec.json.encode(manifest) != data:
        raise ManifestError("is not in its one form")
    return manifest


_DECODER: Final = msgspec.json.Decoder(Manifest)


def check_manifest(manifest: Manifest) -> None:
    """Check every part of a manifest against the others.

    Raises:
        ManifestError: one contradicts.
    """
    if manifest.version != VERSION:
        raise ManifestError(f"has version {manifest.version}, known is {VERSION}")
    try:
        profile = Profile(manifest.k, manifest.m)
    except ProfileError as error:
        raise ManifestError(str(error)) from error
    _check_names(manifest)
    _check_code(manifest, profile)
    _check_cuts(manifest)
    _check_first_batches(manifest)
    _check_chunks(manifest)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ManifestError(f"contradicts itself: {what}")


def _check_names(manifest: Manifest) -> None:
    for name, limit in (
        (manifest.cluster_id, NAME_CHARACTERS_MAX),
        (manifest.topic, NAME_CHARACTERS_MAX),
        (manifest.writer, WRITER_CHARACTERS_MAX),
    ):
        _require(1 <= len(name) <= limit and name.isprintable(), f"a name {name[:300]!r}")
    for text in (manifest.topic_id, manifest.encoding, manifest.source_digest):
        _require(is_hex_id(text), f"an id {text[:64]!r}")
    _require(0 <= manifest.partition <= PARTITION_MAX, f"partition {manifest.partition}")
    _require(1 <= manifest.generation <= GENERATION_MAX, f"generation {manifest.generation}")
    offsets = f"offsets {manifest.base_offset} to {manifest.next_offset}"
    _require(0 <= manifest.base_offset <= manifest.next_offset <= OFFSET_MAX, offsets)
    times = f"timestamps {manifest.min_timestamp_ms} to {manifest.max_timestamp_ms}"
    _require(NO_TIMESTAMP <= manifest.min_timestamp_ms <= manifest.max_timestamp_ms, times)


def _check_code(manifest: Manifest, profile: Profile) -> None:
    code = f"{manifest.field}, {manifest.matrix}"
    _require((manifest.field, manifest.matrix) == (field.NAME, matrix.NAME), f"code {code}")
    expected = tuple(row.hex() for row in matrix.parity_rows(profile.k, profile.m))
    _require(manifest.coefficients == expected, "coefficients that are not the matrix's")
    _require(manifest.block_bytes == BLOCK_BYTES, f"blocks of {manifest.block_bytes} bytes")


def _check_cuts(manifest: Manifest) -> None:
    cuts, k = manifest.cuts, manifest.k
    _require(0 <= manifest.source_bytes <= SEGMENT_BYTES_MAX, "the source's size")
    _require(len(cuts) == k + 1, f"{len(cuts)} cuts for {k} data chunks")
    _require(cuts[0] == 0 and cuts[-1] == manifest.source_bytes, "cuts from 0 to the end")
    _require(all(a <= b for a, b in pairwise(cuts)), "cuts that fall")


def _check_first_batches(manifest: Manifest) -> None:
    firsts, cuts = manifest.first_batches, manifest.cuts
    _require(len(firsts) == manifest.k, "first batches for each data chunk")
    found = [(at, first) for at, first in enumerate(firsts) if first is not None]
    for at, first in found:
        inside = cuts[at] <= first.position < cuts[at + 1]
        _require(inside, f"the first batch of chunk {at} at {first.position}")
        offset = first.offset
        _require(manifest.base_offset <= offset < manifest.next_offset, f"offset {offset}")
    rising = all(a.offset < b.offset for (_, a), (_, b) in pairwise(found))
    _require(rising, "first offsets that do not rise")


def _check_chunks(manifest: Manifest) -> None:
    shape, chunks = manifest.geometry, manifest.chunks
    _require(len(chunks) == shape.profile.chunks, f"{len(chunks)} chunks")
    for index, chunk in enumerate(chunks):
        lengths = (chunk.payload_bytes, shape.payload_bytes(index))
        _require(lengths[0] == lengths[1], f"payload of chunk {index}: {lengths}")
        for text in (chunk.checksums, chunk.offset_index, chunk.time_index):
            _require(is_hex_id(text), f"a digest of chunk {index}")
        for size, entry in (
            (chunk.offset_index_bytes, POSITION_ENTRY),
            (chunk.time_index_bytes, TIME_ENTRY),
        ):
            fits = 0 <= size <= INDEX_BYTES_MAX and size % entry.size == 0
            _require(fits, f"an index of {size} bytes in chunk {index}")
    data, parity = chunks[: manifest.k], chunks[manifest.k :]
    for whole in parity:
        _require(
            whole.offset_index_bytes == sum(part.offset_index_bytes for part in data)
            and whole.time_index_bytes == sum(part.time_index_bytes for part in data)
            and (whole.offset_index, whole.time_index)
            == (parity[0].offset_index, parity[0].time_index),
            "indexes of parity chunks that are not all of the data chunks'",
        )


def checksums_bytes(payload_bytes: int) -> int:
    """Return the length of a payload's block checksums."""
    assert payload_bytes >= 0
    return blocks_of(payload_bytes) * BLOCK_CHECKSUM_BYTES


assert DIGEST_BYTES * 2 == 32, "a digest is written like an id"
