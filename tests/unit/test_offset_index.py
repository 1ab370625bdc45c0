"""The offset index, and what both indexes share: growing, sealing, reading beside a writer."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from logd.errors import CorruptFileError
from logd.storage.files import Files, OpenFile
from logd.storage.mapped_index import FIRST_BYTES
from logd.storage.offset_index import OffsetIndex
from tests.unit.storage_faults import FaultyFiles, StoppedError

BASE = 1000
MAX_BYTES = 64 * 1024


@pytest.fixture
def path(directory: str) -> str:
    return f"{directory}/00000000000000001000.index"


def create(path: str, *, max_bytes: int = MAX_BYTES, files: Files | None = None) -> OffsetIndex:
    return OffsetIndex.create(files or Files(), path, base_offset=BASE, max_bytes=max_bytes)


def reopen(path: str, *, writable: bool, files: Files | None = None) -> OffsetIndex:
    return OffsetIndex.open(
        files or Files(), path, base_offset=BASE, max_bytes=MAX_BYTES, writable=writable
    )


def fill(index: OffsetIndex, count: int) -> None:
    for number in range(1, count + 1):
        index.append(BASE + 10 * number, 4096 * number)


def write_entries(path: str, entries: list[tuple[int, int]], tail: bytes = b"") -> None:
    Path(path).write_bytes(b"".join(struct.pack(">ii", *entry) for entry in entries) + tail)


def test_lookup_rounds_down(path: str) -> None:
    """The greatest entry at or below is found, for offsets and for positions."""
    index = create(path)
    fill(index, 100)
    assert index.lookup(BASE) == (BASE, 0)
    assert index.lookup(BASE + 9) == (BASE, 0)
    assert index.lookup(BASE + 10) == (BASE + 10, 4096)
    assert index.lookup(BASE + 599) == (BASE + 590, 59 * 4096)
    assert index.lookup(BASE + 10**9) == (BASE + 1000, 409_600)
    assert index.last_position_at_or_before(4095) == 0
    assert index.last_position_at_or_before(4096) == 4096
    assert index.last_position_at_or_before(10_000) == 8192
    assert (index.count, index.last_offset) == (100, BASE + 1000)
    assert index.entries()[:2] == [(10, 4096), (20, 8192)]


def test_an_empty_index_leads_to_the_start(path: str) -> None:
    """Without entries every look-up gives the segment's start."""
    index = create(path)
    assert index.lookup(BASE + 5) == (BASE, 0)
    assert index.last_position_at_or_before(77) == 0
    assert (index.count, index.last_offset, index.entries()) == (0, BASE, [])


def test_an_entry_that_says_nothing_is_not_stored(path: str) -> None:
    """The first offset at position 0 is what zeros would say, so it stays out."""
    index = create(path)
    index.append(BASE, 0)
    assert index.count == 0
    assert index.lookup(BASE) == (BASE, 0)


def test_entries_must_rise(path: str) -> None:
    """An offset or a position that does not rise is a bug of the caller, and is caught."""
    index = create(path)
    index.append(BASE + 10, 4096)
    for offset, position in ((BASE + 10, 5000), (BASE + 11, 4096), (BASE - 1, 5000)):
        with pytest.raises(AssertionError):
            index.append(offset, position)
    assert index.entries() == [(10, 4096)]


def test_the_file_is_allocated_and_doubles(path: str) -> None:
    """4 KiB of real blocks first, twice as much when full, never beyond the limit."""
    index = create(path, max_bytes=10_000)
    assert os.path.getsize(path) == FIRST_BYTES
    assert os.stat(path).st_blocks * 512 >= FIRST_BYTES
    fill(index, 512)
    assert os.path.getsize(path) == FIRST_BYTES
    index.append(BASE + 5130, 4096 * 513)
    assert os.path.getsize(path) == 2 * FIRST_BYTES
    for number in range(514, 1251):
        assert not index.is_full
        index.append(BASE + 10 * number, 4096 * number)
    assert os.path.getsize(path) == 10_000
    assert index.is_full
    with pytest.raises(AssertionError, match="rolled"):
        index.append(BASE + 20_000, 2**30)
    assert index.lookup(BASE + 7001) == (BASE + 7000, 700 * 4096)


