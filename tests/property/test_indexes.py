"""Indexes against plain lists: any entries, any question, any damage."""

from __future__ import annotations

import struct
import tempfile
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from logd.errors import CorruptFileError
from logd.storage.files import Files
from logd.storage.offset_index import OffsetIndex
from logd.storage.time_index import TimeIndex
from logd.units import INT32_MAX, INT64_MAX

MAX_BYTES = 2**20
BASES = st.integers(0, 2**62)
SMALL_STEPS = st.integers(1, 3) | st.integers(1, 100_000)
STEPS = st.lists(st.tuples(SMALL_STEPS, SMALL_STEPS), max_size=700)


def rising(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    entries: list[tuple[int, int]] = []
    offset = position = 0
    for offset_step, position_step in steps:
        offset += offset_step
        position += position_step
        entries.append((offset, position))
    return entries


@settings(max_examples=50, deadline=None)
@given(BASES, STEPS, st.lists(st.integers(0, 10**8), max_size=30), st.booleans())
def test_offset_lookups_are_those_of_a_list(
    base: int, steps: list[tuple[int, int]], questions: list[int], is_sealed: bool
) -> None:
    """Look-ups by offset and by position agree with a search from front to back."""
    entries = rising(steps)
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/index"
        index = OffsetIndex.create(Files(), path, base_offset=base, max_bytes=MAX_BYTES)
        for offset, position in entries:
            index.append(base + offset, position)
        if is_sealed:
            index.seal()
            index = OffsetIndex.open(
                Files(), path, base_offset=base, max_bytes=MAX_BYTES, writable=False
            )
        assert index.entries() == entries
        near = [offset + shift for offset, _ in entries[::50] for shift in (-1, 0, 1)]
        for question in [*questions, *near]:
            below = [entry for entry in entries if entry[0] <= question]
            offset, position = below[-1] if below else (0, 0)
            assert index.lookup(base + question) == (base + offset, position)
            positions = [entry[1] for entry in entries if entry[1] <= question]
            assert index.last_position_at_or_before(question) == max(positions, default=0)


@settings(max_examples=50, deadline=None)
@given(
    BASES,
    st.lists(st.tuples(st.integers(-1, INT64_MAX) | st.integers(0, 50), st.integers(0, 9))),
    st.lists(st.integers(-1, INT64_MAX) | st.integers(0, 50), max_size=20),
    st.integers(0, 200),
)
def test_time_lookups_are_those_of_a_list(
    base: int, steps: list[tuple[int, int]], questions: list[int], cut: int
) -> None:
    """Any timestamps in any order: only new maxima count, also after a truncation."""
    with tempfile.TemporaryDirectory() as directory:
        index = TimeIndex.create(
            Files(), f"{directory}/index", base_offset=base, max_bytes=MAX_BYTES
        )
        model: list[tuple[int, int]] = []
        offset = 0
        for timestamp, step in steps:
            offset += step
            index.append(timestamp, base + offset)
            last = model[-1][0] if model else -1
            if timestamp > last and (timestamp, offset) != (0, 0):
                model.append((timestamp, offset))
        assert index.entries() == model
        index.truncate_to(base + cut)
        model = [entry for entry in model if entry[1] < cut]
        assert index.entries() == model
        for question in questions:
            below = [entry for entry in model if entry[0] <= question]
            timestamp, offset = below[-1] if below else (-1, 0)
            assert index.lookup(question) == (timestamp, base + offset)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=200)
    | st.lists(st.integers(-2, 30), max_size=40).map(
        lambda fields: b"".join(struct.pack(">i", field) for field in fields)
    )
    | st.lists(st.integers(0, INT32_MAX), max_size=40, unique=True)
    .map(sorted)
    .map(lambda fields: b"".join(struct.pack(">ii", field, field) for field in fields)),
    st.booleans(),
    st.sampled_from([OffsetIndex, TimeIndex]),
)
def test_any_bytes_are_an_index_or_an_error(
    data: bytes, writable: bool, kind: type[OffsetIndex | TimeIndex]
) -> None:
    """Hostile files raise CorruptFileError or give rising entries, and never anything else."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/index"
        Path(path).write_bytes(data)
        try:
            index = kind.open(Files(), path, base_offset=7, max_bytes=MAX_BYTES, writable=writable)
        except CorruptFileError as error:
            assert not writable
            assert 0 <= error.position < len(data)
            return
        entries = index.entries()
        assert (0, 0) not in entries
        assert all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(entries))
        assert all(first >= 0 and second >= 0 for first, second in entries)
        if not writable:
            assert len(entries) * kind.ENTRY.size == len(data)
        index.close()
