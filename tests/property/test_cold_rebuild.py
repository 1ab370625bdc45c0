"""The catalog made again from chunks: what comes back, what is put aside, in whatever order."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.policy.cold.rebuild import (
    FoundChunk,
    KnownPartition,
    ManifestFacts,
    RebuildPlan,
    plan_rebuild,
)
from logd.policy.cold.removal import ChunkName, Fate, judge_chunk
from logd.policy.cold.values import LIVE, ColdState, Profile, SegmentKey
from logd.storage.catalog import SqliteCatalog
from tests.contract.check_cold_catalog import (
    NODES,
    TOPIC,
    commit,
    encoding,
    find,
    plan_of,
    release,
)

PROFILE = Profile(2, 1)
FACTS = ManifestFacts(PROFILE, 10, 1000, 1, 2, b"manifest")
KNOWN = {(TOPIC, 0): KnownPartition(0, ((0, 10), (20, 30)))}


def chunks(
    number: int = 1,
    *,
    base: int = 0,
    indexes: str = "012",
    nodes: str = "abc",
    uuid: int | None = None,
    facts: ManifestFacts | None = None,
    bad: str = "",
) -> list[FoundChunk]:
    """Return one chunk per index and node; those whose index is in `bad` are not verified."""
    facts = facts or replace(FACTS, next_offset=base + 10, data=b"%d" % (uuid or number))
    key = SegmentKey(TOPIC, 0, base)
    return [
        FoundChunk(
            ChunkName(key, number, encoding(uuid or number), int(index), node),
            facts, index not in bad,
        )
        for index, node in zip(indexes, nodes, strict=True)
    ]  # fmt: skip


def came_back(plan: RebuildPlan) -> list[tuple[int, int, str, str]]:
    """Return base, number, state and places of what came back."""
    return [
        (
            each.key.base_offset,
            each.number,
            each.state.value,
            " ".join(f"{index}{node}" for index, node in sorted(each.held.items())),
        )
        for each, _ in plan.generations
    ]


def reasons(plan: RebuildPlan) -> set[str]:
    """Return why chunks were put aside."""
    return {each.reason for each in plan.quarantine}


def test_a_whole_set_comes_back() -> None:
    """COMMITTED beside its hot file, RELEASED without one; with its manifest."""
    plan = plan_rebuild([*chunks(), *chunks(2, base=10)], KNOWN, sequences_seen=[4, 9, 7])
    assert came_back(plan) == [(0, 1, "committed", "0a 1b 2c"), (10, 2, "released", "0a 1b 2c")]
    assert [manifest for _, manifest in plan.generations] == [b"1", b"2"]
    assert plan.quarantine == ()
    assert plan.sequence == 10
    made = plan.generations[0][0]
    assert (made.source_bytes, made.min_timestamp_ms, made.max_timestamp_ms) == (1000, 1, 2)


def test_a_hot_file_that_ends_early_is_no_copy() -> None:
    """What a thaw left, or another segment's: then the chunks are the only copy."""
    for hot in (((0, 9),), ((1, 10),), ()):
        plan = plan_rebuild(chunks(), {(TOPIC, 0): KnownPartition(0, hot)})
        assert came_back(plan)[0][2] == "released"
    plan = plan_rebuild(chunks(), {(TOPIC, 0): KnownPartition(0, ((0, 11),))})
    assert came_back(plan)[0][2] == "committed"


