"""The chunks of one node: writing, reading, listing, verifying and removing them.

Invariants:

* A chunk's name leads to a file that was whole, synced, read back from the device and verified
  before it got the name (`ec.chunk_write`).
* An intact chunk is never replaced. The same bytes again change nothing; other bytes are refused;
  only a chunk that fails its own verification is replaced, by rename, and that is reported.
* "Missing" is said only of a disk that is there (`ec.node_dir`).

All methods block and may be called by several threads at once.
"""

from __future__ import annotations

import os.path
from collections import OrderedDict
from threading import Lock
from typing import Final

from ec.chunk_id import ChunkId
from ec.chunk_reader import ChunkReader
from ec.chunk_write import ChunkWrite
from ec.errors import (
    ChunkBusyError,
    ChunkDamagedError,
    ChunkExistsError,
    ChunkMissingError,
    ChunkNameError,
    ChunkRefusedError,
)
from ec.file_system import FileSystem
from ec.node_dir import NodeDirectory, Space, is_chunk_name
from ec.node_identity import NodeIdentity

# Open chunks: a descriptor and some tens of KiB each.
OPEN_MAX: Final = 128
LIST_MAX: Final = 1000
# Read at once at most; whoever wants more asks again.
READ_BYTES_MAX: Final = 64 * 1024 * 1024


