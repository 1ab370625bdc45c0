"""Reads from coded segments: what a hot log would answer, whatever the nodes do."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ec.breaker import Breaker, BreakerState
from ec.store.guarded import GuardedStore
from ec.store.protocol import Store
from logd.cold import chunk_access
from logd.cold.read_failures import FAILED_S
from logd.cold.reading import AHEAD_BYTES_MIN, RUN_BYTES
from logd.cold.runs import CLAIM_S, IDLE_S
from logd.errors import ColdRangeError
from logd.policy.cold.values import ColdState, Generation
from tests.cold_rig import MIB, FakeTier, Rig, Segment, bytes_of, make_segment

SMALL = make_segment([1_500 + 97 * (n % 40) for n in range(200)])
LARGE = make_segment([200_000] * 60, seed=2)


@asynccontextmanager
async def reading(rig: Rig) -> AsyncIterator[None]:
    """Let loads run while in here."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.reads.run)
        yield
        nursery.cancel_scope.cancel()


class Woken:
    """A reader that counts how often it was woken."""

    def __init__(self) -> None:
        self.count = 0

    def wake(self) -> None:
        self.count += 1


async def read_through(rig: Rig, segment: Segment, max_bytes: int) -> bytes:
    """Read a segment as a consumer does, to its end."""
    offset, found = segment.base_offset, b""
    while offset < segment.next_offset:
        answer = await rig.read(segment.at(offset), max_bytes)
        assert answer.next_offset > offset
        assert bytes_of(answer) == segment.expected(offset, answer.size)
        offset, found = answer.next_offset, found + bytes_of(answer)
    return found


@pytest.mark.parametrize("seed", range(20))
async def test_any_range_is_what_hot_data_would_give(seed: int) -> None:
    """Any offset and limit, over segments of any cut, with up to m nodes gone: the same bytes."""
    rng = random.Random(seed)
    sizes = [rng.choice([300, 2_000, 70_000, 300_000]) for _ in range(rng.randrange(1, 30))]
    segment = make_segment(sizes, base_offset=rng.randrange(10**6), seed=seed)
    rig = Rig(segment)
    for name in rng.sample(sorted(rig.tier.nodes), rng.randrange(3)):
        rig.tier.nodes[name].is_gone = True
    async with reading(rig):
        for _ in range(20):
            offset = rng.randrange(segment.base_offset, segment.next_offset)
            max_bytes = rng.choice([0, 500, 5_000, 400_000, 5 * MIB])
            min_one = rng.random() < 0.8
            at = segment.at(offset, back=rng.randrange(3))
            found = await rig.read(at, max_bytes, min_one=min_one)
            expected = segment.expected(offset, max_bytes, min_one=min_one)
            got = bytes_of(found)
            assert got == expected[: len(got)], seed
            assert bool(got) == bool(expected), seed
            count = (offset - segment.base_offset) // 10
            if got:
                assert segment.expected(offset, len(got)) == got, seed
                behind = len(got) + segment.positions[count]
                batches = sum(at < behind for at in segment.positions)
                assert found.next_offset == segment.base_offset + 10 * batches, seed
            else:
                assert found.next_offset == offset, seed


@pytest.mark.parametrize("max_bytes", [1, 10_000, MIB, 3 * MIB])
@pytest.mark.parametrize("lost", [(), (0, 3), (1, 4)], ids=str)
async def test_a_consumer_reads_all_of_it(max_bytes: int, lost: tuple[int, ...]) -> None:
    """From the first offset to the last, each byte once, with up to m nodes gone."""
    for segment in (SMALL, LARGE):
        rig = Rig(segment)
        for index in lost:
            rig.tier.nodes[f"n{index}"].is_gone = True
        async with reading(rig):
            assert await read_through(rig, segment, max_bytes) == segment.source
        assert rig.count("logd_cold_reads_total", result="failed") == 0
        assert (rig.count("logd_cold_reads_total", result="degraded") > 0) == bool(lost)


