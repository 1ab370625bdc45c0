"""The sync journal: what was synced is found again, whatever happens to the file."""

from __future__ import annotations

import os
import random
import struct
import threading
from pathlib import Path

import pytest
import xxhash

from logd.errors import UnsupportedFormatError
from logd.storage import sync_journal
from logd.storage.files import Files, OpenFile
from logd.storage.sync_journal import SyncJournal
from logd.storage.sync_record import HEADER_BYTES, RECORD_BYTES, SyncPoint
from tests.unit.storage_faults import IO_ERROR, NO_SPACE, FaultyFiles, StoppedError

BOOT = "01234567-89ab-cdef-0123-456789abcdef"
OTHER_BOOT = "ffffffff-89ab-cdef-0123-456789abcdef"
SLOTS = 8


@pytest.fixture(autouse=True)
def _small_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves of 8 slots, so that they change often."""
    monkeypatch.setattr(sync_journal, "SLOTS_MIN", SLOTS)


@pytest.fixture
def path(directory: str) -> str:
    return f"{directory}/sync.journal"


def topic(number: int) -> bytes:
    return bytes([number]) * 16


def point(log: int, offset: int) -> SyncPoint:
    return SyncPoint(topic(log), log % 3, 5, 5 + offset, offset * 100)


def open_journal(
    path: str, *, files: Files | None = None, boot_id: str = BOOT, partitions_hint: int = 0
) -> SyncJournal:
    return SyncJournal.open(
        files or Files(), path, boot_id=boot_id, partitions_hint=partitions_hint
    )


def offsets(journal: SyncJournal) -> dict[int, int]:
    """Log number to the synced offset, as `point` was given it."""
    return {key[0][0]: found.synced_offset - 5 for key, found in journal.points.items()}


def test_a_new_journal_is_empty_and_fully_allocated(path: str) -> None:
    """All its blocks are real from the start: it never meets a full disk."""
    journal = open_journal(path)
    assert (journal.points, journal.last_boot_id, journal.problems) == ({}, None, [])
    size = HEADER_BYTES + 2 * SLOTS * RECORD_BYTES
    assert os.path.getsize(path) == size
    assert os.stat(path).st_blocks * 512 >= size


def test_the_newest_point_of_each_log_is_found_again(path: str) -> None:
    """Newest by order of recording, not by offset: a cut may have made an offset lower."""
    journal = open_journal(path)
    for log, offset in ((1, 10), (2, 20), (1, 11), (3, 5), (2, 7)):
        journal.record_all([point(log, offset)])
    assert journal.points[(topic(1), 1)] == point(1, 11)
    journal.close()
    again = open_journal(path, boot_id=OTHER_BOOT)
    assert offsets(again) == {1: 11, 2: 7, 3: 5}
    assert again.points[(topic(3), 0)] == point(3, 5)
    assert again.last_boot_id == BOOT
    assert again.boot_id_of(topic(1), 1) == BOOT
    again.record_all([point(1, 12)])
    assert again.boot_id_of(topic(1), 1) == OTHER_BOOT
    assert again.boot_id_of(topic(9), 0) is None
    assert open_journal(path).last_boot_id == OTHER_BOOT


def test_partitions_of_a_topic_are_logs_of_their_own(path: str) -> None:
    """The key is topic id and partition."""
    journal = open_journal(path)
    for partition in (0, 1):
        journal.record_all([SyncPoint(topic(1), partition, 0, 10 + partition, 0)])
    journal.close()
    found = open_journal(path).points
    assert {key[1]: value.synced_offset for key, value in found.items()} == {0: 10, 1: 11}


def test_halves_change_and_nothing_is_lost(path: str) -> None:
    """After any number of records, each log has its newest one; the file never grows for it."""
    journal = open_journal(path)
    expected: dict[int, int] = {}
    for number in range(200):
        log = 1 if number % 7 else 2
        journal.record_all([point(log, number)])
        expected[log] = number
        if number % 13 == 0:
            journal.close()
            journal = open_journal(path)
        assert offsets(journal) == expected
        assert offsets(open_journal(path)) == expected
    assert os.path.getsize(path) == HEADER_BYTES + 2 * SLOTS * RECORD_BYTES


def test_opening_writes_nothing(path: str) -> None:
    """An intact journal is taken as it is: a full disk keeps no server from starting."""
    journal = open_journal(path)
    for number in range(11):
        journal.record_all([point(number % 2, number)])
    journal.close()
    before = Path(path).read_bytes()
    files = FaultyFiles()
    open_journal(path, files=files)
    assert files.calls == ["sync_data"]
    assert Path(path).read_bytes() == before


def test_it_grows_with_the_logs(path: str) -> None:
    """More logs than a half has room for move to a longer file; all points move along."""
    journal = open_journal(path)
    for log in range(50):
        journal.record_all([point(log, log)])
    assert offsets(journal) == {log: log for log in range(50)}
    assert os.path.getsize(path) > HEADER_BYTES + 2 * 50 * RECORD_BYTES
    journal.close()
    assert offsets(open_journal(path)) == {log: log for log in range(50)}


def test_the_hint_sizes_the_file(path: str) -> None:
    """A journal that is too short for the partitions is replaced when it is opened."""
    open_journal(path).record_all([point(1, 1)])
    journal = open_journal(path, partitions_hint=100)
    assert os.path.getsize(path) == HEADER_BYTES + 2 * 512 * RECORD_BYTES
    assert offsets(journal) == {1: 1}


def test_a_full_disk_does_not_stop_a_journal_that_has_room(path: str) -> None:
    """Growing is put off while the halves still do; at open and in the middle."""
    files = FaultyFiles()
    files.failing["allocate"] = NO_SPACE
    open_journal(path)
    journal = open_journal(path, files=files, partitions_hint=100)
    for number in range(40):
        journal.record_all([point(number % 4, number)])
    assert offsets(journal) == {0: 36, 1: 37, 2: 38, 3: 39}
    assert os.listdir(os.path.dirname(path)) == ["sync.journal"]
    with pytest.raises(OSError, match="space"):
        _record_until_refused(journal)
    files.failing.clear()
    journal.record_all([point(99, 1)])
    assert offsets(open_journal(path))[99] == 1


def _record_until_refused(journal: SyncJournal) -> None:
    for log in range(20, 40):
        journal.record_all([point(log, 1)])


def test_a_forgotten_log_is_not_kept(path: str) -> None:
    """Its record dies out with the halves, and it takes no slot."""
    journal = open_journal(path)
    journal.record_all([point(1, 1)])
    journal.record_all([point(2, 2)])
    journal.forget(topic(1), 1)
    journal.forget(topic(7), 1)
    assert offsets(journal) == {2: 2}
    for number in range(2 * SLOTS):
        journal.record_all([point(2, number)])
    assert offsets(open_journal(path)) == {2: 2 * SLOTS - 1}


def test_a_torn_record_is_skipped(path: str) -> None:
    """Torn after any byte, the newest record counts as not written; the one before it stands."""
    journal = open_journal(path)
    journal.record_all([point(1, 10)])
    journal.record_all([point(2, 20)])
    before = Path(path).read_bytes()
    journal.record_all([point(1, 11)])
    after = Path(path).read_bytes()
    at = HEADER_BYTES + 2 * RECORD_BYTES
    for kept in range(RECORD_BYTES + 1):
        Path(path).write_bytes(after[: at + kept] + before[at + kept :])
        again = open_journal(path)
        is_whole = after[: at + kept] + before[at + kept :] == after
        assert offsets(again) == {1: 11 if is_whole else 10, 2: 20}
        again.record_all([point(2, 21)])
        assert offsets(open_journal(path)) == {1: 11 if is_whole else 10, 2: 21}


def test_every_flipped_bit_is_noticed(path: str) -> None:
    """A record with any bit changed is not believed."""
    journal = open_journal(path)
    journal.record_all([point(1, 10)])
    journal.record_all([point(1, 11)])
    data = Path(path).read_bytes()
    for bit in range(RECORD_BYTES * 8):
        damaged = bytearray(data)
        damaged[HEADER_BYTES + RECORD_BYTES + bit // 8] ^= 1 << bit % 8
        Path(path).write_bytes(damaged)
        assert offsets(open_journal(path)) == {1: 10}


def test_any_garbage_opens(path: str, rng: random.Random) -> None:
    """Whatever the file holds, the journal opens, works, and keeps the records that are intact."""
    journal = open_journal(path)
    for number in range(5):
        journal.record_all([point(number, number)])
    good = Path(path).read_bytes()
    cases = [b"", b"x", bytes(len(good)), rng.randbytes(3 * len(good)), good[:-1], good[:5000]]
    for data in cases:
        Path(path).write_bytes(data)
        journal = open_journal(path)
        assert journal.problems
        journal.record_all([point(9, 9)])
        again = open_journal(path)
        assert offsets(again)[9] == 9
        assert not again.problems
    Path(path).write_bytes(rng.randbytes(HEADER_BYTES) + good[HEADER_BYTES:])
    assert offsets(open_journal(path)) == {number: number for number in range(5)}


def test_a_newer_format_is_refused(path: str) -> None:
    """An intact header of a later version is not garbage: nothing is overwritten."""
    open_journal(path)
    start = struct.pack(">8sII", b"logdsync", 2, SLOTS)
    header = start + struct.pack(">Q", xxhash.xxh3_64_intdigest(start))
    Path(path).write_bytes(header + Path(path).read_bytes()[len(header) :])
    before = Path(path).read_bytes()
    with pytest.raises(UnsupportedFormatError):
        open_journal(path)
    assert Path(path).read_bytes() == before


class BadSector(Files):
    """One sector of the first half cannot be read."""

    def read_at(self, file: OpenFile, position: int, size: int) -> bytes:
        if position == HEADER_BYTES:
            raise OSError(IO_ERROR, "unreadable", file.path)
        return super().read_at(file, position, size)


def test_an_unreadable_part_is_reported_and_left(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be read is kept, in a new file; what cannot is said, with its position."""
    monkeypatch.setattr(sync_journal, "_READ_BYTES", SLOTS * RECORD_BYTES)
    journal = open_journal(path)
    for number in range(SLOTS + 1):  # The last one lies in the second half.
        journal.record_all([point(1, number)])
    journal = open_journal(path, files=BadSector())
    assert offsets(journal) == {1: SLOTS}
    assert str(HEADER_BYTES) in journal.problems[0]


