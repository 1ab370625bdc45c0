"""A store whose reads and writes keep to a rate, and that measures what its node gives.

Repair and scrub reach nodes through it. The rate belongs to the node: all who work on one node
through the same `NodeBudget` share its bucket. What a call takes without the wait for its turn is
what the node was measured to give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class NodeBudget:
    """How many bytes a second may be read or written on one node.

    Attributes:
        device: what the node gave.
        waited_s: how long all who share it waited for their turn.
    """

    def __init__(self) -> None:
        self.device = MeasuredRate()
        self.waited_s = 0.0
        self._bucket: TokenBucket | None = None

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

    def measured(self, count: int, *, seconds: float) -> None:
        """Take note of what a call moved, and how long it took."""
        self.device = self.device.with_piece(count, seconds=seconds)


class LimitedStore:
    """See the module, and `ec.store.protocol.Store`.

    Args:
        rate: see `NodeBudget.wait`.
    """

    def __init__(
        self,
        inner: Store,
        budget: NodeBudget,
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
        await self._budget.wait(end - start, self._rate)
        began_s = trio.current_time()
        found = await self._inner.read(chunk, start, end)
        self._budget.measured(len(found), seconds=trio.current_time() - began_s)
        self._moved("read", len(found))
        return found

    async def write_to(self, upload: Upload, buffers: Sequence[Buffer]) -> None:
        """Write to one of its uploads; waits for its turn first."""
        count = sum(memoryview(buffer).nbytes for buffer in buffers)
        await self._budget.wait(count, self._rate)
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
