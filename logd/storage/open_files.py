"""The open files of sealed segments, the most recently used ones, shared by all logs.

A log may have ten thousand sealed segments; only those that somebody reads are open. What is pushed
out is not closed by hand: files and mappings close themselves with their last reference, so a
reader that is under way ends undisturbed.

Concurrency: the event loop and reading threads ask and put; a lock guards the order.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from logd.storage.files import Files
from logd.storage.segment_files import SegmentFiles


class OpenFiles:
    """At most `limit` sealed segments' files; each holds up to three descriptors."""

    __slots__ = ("_entries", "_lock", "limit")

    def __init__(self, files: Files, *, limit: int) -> None:
        assert limit >= 1
        assert isinstance(files, Files)
        self.limit = limit
        self._entries: OrderedDict[Hashable, SegmentFiles] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of segments whose files are open."""
        return len(self._entries)

    def get(self, segment: Hashable) -> SegmentFiles | None:
        """Return a segment's open files, if they are open; they are the last to go now."""
        with self._lock:
            opened = self._entries.get(segment)
            if opened is not None:
                self._entries.move_to_end(segment)
            return opened

    def put(self, segment: Hashable, opened: SegmentFiles) -> None:
        """Keep a segment's files open, pushing out what was used least recently."""
        with self._lock:
            self._entries[segment] = opened
            self._entries.move_to_end(segment)
            assert len(self._entries) <= self.limit + 1
            pushed_out = (
                self._entries.popitem(last=False) if len(self._entries) > self.limit else None
            )
        del pushed_out  # Closed here, outside the lock, unless a reader still has it.

    def forget(self, segment: Hashable) -> None:
        """Let go of a segment that is deleted or whose log is closed."""
        with self._lock:
            opened = self._entries.pop(segment, None)
        del opened