@pytest.mark.parametrize("sync_every", [6, 17, 1000])
@pytest.mark.parametrize("kind", ["kill", "lost", "torn"])
def test_stopped_at_any_call_no_synced_point_is_lost(
    directory: str, path: str, kind: str, sync_every: int, rng: random.Random
) -> None:
    """Through changes of half, growth and repeated openings: at least what was synced is found,
    and nothing that was never recorded."""
    for stop_before in range(400):
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        synced: dict[int, int] = {}
        recorded: dict[int, int] = {}
        files = FaultyFiles(stop_before=stop_before)
        try:
            _work(path, files, synced, recorded, sync_every=sync_every)
        except StoppedError:
            pass  # What this test is about.
        else:
            break
        if kind != "kill":
            files.power_cut(directory, rng if kind == "torn" else None)
        # Opened twice: what opening does must not lose anything either.
        for _ in range(2):
            found = offsets(open_journal(path))
            for log, offset in synced.items():
                assert found[log] >= offset, f"stopped before call {stop_before}"
            for log, offset in found.items():
                assert offset <= recorded[log]
    else:
        pytest.fail("it never ended")
    assert stop_before > 60
    assert {"rename", "sync_directory", "allocate"} <= set(files.calls)


def _work(
    path: str,
    files: FaultyFiles,
    synced: dict[int, int],
    recorded: dict[int, int],
    *,
    sync_every: int,
) -> None:
    """Some logs, then more than fit; synced now and then; opened anew in between."""
    for logs in (2, 3, 12):
        journal = open_journal(path, files=files)
        # Opening has brought what it found to the device.
        synced.update(offsets(journal))
        for number in range(20):
            log = number * 5 % logs
            offset = recorded.get(log, -1) + 1
            recorded[log] = offset
            journal.record_all([point(log, offset)])
            if number % sync_every == 0:
                written = offsets(journal)
                journal.sync()
                synced.update(written)


