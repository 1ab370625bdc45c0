"""storage.recovery: what is kept, cut, quarantined, rebuilt; and reading beside damage."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from dataclasses import replace

import pytest

from logd.errors import (
    DamagedRangeError,
    DiskFullError,
    UnsupportedFormatError,
)
from logd.record.batch import read_header, set_place
from logd.storage.files import OpenFile
from logd.storage.log import Log, LogSettings
from logd.storage.recovery_walk import Verdict, judge
from logd.storage.sync_record import SyncPoint
from logd.storage.verified_ranges import VerifiedRanges
from tests.crash.lying_disk import FastFiles
from tests.unit.log_builder import (
    SMALL,
    TOPIC_ID,
    append,
    bases,
    batch_of,
    fill,
    headers_in,
    make_log,
    overwrite,
    recover_log,
    segment_path,
    stage,
    write,
)

BATCH_BYTES = len(batch_of([b"x" * 50] * 2))
ONE_SEGMENT = LogSettings(segment_bytes=1 << 30, segment_offsets=100, index_interval_bytes=200)


def abandoned_log(
    directory: str, count: int = 6, *, settings: LogSettings = ONE_SEGMENT
) -> SyncPoint:
    """A log of `count` batches of two records, all synced, whose process died."""
    log = make_log(directory, settings=settings)
    point = fill(log, count)
    log.let_go()
    assert point is not None
    return point


def readable(log: Log) -> list[int]:
    """Return the base offsets of all batches that can be read, asking at every offset."""
    found = []
    for offset in range(log.log_start_offset, log.end_offset):
        try:
            piece = log.read(offset, max_bytes=1, below=log.end_offset)
        except DamagedRangeError:
            continue  # What cannot be read is not among what is returned.
        if piece.size:
            header = headers_in(log, piece)[0]
            assert header.base_offset <= offset
            found.append(header.base_offset)
    return sorted(set(found))


# --- the judgement
# -----------------------------------------------------------------------------------


@pytest.mark.parametrize("same_boot", [True, False])
@pytest.mark.parametrize("is_torn", [True, False])
@pytest.mark.parametrize("batch_follows", [True, False])
def test_nothing_below_the_recovery_point_is_cut(
    same_boot: bool, is_torn: bool, batch_follows: bool
) -> None:
    """Whatever else is known."""
    verdict = judge(
        is_below_recovery_point=True,
        same_boot=same_boot,
        is_torn=is_torn,
        batch_follows=batch_follows,
    )
    assert verdict is Verdict.DAMAGE


@pytest.mark.parametrize(
    ("same_boot", "is_torn", "batch_follows", "verdict"),
    [
        (False, False, True, Verdict.CUT),
        (False, True, False, Verdict.CUT),
        (True, True, False, Verdict.CUT),
        (True, True, True, Verdict.DAMAGE),
        (True, False, False, Verdict.DAMAGE),
        (True, False, True, Verdict.DAMAGE),
    ],
)
def test_behind_the_recovery_point_the_boot_decides(
    same_boot: bool, is_torn: bool, batch_follows: bool, verdict: Verdict
) -> None:
    """A power cut leaves anything; a process that died leaves at most half a write at the end."""
    assert verdict is judge(
        is_below_recovery_point=False,
        same_boot=same_boot,
        is_torn=is_torn,
        batch_follows=batch_follows,
    )


# --- tails
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_boot", [True, False])
@pytest.mark.parametrize("size", [1, 7, 8, 30, 61, 100, BATCH_BYTES - 1])
def test_half_a_write_is_cut_and_saved(directory: str, same_boot: bool, size: int) -> None:
    """Any prefix of the next batch at the end of the file goes; its bytes are beside the log."""
    point = abandoned_log(directory)
    batch = batch_of([b"x" * 50] * 2)
    set_place(batch, 0, base_offset=12, leader_epoch=0)
    with open(segment_path(directory, 0), "ab") as file:
        file.write(batch[:size])
    log, report = recover_log(directory, settings=ONE_SEGMENT, point=point, same_boot=same_boot)
    (cut,) = report.cuts
    assert (cut.position, cut.size_bytes) == (6 * BATCH_BYTES, size)
    assert os.path.basename(cut.saved_path) == f"{0:020d}.{6 * BATCH_BYTES}.cut"
    with open(cut.saved_path, "rb") as file:
        assert file.read() == batch[:size]
    assert log.end_offset == 12
    assert log.size_bytes == os.path.getsize(segment_path(directory, 0)) == 6 * BATCH_BYTES
    assert any("cut" in line or "saved" in line for line in report.lines())
    append(log, batch_of())
    assert readable(log) == [0, 2, 4, 6, 8, 10, 12]


def test_after_a_power_cut_all_behind_the_first_hole_goes(directory: str) -> None:
    """Valid batches behind a hole prove nothing, when the recovery point lies before it."""
    abandoned_log(directory)
    overwrite(segment_path(directory, 0), 3 * BATCH_BYTES, bytes(BATCH_BYTES))
    point = SyncPoint(TOPIC_ID, 0, 0, 4, 2 * BATCH_BYTES)
    log, report = recover_log(directory, settings=ONE_SEGMENT, point=point, same_boot=False)
    assert [cut.position for cut in report.cuts] == [3 * BATCH_BYTES]
    assert not report.damaged
    assert log.end_offset == 6
    assert readable(log) == [0, 2, 4]


def test_without_a_power_cut_the_same_hole_is_damage(directory: str) -> None:
    """The kernel lost nothing, so a hole is the disk's fault: quarantined, the rest is served."""
    abandoned_log(directory)
    overwrite(segment_path(directory, 0), 3 * BATCH_BYTES, bytes(BATCH_BYTES))
    point = SyncPoint(TOPIC_ID, 0, 0, 4, 2 * BATCH_BYTES)
    log, report = recover_log(directory, settings=ONE_SEGMENT, point=point, same_boot=True)
    assert not report.cuts
    assert [(d.first_offset, d.next_offset) for d in report.damaged] == [(6, 8)]
    assert readable(log) == [0, 2, 4, 8, 10]
    assert bases(directory) == [0, 12]