class FullDisk(Files):
    """Reserves nothing after so many times."""

    def __init__(self, allocations: int) -> None:
        self.left = allocations

    def allocate(self, file: OpenFile, position: int, size: int) -> None:
        if self.left == 0:
            raise OSError(errno.ENOSPC, "no space", file.path)
        self.left -= 1
        super().allocate(file, position, size)


def test_a_full_disk_is_met_before_the_entry_is_stored(path: str) -> None:
    """Growing fails with an error and changes nothing; the index goes on when there is space."""
    files = FullDisk(1)
    index = create(path, files=files)
    fill(index, 512)
    for _ in range(2):
        with pytest.raises(OSError, match="no space"):
            index.append(BASE + 6000, 2**30)
        with pytest.raises(OSError, match="no space"):
            index.reserve()
    assert (index.count, index.last_offset) == (512, BASE + 5120)
    files.left = 1
    index.reserve(2)
    files.left = 0
    index.append(BASE + 6000, 2**30)
    index.append(BASE + 6001, 2**30 + 1)
    assert index.count == 514


def test_sealing_trims_to_the_entries(path: str) -> None:
    """A sealed file is exactly its entries, as Kafka leaves it, and opens read-only."""
    index = create(path)
    fill(index, 3)
    index.seal()
    data = struct.pack(">6i", 10, 4096, 20, 8192, 30, 12288)
    assert Path(path).read_bytes() == data
    assert index.lookup(BASE + 25) == (BASE + 20, 8192)
    with pytest.raises(AssertionError):
        index.append(BASE + 99, 2**20)
    again = reopen(path, writable=False)
    assert again.entries() == [(10, 4096), (20, 8192), (30, 12288)]
    assert Path(path).read_bytes() == data


def test_an_empty_index_can_be_sealed(path: str) -> None:
    """No entries, no bytes, and it opens."""
    create(path).seal()
    assert os.path.getsize(path) == 0
    assert reopen(path, writable=False).lookup(BASE + 3) == (BASE, 0)


def test_an_active_index_is_opened_again_where_it_ended(path: str) -> None:
    """The zeros behind the entries are no entries, and appending goes on behind the last."""
    index = create(path)
    fill(index, 600)
    index.sync()
    index.close()
    again = reopen(path, writable=True)
    assert (again.count, again.last_offset) == (600, BASE + 6000)
    again.append(BASE + 6010, 2**30)
    assert again.lookup(BASE + 6010) == (BASE + 6010, 2**30)


@pytest.mark.parametrize(
    ("bad", "kept"),
    [
        ([(0, 0), (30, 12288)], 2),  # A hole, and entries behind it that prove nothing.
        ([(20, 12288)], 2),  # Offset not above.
        ([(30, 8192)], 2),  # Position not above.
        ([(-5, 12288)], 2),
        ([(30, -1)], 2),
    ],
)
def test_an_active_index_ends_at_its_first_bad_entry(
    path: str, bad: list[tuple[int, int]], kept: int
) -> None:
    """A crash leaves pages in any state; what follows the bad entry is zeroed for good."""
    write_entries(path, [(10, 4096), (20, 8192), *bad], bytes(4096))
    index = reopen(path, writable=True)
    assert index.count == kept
    index.sync()
    assert not any(Path(path).read_bytes()[8 * kept :])


def test_an_active_index_may_be_bad_from_its_start(path: str) -> None:
    """Garbage in the first entry leaves an empty index that works."""
    write_entries(path, [(-1, 7), (10, 4096)])
    index = reopen(path, writable=True)
    assert index.count == 0
    index.append(BASE + 5, 100)
    assert index.entries() == [(5, 100)]


def test_an_active_index_of_no_bytes_or_odd_size_is_usable(path: str) -> None:
    """A crash right after creation, or a cut file."""
    for size in (0, 1, 7, 12, 4095):
        Path(path).write_bytes(bytes(size))
        index = reopen(path, writable=True)
        fill(index, 600)
        assert index.lookup(BASE + 5999) == (BASE + 5990, 599 * 4096)


