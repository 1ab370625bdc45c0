"""Segments replaced under a live log: its readers, its files, its restarts, and what is refused."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from logd.errors import (
    CorruptFileError,
    DataDirectoryError,
    LogFailedError,
    SegmentsChangedError,
    UnsupportedFormatError,
)
from logd.policy.compaction import CompactionPlan
from logd.storage import swap
from logd.storage.adoption import copy_partition
from logd.storage.check_partition import Expected, check_partition
from logd.storage.check_report import CheckReport
from logd.storage.clean_order import CleanLimits, CleanOrder, CleanResult, NewSegment
from logd.storage.cleaned_segment import unlink_cleaned
from logd.storage.compaction_state import CompactionState, read_compaction, write_compaction
from logd.storage.files import Files
from logd.storage.inspect import Depth, inspect_file
from logd.storage.layout import cleaned_file_name
from logd.storage.log import Log, LogSettings
from logd.storage.state_file import write_state
from logd.storage.swap import Replacement, read_replacement, write_replacement
from tests.crash.lying_disk import FastFiles
from tests.unit.compaction_rig import (
    COMPACTED,
    NOW_MS,
    append_pairs,
    batches_in,
    compact,
    order_round,
    plan,
    rows_in,
    run_round,
)
from tests.unit.log_builder import bases, make_log, overwrite, recover_log, reopen, segment_path

REPLACEMENT = Replacement(
    7,
    (0, 100, 250),
    (NewSegment(0, 4096, 16, 24), NewSegment(250, 61, 0, 0)),
    CompactionState(300, 1_700_000_000_000),
)


def filled(directory: str, *, settings: LogSettings = COMPACTED) -> Log:
    """Return a log of some segments, with much to forget and an empty active segment."""
    log = make_log(directory, settings=settings)
    for number in range(60):
        append_pairs(log, (b"k%d" % (number % 5), b"v" * 80), (b"n%d" % number, b"x"))
    log.roll_now()
    assert len(log.segment_list.items) > 4
    return log


def cleaned(log: Log, attempt: int = 1) -> tuple[CleanOrder, CleanResult]:
    """Do a round, and do not put it in place."""
    order = order_round(log, attempt=attempt)
    assert order is not None
    return order, run_round(order, log)


def cleaned_names(log: Log) -> list[str]:
    return [name for name in os.listdir(log.directory) if name.endswith(".cleaned")]


# --- the log goes on ------------------------------------------------------------------------------


def test_the_log_goes_on_between_a_round_and_its_commit(directory: str) -> None:
    """Appends, rolls and checkpoints in between change nothing of it; what was told is true."""
    log = filled(directory)
    order, result = cleaned(log)
    append_pairs(log, (b"k1", b"later"))
    log.roll_now()
    append_pairs(log, (b"k2", b"later"))
    log.checkpoint()
    before = rows_in(log)
    unlink_paths = log.replace_segments(order, result).unlink_paths
    # Three rows of `k…` are superseded within the round; `k1` and `k2` once more, behind it.
    kept = {row.offset for row in before if row.offset >= order.end_offset}
    rows = rows_in(log)
    assert {row.offset for row in rows} >= kept
    assert len(rows) == result.after.records + 2
    assert sum(info.size_bytes for info in log.segments()) == log.size_bytes
    on_disk = [os.path.getsize(segment_path(directory, base)) for base in bases(directory)]
    assert sum(on_disk) == log.size_bytes
    assert all(path.endswith(".deleted") and os.path.exists(path) for path in unlink_paths)
    assert cleaned_names(log) == []
    assert read_compaction(FastFiles(), log.directory).first_uncleaned_offset == order.end_offset


def test_a_reader_of_the_old_files_finishes(directory: str) -> None:
    """A slice that was given out before reads the old bytes, also when they are unlinked."""
    log = filled(directory)
    piece = log.read(0, max_bytes=500, below=log.synced_offset)
    before = log.files.read_at(piece.file, piece.position, piece.size)
    order, result = cleaned(log)
    for path in log.replace_segments(order, result).unlink_paths:
        os.unlink(path)
    assert log.files.read_at(piece.file, piece.position, piece.size) == before
    assert log.read(0, max_bytes=500, below=log.synced_offset).file.fd != piece.file.fd


def test_a_reader_that_comes_too_late_looks_anew(directory: str) -> None:
    """An old segment that nobody has open is never opened by a name that is another one's now."""
    log = filled(directory)
    old = log.segment_list.items[0]
    log.open_files.forget(old)
    order, result = cleaned(log)
    log.replace_segments(order, result)
    with pytest.raises(SegmentsChangedError):
        log.open_segment(old)
    assert log.read(0, max_bytes=500, below=log.synced_offset).size > 0


