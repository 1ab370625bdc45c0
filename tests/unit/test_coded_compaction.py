"""Rounds of compaction over logs of which segments are in chunks."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from ec.chunk_id import ChunkId
from logd.broker.cleaning import CleaningFailedError
from logd.cold.segment_errors import ColdFailedError, ColdRefusedError, NodesRefusedError
from logd.errors import ColdStateError, LogFailedError, SegmentsChangedError, StorageError
from logd.policy.cold.leases import Work
from logd.policy.cold.values import LIVE, ColdState, SegmentKey
from logd.policy.compaction import NotDue
from logd.storage.clean_order import CleanResult
from logd.storage.segment import Segment
from logd.storage.swap_prepared import prepared_path
from tests.unit.coded_compaction_rig import CodedRig
from tests.unit.log_builder import TOPIC_ID
from tests.unit.test_cold_life import running, until


async def made(
    directory: str, *, seed: int = 1, names: str = "abcdef", **changes: object
) -> CodedRig:
    rig = CodedRig(directory, names=names, seed=seed)
    await rig.begin(**changes)
    return rig


async def all_released(rig: CodedRig) -> None:
    """Wait until every sealed segment is in chunks only, and nothing else is left to be done."""
    await until(lambda: rig.hot() == [] and is_settled(rig))


def _size(segment: Segment) -> int:
    return segment.size


async def code_all(rig: CodedRig) -> None:
    """Have all that is sealed coded and released."""
    job = rig.life.jobs.begin_encode("t", [rig.partition])
    await until(lambda: job.seconds is not None)
    assert job.failed == 0, job.errors
    await all_released(rig)


def is_settled(rig: CodedRig) -> bool:
    generations = rig.tier.generations()
    return all(each.state in LIVE for each in generations) and not len(rig.tier.leases)


def has_prepared(rig: CodedRig) -> bool:
    """Whether a replacement waits for the catalog's word."""
    return os.path.exists(prepared_path(f"{rig.directory}/t-0"))


def check_no_orphans(rig: CodedRig) -> None:
    """The chunks on nodes are those of live generations, and all of them."""
    live = [each for each in rig.tier.generations() if each.state in LIVE]
    assert {ChunkId.parse(name).encoding for name in rig.chunk_names()} == {
        each.encoding for each in live
    }
    assert len(rig.chunk_names()) == sum(len(each.held) for each in live)


async def test_released_segments_are_compacted(directory: str, autojump_clock: MockClock) -> None:
    """Thawed, cleaned, coded anew, the old encodings superseded; of each key the last is left."""
    rig = await made(directory)
    rig.put_segments(3)
    async with running(rig):
        await code_all(rig)
        before = {each.encoding for each in rig.tier.generations()}
        rig.put_segments(2)
        result = await rig.compact()
        assert isinstance(result, CleanResult)
        assert result.after.records < result.before.records
        await rig.check(is_clean=True)
        assert rig.phases[0].phase == "thaw"
        assert rig.phases[-1].phase == "encode"
        await all_released(rig)
        await rig.check(is_clean=True)
    after = {each.encoding for each in rig.tier.generations()}
    assert not before & after
    assert 2 in {each.number for each in rig.tier.generations()}
    check_no_orphans(rig)
    names = os.listdir(f"{directory}/t-0")
    assert not [name for name in names if "cleaned" in name or "replacement" in name]


async def test_what_was_not_compacted_is_not_coded_by_itself(
    directory: str, autojump_clock: MockClock
) -> None:
    """Tiering waits for the round; then it codes what the round left, and one may be asked for."""
    rig = await made(directory)
    rig.put_segments(3)
    async with running(rig):
        await trio.sleep(60)
        assert rig.states() == []
        await rig.compact()
        await all_released(rig)
        await rig.check(is_clean=True)
        dirty = rig.log.active_base
        rig.put_segments(1)
        await trio.sleep(60)
        assert rig.hot() == [base for base in rig.bases if base >= dirty] != []


async def test_a_topic_that_was_coded_before_is_compacted(
    directory: str, autojump_clock: MockClock
) -> None:
    """Switching cleanup.policy to compact is enough."""
    rig = await made(directory, cleanup_policy=("delete",))
    rig.put_segments(3)
    async with running(rig):
        await all_released(rig)
        settings = rig.settings(cleanup_policy=("compact",), segment_bytes=6000)
        rig.partition.settings = settings
        await rig.compact()
        await all_released(rig)
    await rig.check(is_clean=True)
    check_no_orphans(rig)