@pytest.mark.parametrize("seed", range(12))
async def test_runs_that_are_read_side_by_side_are_the_same_bytes(
    seed: int, autojump_clock: MockClock
) -> None:
    """Batches of any size, also longer than runs, nodes of any speed, a chunk lost or damaged."""
    rng = random.Random(seed)
    sizes = [rng.choice([2_000, 60_000, 300_000, 1_500_000, 2_500_000]) for _ in range(24)]
    segment = make_segment(sizes, seed=seed)
    rig = Rig(segment, ahead_bytes=64 * MIB)
    for node in rig.tier.nodes.values():
        node.delay_s = rng.choice([0.0, 0.01, 0.05])
    lost = rig.tier.nodes[f"n{rng.randrange(6)}"]
    lost.is_gone = rng.random() < 0.5
    async with reading(rig):
        assert await read_through(rig, segment, rng.choice([10_000, MIB, 8 * MIB])) == (
            segment.source
        ), seed
        await trio.sleep(2 * IDLE_S)
        assert rig.reads.memory_bytes == 0
    assert rig.count("logd_cold_reads_total", result="failed") == 0


async def test_nodes_are_asked_for_the_next_runs_before_the_first_one_has_come(
    autojump_clock: MockClock,
) -> None:
    """Who surely goes on waits for a node once, and not once a run."""
    segment = make_segment([200_000] * 200, seed=2)
    rig = Rig(segment, ahead_bytes=64 * MIB)
    for node in rig.tier.nodes.values():
        node.delay_s = 0.1
    began_s = trio.current_time()
    async with reading(rig):
        assert await read_through(rig, segment, MIB) == segment.source
    took_s = trio.current_time() - began_s
    runs = rig.count("logd_cold_reads_total", result="healthy")
    assert took_s < 0.1 * runs * 0.7, (took_s, runs)


async def test_who_waits_behind_a_run_that_fails_is_answered(autojump_clock: MockClock) -> None:
    """A run is lost, with what is read behind it: who wants the latter gets it all the same."""
    segment = make_segment([200_000] * 100, seed=2)
    rig = Rig(segment, ahead_bytes=64 * MIB)
    async with reading(rig):
        offset = segment.base_offset
        for _ in range(4):
            offset = (await rig.read(segment.at(offset), MIB)).next_offset
        for node in rig.tier.nodes.values():
            node.delay_s = 0.1
        rig.reads.distrust(segment.generation.encoding)
        for index in (0, 4, 5):  # All of the first data chunk.
            rig.tier.nodes[f"n{index}"].is_gone = True
        assert rig.look(segment.at(offset), waiter=Woken()) is None
        first, *others = rig.reads._loads[segment.generation.encoding]
        behind = others[-1]
        assert behind.front is not None
        further = next(number for number, at in enumerate(segment.positions) if at >= behind.start)
        found = await rig.read(segment.at(segment.base_offset + 10 * further), MIB)
        assert bytes_of(found) == segment.expected(segment.base_offset + 10 * further, found.size)
        with pytest.raises(ColdRangeError):
            await rig.read(segment.at(offset), MIB)
        assert first.rest is None


async def test_a_first_batch_longer_than_a_run_is_read_on() -> None:
    """One batch goes out whole, however long it is."""
    segment = make_segment([300, 3 * RUN_BYTES, 300], seed=3)
    rig = Rig(segment)
    async with reading(rig):
        found = await rig.read(segment.at(segment.base_offset + 10), 1)
        assert bytes_of(found) == segment.batches[1]
        found = await rig.read(segment.at(segment.base_offset + 15), 1, min_one=False)
        assert (found.size, found.next_offset) == (0, segment.base_offset + 15)


async def test_what_was_read_answers_at_once() -> None:
    """The second reader of a range costs the nodes nothing."""
    rig = Rig(SMALL)
    async with reading(rig):
        await rig.read(SMALL.at(1000), 100_000)
        before = rig.tier.read_bytes
        again = rig.look(SMALL.at(1000), 100_000)
        assert again is not None
        assert bytes_of(again) == SMALL.expected(1000, 100_000)
        assert rig.tier.read_bytes == before


async def test_readers_of_one_range_share_the_load() -> None:
    """Asked for by many while it is being read, it is read once; all are woken, once each."""
    rig = Rig(SMALL)
    readers = [Woken() for _ in range(5)]
    for reader in readers:
        assert rig.look(SMALL.at(1000), waiter=reader) is None
    async with reading(rig):
        await wait_all_tasks_blocked()
        assert [reader.count for reader in readers] == [1] * 5
        assert rig.count("logd_cold_read_bytes_total") == len(SMALL.source)


