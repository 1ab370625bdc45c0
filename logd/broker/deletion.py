"""The deletion of a log's oldest records, for whatever reason: the step in a thread, the event."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from logd.errors import DiskFullError
from logd.events import EventLog
from logd.storage.log import DeleteResult, Log

LendCall = Callable[[], AbstractContextManager[None]]
"""Gives the space that is kept for freeing space to who is in the block. Blocking."""


def always() -> bool:
    """Nobody can think better of it."""
    return True


def delete_before(
    log: Log, offset: int, lend_ballast: LendCall, wanted: Callable[[], bool]
) -> DeleteResult:
    """Make `offset` the log start. Deleting needs a little space itself: the ballast's.

    Also where there is no ballast it is tried again: the space may have been held only by somebody
    who was about to make it.

    Args:
        wanted: asked in the last moment; else only what was begun before is finished.

    Raises:
        OffsetOutOfRangeError, StorageError: as `Log.delete_before`.
    """
    if not wanted():
        offset = log.log_start_offset
    try:
        return log.delete_before(offset)
    except DiskFullError:
        with lend_ballast():
            return log.delete_before(offset)


def report(events: EventLog, log: Log, old_start: int, result: DeleteResult, reason: str) -> None:
    """Tell that a log start moved, by which rule, and what went with it."""
    if result.log_start_offset > old_start:
        events.info(
            "log start offset advanced",
            topic=log.topic,
            partition=log.partition,
            from_offset=old_start,
            to_offset=result.log_start_offset,
            reason=reason,
            segments=result.segment_count,
            bytes=result.size_bytes,
        )
