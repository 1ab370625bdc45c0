"""What a kernel is called with, and the checks that all of them make before they compute.

A C kernel believes its caller: a wrong count or length is a write to memory that is not ours. So
nothing reaches it that was not counted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from ec.matrix import Rows

WritableBuffer = bytearray | memoryview
Buffer = bytes | WritableBuffer

SOURCES_MAX: Final = 255
TARGETS_MAX: Final = 255
# ISA-L takes the length as a C int; a window is never near it.
LENGTH_MAX: Final = 2**30


class Kernel(Protocol):
    """What the codec needs of a kernel.

    Attributes:
        name: "isal" or "portable".
        origin: where its code came from, for people.
    """

    name: str
    origin: str

    def multiply(
        self, rows: Rows, sources: Sequence[Buffer], targets: Sequence[WritableBuffer]
    ) -> None:
        """Fill each target with the sum of its row's factors times the sources.

        All sources and targets have one length; no target shares memory with anything else.

        Raises:
            ValueError: counts or lengths do not fit. BufferError: a buffer is not contiguous
            bytes, or a target is read-only. Nothing is written then.
        """
        ...


def check_counts(rows: Rows, sources: Sequence[Buffer], targets: Sequence[WritableBuffer]) -> None:
    """Check that there is a row per target and a factor per source.

    Raises:
        ValueError: it is not so.
    """
    if not 1 <= len(sources) <= SOURCES_MAX or not 1 <= len(targets) <= TARGETS_MAX:
        raise ValueError(f"{len(sources)} sources and {len(targets)} targets")
    if len(rows) != len(targets):
        raise ValueError(f"{len(rows)} rows for {len(targets)} targets")
    for row in rows:
        if len(row) != len(sources):
            raise ValueError(f"a row {row!r} for {len(sources)} sources")


def check_length(lengths: Sequence[int]) -> int:
    """Return the one length that all buffers have.

    Raises:
        ValueError: they differ, or it is beyond `LENGTH_MAX`.
    """
    assert lengths
    length = lengths[0]
    if any(other != length for other in lengths):
        raise ValueError(f"buffers of different lengths: {sorted(set(lengths))}")
    if length > LENGTH_MAX:
        raise ValueError(f"buffers of {length} bytes, at most {LENGTH_MAX} at once")
    return length
