"""Which encoding gives which offsets: `logd.policy.cold.salvage`."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from logd.policy.cold.salvage import (
    NO_CHUNK,
    FoundSet,
    Offsets,
    find_missing,
    order_sets,
    subtract,
)

OFFSETS = st.tuples(st.integers(0, 60), st.integers(0, 30)).map(
    lambda pair: Offsets(pair[0], pair[0] + pair[1])
)


@st.composite
def sets(draw: st.DrawFn) -> FoundSet:
    """What is left of some encoding."""
    k, m = draw(st.sampled_from([(2, 1), (4, 2)]))
    size = draw(st.integers(1, 100))
    chunks = draw(st.integers(1, k + m))
    return FoundSet(
        offsets=draw(OFFSETS.filter(lambda each: each.count > 0)),
        number=draw(st.integers(1, 4)),
        encoding=draw(st.integers(0, 9).map(lambda n: f"{n:032x}")),
        chunks=chunks,
        good=draw(st.integers(0, chunks)),
        k=k,
        m=m,
        source_bytes=size,
        recoverable_bytes=draw(st.sampled_from([0, size // 2, size])),
        manifest=draw(st.integers(0, 9).map(lambda n: f"{n:032x}")),
    )


# Two encodings with one manifest are one.
FOUND = st.lists(sets(), max_size=6, unique_by=lambda each: each.manifest)


def each_of(*ranges: Offsets) -> set[int]:
    """Return the offsets one by one."""
    return {offset for one in ranges for offset in range(one.first, one.next_offset)}


@given(wanted=OFFSETS, taken=st.lists(OFFSETS, max_size=6))
def test_what_is_left_is_what_was_not_taken(wanted: Offsets, taken: list[Offsets]) -> None:
    """In order, never touching, never empty."""
    rest = subtract(wanted, taken)
    assert each_of(*rest) == each_of(wanted) - each_of(*taken)
    for before, after in pairwise(rest):
        assert before.next_offset < after.first


@given(found=FOUND, taken=st.lists(OFFSETS, max_size=4))
def test_every_gap_is_named_once_with_a_reason(found: list[FoundSet], taken: list[Offsets]) -> None:
    """Between the first and the last offset that any encoding had, nothing is passed over."""
    missing = find_missing(found, taken)
    if not found:
        assert missing == ()
        return
    whole = Offsets(
        min(each.offsets.first for each in found),
        max(each.offsets.next_offset for each in found),
    )
    named = [each.offsets for each in missing]
    assert each_of(*named) == each_of(whole) - each_of(*taken)
    assert sum(one.count for one in named) == len(each_of(*named))
    known = each_of(*(each.offsets for each in found))
    for each in missing:
        assert (each.reason == NO_CHUNK) == each_of(each.offsets).isdisjoint(known)


@given(found=FOUND, shuffled=st.randoms(use_true_random=False))
def test_the_order_is_that_of_worth_whatever_was_found_first(
    found: list[FoundSet], shuffled: random.Random
) -> None:
    """Whole ones first, of these the highest generation; then those of which more is left."""
    again = list(found)
    shuffled.shuffle(again)
    ordered = order_sets(found)
    assert order_sets(again) == ordered
    whole = [each.is_whole for each in ordered]
    assert whole == sorted(whole, reverse=True)
    numbers = [each.number for each in ordered if each.is_whole]
    assert numbers == sorted(numbers, reverse=True)