def test_a_tail_cut_twice_at_one_position_is_saved_twice(directory: str) -> None:
    """Evidence is not overwritten by other evidence."""
    point = abandoned_log(directory)
    saved = []
    for garbage in (b"first", b"second", b"second"):
        with open(segment_path(directory, 0), "ab") as file:
            file.write(garbage)
        _, report = recover_log(directory, settings=ONE_SEGMENT, point=point, same_boot=False)
        saved.append(os.path.basename(report.cuts[0].saved_path))
    stem = f"{0:020d}.{6 * BATCH_BYTES}"
    assert saved == [f"{stem}.cut", f"{stem}-1.cut", f"{stem}-1.cut"]


def test_nothing_is_cut_without_space_to_save_it(directory: str) -> None:
    """The partition does not open, and the bytes stay where they are."""
    point = abandoned_log(directory)
    with open(segment_path(directory, 0), "ab") as file:
        file.write(b"tail")

    class Full(FastFiles):
        def create_or_truncate(self, path: str) -> OpenFile:
            raise OSError(errno.ENOSPC, "no space", path)

    with pytest.raises(DiskFullError):
        recover_log(directory, settings=ONE_SEGMENT, point=point, files=Full(), same_boot=False)
    assert os.path.getsize(segment_path(directory, 0)) == 6 * BATCH_BYTES + 4


def test_deleting_the_segment_takes_its_saved_tail_along(directory: str) -> None:
    """Cut bytes go with the retention of the log they were cut from."""
    point = abandoned_log(directory)
    with open(segment_path(directory, 0), "ab") as file:
        file.write(b"tail")
    log, report = recover_log(directory, settings=ONE_SEGMENT, point=point, same_boot=False)
    result = log.delete_before(log.end_offset)
    assert report.cuts[0].saved_path + ".deleted" in result.unlink_paths