async def test_a_round_that_changes_nothing_supersedes_nothing(
    directory: str, autojump_clock: MockClock
) -> None:
    """Segments of which all stays keep their encodings, and are released again."""
    rig = await made(directory)
    for number in range(3):
        rig.put(*((b"%d-%d" % (number, at), b"x" * 700) for at in range(8)))
        rig.seal()
    async with running(rig):
        await code_all(rig)
        before = {each.encoding for each in rig.tier.generations()}
        await rig.compact()
        assert rig.hot() != []
        await all_released(rig)
        assert {each.encoding for each in rig.tier.generations()} == before
    await rig.check(is_clean=True)


async def test_a_group_that_becomes_nothing_keeps_a_header(
    directory: str, autojump_clock: MockClock
) -> None:
    """Somebody must speak for its offsets: it is coded, and a later round joins it to others."""
    rig = await made(directory)
    big = b"x" * 5000
    for number in range(3):
        rig.put((b"same", big))
        rig.seal()
        rig.put((b"other-%d" % number, big))
        rig.seal()
    async with running(rig):
        await code_all(rig)
        await rig.compact()
        await all_released(rig)
        assert rig.bases == list(range(6))
        ends = [each.next_offset for each in rig.tier.generations()]
        assert sorted(ends) == [1, 2, 3, 4, 5, 6]
        rig.put((b"more", big))
        rig.seal()
        await rig.compact()
        await all_released(rig)
        assert len(rig.bases) < 6
        assert not any(size == 0 for size in map(_size, rig.log.segment_list.items[:-1]))
    await rig.check(is_clean=True)
    await rig.restart()
    await rig.check(is_clean=True)


async def test_deleted_keys_stay_deleted(directory: str, autojump_clock: MockClock) -> None:
    """Tombstones go in a later round, and what they deleted does not come back from chunks."""
    rig = await made(directory)
    rig.put_segments(3)
    async with running(rig):
        await code_all(rig)
        rig.put(*((b"key-%d" % number, None) for number in range(12)))
        rig.seal()
        await rig.compact()
        await all_released(rig)
        await trio.sleep(10)
        rig.put((b"another", b"x"))
        rig.seal()
        await rig.compact()
        await all_released(rig)
        rows = await rig.rows()
        assert [row.key for row in rows] == [b"another"]
    await rig.restart()
    await rig.check(is_clean=True)
    check_no_orphans(rig)


async def test_what_a_round_leaves_is_compressed_again(
    directory: str, autojump_clock: MockClock
) -> None:
    """With cold.compression successors are coded, and read, in their compressed form."""
    rig = await made(directory, cold_compression="zstd")
    rig.put(*((b"key-%d" % number, b"long " * 100) for number in range(9)))
    rig.seal()
    async with running(rig):
        await code_all(rig)
        for number in range(5, 12):
            rig.put((b"key-%d" % number, b"longer " * 100))
        rig.seal()
        result = await rig.compact()
        assert isinstance(result, CleanResult)
        await all_released(rig)
        coded = sum(each.source_bytes for each in rig.tier.generations())
        assert coded < result.after.log_bytes / 2
        await rig.check(is_clean=True)
        rig.put((b"key-1", b"x"))
        rig.seal()
        await rig.compact()
        await all_released(rig)
        await rig.check(is_clean=True)
    check_no_orphans(rig)


# --- what keeps a round from its work -------------------------------------------------------------


async def refused(rig: CodedRig, kind: type[Exception], match: str) -> None:
    """A round is refused, and nothing is changed by it, in the end."""
    bases, encodings = rig.bases, {each.encoding for each in rig.tier.generations()}
    with pytest.raises(kind, match=match):
        await rig.compact()
    assert rig.bases == bases
    assert {each.encoding for each in rig.tier.generations() if each.state in LIVE} == encodings
    assert not len(rig.tier.leases)
    assert not [name for name in os.listdir(f"{rig.directory}/t-0") if "cleaned" in name]
    assert not has_prepared(rig)
    await rig.check()


async def coded(directory: str, *, names: str = "abcdef") -> CodedRig:
    """A rig with three released segments and a dirty one."""
    rig = await made(directory, names=names)
    rig.put_segments(3)
    async with running(rig):
        await code_all(rig)
    rig.put_segments(1)
    await rig.open_tier()
    return rig


async def test_without_space_to_thaw_nothing_is_begun(
    directory: str, autojump_clock: MockClock
) -> None:
    """What is thawed and what is written must fit, or it is said how much is missing."""
    rig = await coded(directory)
    rig.free_bytes = 64 * 2**20 + 10_000
    await refused(rig, CleaningFailedError, "to be thawed")
    assert rig.phases == []


