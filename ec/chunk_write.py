"""A chunk on its way to a disk: bytes in order, then the steps that make them count.

Space is reserved, the bytes go to `<chunk id>.tmp`, past the page cache where that goes
(`ec.ordered_file`); it is synced, what the cache has of it is dropped, all of it is read back from
the device and verified; only then it is renamed to its name and the directory is synced. Reading
back before the rename, not behind it, means that a name never leads to bytes that nobody has seen
on the device.

A crash at any point leaves the chunk that was there before or, once the rename is durable, the new
one; a `.tmp` is removed at the next start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ec.chunk_id import ChunkId, is_hex_id
from ec.chunk_reader import ChunkReader
from ec.errors import (
    ChunkDamagedError,
    ChunkExistsError,
    ChunkRefusedError,
    ChunkVersionError,
    NoSpaceError,
)
from ec.kernels.operands import Buffer
from ec.node_dir import NodeDirectory
from ec.node_identity import TEMP_SUFFIX
from ec.ordered_file import OrderedFile

# More than any segment's chunk.
CHUNK_BYTES_MAX: Final = 2**40

Outcome = Literal["stored", "present", "replaced"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a PUT answers: the chunk was read back from the device and is intact.

    Attributes:
        digest: as `ChunkHead.digest`; equal to the sender's means equal bytes.
        outcome: "present" if the same bytes were there already.
        damage: what was wrong with the chunk that was replaced; "" where none was.
    """

    id: ChunkId
    file_bytes: int
    digest: str
    outcome: Outcome
    damage: str = ""


class ChunkWrite:
    """One chunk file being written; see the module.

    Attributes:
        file_bytes: its length, as announced.
        written_bytes: what came so far.
    """

    def __init__(
        self, home: NodeDirectory, chunk: ChunkId, file_bytes: int, *, ended: Callable[[], None]
    ) -> None:
        """Reserve the space and make the temporary file.

        Args:
            ended: called once, when the write is finished or given up.

        Raises:
            ChunkRefusedError: no chunk file is that long. NoSpaceError, NodeNotMountedError,
            StoreError: nothing can be written; nothing is left.
        """
        self._home = home
        self._files = home.files
        self._ended: Callable[[], None] | None = ended
        self._path = home.path_of(chunk) + TEMP_SUFFIX
        self._file: OrderedFile | None = None
        self.chunk = chunk
        self.file_bytes = file_bytes
        self.written_bytes = 0
        self._unsynced_bytes = 0
        try:
            self._reserve()
        except BaseException:  # Whatever it was, the next try must find no trace.
            self.abort()
            raise

    def _reserve(self) -> None:
        if not 0 < self.file_bytes <= CHUNK_BYTES_MAX:
            raise ChunkRefusedError(f"{self.chunk}: {self.file_bytes} bytes are no chunk's length")
        home = self._home
        home.check_writable()
        with home.translated():
            free = self._files.free_bytes(home.chunks)
            if free - home.reserve_bytes < self.file_bytes:
                raise NoSpaceError(
                    f"{home.path}: {free} bytes free, less {home.reserve_bytes} of reserve;"
                    f" the chunk has {self.file_bytes}"
                )
            self._file = OrderedFile(self._files, self._path, size=self.file_bytes)

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Append bytes; the buffers may be used again at once.

        Raises:
            ChunkRefusedError: more than was announced. NoSpaceError, NodeNotMountedError,
            StoreError: the disk refuses. All of them end the write.
        """
        assert self._ended is not None
        assert self._file is not None
        size = sum(map(len, buffers))
        try:
            if self.written_bytes + size > self.file_bytes:
                raise ChunkRefusedError(f"{self.chunk}: is longer than {self.file_bytes} bytes")
            with self._home.translated():
                self._file.append(buffers)
                self._sync_on_the_way(size)
        except BaseException:  # Whatever it was, half a chunk is no chunk.
            self.abort()
            raise
        self.written_bytes += size

    def _sync_on_the_way(self, size: int) -> None:
        assert self._file is not None
        every_bytes = self._home.sync_every_bytes
        if self._file.direct is not None:
            return  # What is in the device's cache, whoever syncs empties in any case.
        self._unsynced_bytes += size
        if every_bytes is not None and self._unsynced_bytes >= every_bytes:
            self._file.sync()
            self._unsynced_bytes = 0

    def finish(self) -> Receipt:
        """Make the chunk durable, read it back, and give it its name.

        Raises:
            ChunkRefusedError: what was written is not that chunk, intact. ChunkExistsError: an
            intact one with other bytes has that name. NoSpaceError, NodeNotMountedError,
            StoreError: the disk refuses. What was there before is there still, unless the last
            step failed, the sync of the name: then it is the old chunk or the new one, whole.
        """
        assert self._ended is not None
        try:
            if self.written_bytes != self.file_bytes:
                sizes = f"{self.written_bytes} bytes of {self.file_bytes}"
                raise ChunkRefusedError(f"{self.chunk}: only {sizes} came")
            with self._home.translated():
                return self._publish()
        finally:
            self.abort()

    def _publish(self) -> Receipt:
        assert self._file is not None
        assert self.written_bytes == self.file_bytes
        written = self._file
        written.settle()
        written.sync()
        self._files.drop_cache(written.file)
        try:
            fresh = ChunkReader.open(self._files, self._path, self.chunk, file=written.file)
            fresh.verify(written.direct)
        except (ChunkDamagedError, ChunkVersionError) as error:
            raise ChunkRefusedError(f"no intact chunk was written: {error}") from error
        self._home.check_writable()
        digest = fresh.head.digest
        outcome, damage = self._compare_with_old(digest)
        if outcome != "present":
            self._files.rename(self._path, self._home.path_of(self.chunk))
        self._home.sync_names()
        return Receipt(self.chunk, self.file_bytes, digest, outcome, damage)

    def _compare_with_old(self, digest: str) -> tuple[Outcome, str]:
        """Return what a rename would do, and what is wrong with the chunk that is there.

        Raises:
            ChunkExistsError: it is intact and has another digest.
        """
        assert is_hex_id(digest)
        path = self._home.path_of(self.chunk)
        if not self._files.exists(path):
            return "stored", ""
        try:
            old = ChunkReader.open(self._files, path, self.chunk)
            old.drop_cache()
            old.verify()
        except ChunkDamagedError as error:
            return "replaced", str(error)
        except ChunkVersionError as error:
            raise ChunkExistsError(str(error)) from error
        if old.head.digest != digest:
            raise ChunkExistsError(f"{path}: is there, intact, with other bytes")
        return "present", ""

    def abort(self) -> None:
        """End the write; what has not got its name by now is removed."""
        if self._ended is None:
            return
        ended, self._ended, self._file = self._ended, None, None
        # Best effort: what stays is emptied by the next try, and removed by the next start.
        with contextlib.suppress(OSError):
            self._files.unlink(self._path)
        ended()