async def test_who_reads_in_sequence_is_read_ahead_of() -> None:
    """Its next runs are there before it asks; a reader at random places causes none."""
    rig = Rig(LARGE)
    async with reading(rig):
        await rig.read(LARGE.at(1000), MIB)
        await wait_all_tasks_blocked()
        assert rig.count("logd_cold_read_bytes_total") == RUN_BYTES
        found = await rig.read(LARGE.at(1050), MIB)
        found = await rig.read(LARGE.at(found.next_offset), MIB)
        for _ in range(4):
            await wait_all_tasks_blocked()
            ahead = rig.look(LARGE.at(found.next_offset), MIB)
            assert ahead is not None
            found = ahead
        assert rig.count("logd_cold_read_ahead_hits_total") >= 1
        assert rig.count("logd_cold_read_ahead_bytes_total") > 4 * MIB
    rig = Rig(LARGE)
    async with reading(rig):
        for offset in (1500, 1100, 1300):
            found = await rig.read(LARGE.at(offset), 300_000)
        await wait_all_tasks_blocked()
        assert rig.count("logd_cold_read_bytes_total") == 3 * RUN_BYTES
        await rig.read(LARGE.at(found.next_offset), 300_000)  # Where one ended, by chance.
        await wait_all_tasks_blocked()
        assert rig.count("logd_cold_read_bytes_total") == 3 * RUN_BYTES


async def test_reading_ahead_crosses_to_the_next_coded_segment() -> None:
    """A reader does not notice where one segment ends."""
    first = make_segment([30_000] * 10)
    second = make_segment([30_000] * 10, base_offset=first.next_offset, seed=5)
    rig = Rig(first, second)
    async with reading(rig):
        found = await rig.read(first.at(1000), 100_000)
        found = await rig.read(first.at(found.next_offset), 100_000)
        found = await rig.read(first.at(found.next_offset), 400_000)
        assert found.next_offset == second.base_offset
        await wait_all_tasks_blocked()
        assert rig.look(second.at(second.base_offset)) is not None


async def test_memory_is_bounded(autojump_clock: MockClock) -> None:
    """Many readers, each in its own place: what is kept stays within the limit; all get on."""
    segments = [
        make_segment([100_000] * 100, base_offset=base, seed=base) for base in (0, 1000, 2000)
    ]
    rig = Rig(*segments, ahead_bytes=AHEAD_BYTES_MIN)
    peak = 0

    async def consume(segment: Segment, first: int) -> None:
        nonlocal peak
        offset = segment.base_offset + first
        while offset < segment.next_offset:
            found = await rig.read(segment.at(offset), MIB)
            assert bytes_of(found) == segment.expected(offset, found.size)
            peak = max(peak, rig.reads.memory_bytes)
            offset = found.next_offset
            await trio.sleep(0.01)

    async with reading(rig):
        async with trio.open_nursery() as nursery:
            for segment in segments:
                for first in range(0, 900, 100):
                    nursery.start_soon(consume, segment, first)
        assert AHEAD_BYTES_MIN // 2 < peak <= AHEAD_BYTES_MIN + 2 * RUN_BYTES
        await trio.sleep(2 * IDLE_S)
        assert rig.reads.memory_bytes == 0


async def test_what_a_late_reader_asked_for_waits_for_it(autojump_clock: MockClock) -> None:
    """A run that came too late is there when its reader comes again, whatever others read."""
    rig = Rig(LARGE, ahead_bytes=AHEAD_BYTES_MIN)
    for node in rig.tier.nodes.values():
        node.delay_s = 2.0
    async with reading(rig):
        assert rig.look(LARGE.at(1000)) is None
        await trio.sleep(3)
        for node in rig.tier.nodes.values():
            node.delay_s = 0
        for number in range(1, 12):
            await rig.read(LARGE.at(1000 + 50 * number), MIB)
        await trio.sleep(CLAIM_S - 3.5)
        assert rig.look(LARGE.at(1000)) is not None