class ChunkDirectory:
    """See the module."""

    def __init__(self, home: NodeDirectory) -> None:
        self._home = home
        self._files = home.files
        self._guard = Lock()
        self._open: OrderedDict[ChunkId, ChunkReader] = OrderedDict()
        self._writing: set[ChunkId] = set()
        assert home.identity.node

    @classmethod
    def open(
        cls, files: FileSystem, path: str, *, cluster_id: str | None = None,
        node: str | None = None, node_id: str | None = None, reserve_bytes: int = 0,
    ) -> ChunkDirectory:  # fmt: skip
        """Open a node's directory.

        Raises:
            As `NodeDirectory.open`.
        """
        return cls(
            NodeDirectory.open(
                files,
                path,
                cluster_id=cluster_id,
                node=node,
                node_id=node_id,
                reserve_bytes=reserve_bytes,
            )
        )

    def close(self) -> None:
        """Let go of all files and of the lock."""
        with self._guard:
            self._open.clear()
        self._home.close()

    @property
    def identity(self) -> NodeIdentity:
        """Which node this is."""
        return self._home.identity

    # --- Writing ----------------------------------------------------------------------------

    def begin(self, chunk: ChunkId, file_bytes: int) -> ChunkWrite:
        """Begin to write a chunk file of a known length.

        Raises:
            ChunkBusyError: it is being written already; else as `ChunkWrite`.
        """
        with self._guard:
            if chunk in self._writing:
                raise ChunkBusyError(f"{chunk} is being written")
            self._writing.add(chunk)
        return ChunkWrite(self._home, chunk, file_bytes, ended=lambda: self._written(chunk))

    def _written(self, chunk: ChunkId) -> None:
        with self._guard:
            assert chunk in self._writing
            self._writing.discard(chunk)
            self._open.pop(chunk, None)  # It may have been replaced.

    # --- Reading ----------------------------------------------------------------------------

    def reader(self, chunk: ChunkId) -> ChunkReader:
        """Return a chunk, open and its head verified; it stays readable when it is deleted.

        Raises:
            ChunkMissingError: the disk is there and the chunk is not. ChunkDamagedError,
            ChunkVersionError: it cannot be used. NodeNotMountedError, StoreError: not known.
        """
        self._home.check_mounted()
        with self._guard:
            found = self._open.get(chunk)
            if found is not None:
                self._open.move_to_end(chunk)
                return found
        found = self._opened(chunk)
        with self._guard:
            self._open[chunk] = found
            while len(self._open) > OPEN_MAX:
                self._open.popitem(last=False)
        return found

    def open_reader(self, chunk: ChunkId) -> ChunkReader | None:
        """Return a chunk that is open already, or None; asks no disk, not even whether it is there.

        Does not block.
        """
        assert isinstance(chunk, ChunkId)
        with self._guard:
            return self._open.get(chunk)

    def _opened(self, chunk: ChunkId, *, from_device: bool = False) -> ChunkReader:
        path = self._home.path_of(chunk)
        with self._home.translated():
            try:
                file = self._files.open_read(path)
                if from_device:
                    self._files.drop_cache(file)
                return ChunkReader.open(self._files, path, chunk, file=file)
            except FileNotFoundError as error:
                self._home.check_mounted()
                raise ChunkMissingError(f"{path}: no such chunk") from error

    def read(self, chunk: ChunkId, start: int, end: int, *, past_cache: bool = False) -> memoryview:
        """Return a verified range of a chunk's payload.

        Args:
            past_cache: as `ChunkReader.read`.

        Raises:
            As `reader`; ChunkRefusedError: the payload has no such range, or it is longer than
            `READ_BYTES_MAX`.
        """
        reader = self.reader(chunk)
        size = reader.head.payload_bytes
        if not 0 <= start <= end <= size or end - start > READ_BYTES_MAX:
            raise ChunkRefusedError(f"{chunk}: bytes {start} to {end} of a payload of {size}")
        with self._home.translated():
            return reader.read(start, end, past_cache=past_cache)

    def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        """Read all of a chunk from the device; return what is wrong with it.

        Raises:
            ChunkMissingError, ChunkVersionError, NodeNotMountedError, StoreError: as `reader`.
        """
        self._home.check_mounted()
        with self._guard:
            self._open.pop(chunk, None)
        try:
            with self._home.translated():
                return self._opened(chunk, from_device=True).findings()
        except ChunkDamagedError as error:
            return (error,)

    def list(self, *, after: str = "", limit: int = LIST_MAX) -> tuple[ChunkId, ...]:
        """Return the chunks here in the order of their names: those behind `after`.

        Raises:
            NodeNotMountedError, StoreError: it is not known what is here.
        """
        assert 1 <= limit <= LIST_MAX
        names = (name for name in self._names() if name > after and is_chunk_name(name))
        return tuple(ChunkId.parse(name) for name, _ in zip(names, range(limit), strict=False))

    def _names(self) -> tuple[str, ...]:
        with self._home.translated():
            names = tuple(self._files.list_directory(self._home.chunks))
        self._home.check_mounted()  # Behind the listing: what was listed is this disk.
        return names

    def space(self) -> Space:
        """Return how full the disk is.

        Raises:
            As `NodeDirectory.space`.
        """
        return self._home.space()

    def note_catalog_sequence(self, sequence: int) -> None:
        """Remember that the catalog has come this far.

        Raises:
            As `NodeDirectory.note_catalog_sequence`.
        """
        self._home.note_catalog_sequence(sequence)

    def rename_node(self, node: str) -> None:
        """Give the node another name.

        Raises:
            As `NodeDirectory.rename`.
        """
        self._home.rename(node)

    # --- Removing ---------------------------------------------------------------------------

    def delete(self, chunk: ChunkId) -> bool:
        """Remove a chunk; return whether it was there. Durable once this returns.

        Raises:
            ChunkBusyError: it is being written: removed now, it would turn up behind that, and by
            then perhaps no record would name it. NodeNotMountedError, StoreError: it may still be
            there.
        """
        self._home.check_writable()
        with self._guard:
            if chunk in self._writing:
                raise ChunkBusyError(f"{chunk} is being written")
        with self._home.translated():
            try:
                self._files.unlink(self._home.path_of(chunk))
                was_there = True
            except FileNotFoundError:
                was_there = False
            # Also when it was gone already: an earlier removal may not have reached the device.
            self._home.sync_names()
        with self._guard:
            self._open.pop(chunk, None)
        return was_there

    def quarantine(self, name: str) -> None:
        """Move a chunk, or a stray, out of the way; only people delete what is there.

        Raises:
            ChunkNameError: no name of a file. ChunkMissingError: there is none. ChunkExistsError:
            one of that name is there already. NodeNotMountedError, StoreError: nothing is moved.
        """
        if os.path.basename(name) != name or name in ("", ".", "..") or "\0" in name:
            raise ChunkNameError(f"{name!r} is no name of a file")
        self._home.check_writable()
        there = os.path.join(self._home.quarantine, name)
        with self._home.translated():
            if self._files.exists(there):
                raise ChunkExistsError(f"{there}: is there already")
            try:
                self._files.rename(os.path.join(self._home.chunks, name), there)
            except FileNotFoundError as error:
                raise ChunkMissingError(f"{name}: no such file") from error
            # First the new name, then the loss of the old one: a crash between leaves both.
            self._files.sync_directory(self._home.quarantine)
            self._home.sync_names()
        if is_chunk_name(name):
            with self._guard:
                self._open.pop(ChunkId.parse(name), None)
