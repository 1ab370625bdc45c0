"""A node's directory: the disk under it, and whether it is still the one that was opened.

    node.identity   which node this is; without it the disk is not mounted (`ec.node_identity`)
    node.lock       one process at a time
    chunks/         <chunk id>, and <chunk id>.tmp while it is written
    quarantine/     what no record explains; only people delete here

Every use first looks whether the disk is there. If not, nothing is written, and "not there" is
never the answer about a chunk: nothing is known. A failed sync of the names is final, because the
kernel has forgotten what it could not write: nothing is written until the directory is opened
again.
"""

from __future__ import annotations

import contextlib
import errno
import os.path
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Final

from ec.chunk_id import ChunkId
from ec.errors import (
    ChunkNameError,
    NodeIdentityError,
    NodeNotMountedError,
    NoSpaceError,
    StoreError,
)
from ec.file_system import FileSystem, Handle
from ec.node_identity import (
    FILE_NAME,
    TEMP_SUFFIX,
    NodeIdentity,
    identity_path,
    is_renamed,
    read_identity,
    renamed,
    write_identity,
)

CHUNKS: Final = "chunks"
QUARANTINE: Final = "quarantine"
LOCK_NAME: Final = "node.lock"
# What a directory may hold that is to become a node's: what a crash left, or a new file system.
_HARMLESS: Final = frozenset({CHUNKS, QUARANTINE, LOCK_NAME, FILE_NAME + TEMP_SUFFIX, "lost+found"})


@dataclass(frozen=True, slots=True)
class Space:
    """How full a node's disk is, and which device it is on."""

    free_bytes: int
    total_bytes: int
    device: int


def initialise(files: FileSystem, path: str, identity: NodeIdentity) -> None:
    """Make a directory into a node's; it is absent, empty, or has this identity already.

    One that has its id under another name, and that nobody has open, gets the name. Durable once
    this returns. The identity comes last: a crash before leaves an empty directory.

    Raises:
        NodeIdentityError: it is another node's, or not empty. OSError: as the system gave it.
    """
    assert path
    if not files.exists(path):
        files.make_directory(path)
        files.sync_directory(os.path.dirname(os.path.abspath(path)))
    names = set(files.list_directory(path))
    if FILE_NAME in names:
        found = read_identity(files, path)
        if is_renamed(found, identity):
            write_identity(files, path, renamed(found, identity.node))
        elif (found.cluster_id, found.node) != (identity.cluster_id, identity.node):
            raise NodeIdentityError(f"{path}: is node {found.node} of cluster {found.cluster_id}")
        return
    kept = [os.path.join(path, name) for name in names & {CHUNKS, QUARANTINE}]
    if names - _HARMLESS or any(files.list_directory(inner) for inner in kept):
        raise NodeIdentityError(f"{path}: is not empty, and no node's")
    for name in (CHUNKS, QUARANTINE):
        if name not in names:
            files.make_directory(os.path.join(path, name))
    files.sync_directory(path)
    write_identity(files, path, identity)


