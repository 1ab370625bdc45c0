"""Releasing a segment: its .log goes, since chunks have its bytes. Blocking, in a thread.

The catalog says RELEASED, durably, before this is called. Order, each step durable before the next:

    1  where other indexes are to come (what was coded is a recompressed form): the old ones go
    2  the .log is renamed to .deleted; from here on readers are told of chunks
    3  the new indexes are written

A crash before 2 leaves a hot segment (without indexes, which are rebuilt); behind it a released
one, whose indexes may be missing: whoever has chunks puts them back with `put_indexes`. So an index
here always speaks of the bytes that are read with it.

As by compaction, a reader who is in the middle has the .log open and finishes; who comes too late
finds `is_replaced` set, under the open lock, and looks anew. Recovery cannot walk through a
released segment: a checkpoint that lies in or before it is renewed first, as of its end.

An error behind 2 takes nothing back: the bytes are in chunks, and the segment counts as released.
"""

from __future__ import annotations

import contextlib

from logd.errors import (
    CorruptFileError,
    DiskFullError,
    LogdError,
    SegmentsChangedError,
    StorageError,
    UnsupportedFormatError,
)
from logd.storage.checkpoint import read_snapshot, write_snapshot
from logd.storage.files import DISK_FULL_ERRNOS
from logd.storage.layout import DELETED_SUFFIX, TEMP_SUFFIX
from logd.storage.log_checkpoint import drop_snapshots
from logd.storage.log_state import LogState
from logd.storage.producer_state import ProducerSnapshot, ProducerStates
from logd.storage.released import ReleasedSegment
from logd.storage.segment import SIZE_UNKNOWN, Segment
from logd.storage.segment_files import SegmentPaths, open_released
from logd.storage.segment_scan import scan_batches, scan_in_order

Indexes = tuple[bytes, bytes]
"""An offset index and a time index, as they stand in their files."""


def release_segment(
    state: LogState,
    base_offset: int,
    *,
    size_bytes: int,
    next_offset: int,
    min_timestamp_ms: int,
    indexes: Indexes | None,
) -> tuple[str, ...]:
    """Make a sealed segment a released one; see `Log.release`."""
    assert size_bytes > 0
    assert next_offset > base_offset
    if state.failed is not None:
        raise state.failed
    segment = find_sealed(state, base_offset)
    if segment.released is not None:
        return ()
    latest_ms = _prepare(state, segment)
    _refuse_other(state, segment, next_offset, None if indexes is not None else size_bytes)
    new = Segment(state.directory, base_offset, end_bound=segment.end_bound)
    new.released = ReleasedSegment(
        base_offset, segment.end_bound, size_bytes, latest_ms, min_timestamp_ms
    )
    new.size = size_bytes
    with state.open_lock:
        segment = find_sealed(state, base_offset)
        if segment.released is not None:
            return ()
        return _replace(state, segment, new, indexes)


def find_sealed(state: LogState, base_offset: int) -> Segment:
    """Return the sealed segment with this base offset.

    Raises:
        SegmentsChangedError: there is none; it was deleted, or compacted away.
    """
    found = state.segment_list.with_base(base_offset)
    if found is None or found.is_active:
        raise SegmentsChangedError(f"{state.directory}: no sealed segment begins at {base_offset}")
    return found


def _prepare(state: LogState, segment: Segment) -> int:
    """See to indexes and checkpoint while the .log is there; return its greatest timestamp.

    Raises:
        SegmentsChangedError: it was compacted meanwhile.
    """
    # What is rotten here is whole in chunks; it goes without what could be learned from it.
    with contextlib.suppress(CorruptFileError, OSError):
        state.reopen_sealed(segment)
    with contextlib.suppress(CorruptFileError, OSError):
        _renew_snapshot(state, segment)
    return -1 if segment.max_timestamp is None else segment.max_timestamp[0]


