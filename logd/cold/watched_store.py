"""A store that remembers whether anything it was asked for failed: which node spoilt an encoding.

The coding library raises the first error that any node caused; whose it was stands in its text
only. Whoever tries again wants to know which node to leave out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio

from ec.chunk_dir import LIST_MAX
from ec.chunk_file import ChunkHead
from ec.chunk_id import ChunkId
from ec.chunk_write import Receipt
from ec.errors import ChunkDamagedError, EcError
from ec.kernels.operands import Buffer
from ec.store.protocol import Health, Store, Upload

T = TypeVar("T")

WRITES_AT_ONCE: Final = 2
"""On one device: it has something to do while the next write is handed over, and whoever else waits
for it has two writes before it, not one of each chunk."""


@dataclass(frozen=True, slots=True)
class DeviceGate:
    """How many uploads may do what to one device at a time.

    Syncing and reading back all chunks of a set at once, or writing to all, would keep a disk that
    they share from whoever else waits for it.
    """

    writing: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(WRITES_AT_ONCE))
    finishing: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(1))


class WatchedStore:
    """See `ec.store.protocol.Store`: passes everything on.

    Args:
        gate: of the device that the store is on.

    Attributes:
        trouble: the first error that came back; None: there was none.
        was_cancelled: a call was given up before it came back.
    """

    def __init__(self, inner: Store, gate: DeviceGate) -> None:
        self._inner = inner
        self.gate = gate
        self.trouble: EcError | None = None
        self.was_cancelled = False

    async def watched(self, call: Awaitable[T]) -> T:
        """Await a call; note what it raises."""
        try:
            return await call
        except EcError as error:
            self.trouble = self.trouble or error
            raise
        except trio.Cancelled:
            self.was_cancelled = True
            raise

    @property
    def node(self) -> str:
        """See `Store`."""
        return self._inner.node

    async def begin(self, chunk: ChunkId, file_bytes: int) -> Upload:
        """See `Store`."""
        return _WatchedUpload(self, await self.watched(self._inner.begin(chunk, file_bytes)))

    async def head(self, chunk: ChunkId) -> ChunkHead:
        """See `Store`."""
        return await self.watched(self._inner.head(chunk))

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        """See `Store`."""
        return await self.watched(self._inner.read(chunk, start, end))

    async def list(self, *, after: str = "", limit: int = LIST_MAX) -> tuple[ChunkId, ...]:
        """See `Store`."""
        return await self.watched(self._inner.list(after=after, limit=limit))

    async def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        """See `Store`."""
        return await self.watched(self._inner.verify(chunk))

    async def delete(self, chunk: ChunkId) -> bool:
        """See `Store`."""
        return await self.watched(self._inner.delete(chunk))

    async def quarantine(self, chunk: ChunkId) -> None:
        """See `Store`."""
        await self.watched(self._inner.quarantine(chunk))

    async def health(self) -> Health:
        """See `Store`."""
        return await self.watched(self._inner.health())

    async def note_catalog_sequence(self, sequence: int) -> None:
        """See `Store`."""
        await self.watched(self._inner.note_catalog_sequence(sequence))


class _WatchedUpload:
    """See `ec.store.protocol.Upload`."""

    def __init__(self, store: WatchedStore, inner: Upload) -> None:
        self._store = store
        self._inner = inner

    async def write(self, buffers: Sequence[Buffer]) -> None:
        async with self._store.gate.writing:
            await self._store.watched(self._inner.write(buffers))

    async def finish(self) -> Receipt:
        async with self._store.gate.finishing:
            return await self._store.watched(self._inner.finish())

    async def abort(self) -> None:
        await self._inner.abort()