async def test_nodes_that_cannot_take_it_keep_the_log_as_it_was(
    directory: str, autojump_clock: MockClock
) -> None:
    """A node is lost, and there is no other: the round fails, and the next one goes on."""
    rig = await coded(directory)
    rig.nodes.set_live("c", is_live=False)
    rig.nodes["c"].mode = "dead"
    await refused(rig, NodesRefusedError, "4\\+2")
    rig.nodes["c"].mode = "well"
    rig.nodes.set_live("c", is_live=True)
    await rig.compact()
    await rig.check(is_clean=True)


async def test_a_node_lost_in_the_middle_is_gone_round(
    directory: str, autojump_clock: MockClock
) -> None:
    """With a node to spare the next round takes that one; the chunks of the first try go."""
    rig = await coded(directory, names="abcdefg")
    rig.before_clean = lambda: setattr(rig.nodes["c"], "mode", "dead")
    live = {each.encoding for each in rig.tier.generations()}
    while True:
        try:
            await rig.compact()
            break
        except ColdFailedError:
            assert live == {each.encoding for each in rig.tier.generations() if each.state in LIVE}
            await rig.check()
    rig.nodes.set_live("c", is_live=False)
    await rig.check(is_clean=True)
    rig.nodes["c"].mode = "well"
    rig.nodes.set_live("c", is_live=True)
    async with running(rig):
        await all_released(rig)
        await until(lambda: rig.life.removal.waiting == 0)
    check_no_orphans(rig)


async def test_somebody_who_works_on_a_segment_is_waited_for(
    directory: str, autojump_clock: MockClock
) -> None:
    """A round takes its segments as a whole, and all of them, or none."""
    rig = await coded(directory)
    lease = rig.tier.leases.take(Work.REPAIR, [SegmentKey(TOPIC_ID, 0, rig.bases[1])])
    assert lease is not None
    with pytest.raises(SegmentsChangedError, match="worked on"):
        await rig.compact()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.compact)
        await trio.sleep(10)
        assert rig.phases == []
        rig.tier.leases.give_back(lease)
    await rig.check(is_clean=True)


async def test_what_is_thawed_for_a_round_in_vain_is_released_again(
    directory: str, autojump_clock: MockClock
) -> None:
    """It is not held: nobody asked for it."""
    rig = await coded(directory)
    coded_before = set(rig.bases) - set(rig.hot())
    assert coded_before

    def fail() -> None:
        raise CleaningFailedError("failed", "for a test")

    rig.before_clean = fail
    await refused(rig, CleaningFailedError, "for a test")
    assert rig.hot() == rig.bases
    async with running(rig):
        await until(lambda: set(rig.hot()).isdisjoint(coded_before))
    await rig.check()


async def test_what_people_thawed_stays_hot_behind_a_round(
    directory: str, autojump_clock: MockClock
) -> None:
    """What takes its place is held as it was, until coding is asked for; nothing else is."""
    rig = await coded(directory)
    async with running(rig):
        job = rig.life.jobs.begin_thaw("t", [rig.partition])
        await until(lambda: job.seconds is not None)
        rig.put_segments(1)
        await rig.compact()
        assert {each.number for each in rig.tier.generations() if each.state in LIVE} >= {2}
        await trio.sleep(1000)
        held = [each.key.base_offset for each in rig.tier.generations() if each.is_held]
        assert held
        assert set(held) <= set(rig.hot())
        await code_all(rig)
    assert not any(each.is_held for each in rig.tier.generations())


async def test_a_round_that_is_cut_short_leaves_nothing(
    directory: str, autojump_clock: MockClock
) -> None:
    """By a stop, or because its topic is deleted: at whatever call to a node."""
    for call in ("read", "begin", "finish"):
        place = f"{directory}/{call}"
        os.mkdir(place)
        rig = await coded(place)
        with trio.CancelScope() as scope:

            def cut(found: str, *, _call: str = call, _scope: trio.CancelScope = scope) -> None:
                if found == _call:
                    _scope.cancel()

            rig.nodes["d"].before_call = cut
            await rig.compact()
        assert scope.cancelled_caught
        rig.nodes["d"].before_call = lambda _: None
        await rig.check()
        assert not len(rig.tier.leases)
        assert ColdState.PLANNED not in {each.state for each in rig.tier.generations()}
        async with running(rig):
            await rig.compact()
            await until(lambda: is_settled(rig))  # noqa: B023  called in this turn
        await rig.check(is_clean=True)
        check_no_orphans(rig)


