"""A piece of a segment that is ready to be sent: whole batches, verified, in an open file.

The slice holds a reference to the open file, so the segment may be rolled, deleted or pushed out of
the cache of descriptors while the slice is still being sent.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from logd.storage.files import OpenFile

NO_FILE: Final = OpenFile(-1, "")
"""Stands for the file in a slice of no bytes."""

UNKNOWN_OFFSET: Final = -1


class FileSlice(NamedTuple):
    """Bytes `position` .. `position + size` of a file: whole record batches.

    Attributes:
        next_offset: the offset after the last batch, or -1 where it was not cheap to know.
    """

    file: OpenFile
    position: int
    size: int
    next_offset: int


def empty_slice(offset: int) -> FileSlice:
    """Return a slice of no bytes for a reader that stands at `offset`."""
    assert offset >= 0
    return FileSlice(NO_FILE, 0, 0, offset)
