"""storage.verified_ranges, boundaries and open_files: the small memories of a log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logd.storage.boundaries import GENERATION_MAX, Boundaries
from logd.storage.files import Files, OpenFile
from logd.storage.open_files import OpenFiles
from logd.storage.segment_files import SegmentFiles
from logd.storage.verified_ranges import RANGES_MAX, VerifiedRanges

_RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=20)


@given(_RANGES)
def test_ranges_equal_a_set_of_positions(ranges: list[tuple[int, int]]) -> None:
    """After any additions, each position's range ends where a set of single positions says."""
    verified = VerifiedRanges()
    model: set[int] = set()
    for start, size in ranges:
        verified.add(start, start + size)
        model.update(range(start, start + size))
        for position in range(82):
            end = position
            while end in model:
                end += 1
            assert verified.end_after(position) == end


def test_ranges_are_bounded() -> None:
    """A file read at random places forgets its first range, not the newest."""
    verified = VerifiedRanges()
    for number in range(RANGES_MAX + 10):
        verified.add(number * 10, number * 10 + 5)
    assert len(verified) == RANGES_MAX
    assert verified.end_after(0) == 0
    assert verified.end_after((RANGES_MAX + 9) * 10) == (RANGES_MAX + 9) * 10 + 5


def test_recent_boundaries_are_remembered_and_old_ones_forgotten() -> None:
    """At least the last generation is there, at most two of them."""
    boundaries = Boundaries()
    for offset in range(5 * GENERATION_MAX):
        boundaries.put(offset, offset * 100)
    recent = range(4 * GENERATION_MAX + 1, 5 * GENERATION_MAX)
    assert all(boundaries.get(offset) == offset * 100 for offset in recent)
    known = [o for o in range(5 * GENERATION_MAX) if boundaries.get(o) is not None]
    assert len(known) <= 2 * GENERATION_MAX


def test_open_files_push_out_the_least_recently_used() -> None:
    """The limit holds; what was asked for last stays; a pushed-out file is usable by its reader."""
    cache = OpenFiles(Files(), limit=2)
    opened = [SegmentFiles(OpenFile(-1, str(number)), None, None) for number in range(3)]
    cache.put("a", opened[0])
    cache.put("b", opened[1])
    assert cache.get("a") is opened[0]
    cache.put("c", opened[2])
    assert len(cache) == 2
    assert cache.get("b") is None
    assert cache.get("a") is opened[0]
    cache.forget("a")
    assert cache.get("a") is None
