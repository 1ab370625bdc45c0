"""A store whose reads and writes keep to a rate, and that measures what its device gives.

Repair and scrub reach nodes through it. The rate belongs to a node, or to the device that several
nodes are on: all who work through the same `Budget` share its bucket. What is read while anybody
reads, without the waits for a turn, is what the device was measured to give: four reads side by
side that take a second are not four devices, nor one of a quarter of the rate.

Few calls go to a device at a time. Whoever else waits for it, an append for its sync, has them
before it in the device's queue.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

from ec.chunk_dir import LIST_MAX
from ec.chunk_file import ChunkHead
from ec.chunk_id import ChunkId
from ec.chunk_write import Receipt
from ec.errors import ChunkDamagedError
from ec.kernels.operands import Buffer
from ec.store.protocol import Health, Store, Upload
from logd.policy.cold.rates import MeasuredRate, TokenBucket

WAIT_S_MAX: Final = 1.0
"""Whoever waits looks again so often: the rate may have changed."""

WAIT_S_MIN: Final = 0.001
"""Shorter waits are not waited for: a clock may not even count them. The bucket keeps the debt."""


CALLS_AT_ONCE: Final = 2
"""On one device: it has something to do while the next call is handed over."""


class Budget:
    """How many bytes a second may be read or written on one node, or one device.

    Attributes:
        device: what it gave.
        waited_s: how long all who share it waited for their turn.
    """

    def __init__(self) -> None:
        self.device = MeasuredRate()
        self.waited_s = 0.0
        self._bucket: TokenBucket | None = None
        self._calls = trio.Semaphore(CALLS_AT_ONCE)
        self._readers = 0
        self._counted_s = 0.0
        self._uncounted_bytes = 0

    @asynccontextmanager
    async def turn(
        self, count: int, rate: Callable[[MeasuredRate], float | None]
    ) -> AsyncIterator[None]:
        """Wait until so many bytes may be read or written, and for one of the few places to do so.

        Args:
            rate: see `wait`.
        """
        await self.wait(count, rate)
        async with self._calls:
            yield

    async def wait(self, count: int, rate: Callable[[MeasuredRate], float | None]) -> None:
        """Return when so many bytes may be read or written.

        Args:
            rate: returns the rate, from what was measured; None: as fast as it goes.
        """
        now_s = trio.current_time()
        speed = rate(self.device)
        if speed is None:
            await trio.lowlevel.checkpoint()
            return
        if self._bucket is None:
            self._bucket = TokenBucket.full(speed, now_s=now_s)
        self._bucket, wait_s = self._bucket.at_rate(speed, now_s=now_s).take(count, now_s=now_s)
        self.waited_s += wait_s
        while wait_s >= WAIT_S_MIN:
            await trio.sleep(min(wait_s, WAIT_S_MAX))
            now_s = trio.current_time()
            speed = rate(self.device) or float("inf")
            if speed == float("inf"):
                return
            self._bucket, wait_s = self._bucket.at_rate(speed, now_s=now_s).take(0, now_s=now_s)

    @contextmanager
    def reading(self, count: int) -> Iterator[None]:
        """Measure a read of so many bytes; one that fails counts for its time alone."""
        if not self._readers:
            self._counted_s = trio.current_time()
        self._readers += 1
        try:
            yield
            self._uncounted_bytes += count
        finally:
            self._readers -= 1
            self._measure()

    def _measure(self) -> None:
        """Count the time since the last read ended, or the first of those under way began."""
        now_s = trio.current_time()
        if now_s > self._counted_s:
            self.device = self.device.with_piece(
                self._uncounted_bytes, seconds=now_s - self._counted_s
            )
            self._counted_s, self._uncounted_bytes = now_s, 0


class LimitedStore:
    """See the module, and `ec.store.protocol.Store`.

    Args:
        rate: see `Budget.wait`.
    """

    def __init__(
        self,
        inner: Store,
        budget: Budget,
        *,
        rate: Callable[[MeasuredRate], float | None],
        moved: Callable[[str, int], None] = lambda _way, _count: None,
    ) -> None:
        self._inner = inner
        self._budget = budget
        self._rate = rate
        self._moved = moved

    @property
    def node(self) -> str:
        """See `Store`."""
        return self._inner.node

    async def begin(self, chunk: ChunkId, file_bytes: int) -> Upload:
        """See `Store`."""
        return _LimitedUpload(self, await self._inner.begin(chunk, file_bytes))

    async def head(self, chunk: ChunkId) -> ChunkHead:
        """See `Store`."""
        return await self._inner.head(chunk)

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        """See `Store`; waits for its turn first."""
        async with self._budget.turn(end - start, self._rate):
            with self._budget.reading(end - start):
                found = await self._inner.read(chunk, start, end)
        self._moved("read", len(found))
        return found

    async def write_to(self, upload: Upload, buffers: Sequence[Buffer]) -> None:
        """Write to one of its uploads; waits for its turn first."""
        count = sum(memoryview(buffer).nbytes for buffer in buffers)
        async with self._budget.turn(count, self._rate):
            await upload.write(buffers)
        self._moved("written", count)

    async def list(self, *, after: str = "", limit: int = LIST_MAX) -> tuple[ChunkId, ...]:
        """See `Store`."""
        return await self._inner.list(after=after, limit=limit)

    async def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        """See `Store`; how fast the node goes is its own."""
        return await self._inner.verify(chunk)

    async def delete(self, chunk: ChunkId) -> bool:
        """See `Store`."""
        return await self._inner.delete(chunk)

    async def quarantine(self, chunk: ChunkId) -> None:
        """See `Store`."""
        await self._inner.quarantine(chunk)

    async def health(self) -> Health:
        """See `Store`."""
        return await self._inner.health()

    async def note_catalog_sequence(self, sequence: int) -> None:
        """See `Store`."""
        await self._inner.note_catalog_sequence(sequence)


class _LimitedUpload:
    """See `ec.store.protocol.Upload`."""

    def __init__(self, store: LimitedStore, inner: Upload) -> None:
        self._store = store
        self._inner = inner

    async def write(self, buffers: Sequence[Buffer]) -> None:
        await self._store.write_to(self._inner, buffers)

    async def finish(self) -> Receipt:
        return await self._inner.finish()

    async def abort(self) -> None:
        await self._inner.abort()
