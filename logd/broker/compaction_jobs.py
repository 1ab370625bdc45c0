"""`logd compact`, as the server sees it: a job for a topic, of which each partition has its turn.

    seal the active segment ── wait until all of it is visible ── rounds until nothing is left

A job belongs to the server, not to the connection that asked for it: who asked may leave and look
again. It is forgotten when the server stops, or when many others came after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from logd.broker.compaction_round import Rounds
from logd.broker.partition import Partition
from logd.broker.services import PartitionServices
from logd.errors import CompactionError, LogFailedError, SegmentsChangedError
from logd.policy.compaction import NotDue
from logd.storage.clean_order import CleanResult, Progress
from logd.storage.log import Log

TRIES: Final = 5
"""Rounds that may be in vain because records are deleted meanwhile, before who asked is told so."""

_SHARES: Final = {"keys": (0.0, 0.5), "copy": (0.5, 1.0)}
"""From where to where on its way a round is in each phase …"""

_SHARES_OF_CODED: Final = {
    "thaw": (0.0, 0.3), "keys": (0.3, 0.5), "copy": (0.5, 0.7), "encode": (0.7, 1.0),
}  # fmt: skip
"""… and where some of the log is in chunks: it begins with "thaw" then."""

_PARTS: Final = ("part from", "part to")
"""Where a round is done in parts: which share of its way what follows is."""

Row = dict[str, Any]
"""What one partition came to, as `logd compact` prints it."""


@dataclass(slots=True, eq=False)
class Job:
    """What was asked for, and how far it is.

    Attributes:
        rows: of the partitions that are done.
        current: how much of each partition that is under way is done, 0 to 1, by its index.
    """

    id: int
    topic: str
    partitions: tuple[int, ...]
    rows: dict[int, Row] = field(default_factory=dict)
    current: dict[int, float] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether each partition had its turn."""
        return len(self.rows) == len(self.partitions)

    def as_document(self) -> dict[str, Any]:
        """Return the job as the admin port shows it."""
        done = len(self.rows) + sum(self.current.values())
        return {
            "id": self.id,
            "topic": self.topic,
            "partitions": self.partitions,
            "done": self.is_done,
            "progress": round(done / len(self.partitions), 4),
            "rows": [self.rows[index] for index in sorted(self.rows)],
        }


class OnDemand:
    """Does one partition's part of a job.

    Args:
        prepare: awaited before the rounds, to move a partition's bound as far as it will go.
    """

    def __init__(
        self,
        rounds: Rounds,
        services: PartitionServices,
        prepare: Callable[[Partition], Awaitable[None]],
    ) -> None:
        self._rounds = rounds
        self._services = services
        self._prepare = prepare

    async def compact(
        self, partition: Partition, on_share: Callable[[float], None]
    ) -> tuple[Row, list[CleanResult]]:
        """Compact a partition as far as it will go; return its row, and each round's result.

        Raises:
            LogdError, OSError: as `Rounds.run`; the rounds before the one that failed stay done.
        """
        started = self._services.clock.monotonic()
        log = partition.log
        row: Row = {"topic": partition.topic_name, "partition": partition.index}
        row["segments_before"], row["bytes_before"] = len(log.segment_list.items), log.total_bytes
        await seal(partition, self._services)
        await self._prepare(partition)
        results, reason = await self._rounds_of(partition, on_share)
        removed = sum(result.before.records - result.after.records for result in results)
        left = results[-1].after.records if results else None
        row |= {
            "segments_before": row["segments_before"],
            "segments_after": len(log.segment_list.items),
            "bytes_before": row["bytes_before"],
            "bytes_after": log.total_bytes,
            "records_before": None if left is None else left + removed,
            "records_after": left,
            "seconds": round(self._services.clock.monotonic() - started, 3),
            "note": reason or _left_out(log, results),
            "error": None,
        }
        return row, results

    async def _rounds_of(
        self, partition: Partition, on_share: Callable[[float], None]
    ) -> tuple[list[CleanResult], str | None]:
        """Run rounds until none is due; return their results, and why there was none, if so."""
        results: list[CleanResult] = []
        while True:
            outcome = await self._round(partition, on_share)
            if isinstance(outcome, NotDue):
                if partition.log.damaged:
                    raise CompactionError(f"not compacted: {outcome.reason}")
                return results, None if results else outcome.reason
            refuse_standstill(results[-1] if results else None, outcome)
            results.append(outcome)
            if outcome.fitted:
                return results, None

    async def _round(
        self, partition: Partition, on_share: Callable[[float], None]
    ) -> CleanResult | NotDue:
        for _ in range(TRIES - 1):
            with contextlib.suppress(SegmentsChangedError):  # Then what is there now.
                return await self._rounds.run(
                    partition, on_demand=True, on_progress=Shares(on_share)
                )
        return await self._rounds.run(partition, on_demand=True, on_progress=Shares(on_share))


