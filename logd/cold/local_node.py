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

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
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


class OpenPlace:
    """A node's place, with its directory while that is open.

    Attributes:
        directory: as it is open now; None: no disk was seen there.
    """

    def __init__(self, path: str) -> None:
        self.path: Final = path
        self.directory: ChunkDirectory | None = None

    def opened(self) -> ChunkDirectory:
        """Return the directory as it is open now.

        Raises:
            NodeNotMountedError: it is not.
        """
        if self.directory is None:
            raise NodeNotMountedError(f"{self.path}: is not open: no disk was seen there")
        return self.directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """How a directory is asked.

    Attributes:
        work, reading: for what changes something there, and for what does not.
        timeouts: how long calls may take; a disk that hangs is a node that does not answer.
        past_cache: what is read, nobody will want again soon.
    """

    work: WorkGate
    reading: LooseGate
    timeouts: Timeouts
    past_cache: bool = False


class DirectoryCalls:
    """What a node's directory is asked for: all of `ec.store.protocol.Store` but its health.

    Args:
        name: the node's.
    """

    def __init__(self, name: str, place: OpenPlace, ways: Ways) -> None:
        assert name
        self._name = name
        self._place = place
        self._ways = ways

    @property
    def node(self) -> str:
        """See `Store`."""
        return self._name

    @property
    def opened(self) -> LocalStore:
        """The directory as it is open now: for ranges that go out by sendfile.

        Raises:
            NodeNotMountedError: it is not.
        """
        ways = self._ways
        return LocalStore(
            self._place.opened(), ways.work, asking=ways.reading, past_cache=ways.past_cache
        )

    def _patience(self, seconds: float, what: str) -> AbstractContextManager[object]:
        return Patience(seconds, node=self._name, what=what)

    async def begin(self, chunk: ChunkId, file_bytes: int) -> HangProofUpload:
        """See `Store`."""
        directory = self._place.opened()

        def give_up(write: ChunkWrite | None) -> None:
            if write is not None:
                write.abort()

        with self._patience(self._ways.timeouts.durable_s, f"beginning {chunk}"):
            write = await self._ways.work.run_or_undo(
                lambda: directory.begin(chunk, file_bytes), give_up
            )
        return HangProofUpload(write, self._ways.work, node=self.node, timeouts=self._ways.timeouts)

    async def head(self, chunk: ChunkId) -> ChunkHead:
        """See `Store`."""
        with self._patience(self._ways.timeouts.answer_s, f"the head of {chunk}"):
            return await self.opened.head(chunk)

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        """See `Store`."""
        with self._patience(self._ways.timeouts.answer_s, f"a range of {chunk}"):
            return await self.opened.read(chunk, start, end)

    def verified_range(self, chunk: ChunkId, start: int, end: int) -> FileRange | None:
        """See `LocalStore`; None also where the directory is not open."""
        directory = self._place.directory
        if directory is None:
            return None
        return LocalStore(directory, self._ways.work, asking=self._ways.reading).verified_range(
            chunk, start, end
        )

    async def list(self, *, after: str = "", limit: int = LIST_MAX) -> tuple[ChunkId, ...]:
        """See `Store`."""
        with self._patience(self._ways.timeouts.durable_s, "listing chunks"):
            return await self.opened.list(after=after, limit=limit)

    async def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        """See `Store`."""
        with self._patience(self._ways.timeouts.scan_s, f"verifying {chunk}"):
            return await self.opened.verify(chunk)

    async def delete(self, chunk: ChunkId) -> bool:
        """See `Store`."""
        with self._patience(self._ways.timeouts.durable_s, f"removing {chunk}"):
            return await self.opened.delete(chunk)

    async def quarantine(self, chunk: ChunkId) -> None:
        """See `Store`."""
        with self._patience(self._ways.timeouts.durable_s, f"putting aside {chunk}"):
            await self.opened.quarantine(chunk)

    async def note_catalog_sequence(self, sequence: int) -> None:
        """See `Store`."""
        with self._patience(self._ways.timeouts.durable_s, "noting the catalog's sequence"):
            await self.opened.note_catalog_sequence(sequence)


class LocalNode(DirectoryCalls):
    """See the module, and `ec.store.protocol.Store`.

    Args:
        asking: for its health.
        reserve_bytes: free space that chunks must leave; None: 1 GiB or a 20th of the disk.
        work, reading, timeouts: as `Ways`.
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
        super().__init__(
            expected.node, OpenPlace(path), Ways(work=work, reading=reading, timeouts=timeouts)
        )
        self._files = files
        self._path = path
        self._expected = expected
        self._asking = asking
        self._reserve_bytes = reserve_bytes
        self._is_closed = False

    def past_cache(self) -> PastCache:
        """Return the same node for those who read what nobody will want again soon.

        It shares this one's directory, and is never opened or closed itself.
        """
        return PastCache(
            self._name, self._place, replace(self._ways, past_cache=True), health=self.health
        )

    def close(self) -> None:
        """Let go of the directory and its lock."""
        self._is_closed = True
        self._let_go()

    def _let_go(self) -> None:
        directory, self._place.directory = self._place.directory, None
        if directory is not None:
            directory.close()

    async def health(self) -> Health:
        """See `Store`; opens the directory if it can be, and lets go of one that is gone."""
        if self._asking.is_busy:
            raise StoreTimeoutError(f"{self._path}: the last question is not answered yet")
        self._ways.work.check()
        return await self._asking.run(self._look)

    def _look(self) -> Health:
        try:
            identity = read_identity(self._files, self._path)
            self._expected.check(identity, where=self._path)
            directory = self._place.directory or self._open()
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
        directory = self._place.directory = ChunkDirectory(home)
        return directory


class PastCache(DirectoryCalls):
    """See `LocalNode.past_cache`."""

    def __init__(
        self,
        name: str,
        place: OpenPlace,
        ways: Ways,
        *,
        health: Callable[[], Awaitable[Health]],
    ) -> None:
        super().__init__(name, place, ways)
        self._health = health

    async def health(self) -> Health:
        """See `Store`: the node itself opens its directory."""
        return await self._health()


def reserve_of(total_bytes: int, reserve_bytes: int | None) -> int:
    """Return the free space that chunks must leave on a disk; None: where nothing is set."""
    if reserve_bytes is not None:
        return reserve_bytes
    return min(RESERVE_BYTES_MAX, total_bytes // RESERVE_FRACTION)