def test_readers_beside_many_rounds_see_whole_versions(directory: str) -> None:
    """Threads that read all the time see, for every key, no gap: at least its last record."""
    log = filled(directory)
    expected = {row.key: row for row in rows_in(log)}
    stop = threading.Event()
    problems: list[str] = []

    def reader() -> None:
        while not stop.is_set():
            log.open_files.forget(log.segment_list.items[0])
            newest = {row.key: row for row in rows_in(log)}
            found = log.offset_for_timestamp(0, below=log.synced_offset)
            if found is None or any(newest.get(key) != row for key, row in expected.items()):
                problems.append(f"{len(newest)} of {len(expected)} keys")

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for attempt in range(12):
            facts = log.compaction_facts(bound_offset=log.synced_offset)
            assert facts.first_dirty_offset in (0, facts.segments[-1].end_offset)
            log.compaction = CompactionState(0, None)  # All over again.
            order, result = cleaned(log, attempt)
            for path in log.replace_segments(order, result).unlink_paths:
                os.unlink(path)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []


# --- what is refused ------------------------------------------------------------------------------


def test_a_round_whose_segments_were_deleted_is_refused(directory: str) -> None:
    """Nothing is lost, nothing comes back; the next round begins with what is there."""
    log = filled(directory)
    order, result = cleaned(log)
    log.delete_before(log.segment_list.bases[2])
    before = rows_in(log)
    with pytest.raises(SegmentsChangedError):
        log.replace_segments(order, result)
    unlink_cleaned(log.files, log.directory, order.attempt)
    assert cleaned_names(log) == []
    assert rows_in(log) == before
    assert compact(log, attempt=2, rolls=False) is not None
    assert {row.key for row in rows_in(log)} == {row.key for row in before}


def test_a_new_log_start_inside_a_segment_is_no_obstacle(directory: str) -> None:
    """What was deleted meanwhile stays deleted, whether or not the round kept it."""
    log = filled(directory)
    order, result = cleaned(log)
    log.delete_before(3)
    log.replace_segments(order, result)
    assert min(row.offset for row in rows_in(log)) >= 3
    assert log.log_start_offset == 3


def test_a_round_whose_segments_were_found_damaged_is_refused(directory: str) -> None:
    """The quarantined range names a place in the old file."""
    log = filled(directory)
    order, result = cleaned(log)
    segment = log.segment_list.items[1]
    overwrite(segment.paths.log, 70, b"\xff\xff")
    log.open_files.forget(segment)
    with pytest.raises(Exception, match="damaged"):
        log.read(segment.base_offset, max_bytes=1, below=log.synced_offset)
    with pytest.raises(SegmentsChangedError):
        log.replace_segments(order, result)
    assert "quarantined" in str(plan(log))


@pytest.mark.parametrize("suffix", [".log", ".index", ".timeindex"])
@pytest.mark.parametrize("missing", [True, False])
def test_a_round_whose_files_are_not_as_told_is_refused(
    directory: str, suffix: str, missing: bool
) -> None:
    """A missing or a cut file: nothing has changed."""
    log = filled(directory)
    order, result = cleaned(log)
    path = f"{log.directory}/{cleaned_file_name(0, order.attempt, suffix)}"
    if missing:
        os.unlink(path)
    else:
        with open(path, "ab") as file:
            file.write(b"more")
    before = rows_in(log)
    with pytest.raises(SegmentsChangedError):
        log.replace_segments(order, result)
    assert rows_in(log) == before
    assert "replacement" not in os.listdir(log.directory)


def test_a_plan_that_is_out_of_date_gives_no_order(directory: str) -> None:
    """Segments deleted between plan and order."""
    log = filled(directory)
    planned = plan(log)
    assert isinstance(planned, CompactionPlan)
    log.delete_before(log.segment_list.bases[1])
    with pytest.raises(SegmentsChangedError):
        log.clean_order(planned, attempt=1, now_ms=NOW_MS, limits=CleanLimits())


