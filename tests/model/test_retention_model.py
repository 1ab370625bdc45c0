"""Retention against a list of records with their timestamps, whatever happens in whatever order:
appends old and new, clocks that jump, settings that change, delete-records, crashes and restarts.

The model knows what time it really is, which the server does not: it may act on its wall clock only
as far as that is five minutes ahead of the truth.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from logd.broker.partition import Partition
from logd.policy.clock_guard import AHEAD_MAX_MS
from logd.units import DAY_MS, HOUR_MS, MINUTE_MS
from tests.unit.retention_rig import START_MS, MovableClock, RetentionRig

LIMITS_MS = (-1, 0, MINUTE_MS, HOUR_MS, 12 * HOUR_MS)


@dataclass(frozen=True)
class Step:
    """What happens next; the number means something else for each kind."""

    kind: str
    number: int


def step(kind: str, numbers: st.SearchStrategy[int]) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(kind), numbers)


ages_ms = st.sampled_from((0, 0, MINUTE_MS, HOUR_MS, DAY_MS, -MINUTE_MS, -DAY_MS))
steps = st.one_of(
    step("append", ages_ms),
    step("append", ages_ms),
    step("look", st.just(0)),
    step("look", st.just(0)),
    step("pass", st.sampled_from((1, MINUTE_MS, 10 * MINUTE_MS))),
    step("jump", st.sampled_from((DAY_MS, DAY_MS, -DAY_MS, 4 * MINUTE_MS, 0))),
    step("limit", st.sampled_from(LIMITS_MS)),
    step("size", st.sampled_from((-1, -1, -1, -1, 0, 500, 2000))),
    step("delete", st.integers(0, 100)),
    step("restart", st.just(0)),
)


class World:
    """One log, the server that keeps it, and what is true of both."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.clock = MovableClock()
        self.jumped_ms = 0
        self.timestamps: list[int] = []
        self.asked_start = 0
        self.overrides = {"retention_ms": "-1", "retention_bytes": "-1"}
        self.rig = RetentionRig(directory, clock=self.clock)
        self.partition = self.rig.opened(**self.overrides)

    def true_ms(self) -> int:
        """Return what time it is."""
        return self.clock.now_ms() - self.jumped_ms

    def take(self, one: Step) -> None:
        """Let it happen, and check what it did."""
        start = self.partition.log_start_offset
        getattr(self, f"_{one.kind}")(one.number)
        self._check(start)

    def _append(self, age_ms: int) -> None:
        self.timestamps.append(self.clock.now_ms() - age_ms)
        self.rig.append(self.partition, age_ms)

    def _look(self, _: int) -> None:
        self.rig.run_round()
        assert not [line for line in self.rig.problems() if line.kind == "retention_failed"]
        self._check_nothing_is_forgotten()

    def _pass(self, duration_ms: int) -> None:
        self.clock.pass_ms(duration_ms)

    def _jump(self, to_ms: int) -> None:
        """The wall clock is so far from the truth; 0: right."""
        self.clock.jump_ms(to_ms - self.jumped_ms)
        self.jumped_ms = to_ms

    def _limit(self, limit_ms: int) -> None:
        self._alter("retention_ms", limit_ms)

    def _size(self, size_bytes: int) -> None:
        self._alter("retention_bytes", size_bytes)

    def _alter(self, name: str, value: int) -> None:
        self.overrides[name] = str(value)
        self.rig.alter(**self.overrides)

    def _delete(self, percent: int) -> None:
        offset = len(self.timestamps) * percent // 100
        self.asked_start = max(self.asked_start, offset)
        trio.run(self.partition.delete_records, offset)

    def _restart(self, _: int) -> None:
        """A crash within the same boot; the note is as old as the last minute's."""
        trio.run(self.rig.retention.clock.note)
        note = self.rig.notes[-1]
        self.partition.log.let_go()
        self.rig = RetentionRig(self.directory, clock=self.clock, last=note)
        self.partition = self.rig.opened(**self.overrides)
        assert self.partition.high_watermark == len(self.timestamps)

    # --- what must hold --------------------------------------------------------------------------

    def _check(self, old_start: int) -> None:
        start = self.partition.log_start_offset
        assert old_start <= start <= self.partition.high_watermark == len(self.timestamps)
        limit_ms, size_bytes = map(int, self.overrides.values())
        if size_bytes < 0:
            latest_ms = self.true_ms() + AHEAD_MAX_MS - limit_ms
            for offset in range(max(old_start, self.asked_start), start):
                assert limit_ms >= 0
                assert self.timestamps[offset] <= latest_ms, "deleted by a clock that jumped"
                assert self.timestamps[offset] <= self.clock.now_ms() - limit_ms, "too young"
        assert offsets_of(self.partition) == list(range(start, len(self.timestamps)))

    def _check_nothing_is_forgotten(self) -> None:
        """After a look: the oldest segment that is left is not due, by a clock that is right."""
        first = self.partition.log.oldest_segments(1)[0]
        if not first.size_bytes:
            return
        assert first.next_offset > self.partition.log_start_offset
        limit_ms, size_bytes = map(int, self.overrides.values())
        size_left = self.partition.log.size_bytes - first.size_bytes
        assert size_bytes < 0 or size_left < size_bytes
        if limit_ms >= 0 and self.jumped_ms == 0 and not self.rig.retention.clock.time().stopped:
            newest_ms = max(self.timestamps[first.base_offset : first.next_offset])
            assert newest_ms > self.true_ms() - limit_ms, "a segment that is due was left"


def offsets_of(partition: Partition) -> list[int]:
    """Return the offset of every batch that can be read; each has one record."""
    found = []
    offset = partition.log_start_offset
    while offset < partition.high_watermark:
        piece = partition.log.read(offset, max_bytes=1, below=partition.high_watermark)
        found.append(offset)
        assert piece.next_offset == offset + 1
        offset = piece.next_offset
    return found


def steps_of(*pairs: tuple[str, int]) -> list[Step]:
    return [Step(kind, number) for kind, number in pairs]


JUMP = steps_of(("limit", HOUR_MS), ("append", 0), ("jump", DAY_MS), ("look", 0))


@settings(max_examples=80)
@example(JUMP)
@example([*JUMP[:3], *steps_of(("restart", 0), ("look", 0), ("restart", 0), ("look", 0))])
@example([*JUMP, *steps_of(("jump", 0), ("pass", HOUR_MS), ("look", 0))])
@given(st.lists(steps, min_size=10, max_size=40))
def test_nothing_young_goes_and_nothing_due_stays(history: list[Step]) -> None:
    """After every step: what went was due, by the truth and by the wall clock, or was asked for;
    all else can be read; after a look nothing is left that a right clock calls due."""
    with tempfile.TemporaryDirectory() as directory:
        world = World(directory)
        assert world.true_ms() == START_MS
        for one in history:
            world.take(one)
