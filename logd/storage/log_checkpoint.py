"""Taking checkpoint S of a live log: on the loop in a moment, made durable in a thread.

What is taken must be on the device before the checkpoint says so: data first, then the index
entries, then the snapshot file. So recovery may trust all three below S.
"""

from __future__ import annotations

from typing import NamedTuple

from logd.errors import CorruptFileError, DiskFullError, SegmentsChangedError
from logd.storage.checkpoint import write_snapshot
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