def test_a_log_that_failed_takes_no_round(directory: str) -> None:
    """Neither facts, nor an order, nor a commit."""
    log = filled(directory)
    order, result = cleaned(log)
    log.fail(LogFailedError("as a test"))
    with pytest.raises(LogFailedError):
        log.replace_segments(order, result)
    with pytest.raises(LogFailedError):
        log.compaction_facts(bound_offset=1)


# --- snapshots ------------------------------------------------------------------------------------


def test_no_snapshot_names_a_place_in_a_replaced_segment(directory: str) -> None:
    """Recovery would begin to walk there: a newer snapshot is written before the commit."""
    log = make_log(directory, settings=COMPACTED)
    append_pairs(log, (b"a", b"1" * 100))
    log.checkpoint()
    append_pairs(log, (b"a", b"2" * 200))
    log.checkpoint()
    append_pairs(log, *[(b"b%d" % at, b"3" * 300) for at in range(5)])
    compact(log)
    recovered, report = recover_log(directory, settings=COMPACTED)
    assert not report.damaged
    assert report.walked_bytes == 0
    assert rows_in(recovered) == rows_in(log)


def test_a_checkpoint_that_was_begun_before_is_not_written_behind(directory: str) -> None:
    """Its thread was slow: the segment that it names is another one by now."""
    log = make_log(directory, settings=COMPACTED)
    append_pairs(log, (b"a", b"1"), (b"a", b"2"))
    taken = log.begin_checkpoint()
    log.roll_now()
    compact(log)
    before = sorted(os.listdir(log.directory))
    log.checkpoint(taken)
    assert sorted(os.listdir(log.directory)) == before


class HookedFiles(FastFiles):
    """Calls `hook` once, when a snapshot is read."""

    hook: Callable[[], None] | None = None

    def read_whole(self, path: str, *, limit_bytes: int) -> bytes:
        data = super().read_whole(path, limit_bytes=limit_bytes)
        if path.endswith(".producers") and self.hook is not None:
            hook, self.hook = self.hook, None
            hook()
        return data


def test_a_checkpoint_that_is_written_this_moment_is_dropped(directory: str) -> None:
    """Between the look at the snapshots and the commit: recovery never walks from there."""
    files = HookedFiles()
    log = make_log(directory, settings=COMPACTED, files=files)
    append_pairs(log, (b"a", b"1" * 50))
    taken = log.begin_checkpoint()
    append_pairs(log, (b"a", b"2" * 200), (b"b", b"3" * 300))
    log.roll_now()
    log.checkpoint()
    files.hook = lambda: log.checkpoint(taken)
    compact(log)
    assert files.hook is None
    newest = max(name for name in os.listdir(log.directory) if name.endswith(".producers"))
    for name in os.listdir(log.directory):
        if name.endswith(".producers"):
            assert name == newest
    recovered, report = recover_log(directory, settings=COMPACTED)
    assert not report.damaged
    assert rows_in(recovered) == rows_in(log)


# --- restarts -------------------------------------------------------------------------------------


def test_a_compacted_log_opens_after_a_clean_stop_and_after_a_crash(directory: str) -> None:
    """By names and lengths alone, or by a walk: the same records, the same state."""
    log = filled(directory)
    compact(log)
    rows = rows_in(log)
    facts = log.compaction_facts(bound_offset=log.synced_offset)
    again = reopen(directory, log.close(), settings=COMPACTED)
    assert rows_in(again) == rows
    assert again.compaction_facts(bound_offset=log.synced_offset) == facts
    recovered, report = recover_log(directory, settings=COMPACTED)
    assert report.lines() == []
    assert rows_in(recovered) == rows
    assert recovered.compaction_facts(bound_offset=log.synced_offset) == facts


@pytest.mark.parametrize("clean", [True, False])
def test_what_nobody_committed_is_removed_at_the_next_start(directory: str, clean: bool) -> None:
    """The process was killed, the server stopped: its files go, the log is as it was."""
    log = filled(directory)
    rows = rows_in(log)
    cleaned(log)
    assert cleaned_names(log)
    if clean:
        log = reopen(directory, log.close(), settings=COMPACTED)
    else:
        log, _ = recover_log(directory, settings=COMPACTED)
    assert cleaned_names(log) == []
    assert rows_in(log) == rows