class NodeDirectory:
    """See the module.

    Attributes:
        files: the file system.
        path, chunks, quarantine: the directory and its two parts.
        identity: as read when it was opened, or noted since.
        reserve_bytes: free space that writing a chunk must leave.
        sync_every_bytes: a chunk that is written is synced so often on the way; None: at its end.
            Whoever shares the device with others that wait for syncs sets it: they would otherwise
            wait for all of the chunk. What goes past the page cache leaves nothing to wait for.
    """

    def __init__(
        self, files: FileSystem, path: str, identity: NodeIdentity, lock: Handle, reserve_bytes: int
    ) -> None:
        assert reserve_bytes >= 0
        assert lock is not None
        self.files = files
        self.path = path
        self.chunks = os.path.join(path, CHUNKS)
        self.quarantine = os.path.join(path, QUARANTINE)
        self.identity = identity
        self.reserve_bytes = reserve_bytes
        self.sync_every_bytes: int | None = None
        self._device = files.device(path)
        self._lock = lock
        self._failed: str | None = None
        self._noting = Lock()

    @classmethod
    def open(
        cls, files: FileSystem, path: str, *, cluster_id: str | None, node: str | None,
        node_id: str | None, reserve_bytes: int,
    ) -> NodeDirectory:  # fmt: skip
        """Open a node's directory, lock it, and remove what unfinished writes left.

        Args:
            cluster_id, node, node_id: what the identity must say, where it is known.

        Raises:
            NodeNotMountedError: no identity file. NodeIdentityError: another one. StoreError:
            another process has it open, or the file system refuses.
        """
        identity = read_identity(files, path)
        for expected, found in (
            (cluster_id, identity.cluster_id), (node, identity.node), (node_id, identity.node_id)
        ):  # fmt: skip
            if expected is not None and expected != found:
                raise NodeIdentityError(f"{path}: belongs to {found}, expected {expected}")
        try:
            lock = files.create_or_truncate(os.path.join(path, LOCK_NAME))
            if not files.lock(lock):
                raise StoreError(f"{path}: another process has it open")
            opened = cls(files, path, identity, lock, reserve_bytes)
            opened._remove_unfinished()
        except OSError as error:
            raise StoreError(f"{path}: {error}") from error
        return opened

    def _remove_unfinished(self) -> None:
        for name in self.files.list_directory(self.chunks):
            if name.endswith(TEMP_SUFFIX) and is_chunk_name(name.removesuffix(TEMP_SUFFIX)):
                self.files.unlink(os.path.join(self.chunks, name))

    def close(self) -> None:
        """Let go of the lock; nothing is written through this object any more."""
        self._lock = None
        self._failed = "it is closed"

    def path_of(self, chunk: ChunkId) -> str:
        """Return where a chunk's file is; no other text ever becomes a path here."""
        assert isinstance(chunk, ChunkId)
        return os.path.join(self.chunks, chunk.name)

    def check_mounted(self) -> None:
        """Check that the disk is there, and is the one that was opened.

        Raises:
            NodeNotMountedError: it is not.
        """
        try:
            is_there = self.files.exists(identity_path(self.path))
            if is_there and self.files.device(self.path) == self._device:
                return
        except OSError as error:
            raise NodeNotMountedError(f"{self.path}: {error}") from error
        raise NodeNotMountedError(f"{self.path}: the disk that was here is not mounted")

    def check_writable(self) -> None:
        """Check that something may be written: by what the identity file says now.

        Another disk may be mounted here by now, and have got the number of the old one's device.

        Raises:
            NodeNotMountedError: the disk is not there. NodeIdentityError: another one is.
            StoreError: an earlier sync failed.
        """
        if self._failed is not None:
            raise StoreError(f"{self.path}: nothing is written any more: {self._failed}")
        self.check_mounted()
        self._identity_now()

    def _identity_now(self) -> NodeIdentity:
        """Return what the identity file says now, which may be a later sequence than was noted."""
        found = read_identity(self.files, self.path)
        if found.node_id != self.identity.node_id:
            raise NodeIdentityError(f"{self.path}: another disk is here, of node {found.node}")
        return found

    def sync_names(self) -> None:
        """Make the names of chunks durable.

        Raises:
            OSError: they may not be, and this directory writes nothing any more.
        """
        try:
            self.files.sync_directory(self.chunks)
        except OSError as error:
            self._failed = f"a sync of its names failed: {error}"
            raise

    def space(self) -> Space:
        """Return how full the disk is.

        Raises:
            NodeNotMountedError, StoreError: it is not known.
        """
        self.check_mounted()
        with self.translated():
            free, total = self.files.free_bytes(self.path), self.files.total_bytes(self.path)
            return Space(free, total, self.files.device(self.path))

    def note_catalog_sequence(self, sequence: int) -> None:
        """Remember that the catalog has come this far; a lower number changes nothing.

        Raises:
            NodeNotMountedError, StoreError: it is not remembered.
        """
        assert sequence >= 0
        with self._noting:
            self.check_writable()
            old = self.identity = self._identity_now()
            if sequence > old.catalog_sequence:
                self._write(NodeIdentity(old.cluster_id, old.node, old.node_id, sequence))

    def rename(self, node: str) -> None:
        """Give the node another name; all that it holds stays.

        Raises:
            NodeNotMountedError, StoreError: it may have either name.
        """
        assert node
        with self._noting:
            self.check_writable()
            self._write(renamed(self._identity_now(), node))

    def _write(self, identity: NodeIdentity) -> None:
        assert identity.node_id == self.identity.node_id
        with self.translated():
            write_identity(self.files, self.path, identity)
        self.identity = identity

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn errors of the file system into ours.

        Raises:
            NodeNotMountedError: the disk is gone, whatever else was said. NoSpaceError: it, or a
            quota, is full. StoreError: anything else.
        """
        try:
            yield
        except OSError as error:
            self.check_mounted()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NoSpaceError(f"{self.path}: {error}") from error
            raise StoreError(f"{self.path}: {error}") from error


def is_chunk_name(name: str) -> bool:
    """Return whether a file name is a chunk's."""
    try:
        ChunkId.parse(name)
    except ChunkNameError:
        return False
    return True
