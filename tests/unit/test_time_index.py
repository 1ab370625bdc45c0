"""The time index: what differs from the offset index."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from logd.errors import CorruptFileError
from logd.storage.files import Files
from logd.storage.time_index import TimeIndex

BASE = 1000
T0 = 1_700_000_000_000


@pytest.fixture
def path(directory: str) -> str:
    return f"{directory}/00000000000000001000.timeindex"


def create(path: str, *, max_bytes: int = 65_536) -> TimeIndex:
    return TimeIndex.create(Files(), path, base_offset=BASE, max_bytes=max_bytes)


def reopen(path: str, *, writable: bool) -> TimeIndex:
    return TimeIndex.open(Files(), path, base_offset=BASE, max_bytes=65_536, writable=writable)


def test_lookup_rounds_down(path: str) -> None:
    """The entry with the greatest timestamp at or below is found; before the first: the start."""
    index = create(path)
    assert index.last == (-1, BASE)
    assert index.lookup(T0) == (-1, BASE)
    for number in range(300):
        index.append(T0 + 10 * number, BASE + 5 * number)
    assert index.lookup(T0 - 1) == (-1, BASE)
    assert index.lookup(T0) == (T0, BASE)
    assert index.lookup(T0 + 1999) == (T0 + 1990, BASE + 995)
    assert index.lookup(2**62) == (T0 + 2990, BASE + 1495)
    assert index.last == (T0 + 2990, BASE + 1495)


def test_only_new_maxima_are_entries(path: str) -> None:
    """An older or equal timestamp changes nothing; nor does time 0 at the first offset."""
    index = create(path)
    index.append(0, BASE)
    index.append(-1, BASE)
    assert index.count == 0
    index.append(0, BASE + 1)
    index.append(5, BASE + 3)
    index.append(5, BASE + 4)
    index.append(4, BASE + 5)
    index.append(6, BASE + 3)
    assert index.entries() == [(0, 1), (5, 3), (6, 3)]


def test_a_falling_offset_with_a_new_maximum_is_a_bug(path: str) -> None:
    """Timestamps may jump back, the order of offsets never does."""
    index = create(path)
    index.append(5, BASE + 3)
    with pytest.raises(AssertionError):
        index.append(6, BASE + 2)


def test_the_size_is_whole_entries_and_one_slot_is_kept_for_the_seal(path: str) -> None:
    """12 does not divide 4096; and the largest timestamp still fits when the index is full."""
    index = create(path, max_bytes=8192)
    assert os.path.getsize(path) == 4092
    number = 0
    while not index.is_full:
        number += 1
        index.append(T0 + number, BASE + number)
    assert number == 8192 // 12 - 1
    index.append(T0 + number + 1, BASE + number + 1)
    with pytest.raises(AssertionError, match="rolled"):
        index.append(T0 + number + 2, BASE + number + 2)
    index.seal()
    assert os.path.getsize(path) == 12 * (number + 1)


def test_truncation_is_by_offset(path: str) -> None:
    """All entries at or above the offset go, also those that share one."""
    index = create(path)
    for timestamp, offset in ((10, 1), (20, 3), (30, 3), (40, 7)):
        index.append(timestamp, BASE + offset)
    index.truncate_to(BASE + 3)
    assert index.entries() == [(10, 1)]
    index.append(15, BASE + 3)
    assert index.last == (15, BASE + 3)


def test_sealed_and_opened_again(path: str) -> None:
    """Kafka's bytes: big-endian, 12 an entry."""
    index = create(path)
    index.append(T0, BASE + 1)
    index.append(T0 + 1, BASE + 1)
    index.seal()
    assert Path(path).read_bytes() == struct.pack(">qi", T0, 1) + struct.pack(">qi", T0 + 1, 1)
    assert reopen(path, writable=False).last == (T0 + 1, BASE + 1)


def test_active_and_opened_again(path: str) -> None:
    """It goes on behind its last entry; an entry that does not rise ends it."""
    index = create(path)
    for number in range(1, 400):
        index.append(T0 + number, BASE + number)
    index.sync()
    index.close()
    index = reopen(path, writable=True)
    assert (index.count, index.last) == (399, (T0 + 399, BASE + 399))
    index.close()
    with open(path, "r+b") as file:
        file.seek(12 * 100)
        file.write(struct.pack(">qi", T0 + 100, 101))
    assert reopen(path, writable=True).last == (T0 + 100, BASE + 100)


@pytest.mark.parametrize(
    ("entries", "cut", "position"),
    [
        ([(10, 1), (20, 2)], 1, 12),
        ([(10, 1), (10, 2)], 0, 12),
        ([(10, 2), (20, 1)], 0, 12),
        ([(10, 1), (20, 2), (0, 0)], 0, 24),
        ([(0, 0)], 0, 0),
        ([(-1, 1)], 0, 0),
        ([(10, -1)], 0, 0),
    ],
)
def test_a_sealed_index_must_be_perfect(
    path: str, entries: list[tuple[int, int]], cut: int, position: int
) -> None:
    """Half an entry, zeros, or what does not rise is corrupt, and the error says where."""
    data = b"".join(struct.pack(">qi", *entry) for entry in entries)
    Path(path).write_bytes(data[: len(data) - cut])
    with pytest.raises(CorruptFileError) as caught:
        reopen(path, writable=False)
    assert caught.value.position == position


def test_offsets_beyond_the_log_are_corrupt(path: str) -> None:
    """An entry for an offset that the log does not have does not fit it."""
    index = create(path)
    index.check_fits(next_offset=BASE)
    index.append(T0, BASE + 9)
    index.check_fits(next_offset=BASE + 10)
    with pytest.raises(CorruptFileError) as caught:
        index.check_fits(next_offset=BASE + 9)
    assert caught.value.position == 8
