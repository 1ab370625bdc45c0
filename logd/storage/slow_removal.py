"""Removing large files a little at a time, so that nobody's sync waits for it.

Where freed blocks are discarded at once (the mount option `discard`), unlinking a segment is one
long request to the device: tens of milliseconds for 64 MiB, and whatever is synced meanwhile stands
behind it. So a large file is cut from its end, a few MiB in a step, and then unlinked; small ones
are unlinked a number in a step. The caller lets some time pass between steps.

Only a file that nobody else has open is cut, here or in any other process, mapped or not: the
kernel says so (`Files.has_alone`). Who still reads one keeps all of it; it is unlinked as it is.

A crash in between leaves a file that is shorter, and that has no place in any log any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from logd.storage.files import Files, OpenFile
from logd.units import MIB

STEP_BYTES: Final = 4 * MIB
"""Freed in one step."""

STEP_FILES: Final = 64
"""Unlinked in one step."""


class SlowRemoval:
    """Files to be removed, in order. One thread at a time.

    Attributes:
        failures: what could not be removed, in words; the rest goes on.
    """

    def __init__(self, files: Files, paths: Iterable[str] = ()) -> None:
        self._files = files
        self._paths = deque(paths)
        self.failures: list[str] = []

    def extend(self, paths: Iterable[str]) -> None:
        """Add paths; from any thread."""
        self._paths.extend(paths)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to remove."""
        return not self._paths

    def step(self) -> None:
        """Free a few MiB, or unlink some small files. Blocking."""
        room_bytes = STEP_BYTES
        for _ in range(STEP_FILES):
            if not self._paths or room_bytes <= 0:
                return
            path = self._paths[0]
            try:
                freed_bytes, is_gone = self._shorten(path, room_bytes)
            except FileNotFoundError:
                freed_bytes, is_gone = 0, True  # A topic was deleted meanwhile, and the file too.
            except OSError as error:
                self.failures.append(str(error))
                freed_bytes, is_gone = 0, True
            room_bytes -= freed_bytes
            if is_gone:
                self._paths.popleft()

    def _shorten(self, path: str, room_bytes: int) -> tuple[int, bool]:
        """Free up to so many bytes of a file; return how many, and whether it is gone."""
        assert room_bytes > 0
        size = self._files.stat_size(path)
        if size > room_bytes:
            file = self._open_alone(path)
            if file is not None:
                self._files.truncate(file, size - room_bytes)
                return room_bytes, False
        self._files.unlink(path)
        return size, True

    def _open_alone(self, path: str) -> OpenFile | None:
        """Open a file that nobody else has open; None if somebody has, or it cannot be opened."""
        try:
            file = self._files.open_write(path)
        except FileNotFoundError:
            raise
        except OSError:
            return None
        return file if self._files.has_alone(file) else None
