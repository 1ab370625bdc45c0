"""Draining, removing, replacing and rebalancing nodes: what it means, and refusals with the sum."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.policy.cold.condition import NodeCondition, SegmentCondition
from logd.policy.cold.moves import DrainPlan, plan_drain, plan_replace
from logd.policy.cold.rebalance import TOLERANCE, RebalancePlan, plan_rebalance
from logd.policy.cold.targets import chunk_bytes_of
from logd.policy.cold.values import ColdState, Generation
from logd.units import GIB, MIB
from tests.cold_values import FOUR_TWO, dead, facts, generation, look, node, nodes, suspect
from tests.cpu_time import least_cpu_s

SEVEN = nodes("abcdefg")


def conditions(
    segments: list[Generation], known: dict[str, NodeCondition]
) -> list[SegmentCondition]:
    """Return what is known of some segments."""
    return [condition for condition, _ in look(segments, known)]


def drain(segments: list[Generation], known: dict[str, NodeCondition], name: str) -> DrainPlan:
    """Return the plan of draining a node."""
    return plan_drain(name, conditions(segments, known), facts(known))


# --- drain ----------------------------------------------------------------------------------------


def test_draining_copies_each_chunk_parity_first() -> None:
    """Onto the one node that has no chunk of the segment."""
    found = drain([generation(1, "fbcdea"), generation(2, "abcdef")], SEVEN, "f")
    assert found.refusal is None
    assert [(move.index, move.source, move.target) for move in found.moves] == [
        (5, "f", "g"), (0, "f", "g"),
    ]  # fmt: skip
    assert "f: 2 chunks to copy, 8." in str(found)


def test_a_drain_without_enough_nodes_is_refused_with_the_sum() -> None:
    """4+2 needs six nodes, five would be left; a dead one does not count."""
    words = drain([generation(1), generation(2)], nodes(), "a").refusal
    assert words == (
        "2 of 2 chunks have no other node: 4+2 needs 6 nodes for 2 segments; 5 live nodes would be "
        "left"
    )
    assert "5 live nodes" in str(drain([generation()], dead(SEVEN, "g"), "a").refusal)


def test_a_drain_without_enough_space_is_refused_with_the_sum() -> None:
    """Two chunks of 4 MiB, and room for one."""
    known = {name: node(name, free=0) for name in "abcdef"} | {"g": node("g", free=5 * MIB)}
    words = str(drain([generation(1), generation(2)], known, "a").refusal)
    assert words.startswith("1 of 2 chunks have no other node: they need 8.")
    assert "the 6 live nodes that would be left have 5.0 MiB for chunks" in words


def test_a_drain_that_a_rack_forbids_is_refused_with_its_reason() -> None:
    """The only other node is in a rack that has m chunks already."""
    known = SEVEN | {name: node(name, rack="r") for name in "bcg"}
    words = str(drain([generation()], known, "a").refusal)
    assert "g is in r, which has m = 2 already" in words


def test_what_draining_cannot_save_does_not_keep_the_rest() -> None:
    """A segment that is lost already is named; the others move; what is not live ends by itself."""
    segments = [
        generation(1, "axyzbc"),
        generation(2, "abcdef"),
        generation(3, "abcdef", state=ColdState.DELETING),
        generation(4, "bcdefg"),
    ]
    known = dead(nodes("abcdefgxyz"), "axyz")
    found = drain(segments, known, "a")
    assert found.refusal is None
    assert [each.key.base_offset for each in found.unrecoverable] == [10]
    assert [each.key.base_offset for each in found.rebuilds] == [20]
    assert (found.moves, found.waits) == ((), 1)


def test_a_drain_is_judged_in_well_under_a_second() -> None:
    """Twenty thousand chunks on one of thirty nodes; the refusal as well as the plan."""
    names = [f"n{number:02}" for number in range(30)]
    known = nodes(names)
    segments = conditions(
        [
            generation(n, [names[0], *(names[1 + (n + i) % 29] for i in range(5))])
            for n in range(20_000)
        ],
        known,
    )
    assert least_cpu_s(lambda: plan_drain(names[0], segments, facts(known)), times=2) < 1
    found = plan_drain(names[0], segments, facts(known))
    assert len(found.moves) == 20_000
    few = [each for each in facts(known) if each.name in names[:6]]
    assert least_cpu_s(lambda: plan_drain(names[0], segments, few), times=2) < 1
    assert "would be left" in str(plan_drain(names[0], segments, few).refusal)


# --- replace ---------------------------------------------------------------------------


def test_replacing_a_lost_node_says_what_comes_back() -> None:
    """What k others give, what nobody can say yet, and what is lost."""
    segments = [generation(1), generation(2, "auvwxy"), generation(3, "apqrst")]
    known = dead(suspect(nodes("abcdefuvwxypqrst"), "uv"), "apq")
    found = plan_replace("a", conditions(segments, known), is_reachable=False)
    assert found.refusal is None
    assert [each.key.base_offset for each in found.rebuilds] == [10]
    assert [each.key.base_offset for each in found.later] == [20]
    assert [each.key.base_offset for each in found.unrecoverable] == [30]
    assert "2 chunks to make again" in str(found)
    assert "1 segment cannot be read whole any more" in str(found)


def test_a_node_that_answers_and_is_needed_is_not_replaced() -> None:
    """Its chunks would be given up for nothing; one that others can do without may be."""
    known = dead(nodes(), "bc")
    assert "cannot do without its chunks now" in str(
        plan_replace("a", conditions([generation()], known), is_reachable=True)
    )
    fine = plan_replace("a", conditions([generation()], nodes()), is_reachable=True)
    assert (fine.refusal, len(fine.rebuilds)) == (None, 1)


# --- rebalance ------------------------------------------------------------------------------------


def rebalance(segments: list[Generation], known: dict[str, NodeCondition]) -> RebalancePlan:
    """Return the plan for some segments on these nodes."""
    return plan_rebalance(conditions(segments, known), facts(known))


def test_an_empty_node_is_filled_with_parity_first() -> None:
    """Six full nodes and an empty one: all within the tolerance behind it, mostly parity moved."""
    segments = [generation(n, "abcdef", source_bytes=4 * GIB) for n in range(30)]
    known = {name: node(name, free=10 * GIB) for name in "abcdef"}
    known["g"] = node("g", free=42 * GIB)
    found = rebalance(segments, known)
    parity = [move.is_parity for move in found.moves]
    assert parity == sorted(parity, reverse=True)
    assert any(parity)
    mean = sum(share.after_bytes for share in found.shares) / sum(
        share.space_bytes for share in found.shares
    )
    assert all(share.after <= mean + TOLERANCE + 0.03 for share in found.shares)
    assert {move.target for move in found.moves} == {"g"}
    assert len({move.generation.encoding for move in found.moves}) == len(found.moves)
    assert "g: 0 B (0%) to" in str(found)


def test_nodes_that_are_filled_alike_stay_as_they_are() -> None:
    """No moves for their own sake."""
    segments = [generation(n, "abcdefg"[n % 7 :] + "abcdefg"[: n % 7]) for n in range(14)]
    segments = [replace(each, placements=each.placements[:6]) for each in segments]
    assert rebalance(segments, SEVEN).moves == ()


def test_a_rack_with_too_many_chunks_is_spread_whatever_the_space() -> None:
    """Three in one rack with m = 2: one goes, and it is the parity chunk."""
    known = SEVEN | {name: node(name, rack="r") for name in "abf"}
    (move,) = rebalance([generation()], known).moves
    assert (move.index, move.source, move.target) == (5, "f", "g")


def test_segments_that_are_worked_on_or_not_whole_are_left_alone() -> None:
    """Leased, degraded, or on their way out."""
    known = SEVEN | {name: node(name, rack="r") for name in "abf"}
    whole = conditions([generation()], known)
    assert plan_rebalance(whole, facts(known), leased={generation().key}).moves == ()
    assert rebalance([generation()], dead(known, "c")).moves == ()
    assert rebalance([generation(state=ColdState.DELETING)], known).left_alone == 1


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_rebalance_keeps_every_rule_and_ends(data: st.DataObject) -> None:
    """One chunk a node, no rack over m that was not, space kept; the next plan moves no more."""
    names = [f"n{n}" for n in range(data.draw(st.integers(6, 9)))]
    known = {
        name: node(
            name, rack=data.draw(st.sampled_from([None, "r", "s"])),
            free=data.draw(st.integers(0, 40)) * MIB,
        )
        for name in names
    }  # fmt: skip
    segments = [
        generation(n, data.draw(st.permutations(names))[:6])
        for n in range(data.draw(st.integers(0, 12)))
    ]
    found = rebalance(segments, known)
    after = {each.encoding: each.held for each in segments}
    for move in found.moves:
        assert after[move.generation.encoding][move.index] == move.source
        after[move.generation.encoding][move.index] = move.target
    gained = dict.fromkeys(names, 0)
    for each in segments:
        held = after[each.encoding]
        assert len(set(held.values())) == 6
        for index, name in held.items():
            was = each.held[index]
            gained[name] += chunk_bytes_of(each)
            gained[was] -= chunk_bytes_of(each)
            if name != was:
                domain = known[name].facts.failure_domain
                inside = sum(known[other].facts.failure_domain == domain for other in held.values())
                before = sum(
                    known[other].facts.failure_domain == domain for other in each.held.values()
                )
                assert inside <= max(FOUR_TWO.m, before)
    for name, more in gained.items():
        assert more <= known[name].facts.usable_bytes


def test_unknown_profiles_of_plans_are_printable() -> None:
    """Every plan has words, also an empty one."""
    for plan in (
        drain([], SEVEN, "a"), rebalance([], SEVEN),
        plan_replace("a", [], is_reachable=True),
    ):  # fmt: skip
        assert str(plan)


@pytest.mark.parametrize("name", ["a", "g"])
def test_draining_a_node_twice_says_the_same(name: str) -> None:
    """A plan follows from its facts alone."""
    assert drain([generation()], SEVEN, name) == drain([generation()], SEVEN, name)
