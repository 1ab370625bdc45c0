"""The directory of a node that serves: it may come, and go, while the node runs.

A disk may be mounted after the node was started, or the directory be made into a node's only then.
So it is opened when it is first needed; until then every answer is "not mounted", and nothing is
written but by `initialise`, which an operator asks for.
"""

from __future__ import annotations

import re
from typing import Final

import trio

from ec.chunk_dir import ChunkDirectory
from ec.chunk_id import GENERATION_MAX, is_hex_id
from ec.errors import NodeIdentityError, StoreError
from ec.file_system import FileSystem
from ec.node_dir import NodeDirectory, initialise
from ec.node_identity import NodeIdentity, is_renamed
from ec.offload import Offload

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_CLUSTER_CHARACTERS_MAX: Final = 128
# What chunks leave free where nothing else is said: the smaller of the two.
RESERVE_BYTES_MAX: Final = 1024**3
RESERVE_FRACTION: Final = 20
CATALOG_SEQUENCE_MAX: Final = GENERATION_MAX  # Exact in every JSON reader, as generations are.


def is_node_name(name: str) -> bool:
    """Return whether a node may be called that."""
    return _NAME.fullmatch(name) is not None


class NodeHome:
    """See the module.

    Args:
        node: what the node must be called; None: whatever its identity says.
        reserve_bytes: free space that chunks must leave; None: 1 GiB or a 20th of the disk.
    """

    def __init__(
        self,
        files: FileSystem,
        path: str,
        offload: Offload,
        *,
        node: str | None = None,
        reserve_bytes: int | None = None,
    ) -> None:
        assert path
        self._files = files
        self._path = path
        self._offload = offload
        self._node = node
        self._reserve_bytes = reserve_bytes
        self._opening = trio.Lock()
        self._directory: ChunkDirectory | None = None

    async def directory(self) -> ChunkDirectory:
        """Return the directory, opened if it is not yet.

        Raises:
            NodeNotMountedError: it has no identity. NodeIdentityError, StoreError: as
            `ChunkDirectory.open`.
        """
        if self._directory is None:
            async with self._opening:
                if self._directory is None:
                    self._directory = await self._offload.run(self._open)
        return self._directory

    def _open(self) -> ChunkDirectory:
        opened = NodeDirectory.open(
            self._files, self._path, cluster_id=None, node=self._node, node_id=None, reserve_bytes=0
        )
        opened.reserve_bytes = self._reserve(opened)
        return ChunkDirectory(opened)

    def _reserve(self, opened: NodeDirectory) -> int:
        assert self._directory is None
        if self._reserve_bytes is not None:
            return self._reserve_bytes
        return min(RESERVE_BYTES_MAX, opened.space().total_bytes // RESERVE_FRACTION)

    async def initialise(self, identity: NodeIdentity) -> None:
        """Make the empty directory into this node's; harmless if it is already.

        A node that has this id under another name gets the name.

        Raises:
            NodeIdentityError: it is another node's, or not empty, or the identity makes no sense.
            NodeNotMountedError: it was this node's, and its disk has gone. StoreError: the file
            system refuses.
        """
        check_identity(identity)
        if self._node is not None and identity.node != self._node:
            raise NodeIdentityError(
                f"this server was told that it is node {self._node}, not {identity.node}; start it "
                "with another --name, or without, to rename the node"
            )
        if self._directory is not None:
            await self._check_same(self._directory, identity)
            return
        try:
            await self._offload.run(initialise, self._files, self._path, identity)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self._path}: the directory above it does not exist there; make it, or mount its "
                "disk, first"
            ) from error
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(
                f"{self._path}: {reason}; see to that there, or give another directory"
            ) from error

    async def _check_same(self, opened: ChunkDirectory, identity: NodeIdentity) -> None:
        """Check that the directory, which is in use, is the one that is asked for.

        One whose disk has gone is not made anew: what lies under a mount point is another disk.
        """
        found = opened.identity
        if is_renamed(found, identity):
            await self._offload.run(opened.rename_node, identity.node)
        elif (found.cluster_id, found.node) != (identity.cluster_id, identity.node):
            raise NodeIdentityError(f"this is node {found.node} of cluster {found.cluster_id}")
        await self._offload.run(opened.space)

    def close(self) -> None:
        """Let go of the directory."""
        if self._directory is not None:
            self._directory.close()
            self._directory = None


def check_identity(identity: NodeIdentity) -> None:
    """Check what somebody else says that a node is to be.

    Raises:
        NodeIdentityError: no node is that.
    """
    cluster = identity.cluster_id
    if not is_node_name(identity.node) or not is_hex_id(identity.node_id):
        raise NodeIdentityError(
            "a node has a name of 1 to 64 letters, digits, '.', '_', '-', and 32 hex digits of id"
        )
    if not 0 < len(cluster) <= _CLUSTER_CHARACTERS_MAX or not cluster.isprintable():
        raise NodeIdentityError(f"a cluster id has 1 to {_CLUSTER_CHARACTERS_MAX} characters")
    if not 0 <= identity.catalog_sequence <= CATALOG_SEQUENCE_MAX:
        raise NodeIdentityError(f"a catalog sequence is 0 to {CATALOG_SEQUENCE_MAX}")