def test_a_committed_replacement_is_finished_at_the_next_start(directory: str) -> None:
    """Also after a marker of a clean stop, which then is not true; and recovery says so."""
    log = filled(directory)
    order, result = cleaned(log)
    clean = log.close()
    write_replacement(Files(), log.directory, manifest(order, result))
    with pytest.raises(CorruptFileError, match="replacement"):
        reopen(directory, clean, settings=COMPACTED)
    recovered, report = recover_log(directory, settings=COMPACTED)
    assert report.replaced
    assert "compaction" in report.lines()[0]
    assert len(rows_in(recovered)) == result.after.records
    assert "replacement" not in os.listdir(log.directory)


def manifest(order: CleanOrder, result: CleanResult) -> Replacement:
    """Return what the commit of a round writes."""
    return Replacement(
        order.attempt,
        tuple(base for group in result.groups for base in group.old_bases),
        tuple(segment for group in result.groups for segment in group.new),
        CompactionState(result.first_uncleaned_offset, result.next_horizon_ms),
    )


def test_a_manifest_whose_segments_are_missing_changes_nothing(directory: str) -> None:
    """The log does not open, with a reason that names the file; no file is touched."""
    log = filled(directory)
    order, result = cleaned(log)
    write_replacement(Files(), log.directory, manifest(order, result))
    unlink_cleaned(Files(), log.directory, order.attempt)
    names = sorted(os.listdir(log.directory))
    with pytest.raises(CorruptFileError, match=r"\.log: .*replacement"):
        recover_log(directory, settings=COMPACTED)
    assert sorted(os.listdir(log.directory)) == names


@pytest.mark.parametrize("part", range(4))
def test_a_damaged_manifest_is_never_carried_out(directory: str, part: int) -> None:
    """Any byte changed: refused by name; nothing is renamed."""
    write_replacement(FastFiles(), directory, REPLACEMENT)
    path = Path(swap.replacement_path(directory))
    data = path.read_bytes()
    for at in range(part, len(data), 4):
        changed = bytearray(data)
        changed[at] ^= 0x41
        path.write_bytes(changed)
        with pytest.raises((CorruptFileError, UnsupportedFormatError)):
            read_replacement(Files(), directory)
    path.write_bytes(data)
    assert read_replacement(Files(), directory) == REPLACEMENT


