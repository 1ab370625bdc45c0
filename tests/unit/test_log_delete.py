"""storage.log_delete: a deletion that the disk refuses half-way is finished later, exactly once."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from pathlib import Path

import pytest

from logd.errors import DiskFullError, LogFailedError
from logd.record.batch import read_header
from logd.storage.log import Log, LogSettings
from tests.unit.log_builder import (
    append,
    bases,
    batch_of,
    fill,
    headers_in,
    make_log,
    offsets_read,
    recover_log,
    reopen,
)
from tests.unit.storage_faults import FaultyFiles, StoppedError

FOUR = LogSettings(segment_offsets=4)


class RefusingFiles(FaultyFiles):
    """Refuses one call, the `refuse_at`-th that changes something; all others succeed."""

    def __init__(self) -> None:
        super().__init__()
        self.refuse_at: int | None = None
        self.error = errno.ENOSPC

    def _count(self, name: str) -> None:
        if self.refuse_at is not None:
            self.refuse_at -= 1
            if self.refuse_at < 0:
                self.refuse_at = None
                raise OSError(self.error, os.strerror(self.error))
        super()._count(name)


def log_of_three(directory: str) -> tuple[Log, RefusingFiles]:
    """Three segments of four offsets; 12 is the end."""
    files = RefusingFiles()
    log = make_log(directory, settings=FOUR, files=files)
    fill(log, 6)
    return log, files


def calls_of(directory: str, offset: int) -> int:
    """Return how many calls a whole deletion makes."""
    log, files = log_of_three(directory)
    before = len(files.calls)
    log.delete_before(offset)
    return len(files.calls) - before


def deleted_names(directory: str) -> list[str]:
    return sorted(name for name in os.listdir(f"{directory}/t-0") if name.endswith(".deleted"))


def check_finished(log: Log, directory: str, offset: int) -> None:
    """Nothing below the new start is left; sizes add up; the log goes on."""
    assert not log.is_deletion_unfinished
    assert log.log_start_offset == offset
    assert min(bases(directory)) == (offset if offset == 12 else 8)
    on_disk = sum(
        os.path.getsize(f"{directory}/t-0/{name}")
        for name in os.listdir(f"{directory}/t-0")
        if name.endswith(".log")
    )
    assert log.size_bytes == on_disk
    append(log, batch_of())
    assert log.end_offset == 13
    assert offsets_read(log, offset, 13)[-1] == 12


@pytest.mark.parametrize("offset", [9, 12])
def test_no_space_at_any_step_is_made_up_for(tmp_path: os.PathLike[str], offset: int) -> None:
    """Each call is refused once for want of space: the log goes on, nothing is deleted before the
    start is durable, and the next deletion finishes the work, naming all files and counting each
    segment once."""
    counted = f"{tmp_path}/counted"
    os.mkdir(counted)
    refused = 0
    for number in range(calls_of(counted, offset)):
        directory = f"{tmp_path}/run{number}"
        os.mkdir(directory)
        log, files = log_of_three(directory)
        files.refuse_at = number
        try:
            first = log.delete_before(offset)
        except DiskFullError:
            refused += 1
            if log.log_start_offset == 0:
                assert not deleted_names(directory)
                assert not log.is_deletion_unfinished
            first = None
        except LogFailedError:
            continue  # A sync was refused: that is final, and a restart recovers.
        second = log.delete_before(offset)
        paths = (*(first.unlink_paths if first else ()), *second.unlink_paths)
        assert sorted(map(os.path.basename, paths)) == deleted_names(directory)
        check_finished(log, directory, offset)
    assert refused >= 5


@pytest.mark.parametrize("offset", [9, 12])
def test_a_clean_stop_finishes_it(tmp_path: os.PathLike[str], offset: int) -> None:
    """Refused half-way and stopped: the next start finds the log as if nothing had happened; if
    the disk still refuses, the stop is not clean and the recovery removes what is left."""
    counted = f"{tmp_path}/counted"
    os.mkdir(counted)
    for number in range(calls_of(counted, offset)):
        directory = f"{tmp_path}/run{number}"
        os.mkdir(directory)
        log, files = log_of_three(directory)
        files.refuse_at = number
        # No space ends a request, not the server; the other is final: there is no clean stop.
        with contextlib.suppress(DiskFullError, LogFailedError):
            log.delete_before(offset)
        if log.failed is not None:
            continue
        start = log.log_start_offset
        files.failing = {"rename": errno.ENOSPC} if number % 2 else {}
        try:
            clean = log.close()
        except DiskFullError:
            log, _ = recover_log(directory, settings=FOUR)
        else:
            log = reopen(directory, clean, settings=FOUR)
        assert log.log_start_offset == start
        log.delete_before(offset)
        check_finished(log, directory, offset)


def test_another_error_ends_the_log(directory: str) -> None:
    """What is no want of space is not tried again: the log is poisoned, nothing was lost."""
    log, files = log_of_three(directory)
    files.failing = {"rename": errno.EIO}
    with pytest.raises(LogFailedError):
        log.delete_before(9)
    with pytest.raises(LogFailedError):
        log.delete_before(9)
    files.failing = {}
    log, _ = recover_log(directory, settings=FOUR)
    assert log.end_offset == 12


def test_readers_of_deleted_segments_finish(directory: str) -> None:
    """A slice that was handed out is read whole after its segment was renamed, and unlinked."""
    log, _ = log_of_three(directory)
    pieces = [log.try_read(offset, max_bytes=10**6, below=12) for offset in (0, 4, 8)]
    result = log.delete_before(12)
    for path in result.unlink_paths:
        os.unlink(path)
    for piece, base in zip(pieces, (0, 4, 8), strict=True):
        assert piece is not None
        assert [header.base_offset for header in headers_in(log, piece)] == [base, base + 2]
    del pieces, piece


def test_what_went_is_counted(directory: str) -> None:
    """Segments and bytes of log, without the indexes."""
    log, _ = log_of_three(directory)
    size = log.size_bytes
    first = log.delete_before(6)
    assert (first.segment_count, first.size_bytes) == (1, size // 3)
    second = log.delete_before(12)
    assert (second.segment_count, second.size_bytes) == (2, 2 * size // 3)
    third = log.delete_before(12)
    assert (third.segment_count, third.size_bytes, third.unlink_paths) == (0, 0, ())


def producers_batch(producer_id: int, sequence: int) -> bytearray:
    return batch_of(producer_id=producer_id, producer_epoch=0, base_sequence=sequence)


@pytest.mark.parametrize("offset", [3, 4, 6, 11, 12])
@pytest.mark.parametrize("checkpoint_at", [None, 4, 6])
def test_a_repetition_is_known_whenever_a_deletion_is_killed(
    directory: str, offset: int, checkpoint_at: int | None
) -> None:
    """Killed before any call of it, or behind the last one: what each producer sent last would not
    be appended a second time, though the batch and its segment are gone.
    """
    for calls in itertools.count():
        path = f"{directory}/{calls}"
        os.mkdir(path)
        files = FaultyFiles()
        log = make_log(path, settings=FOUR, files=files)
        for number in range(12):  # The first producer's are all in the first segment.
            append(log, producers_batch(number // 4, number % 4))
            if log.written_offset == checkpoint_at:
                log.checkpoint()
        files.stop_before = len(files.calls) + calls
        was_stopped = False
        try:
            log.delete_before(offset)
        except StoppedError:
            was_stopped = True
        recovered, _ = recover_log(path, settings=FOUR)
        for producer_id in range(3):
            again = read_header(producers_batch(producer_id, 3))
            found = recovered.producers.check(again)
            assert found is not None, (calls, producer_id)
            assert found.base_offset == 4 * producer_id + 3
        recovered.close()
        if not was_stopped:
            break
    assert calls > 1


def test_without_space_for_what_producers_sent_nothing_is_deleted(directory: str) -> None:
    """The ballast is for that; then the same deletion ends."""
    files = FaultyFiles()
    log = make_log(directory, settings=FOUR, files=files)
    append(log, producers_batch(7, 0))
    files.failing["create_or_truncate"] = errno.ENOSPC
    files.failing["create"] = errno.ENOSPC
    with pytest.raises(DiskFullError):
        log.delete_before(1)
    assert log.log_start_offset == 0
    files.failing.clear()
    assert log.delete_before(1).segment_count == 1


def test_most_deletions_take_no_checkpoint(directory: str) -> None:
    """Where the newest one lies behind what goes, and where no producer is known."""
    log = make_log(directory, settings=FOUR)
    for number in range(12):
        append(log, producers_batch(7, number))
    log.checkpoint()
    before = sorted(Path(directory, "t-0").glob("*.producers"))
    log.delete_before(8)
    log.delete_before(12)
    assert sorted(Path(directory, "t-0").glob("*.producers")) == before
    os.mkdir(f"{directory}/plain")
    plain = make_log(f"{directory}/plain", settings=FOUR)
    fill(plain, 6)
    plain.delete_before(12)
    assert not list(Path(directory, "plain", "t-0").glob("*.producers"))
