"""The server's side of the cleaner's process: hands over an order, hears how it goes and ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from logd.broker.worker import WorkerError, run_worker
from logd.cleaner_process import FailureKind, ProcessLine, ProcessOrder
from logd.errors import LogdError
from logd.offload import Offload
from logd.storage.clean_order import CleanOrder, CleanResult, Progress

PROCESS_MODULE: Final = "logd.cleaner_process"

OnProgress = Callable[[Progress], None]


class CleaningFailedError(LogdError):
    """A round ended without a result.

    Attributes:
        kind: see `FailureKind`.
    """

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Cleaner(Protocol):
    """Carries out rounds, off the event loop."""

    async def clean(
        self, order: CleanOrder, *, memory_bytes: int, on_progress: OnProgress
    ) -> CleanResult:
        """Carry out one round; cancelled, it returns when nothing is written any more.

        What was written has to be removed by the caller, unless there is a result.

        Raises:
            CleaningFailedError: for a reason that was told.
            WorkerError: the process ended without telling one.
        """
        ...


class ProcessCleaner:
    """The real one: an interpreter for each round."""

    def __init__(self, offload: Offload) -> None:
        self._offload = offload

    async def clean(
        self, order: CleanOrder, *, memory_bytes: int, on_progress: OnProgress
    ) -> CleanResult:
        """Carry out one round; see `Cleaner.clean`."""
        last: ProcessLine | None = None

        def hear(text: bytes) -> None:
            nonlocal last
            last = _decode(text)
            if last.progress is not None:
                on_progress(last.progress)

        # Ten thousand segments take a tenth of a second to write down: not on the loop.
        asked = await self._offload.run("admin", _encode, order, memory_bytes)
        await run_worker(self._offload, PROCESS_MODULE, asked, hear)
        return await self._offload.run("admin", _result, last)


def _encode(order: CleanOrder, memory_bytes: int) -> bytes:
    asked = ProcessOrder(parent_pid=os.getpid(), memory_bytes=memory_bytes, order=order.to_json())
    return msgspec.json.encode(asked)


def _decode(text: bytes) -> ProcessLine:
    try:
        return msgspec.json.decode(text, type=ProcessLine)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WorkerError(f"it wrote {text[:80]!r}: {error}") from error


def _result(last: ProcessLine | None) -> CleanResult:
    if last is not None and last.failure is not None:
        raise CleaningFailedError(last.failure.kind, last.failure.reason)
    if last is None or last.result is None:
        raise WorkerError("it ended without a result")
    try:
        return CleanResult.from_json(last.result)
    except ValueError as error:
        raise WorkerError(f"its result cannot be used: {error}") from error
