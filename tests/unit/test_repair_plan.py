"""What is repaired, in which order, how and where; and why the rest waits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.policy.cold.condition import ChunkPlace, ChunkState, Finding, NodeCondition
from logd.policy.cold.leases import Work
from logd.policy.cold.queue_eta import estimate_queue
from logd.policy.cold.repair_plan import (
    Hold,
    Method,
    RepairFacts,
    RepairItem,
    RepairPlan,
    RepairRules,
    plan_repairs,
)
from logd.policy.cold.values import ColdState, Generation, Placement, Profile
from logd.policy.cold.what_if import simulate_failure
from logd.units import MIB, MINUTE_MS
from tests.cold_values import FOUR_TWO, dead, draining, generation, look, node, nodes, suspect
from tests.cpu_time import least_cpu_s

DELAY_MS = 15 * MINUTE_MS
RULES = RepairRules(delay_ms=DELAY_MS, running_max=100)
SEVEN = nodes("abcdefg")
Nodes = dict[str, NodeCondition]
Findings = dict[ChunkPlace, Finding]


def plan(
    segments: list[Generation],
    known: Nodes,
    *,
    now_ms: int = 10 * DELAY_MS,
    rules: RepairRules = RULES,
    findings: Findings | None = None,
    **facts: object,
) -> RepairPlan:
    """Return the plan for some segments on these nodes."""
    about = replace(RepairFacts(known), **facts)
    return plan_repairs(look(segments, known, findings), about, rules, now_ms=now_ms)


def only(found: RepairPlan) -> RepairItem:
    """Return the one item."""
    (item,) = found.items
    return item


def rotten(one: Generation, *indexes: int, at_ms: int = 0) -> Findings:
    """Return findings that these chunks are corrupt where they are."""
    return {
        ChunkPlace(one.encoding, index, one.held[index]): Finding(
            ChunkState.CORRUPT, at_ms, "block 0"
        )
        for index in indexes
    }


def test_healthy_segments_and_dead_generations_have_no_items() -> None:
    """Only live generations are repaired."""
    gone = [
        replace(generation(n), state=state)
        for n, state in enumerate(
            (ColdState.PLANNED, ColdState.ABORTED, ColdState.SUPERSEDED, ColdState.DELETING), 1
        )
    ]
    assert plan([generation()], SEVEN).items == ()
    assert plan(gone, dead(SEVEN, "ab")).items == ()
    assert str(plan([], SEVEN)) == "nothing to repair"


@pytest.mark.parametrize(
    ("lost", "profile", "delay_ms"),
    [
        ("a", Profile(4, 3), DELAY_MS),
        ("ab", Profile(4, 3), DELAY_MS // 15),
        ("abc", Profile(4, 3), 0),
        ("a", FOUR_TWO, DELAY_MS // 15),
        ("ab", FOUR_TWO, 0),
    ],
)
def test_the_delay_follows_the_margin(lost: str, profile: Profile, delay_ms: int) -> None:
    """15 minutes at margin 2, one at margin 1, none at 0; to the millisecond."""
    names = "abcdefg"[: profile.chunks]
    known = dead(nodes("abcdefghijk"), lost, since_ms=1000)
    one = generation(nodes=names, profile=profile)
    at_ms = 1000 + delay_ms
    assert only(plan([one], known, now_ms=at_ms)).state == "ready"
    if delay_ms:
        early = plan([one], known, now_ms=at_ms - 1)
        assert (only(early).hold, early.next_ms) == (Hold.DELAY, at_ms)
        assert "begins in 1ms" in only(early).reason
        hurried = replace(RULES, ignores_delays=True)
        assert only(plan([one], known, now_ms=1000, rules=hurried)).hold is None


def test_the_first_chunk_that_is_due_takes_the_others_along() -> None:
    """Two lost chunks are made in one pass when the older one's time has come."""
    one = generation(nodes="abcdefg", profile=Profile(4, 3))
    known = dead(dead(nodes("abcdefghijk"), "a", since_ms=0), "b", since_ms=MINUTE_MS - 1)
    item = only(plan([one], known, now_ms=MINUTE_MS))
    assert item.state == "ready"
    (step,) = item.steps
    assert [index for index, _ in step.targets] == [0, 1]
    assert step.method is Method.DECODE
    assert len(step.sources) == 4


def test_what_is_corrupt_waits_for_nothing() -> None:
    """It does not come back by itself; what is missing might, and has its delay."""
    one = generation()
    item = only(plan([one], SEVEN, now_ms=7, findings=rotten(one, 2, at_ms=7)))
    assert item.state == "ready"
    gone = {
        place: replace(each, state=ChunkState.MISSING) for place, each in rotten(one, 2).items()
    }
    assert only(plan([one], SEVEN, now_ms=7, findings=gone)).hold is Hold.DELAY


