"""Prove that an encoding gives its segment back, before anybody trusts it with the only copy.

Receipts prove that every chunk is on its device, whole. That does not prove the arithmetic: so one
data chunk is left out, computed from the others as a reader would, and compared with the source,
byte for byte. Which one follows from the generation, so over many segments each has its turn.

All chunks must be there, also those that decoding has no need of: a degraded set proves nothing.
Which chunks it is computed from does not depend on who answers first: a slow one is waited for, and
none is asked to spare. A caller that will not wait for ever sets a limit of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from ec.codec import Codec
from ec.encode import Source
from ec.errors import ChunkDamagedError, EcError, NotEnoughChunksError
from ec.manifest import Manifest
from ec.offload import Offload
from ec.read import SegmentReader
from ec.store.protocol import Store

# Read, computed and compared at once.
PROVE_BYTES: Final = 1024 * 1024


def left_out(manifest: Manifest) -> int:
    """Return the data chunk that a proof does without."""
    assert manifest.generation >= 1
    return manifest.generation % manifest.k


async def prove(
    source: Source,
    manifest: Manifest,
    stores: Mapping[int, Store],
    *,
    codec: Codec,
    offload: Offload,
) -> int:
    """Decode one data chunk from the others and compare it with the source.

    Returns:
        How many bytes were compared.

    Raises:
        NotEnoughChunksError: it could not be computed, or a chunk is not there.
        ChunkDamagedError: what was computed is not what the source says.
        OSError: the source cannot be read.
    """
    assert len(stores) == manifest.k + manifest.m
    chunk = left_out(manifest)
    await _require_all(manifest, stores)
    troubles: list[EcError] = []
    reader = SegmentReader(
        manifest, stores, codec=codec, offload=offload,
        on_trouble=lambda _, error: troubles.append(error), hedge_s=math.inf,
    )  # fmt: skip
    first, last = manifest.cuts[chunk], manifest.cuts[chunk + 1]
    for start in range(first, last, PROVE_BYTES):
        end = min(start + PROVE_BYTES, last)
        found = await reader.read(start, end, without=frozenset({chunk}), spare=False)
        if found.gaps or troubles:
            raise NotEnoughChunksError(f"chunk {chunk} cannot be computed: {troubles[:1]}")
        if not await offload.run(_is_equal, source, start, found.data):
            name = manifest.chunk_id(chunk).name
            reason = f"decoded bytes {start} to {end} are not those of the source"
            raise ChunkDamagedError(name, region="payload", position=start - first, reason=reason)
    return last - first


async def _require_all(manifest: Manifest, stores: Mapping[int, Store]) -> None:
    for index, store in stores.items():
        chunk_id = manifest.chunk_id(index)
        try:
            await store.head(chunk_id)
        except EcError as error:
            raise NotEnoughChunksError(f"{chunk_id.name} on {store.node}: {error}") from error


def _is_equal(source: Source, position: int, data: bytes) -> bool:
    buffer = bytearray(len(data))
    got = source.read_into(position, memoryview(buffer))
    return got == len(data) and buffer == data
