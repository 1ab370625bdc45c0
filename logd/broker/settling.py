"""Wait until what partitions have in their files can be read.

A record that was answered with acks=1 is visible some milliseconds later, when its sync has
returned. Who asks where a partition ends must not be told an end before the records that he knows
were taken: clients that write, ask and read count on that, as with a Kafka broker that is alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import trio

from logd.broker.partition import Partition

SETTLE_S: Final = 1.0
"""A device that takes longer holds no question up: the answer is what is visible then."""


class _Settling:
    """Waits for one partition's high watermark to reach what is written now."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._offset = partition.log.written_offset
        self.settled = trio.Event()
        self.wake()

    def wake(self) -> None:
        """Look whether it has; if not, have a sync begin and wait for the next one to end."""
        partition = self._partition
        if partition.offline is not None or partition.high_watermark >= self._offset:
            self.settled.set()
        else:
            partition.wait_for_data(self)

    def forget(self) -> None:
        """Wait no more."""
        self._partition.forget_fetch(self)


async def settle(partitions: Iterable[Partition]) -> None:
    """Return when all that is written now is visible, or a partition is offline, or SETTLE_S
    passed.

    The partitions' syncs run side by side.
    """
    waiting = [_Settling(partition) for partition in partitions]
    try:
        with trio.move_on_after(SETTLE_S):
            for one in waiting:
                if not one.settled.is_set():
                    await one.settled.wait()
    finally:
        for one in waiting:
            one.forget()