def test_what_compaction_made_of_several_segments_comes_back_alone() -> None:
    """Never with one of those it replaced; and only if it did replace them."""
    joined = replace(FACTS, next_offset=20, data=b"joined")
    both = [*chunks(), *chunks(2, base=10), *chunks(3, facts=joined)]
    plan = plan_rebuild(both, {(TOPIC, 0): KnownPartition(0, ((0, 20),), (0, 20))})
    assert came_back(plan) == [(0, 3, "committed", "0a 1b 2c")]
    plan = plan_rebuild(both, {(TOPIC, 0): KnownPartition(0, (), (20,))})
    assert came_back(plan) == [(0, 3, "released", "0a 1b 2c")]
    # It was written, and the crash came before it was committed: the old ones are hot.
    old = KnownPartition(0, ((0, 10), (10, 20)), (0, 10, 20))
    plan = plan_rebuild(both, {(TOPIC, 0): old})
    assert [each[:3] for each in came_back(plan)] == [(0, 1, "committed"), (10, 2, "committed")]
    assert any("in the middle of it" in reason for reason in reasons(plan))
    # Its chunks are lost, and its hot file is there: the old ones do not come between.
    plan = plan_rebuild(chunks(2, base=10), {(TOPIC, 0): KnownPartition(0, ((0, 20),), (0, 20))})
    assert came_back(plan) == []
    assert reasons(plan) == {"the hot segment at offset 0 has its offsets"}


def test_the_highest_generation_that_can_be_read_wins() -> None:
    """And not one of which too few chunks are whole."""
    old, new = chunks(1), chunks(2, nodes="bcd")
    plan = plan_rebuild([*old, *new], KNOWN)
    assert came_back(plan) == [(0, 2, "committed", "0b 1c 2d")]
    assert reasons(plan) == {"generation 2 at 0 has its offsets"}
    broken = chunks(2, nodes="bcd", bad="01")
    plan = plan_rebuild([*old, *broken], KNOWN)
    assert came_back(plan) == [(0, 1, "committed", "0a 1b 2c")]
    assert reasons(plan) == {"1 chunks of it are whole on different nodes, needed are 2"}


def test_k_chunks_are_enough() -> None:
    """Any of them; a damaged one keeps its place, for repair to put right; fewer are put aside."""
    for kept in combinations(chunks(), 2):
        assert len(came_back(plan_rebuild(kept, KNOWN))) == 1
    plan = plan_rebuild(chunks(bad="2"), KNOWN)
    assert came_back(plan) == [(0, 1, "committed", "0a 1b 2c")]
    unread = replace(chunks()[2], manifest=None, is_verified=False)
    assert came_back(plan_rebuild([*chunks()[:2], unread], KNOWN)) == came_back(plan)
    for one in chunks():
        plan = plan_rebuild([one], KNOWN)
        assert plan.generations == ()
        assert [each.name for each in plan.quarantine] == [one.name]


def test_encodings_never_mix() -> None:
    """One number, two uuids; or one uuid, two manifests: two sets, of which one comes back."""
    one = chunks(3, uuid=7, indexes="01", nodes="ab")
    two = chunks(3, uuid=8, indexes="12", nodes="cd")
    assert came_back(plan_rebuild([one[0], two[0]], KNOWN)) == []
    plan = plan_rebuild([*two, *one], KNOWN)
    assert came_back(plan) == [(0, 3, "committed", "0a 1b")]
    three = chunks(3, uuid=8, indexes="012", nodes="bcd")
    assert came_back(plan_rebuild([*one, *three], KNOWN)) == [(0, 3, "committed", "0b 1c 2d")]
    other = chunks(3, uuid=7, indexes="12", nodes="cd", facts=replace(FACTS, data=b"other"))
    assert came_back(plan_rebuild([one[0], other[0]], KNOWN)) == []
    plan = plan_rebuild([*one, *other], KNOWN)
    assert len(plan.generations) == 1
    assert len(plan.quarantine) == 2


