"""Which segments are coded and released, with which profile, on which nodes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logd.config.effective import check_topic_override, load_server_settings, topic_settings
from logd.errors import InvalidConfigError
from logd.policy.cold.preflight import (
    Fit,
    NodeFacts,
    Refusal,
    chunk_bytes_max,
    preflight,
)
from logd.policy.cold.proof import ReleaseTerms
from logd.policy.cold.values import (
    ColdState,
    Generation,
    NodeState,
    Placement,
    Profile,
    SegmentKey,
)
from logd.policy.node_health import NodeHealth
from logd.policy.tiering import (
    PartitionFacts,
    SegmentFacts,
    TieringPlan,
    TieringRules,
    Wait,
    choose_profile,
    plan_releases,
    plan_tiering,
    profile_advice,
    release_terms,
    tiering_rules,
)
from logd.units import GIB, KIB, MIB
from tests.cpu_time import least_cpu_s

TOPIC = b"t" * 16
NOW_MS = 100_000
RULES = TieringRules(enabled=True, after_ms=0, after_bytes=0)


def segments(*sealed_ms: int, size: int = 1000) -> tuple[SegmentFacts, ...]:
    """Return sealed segments of ten offsets each, and an active one behind them."""
    made = [SegmentFacts(10 * n, 10 * n + 10, size, ms) for n, ms in enumerate(sealed_ms)]
    end = 10 * len(made)
    return (*made, SegmentFacts(end, end + 5, 500, NOW_MS, is_active=True))


def partition(*sealed_ms: int, **changes: object) -> PartitionFacts:
    """Return a partition all of which is visible."""
    made = PartitionFacts(
        topic_id=TOPIC, partition=0, segments=segments(*sealed_ms), visible_offset=10**6
    )
    return replace(made, **changes)


def chosen(plan: TieringPlan) -> list[int]:
    """Return the base offsets of what is coded, in order."""
    return [each.key.base_offset for each in plan.encode]


def why(plan: TieringPlan) -> dict[int, Wait]:
    """Return why each segment waits."""
    return {each.key.base_offset: each.why for each in plan.waiting}


# --- what is coded --------------------------------------------------------------------------------


def test_all_sealed_segments_are_coded_oldest_first() -> None:
    """By the time of their seal across partitions, by offset within one; never the active one."""
    one = partition(50, 20, 90)
    two = replace(partition(10, 60), partition=1)
    plan = plan_tiering([(one, RULES), (two, RULES)], now_ms=NOW_MS)
    order = [(each.key.partition, each.key.base_offset) for each in plan.encode]
    assert order == [(1, 0), (0, 0), (0, 10), (1, 10), (0, 20)]
    assert [each.why for each in plan.waiting] == [Wait.ACTIVE, Wait.ACTIVE]


@pytest.mark.parametrize(
    ("facts", "rules", "coded", "waits"),
    [
        (partition(1, 2), replace(RULES, enabled=False), [], {0: Wait.DISABLED}),
        (partition(1, 2), RULES, [0, 10], {20: Wait.ACTIVE}),
        (partition(1, 2, visible_offset=19), RULES, [0], {10: Wait.NOT_VISIBLE}),
        (partition(1, 2, visible_offset=20), RULES, [0, 10], {}),
        (partition(1, 2, coded={0}), RULES, [10], {0: Wait.CODED}),
        (partition(1, 2, leased={10}), RULES, [0], {10: Wait.LEASED}),
        (partition(1, 99_000), replace(RULES, after_ms=1001), [0], {10: Wait.TOO_YOUNG}),
        (partition(1, 99_000), replace(RULES, after_ms=1000), [0, 10], {}),
        (partition(1, 2, 3), replace(RULES, after_bytes=1), [0, 10], {20: Wait.KEPT_HOT}),
        (partition(1, 2, 3), replace(RULES, after_bytes=1000), [0, 10], {20: Wait.KEPT_HOT}),
        (partition(1, 2, 3), replace(RULES, after_bytes=1001), [0], {10: Wait.KEPT_HOT}),
        (partition(1, 2, 3), replace(RULES, after_bytes=9000), [], {0: Wait.KEPT_HOT}),
        (partition(), RULES, [], {0: Wait.ACTIVE}),
    ],
)
def test_what_is_coded_and_what_waits(
    facts: PartitionFacts, rules: TieringRules, coded: list[int], waits: dict[int, Wait]
) -> None:
    """Each bound, on either side of it."""
    plan = plan_tiering([(facts, rules)], now_ms=NOW_MS)
    assert chosen(plan) == coded
    assert waits.items() <= why(plan).items()
    assert len(plan.encode) + len(plan.waiting) == len(facts.segments)


def test_empty_segments_and_failed_attempts_wait() -> None:
    """There is nothing to code in the one; the other has its time."""
    made = segments(1, 2)
    facts = partition(segments=(
        replace(made[0], size_bytes=0), replace(made[1], retry_at_ms=NOW_MS + 1500), made[2],
    ))  # fmt: skip
    plan = plan_tiering([(facts, RULES)], now_ms=NOW_MS)
    assert why(plan) == {0: Wait.EMPTY, 10: Wait.RETRY_LATER, 20: Wait.ACTIVE}
    assert "the last attempt failed, 1s500ms are left" in str(plan)
    assert chosen(plan_tiering([(facts, RULES)], now_ms=NOW_MS + 1500)) == [10]


def test_on_demand_only_what_must_be_is_kept() -> None:
    """`cold encode` passes over the times and sizes, not over what makes coding safe."""
    force = TieringRules(enabled=True, after_ms=10**9, after_bytes=10**9, force=True)
    facts = partition(1, 2, 3, visible_offset=20, leased={0})
    plan = plan_tiering([(facts, force)], now_ms=NOW_MS)
    assert chosen(plan) == [10]
    assert why(plan) == {0: Wait.LEASED, 20: Wait.NOT_VISIBLE, 30: Wait.ACTIVE}


def test_of_a_compacted_topic_what_was_compacted_is_coded() -> None:
    """A segment that no round went through to its end waits, unless somebody asks."""
    facts = replace(partition(1, 2, 3), cleaned_below=20)
    rules = TieringRules(enabled=True, after_ms=0, after_bytes=0)
    plan = plan_tiering([(facts, rules)], now_ms=NOW_MS)
    assert chosen(plan) == [0, 10]
    assert why(plan) == {20: Wait.DIRTY, 30: Wait.ACTIVE}
    forced = plan_tiering([(facts, replace(rules, force=True))], now_ms=NOW_MS)
    assert chosen(forced) == [0, 10, 20]


def test_rules_come_from_a_topics_settings() -> None:
    """As they are set, of compacted topics too; what a start reads itself is not coded."""
    server = load_server_settings(file=None, environment={}, flags={"cold.enable": "true"}).settings
    settings = topic_settings(server, {"cold.after.ms": "5", "cold.after.bytes": "6"})
    assert tiering_rules(settings, "t") == TieringRules(enabled=True, after_ms=5, after_bytes=6)
    assert tiering_rules(settings, "t", force=True).force
    for own in ({}, {"cold.enable": "true"}, {"remote.storage.enable": "true"}):
        compacted = topic_settings(server, {"cleanup.policy": "compact,delete", **own})
        assert tiering_rules(compacted, "t").enabled
        assert not tiering_rules(compacted, "__consumer_offsets").enabled
    kept = topic_settings(server, {"cold.grace.ms": "7", "cold.hot.retention.ms": "8"})
    assert release_terms(kept) == ReleaseTerms(grace_ms=7, hot_retention_ms=8)


def test_the_settings_and_the_decisions_know_the_same_profiles() -> None:
    """What `cold.profile` takes is what can be coded with."""
    for k, m in product(range(20), range(7)):
        text = f"{k}+{m}"
        try:
            check_topic_override("cold.profile", text)
        except InvalidConfigError:
            with pytest.raises(ValueError, match="no profile"):
                Profile.parse(text)
        else:
            assert str(Profile.parse(text)) == text


def test_a_plan_can_be_read() -> None:
    """Each segment is a line: what is done, or what it waits for."""
    facts = partition(1, 99_000, 99_500)
    rules = replace(RULES, after_ms=1000, after_bytes=1024)
    lines = str(plan_tiering([(facts, rules)], now_ms=NOW_MS)).splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == [
        "code 1000 B",
        "cold.after.bytes keeps it hot, until 24 B more are sealed",
        "cold.after.ms has not passed, 500ms are left",
        "it is the active segment",
    ]


FACTS = st.builds(
    lambda sealed, visible, coded, leased, retry: partition(
        *sealed,
        segments=tuple(
            replace(each, retry_at_ms=retry if each.base_offset % 20 else 0)
            for each in segments(*sealed)
        ),
        visible_offset=visible, coded=coded, leased=leased,
    ),
    st.lists(st.integers(0, 2 * NOW_MS), max_size=6), st.integers(0, 80),
    st.frozensets(st.sampled_from([0, 10, 20, 30])), st.frozensets(st.sampled_from([0, 10, 50])),
    st.integers(0, 2 * NOW_MS),
)  # fmt: skip


@given(FACTS, st.integers(0, 5000), st.integers(0, 5000), st.booleans(), st.booleans())
def test_nothing_unsafe_is_ever_coded(
    facts: PartitionFacts, after_ms: int, after_bytes: int, enabled: bool, force: bool
) -> None:
    """Whatever the settings: sealed, visible, not coded, not leased, each segment once; and a
    later moment never codes less.
    """
    rules = TieringRules(enabled=enabled, after_ms=after_ms, after_bytes=after_bytes, force=force)
    plan = plan_tiering([(facts, rules)], now_ms=NOW_MS)
    by_base = {each.base_offset: each for each in facts.segments}
    assert sorted([*chosen(plan), *why(plan)]) == sorted(by_base)
    assert chosen(plan) == sorted(chosen(plan))
    for base in chosen(plan):
        assert enabled
        assert not by_base[base].is_active
        assert by_base[base].next_offset <= facts.visible_offset
        assert base not in facts.coded
        assert base not in facts.leased
    later = plan_tiering([(facts, rules)], now_ms=3 * NOW_MS)
    assert set(chosen(plan)) <= set(chosen(later))


def test_ten_thousand_segments_are_planned_in_50_ms() -> None:
    """Of a hundred partitions; the best of five, in CPU time."""
    sealed = tuple(range(99))
    facts = [(replace(partition(*sealed), partition=at), RULES) for at in range(100)]
    waiting = [(one, replace(RULES, after_bytes=10**9)) for one, _ in facts]
    for inputs in (facts, waiting):
        plan = plan_tiering(inputs, now_ms=NOW_MS)
        assert len(plan.encode) + len(plan.waiting) == 10_000
        assert least_cpu_s(partial(plan_tiering, inputs, now_ms=NOW_MS)) < 0.05


# --- what is released -----------------------------------------------------------------------------

TERMS = ReleaseTerms(grace_ms=100, hot_retention_ms=0)


def committed(number: int, *, changed_ms: int, **changes: object) -> Generation:
    """Return a committed 2+1 generation on a, b and c."""
    made = Generation(
        key=SegmentKey(TOPIC, 0, number), number=1, encoding=f"{number:032x}",
        profile=Profile(2, 1), next_offset=number + 1, source_bytes=9,
        state=ColdState.COMMITTED, changed_ms=changed_ms,
        placements=tuple(Placement(at, node) for at, node in enumerate("abc")),
    )  # fmt: skip
    return replace(made, **changes)


def test_what_is_checked_for_release() -> None:
    """Those whose time has come, the first due first; held, young, leased and degraded ones are
    not.
    """
    ready = committed(1, changed_ms=500)
    earlier = committed(2, changed_ms=400)
    young = committed(3, changed_ms=950)
    held = committed(4, changed_ms=0, is_held=True)
    leased = committed(5, changed_ms=0)
    lost_place = committed(6, changed_ms=0, placements=ready.placements[:2])
    lost_node = committed(7, changed_ms=0, placements=(*ready.placements[:2], Placement(2, "z")))
    released = committed(8, changed_ms=0, state=ColdState.RELEASED)
    everything = [ready, earlier, young, held, leased, lost_place, lost_node, released]
    plan = plan_releases(
        [(each, TERMS) for each in everything],
        live_nodes=frozenset("abc"), leased={leased.key}, now_ms=1000,
    )  # fmt: skip
    assert plan.check == (earlier, ready)
    assert plan.later == {young.encoding: 1050, held.encoding: None}
    assert plan.degraded == (lost_place.encoding, lost_node.encoding)
    assert plan.next_ms == 1050
    assert str(plan).count("\n") == 5


# --- profiles -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "profile"),
    [
        (4, "2+2"), (5, "3+2"), (6, "4+2"), (7, "4+3"), (9, "4+3"), (10, "6+3"), (99, "6+3"),
    ],
)  # fmt: skip
def test_the_profile_by_number_of_nodes(nodes: int, profile: str) -> None:
    """What `auto` means; what is set explicitly is taken as it is."""
    several = [node(f"n{at}") for at in range(nodes)]
    assert str(choose_profile("auto", several)) == profile
    assert str(choose_profile("2+1", several)) == "2+1"


@pytest.mark.parametrize("nodes", [0, 3])
def test_too_few_nodes_for_any_profile(nodes: int) -> None:
    """Below four `auto` codes nothing, and says so."""
    found = choose_profile("auto", [node(f"n{at}") for at in range(nodes)])
    assert f"auto codes with 4 storage nodes or more, there are {nodes}; add some" in str(found)


@pytest.mark.parametrize(
    ("changes", "profile"),
    [
        ({}, "4+3"),
        ({"free_bytes": MIB}, "4+2"),
        ({"free_bytes": 2 * GIB, "kept_bytes": 2 * GIB - MIB}, "4+2"),
        ({"state": NodeState.DRAINING}, "4+2"),
        ({"health": NodeHealth.DEAD}, "4+2"),
        ({"health": NodeHealth.SUSPECT}, "4+3"),
        ({"health": NodeHealth.SUSPECT, "free_bytes": None}, "4+3"),
        ({"is_kept_from": True}, "4+3"),
        ({"is_kept_from": True, "free_bytes": MIB}, "4+2"),
    ],
)
def test_auto_counts_the_nodes_that_can_take_a_chunk(
    changes: dict[str, object], profile: str
) -> None:
    """One of seven that is full, dead or leaving does not count; one that may be back soon does."""
    nodes = [*SIX, replace(node("g"), **changes)]
    assert str(choose_profile("auto", nodes, source_bytes=64 * MIB)) == profile


def test_auto_knows_racks_and_says_what_is_in_the_way() -> None:
    """Ten nodes in two racks take 2+2 only; what takes nothing is named with the sum."""
    racks = [replace(node(f"n{at}"), rack="rs"[at % 2]) for at in range(10)]
    assert str(choose_profile("auto", racks)) == "2+2"
    full = [replace(each, free_bytes=MIB) for each in SIX[:3]]
    found = choose_profile("auto", [*full, *SIX[3:]], source_bytes=64 * MIB)
    assert "2+2 needs 4 nodes, each with room for one chunk; of 6 nodes 3 can" in str(found)
    assert "a has 1.0 MiB for chunks" in str(found)


def test_dead_nodes_count_for_what_will_be_coded() -> None:
    """What is chosen when they are back is asked with `counts_dead`; who is full stays out."""
    dead = replace(node("g"), health=NodeHealth.DEAD, free_bytes=None)
    assert str(choose_profile("auto", [*SIX, dead], counts_dead=True)) == "4+3"
    full = replace(node("g"), free_bytes=MIB)
    assert str(choose_profile("auto", [*SIX, full], source_bytes=GIB, counts_dead=True)) == "4+2"


@pytest.mark.parametrize(
    "text", ["", "4", "1+1", "17+1", "2+0", "2+5", "04+2", "4+2 ", "4-2", "²+1"]
)
def test_what_is_no_profile(text: str) -> None:
    """From 2+1 to 16+4, written k+m."""
    with pytest.raises(ValueError, match="no profile"):
        Profile.parse(text)


def test_all_profiles_are_read_as_they_are_written() -> None:
    """Every one from 2+1 to 16+4."""
    for k, m in product(range(2, 17), range(1, 5)):
        assert Profile.parse(f"{k}+{m}") == Profile(k, m)
        assert str(Profile(k, m)) == f"{k}+{m}"


def test_the_weak_points_of_a_profile_are_said() -> None:
    """4+2, one parity chunk, and no spare node."""
    assert len(profile_advice(Profile(4, 2), 6)) == 2
    assert "7 nodes are better" in profile_advice(Profile(4, 2), 6)[1]
    assert len(profile_advice(Profile(4, 2), 7)) == 1
    assert "survives one loss" in profile_advice(Profile(2, 1), 9)[0]
    assert profile_advice(Profile(6, 3), 10) == ()


# --- pre-flight -----------------------------------------------------------------------------------


def node(name: str, **changes: object) -> NodeFacts:
    """Return a live node with a gigabyte free."""
    return replace(NodeFacts(name=name, free_bytes=GIB), **changes)


SIX = [node(name) for name in "abcdef"]


def test_enough_nodes_are_enough() -> None:
    """All that are fit are named; with none to spare that is said."""
    found = preflight(Profile(4, 2), [*SIX, node("g")], chunk_bytes=MIB)
    assert found == Fit(tuple("abcdefg"))
    tight = preflight(Profile(4, 2), SIX, chunk_bytes=MIB)
    assert isinstance(tight, Fit)
    assert "4+2 takes all 6 places there are" in tight.warnings[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"health": NodeHealth.DEAD}, "c is dead"),
        ({"health": NodeHealth.SUSPECT}, "c is suspect"),
        ({"state": NodeState.DRAINING}, "c is draining"),
        ({"free_bytes": None}, "c its free space is not known"),
        ({"free_bytes": MIB - 1}, "c has 1024.0 KiB for chunks, needs 1.0 MiB"),
        (
            {"free_bytes": 3 * MIB, "kept_bytes": 2 * MIB + 1},
            "c has 1024.0 KiB for chunks (3.0 MiB less 2.0 MiB kept), needs 1.0 MiB",
        ),
        ({"free_bytes": 0, "kept_bytes": 9}, "c has 0 B for chunks (0 B less 9 B kept)"),
    ],
)
def test_a_node_that_is_not_fit_is_named(changes: dict[str, object], said: str) -> None:
    """With the reason, and how many are needed and there."""
    nodes = [replace(each, **changes) if each.name == "c" else each for each in SIX]
    found = preflight(Profile(4, 2), nodes, chunk_bytes=MIB)
    assert isinstance(found, Refusal)
    assert "4+2 needs 6 nodes, each with room for one chunk; of 6 nodes 5 can" in found.reason
    assert said in found.reason
    spare = preflight(Profile(4, 2), [*nodes, node("g")], chunk_bytes=MIB)
    assert isinstance(spare, Fit)
    assert "c" not in spare.nodes


def test_a_rack_takes_no_more_than_it_may_lose() -> None:
    """At most m; nodes without a rack are each their own; the sum is shown."""
    nodes = [node(f"a{at}", rack="left") for at in range(4)]
    nodes += [node(f"b{at}", rack="right") for at in range(2)] + [node("left")]
    found = preflight(Profile(4, 2), nodes, chunk_bytes=MIB)
    assert isinstance(found, Refusal)
    assert (
        "of 7 nodes 7 can take one, but a rack may have at most m = 2: "
        "2 of the 4 in left + 2 of the 2 in right + 1 without a rack = 5"
    ) in found.reason
    assert isinstance(preflight(Profile(4, 2), [*nodes, node("right")], chunk_bytes=MIB), Fit)
    assert isinstance(preflight(Profile(4, 3), nodes[:6], chunk_bytes=MIB), Refusal)


def test_nodes_on_one_device_are_named() -> None:
    """They are allowed, and fail together."""
    nodes = [replace(each, device="sda" if each.name in "bd" else each.name) for each in SIX]
    found = preflight(Profile(3, 2), nodes, chunk_bytes=MIB)
    assert isinstance(found, Fit)
    assert found.warnings == ("b, d are on one device, sda: they fail together",)


@given(
    st.lists(st.tuples(st.sampled_from([None, "r", "s", "t"]), st.booleans()), max_size=12),
    st.integers(2, 6), st.integers(1, 4),
)  # fmt: skip
def test_it_agrees_with_placing_one_by_one(
    made: list[tuple[str | None, bool]], k: int, m: int
) -> None:
    """A fit set can be placed by the rules, greedily; where it is refused no placement exists."""
    nodes = [
        node(f"n{at}", rack=rack, free_bytes=GIB if is_fit else 0)
        for at, (rack, is_fit) in enumerate(made)
    ]
    used: dict[str, int] = {}
    placed = 0
    for each in nodes:
        rack = each.rack or each.name
        if each.free_bytes and used.get(rack, 0) < m:
            used[rack] = used.get(rack, 0) + 1
            placed += 1
    found = preflight(Profile(k, m), nodes, chunk_bytes=MIB)
    assert isinstance(found, Fit) == (placed >= k + m)


def test_the_longest_chunk() -> None:
    """A k-th of the segment and a 32nd of that, checksums, indexes, and room for the manifest."""
    assert chunk_bytes_max(0, Profile(4, 2), index_bytes=0) == 65 * KIB
    size = chunk_bytes_max(GIB, Profile(4, 2), index_bytes=1000)
    payload = 256 * MIB + 8 * MIB
    assert size == payload + payload // (64 * KIB) * 8 + 1000 + 65 * KIB
