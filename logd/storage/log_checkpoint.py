"""Taking checkpoint S of a live log: on the loop in a moment, made durable in a thread.

What is taken must be on the device before the checkpoint says so: data first, then the index
entries, then the snapshot file. So recovery may trust all three below S.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import NamedTuple

from logd.errors import (
    CorruptFileError,
    DamagedRangeError,
    DiskFullError,
    LogFailedError,
    SegmentsChangedError,
    UnsupportedFormatError,
)
from logd.storage.checkpoint import read_snapshot, snapshot_path, write_snapshot
from logd.storage.log_state import LogState
from logd.storage.producer_state import ProducerSnapshot
from logd.storage.segment import Segment


class Checkpoint(NamedTuple):
    """The log's state at one moment, to be made durable in a thread."""

    segment: Segment
    snapshot: ProducerSnapshot


def take_checkpoint(state: LogState) -> Checkpoint:
    """Return the log's state as it is now. On the loop, or where nothing is appended."""
    active = state.segment_list.active
    assert active.size >= 0
    max_timestamp = active.max_timestamp or (-1, active.base_offset)
    snapshot = ProducerSnapshot(
        active.base_offset,
        active.size,
        state.written_offset,
        *max_timestamp,
        state.producers.copy_written(),
    )
    return Checkpoint(active, snapshot)


def write_checkpoint(state: LogState, taken: Checkpoint) -> None:
    """Make a checkpoint durable; see `Log.checkpoint`. Blocking, in a thread."""
    if state.failed is not None:
        raise state.failed
    try:
        opened = state.open_segment(taken.segment)
        state.sync_file(opened.file)
        with state.index_lock:
            for index in (opened.index, opened.time_index):
                if index is not None:
                    index.sync()
        with state.snapshot_lock:
            if not taken.segment.is_replaced:
                state.snapshot_offsets = write_snapshot(
                    state.files, state.directory, taken.snapshot, state.snapshot_offsets
                )
    except SegmentsChangedError:
        return  # Sealed and compacted since: the roll wants a checkpoint of its own.
    except (OSError, CorruptFileError) as error:
        # Nothing that was promised depends on a checkpoint: the log itself goes on.
        raise DiskFullError(f"{state.directory}: no checkpoint: {error}") from error


# --- snapshots that name a place in a segment that goes -------------------------------------------


def stale_snapshots(state: LogState, bases: Collection[int]) -> list[int]:
    """Return the offsets of the snapshots that name a place in one of these segments.

    Raises:
        DamagedRangeError: one cannot be read.
    """
    stale: list[int] = []
    assert state.snapshot_offsets == sorted(state.snapshot_offsets)
    for offset in state.snapshot_offsets:
        try:
            base = read_snapshot(state.files, state.directory, offset).segment_base
        except (CorruptFileError, UnsupportedFormatError, FileNotFoundError):
            continue  # Recovery does not use it either.
        except OSError as error:
            raise DamagedRangeError(f"{state.directory}: {error}") from error
        if base in bases:
            stale.append(offset)
    return stale


def drop_snapshots(state: LogState, bases: Collection[int]) -> None:
    """Unlink the snapshots that name a place in one of these segments. Under the snapshot lock.

    Recovery would begin to walk there, in what may be another segment's bytes by then.

    Raises:
        LogFailedError: one could not be removed; the log is poisoned. DamagedRangeError: one cannot
            be read.
    """
    assert state.snapshot_lock.locked()
    stale = stale_snapshots(state, bases)
    try:
        for offset in stale:
            with contextlib.suppress(FileNotFoundError):
                state.files.unlink(snapshot_path(state.directory, offset))
    except OSError as error:
        message = f"{state.directory}: a stale snapshot could not be removed: {error}"
        raise state.poison(LogFailedError(message)) from error
    kept = state.snapshot_offsets
    state.snapshot_offsets = [offset for offset in kept if offset not in stale]
