"""An answer that may not be there yet, and its place in the line of a connection's answers.

Kafka answers the requests of a connection in the order in which they came. Work finishes in another
order: a durable append waits for the disk, a fetch waits for data. So each request gets a `Reply`
when it is parsed; whoever finishes it calls `complete`; the connection sends from the front of its
line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from logd.cold.runs import MemorySlice
from logd.storage.file_slice import FileSlice


class SmallSlice(NamedTuple):
    """A file slice so small that it was read instead: it leaves with its headers in one send."""

    data: bytes

    @property
    def size(self) -> int:
        """Bytes of record batches."""
        return len(self.data)


class MixedSlices(NamedTuple):
    """One partition's batches in several places: in memory, in chunk files here."""

    parts: tuple[FileSlice | MemorySlice, ...]
    size: int


# What is sent: bytes, small slices among them, what was read of coded segments, and ranges of files
# that go out by sendfile.
Part = bytes | SmallSlice | MemorySlice | FileSlice


def flat(parts: Sequence[Part | MixedSlices]) -> list[Part]:
    """Return an answer's parts with the places of mixed slices one behind the other."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, MixedSlices):
            found += part.parts
        else:
            found.append(part)
    return found


def bytes_in_memory(data: bytes | Sequence[Part]) -> int:
    """Return how much memory an answer holds; ranges of files hold none."""
    if isinstance(data, bytes):
        return len(data)
    return sum(
        len(part) if isinstance(part, bytes) else part.size
        for part in data
        if not isinstance(part, FileSlice)
    )


class ReplyOwner(Protocol):
    """What a reply needs of its connection."""

    is_ready: bool

    def mark_ready(self) -> None:
        """An answer was completed; the connection looks at the front of its line."""
        ...

    def close_for(self, reason: str) -> None:
        """Close the connection: the answer can never come (acks=0 refused, a bug of ours)."""
        ...


class Answer(Protocol):
    """What a handler that may answer later is given instead of being a task.

    Attributes:
        version: of the request.
        on_abandon: called once if the connection ends before the answer, if set.
    """

    version: int
    on_abandon: Callable[[], None] | None

    def answer(self, response: Any) -> None:
        """Send the response, a message of the request's API; at once or later, on the loop."""
        ...


class Reply:
    """One answer: completed once, then sent in its turn.

    Attributes:
        data: None until completed.
        api_key: of the request; set by the serving loop.
        count: how many requests it answers: more than one for a run of appends.
        started_at: when the turn began in which the request came; set by the serving loop.
        on_sent: called once when the answer leaves the line, if set.
    """

    __slots__ = ("api_key", "data", "on_sent", "owner", "started_at")

    count = 1

    def __init__(self, owner: ReplyOwner) -> None:
        self.owner = owner
        self.data: bytes | Sequence[Part] | None = None
        self.api_key = -1
        self.started_at = 0.0
        self.on_sent: Callable[[], None] | None = None

    def complete(self, data: bytes | Sequence[Part]) -> None:
        """Give the answer. The whole frame, length prefix included."""
        assert self.data is None, "a reply is completed once"
        self.data = data
        self.owner.mark_ready()

    def abandon(self) -> None:
        """The connection is gone; whoever still completes this answers nobody."""
