"""Every kind of storage node passes the one contract."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from ec.breaker import Breaker
from ec.chunk_dir import ChunkDirectory
from ec.chunk_id import ChunkId
from ec.node_dir import CHUNKS, initialise
from ec.offload import InlineOffload, Offload, ThreadOffload
from ec.store.guarded import GuardedStore
from ec.store.local import LocalStore
from ec.store.protocol import Store
from logd.storage.files import Files, OpenFile
from tests.contract.check_store import IDENTITY, MemoryStore, StoreContract
from tests.node_rig import NodeRig


class SmallDisk(Files):
    """A disk of which tests say how much is free."""

    free: int | None = None

    def free_bytes(self, path: str) -> int:
        return super().free_bytes(path) if self.free is None else self.free

    def sync(self, file: OpenFile) -> None:
        pass  # Contract tests do not cut the power.

    def sync_directory(self, path: str) -> None:
        pass


class DiskRig:
    """A directory on a disk, without a store yet."""

    def __init__(self, directory: str) -> None:
        self.path = f"{directory}/node"
        self.files = SmallDisk()
        initialise(self.files, self.path, IDENTITY)

    def flip(self, chunk: ChunkId, position: int) -> None:
        with open(f"{self.path}/{CHUNKS}/{chunk.name}", "r+b") as file:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 1]))

    def unmount(self) -> None:
        Path(self.path).rename(f"{self.path}.elsewhere")
        os.mkdir(self.path)

    def leave_free(self, size: int) -> None:
        self.files.free = size

    def names(self) -> list[str]:
        return sorted(os.listdir(f"{self.path}/{CHUNKS}"))

    async def settle(self) -> None:
        """A directory knows at once."""


class LocalRig(DiskRig):
    """A local store on a real directory."""

    def __init__(self, directory: str, offload: Offload) -> None:
        super().__init__(directory)
        self.store: Store = LocalStore(ChunkDirectory.open(self.files, self.path), offload)


class MemoryRig:
    """The fake."""

    def __init__(self) -> None:
        self.fake = MemoryStore()
        self.store: Store = self.fake

    def flip(self, chunk: ChunkId, position: int) -> None:
        data = bytearray(self.fake.files[chunk.name])
        data[position] ^= 1
        self.fake.files[chunk.name] = bytes(data)

    def unmount(self) -> None:
        self.fake.mounted = False

    def leave_free(self, size: int) -> None:
        self.fake.free_bytes = size

    def names(self) -> list[str]:
        return sorted(self.fake.files)

    async def settle(self) -> None:
        """So does the fake."""


class RemoteRig(DiskRig):
    """A remote store, its node in this process on loopback, and the node's disk."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.node = NodeRig(self.files, self.path)
        self.store: Store

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[RemoteRig]:
        """Serve, with a client for it."""
        async with self.node.serving():
            remote = self.node.client()
            self.store = remote
            yield self
            remote.close()


class TestLocalStore(StoreContract):
    """A directory, its work done in threads."""

    @pytest.fixture
    def rig(self, directory: str) -> LocalRig:
        return LocalRig(directory, ThreadOffload())


class TestInlineLocalStore(StoreContract):
    """A directory, its work done on the loop, as in simulation."""

    @pytest.fixture
    def rig(self, directory: str) -> LocalRig:
        return LocalRig(directory, InlineOffload())


class TestGuardedStore(StoreContract):
    """A directory behind a breaker that has no reason to open."""

    @pytest.fixture
    def rig(self, directory: str) -> LocalRig:
        rig = LocalRig(directory, InlineOffload())
        rig.store = GuardedStore(rig.store, breaker=Breaker(), rng=Random(1))
        return rig


class TestMemoryStore(StoreContract):
    """The fake that other tests use."""

    @pytest.fixture
    def rig(self) -> MemoryRig:
        return MemoryRig()


class TestRemoteStore(StoreContract):
    """A directory behind a server."""

    @pytest.fixture
    async def rig(self, directory: str) -> AsyncIterator[RemoteRig]:
        async with RemoteRig(directory).serving() as rig:
            yield rig
