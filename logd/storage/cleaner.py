"""A round of compaction: what is read, what stays, what is written."""

from __future__ import annotations

from logd.storage.clean_order import CleanOrder, CleanResult, PaceCall, ProgressCall
from logd.storage.files import Files


def clean(
    files: Files, order: CleanOrder, *, on_progress: ProgressCall, pace: PaceCall
) -> CleanResult:
    """Carry out a round: write what stays of the order's segments beside the log. Blocking.

    Durability: once this returns, all new files are on the device, names included, and nobody but
    `Log.replace_segments` looks at them. Whatever it raises, what was written is removed again as
    far as that is possible; `unlink_cleaned` does the same for a process that was killed.

    Args:
        on_progress: called about every MiB.
        pace: is told of the bytes read and written since the last call, and may wait.

    Raises:
        BatchTooLargeToCompactError: a batch, which it names, needs more than batch_memory_bytes.
        CorruptFileError: a batch of the log is damaged; the log is not compacted.
        DiskFullError: no space, or less than `reserve_bytes` would be left.
        OSError: a file cannot be read or written.
    """
    raise AssertionError("not there yet")