def test_a_node_that_comes_back_takes_its_items_out() -> None:
    """The plan without the loss has nothing to do."""
    assert len(plan([generation()], dead(SEVEN, "a")).items) == 1
    assert plan([generation()], SEVEN).items == ()


def test_lowest_margin_first_then_racks_then_age() -> None:
    """What nearly is lost is before everything; what only moves comes last."""
    two = generation(1, "abcdef")
    old = generation(2, "acdefg")
    young = generation(3, "bcdefg")
    moves = generation(4, "cdefgh")
    known = dead(dead(nodes("abcdefghxyz"), "a", since_ms=100), "b", since_ms=200)
    known = draining(known, "h")
    order = [
        item.condition.generation.key.base_offset
        for item in plan([moves, young, old, two], known).items
    ]
    assert order == [10, 20, 30, 40]


def test_a_rack_that_could_take_a_segment_away_comes_first() -> None:
    """Of two segments with one loss the one whose chunks share racks is nearer to loss."""
    apart, together = generation(1, "abcdef"), generation(2, "ahijkl")
    known = nodes("abcdefhijkl") | {name: node(name, rack="r") for name in "hi"}
    found = plan([apart, together], dead(known, "a"))
    assert [item.condition.generation.key.base_offset for item in found.items] == [20, 10]


@pytest.mark.parametrize(
    ("lost", "method"),
    [
        ((0,), Method.XOR),
        ((3,), Method.XOR),
        ((4,), Method.XOR),
        ((5,), Method.DECODE),
        ((0, 5), Method.DECODE),
        ((0, 4), Method.DECODE),
    ],
)
def test_xor_where_it_is_one(lost: tuple[int, ...], method: Method) -> None:
    """One lost chunk of 0 to k, and the others of them are there."""
    one = generation()
    item = only(plan([one], SEVEN, findings=rotten(one, *lost)))
    (step,) = item.steps
    assert step.method is method
    assert len(step.sources) == 4
    assert not set(step.sources) & set(lost)


def test_a_bad_chunk_on_a_good_node_is_made_in_place() -> None:
    """So it needs no spare node; with exactly k+m of them as well."""
    one = generation()
    item = only(plan([one], nodes(), findings=rotten(one, 2)))
    assert item.steps[0].targets == ((2, "c"),)
    full = nodes() | {"c": node("c", free=10), "g": node("g")}
    item = only(plan([one], full, findings=rotten(one, 2)))
    assert item.steps[0].targets == ((2, "g"),)


def test_without_a_spare_node_it_waits_for_a_target() -> None:
    """And says of how many nodes each is not one; a new node ends it."""
    known = dead(nodes(), "a")
    item = only(plan([generation()], known))
    assert item.hold is Hold.NO_TARGET
    assert "1 of 6 chunks of 4+2 have no target: of 6 nodes 5 keep its other chunks" in item.reason
    assert "a is dead" in item.reason
    assert only(plan([generation()], known | {"g": node("g")})).steps[0].targets == ((0, "g"),)


def test_what_has_a_target_is_made_though_others_have_none() -> None:
    """Two lost, one spare: half the danger is over at once."""
    item = only(plan([generation()], dead(SEVEN, "ab")))
    assert item.hold is None
    assert item.steps[0].targets == ((0, "g"),)
    assert "1 of 6 chunks" in item.reason


def test_a_draining_node_s_chunks_are_copied() -> None:
    """One byte read for a byte, whatever else; and a chunk that is lost there is computed."""
    one = generation()
    item = only(plan([one], draining(SEVEN, "f")))
    (step,) = item.steps
    assert (step.method, step.targets, step.sources) == (Method.COPY, ((5, "g"),), (5,))
    assert item.read_bytes == item.write_bytes == 4 * MIB
    item = only(plan([one], draining(SEVEN, "f"), findings=rotten(one, 5)))
    (step,) = item.steps
    assert (step.method, step.targets) == (Method.DECODE, ((5, "g"),))


def test_a_segment_is_repaired_before_its_copies() -> None:
    """A lost chunk and one that leaves: computed first, copied then, never to the same node."""
    item = only(plan([generation()], draining(dead(nodes("abcdefgh"), "a"), "f")))
    first, second = item.steps
    assert first.method is not Method.COPY
    assert second.method is Method.COPY
    assert {first.targets[0][1], second.targets[0][1]} == {"g", "h"}


