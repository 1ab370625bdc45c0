"""Placement, margins and read plans: rules kept, arithmetic shown, nothing counted twice."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec.codec import Codec
from ec.errors import PlacementError
from ec.geometry import BLOCK_BYTES, ByteRange, Geometry, choose_cuts
from ec.kernels.portable import PortableKernel
from ec.margin import Margin, margin, match
from ec.placement import Candidate, default_profile, place, place_again
from ec.plan import SPARE_BYTES_MAX, Decode, Direct, Gap, plan_read
from ec.profile import Profile
from tests.ec_samples import encode, noise

FOUR_TWO = Profile(4, 2)


def nodes(count: int, rack: str | None = None) -> list[Candidate]:
    return [Candidate(f"n{i}", 10**12, rack) for i in range(count)]


@pytest.mark.parametrize(
    ("count", "profile"),
    [(0, None), (3, None), (4, "2+2"), (5, "3+2"), (6, "4+2"), (7, "4+3"), (9, "4+3"),
     (10, "6+3"), (100, "6+3")],
)  # fmt: skip
def test_default_profiles(count: int, profile: str | None) -> None:
    """By number of nodes; fewer than four are no place to code to."""
    found = default_profile(count)
    assert found == (None if profile is None else Profile.parse(profile))


@given(
    st.integers(0, 2**64),
    st.lists(
        st.tuples(st.integers(0, 10), st.sampled_from([None, "r1", "r2", "r3"]), st.booleans()),
        max_size=14,
    ),
    st.integers(0, 6),
)
def test_placement_keeps_the_rules_or_says_that_it_cannot(
    seed: int, described: list[tuple[int, str | None, bool]], chunk_bytes: int
) -> None:
    """One chunk a node, m a rack, live nodes with space; refused only where it is impossible."""
    candidates = [
        Candidate(f"n{i}", free, rack, is_live=live)
        for i, (free, rack, live) in enumerate(described)
    ]
    by_name = {candidate.node: candidate for candidate in candidates}
    fit = [c for c in candidates if c.is_live and c.free_bytes >= chunk_bytes]
    possible = sum(min(2, n) for n in Counter(c.failure_domain for c in fit).values())
    try:
        placement = place(FOUR_TWO, candidates, chunk_bytes=chunk_bytes, seed=seed)
    except PlacementError:
        assert possible < 6
        return
    assert possible >= 6
    assert len(set(placement.nodes)) == 6
    assert all(by_name[node] in fit for node in placement.nodes)
    assert max(Counter(by_name[node].failure_domain for node in placement.nodes).values()) <= 2


def test_the_refusal_shows_the_arithmetic() -> None:
    """How many are needed, known, live, with space, and allowed by racks."""
    candidates = [
        *nodes(3, rack="r"),
        Candidate("full", 5),
        Candidate("dead", 10**12, is_live=False),
        Candidate("x", 10**12),
    ]
    with pytest.raises(PlacementError) as caught:
        place(FOUR_TWO, candidates, chunk_bytes=100, seed=1)
    assert str(caught.value) == (
        "4+2 needs 6 nodes with 100 bytes free; 6 known; 5 live; 4 with the space"
        " (too full: full 5); 3 with at most 2 on a rack"
    )


def test_the_same_seed_gives_the_same_placement() -> None:
    """And another seed another one, before long."""
    found = {place(FOUR_TWO, nodes(8), chunk_bytes=1, seed=seed).nodes for seed in range(20)}
    again = {place(FOUR_TWO, nodes(8), chunk_bytes=1, seed=seed).nodes for seed in range(20)}
    assert found == again
    assert len(found) > 15


def test_load_follows_free_space() -> None:
    """A node with three times the space gets more chunks; data and parity are mixed on each."""
    candidates = [*nodes(7), Candidate("big", 3 * 10**12)]
    placed = [place(FOUR_TWO, candidates, chunk_bytes=1, seed=seed).nodes for seed in range(400)]
    chunks = Counter(node for placement in placed for node in placement)
    assert chunks["big"] > 1.15 * max(count for node, count in chunks.items() if node != "big")
    parity = Counter(node for placement in placed for node in placement[4:])
    for node, count in chunks.items():
        assert 0.2 < parity[node] / count < 0.47


def test_nodes_on_one_device_are_named() -> None:
    """Allowed, and said."""
    candidates = [Candidate(f"n{i}", 10**9, device="sda" if i < 2 else f"d{i}") for i in range(6)]
    assert place(FOUR_TWO, candidates, chunk_bytes=1, seed=0).shared_devices == (("n0", "n1"),)


def test_a_lost_chunk_goes_where_none_is() -> None:
    """Holders keep theirs, their racks count, and with exactly k+m nodes there is no target."""
    candidates = [Candidate(f"n{i}", 10**9, rack=f"r{i % 4}") for i in range(8)]
    holders = ["n0", "n4", "n1", "n5", "n2"]
    for seed in range(10):
        (target,) = place_again(FOUR_TWO, candidates, holders, chunk_bytes=1, lost=1, seed=seed)
        assert target in ("n6", "n3", "n7")
    with pytest.raises(PlacementError, match="1 chunks of 4"):
        place_again(FOUR_TWO, nodes(5), [f"n{i}" for i in range(5)], chunk_bytes=1, lost=1, seed=0)


def test_margins_count_what_fails_apart() -> None:
    """Six chunks on six nodes: 2. On one node, or on one rack: none to spare."""
    spread = {i: [f"n{i}"] for i in range(6)}
    assert margin(FOUR_TWO, spread, {}) == Margin(2, 2, 6)
    together = {i: ["n0"] for i in range(6)}
    assert margin(FOUR_TWO, together, {}).nodes < 0
    racks = {f"n{i}": f"r{i // 2}" for i in range(6)}
    assert margin(FOUR_TWO, spread, racks) == Margin(2, 1, 6)
    assert margin(FOUR_TWO, {i: spread[i] for i in range(3)}, {}) == Margin(-1, -1, 3)
    assert margin(FOUR_TWO, {**spread, 5: []}, {}) == Margin(1, 1, 5)


def test_a_copy_under_way_does_not_count_twice() -> None:
    """A chunk on two nodes is one chunk."""
    holders = {i: [f"n{i}"] for i in range(5)}
    holders[0] = ["n0", "n9"]
    assert margin(FOUR_TWO, holders, {}).nodes == 1


@given(st.dictionaries(st.integers(0, 5), st.sets(st.sampled_from("abcdef"))))
def test_the_matching_is_the_largest(holders: dict[int, set[str]]) -> None:
    """Compared with trying all subsets (Hall): no larger one exists."""
    found = match(holders)
    assert len(set(found.values())) == len(found)
    assert all(node in holders[index] for index, node in found.items())
    deficits = [
        len(subset) - len(set().union(*(holders[index] for index in subset)))
        for size in range(len(holders) + 1)
        for subset in combinations(holders, size)
    ]
    assert len(found) == len(holders) - max(deficits)


# --- Read plans -----------------------------------------------------------------------------------

SIZE = 5 * 40_000 + 17
SAMPLE = encode(noise(SIZE), Profile(4, 2), batches=range(0, SIZE, 3_001))
SHAPE = SAMPLE.manifest.geometry


@given(st.data())
def test_a_plan_gives_the_bytes_of_the_segment(data: st.DataObject) -> None:
    """Any range with any chunks lost: carried out by hand, it is the source or a named gap."""
    lost = data.draw(st.sets(st.integers(0, 5), max_size=4))
    start, end = sorted((data.draw(st.integers(0, SIZE)), data.draw(st.integers(0, SIZE))))
    usable = set(range(6)) - lost
    preferred = data.draw(st.permutations(range(6)))
    plan = plan_read(SHAPE, ByteRange(start, end), usable, preferred=preferred)
    at = start
    for step in plan.steps:
        assert step.source.start == at
        at = step.source.end
        if isinstance(step, Direct):
            assert step.part.chunk not in lost
            found = SAMPLE.payloads[step.part.chunk][step.part.start : step.part.end]
        elif isinstance(step, Decode):
            assert len(step.survivors) == min(5, len(usable))
            found = decoded(step, data.draw(st.permutations(step.survivors))[:4])
        else:
            assert isinstance(step, Gap)
            assert len(usable) == step.left < 4
            continue
        assert found == SAMPLE.source[step.source.start : step.source.end]
    assert at == end
    assert plan.is_complete == (not any(isinstance(step, Gap) for step in plan.steps))
    assert plan.is_degraded == any(isinstance(step, Decode) for step in plan.steps)


def decoded(step: Decode, survivors: list[object]) -> bytes:
    """Return a lost range from k of the ranges that a plan names."""
    windows = {}
    for part in step.survivors:
        if part in survivors:
            window = SAMPLE.payloads[part.chunk][part.start : part.end]
            windows[part.chunk] = window.ljust(step.part.size, b"\0")
    target = bytearray(step.part.size)
    Codec(FOUR_TWO, PortableKernel()).rebuild(windows, {step.part.chunk: target})
    return bytes(target)


def test_a_living_range_costs_one_byte_a_byte() -> None:
    """Even while other chunks are lost."""
    inside = ByteRange(SHAPE.cuts[1] + 5, SHAPE.cuts[1] + 1005)
    plan = plan_read(SHAPE, inside, {1, 4, 5})
    assert [type(step) for step in plan.steps] == [Direct]
    assert sum(step.part.size for step in plan.steps) == inside.size


def test_large_ranges_ask_exactly_k() -> None:
    """The surplus would cost more than it saves."""
    size = 8 * SPARE_BYTES_MAX
    shape = Geometry(FOUR_TWO, choose_cuts(size, 4, []))
    usable = {1, 2, 3, 4, 5}
    for length, asked in ((SPARE_BYTES_MAX, 5), (SPARE_BYTES_MAX + 1, 4)):
        (step,) = plan_read(shape, ByteRange(0, length), usable).steps
        assert isinstance(step, Decode)
        assert len(step.survivors) == asked
        assert [part.chunk for part in step.survivors[:4]] == [1, 2, 3, 4]
    (step,) = plan_read(shape, ByteRange(0, BLOCK_BYTES), usable, spare=False).steps
    assert isinstance(step, Decode)
    assert len(step.survivors) == 4


def test_zeros_behind_short_chunks_are_not_read() -> None:
    """A survivor that ends before the range gives nothing and still counts."""
    shape = Geometry(Profile(2, 2), (0, 10, 12))
    (step,) = plan_read(shape, ByteRange(5, 10), {1, 2, 3}, spare=False).steps
    assert isinstance(step, Decode)
    assert [(part.chunk, part.size) for part in step.survivors] == [(1, 0), (2, 5)]
    assert step.read_bytes == 5
