"""What the library needs of a file system: it is handed one, and touches no file by itself.

So whoever uses it decides how files are opened, and one fault injector can stand behind all calls.
A handle is closed when its last reference is gone: a chunk may be deleted or replaced while a range
of it is still being sent.

Every method raises OSError as the system gave it. Paths are strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

# An open file. What it is, is the implementation's business: it is only ever handed back.
Handle = Any


class FileSystem(Protocol):
    """The calls that the storage modules make."""

    def open_read(self, path: str) -> Handle:
        """Open an existing file for reading."""
        ...

    def create_or_truncate(self, path: str) -> Handle:
        """Create a file, or empty the one that is there."""
        ...

    def open_direct(self, file: Handle, *, writable: bool) -> Handle:
        """Open an open file once more, past the page cache; None where there is no such way.

        Positions, lengths and addresses are multiples of `ec.alignment.ALIGNMENT_BYTES` then; a
        file system may still refuse at the first call (EINVAL).
        """
        ...

    def read_at(self, file: Handle, position: int, size: int) -> bytes:
        """Return up to `size` bytes; fewer only at the end of the file."""
        ...

    def read_into(self, file: Handle, position: int, buffer: bytearray | memoryview) -> int:
        """Fill the buffer; return the bytes read, fewer only at the end of the file."""
        ...

    def read_whole(self, path: str, *, limit_bytes: int) -> bytes:
        """Return a small file's bytes, at most `limit_bytes` + 1 of them."""
        ...

    def write_at(
        self, file: Handle, position: int, buffers: Sequence[bytes | bytearray | memoryview]
    ) -> int:
        """Write all buffers one behind the other; return the bytes written, which is all."""
        ...

    def allocate(self, file: Handle, position: int, size: int) -> None:
        """Reserve real blocks."""
        ...

    def size(self, file: Handle) -> int:
        """Return the file's length."""
        ...

    def sync(self, file: Handle) -> None:
        """fsync."""
        ...

    def sync_directory(self, path: str) -> None:
        """The names in a directory are on stable storage."""
        ...

    def drop_cache(self, file: Handle, position: int = 0, size: int = 0) -> None:
        """Drop clean cached pages, so that the next read comes from the device."""
        ...

    def is_cached(self, file: Handle, position: int, size: int) -> bool:
        """Return whether reading the range would not wait for the device."""
        ...

    def exists(self, path: str) -> bool:
        """Return whether the name exists."""
        ...

    def is_directory(self, path: str) -> bool:
        """Return whether the path is a directory and not a link to one."""
        ...

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        ...

    def make_directory(self, path: str) -> None:
        """Make one directory; it must not exist."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing `new` if it is there."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a file's name."""
        ...

    def free_bytes(self, path: str) -> int:
        """Return the bytes that may still be written to the file system."""
        ...

    def total_bytes(self, path: str) -> int:
        """Return the size of the file system."""
        ...

    def device(self, path: str) -> int:
        """Return the number of the device that holds the path."""
        ...

    def lock(self, file: Handle) -> bool:
        """Take an exclusive lock that ends with the handle; False if another one has it."""
        ...
