"""What the two sparse indexes of a segment have in common: fixed-size entries, appended, mapped.

The file is Kafka's: big-endian entries one behind the other, nothing before them. While its segment
is active the file is longer than its entries: real blocks are reserved (`Files.allocate`) *before*
they are mapped, 4 KiB first, then twice as much each time they are full, up to the limit. A store
into a mapping of a hole on a full disk would kill the process (SIGBUS). The reserved rest is zeros.
A sealed file is exactly its entries.

An all-zero entry therefore means "none": it would say "the segment's first offset is at position 0"
(or "at time 0"), which an index without entries says too. Such an entry is never stored.

The whole file is read once with pread before it is mapped: an unreadable sector shows as OSError
then, where it can be handled, and the pages are warm for the event loop. What is read is checked:

* A sealed index must consist of whole, strictly rising entries and nothing else: CorruptFileError
  names the position, and the caller rebuilds the index from the log.
* An active one may have been caught by a crash with its pages in any state: its entries end before
  the first one that is zero or does not rise, and what follows is zeroed. How far the entries can
  be trusted is the caller's to know (up to its last `sync`): it truncates to there and appends
  again.

Concurrency. One thread at a time changes an index (the log's writer); any thread may look up
meanwhile.

* `_state`, one tuple of mapping, count and generation, is all that a reader uses. It is read once
  per look-up and replaced by one assignment, which the interpreter lock makes atomic. So is each
  pack and unpack of an entry: no reader sees half of one.
* An append writes the slot at `count`, which no published count covers, then publishes count + 1.
* Growing maps the longer file and publishes that mapping. Both mappings show the same pages. Nobody
  closes the old one: it goes with its last reader's reference.
* Truncation publishes the lower count under a new generation, then zeroes what was cut. A reader
  that was under way may have met zeros; it sees another generation when it is done, and looks
  again.
* No file that was ever mapped gets shorter, because a reader may have taken its count long ago:
  what it finds there is old, but it is there. Sealing writes the entries to a new file, which takes
  the name by a rename; the old one lives on, nameless, until its last reader lets go of the
  mapping.

A mapping keeps a descriptor of its own, so the file is not held open besides: what needs a
descriptor (to grow, to sync) opens the path again. Syncs go through fdatasync, which writes
mapped pages as well; CPython 3.11 holds the interpreter lock during msync, and a slow disk would
stop the event loop.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Final, NamedTuple, Self

from logd.errors import CorruptFileError
from logd.storage.files import Files, OpenFile
from logd.storage.layout import TEMP_SUFFIX
from logd.units import INT32_MAX

FIRST_BYTES: Final = 4096
INDEX_BYTES_MAX: Final = INT32_MAX
# Entries that are read, checked and forgotten at a time: bounds the memory of opening an index.
_ENTRIES_PER_READ: Final = 65_536
# How far beside a guessed slot the search looks first.
_GUESS_SLOTS: Final = 64


class State(NamedTuple):
    """All that a look-up needs, published in one assignment."""

    mapping: mmap.mmap | bytes
    entry_count: int
    generation: int


class MappedIndex(ABC):
    """Entries of `ENTRY`, the first field of which rises strictly.

    Made by `create` or `open`. After `close` only `close` may be called.
    """

    ENTRY: ClassVar[struct.Struct]
    # Slots that only `append` may fill, not the writer's `is_full`.
    KEPT_SLOTS: ClassVar[int] = 0

    __slots__ = ("_allocated", "_capacity", "_files", "_state", "base_offset", "path", "writable")

    def __init__(
        self, files: Files, path: str, *, base_offset: int, max_bytes: int, writable: bool
    ) -> None:
        assert base_offset >= 0
        assert 0 < max_bytes <= INDEX_BYTES_MAX
        self._files = files
        self.path = path
        self.base_offset = base_offset
        self.writable = writable
        self._capacity = max(max_bytes // self.ENTRY.size, 1 + self.KEPT_SLOTS)
        self._allocated = 0
        self._state: State | None = State(b"", 0, 0)

    # --- making -----------------------------------------------------------------------------

    @classmethod
    def create(cls, files: Files, path: str, *, base_offset: int, max_bytes: int) -> Self:
        """Make an empty index, writable, with its first blocks reserved.

        A file of that name is unlinked first and never emptied in place: somebody may have it
        mapped. The name is durable after the caller synced the directory.

        Raises:
            OSError: as the file system gave it; a file may be left that holds no entries.
        """
        index = cls(files, path, base_offset=base_offset, max_bytes=max_bytes, writable=True)
        with contextlib.suppress(FileNotFoundError):
            files.unlink(path)
        index._reserve(files.create(path), 1)
        assert index.count == 0
        return index

    @classmethod
    def open(
        cls, files: Files, path: str, *, base_offset: int, max_bytes: int, writable: bool
    ) -> Self:
        """Open an index: an active one to write, or a sealed one to read.

        Args:
            base_offset: of the segment.
            max_bytes: segment.index.bytes, beyond which an active index does not grow.
            writable: active (see the module's docstring for what is checked).

        Raises:
            CorruptFileError: not whole entries, too long, or (sealed) entries that do not rise.
            OSError: it cannot be read, or (active) its blocks cannot be reserved.
        """
        index = cls(files, path, base_offset=base_offset, max_bytes=max_bytes, writable=writable)
        file = files.open_write(path) if writable else files.open_read(path)
        size = files.size(file)
        if size > INDEX_BYTES_MAX:
            raise CorruptFileError(path, INDEX_BYTES_MAX, f"{size} bytes are too many for an index")
        count, is_clean = index._load(file, size)
        if writable:
            index._adopt_active(file, size, count, is_clean)
        else:
            index._adopt_sealed(file, size, count)
        return index

    def _load(self, file: OpenFile, size: int) -> tuple[int, bool]:
        """Read all bytes; return the entries up to the first bad one, and whether zeros follow."""
        step = _ENTRIES_PER_READ * self.ENTRY.size
        count = 0
        last = self._before_first()
        for position in range(0, size, step):
            data = self._files.read_at(file, position, min(step, size - position))
            if len(data) < min(step, size - position):
                raise CorruptFileError(self.path, position + len(data), "ends while it is read")
            good, last = self._count_rising(data, last)
            count += good
            if good * self.ENTRY.size < len(data):
                rest_is_zero = not any(memoryview(data)[good * self.ENTRY.size :])
                return count, rest_is_zero and self._is_zero(file, position + step, size)
        assert count * self.ENTRY.size <= size
        return count, True

    def _is_zero(self, file: OpenFile, position: int, end: int) -> bool:
        step = _ENTRIES_PER_READ * self.ENTRY.size
        return not any(
            any(self._files.read_at(file, at, min(step, end - at)))
            for at in range(position, end, step)
        )

    def _adopt_active(self, file: OpenFile, size: int, count: int, is_clean: bool) -> None:
        entry_bytes = self.ENTRY.size
        # A file whose reserving was cut short by a crash may have holes: reserve all of it again.
        self._allocated = size - size % entry_bytes
        if self._allocated:
            self._files.allocate(file, 0, self._allocated)
            mapping = self._files.map(file, self._allocated, writable=True)
            self._state = State(mapping, count, 0)
        else:
            self._reserve(file, 1)
        if not is_clean:
            self._zero_from(count)
        assert self._allocated >= count * entry_bytes

    def _adopt_sealed(self, file: OpenFile, size: int, count: int) -> None:
        end = count * self.ENTRY.size
        if end != size:
            reason = "entries do not rise" if size - end >= self.ENTRY.size else "half an entry"
            raise CorruptFileError(self.path, end, reason)
        mapping = self._files.map(file, size, writable=False) if size else b""
        assert len(mapping) == size
        self._state = State(mapping, count, 0)

    # --- what the two kinds say about their entries -----------------------------------------------

    @abstractmethod
    def _before_first(self) -> tuple[int, int]:
        """Return fields that every first entry is above."""

    @abstractmethod
    def _count_rising(self, data: bytes, last: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        """Return how many entries at the start of `data` rise from `last` on, and the last one."""

    # --- reading ----------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """The number of entries."""
        return self._current().entry_count

    @property
    def is_full(self) -> bool:
        """Whether the segment is to be rolled, because the next entry has no room."""
        return self._current().entry_count + self.KEPT_SLOTS >= self._capacity

    def entries(self) -> list[tuple[int, int]]:
        """Return all entries as stored, for `dump` and `check`."""
        state = self._current()
        assert state.entry_count >= 0
        # Copied in one step, so that no append or truncation changes it half-way.
        return list(self.ENTRY.iter_unpack(state.mapping[: state.entry_count * self.ENTRY.size]))

    def _current(self) -> State:
        state = self._state
        assert state is not None, "the index is closed"
        return state

    def _entry_before(
        self, target: int, key: struct.Struct, at: int
    ) -> tuple[int, tuple[Any, ...] | None]:
        """Return the number of entries whose field at byte `at` is <= target, and the last one.

        None where there is none. Binary search, the end first: most readers follow the writer. Keys
        are spread about evenly over a segment, so a guess of the slot saves half of the steps.
        """
        size = self.ENTRY.size
        unpack = key.unpack_from
        while True:
            mapping, high, generation = self._current()
            low = 0
            if high:
                last = unpack(mapping, (high - 1) * size + at)[0]
                if last <= target:
                    low = high
                elif high > 4 * _GUESS_SLOTS:
                    low, high = self._guess(target, mapping, high, unpack, at)
            while low < high:
                middle = (low + high) >> 1
                if unpack(mapping, middle * size + at)[0] <= target:
                    low = middle + 1
                else:
                    high = middle
            entry = self.ENTRY.unpack_from(mapping, (low - 1) * size) if low else None
            state = self._state
            if state is None or state.generation == generation:
                return low, entry

    def _guess(
        self,
        target: int,
        mapping: mmap.mmap | bytes,
        count: int,
        unpack: Callable[[mmap.mmap | bytes, int], tuple[Any, ...]],
        at: int,
    ) -> tuple[int, int]:
        """Return bounds (low, high) between which the search goes on: right if the guess was."""
        size = self.ENTRY.size
        first = unpack(mapping, at)[0]
        last = unpack(mapping, (count - 1) * size + at)[0]
        guess = (target - first) * count // (last - first + 1)
        assert count > 0
        low = guess - _GUESS_SLOTS
        if low < 0 or low >= count or unpack(mapping, low * size + at)[0] > target:
            low = 0
        high = guess + _GUESS_SLOTS
        if high >= count or high < 0 or unpack(mapping, high * size + at)[0] <= target:
            high = count
        return low, high

    # --- writing ----------------------------------------------------------------------------------

    def reserve(self, entries: int = 1) -> None:
        """Make room, so that as many appends cannot fail.

        Raises:
            OSError: no space for them, or another refusal; the index is unchanged and usable.
        """
        assert self.writable
        needed = self._current().entry_count + entries
        assert needed <= self._capacity, "a full index: the segment must be rolled first"
        if needed * self.ENTRY.size > self._allocated:
            self._reserve(self._reopen(), needed)

    def _reserve(self, file: OpenFile, needed: int) -> None:
        """Allocate, map and publish room for at least `needed` entries."""
        entry_bytes = self.ENTRY.size
        size = max(self._allocated, FIRST_BYTES)
        while size < needed * entry_bytes:
            size *= 2
        size = min(size, self._capacity * entry_bytes)
        size -= size % entry_bytes
        assert size >= needed * entry_bytes
        assert size > self._allocated
        self._files.allocate(file, self._allocated, size - self._allocated)
        mapping = self._files.map(file, size, writable=True)
        state = self._current()
        self._allocated = size
        self._state = State(mapping, state.entry_count, state.generation)

    def _append_entry(self, first: int, second: int) -> None:
        """Store an entry behind the others; not durable before `sync`."""
        assert self.writable
        if (self._current().entry_count + 1) * self.ENTRY.size > self._allocated:
            self.reserve(1)
        state = self._current()
        assert isinstance(state.mapping, mmap.mmap)
        assert first or second, "an all-zero entry means none"
        self.ENTRY.pack_into(state.mapping, state.entry_count * self.ENTRY.size, first, second)
        self._state = State(state.mapping, state.entry_count + 1, state.generation)

    def _truncate(self, count: int) -> None:
        """Keep the first `count` entries."""
        assert self.writable
        state = self._current()
        assert 0 <= count <= state.entry_count
        if count < state.entry_count:
            self._state = State(state.mapping, count, state.generation + 1)
            self._zero_from(count, state.entry_count)

    def _zero_from(self, count: int, end: int | None = None) -> None:
        mapping = self._current().mapping
        assert isinstance(mapping, mmap.mmap)
        start = count * self.ENTRY.size
        stop = len(mapping) if end is None else end * self.ENTRY.size
        mapping[start:stop] = bytes(stop - start)

    def _reopen(self) -> OpenFile:
        """Return a descriptor of the file, which must still be the one that is mapped."""
        file = self._files.open_write(self.path)
        size = self._files.size(file)
        if size < self._allocated:
            reason = f"{self._allocated} bytes are mapped, but the file ends here"
            raise CorruptFileError(self.path, size, reason)
        return file

    # --- keeping ----------------------------------------------------------------------------------

    def sync(self) -> None:
        """Force the entries to the device; durable once this returns.

        Raises:
            OSError: what was appended since the last sync may or may not be on the device.
        """
        assert self._state is not None
        if self.writable:
            self._files.sync_data(self._reopen())

    def seal(self) -> None:
        """Put a file of exactly the entries in the index's place; it is read-only from then on.

        The bytes are durable once this returns, the name once the caller synced the directory.
        Until then a power cut may bring the longer file back, which `open` refuses as a sealed one.
        Sealing again is harmless, so a caller may repeat what failed half-way.

        Raises:
            OSError: no space or another refusal; the index is unchanged and active.
        """
        state = self._current()
        if not self.writable:
            return
        data = state.mapping[: state.entry_count * self.ENTRY.size]
        temp = self.path + TEMP_SUFFIX
        try:
            with contextlib.suppress(FileNotFoundError):
                self._files.unlink(temp)
            file = self._files.create(temp)
            self._files.write_at(file, 0, [data])
            self._files.sync(file)
            mapping = self._files.map(file, len(data), writable=False) if data else b""
            self._files.rename(temp, self.path)
        except OSError:
            # Best effort: on a full disk the file would hold space that somebody needs.
            with contextlib.suppress(OSError):
                self._files.unlink(temp)
            raise
        assert len(mapping) == len(data)
        self.writable = False
        self._state = State(mapping, state.entry_count, state.generation)

    def close(self) -> None:
        """Let go of the mapping. A look-up that is under way in another thread ends undisturbed."""
        self.writable = False
        self._state = None
        assert self._state is None