def test_unknown_sources_are_waited_for_and_lost_ones_are_not() -> None:
    """Four chunks are needed: three that answer and one that may be there, or none."""
    one = generation()
    waits = only(plan([one], suspect(dead(SEVEN, "a"), "bc")))
    assert waits.hold is Hold.SOURCE_SLOW
    assert "3 of the 4 chunks that are needed can be read now" in waits.reason
    assert "1 on b, 2 on c" in waits.reason
    lost = only(plan([one], dead(SEVEN, "abc")))
    assert lost.hold is Hold.UNRECOVERABLE
    assert lost.reason == "3 chunks are left, 4 are needed"


def test_an_unknown_chunk_is_not_repaired() -> None:
    """Silence and open breakers make no items."""
    assert plan([generation()], suspect(SEVEN, "abcdef")).items == ()
    refused = SEVEN | {"a": replace(node("a"), is_refused=True)}
    assert plan([generation()], refused).items == ()


def test_one_unrecoverable_segment_blocks_no_other() -> None:
    """It is first in the queue and has no part in it."""
    known = dead(nodes("abcdefghijk"), "abc")
    found = plan([generation(1), generation(2, "afghij")], known)
    assert [item.state for item in found.items] == ["unrecoverable", "ready"]
    assert len(found.unrecoverable) == 1


def test_leases_failures_and_slots_hold_items_back() -> None:
    """Each with its reason; what runs is said to run."""
    segments = [generation(n) for n in range(4)]
    known = dead(SEVEN, "a")
    now_ms = 10 * DELAY_MS
    found = plan(
        segments,
        known,
        rules=replace(RULES, running_max=2),
        leased={segments[0].key: Work.THAW},
        running=frozenset({segments[1].encoding}),
        retry_at_ms={segments[2].encoding: now_ms + 5000},
    )
    assert [item.state for item in found.items] == ["leased", "running", "retry", "ready"]
    assert "thaw" in found.items[0].reason
    assert "in 5s" in found.items[2].reason
    assert found.next_ms == now_ms + 5000
    full = plan(segments, known, rules=replace(RULES, running_max=1), running=frozenset({"x"}))
    assert {item.hold for item in full.items} == {Hold.RATE}


def test_a_rebuilt_catalog_s_chunks_without_a_place_are_due_at_once() -> None:
    """Nobody knows since when they are lost, so no delay is left."""
    one = generation()
    one = replace(one, placements=tuple(at for at in one.placements if at.index != 1))
    item = only(plan([one], nodes("abcdefg"), now_ms=0))
    assert item.state == "ready"
    assert item.steps[0].targets[0][0] == 1


def test_a_leaving_copy_is_no_place() -> None:
    """The chunk's place is the other one."""
    one = generation()
    one = replace(one, placements=(*one.placements, Placement(0, "g", is_leaving=True)))
    assert plan([one], SEVEN).items == ()


STATES = st.sampled_from(["live", "dead", "suspect", "draining"])


@given(
    states=st.lists(STATES, min_size=9, max_size=9),
    racks=st.lists(st.sampled_from([None, "r", "s"]), min_size=9, max_size=9),
    bad=st.sets(st.integers(0, 5)),
)
@settings(deadline=None, max_examples=200)
def test_every_plan_keeps_the_rules(
    states: list[str], racks: list[str | None], bad: set[int]
) -> None:
    """Targets are live and stay, no node gets two; sources are live; nothing unknown is made."""
    known = {name: node(name, rack=rack) for name, rack in zip("abcdefghi", racks, strict=True)}
    change = {"dead": dead, "suspect": suspect, "draining": draining}
    for name, state in zip("abcdefghi", states, strict=True):
        known = change[state](known, name) if state in change else known
    one = generation()
    for item in plan([one], known, findings=rotten(one, *bad)).items:
        condition = item.condition
        made = {index: name for step in item.steps for index, name in step.targets}
        after = {chunk.index: chunk.node for chunk in condition.chunks if not chunk.is_lost} | made
        assert len(set(after.values())) == len(after)
        unknown = {chunk.index for chunk in condition.unknown}
        assert not made.keys() & unknown
        for step in item.steps:
            assert set(step.sources) <= set(condition.live)
            assert len(step.sources) == (1 if step.method is Method.COPY else 4)
        for index, name in made.items():
            target = known[name]
            in_place = condition.chunks[index].node == name
            assert target.facts.health.value == "live"
            assert not target.is_leaving
            domain = target.facts.failure_domain
            count = sum(known[held].facts.failure_domain == domain for held in after.values())
            before = sum(known[held].facts.failure_domain == domain for held in one.held.values())
            assert in_place or count <= max(FOUR_TWO.m, before)
        assert bool(item.steps) or item.hold is not None
        assert item.hold is None or item.reason


