"""Cuts, ranges and indexes of any segment: every byte in one place, never more than the bound."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ec import geometry, indexes
from ec.geometry import BLOCK_BYTES, Geometry, choose_cuts, cut_windows
from ec.indexes import POSITION_ENTRY, TIME_ENTRY, Indexes
from ec.profile import Profile

profiles = st.builds(Profile, st.integers(2, 16), st.integers(1, 4))
EDGES = (0, 1, 2, 7, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2**30 - 1, 2**30, 2**31 + 5)
sizes = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**33))


@st.composite
def segments(draw: st.DrawFn) -> tuple[Profile, int, list[int]]:
    """A profile, a size, and where batches begin."""
    profile, size = draw(profiles), draw(sizes)
    positions = st.integers(0, max(0, size - 1))
    near = [st.integers(w.start, max(w.start, w.end - 1)) for w in cut_windows(size, profile.k)]
    boundaries = draw(st.lists(st.one_of(positions, *near), max_size=30, unique=True))
    return profile, size, sorted(boundaries)


@given(segments())
def test_stored_payload_never_passes_the_bound(segment: tuple[Profile, int, list[int]]) -> None:
    """1 + (m/k)(1 + 1/32) of the source, rounded up by less than 2 m bytes, for any batches."""
    profile, size, boundaries = segment
    shape = Geometry(profile, choose_cuts(size, profile.k, boundaries))
    k, m = profile.k, profile.m
    assert shape.source_bytes == size
    assert shape.parity_bytes <= geometry.parity_bytes_max(size, k)
    assert (shape.stored_bytes - size - 2 * m) * 32 * k < size * m * 33 or size == 0
    assert shape.stored_bytes == sum(map(shape.payload_bytes, range(profile.chunks)))


@given(segments())
def test_a_cut_is_at_a_near_batch_or_exactly_in_place(
    segment: tuple[Profile, int, list[int]],
) -> None:
    """The nearest boundary within size / (64 k), else i/k of the size."""
    profile, size, boundaries = segment
    cuts = choose_cuts(size, profile.k, boundaries)
    assert (cuts[0], cuts[-1]) == (0, size)
    for i in range(1, profile.k):
        ideal = size * i // profile.k
        near = [at for at in boundaries if abs(at - ideal) <= size // (64 * profile.k)]
        if near:
            assert abs(cuts[i] - ideal) == min(abs(at - ideal) for at in near)
            assert cuts[i] in near
        else:
            assert cuts[i] == ideal


@given(segments())
def test_only_boundaries_inside_the_windows_matter(
    segment: tuple[Profile, int, list[int]],
) -> None:
    """Who cuts a segment need not know where its other batches begin."""
    profile, size, boundaries = segment
    windows = cut_windows(size, profile.k)
    known = [at for at in boundaries if any(w.start <= at < w.end for w in windows)]
    assert choose_cuts(size, profile.k, known) == choose_cuts(size, profile.k, boundaries)


@given(segments(), st.data())
def test_ranges_of_chunks_are_the_range_of_the_segment(
    segment: tuple[Profile, int, list[int]], data: st.DataObject
) -> None:
    """Every byte of a range is found in one data chunk, in order."""
    profile, size, boundaries = segment
    shape = Geometry(profile, choose_cuts(size, profile.k, boundaries))
    edges = st.one_of(st.sampled_from(shape.cuts), st.integers(0, size))
    start, end = sorted((data.draw(edges), data.draw(edges)))
    found = shape.locate(start, end)
    at = start
    for part in found:
        assert part.size > 0
        assert shape.cuts[part.chunk] + part.start == at
        assert part.end <= shape.payload_bytes(part.chunk)
        at += part.size
    assert at == end


@given(segments(), st.data())
def test_blocks_cover_a_range_without_surplus(
    segment: tuple[Profile, int, list[int]], data: st.DataObject
) -> None:
    """The blocks that are verified hold the range, and each holds a byte of it."""
    profile, size, boundaries = segment
    length = Geometry(profile, choose_cuts(size, profile.k, boundaries)).parity_bytes
    start, end = sorted((data.draw(st.integers(0, length)), data.draw(st.integers(0, length))))
    blocks = geometry.covering_blocks(start, end, length)
    if start == end:
        assert not blocks
        return
    span = geometry.block_span(blocks.start, blocks.stop, length)
    assert span.start <= start < span.start + BLOCK_BYTES
    assert span.end - BLOCK_BYTES < end <= span.end or span.end == length
    assert span.end <= length


@given(profiles, sizes, st.data())
def test_what_lies_beside_a_range_is_real_bytes_only(
    profile: Profile, size: int, data: st.DataObject
) -> None:
    """A chunk that is shorter than the range gives what it has; padding is never read."""
    shape = Geometry(profile, choose_cuts(size, profile.k, []))
    start, end = sorted(
        data.draw(st.tuples(*[st.integers(0, shape.parity_bytes)] * 2), label="range")
    )
    for chunk in range(profile.chunks):
        part = shape.beside(chunk, start, end)
        length = shape.payload_bytes(chunk)
        assert (part.start, part.end) == (min(start, length), min(end, length))


def test_an_empty_segment_has_empty_chunks() -> None:
    """Size 0 is no special case."""
    shape = Geometry(Profile(4, 2), choose_cuts(0, 4, []))
    assert shape.cuts == (0, 0, 0, 0, 0)
    assert shape.parity_bytes == shape.stored_bytes == 0
    assert shape.locate(0, 0) == ()


def test_megabyte_batches_cost_no_third_copy() -> None:
    """1 GiB of 1 MiB batches, 4+2: at most 1.52 of the source is stored."""
    size, k = 2**30, 4
    for batch in (2**20 - 61, 2**20, 2**20 + 4097, 2**20 + 555_555):
        shape = Geometry(Profile(k, 2), choose_cuts(size, k, list(range(0, size, batch))))
        assert shape.stored_bytes <= 1.52 * size


@st.composite
def indexed(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, int]]]:
    """How many chunks, and batches as (position, first offset, last offset), rising."""
    k = draw(st.integers(2, 6))
    batches, position, offset = [], 0, 0
    for _ in range(draw(st.integers(0, 12))):
        last = offset + draw(st.integers(0, 5))
        batches.append((position, offset, last))
        position += draw(st.integers(1, 4000))
        offset = last + 1 + draw(st.integers(0, 3))
    return k, batches


@given(indexed(), st.data())
@example((2, []), None)
def test_indexes_are_cut_with_their_batches(
    segment: tuple[int, list[tuple[int, int, int]]], data: st.DataObject | None
) -> None:
    """Each entry goes to the chunk in which its batch begins; together they are all again."""
    k, batches = segment
    size = batches[-1][0] + 100 if batches else 0
    cuts = choose_cuts(size, k, [position for position, _, _ in batches])
    chosen = [b for b in batches if data is None or data.draw(st.booleans())]
    whole = Indexes(
        b"".join(POSITION_ENTRY.pack(last, position) for position, _, last in chosen),
        b"".join(TIME_ENTRY.pack(1000 + last, last) for _, _, last in chosen),
    )
    homes = [[b for b in batches if low <= b[0] < high] for low, high in pairwise(cuts)]
    firsts = [home[0][1] if home else None for home in homes]
    parts = indexes.split(whole, cuts, firsts)
    assert indexes.join(parts) == whole
    for part, home in zip(parts, homes, strict=True):
        lasts = [b[2] for b in home if b in chosen]
        assert [o for o, _ in POSITION_ENTRY.iter_unpack(part.offsets)] == lasts
        assert [o for _, o in TIME_ENTRY.iter_unpack(part.times)] == lasts


@pytest.mark.parametrize(("offsets", "times"), [(b"1234567", b""), (b"", b"12345678")])
def test_half_entries_are_refused(offsets: bytes, times: bytes) -> None:
    """An index is a whole number of entries."""
    with pytest.raises(ValueError, match="entries"):
        Indexes(offsets, times)
