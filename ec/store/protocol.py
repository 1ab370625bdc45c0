"""What a storage node can do, wherever it is.

Every implementation passes the one suite in tests/contract/check_store.py. What all promise:

* A chunk that `finish` gave a receipt for is durable, was read back and is intact.
* Nothing is handed out that was not verified on this side of any network.
* `ChunkMissingError` means that the node is there and the chunk is not. Every other failure means
  that nothing is known of the chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ec.chunk_dir import LIST_MAX
from ec.chunk_file import ChunkHead
from ec.chunk_id import ChunkId
from ec.chunk_write import Receipt
from ec.errors import ChunkDamagedError
from ec.kernels.operands import Buffer
from ec.node_dir import Space
from ec.node_identity import NodeIdentity


@dataclass(frozen=True, slots=True)
class Health:
    """What a node says of itself.

    Attributes:
        rack: what its operator says it shares its fate with; None where nothing was said.
    """

    identity: NodeIdentity
    space: Space
    rack: str | None = None


class Upload(Protocol):
    """A chunk on its way to a node: bytes in order, then `finish`, or `abort`."""

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """Send bytes; the buffers may be used again when this returns.

        Raises:
            StoreError: the upload has ended, nothing of it stays.
        """
        ...

    async def finish(self) -> Receipt:
        """Return when the chunk is durable and was read back.

        Raises:
            ChunkRefusedError: what came is not that chunk, intact. ChunkExistsError: an intact
            one with other bytes has that name. StoreUnavailableError: it may be there or not.
            StoreError: it is not there.
        """
        ...

    async def abort(self) -> None:
        """Give up, if it has not ended; nothing of it stays."""
        ...


class Store(Protocol):
    """One storage node."""

    @property
    def node(self) -> str:
        """The node's name."""
        ...

    async def begin(self, chunk: ChunkId, file_bytes: int) -> Upload:
        """Begin to write a chunk file of that length; its space is reserved.

        Raises:
            NoSpaceError, ChunkBusyError, ChunkRefusedError, NodeNotMountedError, StoreError.
        """
        ...

    async def head(self, chunk: ChunkId) -> ChunkHead:
        """Return all of a chunk but its payload, verified.

        Raises:
            ChunkMissingError, ChunkDamagedError, ChunkVersionError, StoreError.
        """
        ...

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        """Return a range of a chunk's payload, verified.

        Raises:
            As `head`; ChunkRefusedError: there is no such range.
        """
        ...

    async def list(self, *, after: str = "", limit: int = LIST_MAX) -> tuple[ChunkId, ...]:
        """Return the chunks there in the order of their names: those behind `after`.

        Raises:
            StoreError: it is not known.
        """
        ...

    async def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        """Have the node read all of a chunk from its device; return what is wrong with it.

        Raises:
            ChunkMissingError, ChunkVersionError, StoreError.
        """
        ...

    async def delete(self, chunk: ChunkId) -> bool:
        """Remove a chunk; return whether it was there. Durable when this returns.

        Raises:
            ChunkBusyError: it is being written: it is there afterwards. StoreError: it may still
            be there.
        """
        ...

    async def quarantine(self, chunk: ChunkId) -> None:
        """Move a chunk out of the way, to where only people delete.

        Raises:
            ChunkMissingError, ChunkExistsError, StoreError.
        """
        ...

    async def health(self) -> Health:
        """Return who the node is and how full it is.

        Raises:
            StoreError: it does not answer, or its disk is not mounted.
        """
        ...

    async def note_catalog_sequence(self, sequence: int) -> None:
        """Let the node remember that the catalog has come this far.

        Raises:
            StoreError: it does not.
        """
        ...