@pytest.mark.parametrize(
    "change",
    [
        {"old": []},
        {"old": [5, 5]},
        {"old": [5, 1]},
        {"new": [[0, 1, 2]]},
        {"new": [[0, -1, 2, 3]]},
        {"new": [[0, 1.5, 2, 3]]},
        {"new": 5},
        {"attempt": None},
        {"first_uncleaned_offset": -3},
        {"next_horizon_ms": "soon"},
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_refused(
    directory: str, change: dict[str, object]
) -> None:
    """With a right checksum: one kind of error, whatever it says."""
    fields = {"attempt": 1, "old": [0], "new": [], "first_uncleaned_offset": 1}
    payload = json.dumps({**fields, "next_horizon_ms": None, **change}).encode()
    write_state(FastFiles(), swap.replacement_path(directory), payload, version=1)
    with pytest.raises(CorruptFileError):
        read_replacement(Files(), directory)


# --- what is known of rounds ----------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "damaged", "of another log"])
def test_without_its_state_all_of_the_log_is_dirty(directory: str, damage: str) -> None:
    """And the next round comes to the same."""
    log = filled(directory)
    compact(log)
    rows = rows_in(log)
    path = Path(log.directory, "compaction")
    if damage == "missing":
        path.unlink()
    elif damage == "damaged":
        overwrite(str(path), 30, b"\x00")
    else:
        write_compaction(FastFiles(), log.directory, CompactionState(10**9, None))
    again = reopen(directory, log.close(), settings=COMPACTED)
    facts = again.compaction_facts(bound_offset=again.synced_offset)
    assert facts.first_dirty_offset == 0
    assert facts.dirty_bytes == sum(item.size_bytes for item in facts.segments) > 0
    compact(again, attempt=5)
    assert rows_in(again) == rows


def test_a_topic_that_is_compacted_no_more_keeps_its_gaps(directory: str) -> None:
    """Offsets missing between segments are no damage below what was compacted once."""
    log = filled(directory)
    compact(log)
    append_pairs(log, (b"k", b"v"))
    rows = rows_in(log)
    for name in os.listdir(log.directory):
        if name.endswith(".producers"):
            os.unlink(f"{log.directory}/{name}")  # So that recovery walks all of it.
    plain = replace(COMPACTED, is_compacted=False)
    recovered, report = recover_log(directory, settings=plain)
    assert not report.damaged
    assert report.walked_bytes == recovered.size_bytes
    assert rows_in(recovered) == rows
    check = CheckReport(directory)
    check_partition(FastFiles(), log.directory, Expected(), check)
    assert not check.damage
    assert not check.notes


def test_a_round_that_changes_nothing_is_noted(directory: str) -> None:
    """No file is replaced; the log is clean all the same."""
    log = make_log(directory, settings=COMPACTED)
    append_pairs(log, (b"a", b"1"), (b"b", b"1"))
    result = compact(log)
    assert result is not None
    assert result.groups == ()
    assert read_compaction(FastFiles(), log.directory) == CompactionState(2, None)
    assert compact(log) is None


def test_facts_tell_sizes_and_times(directory: str) -> None:
    """Of dirty segments the first batch's and the greatest time, of clean ones the size."""
    log = make_log(directory, settings=COMPACTED)
    append_pairs(log, (b"a", b"1"), timestamp_ms=5000)
    compact(log)
    append_pairs(log, (b"b", b"1"), (b"c", b"1"), timestamp_ms=7000)
    log.roll_now()
    facts = reopen(directory, log.close(), settings=COMPACTED).compaction_facts(bound_offset=3)
    clean, dirty = facts.segments
    assert (clean.base_offset, clean.end_offset, clean.first_timestamp_ms) == (0, 1, -1)
    assert (dirty.first_timestamp_ms, dirty.last_timestamp_ms) == (7001, 7001)
    assert [item.size_bytes for item in facts.segments] == [
        os.path.getsize(segment_path(directory, base)) for base in (0, 1)
    ]
    assert facts.dirty_bytes == dirty.size_bytes
    assert facts.oldest_dirty_ms == 7001


# --- other tools ----------------------------------------------------------------------------------


def test_the_dump_shows_what_a_round_writes(directory: str) -> None:
    """State, manifest, and the new files under their first names, offsets and all."""
    log = filled(directory)
    order, result = cleaned(log)
    write_replacement(Files(), log.directory, manifest(order, result))
    last = max(new for group in result.groups for new in group.new)
    for suffix in (".log", ".index", ".timeindex"):
        path = f"{log.directory}/{cleaned_file_name(last.base_offset, order.attempt, suffix)}"
        items = list(inspect_file(Files(), path, Depth(verify=True)))
        assert all(item.kind != "damage" for item in items)
        offsets = [item.fields.get("offset", item.fields.get("base_offset")) for item in items]
        assert all(offset >= last.base_offset for offset in offsets)
    (item,) = inspect_file(Files(), swap.replacement_path(log.directory), Depth())
    assert item.fields["content"]["attempt"] == order.attempt
    write_compaction(FastFiles(), log.directory, CompactionState(5, None))
    (item,) = inspect_file(Files(), f"{log.directory}/compaction", Depth())
    assert item.fields["content"] == {"first_uncleaned_offset": 5, "next_horizon_ms": None}


def test_a_check_reads_the_version_that_counts(directory: str) -> None:
    """With a manifest: the new segments, wherever they are. Damage in them is found."""
    log = filled(directory)
    log.close()
    order, result = cleaned(recover_log(directory, settings=COMPACTED)[0])
    write_replacement(Files(), log.directory, manifest(order, result))
    report = CheckReport(directory)
    check_partition(FastFiles(), log.directory, Expected(may_have_gaps=True), report)
    assert not report.damage
    assert report.records == result.after.records
    assert any("the next start finishes it" in note.reason for note in report.notes)
    overwrite(f"{log.directory}/{cleaned_file_name(0, order.attempt, '.log')}", 70, b"\xff")
    report = CheckReport(directory)
    check_partition(FastFiles(), log.directory, Expected(may_have_gaps=True), report)
    assert report.damage


def test_a_half_finished_replacement_is_not_copied_in(directory: str) -> None:
    """An adoption copies .log files by name: it would take in some of both versions."""
    log = filled(directory)
    order, result = cleaned(log)
    write_replacement(Files(), log.directory, manifest(order, result))
    with pytest.raises(DataDirectoryError, match="half-finished"):
        copy_partition(Files(), log.directory, f"{directory}/copy-0", reserve_bytes=0)


def test_every_batch_of_a_compacted_log_is_whole(directory: str) -> None:
    """Whatever was cut out: headers and records agree, and offsets rise."""
    log = filled(directory)
    compact(log)
    headers = [header for header, _ in batches_in(log)]
    assert all(a.next_offset <= b.base_offset for a, b in pairwise(headers))