def _refuse_other(
    state: LogState, segment: Segment, next_offset: int, size_bytes: int | None
) -> None:
    """Refuse a segment that is not what was coded; compacted since, for one.

    What is damaged here is not asked: chunks have it whole.

    Args:
        next_offset, size_bytes: of what was coded; the size None where it is not the .log's.

    Raises:
        SegmentsChangedError: so it is.
    """
    if state.damage.in_segment(segment.base_offset):
        return
    found = segment.end_bound
    if next_offset != found:  # Then its last record decides, which has to be looked for.
        with contextlib.suppress(CorruptFileError, OSError):
            found = _next_offset(state, segment)
    if next_offset not in (found, segment.end_bound):
        reason = f"ends before offset {found}, what was coded before {next_offset}"
        raise SegmentsChangedError(f"{segment.paths.log}: {reason}")
    if size_bytes is not None and segment.size not in (SIZE_UNKNOWN, size_bytes):
        reason = f"has {segment.size} bytes, what was coded {size_bytes}"
        raise SegmentsChangedError(f"{segment.paths.log}: {reason}")


def _next_offset(state: LogState, segment: Segment) -> int:
    """Return the offset behind the last record."""
    opened = state.open_segment(segment)
    assert opened.index is not None
    start = opened.index.last_position_at_or_before(segment.size)
    next_offset = segment.base_offset
    for _, header, _ in scan_batches(state.files, opened.file, start, segment.size, verify=False):
        next_offset = header.next_offset
    return next_offset


def _replace(
    state: LogState, old: Segment, new: Segment, indexes: Indexes | None
) -> tuple[str, ...]:
    assert state.open_lock.locked()
    files, paths = state.files, old.paths
    hot_bytes = max(old.size, 0)
    try:
        if indexes is not None:
            for path in (paths.index, paths.time_index):
                with contextlib.suppress(FileNotFoundError):
                    files.unlink(path)
            files.sync_directory(state.directory)
            state.open_files.forget(old)  # If it stays, who opens it builds them anew.
        with state.snapshot_lock:
            # A checkpoint that is written from here on finds its segment replaced.
            old.is_replaced = True
            drop_snapshots(state, (old.base_offset,))
        files.rename(paths.log, paths.log + DELETED_SUFFIX)
    except (OSError, LogdError) as error:
        old.is_replaced = False
        raise storage_error(f"{paths.log}: could not be released", error) from error
    publish(state, old, new, hot_bytes=-hot_bytes, released_bytes=new.size)
    try:
        files.sync_directory(state.directory)
    except OSError as error:
        raise storage_error(f"{state.directory}: could not be synced", error) from error
    _settle(state, new, indexes)
    return (paths.log + DELETED_SUFFIX,)


def publish(
    state: LogState, old: Segment, new: Segment, *, hot_bytes: int, released_bytes: int
) -> None:
    """Put a segment in another one's place, in one assignment. Under the open lock.

    Args:
        hot_bytes, released_bytes: what is added to the log's numbers.
    """
    assert state.open_lock.locked()
    old.is_replaced = True
    with state.list_lock:
        state.segment_list = state.segment_list.replaced(old, new)
        state.sealed_bytes += hot_bytes
        state.released_bytes += released_bytes
    state.open_files.forget(old)


def _settle(state: LogState, new: Segment, indexes: Indexes | None) -> None:
    """Do what may fail: new indexes, and damage that is none any more."""
    assert new.released is not None
    if indexes is not None:
        # On a full disk, for one. They are missing then, and can be put back later.
        with contextlib.suppress(OSError, CorruptFileError):
            write_indexes(state, new, new.released, indexes)
    with contextlib.suppress(OSError):
        state.damage.forget_within(new.base_offset, new.end_bound)
    opened, is_whole = open_released(state.files, new.paths, new.released, settings=state.settings)
    new.lacks_indexes = not is_whole
    state.open_files.put(new, opened)


def storage_error(what: str, error: OSError | LogdError) -> StorageError:
    """Return the error to raise for what a file system, or a part of the log, refused."""
    if isinstance(error, StorageError):
        return error
    is_full = isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS
    return (DiskFullError if is_full else StorageError)(f"{what}: {error}")