@pytest.mark.parametrize(
    ("entries", "tail", "position"),
    [
        ([(10, 4096), (20, 8192)], b"\0", 16),
        ([(10, 4096), (20, 8192)], b"\0\0\0\x30\0\0\x30", 16),
        ([(10, 4096), (20, 8192), (0, 0)], b"", 16),
        ([(10, 4096), (10, 8192)], b"", 8),
        ([(10, 4096), (20, 4096), (30, 9000)], b"", 8),
        ([(0, 0)], b"", 0),
        ([(-1, 5)], b"", 0),
        ([(5, -1)], b"", 0),
    ],
)
def test_a_sealed_index_must_be_perfect(
    path: str, entries: list[tuple[int, int]], tail: bytes, position: int
) -> None:
    """Half an entry, zeros, or what does not rise is corrupt, and the error says where."""
    write_entries(path, entries, tail)
    with pytest.raises(CorruptFileError) as caught:
        reopen(path, writable=False)
    assert (caught.value.path, caught.value.position) == (path, position)


def test_damage_is_found_across_the_borders_of_reads(path: str) -> None:
    """A large index is read in steps; the order is checked from step to step as well."""
    entries = [(10 * number, number) for number in range(1, 140_000)]
    write_entries(path, entries)
    assert reopen(path, writable=False).count == len(entries)
    entries[65_536] = entries[65_535]
    write_entries(path, entries)
    with pytest.raises(CorruptFileError) as caught:
        reopen(path, writable=False)
    assert caught.value.position == 65_536 * 8


def test_a_huge_file_is_refused_unread(path: str) -> None:
    """No index is longer than an int32 can count; it costs no memory to say so."""
    with open(path, "wb") as file:
        file.truncate(2**31)
    with pytest.raises(CorruptFileError):
        reopen(path, writable=True)


class BadSector(Files):
    """Cannot read."""

    def read_at(self, file: OpenFile, position: int, size: int) -> bytes:
        raise OSError(errno.EIO, "unreadable", file.path)


@pytest.mark.parametrize("writable", [True, False])
def test_an_unreadable_sector_is_an_error_before_it_is_mapped(path: str, writable: bool) -> None:
    """Reading comes first, so that bad media raise instead of killing the process."""
    write_entries(path, [(10, 4096)])
    with pytest.raises(OSError, match="unreadable"):
        reopen(path, writable=writable, files=BadSector())


def test_entries_beyond_the_log_are_corrupt(path: str) -> None:
    """An index that points past the log's end or knows offsets past it does not fit the log."""
    index = create(path)
    index.check_fits(next_offset=BASE, log_bytes=0)
    fill(index, 2)
    index.check_fits(next_offset=BASE + 21, log_bytes=8193)
    with pytest.raises(CorruptFileError) as caught:
        index.check_fits(next_offset=BASE + 20, log_bytes=8193)
    assert caught.value.position == 8
    with pytest.raises(CorruptFileError) as caught:
        index.check_fits(next_offset=BASE + 21, log_bytes=8192)
    assert caught.value.position == 12


def test_truncation_removes_entries_at_and_above(path: str) -> None:
    """What is cut is zero on disk, and can be appended anew."""
    index = create(path)
    fill(index, 5)
    index.truncate_to(BASE + 30)
    assert index.entries() == [(10, 4096), (20, 8192)]
    index.sync()
    assert not any(Path(path).read_bytes()[16:])
    index.truncate_to(BASE + 21)
    assert index.count == 2
    index.append(BASE + 25, 9000)
    assert index.lookup(BASE + 30) == (BASE + 25, 9000)
    index.truncate_to(BASE)
    assert index.count == 0


def test_creating_over_an_old_file_leaves_its_readers_alone(path: str) -> None:
    """A rebuild makes a new file; whoever still has the old one mapped keeps it whole."""
    old = create(path)
    fill(old, 5)
    create(path).append(BASE + 7, 70)
    assert old.lookup(BASE + 50) == (BASE + 50, 5 * 4096)
    assert reopen(path, writable=True).entries() == [(7, 70)]


class OnceInALookup:
    """Does something in the middle of the first look-up, as another thread might."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
        self.actions = [action]
        guess = OffsetIndex._guess

        def act_and_guess(index: OffsetIndex, *args: Any) -> tuple[int, int]:
            bounds = guess(index, *args)
            if self.actions:
                self.actions.pop()()
            return bounds

        monkeypatch.setattr(OffsetIndex, "_guess", act_and_guess)


def test_a_truncation_in_the_middle_of_a_lookup_does_not_mislead_it(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search that met zeros is made again; entries that stay are found at any moment."""
    index = create(path)
    fill(index, 600)
    OnceInALookup(monkeypatch, lambda: index.truncate_to(BASE + 2001))
    assert index.lookup(BASE + 1955) == (BASE + 1950, 195 * 4096)
    assert index.count == 200


