"""A run of batches that lies in several buffers is the run that it would be in one."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from logd.errors import CorruptFileError
from logd.storage.batch_run import BatchRun, scan_run, scan_views
from logd.storage.released import SourcePiece
from tests.cold_rig import make_segment

SOURCES = [
    make_segment([300, 5_000, 250, 250, 900, 20_000, 400], base_offset=50),
    make_segment([4_000], base_offset=0, seed=2),
]


def outcome(piece: SourcePiece, views: list[memoryview] | None) -> BatchRun | tuple[int, str]:
    """What a scan finds, or where and why it finds nothing."""
    try:
        return scan_run(piece) if views is None else scan_views(piece, views)
    except CorruptFileError as error:
        return error.position, str(error)


@settings(deadline=None, max_examples=300)
@given(which=st.integers(0, 1), seed=st.integers(0, 2**32 - 1), is_damaged=st.booleans())
def test_buffers_may_be_cut_anywhere(which: int, seed: int, is_damaged: bool) -> None:
    """Any cuts, any end, a damaged byte or none: the same run, or the same error."""
    segment, rng = SOURCES[which], random.Random(seed)
    source = bytearray(segment.source)
    number = rng.randrange(len(segment.positions))
    start = segment.positions[number]
    end = rng.choice([len(source), rng.randint(start + 1, len(source))])
    if is_damaged:
        source[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    cuts = sorted(rng.randint(start, end) for _ in range(rng.randrange(1, 5)))
    if rng.random() < 0.5:  # Where a batch begins, or inside its head.
        near = rng.choice(segment.positions) + rng.randrange(14)
        cuts = sorted([*cuts, min(max(start, near), end)])
    whole = SourcePiece(
        bytes(source[start:end]), start, len(source),
        segment.base_offset, segment.next_offset, name="chunks",
    )  # fmt: skip
    places = [start, *cuts, end]
    views = [memoryview(whole.data)[a - start : b - start] for a, b in pairwise(places)]
    first = SourcePiece(
        views[0], start, len(source), segment.base_offset, segment.next_offset, name="chunks"
    )
    assert outcome(first, views) == outcome(whole, None), seed
