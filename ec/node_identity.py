"""A node's identity file: which node of which cluster a directory is.

    position  size  field
    0         6     magic: the letters "logdnd"
    6         2     version, 1
    8         4     payload length
    12        4     reserved, zeros
    16        8     XXH3-64 of bytes 0 to 15 followed by the payload
    24        …     payload: JSON

A directory without it is a disk that is not mounted: nothing is written there, and nothing is
concluded from what it lacks. It also keeps the highest sequence of the catalog that was ever seen
with this node, so that a catalog restored from an old copy is found out.

Replaced by write, fsync, rename, fsync of the directory: old or new after any crash.
"""

from __future__ import annotations

import contextlib
import os.path
import struct
from typing import Final

import msgspec

from ec import checksums
from ec.chunk_id import is_hex_id
from ec.errors import NodeIdentityError, NodeNotMountedError
from ec.file_system import FileSystem

FILE_NAME: Final = "node.identity"
TEMP_SUFFIX: Final = ".tmp"
MAGIC: Final = b"logdnd"
VERSION: Final = 1
HEADER: Final = struct.Struct(">6sHIIQ")
IDENTITY_BYTES_MAX: Final = 4096
_CHECKSUM_AT: Final = 16
assert HEADER.size == _CHECKSUM_AT + 8


class NodeIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which node this is.

    Attributes:
        node: its name in the cluster.
        node_id: 32 hex digits, new with each initialisation: a directory that was initialised
            again under the old name is another node.
        catalog_sequence: the highest one seen.
    """

    cluster_id: str
    node: str
    node_id: str
    catalog_sequence: int = 0


def is_renamed(found: NodeIdentity, wanted: NodeIdentity) -> bool:
    """Return whether both are one node, under different names."""
    assert is_hex_id(wanted.node_id)
    is_same = (found.cluster_id, found.node_id) == (wanted.cluster_id, wanted.node_id)
    return is_same and found.node != wanted.node


def renamed(identity: NodeIdentity, node: str) -> NodeIdentity:
    """Return a node's identity under another name."""
    assert node
    return NodeIdentity(identity.cluster_id, node, identity.node_id, identity.catalog_sequence)


def encode_identity(identity: NodeIdentity) -> bytes:
    """Return the bytes of an identity file."""
    assert is_hex_id(identity.node_id)
    payload = msgspec.json.encode(identity)
    assert len(payload) <= IDENTITY_BYTES_MAX
    start = HEADER.pack(MAGIC, VERSION, len(payload), 0, 0)[:_CHECKSUM_AT]
    return start + checksums.checksum(start + payload).to_bytes(8, "big") + payload


def decode_identity(data: bytes, *, path: str) -> NodeIdentity:
    """Return the identity in the bytes of a file.

    Raises:
        NodeIdentityError: it is damaged, or of a newer version.
    """
    if len(data) < HEADER.size:
        raise NodeIdentityError(f"{path}: ends within its header")
    magic, version, size, _, checksum = HEADER.unpack_from(data)
    payload = data[HEADER.size :]
    if magic != MAGIC or size != len(payload):
        raise NodeIdentityError(f"{path}: is no identity file of a node")
    if checksums.checksum(data[:_CHECKSUM_AT] + payload) != checksum:
        raise NodeIdentityError(f"{path}: the checksum does not fit")
    if version != VERSION:
        raise NodeIdentityError(f"{path}: has format version {version}, known is {VERSION}")
    try:
        return msgspec.json.decode(payload, type=NodeIdentity)
    except msgspec.DecodeError as error:
        raise NodeIdentityError(f"{path}: {error}") from error


def read_identity(files: FileSystem, directory: str) -> NodeIdentity:
    """Return the identity of a directory.

    Raises:
        NodeNotMountedError: it has none. NodeIdentityError: it is damaged.
    """
    path = identity_path(directory)
    try:
        data = files.read_whole(path, limit_bytes=IDENTITY_BYTES_MAX + HEADER.size)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NodeNotMountedError(f"{directory}: no {FILE_NAME}, a disk not mounted?") from error
    except OSError as error:
        raise NodeNotMountedError(f"{path}: {error}") from error
    return decode_identity(data, path=path)


def write_identity(files: FileSystem, directory: str, identity: NodeIdentity) -> None:
    """Replace the identity, or make it; durable once this returns.

    Raises:
        OSError: as the file system gave it; the old one or the new one is there, whole.
    """
    path = identity_path(directory)
    temp = path + TEMP_SUFFIX
    try:
        file = files.create_or_truncate(temp)
        files.write_at(file, 0, [encode_identity(identity)])
        files.sync(file)
        files.rename(temp, path)
    except OSError:
        with contextlib.suppress(OSError):  # Best effort: the next write empties it anyway.
            files.unlink(temp)
        raise
    files.sync_directory(directory)


def identity_path(directory: str) -> str:
    """Return where a directory's identity file is."""
    assert directory
    return os.path.join(directory, FILE_NAME)
