"""A file that is written once, from its beginning to its end, past the page cache where that goes.

What is written here is read back from the device and then, mostly, by nobody for a long time. In
the page cache it costs a copy, a page that was free or somebody's before, and an ordered write-back
that every other sync of the file system waits for. So whole pages go straight to the device
(O_DIRECT); what comes from aligned buffers is not even copied, the rest passes through a stage of
its own. The last bytes, which fill no page, take the ordinary way.

A file system that has no direct way says so when the file is opened (tmpfs before Linux 6.6) or
when it is used (EINVAL); then all bytes take the ordinary way.

Nothing is durable before `sync` returned, whichever way it took: a device has a cache, too.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from ec.alignment import aligned_buffer, aligned_part, is_aligned
from ec.file_system import FileSystem, Handle
from ec.kernels.operands import Buffer

STAGE_BYTES: Final = 1024 * 1024
assert aligned_part(STAGE_BYTES) == STAGE_BYTES


class OrderedFile:
    """See the module; used by one thread at a time.

    Attributes:
        file: the ordinary handle.
        direct: the one past the cache; None where there is none.

    Args:
        size: is reserved.

    Raises:
        OSError: it cannot be made, or there is no space; it may be there.
    """

    def __init__(self, files: FileSystem, path: str, *, size: int) -> None:
        assert size > 0
        self._files = files
        self.file: Handle = files.create_or_truncate(path)
        files.allocate(self.file, 0, size)
        self.direct: Handle = files.open_direct(self.file, writable=True)
        self._at = 0  # Where the next byte goes that is not in the stage.
        self._stage: memoryview | None = None
        self._staged_bytes = 0

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Write bytes behind those that came so far; the buffers may be used again at once.

        Raises:
            OSError: as the system gave it; the file is good for nothing then.
        """
        if self.direct is None and not self._staged_bytes:
            self._at += self._files.write_at(self.file, self._at, buffers)
            return
        for buffer in buffers:
            self._append(memoryview(buffer).cast("B"))

    def sync(self) -> None:
        """Make all whole pages durable that came so far.

        Raises:
            OSError: they may not be.
        """
        self._files.sync(self.file)

    def settle(self) -> None:
        """Write what is left in the stage; nothing is appended after this.

        Raises:
            OSError: as `append`.
        """
        if self._stage is not None and self._staged_bytes:
            whole = aligned_part(self._staged_bytes)
            if whole:
                self._put(self._stage[:whole])
            rest = self._stage[whole : self._staged_bytes]
            self._at += self._files.write_at(self.file, self._at, [rest])
        self._stage, self._staged_bytes = None, 0

    def _append(self, view: memoryview) -> None:
        while len(view):
            whole = aligned_part(len(view))
            if whole and not self._staged_bytes and is_aligned(view):
                self._put(view[:whole])
                view = view[whole:]
            else:
                view = view[self._put_on_stage(view) :]

    def _put_on_stage(self, view: memoryview) -> int:
        """Copy what fits; return how much that was. A full stage is written."""
        if self._stage is None:
            self._stage = aligned_buffer(STAGE_BYTES)
        begin = self._staged_bytes
        count = min(len(view), STAGE_BYTES - begin)
        self._stage[begin : begin + count] = view[:count]
        self._staged_bytes += count
        if self._staged_bytes == STAGE_BYTES:
            self._staged_bytes = 0
            self._put(self._stage)
        return count

    def _put(self, pages: memoryview) -> None:
        """Write whole pages, directly if that goes."""
        assert aligned_part(len(pages)) == len(pages) > 0
        if self.direct is not None:
            try:
                self._at += self._files.write_at(self.direct, self._at, [pages])
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self.direct = None
        self._at += self._files.write_at(self.file, self._at, [pages])