def test_truncation_and_seal_in_the_middle_of_a_lookup_are_survived(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader with an old count looks far behind the sealed end: the bytes must still be there,
    for a mapping whose file was cut kills the process."""
    index = create(path)
    fill(index, 4000)

    def truncate_and_seal() -> None:
        index.truncate_to(BASE + 2001)
        index.seal()

    OnceInALookup(monkeypatch, truncate_and_seal)
    assert index.lookup(BASE + 1955) == (BASE + 1950, 195 * 4096)
    assert os.path.getsize(path) == 200 * 8


def test_no_mapped_file_is_ever_cut(path: str) -> None:
    """Neither growing, truncating, sealing nor rebuilding shortens a file that has been mapped."""
    files = FaultyFiles()
    index = create(path, files=files)
    fill(index, 2000)
    index.truncate_to(BASE + 30)
    index.seal()
    create(path, files=files)
    assert not {"truncate", "create_or_truncate"} & set(files.calls)


@pytest.mark.parametrize("method", ["create", "write_at", "sync", "rename"])
def test_a_seal_that_fails_leaves_the_index_active(directory: str, path: str, method: str) -> None:
    """After a refusal the index reads, grows and can be sealed; nothing is left beside it."""
    files = FaultyFiles()
    index = create(path, files=files)
    fill(index, 3)
    files.failing[method] = errno.ENOSPC
    with pytest.raises(OSError, match="space"):
        index.seal()
    files.failing.clear()
    assert len(os.listdir(directory)) == 1
    index.append(BASE + 40, 4 * 4096)
    index.seal()
    index.seal()  # Again is harmless.
    assert reopen(path, writable=False).count == 4


def test_a_seal_stopped_at_any_call_is_active_or_sealed(directory: str, path: str) -> None:
    """After a kill the name leads to the whole old file or to the whole new one."""
    for stop_before in range(1, 20):
        index = create(path)
        fill(index, 600)
        index._files = FaultyFiles(stop_before=stop_before)
        try:
            index.seal()
        except StoppedError:
            assert reopen(path, writable=True).count == 600
        else:
            break
    assert stop_before > 3
    assert reopen(path, writable=False).count == 600


def test_a_file_that_was_replaced_by_a_shorter_one_is_noticed(path: str) -> None:
    """Growing or syncing another file than the mapped one would help nobody."""
    index = create(path)
    fill(index, 512)
    os.unlink(path)
    Path(path).write_bytes(b"other")
    for use in (index.sync, index.reserve):
        with pytest.raises(CorruptFileError):
            use()
    assert Path(path).read_bytes() == b"other"


def test_a_closed_index_is_not_used_by_mistake(path: str) -> None:
    """Closing twice is harmless, looking up is a bug."""
    index = create(path)
    index.close()
    index.close()
    with pytest.raises(AssertionError, match="closed"):
        index.lookup(BASE)


def test_an_open_index_holds_one_descriptor(path: str) -> None:
    """Only the mapping's own, so that thousands of partitions stay affordable; closed: none."""
    before = len(os.listdir("/proc/self/fd"))
    index = create(path)
    fill(index, 2000)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    index.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_reader_beside_the_writer_sees_only_whole_states(path: str) -> None:
    """Look-ups while another thread appends, grows, truncates and seals are never wrong."""
    index = create(path, max_bytes=2**20)
    stable = 200  # Entries that are never truncated: answers about them are known.
    fill(index, stable)
    wrong: list[object] = []
    is_done = threading.Event()

    def read() -> None:
        number = 0
        while not is_done.is_set():
            number = number % (stable - 1) + 1
            found = index.lookup(BASE + 10 * number + 5)
            position = index.last_position_at_or_before(4096 * number + 1)
            if found != (BASE + 10 * number, 4096 * number) or position != 4096 * number:
                wrong.append((number, found, position))
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(15):
            for number in range(stable + 1, stable + 1500):
                index.append(BASE + 10 * number, 4096 * number)
            index.truncate_to(BASE + 10 * stable + 1)
        index.seal()
    finally:
        is_done.set()
        reader.join()
    assert not wrong
