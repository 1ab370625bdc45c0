"""Rounds over more than may be thawed at a time: in parts, each committed, the last one ends it."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from logd.broker.cleaning import CleaningFailedError
from logd.broker.compaction_jobs import Shares
from logd.policy.cold.leases import Work
from logd.policy.cold.values import LIVE, SegmentKey
from logd.policy.compaction import SegmentFacts
from logd.policy.compaction_parts import CodedBytes, Part, PartLimits, cut_groups, plan_part
from logd.storage.clean_order import CleanOrder, CleanResult
from tests.unit.coded_compaction_rig import CodedRig
from tests.unit.log_builder import TOPIC_ID
from tests.unit.test_coded_compaction import (
    all_released,
    check_no_orphans,
    code_all,
    is_settled,
    made,
)
from tests.unit.test_cold_life import running, until

MANY = 2**50


# --- the decision ---------------------------------------------------------------------------------


def _groups(*sizes: int) -> tuple[tuple[SegmentFacts, ...], ...]:
    """Groups of one segment each, ten offsets long."""
    return tuple((SegmentFacts(at * 10, at * 10 + 10, size),) for at, size in enumerate(sizes))


def _planned(
    sizes: list[int], *, released: set[int], dirty_from: int, most: int, **more: Any
) -> Part:
    groups = _groups(*sizes)
    found = {at * 10: sizes[at] for at in released}
    limits = PartLimits(coded_bytes_max=most, space_bytes=more.pop("space", MANY))
    return plan_part(
        groups, CodedBytes(coded=found, released=found), limits,
        first_dirty_offset=dirty_from * 10, **more,
    )  # fmt: skip


def test_what_fits_is_one_part() -> None:
    """All groups, and nothing else is said about them."""
    part = _planned([5, 5, 5, 5], released={0, 1, 2}, dirty_from=3, most=15)
    assert part == Part(0, 4, 4, True, 15)


def test_what_is_hot_counts_nothing() -> None:
    """Without chunks there is one part, whatever the limit."""
    assert _planned([5] * 9, released=set(), dirty_from=3, most=1) == Part(0, 9, 9, True, 0)


def test_what_does_not_fit_is_done_from_the_first_on() -> None:
    """Two groups, and two more behind them; then the rest, with the tail."""
    sizes: list[int] = [5] * 6
    first = _planned(sizes, released={0, 1, 2, 3, 4}, dirty_from=5, most=12)
    assert first == Part(0, 2, 6, False, 10)
    second = _planned(sizes, released={0, 1, 2, 3, 4}, dirty_from=5, most=12, done_offset=20)
    assert second == Part(2, 4, 6, False, 10)
    third = _planned(sizes, released={0, 1, 2, 3, 4}, dirty_from=5, most=12, done_offset=40)
    assert third == Part(4, 6, 6, True, 5)


def test_one_group_is_taken_however_large_it_is() -> None:
    """Else it would never be compacted."""
    assert _planned([50, 5, 5], released={0, 1}, dirty_from=2, most=1) == Part(0, 1, 3, False, 50)


def test_a_tail_in_chunks_is_cut() -> None:
    """It is thawed for all parts: it may have half of the limit."""
    part = _planned([5] * 6, released=set(range(6)), dirty_from=2, most=20)
    assert part == Part(0, 4, 4, True, 20)
    kept = _planned([5] * 6, released=set(range(6)), dirty_from=2, most=20, keeps_tail=True)
    assert kept.groups_end == 6


def test_space_limits_as_well() -> None:
    """What is thawed is written once more by the cleaner."""
    part = _planned([5] * 4, released={0, 1, 2}, dirty_from=3, most=MANY, space=21)
    assert part == Part(0, 2, 4, False, 10)
    assert _planned([5] * 4, released={0, 1, 2}, dirty_from=3, most=MANY, space=-1).end == 1


def test_a_group_is_divided_where_parts_have_met() -> None:
    """Neighbours may have become small enough to be joined over the border meanwhile."""
    ((a, b, c),) = [tuple(group[0] for group in _groups(1, 1, 1))]
    assert cut_groups([(a, b, c)], 10, 25) == ((a,), (b, c))
    assert cut_groups([(a, b, c)], 0, 20) == ((a, b), (c,))


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_parts_cover_each_group_once_and_end(data: st.DataObject) -> None:
    """Whatever is where: in order, without gaps, within the limit unless it is one group."""
    sizes = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=12))
    count = len(sizes)
    released = data.draw(st.sets(st.integers(0, count - 1)))
    dirty_from = data.draw(st.integers(0, count))
    most = data.draw(st.integers(1, 60))
    done, groups_end = 0, None
    while done < 100:
        part = _planned(
            sizes, released=released, dirty_from=dirty_from, most=most,
            done_offset=done * 10, keeps_tail=groups_end is not None,
        )  # fmt: skip
        # The tail that the first part cut is what the round is about.
        if groups_end is None:
            groups_end = part.groups_end
            sizes = sizes[:groups_end]
            released = {at for at in released if at < groups_end}
        assert (part.first, part.groups_end) == (done, groups_end)
        tail = min(dirty_from, groups_end)
        copied = sum(sizes[at] for at in range(part.first, min(part.end, tail)) if at in released)
        tails = sum(sizes[at] for at in range(tail, groups_end) if at in released)
        assert part.thaw_bytes == copied + tails
        head = min(part.end, tail) - part.first
        assert copied <= max(0, most - tails) or head == 1
        done = part.end
        if part.is_last:
            break
        assert part.end <= tail
    assert done == groups_end
    assert groups_end > min(dirty_from, count - 1)


# --- rounds ---------------------------------------------------------------------------------------


class CountingRig(CodedRig):
    """Knows how much was thawed at a time, and of which parts orders were.

    Attributes:
        most_thawed: bytes in chunks that were hot when a process began.
    """

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.parts: list[tuple[int, int] | None] = []
        self.most_thawed = 0

    async def clean(self, order: CleanOrder, **named: Any) -> CleanResult:
        """As the rig's."""
        self.parts.append(order.part)
        leased = [key.base_offset for lease in self.tier.leases for key in lease.keys]
        thawed = [
            each.source_bytes
            for each in self.tier.generations()
            if each.state in LIVE and each.key.base_offset in leased
        ]
        self.most_thawed = max(self.most_thawed, sum(thawed))
        return await super().clean(order, **named)


