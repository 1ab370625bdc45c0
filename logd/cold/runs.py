"""What was read of coded segments, verified and in memory: runs of whole batches, bounded.

A run is kept as long as somebody may want it: it is shared by all readers of its range, and goes
when it was not used for a while or when newer ones need its place. What it holds are the verified
bytes; or, where its chunks are files here, ranges of open files, which take next to nothing.

A run that somebody asked for and has not got yet is not pushed out for `CLAIM_S`: the fetch that
came back empty-handed finds it when it comes again, however many others read, so each reader gets
on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from logd.policy.cold.values import Generation
from logd.storage.batch_run import BatchRun
from logd.storage.file_slice import FileSlice
from logd.storage.files import OpenFile

CLAIM_S: Final = 5.0
IDLE_S: Final = 30.0
"""A run that nobody used for so long is dropped."""

OVERHEAD_BYTES: Final = 1024
"""What a run takes beside its bytes and numbers, about."""


class MemorySlice(NamedTuple):
    """Whole record batches, verified, in memory."""

    data: memoryview

    @property
    def size(self) -> int:
        """Bytes of record batches."""
        return len(self.data)


Slice = FileSlice | MemorySlice


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """Bytes `start` to `end` of a segment's source, in memory."""

    start: int
    end: int
    data: memoryview

    @property
    def memory_bytes(self) -> int:
        """What it keeps alive: the buffer that was verified is a little longer than the range."""
        return self.data.nbytes

    def cut(self, start: int, end: int) -> Slice:
        """Return a range of it."""
        assert self.start <= start <= end <= self.end
        return MemorySlice(self.data[start - self.start : end - self.start])


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes `start` to `end` of a segment's source, in a chunk file here, verified.

    Attributes:
        position: where they begin in the file.
    """

    start: int
    end: int
    file: OpenFile
    position: int

    @property
    def memory_bytes(self) -> int:
        """Nothing: the file has the bytes."""
        return 0

    def cut(self, start: int, end: int) -> Slice:
        """Return a range of it."""
        assert self.start <= start <= end <= self.end
        return FileSlice(self.file, self.position + start - self.start, end - start, -1)


Part = MemoryPart | FilePart


@dataclass(slots=True, eq=False)
class Run:
    """Verified batches of one encoding.

    Attributes:
        from_offset: offsets from here to `next_offset` are answered by it.
        parts: in order, all of the batches' bytes and perhaps more.
        is_ahead: it was read before anybody asked for it.
        is_claimed: somebody has got something of it.
        used_s: when it was loaded, or last used.
    """

    generation: Generation
    from_offset: int
    batches: BatchRun
    parts: tuple[Part, ...]
    is_ahead: bool
    used_s: float
    is_claimed: bool = False

    @property
    def next_offset(self) -> int:
        """The offset behind it: in the last run of a segment, the one behind the segment."""
        if self.is_last:
            return self.generation.next_offset
        return self.batches.next_offsets[-1]

    @property
    def is_last(self) -> bool:
        """Whether the segment ends where it ends."""
        return self.batches.end == self.generation.source_bytes

    @property
    def memory_bytes(self) -> int:
        """What it takes."""
        parts = sum(part.memory_bytes for part in self.parts)
        return parts + self.batches.memory_bytes + OVERHEAD_BYTES

    def slices(self, start: int, end: int) -> Iterator[Slice]:
        """Yield the bytes between two positions of the source."""
        assert self.batches.start <= start <= end <= self.batches.end
        for part in self.parts:
            low, high = max(start, part.start), min(end, part.end)
            if low < high:
                yield part.cut(low, high)


class Runs:
    """All runs that are kept, of all segments; at most so many bytes.

    Attributes:
        memory_bytes: what they take.
    """

    def __init__(self) -> None:
        self._by_encoding: dict[str, list[Run]] = {}
        self._order: OrderedDict[Run, None] = OrderedDict()
        self.memory_bytes = 0

    def __len__(self) -> int:
        return len(self._order)

    def find(self, encoding: str, offset: int) -> Run | None:
        """Return a run that answers for an offset."""
        for run in reversed(self._by_encoding.get(encoding, ())):
            if run.from_offset <= offset < run.next_offset:
                return run
        return None

    @property
    def encodings(self) -> int:
        """Of how many encodings there are runs."""
        return len(self._by_encoding)

    def at(self, encoding: str, position: int) -> Run | None:
        """Return a run that has the batch at a position of the source."""
        for run in reversed(self._by_encoding.get(encoding, ())):
            if run.batches.start <= position < run.batches.end:
                return run
        return None

    def put(self, run: Run) -> None:
        """Keep a run."""
        assert run.batches.ends or run.is_last
        self._by_encoding.setdefault(run.generation.encoding, []).append(run)
        self._order[run] = None
        self.memory_bytes += run.memory_bytes

    def use(self, run: Run, now_s: float) -> None:
        """Take note that somebody got something of a run."""
        run.is_claimed = True
        run.used_s = now_s
        if run in self._order:
            self._order.move_to_end(run)

    def drop(self, run: Run) -> None:
        """Keep a run no more; whoever sends bytes of it holds those."""
        if run not in self._order:
            return
        del self._order[run]
        several = self._by_encoding[run.generation.encoding]
        several.remove(run)
        if not several:
            del self._by_encoding[run.generation.encoding]
        self.memory_bytes -= run.memory_bytes
        assert self.memory_bytes >= 0

    def drop_all_of(self, encoding: str) -> None:
        """Keep nothing of an encoding."""
        for run in tuple(self._by_encoding.get(encoding, ())):
            self.drop(run)

    def make_room(self, wanted_bytes: int, limit_bytes: int, *, now_s: float, ahead: bool) -> bool:
        """Push out the least recently used; return whether so many bytes fit now.

        Args:
            ahead: it is for something that nobody asked for yet: what is read ahead already, and
                unused, is worth as much.
        """
        for run in tuple(self._order):
            if self.memory_bytes + wanted_bytes <= limit_bytes:
                break
            waits = not run.is_claimed and now_s - run.used_s < CLAIM_S
            if not waits or (run.is_ahead and not ahead):
                self.drop(run)
        return self.memory_bytes + wanted_bytes <= limit_bytes

    def drop_idle(self, now_s: float) -> None:
        """Drop what was not used for `IDLE_S`."""
        for run in tuple(self._order):
            if now_s - run.used_s >= IDLE_S:
                self.drop(run)
