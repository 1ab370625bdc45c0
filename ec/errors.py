"""Every error that the library raises on purpose, one class per thing a caller can do about it.

Three families, all under `EcError`:

* the caller asked for what cannot be: `ProfileError`, `ChunkNameError`, `PlacementError`;
* a chunk is not what it must be: `ChunkDamagedError` names file, region and position;
* a node cannot do it now: `StoreError` and its kinds. `NodeNotMountedError` and
  `StoreUnavailableError` say that nothing is known about the chunks; only `ChunkMissingError` says
  that a chunk is not there.

An `AssertionError` is never one of these: it is a bug of ours.
"""

from __future__ import annotations


class EcError(Exception):
    """Anything that the library raises on purpose."""


class ProfileError(EcError, ValueError):
    """A profile that is not k+m within the bounds."""


class ChunkNameError(EcError, ValueError):
    """A name that is no chunk's: nothing is opened by it."""


class KernelError(EcError):
    """A coding kernel is not there, or does not compute what it must."""


class PlacementError(EcError):
    """No placement satisfies the rules; the message shows the arithmetic."""


class NotEnoughChunksError(EcError):
    """Fewer than k chunks are at hand: the range cannot be computed."""


class GenerationMixError(EcError):
    """Chunks of two encodings were about to be used together."""


class ChunkDamagedError(EcError):
    """Bytes of a chunk file are not what they must be.

    Attributes:
        path: the file, or what stands for it.
        region: "payload", "checksums", "offset index", "time index", "manifest", "trailer" or
            "identity" (intact, but another chunk than its name says).
        position: where in the file, in bytes.
        reason: what is wrong there.
    """

    def __init__(self, path: str, *, region: str, position: int, reason: str) -> None:
        assert position >= 0
        assert region
        super().__init__(f"{path}: {region} at byte {position}: {reason}")
        self.path = path
        self.region = region
        self.position = position
        self.reason = reason


class ChunkVersionError(EcError):
    """A chunk file of a newer format version: intact, but not for this reader."""

    def __init__(self, path: str, version: int, known: int) -> None:
        assert version != known
        super().__init__(f"{path}: has format version {version}, this reader knows {known}")
        self.path = path
        self.version = version


class StoreError(EcError):
    """A storage node did not do what it was asked; nothing is changed unless the kind says so."""


class ChunkMissingError(StoreError):
    """The node is there and has no such chunk."""


class ChunkExistsError(StoreError):
    """An intact chunk with other bytes has that name; it stays."""


class ChunkBusyError(StoreError):
    """The same chunk is being written: by somebody else, or for an upload that was given up."""


class ChunkRefusedError(StoreError):
    """What was sent is no intact chunk of that name; nothing of it is kept."""


class NoSpaceError(StoreError):
    """The node has less free space than the chunk and its reserve need."""


class NodeNotMountedError(StoreError):
    """The directory has no identity file: its disk is not mounted, its chunks are unknown."""


class NodeIdentityError(StoreError):
    """The directory belongs to another node or cluster, or its identity file is damaged."""


class StoreUnavailableError(StoreError):
    """The node did not answer, or answered what makes no sense: its chunks are unknown."""


class StoreTimeoutError(StoreUnavailableError):
    """The node did not answer in time; what it was asked may have happened, or happen yet."""


class NodeOverloadedError(StoreUnavailableError):
    """The node has as much to do as it allows; nothing was done."""


class TokenRefusedError(StoreError):
    """The node does not know the token, or wants one; nothing was done."""


class NodeAddressError(EcError, ValueError):
    """A text that is no address of a node."""
