"""What is in a chunk file, and in a storage node's identity, for `logd dump`: region by region."""

from __future__ import annotations

import os.path
from collections.abc import Iterator

import msgspec

from cli.chunk_batches import batch_items
from ec.chunk_file import ChunkHead
from ec.chunk_id import SUFFIX, ChunkId
from ec.chunk_reader import ChunkReader
from ec.errors import ChunkDamagedError, ChunkNameError, ChunkVersionError, EcError
from ec.indexes import POSITION_ENTRY, TIME_ENTRY
from ec.node_identity import FILE_NAME, IDENTITY_BYTES_MAX, decode_identity
from logd.errors import UnsupportedFormatError
from logd.storage.files import Files
from logd.storage.inspect import DAMAGE, Depth, Item


def is_of_node(path: str) -> bool:
    """Return whether a file is one of a storage node, by its name."""
    return path.endswith(SUFFIX) or os.path.basename(path) == FILE_NAME


def node_items(files: Files, path: str, depth: Depth) -> Iterator[Item]:
    """Yield what is in a chunk file or an identity file, every checksum verified.

    Args:
        depth: records, verify: of a data chunk also the batches that begin in it.

    Raises:
        UnsupportedFormatError: a newer version. OSError: it cannot be read.
    """
    if os.path.basename(path) == FILE_NAME:
        yield from _identity_items(files, path)
        return
    try:
        reader = ChunkReader.open(files, path, _expected(path))
    except ChunkDamagedError as error:
        yield _damage(error)
    except ChunkVersionError as error:
        raise UnsupportedFormatError(path, f"has format version {error.version}") from error
    else:
        yield _payload(reader.head)
        yield from map(_damage, reader.findings())
        if (depth.records or depth.verify) and reader.head.id.index < reader.head.manifest.k:
            yield from batch_items(files, path, reader.head, depth)
        yield from _behind(reader.head)


def _expected(path: str) -> ChunkId | None:
    """Return what the name says; a file may have been given another name by people."""
    try:
        return ChunkId.parse(os.path.basename(path))
    except ChunkNameError:
        return None


def _damage(error: ChunkDamagedError) -> Item:
    return Item(DAMAGE, error.position, {"reason": f"{error.region}: {error.reason}"})


def _payload(head: ChunkHead) -> Item:
    fields: dict[str, object] = {"bytes": head.payload_bytes, "blocks": head.blocks}
    manifest, index = head.manifest, head.id.index
    fields["chunk"] = f"data {index}" if index < manifest.k else f"parity {index - manifest.k}"
    if index < manifest.k:
        fields["source_start"], fields["source_end"] = manifest.cuts[index : index + 2]
        first = manifest.first_batches[index]
        fields["first_offset"] = None if first is None else first.offset
        fields["first_batch"] = None if first is None else first.position - manifest.cuts[index]
    else:
        fields["computed_from"] = f"data 0 to {manifest.k - 1}"
        fields["coefficients"] = manifest.coefficients[index - manifest.k]
    return Item("payload", 0, fields)


def _behind(head: ChunkHead) -> Iterator[Item]:
    trailer, manifest = head.trailer, head.manifest
    entry = manifest.chunks[head.id.index]
    yield Item("checksums", trailer.checksums_at, {"digest": entry.checksums})
    for kind, at, data, size in (
        ("offset index", trailer.offset_index_at, head.indexes.offsets, POSITION_ENTRY.size),
        ("time index", trailer.time_index_at, head.indexes.times, TIME_ENTRY.size),
    ):
        yield Item(kind, at, {"entries": len(data) // size})
    said = msgspec.to_builtins(manifest)
    del said["chunks"], said["coefficients"]
    yield Item("manifest", trailer.manifest_at, said)
    yield Item(
        "trailer",
        trailer.trailer_at,
        {
            "index": trailer.index,
            "generation": trailer.generation,
            "encoding": trailer.encoding,
            "file_bytes": trailer.file_bytes,
            "digest": head.digest,
        },
    )


def _identity_items(files: Files, path: str) -> Iterator[Item]:
    data = files.read_whole(path, limit_bytes=IDENTITY_BYTES_MAX + 1024)
    try:
        identity = decode_identity(data, path=path)
    except EcError as error:
        yield Item(DAMAGE, 0, {"reason": str(error).removeprefix(f"{path}: ")})
    else:
        yield Item("node", 0, msgspec.to_builtins(identity))