# --- damage
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_boot", [True, False])
@pytest.mark.parametrize("at", [0, 3, 5, 7, 9, 12, 16, 17, 40, 80])
def test_a_flipped_bit_below_the_recovery_point_costs_one_batch(
    directory: str, same_boot: bool, at: int
) -> None:
    """Wherever in the batch; the range is durable, known by its file, and appends go on behind."""
    point = abandoned_log(directory)
    path = segment_path(directory, 0)
    with open(path, "rb") as file:
        data = file.read()
    position = 2 * BATCH_BYTES + at
    overwrite(path, position, bytes([data[position] ^ 0x10]))
    for _ in range(2):
        log, report = recover_log(directory, settings=ONE_SEGMENT, point=point, same_boot=same_boot)
        (damaged,) = log.damaged
        assert (damaged.first_offset, damaged.next_offset) == (4, 6)
        assert (damaged.position, damaged.end_position) == (2 * BATCH_BYTES, 3 * BATCH_BYTES)
        assert damaged.file == os.path.basename(path)
        assert not report.cuts
        assert log.end_offset == 12
        assert bases(directory) == [0, 12]
        assert readable(log) == [0, 2, 6, 8, 10]
        log.let_go()
    with open(path, "rb") as file:
        assert len(file.read()) == len(data)


@pytest.mark.parametrize("same_boot", [True, False])
def test_synced_bytes_that_are_missing_are_damage_and_their_offsets_never_come_again(
    directory: str, same_boot: bool
) -> None:
    """The file is shorter than what was synced: the log goes on behind the recovery point."""
    point = abandoned_log(directory)
    os.truncate(segment_path(directory, 0), 2 * BATCH_BYTES)
    log, report = recover_log(directory, settings=ONE_SEGMENT, point=point, same_boot=same_boot)
    assert [(d.first_offset, d.next_offset) for d in report.damaged] == [(4, 12)]
    assert log.end_offset == 12
    append(log, batch_of())
    assert readable(log) == [0, 2, 12]
    with pytest.raises(DamagedRangeError):
        log.read(7, max_bytes=100, below=13)
    log.let_go()
    log, report = recover_log(directory, settings=ONE_SEGMENT, point=point, same_boot=same_boot)
    assert not report.damaged
    assert readable(log) == [0, 2, 12]


def test_a_missing_last_segment_is_damage(directory: str) -> None:
    """The journal knows of a segment that is not there."""
    settings = LogSettings(segment_offsets=4)
    point = abandoned_log(directory, settings=settings)
    os.unlink(segment_path(directory, 8))
    log, report = recover_log(directory, settings=settings, point=point, same_boot=False)
    assert [(d.first_offset, d.next_offset) for d in report.damaged] == [(8, 12)]
    assert bases(directory) == [0, 4, 12]
    assert readable(log) == [0, 2, 4, 6]


def test_a_gap_between_segments_is_damage_unless_compacted(directory: str) -> None:
    """Compaction leaves gaps; in other logs a missing segment is noticed."""
    settings = LogSettings(segment_offsets=4)
    abandoned_log(directory, settings=settings)
    os.unlink(segment_path(directory, 4))
    log, report = recover_log(
        directory, settings=replace(settings, is_compacted=True), same_boot=False
    )
    assert not report.damaged
    log.let_go()
    log, report = recover_log(directory, settings=settings, same_boot=False)
    assert [(d.first_offset, d.next_offset) for d in report.damaged] == [(4, 8)]
    assert readable(log) == [0, 2, 8, 10]
    with pytest.raises(DamagedRangeError):
        log.try_read(5, max_bytes=100, below=12)


def test_a_segment_that_is_missing_before_the_checkpoint_is_found_by_a_whole_walk(
    directory: str,
) -> None:
    """A checkpoint vouches for what was there; who knows better has all segments looked at."""
    settings = LogSettings(segment_offsets=4)
    log = make_log(directory, settings=settings)
    fill(log, 6)
    log.checkpoint()
    log.let_go()
    os.unlink(segment_path(directory, 4))
    log, report = recover_log(directory, settings=settings, same_boot=False)
    assert not report.damaged
    log.let_go()
    log, report = recover_log(directory, settings=settings, same_boot=False, from_begin=True)
    assert [(d.first_offset, d.next_offset) for d in report.damaged] == [(4, 8)]
    assert readable(log) == [0, 2, 8, 10]


def test_a_reader_is_not_led_over_a_missing_segment(directory: str) -> None:
    """What a recovery from the checkpoint does not see, the first reader there finds, for good."""
    settings = LogSettings(segment_offsets=4)
    log = make_log(directory, settings=settings)
    fill(log, 6)
    log.checkpoint()
    log.let_go()
    os.unlink(segment_path(directory, 4))
    log, report = recover_log(directory, settings=settings, same_boot=False)
    assert not report.damaged
    for offset in (6, 4, 5):
        with pytest.raises(DamagedRangeError):
            log.read(offset, max_bytes=1000, below=12)
    assert [(d.first_offset, d.next_offset) for d in log.damaged] == [(4, 8)]
    assert readable(log) == [0, 2, 8, 10]
    log.let_go()
    log, _ = recover_log(directory, settings=settings, same_boot=False)
    assert [(d.first_offset, d.next_offset) for d in log.damaged] == [(4, 8)]


