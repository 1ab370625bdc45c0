"""The part of a fetch that lies in coded segments.

It is answered from memory, or it is late: then it is being read, and the fetch is woken at the end
of that. A fetch waits for it, as it waits for data, at most remote.fetch.max.wait.ms in all; what
comes later is in memory when the client asks again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, Protocol

from logd.broker.partition import Partition
from logd.broker.reply import MixedSlices
from logd.broker.timers import Timers
from logd.cold.reading import ColdReads
from logd.errors import LogdError, UnsupportedCompressionTypeError
from logd.storage.file_slice import FileSlice
from logd.storage.released import ReleasedRange

LATE: Final = -1
FIRST_VERSION_WITH_ZSTD: Final = 10
"""Whoever fetches with an older one may not know zstd, which cold.compression brings in unasked."""


class CodedState:
    """What a fetch knows of coded segments, once it has met one.

    Attributes:
        is_answered: some of its answer comes from there, as of the last look.
        is_late: something is still being read from there, as of the last look.
        has_timer: the wait for that has an end.
        is_too_late: that end has come.
        located: by item, what a thread found to be there.
    """

    __slots__ = ("has_timer", "is_answered", "is_late", "is_too_late", "located")

    def __init__(self) -> None:
        self.is_answered = False
        self.is_late = False
        self.has_timer = False
        self.is_too_late = False
        self.located: dict[int, ReleasedRange] = {}

    @property
    def waits(self) -> bool:
        """Whether something is being read that is worth waiting for."""
        return self.is_late and not self.is_too_late


class LateFetch(Protocol):
    """What is needed of a fetch."""

    min_bytes: int
    version: int

    def meet_coded(self) -> CodedState:
        """Return what it knows of coded segments."""
        ...

    def wake(self) -> None:
        """Look again."""
        ...

    def give_up_late(self) -> None:
        """Answer without what is late."""
        ...


class CodedLook:
    """Looks for what fetches want of coded segments.

    Args:
        late_s: remote.fetch.max.wait.ms, in seconds.
    """

    def __init__(self, cold: ColdReads, timers: Timers, *, late_s: float) -> None:
        assert late_s > 0
        self._cold = cold
        self._timers = timers
        self._late_s = late_s

    def look(
        self,
        fetch: LateFetch,
        partition: Partition,
        found: ReleasedRange,
        *,
        budget: int,
        before: int,
    ) -> tuple[MixedSlices | FileSlice | None, int]:
        """Return what is there from a place on, if anything, and the offset where it begins.

        Without a slice either something is being read, and the fetch hears of it (the offset is
        `LATE`); or the segment has nothing up to its end, and a thread must get the hot data there.

        Args:
            budget: how many bytes the fetch takes.
            before: how many it has from other partitions.

        Raises:
            StorageError: the offset cannot be read.
            UnsupportedCompressionTypeError: there is zstd, and the client's version has none.
        """
        coded = fetch.meet_coded()
        wanted = found
        while True:
            batches = self._cold.look(
                partition.topic_id, partition.index, wanted,
                max_bytes=max(budget, 0), below=partition.high_watermark, min_one=not before,
                waiter=None if coded.is_too_late else fetch,
            )  # fmt: skip
            if batches is None:
                self._note_late(fetch, coded)
                return None, LATE
            if batches.has_zstd and fetch.version < FIRST_VERSION_WITH_ZSTD:
                raise UnsupportedCompressionTypeError(
                    f"zstd needs Fetch version {FIRST_VERSION_WITH_ZSTD}, this is {fetch.version}"
                )
            if batches.size or batches.next_offset == wanted.wanted_offset:
                coded.is_answered = True
                if batches.more is not None and before + batches.size < fetch.min_bytes:
                    self._want_more(fetch, partition, batches.more, budget - batches.size)
                return MixedSlices(batches.slices, batches.size), wanted.wanted_offset
            following = partition.try_read(
                batches.next_offset, max_bytes=max(budget, 0), min_one=not before
            )
            if not isinstance(following, ReleasedRange):
                return following, batches.next_offset
            wanted = following

    def _want_more(
        self, fetch: LateFetch, partition: Partition, more: ReleasedRange, budget: int
    ) -> None:
        """Have read what the client's min.bytes lacks."""
        coded = fetch.meet_coded()
        with suppress(LogdError):  # The next fetch begins there, and is told.
            found = self._cold.look(
                partition.topic_id, partition.index, more, max_bytes=budget,
                below=partition.high_watermark, min_one=False,
                waiter=None if coded.is_too_late else fetch,
            )  # fmt: skip
            if found is None:
                self._note_late(fetch, coded)

    def _note_late(self, fetch: LateFetch, coded: CodedState) -> None:
        coded.is_late = True
        if not coded.has_timer:
            coded.has_timer = True
            self._timers.call_later(self._late_s, fetch.give_up_late)