def test_an_unsynced_half_is_not_relied_on(
    directory: str, path: str, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that is never recorded again keeps its synced point over many changes of half, though
    nobody syncs in between and the device takes any sectors: each change syncs its copies.

    The copies must span sectors, and the log's copy lie in another one than its record did.
    """
    monkeypatch.setattr(sync_journal, "SLOTS_MIN", 32)
    for records in range(20, 140):
        files = FaultyFiles()
        journal = open_journal(path, files=files)
        for number in range(20):
            journal.record_all([point(2 + number % 6, number)])
        journal.record_all([point(1, 1)])
        journal.sync()
        for number in range(records):
            journal.record_all([point(2 + number % 6, 100 + number)])
        files.power_cut(directory, rng)
        assert offsets(open_journal(path)).get(1) == 1
        os.unlink(path)


def test_a_half_that_a_kill_left_incomplete_is_not_gone_on_with(path: str) -> None:
    """Killed while copying: the half that has only some logs is not the one to keep."""
    journal = open_journal(path)
    for number in range(SLOTS):
        journal.record_all([point(number % 2, number)])
    data = bytearray(Path(path).read_bytes())
    # The newest record alone has been copied to the other half.
    newest = data[HEADER_BYTES + (SLOTS - 1) * RECORD_BYTES :][:RECORD_BYTES]
    second = HEADER_BYTES + SLOTS * RECORD_BYTES
    data[second : second + RECORD_BYTES] = newest
    Path(path).write_bytes(data)
    expected = {0: SLOTS - 2, 1: SLOTS - 1}
    assert offsets(open_journal(path)) == expected
    # Going on means leaving that half: by the next record all logs are in one that is complete.
    open_journal(path).record_all([point(1, SLOTS)])
    expected[1] = SLOTS
    assert offsets(open_journal(path)) == expected
    data = bytearray(Path(path).read_bytes())
    data[HEADER_BYTES:second] = bytes(second - HEADER_BYTES)
    Path(path).write_bytes(data)
    assert offsets(open_journal(path)) == expected


def test_a_crash_while_recovering_from_a_crash_loses_nothing(
    directory: str, path: str, rng: random.Random
) -> None:
    """Random stops, losses and reopenings one behind the other: synced points only ever rise."""
    synced: dict[int, int] = {}
    recorded: dict[int, int] = {}
    for _ in range(150):
        files = FaultyFiles(stop_before=rng.randrange(40))
        try:
            _work(path, files, synced, recorded, sync_every=rng.choice((6, 17, 1000)))
        except StoppedError:
            if rng.random() < 0.7:
                files.power_cut(directory, rng)
        found = offsets(open_journal(path))
        for log, offset in synced.items():
            assert found[log] >= offset
        # What was found is on disk now; what a crash lost was never recorded.
        synced = dict(found)
        recorded = dict(found)


def test_a_failed_sync_is_mended_by_a_new_file(path: str) -> None:
    """The kernel may have dropped what was written, so it is written again, elsewhere."""
    files = FaultyFiles()
    journal = open_journal(path, files=files)
    journal.record_all([point(1, 1)])
    inode = os.stat(path).st_ino
    files.failing["sync_data"] = IO_ERROR
    with pytest.raises(OSError, match="Input/output"):
        journal.sync()
    assert journal.dirty
    files.failing.clear()
    files.calls.clear()
    journal.record_all([point(2, 2)])
    assert files.calls[:5] == [
        "create_or_truncate", "allocate", "write_at", "sync", "rename",
    ]  # fmt: skip
    assert os.stat(path).st_ino != inode
    journal.sync()
    assert not journal.dirty
    assert offsets(open_journal(path)) == {1: 1, 2: 2}


def test_a_failed_change_of_halves_is_mended_as_well(path: str) -> None:
    """The point is refused, and the next one starts from a sound file."""
    files = FaultyFiles()
    journal = open_journal(path, files=files)
    for number in range(SLOTS):
        journal.record_all([point(1, number)])
    files.failing["sync_data"] = IO_ERROR
    with pytest.raises(OSError, match="Input/output"):
        journal.record_all([point(1, 100)])
    assert offsets(journal) == {1: SLOTS - 1}
    files.failing.clear()
    journal.record_all([point(1, 101)])
    assert offsets(open_journal(path)) == {1: 101}


def test_dirty_tells_when_a_sync_is_due(path: str) -> None:
    """A record makes it dirty, a sync clean; a clean journal is not synced again."""
    files = FaultyFiles()
    journal = open_journal(path, files=files)
    assert not journal.dirty
    journal.record_all([point(1, 1)])
    assert journal.dirty
    files.calls.clear()
    journal.sync()
    journal.sync()
    assert not journal.dirty
    assert files.calls == ["sync_data"]


def test_what_was_noted_is_recorded_by_the_next_sync_each_log_once(path: str) -> None:
    """One write for all logs, the newest point of each; noting alone does no I/O."""
    files = FaultyFiles()
    journal = open_journal(path, files=files)
    files.calls.clear()
    for number in range(1000):
        journal.note(point(number % 3, number))
    assert files.calls == []
    assert journal.dirty
    journal.sync()
    assert files.calls == ["write_at", "sync_data"]
    assert not journal.dirty
    assert offsets(open_journal(path)) == {0: 999, 1: 997, 2: 998}


def test_what_could_not_be_recorded_is_recorded_later_unless_there_is_newer(path: str) -> None:
    """A failed write loses no point, and brings back no old one."""
    files = FaultyFiles()
    journal = open_journal(path, files=files)
    journal.note(point(1, 10))
    journal.note(point(2, 20))
    files.failing["write_at"] = IO_ERROR
    with pytest.raises(OSError, match="Input/output"):
        journal.sync()
    files.failing.clear()
    assert journal.dirty
    journal.note(point(2, 21))
    journal.close()
    assert offsets(open_journal(path)) == {1: 10, 2: 21}


def test_a_log_that_is_forgotten_is_not_recorded_though_it_was_noted(path: str) -> None:
    """Deleted between its last sync and the journal's."""
    journal = open_journal(path)
    journal.note(point(1, 10))
    journal.note(point(2, 20))
    journal.forget(topic(1), 1)
    journal.close()
    assert offsets(open_journal(path)) == {2: 20}


def test_many_threads_record_at_once(path: str) -> None:
    """No record is lost or mixed up, and syncs may come in between."""
    journal = open_journal(path)

    def work(log: int) -> None:
        for number in range(300):
            if log % 2:
                journal.note(point(log, number))
            else:
                journal.record_all([point(log, number)])
            if number % 50 == 0:
                journal.sync()

    threads = [threading.Thread(target=work, args=(log,)) for log in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    assert offsets(open_journal(path)) == dict.fromkeys(range(6), 299)


def test_points_that_cannot_be_are_bugs(path: str) -> None:
    """Below its segment's base, or with an id of another length."""
    journal = open_journal(path)
    for bad in (
        SyncPoint(topic(1), 0, 10, 9, 0),
        SyncPoint(b"short", 0, 0, 1, 0),
        SyncPoint(topic(1), -1, 0, 1, 0),
        SyncPoint(topic(1), 0, 0, 1, -1),
    ):
        with pytest.raises(AssertionError):
            journal.record_all([bad])
    assert journal.points == {}
