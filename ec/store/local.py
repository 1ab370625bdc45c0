"""A storage node that is a directory here: another disk, no server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ec.chunk_dir import LIST_MAX, ChunkDirectory
from ec.chunk_file import ChunkHead
from ec.chunk_id import ChunkId
from ec.chunk_reader import ChunkReader, FileRange
from ec.chunk_write import ChunkWrite, Receipt
from ec.errors import ChunkDamagedError
from ec.kernels.operands import Buffer
from ec.node_identity import NodeIdentity
from ec.offload import Offload
from ec.store.protocol import Health


class LocalStore:
    """See `ec.store.protocol.Store`; the directory's work is done in threads.

    Args:
        asking: for what changes nothing, so that it may be given up on while it goes on: a disk
            that hangs costs its readers no more than a node that does. None: as all the rest.
        past_cache: what is read here, nobody will want again soon (`ChunkReader.read`).
    """

    def __init__(
        self,
        directory: ChunkDirectory,
        offload: Offload,
        *,
        asking: Offload | None = None,
        past_cache: bool = False,
    ) -> None:
        assert directory.identity.node
        self._directory = directory
        self._offload = offload
        self._asking = asking or offload
        self._past_cache = past_cache

    @property
    def node(self) -> str:
        """See `Store`."""
        return self._directory.identity.node

    @property
    def identity(self) -> NodeIdentity:
        """Which node this is."""
        return self._directory.identity

    async def begin(self, chunk: ChunkId, file_bytes: int) -> LocalUpload:
        """See `Store`."""
        write = await self._offload.run(self._directory.begin, chunk, file_bytes)
        return LocalUpload(write, self._offload)

    async def head(self, chunk: ChunkId) -> ChunkHead:
        """See `Store`."""
        return (await self.reader(chunk)).head

    async def reader(self, chunk: ChunkId) -> ChunkReader:
        """Return the open chunk: for ranges that go out by sendfile.

        Raises:
            As `Store.head`.
        """
        return await self._asking.run(self._directory.reader, chunk)

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        """See `Store`."""
        read = partial(self._directory.read, past_cache=self._past_cache)
        return await self._asking.run(read, chunk, start, end)

    def verified_range(self, chunk: ChunkId, start: int, end: int) -> FileRange | None:
        """Return a range that was verified, of a chunk that is open; None: one is not known.

        Does not block.
        """
        reader = self._directory.open_reader(chunk)
        if reader is None or not 0 <= start < end <= reader.head.payload_bytes:
            return None
        return reader.verified_range(start, end)

    async def list(self, *, after: str = "", limit: int = LIST_MAX) -> tuple[ChunkId, ...]:
        """See `Store`."""
        directory = self._directory
        return await self._asking.run(lambda: directory.list(after=after, limit=limit))

    async def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        """See `Store`."""
        return await self._offload.run(self._directory.verify, chunk)

    async def delete(self, chunk: ChunkId) -> bool:
        """See `Store`."""
        return await self._offload.run(self._directory.delete, chunk)

    async def quarantine(self, chunk: ChunkId) -> None:
        """See `Store`."""
        await self._offload.run(self._directory.quarantine, chunk.name)

    async def health(self) -> Health:
        """See `Store`."""
        return Health(self._directory.identity, await self._offload.run(self._directory.space))

    async def note_catalog_sequence(self, sequence: int) -> None:
        """See `Store`."""
        await self._offload.run(self._directory.note_catalog_sequence, sequence)


class LocalUpload:
    """See `ec.store.protocol.Upload`."""

    def __init__(self, write: ChunkWrite, offload: Offload) -> None:
        assert write.written_bytes == 0
        self._write = write
        self._offload = offload

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """See `Upload`."""
        await self._offload.run(self._write.write, buffers)

    async def finish(self) -> Receipt:
        """See `Upload`."""
        return await self._offload.run(self._write.finish)

    async def abort(self) -> None:
        """See `Upload`."""
        await self._offload.run(self._write.abort)