async def test_what_was_read_ahead_and_then_asked_for_waits_too(autojump_clock: MockClock) -> None:
    """Who came while a run was read ahead has as good a claim to it as who asked first."""
    other = make_segment([100_000] * 100, base_offset=9000, seed=6)
    rig = Rig(LARGE, other, ahead_bytes=AHEAD_BYTES_MIN)
    async with reading(rig):
        await rig.read(LARGE.at(1000), MIB)
        for node in rig.tier.nodes.values():
            node.delay_s = 0.1
        found = await rig.read(LARGE.at(1050), MIB)
        for _ in range(2):
            found = await rig.read(LARGE.at(found.next_offset), MIB)
        load = rig.reads._loads[LARGE.generation.encoding][0]
        assert load.is_ahead
        wanted = LARGE.at(load.from_offset)
        assert rig.look(wanted, waiter=Woken()) is None
        await trio.sleep(1)
        for node in rig.tier.nodes.values():
            node.delay_s = 0
        for number in (7, 3, 8, 1, 5, 2, 6, 0):
            await rig.read(other.at(9000 + 110 * number), MIB)
        assert rig.look(wanted) is not None


async def test_a_slow_node_costs_one_hedge_delay(autojump_clock: MockClock) -> None:
    """The first read waits for it so long; after that it is left alone."""
    rig = Rig(LARGE)
    rig.tier.nodes["n1"].delay_s = 1000
    began = trio.current_time()
    async with reading(rig):
        assert await read_through(rig, LARGE, MIB) == LARGE.source
    assert trio.current_time() - began < 2 * chunk_access.HEDGE_S_MAX
    assert rig.tier.nodes["n1"].reads <= 2
    assert 1 <= rig.count("logd_cold_hedges_total") <= 2


async def test_the_hedge_delay_follows_what_reads_take(autojump_clock: MockClock) -> None:
    """Quick nodes: the shortest delay; slower ones: a multiple of what they take."""
    for delay_s, expected_s in ((0.0, chunk_access.HEDGE_S_MIN), (0.03, 0.09)):
        rig = Rig(SMALL)
        for node in rig.tier.nodes.values():
            node.delay_s = delay_s
        access = rig.reads._reader.ready()
        assert access.hedge_s == chunk_access.HEDGE_S_MAX
        for _ in range(chunk_access.SAMPLES):
            await access.read(SMALL.generation, SMALL.encoded.manifest, 0, 100)
        assert access.hedge_s == pytest.approx(expected_s)


async def test_a_damaged_block_is_read_around_and_told() -> None:
    """Counted, logged with node, chunk and block, told to repair once; readers get their bytes."""
    rig = Rig(SMALL)
    chunk = SMALL.encoded.ids[2].name
    rig.tier.nodes["n2"].flip(chunk, 66_000)
    async with reading(rig):
        assert await read_through(rig, SMALL, 100_000) == SMALL.source
    assert rig.damage == [(SMALL.generation.encoding, 2, "n2")]
    assert rig.count("logd_cold_read_findings_total", kind="damaged") >= 1
    (line,) = rig.log.getvalue().splitlines()
    assert "chunk damaged node=n2 topic=sample partition=3 " in line
    assert f" chunk={chunk} block=1 " in line


async def test_a_chunk_that_is_missing_is_told_and_one_out_of_reach_is_not() -> None:
    """Missing information is not loss."""
    rig = Rig(SMALL)
    rig.tier.nodes["n0"].files.clear()
    rig.tier.nodes["n1"].is_gone = True
    async with reading(rig):
        assert await read_through(rig, SMALL, 100_000) == SMALL.source
    assert {index for _, index, _ in rig.damage} == {0}


