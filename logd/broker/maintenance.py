"""What happens without a request: periodic tasks of the broker, each a loop with a stated interval.

Each task ends only by cancellation. A round that fails is reported and the next one tried: a disk
that was full for a moment must not end the housekeeping for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from logd.broker.context import Broker
from logd.broker.disk_space import CHECK_INTERVAL_S, DiskSpace
from logd.broker.services import PartitionServices
from logd.errors import StorageError
from logd.metrics import Histogram
from logd.storage.data_directory import DataDirectory
from logd.units import MIB

BALLAST_BYTES: Final = MIB
"""Space that is given up when the disk is full, for the state files of what frees space."""

JOURNAL_INTERVAL_S: Final = 0.1
"""The sync journal reaches the device this soon; docs/crash-safety.md says what hangs on it."""

ROLL_INTERVAL_S: Final = 30.0
"""How late an idle log may be rolled by segment.ms."""

PRODUCERS_INTERVAL_S: Final = 600.0
"""How often idle producer ids are forgotten (producer.id.expiration.ms is a day)."""

LAG_INTERVAL_S: Final = 0.1


def look_at_disk(disk: DiskSpace, directory: DataDirectory) -> None:
    """Measure the free space and set the ballast aside, before the first append. Blocking.

    A fast client fills a disk before the first check.
    """
    disk.checked(directory.free_bytes())
    if not disk.is_full:
        with contextlib.suppress(OSError):  # The check reports it.
            directory.ballast.ensure(BALLAST_BYTES)


class Maintenance:
    """Runs the periodic tasks; put together by the server."""

    def __init__(
        self,
        broker: Broker,
        services: PartitionServices,
        *,
        lag: Histogram,
        ensure_ballast: Callable[[], bool],
    ) -> None:
        self._broker = broker
        self._services = services
        self._lag = lag
        self._ensure_ballast = ensure_ballast

    async def run(self) -> None:
        """Run all tasks until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._every, CHECK_INTERVAL_S, "disk check", self.check_disk)
            nursery.start_soon(self._every, JOURNAL_INTERVAL_S, "journal sync", self.sync_journal)
            nursery.start_soon(self._every, ROLL_INTERVAL_S, "roll", self.roll)
            nursery.start_soon(
                self._every, PRODUCERS_INTERVAL_S, "producer expiry", self.expire_producers
            )
            nursery.start_soon(self._measure_lag)

    async def _every(
        self, interval_s: float, name: str, work: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            await trio.sleep(interval_s)
            try:
                await work()
            except Exception as error:  # One bad round must not end the rounds.
                self._broker.events.error("maintenance failed", task=name, reason=repr(error))

    async def check_disk(self) -> None:
        """Measure the free space; appends follow it."""
        services = self._services
        free_bytes = await services.offload.run(
            "admin", services.files.free_bytes, self._broker.data_path
        )
        services.disk.checked(free_bytes)
        if not services.disk.is_full:
            await services.offload.run("admin", self._ensure_ballast)

    async def sync_journal(self) -> None:
        """Bring the recovery points of the last interval to the device."""
        journal = self._services.journal
        if journal.dirty:
            await self._services.offload.run("admin", journal.sync)

    async def roll(self) -> None:
        """Roll idle logs whose active segment is older than segment.ms."""
        now_ms = self._services.clock.now_ms()
        for partition in list(self._broker.topics.open_partitions()):
            try:
                await partition.roll_if_due(now_ms)
            except StorageError as error:  # The others' turn comes all the same.
                self._broker.events.warning(
                    "idle log not rolled",
                    topic=partition.topic_name,
                    partition=partition.index,
                    reason=str(error),
                )

    async def expire_producers(self) -> None:
        """Forget producer ids that have been idle for producer.id.expiration.ms."""
        now_ms = self._services.clock.now_ms()
        expiration_ms = self._broker.config.settings.producer_id_expiration_ms
        for partition in list(self._broker.topics.open_partitions()):
            partition.log.producers.expire(now_ms, expiration_ms)
            await trio.lowlevel.checkpoint()

    async def _measure_lag(self) -> None:
        while True:
            due = trio.current_time() + LAG_INTERVAL_S
            await trio.sleep_until(due)
            self._lag.observe(max(0.0, trio.current_time() - due))
