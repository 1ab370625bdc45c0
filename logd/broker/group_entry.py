"""One group as the coordinator holds it: state machine, offsets, what is on its way to disk.

What is committed becomes visible when its sync has returned, in the order of the log; so whatever a
client can read survives a crash. Until then it is *in flight*: a delete must reach behind it, and
expiry keeps away from it.

Invariant: `offsets` and `stored` are what a replay of the offsets log up to its last sync would
give for this group.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

from logd.errors import LogdError
from logd.policy.group.committed import CommittedOffset
from logd.policy.group.group import Group
from logd.policy.group.values import Effect, GroupState

OffsetOf = tuple[str, int]
"""Topic and partition."""

LogRecord = tuple[bytes, bytes | None]
"""A key, and a value or None for a tombstone."""


class GroupLog(Protocol):
    """What the coordinator needs of the internal topic."""

    @property
    def exists(self) -> bool:
        """Whether the topic was created."""
        ...

    async def ensure_created(self) -> None:
        """Create the topic unless it is there."""
        ...

    def partition_for(self, group_id: str) -> int:
        """Return the partition that holds a group."""
        ...

    def append(
        self,
        partition: int,
        records: Sequence[LogRecord],
        done: Callable[[LogdError | None], None],
    ) -> None:
        """Append, all or none; `done` hears of the sync, or why there is none; maybe at once."""
        ...

    async def load(self, apply: Callable[[int, bytes, bytes | None, int], None]) -> list[str]:
        """Replay everything; return what is wrong."""
        ...

    def state_offset(self, partition: int) -> int:
        """Return the offset up to which `done` was called."""
        ...

    def snapshot_due(self) -> list[int]:
        """Return the partitions whose snapshot is old."""
        ...

    async def write_snapshot(
        self, partition: int, pairs: Iterable[tuple[bytes, bytes]], offset: int
    ) -> None:
        """Replace a partition's snapshot."""
        ...


class Write(Protocol):
    """A write in flight; told apart by identity."""

    @property
    def keys(self) -> Collection[OffsetOf]:
        """The offsets that it sets."""
        ...


class _Waiter(NamedTuple):
    """Who waits for the writes that were in flight when it came."""

    writes: set[Write]
    call: Callable[[], None]


class GroupEntry:
    """A group. Written by the coordinator and what it calls, on the loop.

    Attributes:
        partition: of the offsets log.
        offsets: what is committed, durably.
        stored: the value of the group's record as of its last durable write; None: there is none.
        empty_since_ms: wall clock; None while it has members, and where it never had any.
        in_flight: writes whose sync has not returned.
        timer_at_ms: when the next tick is scheduled, monotonic.
    """

    __slots__ = ("_stable_waiters", "effects", "empty_since_ms", "generation", "group", "in_flight",
                 "offsets", "partition", "running", "state", "stored",
                 "timer_at_ms")  # fmt: skip

    def __init__(self, group: Group, partition: int) -> None:
        self.group = group
        self.partition = partition
        self.offsets: dict[OffsetOf, CommittedOffset] = {}
        self.stored: bytes | None = None
        self.empty_since_ms: int | None = None
        self.in_flight: set[Write] = set()
        self.timer_at_ms: int | None = None
        # As of the last effects: what they changed is counted.
        self.generation = group.generation
        self.state = group.state
        self.effects: deque[Effect] = deque()
        self.running = False
        self._stable_waiters: list[_Waiter] = []

    @property
    def is_unused(self) -> bool:
        """Whether nothing would be lost without it: no member, no offset, nothing written."""
        group = self.group
        return (
            not self.offsets
            and not self.in_flight
            and self.stored is None
            and group.state is GroupState.EMPTY
            and group.next_deadline_ms is None
        )

    def landed(self, write: Write) -> None:
        """A write is in flight no more: its sync returned, or it was refused."""
        self.in_flight.discard(write)
        if self._stable_waiters:
            self._tell_stable(write)

    def when_stable(self, call: Callable[[], None]) -> None:
        """Call when all that is in flight now has landed: at once where nothing is."""
        if self.in_flight:
            self._stable_waiters.append(_Waiter(set(self.in_flight), call))
        else:
            call()

    def _tell_stable(self, write: Write) -> None:
        waiters, self._stable_waiters = self._stable_waiters, []
        ready = []
        for waiter in waiters:
            waiter.writes.discard(write)
            if waiter.writes:
                self._stable_waiters.append(waiter)
            else:
                ready.append(waiter)
        for waiter in ready:
            waiter.call()

    def offsets_of(self, topics: frozenset[str]) -> set[OffsetOf]:
        """Return what is committed, or on its way, for the partitions of these topics."""
        return {key for key in self.all_offsets() if key[0] in topics}

    def all_offsets(self) -> set[OffsetOf]:
        """Return everything that is committed or on its way."""
        return set(self.offsets).union(*(write.keys for write in self.in_flight))
