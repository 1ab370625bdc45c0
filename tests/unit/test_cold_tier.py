"""The catalog's image in memory: it follows every change, cheaply, and is never half old."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec
import pytest
import trio
import trio.testing

from ec.manifest import encode_manifest
from logd.errors import ColdStateError
from logd.policy.cold.coverage import Coverage
from logd.policy.cold.leases import Work
from logd.policy.cold.proof import HotCopy, ReleaseTerms
from logd.policy.cold.values import ColdState, Generation, Placement, Profile, SegmentKey
from logd.storage.cold_catalog import EncodePlan
from tests.contract.check_cold_catalog import OTHER, TOPIC, encoding
from tests.ec_samples import encode, noise
from tests.unit.cold_rig import ColdRig, check_of, commit_of

PROFILE = Profile(2, 1)
SAMPLE = encode(noise(300_000))
NODES = ("n0", "n1", "n2", "n3")
TERMS = ReleaseTerms(grace_ms=0, hot_retention_ms=0)


def plan_of(number: int, *, base: int = 0, topic: bytes = TOPIC, partition: int = 0) -> EncodePlan:
    return EncodePlan(
        key=SegmentKey(topic, partition, base), encoding=encoding(number), profile=PROFILE,
        next_offset=base + 10, source_bytes=1000, max_timestamp_ms=77, nodes=("n0", "n1", "n2"),
    )  # fmt: skip


def manifest_of(generation: Generation) -> bytes:
    """Return the bytes of a manifest that a 2+1 encoding might have."""
    sample = encode(noise(999), SMALL, encoding=generation.encoding, generation=generation.number)
    return encode_manifest(msgspec.structs.replace(sample.manifest, topic_id=TOPIC.hex()))


SMALL = type(SAMPLE.manifest.profile)(2, 1)


@pytest.fixture
async def rig(directory: str) -> ColdRig:
    """A tier with four nodes and two topics."""
    rig = ColdRig(directory)
    rig.create_topic()
    rig.create_topic(OTHER, "other")
    await rig.add(*NODES)
    rig.changes.clear()
    return rig


async def committed(rig: ColdRig, number: int, **where: int) -> Generation:
    planned = await rig.tier.plan(plan_of(number, **where))
    await rig.tier.commit([commit_of(planned, manifest_of(planned))])
    return found(rig, number)


async def released(rig: ColdRig, number: int, **where: int) -> Generation:
    generation = await committed(rig, number, **where)
    check = check_of(generation, now_ms=rig.clock.wall_ms)
    await rig.tier.release(generation.encoding, check, TERMS)
    return found(rig, number)


def found(rig: ColdRig, number: int) -> Generation:
    generation = rig.tier.generation(encoding(number))
    assert generation is not None
    return generation


def check_image(rig: ColdRig) -> None:
    """What the tier says is what the catalog says: generations, coverage, sequence, holdings."""
    rows = rig.catalog.cold.generations()
    assert set(rig.tier.generations()) == set(rows)
    for topic in (TOPIC, OTHER):
        mine = [row for row in rows if row.key.topic_id == topic]
        assert rig.tier.generations(topic) == tuple(mine)
        for partition in range(3):
            here = tuple(row for row in mine if row.key.partition == partition)
            assert rig.tier.generations(topic, partition) == here
            assert rig.tier.coverage(topic, partition).generations == Coverage(here).generations
    assert rig.tier.sequence == rig.catalog.cold.sequence()
    for name in NODES:
        held = sum(at.node == name for row in rows for at in row.placements)
        assert rig.tier.holdings.of_node(name)[0] == held


async def test_the_way_of_a_segment(rig: ColdRig) -> None:
    """Planned, committed, released, thawed, released, deleted, gone: the image follows each."""
    partition = (TOPIC, 0)
    planned = await rig.tier.plan(plan_of(1))
    assert rig.tier.generations() == (planned,)
    assert rig.tier.coverage(*partition).generations == ()
    before = rig.tier.coverage(*partition)
    await rig.tier.commit([commit_of(planned, manifest_of(planned))])
    assert before.generations == ()
    assert rig.tier.coverage(*partition).find(5) == found(rig, 1)
    assert len(rig.tier.released(*partition)) == 1
    await rig.tier.release(planned.encoding, check_of(planned, now_ms=rig.clock.wall_ms), TERMS)
    [segment] = rig.tier.released(*partition)
    assert (segment.base_offset, segment.next_offset, segment.size_bytes) == (0, 10, 1000)
    assert segment.max_timestamp_ms == 77
    await rig.tier.thaw(planned.encoding, HotCopy(1000, True, True))
    assert found(rig, 1).is_held
    await rig.tier.end_hold(planned.encoding)
    assert not found(rig, 1).is_held
    await rig.tier.delete_segments([planned.key])
    assert found(rig, 1).state is ColdState.DELETING
    for index, node in planned.held.items():
        check_image(rig)
        gone = await rig.tier.chunk_removed(planned.encoding, index=index, node=node)
    assert gone
    assert rig.tier.generations() == ()
    assert rig.tier.released(*partition) == []
    assert set(rig.changes) == {frozenset({partition})}
    check_image(rig)


async def test_every_kind_of_change_is_followed(rig: ColdRig) -> None:
    """Moves of chunks, successors, aborts, topics and nodes that go: the image is the catalog's."""
    await committed(rig, 1)
    await rig.tier.place_chunk(encoding(1), index=2, node="n3")
    assert Placement(2, "n2", is_leaving=True) in found(rig, 1).placements
    check_image(rig)
    again = await rig.tier.plan(plan_of(2))
    await rig.tier.commit([commit_of(again, manifest_of(again))], superseded=[encoding(1)])
    assert found(rig, 1).state is ColdState.SUPERSEDED
    check_image(rig)
    await rig.tier.drop_superseded(encoding(1), has_hot_log=True)
    await rig.tier.plan(plan_of(3, base=10))
    await rig.tier.abort(encoding(3))
    check_image(rig)
    await rig.tier.chunk_removed(encoding(1), index=2, node="n3")
    await rig.tier.plan(plan_of(4, topic=OTHER, partition=2))
    await rig.nodes.remove("n3")
    check_image(rig)
    rig.catalog.mark_deleting(TOPIC)
    await rig.tier.topic_deleted(TOPIC)
    assert {row.state for row in rig.tier.generations(TOPIC)} <= {
        ColdState.DELETING, ColdState.ABORTED,
    }  # fmt: skip
    check_image(rig)


