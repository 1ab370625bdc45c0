"""A store behind a circuit breaker, with bounded retries.

Only "unavailable" is tried again, and only what can be repeated: after 0 to b, 0 to 2 b, 0 to 4 b …
seconds, drawn anew each time (full jitter), so that many callers of one node do not come back at
once. An upload is not repeated: it would have to be sent from its beginning, which is the caller's
to decide. Health is asked past the breaker: it is how a node is found to be back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import trio

from ec.breaker import Breaker, BreakerState
from ec.chunk_dir import LIST_MAX
from ec.chunk_file import ChunkHead
from ec.chunk_id import ChunkId
from ec.errors import ChunkDamagedError, StoreUnavailableError
from ec.store.protocol import Health, Store, Upload

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how soon a call is tried again.

    Attributes:
        attempts: in all, the first one included.
        base_s, cap_s: the longest wait before the second attempt, and before any.
    """

    attempts: int = 3
    base_s: float = 0.1
    cap_s: float = 2.0

    def __post_init__(self) -> None:
        assert self.attempts >= 1
        assert 0 <= self.base_s <= self.cap_s


class GuardedStore:
    """See the module, and `ec.store.protocol.Store`.

    Attributes:
        inner: the store itself: for what must be tried all the same.
        breaker: its state is for people to see.
    """

    def __init__(
        self, inner: Store, *, breaker: Breaker, rng: Random, retries: Retries | None = None
    ) -> None:
        self.inner = inner
        self.breaker = breaker
        self._rng = rng
        self._retries = retries or Retries()
        assert self._retries.attempts >= 1

    @property
    def node(self) -> str:
        """See `Store`."""
        return self.inner.node

    def state(self) -> BreakerState:
        """Return what the breaker does with calls now."""
        return self.breaker.state(trio.current_time())

    async def begin(self, chunk: ChunkId, file_bytes: int) -> Upload:
        """See `Store`; what comes behind is not counted: an upload takes as long as it takes."""
        return await self.guarded(lambda: self.inner.begin(chunk, file_bytes))

    async def head(self, chunk: ChunkId) -> ChunkHead:
        """See `Store`."""
        return await self._repeated(lambda: self.inner.head(chunk))

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        """See `Store`."""
        return await self._repeated(lambda: self.inner.read(chunk, start, end))

    async def list(self, *, after: str = "", limit: int = LIST_MAX) -> tuple[ChunkId, ...]:
        """See `Store`."""
        return await self._repeated(lambda: self.inner.list(after=after, limit=limit))

    async def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        """See `Store`."""
        return await self._repeated(lambda: self.inner.verify(chunk), is_long=True)

    async def delete(self, chunk: ChunkId) -> bool:
        """See `Store`."""
        return await self._repeated(lambda: self.inner.delete(chunk))

    async def quarantine(self, chunk: ChunkId) -> None:
        """See `Store`."""
        await self._repeated(lambda: self.inner.quarantine(chunk))

    async def health(self) -> Health:
        """See `Store`; past the breaker."""
        return await self.inner.health()

    async def note_catalog_sequence(self, sequence: int) -> None:
        """See `Store`."""
        await self._repeated(lambda: self.inner.note_catalog_sequence(sequence))

    async def _repeated(self, call: Callable[[], Awaitable[T]], *, is_long: bool = False) -> T:
        longest_s = self._retries.base_s
        for _ in range(self._retries.attempts - 1):
            try:
                return await self.guarded(call, is_long=is_long)
            except CircuitOpenError:
                raise  # The breaker has just said that it is of no use.
            except StoreUnavailableError:
                await trio.sleep(self._rng.uniform(0, longest_s))
                longest_s = min(2 * longest_s, self._retries.cap_s)
        return await self.guarded(call, is_long=is_long)

    async def guarded(self, call: Callable[[], Awaitable[T]], *, is_long: bool = False) -> T:
        """Make one call, if the breaker lets it, and tell the breaker how it ended.

        Args:
            is_long: the call may take its time; only whether it fails counts.

        Raises:
            CircuitOpenError: the breaker is open. Else what the call raises.
        """
        started_s = trio.current_time()
        period = self.breaker.admit(started_s)
        if period is None:
            raise CircuitOpenError(f"{self.node}: not asked, it failed too often of late")
        failed: bool | None = None
        try:
            result = await call()
            failed = False
        except StoreUnavailableError:
            failed = True
            raise
        except Exception:  # Any other answer is an answer.
            failed = False
            raise
        finally:
            now_s = trio.current_time()
            seconds = 0.0 if is_long else now_s - started_s
            if failed is None:
                self.breaker.give_up(period, now_s, seconds=seconds)  # Cancelled.
            else:
                self.breaker.record(period, now_s, seconds=seconds, failed=failed)
        return result


class CircuitOpenError(StoreUnavailableError):
    """The node was not asked: its breaker is open."""