async def test_the_catalog_says_no(directory: str, autojump_clock: MockClock) -> None:
    """Its topic was deleted: what was prepared is taken back, and the log is as it was."""
    rig = await coded(directory)
    rig.before_clean = lambda: rig.catalog.cold.delete_segments(
        [SegmentKey(TOPIC_ID, 0, rig.bases[0])], now_ms=1
    )
    with pytest.raises(ColdStateError, match="deleting"):
        await rig.compact()
    assert rig.log.failed is None
    assert not has_prepared(rig)
    await rig.check()


async def test_nobody_knows_what_the_catalog_said(
    directory: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is out of use until a start asks; what the catalog has is what happens."""
    for is_durable in (True, False):
        place = f"{directory}/{is_durable}"
        os.mkdir(place)
        rig = await coded(place)
        commit = rig.catalog.cold.commit

        def torn(*args: object, _do: Callable[..., None] = commit, **named: object) -> None:
            if is_durable:  # noqa: B023  called in this turn
                _do(*args, **named)
            raise StorageError("the device refused")

        monkeypatch.setattr(rig.catalog.cold, "commit", torn)
        with pytest.raises(LogFailedError, match="the device refused"):
            await rig.compact()
        assert rig.log.failed is not None
        assert has_prepared(rig)
        await rig.restart()
        assert not has_prepared(rig)
        await rig.check(is_clean=is_durable)
        async with running(rig):
            await until(lambda: is_settled(rig))  # noqa: B023  called in this turn
        check_no_orphans(rig)
        await rig.check(is_clean=is_durable)


async def test_what_a_start_reads_itself_is_not_coded(
    directory: str, autojump_clock: MockClock
) -> None:
    """The topic of committed offsets: a start must not wait for nodes."""
    rig = await made(directory)
    with pytest.raises(ColdRefusedError, match="__consumer_offsets"):
        rig.life.jobs.begin_encode("__consumer_offsets", [rig.partition])


async def test_chunks_of_more_than_the_segment_here_release_nothing(
    directory: str, autojump_clock: MockClock
) -> None:
    """A catalog that was made anew may know of what a round wrote and never committed."""
    rig = await made(directory, cold_grace_ms=600_000)
    rig.put_segments(2)
    async with running(rig):
        job = rig.life.jobs.begin_encode("t", [rig.partition])
        await until(lambda: job.seconds is not None)
        live = rig.live(rig.bases[0])
        assert live is not None
        longer = replace(live, next_offset=rig.bases[2])
        with pytest.raises(ColdFailedError, match="the segment here"):
            await rig.life.releaser.release(rig.partition, longer)
        assert rig.hot() == rig.bases


# --- many rounds ----------------------------------------------------------------------------------


async def compacted(rig: CodedRig, rng: random.Random) -> bool:
    """Do a round; now and then records are deleted in the middle of it."""
    rig.before_clean = lambda: None
    if rng.random() < 0.2:
        rig.before_clean = lambda: rig.log.delete_before(rng.choice(rig.bases))
    try:
        outcome = await rig.compact()
    except (SegmentsChangedError, FileNotFoundError):
        await rig.check()
        return False
    await rig.check(is_clean=True)
    return not isinstance(outcome, NotDue)


async def test_round_after_round(
    directory: str, autojump_clock: MockClock, rng: random.Random
) -> None:
    """Appends, codings, thaws, deletions, rounds, restarts, in any order: always the last ones."""
    seed = rng.randrange(2**32)
    print(f"rig seed {seed}")
    rig = await made(directory, seed=seed)
    rounds = 0
    for _ in range(8):
        rig.put_segments(rng.randrange(1, 3), keys=rng.choice((3, 12, 40)))
        async with running(rig):
            if rng.random() < 0.4:
                await code_all(rig)
            if rng.random() < 0.3:
                job = rig.life.jobs.begin_thaw("t", [rig.partition])
                await until(lambda: job.seconds is not None)  # noqa: B023  ended in this turn
            if rng.random() < 0.2:
                rig.log.delete_before(rng.choice(rig.bases) + rng.randrange(3))
                await rig.check()
            if rng.random() < 0.7:
                rounds += await compacted(rig, rng)
            await trio.sleep(rng.choice((0, 5, 50)))
        await rig.check()
        if rng.random() < 0.4:
            await rig.restart()
        else:
            await rig.open_tier()
        await rig.check()
    assert rounds > 0
    async with running(rig):
        await until(lambda: is_settled(rig))
    check_no_orphans(rig)
    states = {each.state for each in rig.tier.generations()}
    assert states <= {ColdState.COMMITTED, ColdState.RELEASED}