async def test_random_changes_are_followed(rig: ColdRig, rng: random.Random) -> None:
    """Whatever is done in whatever order, several at once, the image is the catalog's."""
    number = 0

    def some(*states: ColdState) -> Generation | None:
        fit = [row for row in rig.tier.generations() if row.state in states]
        return rng.choice(sorted(fit, key=lambda row: row.encoding)) if fit else None

    async def plan() -> None:
        nonlocal number
        number += 1
        base = 10 * rng.randrange(6)
        await rig.tier.plan(plan_of(number, base=base, partition=rng.randrange(2)))

    async def commit() -> None:
        row = some(ColdState.PLANNED)
        if row is not None:
            live = rig.tier.coverage(row.key.topic_id, row.key.partition).find(row.key.base_offset)
            await rig.tier.commit(
                [commit_of(row, manifest_of(row))],
                superseded=[] if live is None else [live.encoding],
            )

    async def release() -> None:
        row = some(ColdState.COMMITTED)
        if row is not None:
            check = check_of(row, now_ms=rig.clock.wall_ms)
            await rig.tier.release(row.encoding, check, TERMS)

    async def delete() -> None:
        row = some(*ColdState)
        if row is not None:
            await rig.tier.delete_segments([row.key, replace(row.key, base_offset=90)])

    async def remove() -> None:
        row = some(ColdState.ABORTED, ColdState.DELETING)
        if row is not None and row.placements:
            at = rng.choice(row.placements)
            await rig.tier.chunk_removed(row.encoding, index=at.index, node=at.node)

    async def quietly(change: Callable[[], Awaitable[None]]) -> None:
        try:
            await change()
        except ColdStateError:
            return

    for _ in range(120):
        async with trio.open_nursery() as nursery:
            for change in rng.choices([plan, commit, release, delete, remove, remove], k=3):
                nursery.start_soon(quietly, change)
        check_image(rig)


async def test_a_refused_change_changes_nothing(rig: ColdRig) -> None:
    """What the catalog refuses is refused here, and nobody is told of a change."""
    before = await committed(rig, 1)
    rig.changes.clear()
    with pytest.raises(ColdStateError):
        await rig.tier.plan(plan_of(9, topic=b"x" * 16))
    with pytest.raises(ColdStateError):
        await rig.tier.abort(before.encoding)
    planned = await rig.tier.plan(plan_of(2))
    with pytest.raises(ColdStateError, match="manifest"):
        await rig.tier.commit([commit_of(planned, b"no manifest")])
    assert found(rig, 1) == before
    assert rig.changes == [frozenset({(TOPIC, 0)})]
    check_image(rig)


