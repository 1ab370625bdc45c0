"""Deleting the oldest records of a log: the new start first, then the files that nobody may read.

Order, each step durable before the next: the log start offset is written; a segment that is active
and wholly below is rolled; segments wholly below are renamed, then unlinked by the caller when
their last reader has had time to finish. A crash after the first step leaves files below the log
start, which the next start removes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from logd.errors import DiskFullError, LogFailedError, OffsetOutOfRangeError, StorageError
from logd.storage import partition_files
from logd.storage.layout import DELETED_SUFFIX
from logd.storage.log_state import DISK_FULL_ERRNOS, LogState
from logd.storage.partition_listing import list_partition
from logd.storage.segment import SIZE_UNKNOWN, Segment


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """What `delete_before` did.

    Attributes:
        log_start_offset: the log's start now.
        unlink_paths: files that were renamed out of the log, to be unlinked when nobody reads them.
    """

    log_start_offset: int
    unlink_paths: tuple[str, ...]


def delete_before(state: LogState, offset: int, roll: Callable[[], None]) -> DeleteResult:
    """Make `offset` the log start and drop what lies below; see `Log.delete_before`."""
    assert offset >= 0
    if state.failed is not None:
        raise state.failed
    if offset > state.written_offset:
        raise OffsetOutOfRangeError(f"offset {offset} is above the end {state.written_offset}")
    if offset <= state.log_start_offset:
        return DeleteResult(state.log_start_offset, ())
    try:
        partition_files.write_log_start(state.files, state.directory, offset)
        state.log_start_offset = offset
        if offset == state.written_offset and state.segment_list.active.size > 0:
            roll()
        state.damage.forget_below(offset)
        return DeleteResult(offset, tuple(_drop_below(state, offset)))
    except OSError as error:
        raise _storage_error(state, error) from error


def _drop_below(state: LogState, offset: int) -> list[str]:
    assert state.log_start_offset >= offset, "durable before a file is touched"
    dropped = [segment for segment in state.segment_list.items if segment.end_bound <= offset]
    if not dropped:
        return []
    for segment in dropped:
        if segment.size == SIZE_UNKNOWN:
            segment.size = state.files.stat_size(segment.paths.log)
        assert not segment.is_active
        state.sealed_bytes -= segment.size
        state.open_files.forget(segment)
    state.segment_list = state.segment_list.without_first(len(dropped))
    unlink_paths = []
    for path in [*_segment_files(dropped), *_cuts_below(state)]:
        # A segment that was copied here and never opened may have no index.
        with contextlib.suppress(FileNotFoundError):
            state.files.rename(path, path + DELETED_SUFFIX)
            unlink_paths.append(path + DELETED_SUFFIX)
    state.files.sync_directory(state.directory)
    return unlink_paths


def _segment_files(segments: list[Segment]) -> list[str]:
    return [
        path
        for segment in segments
        for path in (segment.paths.log, segment.paths.index, segment.paths.time_index)
    ]


def _cuts_below(state: LogState) -> list[str]:
    """Return the saved tails, which go with the segments that they were cut from."""
    first_base = state.segment_list.items[0].base_offset
    cuts = list_partition(state.files, state.directory).cuts
    return [f"{state.directory}/{name}" for base, name in cuts if base < first_base]


def _storage_error(state: LogState, error: OSError) -> StorageError:
    message = f"{state.directory}: records could not be deleted: {error}"
    if error.errno in DISK_FULL_ERRNOS:
        return DiskFullError(message)
    return state.poison(LogFailedError(message))