def test_numbers_go_on_above_what_was_put_aside(directory: str) -> None:
    """A higher generation that could not be read keeps its number: the next one is another."""
    unknown = [replace(one, name=replace(one.name, key=SegmentKey(b"x" * 16, 0, 0)))
               for one in chunks(9, uuid=90)]  # fmt: skip
    found = [*chunks(1), *chunks(5, bad="01"), *chunks(7, base=10, bad="012"), *unknown]
    plan = plan_rebuild(found, KNOWN)
    assert plan.numbers == ((SegmentKey(TOPIC, 0, 0), 5), (SegmentKey(TOPIC, 0, 10), 7))
    catalog = SqliteCatalog.open(f"{directory}/catalog.sqlite", "cluster")
    catalog.create_topic("topic", TOPIC, 1, {})
    nodes = [replace(node, name=name) for node, name in zip(NODES, "abcd", strict=True)]
    catalog.cold.restore(nodes, plan.generations, numbers=plan.numbers, sequence=1, now_ms=0)
    for number, base, expected in ((8, 0, 6), (9, 10, 8)):
        plan_ = replace(plan_of(number, base=base, end=base + 10), nodes=("a", "b", "c"))
        assert catalog.cold.plan(plan_, now_ms=0).number == expected
    catalog.close()


def test_an_encoding_comes_back_once() -> None:
    """The catalog knows a generation by its uuid: two segments do not share one."""
    known = KNOWN | {(TOPIC, 1): KnownPartition(0)}
    other = [replace(one, name=replace(one.name, key=SegmentKey(TOPIC, 1, 0))) for one in chunks()]
    plan = plan_rebuild([*other, *chunks()], known)
    assert [each.key.partition for each, _ in plan.generations] == [0]
    assert reasons(plan) == {"another set of chunks has its encoding's id"}


def test_what_was_deleted_does_not_come_back() -> None:
    """Unknown topics and partitions, and what ends at the log start offset or before."""
    assert came_back(plan_rebuild(chunks(), {(b"x" * 16, 0): KnownPartition(0)})) == []
    assert came_back(plan_rebuild(chunks(), {(TOPIC, 1): KnownPartition(0)})) == []
    below = plan_rebuild(chunks(), {(TOPIC, 0): KnownPartition(10)})
    assert below.generations == ()
    assert reasons(below) == {"it is below the log start offset 10"}
    assert len(came_back(plan_rebuild(chunks(), {(TOPIC, 0): KnownPartition(9)}))) == 1


def test_a_wider_segment_takes_the_place_of_those_in_it() -> None:
    """By its higher number; its neighbours stay."""
    wide = chunks(3, facts=replace(FACTS, next_offset=20))
    small = [*chunks(1), *chunks(2, base=10), *chunks(1, base=20, uuid=9)]
    assert [row[:2] for row in came_back(plan_rebuild([*small, *wide], KNOWN))] == [(0, 3), (20, 1)]
    low = [*chunks(4), *chunks(4, base=10, uuid=5)]
    assert [row[:2] for row in came_back(plan_rebuild([*low, *wide], KNOWN))] == [(0, 4), (10, 4)]


def test_copies_are_placed_so_that_most_chunks_have_a_place() -> None:
    """A chunk that moved lies twice; the place that only one of two can have goes to that one."""
    plan = plan_rebuild(chunks(indexes="0112", nodes="aabb"), KNOWN)
    assert came_back(plan) == [(0, 1, "committed", "0a 1b")]
    plan = plan_rebuild(chunks(indexes="01122", nodes="aabbc"), KNOWN)
    assert came_back(plan) == [(0, 1, "committed", "0a 1b 2c")]
    assert reasons(plan) == {"another copy has its place"}
    plan = plan_rebuild(chunks(indexes="00112", nodes="abbcc"), KNOWN)
    assert came_back(plan) == [(0, 1, "committed", "0a 1b 2c")]
    assert came_back(plan_rebuild(chunks(indexes="012", nodes="aaa"), KNOWN)) == []
    plan = plan_rebuild(chunks(indexes="00112", nodes="abaca"), KNOWN)
    assert came_back(plan) == [(0, 1, "committed", "0b 1c 2a")]
    strange = chunks(indexes="0129", nodes="abcd")
    assert reasons(plan_rebuild(strange, KNOWN)) == {"its generation has no such chunk"}