async def long_log(directory: str, *, coded_bytes_max: int) -> CountingRig:
    """Six released segments, and a dirty one that supersedes something in all of them."""
    rig = CountingRig(directory)
    await rig.begin()
    for number in range(6):
        rig.put(*((b"%d-%d" % (number, at), b"x" * 700) for at in range(7)))
        rig.seal()
    await rig.compact()
    async with running(rig):
        await code_all(rig)
    rig.parts.clear()
    rig.phases.clear()
    rig.put(*((b"%d-0" % number, b"new" * 300) for number in range(6)))
    rig.seal()
    await rig.open_tier()
    rig.coded_bytes_max = coded_bytes_max
    return rig


async def test_a_round_in_parts_is_as_good_as_a_whole_one(
    directory: str, autojump_clock: MockClock
) -> None:
    """Of each key the last record, no orphan; never more thawed than the limit says."""
    rig = await long_log(directory, coded_bytes_max=11_000)
    async with running(rig):
        result = await rig.compact()
        assert isinstance(result, CleanResult)
        assert result.fitted
        assert (result.before.segments, result.before.records) == (7, 48)
        assert result.after.records == 42
        assert result.first_uncleaned_offset == rig.log.active_base
        assert rig.parts == [(0, 2), (2, 4), (4, 7)]
        assert rig.most_thawed <= 11_000
        await rig.check(is_clean=True)
        await all_released(rig)
    await rig.check(is_clean=True)
    check_no_orphans(rig)
    await rig.restart()
    await rig.check(is_clean=True)


async def test_progress_rises_over_all_parts(directory: str, autojump_clock: MockClock) -> None:
    """Each part says which share of the way it is."""
    rig = await long_log(directory, coded_bytes_max=6_000)
    async with running(rig):
        await rig.compact()
    told: list[float] = []
    shares = Shares(told.append)
    for phase in rig.phases:
        shares(phase)
    assert told == sorted(told)
    assert told[0] == 0
    assert 0.9 < told[-1] <= 1
    assert max(after - before for before, after in pairwise(told)) < 0.2