def _left_out(log: Log, results: list[CleanResult]) -> str | None:
    """Return what the rounds did not go through, in words; None if they went through all."""
    reached, end = results[-1].first_uncleaned_offset, log.active_base
    if reached >= end:
        return None
    return (
        f"records are counted up to offset {reached}; what lies behind, up to {end}, may not be "
        "touched yet"
    )


def refuse_standstill(before: CleanResult | None, result: CleanResult) -> None:
    """Raise CompactionError where rounds do not get on, because not even one batch's keys fit."""
    if (
        before is not None
        and not result.fitted
        and result.first_uncleaned_offset <= before.first_uncleaned_offset
    ):
        raise CompactionError(
            f"rounds do not get past offset {result.first_uncleaned_offset}: the keys there need "
            "more memory than log.cleaner.dedupe.buffer.size gives"
        )


class Shares:
    """Makes of a round's progress how much of its way is behind it, 0 to 1."""

    def __init__(self, on_share: Callable[[float], None]) -> None:
        self._on_share = on_share
        self._shares = _SHARES
        self._part = [0.0, 1.0]
        self._told = 0.0

    def __call__(self, progress: Progress) -> None:
        done = min(1.0, progress.done_bytes / progress.all_bytes) if progress.all_bytes else 0.0
        if progress.phase in _PARTS:
            self._part[_PARTS.index(progress.phase)] = done
            return
        if progress.phase == "thaw":
            self._shares = _SHARES_OF_CODED
        begin, end = self._shares.get(progress.phase, (0.0, 0.0))
        share = begin + done * (end - begin)
        # What parts leave is smaller than what they took: the way becomes shorter, not longer.
        self._told = max(self._told, self._part[0] + share * (self._part[1] - self._part[0]))
        self._on_share(self._told)


# --- sealing -------------------------------------------------------------------------------------


class _Woken:
    """Wakes a task where a fetch would be woken."""

    def __init__(self) -> None:
        self.event = trio.Event()

    def wake(self) -> None:
        """The high watermark moved, or the partition went offline."""
        self.event.set()


async def seal(partition: Partition, services: PartitionServices) -> None:
    """Begin a new segment, if the active one holds anything; wait until what it holds is visible.

    Raises:
        DiskFullError: no space; nothing has changed. LogFailedError: the partition is offline.
    """
    log = partition.log
    async with partition.exclusive():
        # After a start the first call only opens the segment.
        while partition.offline is None and log.segment_list.active.size > 0:
            await services.offload.run("write", log.roll_now)
        sealed_end = log.active_base
    if log.wants_checkpoint:
        partition.take_checkpoint()
    while not _has_failed(partition) and partition.high_watermark < sealed_end:
        woken = _Woken()
        partition.wait_for_data(woken)
        try:
            await woken.event.wait()
        finally:
            partition.forget_fetch(woken)
    if _has_failed(partition):
        raise LogFailedError(partition.offline or str(log.failed))


def _has_failed(partition: Partition) -> bool:
    return partition.offline is not None or partition.log.failed is not None