def test_a_reader_goes_over_what_was_compacted(directory: str) -> None:
    """Where compaction takes records, a segment may end before the next one begins."""
    settings = LogSettings(segment_offsets=4, is_compacted=True)
    log = make_log(directory, settings=settings)
    fill(log, 6)
    log.checkpoint()
    log.let_go()
    os.unlink(segment_path(directory, 4))
    log, _ = recover_log(directory, settings=settings, same_boot=False)
    found = log.read(5, max_bytes=1, below=12)
    assert headers_in(log, found)[0].base_offset == 8
    assert not log.damaged


def test_damage_at_the_end_on_the_same_boot_skips_the_segments_range(directory: str) -> None:
    """How many offsets the damaged bytes held is unknown; none of them is assigned again."""
    abandoned_log(directory)
    overwrite(segment_path(directory, 0), 4 * BATCH_BYTES, b"\xff" * (2 * BATCH_BYTES))
    point = SyncPoint(TOPIC_ID, 0, 0, 4, 2 * BATCH_BYTES)
    log, report = recover_log(directory, settings=ONE_SEGMENT, point=point, same_boot=True)
    assert [(d.first_offset, d.next_offset) for d in report.damaged] == [(8, 100)]
    assert log.end_offset == 100
    assert bases(directory) == [0, 100]


def test_damage_found_by_a_reader_is_quarantined_for_good(directory: str) -> None:
    """The reader gets an error, those behind are served, a restart still knows, appends roll."""
    log = make_log(directory, settings=ONE_SEGMENT)
    fill(log, 6)
    log, _ = recover_log(directory, settings=ONE_SEGMENT)
    overwrite(segment_path(directory, 0), 3 * BATCH_BYTES + 90, b"\x00\x01\x02")
    log.segment_list.active.verified = VerifiedRanges()  # As after another start.
    piece = log.read(0, max_bytes=1 << 20, below=12)
    assert [header.base_offset for header in headers_in(log, piece)] == [0, 2, 4]
    with pytest.raises(DamagedRangeError):
        log.read(6, max_bytes=1, below=12)
    assert [(d.first_offset, d.next_offset) for d in log.damaged] == [(6, 8)]
    with pytest.raises(DamagedRangeError):
        log.try_read(7, max_bytes=1, below=12)
    assert readable(log) == [0, 2, 4, 8, 10]
    append(log, batch_of())
    assert bases(directory) == [0, 12]
    log.let_go()
    log, report = recover_log(directory, settings=ONE_SEGMENT)
    assert not report.damaged
    assert [(d.first_offset, d.next_offset) for d in log.damaged] == [(6, 8)]
    log.delete_before(8)
    assert log.damaged == []


# --- directories that are not as expected
# -----------------------------------------------------------------


def test_of_overlapping_segments_the_later_one_counts(directory: str) -> None:
    """No offset is served twice: what reaches into the next segment is quarantined."""
    settings = LogSettings(segment_offsets=4)
    abandoned_log(directory, settings=settings)
    batch = batch_of([b"other"] * 2)
    set_place(batch, 0, base_offset=4, leader_epoch=0)
    with open(segment_path(directory, 0), "ab") as file:
        file.write(batch)
    log, report = recover_log(directory, settings=settings)
    (damaged,) = report.damaged
    assert (damaged.base_offset, damaged.position) == (0, 2 * BATCH_BYTES)
    assert readable(log) == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("bit", [0x10, 0x20])
def test_transactions_are_refused_by_name_and_offset(directory: str, bit: int) -> None:
    """A copied Kafka directory with transactional or control batches does not open, and stays."""
    abandoned_log(directory)
    batch = batch_of([b"v"] * 2, producer_id=1, producer_epoch=0, base_sequence=0)
    set_place(batch, 0, base_offset=12, leader_epoch=0)
    batch[22] |= bit
    from crc32c import crc32c

    batch[17:21] = struct.pack(">I", crc32c(bytes(batch[21:])))
    with open(segment_path(directory, 0), "ab") as file:
        file.write(batch)
    with pytest.raises(UnsupportedFormatError, match="offset 12"):
        recover_log(directory, settings=ONE_SEGMENT)
    assert os.path.getsize(segment_path(directory, 0)) == 6 * BATCH_BYTES + len(batch)