async def test_between_parts_others_have_their_turn(
    directory: str, autojump_clock: MockClock
) -> None:
    """Who waits for a segment of an earlier part gets it while the round goes on."""
    rig = await long_log(directory, coded_bytes_max=6_000)
    first = SegmentKey(TOPIC_ID, 0, rig.bases[0])
    seen: list[int] = []

    async def repair() -> None:
        await until(lambda: first not in rig.tier.leases)
        lease = rig.tier.leases.take(Work.REPAIR, [first])
        assert lease is not None
        seen.append(len(rig.parts))
        rig.tier.leases.give_back(lease)

    def begin() -> None:
        if len(rig.parts) == 1:
            nursery.start_soon(repair)

    rig.before_clean = begin
    async with trio.open_nursery() as nursery:
        await rig.compact()
    assert seen
    assert seen[0] < len(rig.parts)
    await rig.check(is_clean=True)


async def test_a_round_goes_on_where_its_space_ended(
    directory: str, autojump_clock: MockClock
) -> None:
    """What is done stays done, the next try does the rest; what is missing is said."""
    rig = await long_log(directory, coded_bytes_max=11_000)

    def fill() -> None:
        rig.free_bytes = 64 * 2**20 + 100

    rig.before_clean = fill
    with pytest.raises(CleaningFailedError, match="to be thawed"):
        await rig.compact()
    assert rig.parts == [(0, 2)]
    await rig.check()
    rig.free_bytes, rig.before_clean = 2**40, lambda: None
    async with running(rig):
        result = await rig.compact()
        assert isinstance(result, CleanResult)
        assert rig.parts[1:] == [(2, 4), (4, 7)]
        assert result.before.records == 48
        await rig.check(is_clean=True)
        await all_released(rig)
    check_no_orphans(rig)


async def test_a_start_between_parts_begins_anew(directory: str, autojump_clock: MockClock) -> None:
    """The log is not said to be cleaner than it is."""
    rig = await long_log(directory, coded_bytes_max=11_000)
    rig.before_clean = lambda: setattr(rig, "free_bytes", 64 * 2**20 + 100)
    with pytest.raises(CleaningFailedError):
        await rig.compact()
    rig.free_bytes, rig.before_clean = 2**40, lambda: None
    await rig.restart()
    await rig.check()
    async with running(rig):
        await rig.compact()
        await rig.check(is_clean=True)
        await all_released(rig)
    assert rig.parts[1] == (0, 2)
    check_no_orphans(rig)


async def test_what_was_thawed_for_a_round_goes_at_once(
    directory: str, autojump_clock: MockClock
) -> None:
    """It had its grace; only what was coded anew has one to come."""
    rig = await made(directory, cold_grace_ms=600_000)
    rig.put(*((b"stays-%d" % at, b"x" * 700) for at in range(8)))
    rig.seal()
    rig.put(*((b"goes-%d" % at, b"x" * 700) for at in range(8)))
    rig.seal()
    async with running(rig):
        await code_all(rig)
        await trio.sleep(700)
        rig.put((b"goes-0", b"new"))
        rig.seal()
        await rig.compact()
        stays, anew = rig.bases[0], rig.bases[1]
        assert {stays, anew} <= set(rig.hot())
        with trio.fail_after(30):
            await until(lambda: stays not in rig.hot())
        assert anew in rig.hot()
        await all_released(rig)


async def test_rounds_in_parts_with_anything_between(
    directory: str, autojump_clock: MockClock, rng: random.Random
) -> None:
    """Limits, space, deletions, restarts, tombstones at random: always the last ones."""
    seed = rng.randrange(2**32)
    print(f"rig seed {seed}")
    rig = CountingRig(directory)
    rig.rng.seed(seed)
    await rig.begin()
    for _ in range(6):
        rig.coded_bytes_max = rng.choice((1, 8_000, 20_000))
        rig.put_segments(rng.randrange(2, 6), keys=300)
        async with running(rig):
            if rng.random() < 0.7:
                await code_all(rig)
            rig.before_clean = lambda: None
            if rng.random() < 0.3:
                rig.before_clean = lambda: setattr(rig, "free_bytes", rng.choice((2**40, 2**26)))
            try:
                result = await rig.compact()
                await rig.check(is_clean=isinstance(result, CleanResult) and result.fitted)
            except CleaningFailedError:
                await rig.check()
            rig.free_bytes = 2**40
            await trio.sleep(rng.choice((0, 5, 50)))
        if rng.random() < 0.3:
            rig.log.delete_before(rng.choice(rig.bases))
        if rng.random() < 0.4:
            await rig.restart()
        else:
            await rig.open_tier()
        await rig.check()
    assert any(part is not None for part in rig.parts)
    rig.before_clean = lambda: None
    async with running(rig):
        await until(lambda: is_settled(rig))
    check_no_orphans(rig)