# --- the queue's end ------------------------------------------------------------------------------


def test_the_queue_s_end_follows_from_the_measured_rate() -> None:
    """Each item after the one before it, 20 MiB read and written each at 10 MiB a second."""
    segments = [generation(n) for n in range(3)]
    found = plan(segments, dead(SEVEN, "a"), now_ms=DELAY_MS)
    eta = estimate_queue(found, bytes_s=10 * MIB, now_ms=DELAY_MS)
    assert [eta.end_ms[item.encoding] - DELAY_MS for item in found.items] == [2000, 4000, 6000]
    assert (eta.total_s, eta.stuck) == (6.0, 0)
    half = {found.items[0].encoding: 10 * MIB}
    assert estimate_queue(found, bytes_s=10 * MIB, done_bytes=half, now_ms=0).total_s == 5.0


def test_the_queue_waits_for_delays_and_leaves_out_what_is_stuck() -> None:
    """The end is behind the last delay; what waits for a node has none; no rate, no end."""
    known = dead(nodes("abcdefx"), "a", since_ms=0)
    found = plan([generation(1), generation(2, "bcdefa")], known, now_ms=1000)
    eta = estimate_queue(found, bytes_s=20 * MIB, now_ms=1000)
    assert eta.total_s == 59 + 2
    stuck = plan([generation()], dead(nodes(), "a"))
    assert estimate_queue(stuck, bytes_s=1.0, now_ms=0).total_s is None
    assert estimate_queue(plan([], SEVEN), bytes_s=1.0, now_ms=0).total_s == 0
    assert estimate_queue(stuck, bytes_s=1.0, now_ms=0).stuck == 1
    assert estimate_queue(found, bytes_s=None, now_ms=0).total_s is None


# --- what if --------------------------------------------------------------------------------------


def test_what_a_failure_would_mean() -> None:
    """Three of six lose a segment; two degrade it; the spare node takes one chunk."""
    segments = [condition for condition, _ in look([generation(1), generation(2, "bcdefg")], SEVEN)]
    args = {"detect_ms": 60_000, "bytes_s": 20.0 * MIB}
    three = simulate_failure(segments, SEVEN, {"a", "b", "c"}, RULES, **args)
    assert [each.key.base_offset for each in three.lost] == [10]
    assert three.by_margin == ((0, 1),)
    one = simulate_failure(segments, SEVEN, {"a"}, RULES, **args)
    assert (one.lost, one.degraded, one.no_target) == ((), 1, 0)
    assert one.repair_s == 60 + 60 + 1
    assert one.write_bytes == 4 * MIB
    six = simulate_failure(segments[:1], nodes(), {"a"}, RULES, **args)
    assert six.no_target == 1
    assert "1 wait for another node" in str(six)
    assert six.repair_s is None


def test_a_failure_where_nothing_was_repaired_yet_is_reckoned_at_the_least_rate() -> None:
    """It is said how long repair takes, and that this is a bound."""
    segments = [condition for condition, _ in look([generation(1)], SEVEN)]
    found = simulate_failure(segments, SEVEN, {"a"}, RULES, detect_ms=0, bytes_s=None)
    assert found.repair_s == 60 + 20 / 8
    assert "at 8.0 MiB a second, the least" in str(found)
    known = simulate_failure(segments, SEVEN, {"a"}, RULES, detect_ms=0, bytes_s=20.0 * MIB)
    assert "the least" not in str(known)


def test_the_simulation_changes_nothing_and_is_no_more_than_earnest() -> None:
    """Nobody failing means nothing lost and nothing to do."""
    segments = [condition for condition, _ in look([generation(1)], SEVEN)]
    none = simulate_failure(segments, SEVEN, (), RULES, detect_ms=0, bytes_s=1.0)
    assert (none.lost, none.degraded, none.plan.items, none.repair_s) == ((), 0, (), 0.0)


def test_many_segments_are_planned_quickly() -> None:
    """Ten thousand segments on twenty nodes in well under a second of CPU."""
    names = "abcdefghijklmnopqrst"
    known = dead(nodes(names), "a")
    segments = look(
        [generation(n, [names[(n + i) % 20] for i in range(6)]) for n in range(10_000)], known
    )
    found = plan_repairs(segments, RepairFacts(known), RULES, now_ms=DELAY_MS)
    took_s = least_cpu_s(
        lambda: plan_repairs(segments, RepairFacts(known), RULES, now_ms=DELAY_MS), times=2
    )
    assert took_s < 1
    assert len(found.items) == 3000
