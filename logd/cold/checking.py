"""Checks all chunks of a generation where they are: what must be right before a hot copy goes.

Each node reads its chunk from its device and verifies every block (`Store.verify`); then its head
is read, and the manifest in it must be the one that was committed. So "right" means: intact, and a
chunk of this very encoding, on the node that the catalog names, at this moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import trio

from ec.errors import ChunkDamagedError, EcError
from ec.manifest import Manifest
from ec.store.protocol import Store
from logd.cold.chunk_findings import ChunkFindings, ChunkPlace
from logd.policy.cold.proof import ChunkCheck
from logd.policy.cold.values import Generation


@dataclass(frozen=True, slots=True)
class CheckedChunks:
    """What a check showed.

    Attributes:
        checks: one for each chunk that has a place.
        troubles: in words, per chunk that was not found right.
    """

    checks: tuple[ChunkCheck, ...]
    troubles: tuple[str, ...]


async def check_chunks(
    generation: Generation,
    manifest: Manifest,
    stores: Mapping[int, Store],
    findings: ChunkFindings,
) -> CheckedChunks:
    """Check every chunk that has a place, all nodes side by side. Never raises for a bad chunk."""
    assert manifest.encoding == generation.encoding
    troubles: dict[int, EcError] = {}

    async def check(index: int) -> None:
        place = ChunkPlace(generation.encoding, index, generation.held[index])
        try:
            await _check_one(stores[index], manifest, index)
        except EcError as error:
            troubles[index] = error
            findings.note(place, error)
        else:
            findings.right(place)

    async with trio.open_nursery() as nursery:
        for index in generation.held:
            nursery.start_soon(check, index)
    return CheckedChunks(
        tuple(
            ChunkCheck(index, node, is_right=index not in troubles)
            for index, node in sorted(generation.held.items())
        ),
        tuple(
            f"chunk {index} on {generation.held[index]}: {error}"
            for index, error in sorted(troubles.items())
        ),
    )


async def _check_one(store: Store, manifest: Manifest, index: int) -> None:
    """Raise EcError unless the node has that chunk, right."""
    chunk = manifest.chunk_id(index)
    damage = await store.verify(chunk)
    if damage:
        raise damage[0]
    head = await store.head(chunk)
    if head.manifest != manifest:
        raise ChunkDamagedError(
            chunk.name,
            region="manifest",
            position=head.trailer.manifest_at,
            reason="is not the manifest that was committed",
        )
