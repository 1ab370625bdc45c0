"""What failed, why, and when it is tried again: later each time, up to a limit.

Of each thing only the last failure is kept, until it succeeds or nobody asks for it any more. After
a restart everything is tried at once: the reasons may be gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from logd.units import MINUTE_MS, SECOND_MS

FIRST_PAUSE_MS: Final = 5 * SECOND_MS
PAUSE_MS_MAX: Final = 10 * MINUTE_MS

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failure of one thing.

    Attributes:
        count: how many there were in a row.
        retry_at_ms: wall-clock time before which it is left alone.
    """

    reason: str
    count: int
    retry_at_ms: int


class Attempts(Generic[K]):
    """Failures by what failed. Lives on the event loop.

    Args:
        now_ms: the wall clock.
        first_ms, longest_ms: of the pauses after a failure.
    """

    def __init__(
        self,
        now_ms: Callable[[], int],
        *,
        first_ms: int = FIRST_PAUSE_MS,
        longest_ms: int = PAUSE_MS_MAX,
    ) -> None:
        self._now_ms = now_ms
        self._first_ms = first_ms
        self._longest_ms = longest_ms
        self._failures: dict[K, Failure] = {}

    def failed(self, key: K, reason: str) -> Failure:
        """Note a failure; return it."""
        before = self._failures.get(key)
        count = 1 if before is None else before.count + 1
        pause_ms = min(self._longest_ms, self._first_ms << min(count - 1, 20))
        failure = Failure(reason, count, self._now_ms() + pause_ms)
        self._failures[key] = failure
        return failure

    def succeeded(self, key: K) -> None:
        """Forget what failed before."""
        self._failures.pop(key, None)

    def retry_at_ms(self, key: K) -> int:
        """Return when the thing may be tried again; 0: at any time."""
        failure = self._failures.get(key)
        if failure is None:
            return 0
        # A wall clock that was put back must not make it wait longer than it ever would.
        return min(failure.retry_at_ms, self._now_ms() + self._longest_ms)

    def may_try(self, key: K) -> bool:
        """Return whether its pause is over."""
        return self.retry_at_ms(key) <= self._now_ms()

    def keep_only(self, keys: Collection[K]) -> None:
        """Forget all others."""
        self._failures = {key: value for key, value in self._failures.items() if key in keys}

    @property
    def next_ms(self) -> int | None:
        """When the first pause ends; None: nothing waits."""
        return min((each.retry_at_ms for each in self._failures.values()), default=None)

    def __getitem__(self, key: K) -> Failure:
        return self._failures[key]

    def __contains__(self, key: object) -> bool:
        return key in self._failures

    def __iter__(self) -> Iterator[tuple[K, Failure]]:
        """Yield each thing that failed, with its failure."""
        return iter(self._failures.items())

    def __len__(self) -> int:
        return len(self._failures)
