"""What the server writes to the cleaner's process, and what it makes of the lines that come back.

Imported with the first round of compaction, not with the server: it takes all that cleans, and what
reads JSON into classes, which is a thirtieth of a start.
"""

from __future__ import annotations

import os

import msgspec

from logd.broker.cleaning import CleaningFailedError
from logd.broker.worker import WorkerError
from logd.cleaner_process import ProcessLine, ProcessOrder
from logd.storage.clean_order import CleanOrder, CleanResult


def order_bytes(order: CleanOrder, *, memory_bytes: int, is_asked_for: bool) -> bytes:
    """Return what the process reads on stdin; arguments as for `Cleaner.clean`."""
    asked = ProcessOrder(
        parent_pid=os.getpid(),
        memory_bytes=memory_bytes,
        is_asked_for=is_asked_for,
        order=order.to_json(),
    )
    return msgspec.json.encode(asked)


def read_line(text: bytes) -> ProcessLine:
    """Return what a line of its stdout says.

    Raises:
        WorkerError: it is none that a cleaner writes.
    """
    try:
        return msgspec.json.decode(text, type=ProcessLine)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WorkerError(f"it wrote {text[:80]!r}: {error}") from error


def result_of(last: ProcessLine | None) -> CleanResult:
    """Return the result that the last line of a process tells.

    Raises:
        CleaningFailedError: it tells of a failure. WorkerError: of neither.
    """
    if last is not None and last.failure is not None:
        raise CleaningFailedError(last.failure.kind, last.failure.reason)
    if last is None or last.result is None:
        raise WorkerError("it ended without a result")
    try:
        return CleanResult.from_json(last.result)
    except ValueError as error:
        raise WorkerError(f"its result cannot be used: {error}") from error
