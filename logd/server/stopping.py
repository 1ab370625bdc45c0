"""A clean stop: what was appended becomes durable and is answered, and the next start knows it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Sequence
from typing import Final

import trio

from logd.broker.partition import Partition
from logd.errors import StorageError
from logd.offload import Offload
from logd.server.ground import Ground
from logd.storage.clean_stop import CleanLog, CleanStop
from logd.storage.sync_journal import SyncJournal

STOP_TIMEOUT_S: Final = 30.0
"""How long a clean stop waits for syncs before it gives up and leaves no marker."""


class LogClosing:
    """Closes the logs, the journal after them, and writes the marker of a clean stop."""

    def __init__(self, ground: Ground, offload: Offload) -> None:
        self._ground = ground
        self._offload = offload

    async def run(self, partitions: Sequence[Partition], journal: SyncJournal) -> None:
        """Close all logs; those that cannot be closed cleanly are recovered at the next start.

        A log is synced several times, and a thousand of them one by one would take longer than
        what stops services is willing to wait: as many threads as syncs have, each the next log.
        """
        logs: dict[tuple[bytes, int], CleanLog] = {}
        waiting = list(partitions)
        threads = min(self._ground.settings.sync_threads, len(waiting))
        async with trio.open_nursery() as closing:
            for _ in range(threads):
                closing.start_soon(self._offload.run, "sync", self._close_each, waiting, logs)
        marker = CleanStop(logs=logs)
        await self._offload.run("disk", journal.close)
        await self._offload.run("disk", self._ground.directory.write_clean_stop, marker)

    def _close_each(
        self, waiting: list[Partition], logs: dict[tuple[bytes, int], CleanLog]
    ) -> None:
        """Close logs until none is waiting. In several threads at a time."""
        while True:
            try:
                partition = waiting.pop()
            except IndexError:
                return
            try:
                logs[partition.topic_id, partition.index] = partition.log.close()
            except StorageError as error:
                self._ground.events.error(
                    "log not closed cleanly",
                    topic=partition.topic_name,
                    partition=partition.index,
                    reason=str(error),
                )


async def end_at_next_signal(signals: AsyncIterator[int]) -> None:
    """End the process when told to stop once more."""
    number = await anext(signals)
    # What was acknowledged is on disk; nothing else matters now. The signal ends the process.
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
