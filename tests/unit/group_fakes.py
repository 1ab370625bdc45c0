"""What the coordinator needs of a server, in memory: an offsets log, timers, a clock to be set."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import cast

from logd.broker.group_entry import LogRecord
from logd.broker.services import PartitionServices
from logd.broker.topic_names import OFFSETS_TOPIC
from logd.broker.topics import Topics
from logd.clock import Clock
from logd.errors import LogdError
from logd.events import EventLog

Done = Callable[[LogdError | None], None]


class FakeClock(Clock):
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return 1_700_000_000_000 + self.ms

    def monotonic(self) -> float:  # type: ignore[override]  # the real one is a static function
        return self.ms / 1000


class FakeTimers:
    """Fires when the clock is moved."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        assert delay_s >= 0
        at = self._clock.ms + delay_s * 1000
        heapq.heappush(self._heap, (at, next(self._numbers), callback))

    def advance(self, duration_ms: int) -> None:
        """Let time pass."""
        end = self._clock.ms + duration_ms
        while self._heap and self._heap[0][0] <= end:
            at, _, callback = heapq.heappop(self._heap)
            self._clock.ms = max(self._clock.ms, round(at))
            callback()
        self._clock.ms = end


class FakeGroupLog:
    """The offsets log as lists; what was appended is synced at once, or when the test says so.

    Attributes:
        records: what is durable, by partition.
        holds: appends wait for `sync`.
        refuse_with: the error that appends get.
        problems: what `load` finds.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self.records: dict[int, list[LogRecord]] = defaultdict(list)
        self.holds = False
        self.refuse_with: LogdError | None = None
        self.waiting: list[tuple[int, Sequence[LogRecord], Done]] = []
        self.partitions = 1
        self.problems: list[str] = []
        self.due: list[int] = []
        self.snapshots: dict[int, tuple[dict[bytes, bytes], int]] = {}

    @property
    def exists(self) -> bool:
        return OFFSETS_TOPIC in self._topics.by_name

    async def ensure_created(self) -> None:
        if self.refuse_with is not None:
            raise self.refuse_with
        if not self.exists:
            await self._topics.create(OFFSETS_TOPIC, self.partitions, {})

    def partition_for(self, group_id: str) -> int:
        return len(group_id) % self.partitions

    def append(self, partition: int, records: Sequence[LogRecord], done: Done) -> None:
        assert records
        if self.refuse_with is not None:
            done(self.refuse_with)
            return
        self.waiting.append((partition, records, done))
        if not self.holds:
            self.sync()

    def sync(self, count: int = -1) -> None:
        """Make the oldest appends durable, all of them if no count is given."""
        while self.waiting and count:
            partition, records, done = self.waiting.pop(0)
            self.records[partition] += records
            done(None)
            count -= 1

    def fail(self, error: LogdError) -> None:
        """Refuse what waits."""
        waiting, self.waiting = self.waiting, []
        for _, _, done in waiting:
            done(error)

    def kept(self, partition: int = 0) -> dict[bytes, bytes]:
        """Return what a compacted log would hold."""
        last = dict(self.records[partition])
        return {key: value for key, value in last.items() if value is not None}

    async def load(self, apply: Callable[[int, bytes, bytes | None, int], None]) -> list[str]:
        problems = list(self.problems)
        for partition, records in list(self.records.items()):
            for key, value in records:
                try:
                    apply(partition, key, value, -1)
                except LogdError as error:
                    problems.append(str(error))
        return problems

    def state_offset(self, partition: int) -> int:
        return len(self.records[partition])

    def snapshot_due(self) -> list[int]:
        return self.due

    async def write_snapshot(
        self, partition: int, pairs: Iterable[tuple[bytes, bytes]], offset: int
    ) -> None:
        self.snapshots[partition] = (dict(pairs), offset)


class GroupServices:
    """The part of PartitionServices that groups use."""

    def __init__(self, events: EventLog) -> None:
        self.clock = FakeClock()
        self.timers = FakeTimers(self.clock)
        self.events = events
        self.turns_ended = 0
        clock = self.clock

        class Turn(SimpleNamespace):
            @property
            def now_ms(self) -> int:
                return clock.now_ms()

        self.turn = Turn()

    def end_turn(self) -> None:
        self.turns_ended += 1

    def as_services(self) -> PartitionServices:
        return cast("PartitionServices", self)
