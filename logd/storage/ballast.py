"""The ballast: a file of no meaning, whose space is there when the disk is full.

Deleting records writes a little before it frees much: the log start, the catalog. Without one free
block it could not begin. So a file of zeros is kept, and whoever deletes on a full disk borrows its
space. Nobody makes it anew while it is lent: that would take the space from whom it was lent to.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator

from logd.storage.files import Files


class Ballast:
    """The file of one data directory. Any thread may call any method.

    Args:
        path: of the file; it need not be there.
    """

    def __init__(self, files: Files, path: str) -> None:
        assert path
        self._files = files
        self._path = path
        self._lock = threading.Lock()

    def ensure(self, size: int) -> bool:
        """Make the file of so many bytes unless it is there; False if there is no space,
        or if its space is lent at the moment.

        Raises:
            OSError: another refusal than "no space".
        """
        assert size > 0
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return self._make(size)
        finally:
            self._lock.release()

    def _make(self, size: int) -> bool:
        if self._files.exists(self._path) and self._files.stat_size(self._path) == size:
            return True
        file = self._files.create_or_truncate(self._path)
        try:
            self._files.allocate(file, 0, size)
        except OSError as error:
            # A part of it would only be in the way of those who need the space.
            self._unlink()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False
        return True

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Give the ballast's space to who is in the block; no ballast is made before its end.

        Waits while somebody else is in such a block, or makes the ballast: an attempt that fails
        holds all free space for a moment.

        Raises:
            OSError: as the file system gave it.
        """
        with self._lock:
            self._unlink()
            yield

    def _unlink(self) -> None:
        assert self._lock.locked()
        with contextlib.suppress(FileNotFoundError):
            self._files.unlink(self._path)