async def test_beyond_m_losses_what_survives_is_read(autojump_clock: MockClock) -> None:
    """Living data chunks as log; the gap is an error that names its offsets, and a problem."""
    rig = Rig(SMALL)
    for index in (1, 4, 5):
        rig.tier.nodes[f"n{index}"].is_gone = True
    cuts, firsts = SMALL.encoded.manifest.cuts, SMALL.encoded.manifest.first_batches
    lost_from, lost_to = firsts[1], firsts[2]
    assert lost_from is not None
    assert lost_to is not None
    async with reading(rig):
        offset, found = 1000, b""
        while offset < lost_from.offset:
            answer = await rig.read(SMALL.at(offset), 50_000)
            offset, found = answer.next_offset, found + bytes_of(answer)
        assert found == SMALL.source[: lost_from.position]
        with pytest.raises(ColdRangeError, match="3 of 6 chunks can be read") as caught:
            await rig.read(SMALL.at(offset), 50_000)
        assert f"offsets {offset} to {lost_to.offset - 1}" in str(caught.value)
        asked = rig.tier.read_bytes
        with pytest.raises(ColdRangeError):
            rig.look(SMALL.at(offset + 1))
        assert rig.tier.read_bytes == asked
        behind = await rig.read(SMALL.at(lost_to.offset, back=3), 10 * MIB)
        assert bytes_of(behind) == SMALL.source[lost_to.position : lost_to.position + behind.size]
        assert behind.size <= cuts[4] - lost_to.position
        (failure,) = rig.reads.failures
        assert (failure.from_offset, failure.to_offset) == (offset, lost_to.offset)
        await trio.sleep(FAILED_S)
        rig.tier.nodes["n4"].is_gone = False
        await rig.read(SMALL.at(offset), 50_000)
        await rig.read(SMALL.at(lost_to.offset - 1), 50_000)
        await read_through(rig, SMALL, 50_000)
        assert not len(rig.reads.failures)


async def test_a_problem_ends_with_its_segment(autojump_clock: MockClock) -> None:
    """What readers use no more is no problem."""
    rig = Rig(SMALL)
    for index in (0, 4, 5):
        rig.tier.nodes[f"n{index}"].is_gone = True
    async with reading(rig):
        with pytest.raises(ColdRangeError):
            await rig.read(SMALL.at(1000), 50_000)
        assert len(rig.reads.failures) == 1
        rig.tier.set_state(SMALL, ColdState.DELETING)
        await trio.sleep(10)
        assert not len(rig.reads.failures)


async def test_an_unknown_generation_is_an_error() -> None:
    """A range that the catalog does not know, or knows otherwise, is not guessed at."""
    rig = Rig(SMALL)
    other = make_segment([2_000] * 5, base_offset=1000)
    with pytest.raises(ColdRangeError):
        rig.look(other.at(1000))


class GuardedTier(FakeTier):
    """Nodes behind breakers."""

    def __init__(self, segment: Segment) -> None:
        super().__init__([segment])
        self.guarded = {
            name: GuardedStore(node, breaker=Breaker(), rng=random.Random(1))
            for name, node in self.nodes.items()
        }

    def stores(self, generation: Generation) -> Mapping[int, Store]:
        return {index: self.guarded[name] for index, name in generation.held.items()}


async def test_a_node_that_refuses_costs_no_wait(autojump_clock: MockClock) -> None:
    """Others are asked at once, and the node is left alone: nothing is repeated meanwhile."""
    rig = Rig(tier=GuardedTier(LARGE))
    for name in ("n0", "n2"):
        rig.tier.nodes[name].is_gone = True
    began = trio.current_time()
    async with reading(rig):
        assert await read_through(rig, LARGE, MIB) == LARGE.source
    assert trio.current_time() == began
    assert max(rig.tier.nodes[name].reads for name in ("n0", "n2")) <= 4


async def test_open_breakers_are_passed_where_a_read_would_fail(autojump_clock: MockClock) -> None:
    """Not asked while others do; asked all the same before offsets are called unreadable."""
    tier = GuardedTier(SMALL)
    rig = Rig(tier=tier)
    async with reading(rig):
        opened: list[str] = []
        for count, name in enumerate(("n0", "n1", "n4"), 1):
            opened.append(name)
            breaker = tier.guarded[name].breaker
            while breaker.state(trio.current_time()) is BreakerState.CLOSED:
                period = breaker.admit(trio.current_time())
                assert period is not None
                breaker.record(period, trio.current_time(), seconds=0, failed=True)
            before = sum(tier.nodes[each].reads for each in opened)
            found = await rig.read(SMALL.at(1000 + 10 * count), 5_000)
            assert bytes_of(found) == SMALL.expected(1000 + 10 * count, 5_000)
            rig.reads._runs.drop_idle(trio.current_time() + IDLE_S)
            asked = sum(tier.nodes[each].reads for each in opened) - before
            assert bool(asked) == (count == 3)
    assert not len(rig.reads.failures)
