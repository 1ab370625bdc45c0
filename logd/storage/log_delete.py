"""Deleting the oldest records of a log: the new start first, then the files that nobody may read.

Order, each step durable before the next: a checkpoint is written, if what idempotent producers sent
last would go with the segments; the log start offset is written; a segment that is active and
wholly below is rolled; segments wholly below are renamed, then unlinked by the caller when their
last reader has had time to finish. A crash after the second step leaves files below the log start,
which the next start removes; where the disk has no space for a step, the next deletion, or the next
round of retention, goes on from there.

So a batch that is sent again is known to be a repetition, whatever was deleted, and whenever the
process was killed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from logd.errors import DiskFullError, LogFailedError, OffsetOutOfRangeError, StorageError
from logd.storage import partition_files
from logd.storage.files import DISK_FULL_ERRNOS
from logd.storage.layout import DELETED_SUFFIX
from logd.storage.log_state import LogState
from logd.storage.partition_listing import list_cuts
from logd.storage.segment import SIZE_UNKNOWN, Segment


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """What `delete_before` did.

    Attributes:
        log_start_offset: the log's start now.
        unlink_paths: files that were renamed out of the log, to be unlinked when nobody reads them.
        segment_count: how many segments went, and with them …
        size_bytes: … so many bytes of log; of released ones their chunks still have them.
    """

    log_start_offset: int
    unlink_paths: tuple[str, ...]
    segment_count: int = 0
    size_bytes: int = 0


def delete_before(
    state: LogState, offset: int, roll: Callable[[], None], checkpoint: Callable[[], None]
) -> DeleteResult:
    """Make `offset` the log start and drop what lies below; see `Log.delete_before`."""
    assert offset >= 0
    if state.failed is not None:
        raise state.failed
    if offset > state.written_offset:
        raise OffsetOutOfRangeError(f"offset {offset} is above the end {state.written_offset}")
    if offset <= state.log_start_offset and not is_deletion_unfinished(state):
        return DeleteResult(state.log_start_offset, ())
    try:
        _keep_producers(state, max(offset, state.log_start_offset), checkpoint)
        if offset > state.log_start_offset:
            partition_files.write_log_start(state.files, state.directory, offset)
            state.log_start_offset = offset
        offset = state.log_start_offset
        if _is_active_below(state):
            roll()
        state.damage.forget_below(offset)
        count, size_bytes = _drop_below(state, offset)
        return DeleteResult(offset, _rename_dropped(state), count, size_bytes)
    except OSError as error:
        raise _storage_error(state, error) from error


def is_deletion_unfinished(state: LogState) -> bool:
    """Return whether a deletion that failed half-way left files below the log start."""
    return (
        bool(state.doomed_paths or state.deleted_paths)
        or state.segment_list.items[0].end_bound <= state.log_start_offset
        or _is_active_below(state)
    )


def _keep_producers(state: LogState, offset: int, checkpoint: Callable[[], None]) -> None:
    """See to it that what is kept of the log tells a recovery what its producers sent last.

    It takes a checkpoint at or behind the first segment that is kept, or all batches since. Most
    deletions end far before the newest one.

    Raises:
        DiskFullError, LogFailedError: none could be written; nothing was deleted.
    """
    if not len(state.producers):
        return
    segments = state.segment_list
    keeps_none = offset == state.written_offset
    first_kept = offset if keeps_none else segments.bases[segments.index_of(offset)]
    newest = state.snapshot_offsets[-1] if state.snapshot_offsets else -1
    if newest >= first_kept or first_kept == segments.bases[0]:
        return
    try:
        checkpoint()
    except DiskFullError as error:
        if isinstance(error.__cause__, OSError):
            raise  # Else an index is damaged; so it would stay, and nothing would ever go.


def _is_active_below(state: LogState) -> bool:
    return state.log_start_offset == state.written_offset and state.segment_list.active.size > 0


def _drop_below(state: LogState, offset: int) -> tuple[int, int]:
    """Take segments wholly below out of the log; return how many, and how many bytes."""
    assert state.log_start_offset >= offset, "durable before a file is touched"
    with state.open_lock:  # Nobody releases or thaws one of them meanwhile.
        return _drop_below_locked(state, offset)


def _drop_below_locked(state: LogState, offset: int) -> tuple[int, int]:
    assert state.open_lock.locked()
    dropped = state.segment_list.items[: state.segment_list.count_below(offset)]
    size_bytes = 0
    for segment in dropped:
        if segment.size == SIZE_UNKNOWN:
            segment.size = state.files.stat_size(segment.paths.log)
        assert not segment.is_active
        size_bytes += segment.size
    if not dropped:
        return 0, 0
    cuts = _cuts_below(state, state.segment_list.bases[len(dropped)])
    for segment in dropped:
        state.open_files.forget(segment)
    released_bytes = sum(segment.size for segment in dropped if segment.released is not None)
    with state.list_lock:
        state.sealed_bytes -= size_bytes - released_bytes
        state.released_bytes -= released_bytes
        state.segment_list = state.segment_list.without_first(len(dropped))
    state.doomed_paths.extend((*_segment_files(dropped), *cuts))
    return len(dropped), size_bytes


def _rename_dropped(state: LogState) -> tuple[str, ...]:
    """Rename the files of dropped segments, durably; return the new names.

    Where it fails, what is left to do is remembered for the next call.
    """
    if not state.doomed_paths and not state.deleted_paths:
        return ()
    while state.doomed_paths:
        path = state.doomed_paths[0]
        # One that was copied here and never opened may have no index, a released one has no log.
        with contextlib.suppress(FileNotFoundError):
            state.files.rename(path, path + DELETED_SUFFIX)
            state.deleted_paths.append(path + DELETED_SUFFIX)
        state.doomed_paths.popleft()
    state.files.sync_directory(state.directory)
    unlink_paths = tuple(state.deleted_paths)
    state.deleted_paths.clear()
    return unlink_paths


def _segment_files(segments: Sequence[Segment]) -> list[str]:
    return [
        path
        for segment in segments
        for path in (segment.paths.log, segment.paths.index, segment.paths.time_index)
    ]


def _cuts_below(state: LogState, first_base: int) -> list[str]:
    """Return the saved tails, which go with the segments that they were cut from."""
    if state.cuts is None:
        state.cuts = list_cuts(state.files, state.directory)
    below = [f"{state.directory}/{name}" for base, name in state.cuts if base < first_base]
    state.cuts = [cut for cut in state.cuts if cut[0] >= first_base]
    return below


def _storage_error(state: LogState, error: OSError) -> StorageError:
    message = f"{state.directory}: records could not be deleted: {error}"
    if error.errno in DISK_FULL_ERRNOS:
        return DiskFullError(message)
    return state.poison(LogFailedError(message))
