"""Producer ids: every idempotent producer gets one that nobody had before, also after a crash.

Ids are taken from the catalog a block at a time, and the block is durable before its first id is
handed out. What is left of a block when the server stops is lost on purpose: there are 2^63 of
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import trio

from logd.errors import DiskFullError
from logd.offload import Offload

BLOCK_IDS: Final = 1000
"""One catalog transaction for so many producers."""


class IdBlocks(Protocol):
    """The part of the catalog that hands out blocks."""

    def next_producer_id_block(self, size: int) -> int:
        """Return the first id of `size` ids that are ours from now on, durably."""
        ...


class ProducerIds:
    """Hands out producer ids. On the event loop.

    Args:
        on_full: told why, where the disk had no room for a block. On a disk without one free block
            idempotent producers come no further than here: nothing else would tell that it is full.
    """

    def __init__(
        self, catalog: IdBlocks, offload: Offload, *, on_full: Callable[[str], None]
    ) -> None:
        self._catalog = catalog
        self._offload = offload
        self._on_full = on_full
        self._lock = trio.Lock()
        self._next = 0
        self._end = 0

    async def next(self) -> int:
        """Return an id that was never returned before; waits only once a block.

        Raises:
            LogdError: the catalog could not be written; no id is lost or given twice.
        """
        while self._next == self._end:  # Others may use up the block before we run again.
            await self._take_block()
        producer_id = self._next
        self._next += 1
        return producer_id

    async def _take_block(self) -> None:
        async with self._lock:
            if self._next != self._end:
                return  # Somebody took a block while we waited.
            try:
                first = await self._offload.run(
                    "catalog", self._catalog.next_producer_id_block, BLOCK_IDS
                )
            except DiskFullError as error:
                self._on_full(str(error))
                raise
            self._next, self._end = first, first + BLOCK_IDS