# --- checkpoints ----------------------------------------------------------------------------------


def _renew_snapshot(state: LogState, segment: Segment) -> None:
    """Write a snapshot of the producers as of the segment's end, if no newer one is there.

    Raises:
        CorruptFileError, OSError: none was written; a recovery then knows fewer producers.
    """
    newest = _newest_snapshot(state)
    if newest is not None and newest.segment_base > segment.base_offset:
        return
    producers = ProducerStates(None if newest is None else dict(newest.producers))
    items = state.segment_list.items
    first = 0 if newest is None else state.segment_list.index_of(newest.segment_base)
    for each in items[first : state.segment_list.index_of(segment.base_offset) + 1]:
        if each.released is not None:
            producers = ProducerStates()  # As a recovery would do it.
            continue
        is_first = newest is not None and newest.segment_base == each.base_offset
        _replay(state, each, producers, newest.position if newest and is_first else 0)
    end = segment.end_bound
    snapshot = ProducerSnapshot(end, 0, end, -1, end, producers.copy_written())
    with state.snapshot_lock:
        state.snapshot_offsets = write_snapshot(
            state.files, state.directory, snapshot, state.snapshot_offsets
        )


def _replay(state: LogState, segment: Segment, producers: ProducerStates, position: int) -> None:
    opened = state.open_segment(segment)
    assert position <= segment.size
    for _, header, _ in scan_in_order(
        state.files,
        opened.file,
        position,
        segment.size,
        next_offset=None,
        end_bound=segment.end_bound,
        verify=False,
    ):
        if header.producer_id >= 0:
            producers.replay(header)


def _newest_snapshot(state: LogState) -> ProducerSnapshot | None:
    for offset in reversed(state.snapshot_offsets):
        with contextlib.suppress(CorruptFileError, UnsupportedFormatError, OSError):
            return read_snapshot(state.files, state.directory, offset)
    return None


# --- indexes of what is released ------------------------------------------------------------------


def put_indexes(state: LogState, base_offset: int, indexes: Indexes) -> None:
    """Put back the indexes of a released segment; see `Log.put_indexes`."""
    if state.failed is not None:
        raise state.failed
    with state.open_lock:
        segment = find_sealed(state, base_offset)
        if segment.released is None:
            raise SegmentsChangedError(f"{segment.paths.log}: the segment is not released")
        try:
            write_indexes(state, segment, segment.released, indexes)
        except OSError as error:
            raise storage_error(f"{segment.paths.index}: could not be written", error) from error
        segment.lacks_indexes = False
        state.open_files.forget(segment)


def write_indexes(
    state: LogState, segment: Segment, released: ReleasedSegment, indexes: Indexes
) -> None:
    """Write both indexes, checked, over what is there. Durable once this returns.

    Raises:
        CorruptFileError: they are not of this segment; nothing has changed.
        OSError: one of them may be there.
    """
    assert state.open_lock.locked()
    files, paths = state.files, segment.paths
    temporary = SegmentPaths(paths.log, paths.index + TEMP_SUFFIX, paths.time_index + TEMP_SUFFIX)
    try:
        for path, data in zip((temporary.index, temporary.time_index), indexes, strict=True):
            file = files.create_or_truncate(path)
            files.write_at(file, 0, [data])
            files.sync(file)
        _, is_whole = open_released(files, temporary, released, settings=state.settings)
        if not is_whole:
            reason = f"is no index of a segment of {released.size_bytes} bytes"
            raise CorruptFileError(paths.index, 0, reason)
        files.rename(temporary.index, paths.index)
        files.rename(temporary.time_index, paths.time_index)
    except (OSError, CorruptFileError):
        for path in (temporary.index, temporary.time_index):
            with contextlib.suppress(OSError):
                files.unlink(path)
        raise
    files.sync_directory(state.directory)