def test_messages_of_old_formats_are_refused_not_cut(directory: str) -> None:
    """They are intact; a server that cannot read them must not take them for a torn tail."""
    abandoned_log(directory)
    body = struct.pack(">bbqii", 1, 0, 123, -1, 3) + b"abc"
    message = struct.pack(">qiI", 12, len(body) + 4, zlib.crc32(body)) + body
    with open(segment_path(directory, 0), "ab") as file:
        file.write(message)
    for same_boot in (True, False):
        with pytest.raises(UnsupportedFormatError, match="format 0 or 1"):
            recover_log(directory, settings=ONE_SEGMENT, same_boot=same_boot)


def test_a_directory_copied_from_kafka_opens(directory: str) -> None:
    """Segments that begin anywhere, epochs of its own, preallocated indexes, files of no use."""
    settings = LogSettings(segment_offsets=4, index_interval_bytes=100)
    abandoned_log(directory, settings=settings)
    for base in (0,):
        os.unlink(segment_path(directory, base))
    with open(f"{directory}/t-0/leader-epoch-checkpoint", "w", encoding="ascii") as file:
        file.write("0\n1\n7 4\n")
    os.unlink(f"{directory}/t-0/partition.metadata")
    with open(segment_path(directory, 8, ".index"), "wb") as file:
        file.write(bytes(10 * 1024 * 1024))
    open(segment_path(directory, 8, ".snapshot"), "wb").close()
    log, report = recover_log(directory, settings=settings, same_boot=False)
    assert (log.log_start_offset, log.end_offset, log.leader_epoch) == (4, 12, 7)
    assert report.unknown == []
    append(log, batch_of())
    assert readable(log) == [4, 6, 8, 10, 12]
    assert log.end_offset_for_epoch(7) == (7, 13)


def test_missing_and_zeroed_indexes_of_sealed_segments_are_rebuilt(directory: str) -> None:
    """A look-up in any segment works, whatever a crash did to its indexes."""
    log = make_log(directory)
    fill(log, 40)
    log.let_go()
    os.unlink(segment_path(directory, bases(directory)[0], ".index"))
    path = segment_path(directory, bases(directory)[1], ".index")
    overwrite(path, 0, bytes(os.path.getsize(path)))
    log, _ = recover_log(directory)
    assert readable(log) == list(range(0, 80, 2))


def test_unknown_files_are_reported_and_left_alone(directory: str) -> None:
    """What is not ours is not touched."""
    abandoned_log(directory)
    with open(f"{directory}/t-0/notes.txt", "w", encoding="ascii") as file:
        file.write("mine")
    _, report = recover_log(directory, settings=ONE_SEGMENT)
    assert report.unknown == ["notes.txt"]
    assert os.path.exists(f"{directory}/t-0/notes.txt")
    assert any("notes.txt" in line for line in report.lines())


def test_an_empty_directory_becomes_an_empty_log(directory: str) -> None:
    """What a creation that a crash cut short leaves."""
    os.mkdir(f"{directory}/t-0")
    log, report = recover_log(directory)
    assert (log.log_start_offset, log.end_offset) == (0, 0)
    assert report.lines() == []
    append(log, batch_of())
    assert readable(log) == [0]


def test_a_recovery_without_findings_says_nothing(directory: str) -> None:
    """A plain kill -9 leaves nothing that an operator should read."""
    point = abandoned_log(directory)
    log, report = recover_log(directory, settings=ONE_SEGMENT, point=point)
    assert report.lines() == []
    assert log.end_offset == 12


# --- where the walk begins
# ----------------------------------------------------------------------------------