async def test_a_cancelled_change_is_followed_all_the_same(rig: ColdRig) -> None:
    """Who gives up waits no longer, but what the catalog did by then is here too."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await rig.tier.plan(plan_of(1))
    with trio.move_on_after(0):
        await rig.tier.plan(plan_of(2, base=10))
    check_image(rig)


async def test_a_restart_brings_the_image_back(rig: ColdRig) -> None:
    """Generations, coverage, nodes and what they hold are as before."""
    await committed(rig, 1)
    await released(rig, 2, base=10)
    await rig.tier.plan(plan_of(3, base=20))
    held = [rig.tier.holdings.of_node(name) for name in NODES]
    assert held[0][1] > 0
    later = rig.again()
    await later.tier.load()
    check_image(later)
    assert not later.tier.holdings.is_complete
    async with later.running():
        with trio.fail_after(30):
            await trio.testing.wait_all_tasks_blocked()
    assert later.tier.holdings.is_complete
    assert [later.tier.holdings.of_node(name) for name in NODES] == held
    assert later.tier.holdings.source_bytes == 2000
    assert [row.base_offset for row in later.tier.released(TOPIC, 0)] == [0, 10]


async def test_manifests_are_kept_decoded(rig: ColdRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the limit says, the latest used; an unknown one is refused."""
    monkeypatch.setattr("logd.cold.tier.MANIFESTS_MAX", 2)
    for number in range(1, 4):
        await committed(rig, number, base=10 * number)
    kept = await rig.tier.manifest(encoding(3))
    assert kept.encoding == encoding(3)
    assert await rig.tier.manifest(encoding(3)) is kept
    first = await rig.tier.manifest(encoding(1))
    assert first.encoding == encoding(1)
    await rig.tier.manifest(encoding(2))
    assert await rig.tier.manifest(encoding(3)) is not kept
    with pytest.raises(ColdStateError, match="no manifest"):
        await rig.tier.manifest(encoding(99))


async def test_stores_of_a_generation(rig: ColdRig) -> None:
    """Each chunk's place, by index; one that has none is left out."""
    generation = await committed(rig, 1)
    stores = rig.tier.stores(generation)
    assert {index: store.node for index, store in stores.items()} == {0: "n0", 1: "n1", 2: "n2"}
    assert rig.tier.stores(replace(generation, placements=())) == {}


def test_codecs_are_made_once(directory: str) -> None:
    """One a profile, all with the kernel that was tried out."""
    rig = ColdRig(directory)
    codec = rig.tier.codec(Profile(4, 2))
    assert rig.tier.codec(Profile(4, 2)) is codec
    assert rig.tier.codec(Profile(2, 1)).kernel is codec.kernel
    assert str(codec.profile) == "4+2"


def test_leases_are_the_tiers(directory: str) -> None:
    """There is one set of them."""
    rig = ColdRig(directory)
    key = SegmentKey(TOPIC, 0, 0)
    lease = rig.tier.leases.take(Work.ENCODE, [key])
    assert lease is not None
    assert rig.tier.leases.take(Work.MOVE, [key]) is None


async def test_a_change_is_cheap_with_ten_thousand_generations(rig: ColdRig) -> None:
    """A move costs the loop no more than a few times what it costs with ten; one partition."""
    few = await cost_of_a_move(rig, 10)
    many = await cost_of_a_move(rig, 10_000)
    assert many < 20 * few + 0.002


async def cost_of_a_move(rig: ColdRig, count: int) -> float:
    """Return the CPU seconds of one step of the image with so many generations in a partition."""
    rows = [
        Generation(
            key=SegmentKey(TOPIC, 0, 10 * at), number=1, encoding=encoding(at), profile=PROFILE,
            next_offset=10 * at + 10, source_bytes=1, state=ColdState.COMMITTED,
            placements=tuple(Placement(index, f"n{index}") for index in range(3)),
        )
        for at in range(count)
    ]  # fmt: skip
    tier = rig.tier
    gone = [each.encoding for each in tier.generations()]
    tier._take((), gone)
    tier._take(rows, ())
    row = rows[count // 2]
    best = 1.0
    for state in (ColdState.RELEASED, ColdState.COMMITTED) * 3:
        began = time.process_time()
        tier._take([replace(row, state=state)], [row.encoding])
        best = min(best, time.process_time() - began)
    assert len(tier.coverage(TOPIC, 0).generations) == count
    return best


def test_a_coverage_follows_changes() -> None:
    """What `with_changes` gives is what a coverage made anew of the same generations has."""
    rng = random.Random(3)
    rows: dict[int, Generation] = {}
    coverage = Coverage()
    for step in range(300):
        base = 10 * rng.randrange(20)
        old = rows.pop(base, None)
        new = []
        if rng.random() < 0.7:
            state = rng.choice([ColdState.COMMITTED, ColdState.RELEASED, ColdState.DELETING])
            rows[base] = Generation(
                key=SegmentKey(TOPIC, 0, base), number=1, encoding=encoding(step + 1),
                profile=PROFILE, next_offset=base + rng.randrange(1, 10), source_bytes=1,
                state=state,
            )  # fmt: skip
            new = [rows[base]]
        coverage = coverage.with_changes([] if old is None else [old], new)
        fresh = Coverage(rows.values())
        assert coverage.generations == fresh.generations
        offset = rng.randrange(210)
        assert coverage.find(offset) == fresh.find(offset)