FOUND = st.builds(
    lambda number, uuid, base, width, index, node, how: FoundChunk(
        ChunkName(SegmentKey(TOPIC, 0, base), number, encoding(uuid + 10 * number), index, node),
        None if how == "unread" else replace(
            FACTS, next_offset=base + width, data=b"%d %d %d" % (base, width, number)
        ),
        how == "good",
    ),
    st.integers(1, 3), st.integers(0, 1), st.sampled_from([0, 10, 20]), st.sampled_from([10, 20]),
    st.integers(0, 3), st.sampled_from("abcd"), st.sampled_from(["good"] * 8 + ["bad", "unread"]),
)  # fmt: skip


@settings(max_examples=300)
@given(
    found=st.lists(FOUND, max_size=40, unique_by=lambda each: each.name),
    log_start=st.sampled_from([0, 10, 15]),
    seed=st.integers(0, 2**32),
)
def test_any_heap_of_chunks(found: list[FoundChunk], log_start: int, seed: int) -> None:
    """Each chunk is placed or put aside; what comes back can be read, is one encoding, has its
    offsets alone, and the same comes back in any order.
    """
    known = {(TOPIC, 0): KnownPartition(log_start, ((0, 10), (10, 20)))}
    plan = plan_rebuild(found, known)
    again = list(found)
    random.Random(seed).shuffle(again)
    assert plan_rebuild(again, known) == plan
    by_name = {each.name: each for each in found}
    placed = [
        ChunkName(each.key, each.number, each.encoding, index, node)
        for each, _ in plan.generations
        for index, node in each.held.items()
    ]
    aside = [each.name for each in plan.quarantine]
    assert sorted([*placed, *aside]) == sorted(by_name)
    for each, manifest in plan.generations:
        mine = [by_name[name] for name in placed if name.encoding == each.encoding]
        whole = [chunk for chunk in mine if chunk.is_verified]
        assert len({chunk.name.index for chunk in whole}) == len(whole) >= PROFILE.k
        assert len({chunk.name.node for chunk in mine}) == len(mine)
        assert {chunk.manifest.data for chunk in mine if chunk.manifest} == {manifest}
        assert each.next_offset > log_start
    for one, other in combinations([each for each, _ in plan.generations], 2):
        assert not one.overlaps(other)
    # A set that is whole, on different nodes, gives way to a higher number only, or an equal one:
    # to one that has its offsets or its uuid.
    for name in {(n.key, n.number, n.encoding) for n in aside} - {
        (n.key, n.number, n.encoding) for n in placed
    }:
        _check_it_had_to_give_way(name, found, plan, log_start)


def _check_it_had_to_give_way(
    name: tuple[SegmentKey, int, str], found: list[FoundChunk], plan: RebuildPlan, log_start: int
) -> None:
    mine = [f for f in found if (f.name.key, f.name.number, f.name.encoding) == name]
    for facts in {each.manifest for each in mine} - {None}:
        assert facts is not None
        whole = [f.name for f in mine if f.is_verified and f.manifest == facts]
        whole = [n for n in whole if n.index < PROFILE.chunks]
        pairs = combinations(whole, 2)
        readable = any(a.index != b.index and a.node != b.node for a, b in pairs)
        if readable and facts.next_offset > log_start:
            base = name[0].base_offset
            assert any(
                each.number >= name[1]
                and (
                    (each.key.base_offset < facts.next_offset and base < each.next_offset)
                    or each.encoding == name[2]
                )
                for each, _ in plan.generations
            )


