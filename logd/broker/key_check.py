"""Compacted topics refuse records without a key, so their batches are looked into before they are
staged.

Parsing costs some microseconds a record; a tenth of one where many are of one length. A batch with
few records is parsed on the loop; a large one in a thread, and then all that follows for the
partition waits behind it, because a producer's order must be kept.

Source: Kafka's LogValidator (INVALID_RECORD for a null key on a compacted topic).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from logd.errors import CorruptRecordsError, InvalidRecordError, LogdError
from logd.offload import Offload
from logd.record.batch import BatchHeader
from logd.record.records import null_key_indexes

INLINE_RECORDS_MAX: Final = 2_000
"""Parsed on the loop up to this many records: some 5 ms."""

NULL_KEY_TEXT: Final = "a compacted topic does not accept records without a key"

CONTENT_FACTOR: Final = 64
"""A batch may decompress to this many times max.message.bytes, no further."""


class Refusable(Protocol):
    """Who waits for the append."""

    def refused(self, error: LogdError) -> None:
        """The batch is not acknowledged."""
        ...


W = TypeVar("W", bound=Refusable)


class _Queued(NamedTuple, Generic[W]):
    batch: bytearray
    header: BatchHeader
    waiter: W
    wants_sync: bool


class KeyCheck(Generic[W]):
    """The line of a compacted partition's batches that are not staged yet. On the loop.

    Attributes:
        checks: whether the topic is compacted; if it is no more, batches only wait for those before
            them.

    Args:
        stage: called with (buffer, header, waiter, wants_sync) in the order of arrival; may raise.
        on_ended: called after each batch that left the line, staged or refused.
        limit_bytes: what a batch's records may decompress to.
    """

    def __init__(
        self,
        offload: Offload,
        stage: Callable[[bytearray, BatchHeader, W, bool], None],
        *,
        on_ended: Callable[[], None],
        limit_bytes: int,
    ) -> None:
        self._offload = offload
        self._stage = stage
        self._on_ended = on_ended
        self.checks = True
        self.limit_bytes = limit_bytes
        self._queue: deque[_Queued[W]] = deque()
        self.queued_bytes = 0

    @property
    def is_needed(self) -> bool:
        """Whether batches must come by here: to be checked, or to wait for those before them."""
        return self.checks or bool(self._queue)

    def check_now(self, batch: memoryview, header: BatchHeader) -> bool:
        """Check a small batch; return False if it must be queued instead.

        Raises:
            InvalidRecordError: a record has no key, or the records cannot be read.
        """
        if self._queue or (self.checks and header.count > INLINE_RECORDS_MAX):
            return False
        if self.checks:
            _refuse_null_key(batch, self.limit_bytes)
        return True

    def queue(self, batch: memoryview, header: BatchHeader, waiter: W, *, wants_sync: bool) -> None:
        """Check a batch in a thread, behind those that came before; it is copied."""
        self._queue.append(_Queued(bytearray(batch), header, waiter, wants_sync))
        self.queued_bytes += len(batch)
        if len(self._queue) == 1:
            self._check_first()

    def _check_first(self) -> None:
        queued = self._queue[0]
        limit_bytes, checks = self.limit_bytes, self.checks

        def job() -> None:
            if checks:
                _refuse_null_key(memoryview(queued.batch), limit_bytes)

        self._offload.submit("write", job, self._deliver)

    def _deliver(self, _outcome: object, error: BaseException | None) -> None:
        queued = self._queue.popleft()
        self.queued_bytes -= len(queued.batch)
        if isinstance(error, LogdError):
            queued.waiter.refused(error)
        elif error is not None:
            queued.waiter.refused(InvalidRecordError(f"the records cannot be checked: {error!r}"))
        else:
            try:
                self._stage(queued.batch, queued.header, queued.waiter, queued.wants_sync)
            except LogdError as refusal:
                queued.waiter.refused(refusal)
        self._on_ended()
        if self._queue:
            self._check_first()


def _refuse_null_key(batch: memoryview, limit_bytes: int) -> None:
    try:
        found = null_key_indexes(batch, limit_bytes=limit_bytes)
    except CorruptRecordsError as error:
        raise InvalidRecordError(f"the batch's records cannot be read: {error}") from error
    if found:
        raise InvalidRecordError(NULL_KEY_TEXT, found)
