"""What is known of chunks, how margins are counted, and which nodes chunks may go to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec.margin import margin
from ec.profile import Profile as CodedProfile
from logd.policy.cold.condition import ChunkPlace, ChunkState, Finding, NodeCondition, examine
from logd.policy.cold.margins import SegmentMargin, count_margins
from logd.policy.cold.preflight import NodeFacts
from logd.policy.cold.targets import Targets, chunk_bytes_of
from logd.policy.cold.values import Generation, Profile
from logd.policy.cold.what_if import margin_by_count
from logd.units import GIB, MIB
from tests.cold_values import (
    FOUR_TWO,
    dead,
    draining,
    facts,
    generation,
    look,
    node,
    nodes,
    suspect,
)

LIVE, UNKNOWN, MISSING, CORRUPT = ChunkState
ALL = nodes()
ROTTEN = Finding(CORRUPT, 50, "block 3")


def refused(name: str) -> NodeCondition:
    """Return a node whose breaker is open."""
    return replace(node(name), is_refused=True)


@pytest.mark.parametrize(
    ("known", "findings", "state", "since_ms"),
    [
        (ALL, {}, LIVE, 0),
        (dead(ALL, "a", 70), {}, MISSING, 70),
        (suspect(ALL, "a"), {}, UNKNOWN, 0),
        (ALL | {"a": refused("a")}, {}, UNKNOWN, 0),
        ({}, {}, UNKNOWN, 0),
        (draining(ALL, "a"), {}, LIVE, 0),
        (ALL, {"a": ROTTEN}, CORRUPT, 50),
        (suspect(ALL, "a"), {"a": ROTTEN}, CORRUPT, 50),
        (dead(ALL, "a", 40), {"a": ROTTEN}, CORRUPT, 40),
        (dead(ALL, "a", 60), {"a": ROTTEN}, CORRUPT, 50),
        (ALL, {"b": ROTTEN}, LIVE, 0),
    ],
)
def test_a_chunk_is_lost_only_where_somebody_knows(
    known: dict[str, NodeCondition], findings: dict[str, Finding], state: ChunkState, since_ms: int
) -> None:
    """Dead nodes and findings are knowledge; silence and open breakers are not."""
    one = generation()
    by_place = {ChunkPlace(one.encoding, 0, name): each for name, each in findings.items()}
    chunk = examine(one, known, by_place).chunks[0]
    assert (chunk.state, chunk.since_ms) == (state, since_ms)
    assert chunk.is_lost == (state in (MISSING, CORRUPT))
    assert bool(chunk.reason) == (state is not LIVE)


def test_a_chunk_without_a_place_is_missing() -> None:
    """And has been for longer than any delay."""
    one = replace(generation(), placements=generation().placements[1:])
    chunk = examine(one, ALL, {}).chunks[0]
    assert (chunk.state, chunk.node) == (MISSING, None)
    assert chunk.since_ms < -(10**15)


def test_the_condition_says_what_is_wrong() -> None:
    """In words, chunk by chunk."""
    ((condition, _),) = look([generation()], dead(suspect(ALL, "b"), "a"))
    words = str(condition)
    assert "chunk 0 on a: missing, its node is dead" in words
    assert "chunk 1 on b: unknown, its node is suspect" in words
    assert condition.present == {1: "b", 2: "c", 3: "d", 4: "e", 5: "f"}
    assert condition.live == (2, 3, 4, 5)


# --- margins --------------------------------------------------------------------------------------


def test_margins_are_counted_lost_first() -> None:
    """Two dead nodes leave 4+2 nothing to lose; three lose it; what is unknown counts as there."""
    segments = [generation(1), generation(2, "abcxyz"), generation(3, "uvwxyz")]
    known = suspect(dead(nodes("abcdefuvwxyz"), "abc"), "u")
    found = [margin for _, margin in look(segments, known)]
    assert [each.nodes for each in found] == [-1, -1, 2]
    assert [each.unknown for each in found] == [0, 0, 1]
    counts = count_margins(found)
    assert counts.as_words() == {"lost": 2, "0": 0, "1": 0, "2": 1}
    assert (counts.below_target, counts.uncertain, counts.is_well) == (2, 1, False)
    assert str(counts) == "2 lost, 1 survive 2 more losses"
    assert "lost, 3 chunks are left, 4 are needed" in str(found[0])
    assert "if 1 chunk that nobody can see now" in str(found[2])


def test_no_segments_have_the_same_names_in_their_counts() -> None:
    """So that who reads them finds lost, 0, 1 and 2 always."""
    counts = count_margins([])
    assert counts.as_words() == {"lost": 0, "0": 0, "1": 0, "2": 0}
    assert counts.is_well
    wide = generation(1, "abcdefghij", profile=Profile(6, 4))
    assert list(count_margins([margin_of(wide)]).as_words())[-1] == "4"


def margin_of(one: Generation) -> SegmentMargin:
    """Return the margin of a generation all of whose nodes are well."""
    ((_, found),) = look([one], nodes("abcdefghij"))
    return found


@given(
    racks=st.lists(st.sampled_from([None, "r", "s", "t"]), min_size=6, max_size=6),
    lost=st.sets(st.integers(0, 5)),
)
@settings(deadline=None)
def test_counting_agrees_with_the_library_s_matching(
    racks: list[str | None], lost: set[int]
) -> None:
    """Where each chunk is on a node of its own, both say the same of nodes and of racks."""
    known = {name: node(name, rack=rack) for name, rack in zip("abcdef", racks, strict=True)}
    known = dead(known, "".join("abcdef"[index] for index in lost))
    ((condition, _),) = look([generation()], known)
    domains = {name: str(each.facts.failure_domain) for name, each in known.items()}
    holders = {index: [name] for index, name in condition.present.items()}
    theirs = margin(CodedProfile(4, 2), holders, domains)
    ours = margin_by_count(condition, known)
    assert (ours.nodes, ours.domains, ours.present) == (
        theirs.nodes, theirs.domains, theirs.chunks,
    )  # fmt: skip


# --- targets --------------------------------------------------------------------------------------


def test_work_spreads_in_proportion_to_free_space() -> None:
    """A node with three times the space gets about three times the chunks."""
    targets = Targets([node("a", free=30 * GIB).facts, node("b", free=10 * GIB).facts])
    picked = [targets.pick(FOUR_TWO, (), count=1, chunk_bytes=MIB)[0] for _ in range(400)]
    assert picked.count("a") == pytest.approx(300, abs=2)


def test_space_is_promised_once() -> None:
    """Three chunks go where there is room for three, the fourth is refused with the sum."""
    targets = Targets([node("a", free=3 * MIB).facts])
    assert [len(targets.pick(FOUR_TWO, (), count=1, chunk_bytes=MIB)) for _ in range(4)] == [
        1, 1, 1, 0,
    ]  # fmt: skip
    assert not targets.has_room("a", MIB)
    words = targets.refusal(FOUR_TWO, ("b",), count=1, chunk_bytes=MIB)
    assert "1 of 6 chunks of 4+2 have no target" in words
    assert "a has 0 B that is not promised yet" in words


def test_a_refusal_says_of_each_node_why() -> None:
    """Dead, leaving, full, or its rack has m already; holders are counted, not named."""
    known = dead(draining(nodes("abcdef"), "b"), "a")
    known["g"] = node("g", free=10)
    known |= {name: node(name, rack="r1") for name in "hij"}
    words = Targets(facts(known)).refusal(FOUR_TWO, tuple("cdefhi"), count=1, chunk_bytes=MIB)
    assert "of 10 nodes 6 keep its other chunks" in words
    assert "a is dead" in words
    assert "b is draining" in words
    assert "g has 10 B for chunks, needs 1.0 MiB" in words
    assert "j is in r1, which has m = 2 already" in words
    assert " c " not in words


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_picks_keep_every_rule(data: st.DataObject) -> None:
    """One chunk a node, m a rack, the space; and no more could have been placed."""
    racks = st.sampled_from([None, "r", "s"])
    known = [
        NodeFacts(name=f"n{n}", rack=data.draw(racks), free_bytes=data.draw(st.integers(0, 30)))
        for n in range(data.draw(st.integers(1, 9)))
    ]
    by_name = {each.name: each for each in known}
    targets = Targets(known)
    promised = Counter[str]()
    for _ in range(data.draw(st.integers(1, 4))):
        kept = data.draw(st.sets(st.sampled_from(sorted(by_name)), max_size=4))
        count = data.draw(st.integers(0, 6))
        got = targets.pick(FOUR_TWO, kept, count=count, chunk_bytes=10)
        assert len({*got, *kept}) == len(got) + len(kept)
        domains = [by_name[name].failure_domain for name in (*got, *kept)]
        for name in got:
            assert by_name[name].usable_bytes - promised[name] >= 10
            assert domains.count(by_name[name].failure_domain) <= FOUR_TWO.m
        if len(got) < count:
            left = [each for each in by_name.values() if each.name not in {*got, *kept}]
            for each in left:
                is_full = each.usable_bytes - promised[each.name] < 10
                assert is_full or domains.count(each.failure_domain) >= FOUR_TWO.m
        promised.update(dict.fromkeys(got, 10))


def test_chunks_are_expected_longer_than_a_k_th() -> None:
    """Checksums, indexes and the ending count."""
    one = generation(source_bytes=64 * MIB)
    assert 16 * MIB < chunk_bytes_of(one) < 17.5 * MIB