@settings(max_examples=25)
@given(
    steps=st.lists(
        st.sampled_from(["committed", "released", "again", "moved", "deleted"]),
        min_size=1, max_size=6,
    )
)  # fmt: skip
def test_a_lost_catalog_comes_back(steps: list[str]) -> None:
    """Deleted and made again from chunks: nodes, generations, states, places and manifests."""
    with tempfile.TemporaryDirectory() as directory:
        old = SqliteCatalog.open(f"{directory}/old", "cluster")
        disks: dict[ChunkName, FoundChunk] = {}
        hot, start = _fill(old, steps, disks)
        before, nodes = old.cold.generations(), old.cold.nodes()
        sequence = old.cold.sequence()
        live = [each for each in before if each.state in LIVE]
        manifests = {each.encoding: old.cold.manifest(each.encoding) for each in live}
        old.close()
        plan = plan_rebuild(
            disks.values(), {(TOPIC, 0): KnownPartition(start, tuple(hot))},
            sequences_seen=[sequence],
        )  # fmt: skip
        new = SqliteCatalog.open(f"{directory}/new", "cluster")
        new.create_topic("topic", TOPIC, 1, {})
        new.cold.restore(
            nodes, plan.generations, numbers=plan.numbers, sequence=plan.sequence, now_ms=1000
        )
        assert new.cold.nodes() == nodes
        assert [replace(each, changed_ms=0) for each in new.cold.generations()] == [
            replace(
                each, changed_ms=0, placements=tuple(p for p in each.placements if not p.is_leaving)
            )
            for each in live
        ]
        assert {each: new.cold.manifest(each) for each in manifests} == manifests
        assert new.cold.sequence() > sequence
        records = {each.encoding: each for each in new.cold.generations()}
        for each in plan.quarantine:
            assert judge_chunk(each.name, records).fate is Fate.QUARANTINE
        new.close()


def _fill(
    catalog: SqliteCatalog, steps: list[str], disks: dict[ChunkName, FoundChunk]
) -> tuple[list[tuple[int, int]], int]:
    """Make a catalog, a segment a step, with its chunks; return hot files and log start offset."""
    cold, hot, start = catalog.cold, list[tuple[int, int]](), 0
    catalog.create_topic("topic", TOPIC, 1, {})
    for node in NODES:
        cold.add_node(node)
    for at, step in enumerate(sorted(steps, key=lambda each: each != "deleted")):
        base, end = 10 * at, 10 * at + 10
        for number in (10 * at + 1, 10 * at + 2)[: 2 if step == "again" else 1]:
            made = cold.plan(plan_of(number, base=base, end=end), now_ms=0)
            superseded = (number - 1,) if number % 10 == 2 else ()
            commit(cold, number, superseded=superseded)
            facts = ManifestFacts(PROFILE, end, 1000, 1, 2, b"manifest")
            for index, node in made.held.items():
                name = ChunkName(made.key, made.number, made.encoding, index, node)
                disks[name] = FoundChunk(name, facts, True)
        if step == "moved":
            cold.place_chunk(made.encoding, index=0, node="n3")
            old = ChunkName(made.key, made.number, made.encoding, 0, "n0")
            disks[replace(old, node="n3")] = replace(disks.pop(old), name=replace(old, node="n3"))
        if step == "released":
            release(cold, number)
        elif step == "deleted":
            cold.delete_segments([made.key], now_ms=0)
            start = end
        else:
            hot.append((base, end))
        assert find(cold, number) is not None
    return hot, start


def test_a_plan_can_be_read() -> None:
    """A line for what comes back, and one for each chunk that is put aside."""
    lines = str(plan_rebuild([*chunks(bad="2"), *chunks(7, nodes="xyz", bad="01")], KNOWN))
    assert "(generation 1, 2+1, committed): 3 of 3 chunks" in lines
    assert lines.count("quarantine") == 3
    assert ColdState.COMMITTED.value in lines


def test_an_unverified_chunk_without_a_manifest_is_no_claim() -> None:
    """`is_verified` without a manifest contradicts itself."""
    with pytest.raises(AssertionError):
        FoundChunk(chunks()[0].name, None, True)
