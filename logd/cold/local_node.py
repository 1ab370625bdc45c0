"""A storage node that is a directory here, whether its disk is mounted now or not.

The library's `LocalStore` is an open directory. A disk may come after the server did, go, and come
back as another device; so the directory is opened by whoever asks for the node's health, and let go
when its disk is gone. Between the two every call says that nothing is known.

Health is asked in a thread of its own, and whoever is tired of waiting goes (`gate.AskingGate`): a
disk that hangs takes the threads of this one node with it, and nobody else's. So does every other
call (`work_gate`), and while one hangs the node does not count as well. Each time the identity
file is read again: what is mounted now may be another disk.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from ec.chunk_dir import LIST_MAX, ChunkDirectory
from ec.chunk_file import ChunkHead
from ec.chunk_id import ChunkId
from ec.chunk_reader import FileRange
from ec.chunk_write import ChunkWrite
from ec.errors import (
    ChunkDamagedError,
    NodeIdentityError,
    NodeNotMountedError,
    StoreError,
    StoreTimeoutError,
)
from ec.file_system import FileSystem
from ec.node.home import RESERVE_BYTES_MAX, RESERVE_FRACTION
from ec.node_dir import NodeDirectory
from ec.node_identity import NodeIdentity, read_identity
from ec.store.local import LocalStore
from ec.store.patience import Patience, Timeouts
from ec.store.protocol import Health
from logd.cold.gate import AskingGate, LooseGate
from logd.cold.local_upload import HangProofUpload
from logd.cold.work_gate import WorkGate
from logd.units import KIB

SYNC_EVERY_BYTES: Final = 512 * KIB
"""The disk may be the logs' too: so much is to be written before an append's sync has its turn."""


@dataclass(frozen=True, slots=True)
class ExpectedIdentity:
    """Which node a directory, or an address, must be."""

    cluster_id: str
    node: str
    node_id: str

    def check(self, found: NodeIdentity, *, where: str) -> None:
        """Check an identity that was read.

        Raises:
            NodeIdentityError: it is another node's.
        """
        if found.cluster_id != self.cluster_id:
            raise NodeIdentityError(f"{where}: belongs to cluster {found.cluster_id}")
        if found.node_id == self.node_id and found.node != self.node:
            raise NodeIdentityError(
                f"{where}: is this node under the name {found.node}, expected {self.node}; "
                f"`logd node add {found.node} {where}` renames it here, too"
            )
        if found.node_id != self.node_id:
            other = found.node if found.node != self.node else f"{found.node} that was made anew"
            raise NodeIdentityError(f"{where}: is node {other}, expected {self.node}")


class LocalNode:
    """See the module, and `ec.store.protocol.Store`.

    Args:
        timeouts: how long calls may take; a disk that hangs is a node that does not answer.
        reserve_bytes: free space that chunks must leave; None: 1 GiB or a 20th of the disk.
    """

    def __init__(
        self,
        files: FileSystem,
        path: str,
        expected: ExpectedIdentity,
        *,
        work: WorkGate,
        reading: LooseGate,
        asking: AskingGate,
        timeouts: Timeouts,
        reserve_bytes: int | None,
    ) -> None:
        self._files = files
        self._path = path
        self._expected = expected
        self._work = work
        self._reading = reading
        self._asking = asking
        self._timeouts = timeouts
        self._reserve_bytes = reserve_bytes
        self._directory: ChunkDirectory | None = None
        self._is_closed = False
        self._past_cache = False

    @property
    def node(self) -> str:
        """See `Store`."""
        return self._expected.node

    @property
    def opened(self) -> LocalStore:
        """The directory as it is open now: for ranges that go out by sendfile.

        Raises:
            NodeNotMountedError: it is not.
        """
        return LocalStore(
            self._open_directory(), self._work, asking=self._reading, past_cache=self._past_cache
        )

    def past_cache(self) -> LocalNode:
        """Return the same node for those who read what nobody will want again soon.

        It shares this one's directory, and is never opened or closed itself.
        """
        return _PastCache(self)

    def _open_directory(self) -> ChunkDirectory:
        if self._directory is None:
            raise NodeNotMountedError(f"{self._path}: is not open: no disk was seen there")
        return self._directory

    def _patience(self, seconds: float, what: str) -> AbstractContextManager[None]:
        return Patience(seconds, node=self.node, what=what)

    def close(self) -> None:
        """Let go of the directory and its lock."""
        self._is_closed = True
        self._let_go()

    def _let_go(self) -> None:
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.close()

    async def health(self) -> Health:
        """See `Store`; opens the directory if it can be, and lets go of one that is gone."""
        if self._asking.is_busy:
            raise StoreTimeoutError(f"{self._path}: the last question is not answered yet")
        self._work.check()
        return await self._asking.run(self._look)

    def _look(self) -> Health:
        try:
            identity = read_identity(self._files, self._path)
            self._expected.check(identity, where=self._path)
            directory = self._directory or self._open()
            return Health(identity, directory.space())
        except (NodeNotMountedError, NodeIdentityError):
            self._let_go()
            raise
        except OSError as error:
            raise StoreError(f"{self._path}: {error}") from error

    def _open(self) -> ChunkDirectory:
        if self._is_closed:
            raise StoreError(f"{self._path}: the node was removed")
        expected = self._expected
        home = NodeDirectory.open(
            self._files, self._path, cluster_id=expected.cluster_id, node=expected.node,
            node_id=expected.node_id, reserve_bytes=0,
        )  # fmt: skip
        home.sync_every_bytes = SYNC_EVERY_BYTES
        home.reserve_bytes = reserve_of(home.space().total_bytes, self._reserve_bytes)
        self._directory = ChunkDirectory(home)
        return self._directory

    async def begin(self, chunk: ChunkId, file_bytes: int) -> HangProofUpload:
        """See `Store`."""
        directory = self._open_directory()

        def give_up(write: ChunkWrite | None) -> None:
            if write is not None:
                write.abort()

        with self._patience(self._timeouts.durable_s, f"beginning {chunk}"):
            write = await self._work.run_or_undo(
                lambda: directory.begin(chunk, file_bytes), give_up
            )
        return HangProofUpload(write, self._work, node=self.node, timeouts=self._timeouts)

    async def head(self, chunk: ChunkId) -> ChunkHead:
        """See `Store`."""
        with self._patience(self._timeouts.answer_s, f"the head of {chunk}"):
            return await self.opened.head(chunk)

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        """See `Store`."""
        with self._patience(self._timeouts.answer_s, f"a range of {chunk}"):
            return await self.opened.read(chunk, start, end)

    def verified_range(self, chunk: ChunkId, start: int, end: int) -> FileRange | None:
        """See `LocalStore`; None also where the directory is not open."""
        directory = self._directory
        if directory is None:
            return None
        return LocalStore(directory, self._work, asking=self._reading).verified_range(
            chunk, start, end
        )

    async def list(self, *, after: str = "", limit: int = LIST_MAX) -> tuple[ChunkId, ...]:
        """See `Store`."""
        with self._patience(self._timeouts.durable_s, "listing chunks"):
            return await self.opened.list(after=after, limit=limit)

    async def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        """See `Store`."""
        with self._patience(self._timeouts.scan_s, f"verifying {chunk}"):
            return await self.opened.verify(chunk)

    async def delete(self, chunk: ChunkId) -> bool:
        """See `Store`."""
        with self._patience(self._timeouts.durable_s, f"removing {chunk}"):
            return await self.opened.delete(chunk)

    async def quarantine(self, chunk: ChunkId) -> None:
        """See `Store`."""
        with self._patience(self._timeouts.durable_s, f"putting aside {chunk}"):
            await self.opened.quarantine(chunk)

    async def note_catalog_sequence(self, sequence: int) -> None:
        """See `Store`."""
        with self._patience(self._timeouts.durable_s, "noting the catalog's sequence"):
            await self.opened.note_catalog_sequence(sequence)


class _PastCache(LocalNode):
    """See `LocalNode.past_cache`."""

    def __init__(self, node: LocalNode) -> None:
        super().__init__(
            node._files, node._path, node._expected, work=node._work, reading=node._reading,
            asking=node._asking, timeouts=node._timeouts, reserve_bytes=node._reserve_bytes,
        )  # fmt: skip
        self._whole = node
        self._past_cache = True

    def _open_directory(self) -> ChunkDirectory:
        return self._whole._open_directory()

    async def health(self) -> Health:
        """See `Store`: the node itself opens its directory."""
        return await self._whole.health()


def reserve_of(total_bytes: int, reserve_bytes: int | None) -> int:
    """Return the free space that chunks must leave on a disk; None: where nothing is set."""
    if reserve_bytes is not None:
        return reserve_bytes
    return min(RESERVE_BYTES_MAX, total_bytes // RESERVE_FRACTION)