def test_the_walk_begins_at_the_checkpoint(directory: str) -> None:
    """Bytes below S are not read again; producers and time index go on from the snapshot."""
    log = make_log(directory, settings=ONE_SEGMENT)
    for number in range(10):
        append(log, batch_of([b"x" * 50] * 2, timestamp_ms=9000 - number, producer_id=5,
                             producer_epoch=0, base_sequence=2 * number))  # fmt: skip
    log.checkpoint(log.begin_checkpoint())
    last = batch_of([b"y"], timestamp_ms=1, producer_id=5, producer_epoch=0, base_sequence=20)
    point = append(log, last)
    log.let_go()
    log, report = recover_log(directory, settings=ONE_SEGMENT, point=point, same_boot=False)
    assert report.walked_bytes == len(last)
    duplicate = log.producers.check(read_header(last))
    assert duplicate is not None
    assert duplicate.base_offset == 20
    assert log.max_timestamp(below=21) == (0, 9000)
    assert readable(log) == [*range(0, 20, 2), 20]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(directory: str) -> None:
    """Two are kept, and without either the whole log is walked: the outcome is the same."""
    settings = replace(ONE_SEGMENT, index_interval_bytes=0)
    log = make_log(directory, settings=settings)
    snapshots = []
    point: SyncPoint | None = None
    for number in range(3):
        point = append(log, batch_of(producer_id=5, producer_epoch=0, base_sequence=number))
        log.checkpoint(log.begin_checkpoint())
        snapshots.append(f"{directory}/t-0/{log.written_offset:020d}.producers")
    log.let_go()
    size = len(batch_of())
    for path, walked in [(snapshots[2], size), (snapshots[1], 3 * size)]:
        overwrite(path, 30, b"\xff\xff")
        log, report = recover_log(directory, settings=settings, point=point)
        assert report.walked_bytes == walked
        assert log.producers.entries()[0].last_sequence == 2
        assert log.end_offset == 3
        log.let_go()


def test_a_checkpoint_of_a_lost_future_is_removed(directory: str) -> None:
    """Its offset will come again, for other records; it must not be found then."""
    log = make_log(directory, settings=ONE_SEGMENT)
    fill(log, 3)
    log.checkpoint(log.begin_checkpoint())
    log.let_go()
    os.truncate(segment_path(directory, 0), 2 * BATCH_BYTES)
    log, _ = recover_log(directory, settings=ONE_SEGMENT, point=None, same_boot=False)
    assert log.end_offset == 4
    assert not [name for name in os.listdir(f"{directory}/t-0") if name.endswith(".producers")]


# --- leader epochs
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flush_mode", "same_boot", "bumped"),
    [("commit", False, False), ("os", True, False), ("os", False, True), ("interval", False, True)],
)
def test_an_epoch_begins_where_readers_may_have_seen_lost_records(
    directory: str, flush_mode: str, same_boot: bool, bumped: bool
) -> None:
    """After a power cut of a log whose readers were ahead of the sync, and only then."""
    settings = replace(ONE_SEGMENT, flush_mode=flush_mode)
    abandoned_log(directory, settings=settings)
    for _ in range(2):  # A second start without an append in between begins the same epoch.
        log, report = recover_log(directory, settings=settings, same_boot=same_boot)
        assert log.leader_epoch == int(bumped)
        assert (report.new_epoch is not None) is bumped
        log.let_go()
    log, _ = recover_log(directory, settings=settings, same_boot=True)
    batch = batch_of()
    stage(log, batch)
    write(log)
    assert read_header(batch).leader_epoch == int(bumped)
    if bumped:
        assert log.end_offset_for_epoch(0) == (0, 12)
        assert log.end_offset_for_epoch(1) == (1, 13)


# --- a deletion that was cut short
# ------------------------------------------------------------------------------


def test_segments_below_the_log_start_are_removed(directory: str) -> None:
    """The new start was durable, the renames were not."""
    settings = LogSettings(segment_offsets=4)
    log = make_log(directory, settings=settings)
    fill(log, 6)
    copies = {}
    for name in os.listdir(f"{directory}/t-0"):
        with open(f"{directory}/t-0/{name}", "rb") as file:
            copies[name] = file.read()
    log.delete_before(9)
    log.let_go()
    for name, data in copies.items():
        with open(f"{directory}/t-0/{name}", "wb") as file:
            file.write(data)
    log, report = recover_log(directory, settings=settings)
    assert bases(directory) == [8]
    assert (log.log_start_offset, log.end_offset) == (9, 12)
    assert not report.damaged
    assert SMALL.flush_mode == "commit"
