"""What of coded segments could not be read: remembered, so that it is said and not tried at once.

A range that failed answers with the same error for `FAILED_S`; then the next reader tries anew. For
people it stays known until it is read again, or its segment is gone: `problems` lists it, and
`logd status` exits with 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from logd.errors import ColdRangeError, LogdError
from logd.policy.cold.values import Generation

FAILED_S: Final = 1.0
FAILURES_MAX: Final = 1000


@dataclass(slots=True)
class Failure:
    """A range of offsets that could not be read.

    Attributes:
        from_offset, to_offset: the first one, and the one behind the last.
        until_s: until then it is not tried again.
    """

    generation: Generation
    from_offset: int
    to_offset: int
    reason: str
    until_s: float

    def error(self) -> ColdRangeError:
        """Return the error for whoever asks for one of the offsets."""
        return ColdRangeError(
            f"offsets {self.from_offset} to {self.to_offset - 1} of {self.generation.key} "
            f"cannot be read: {self.reason}"
        )


class ReadFailures:
    """All failures that are remembered, by encoding."""

    def __init__(self) -> None:
        self._by_encoding: dict[str, list[Failure]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def check(self, encoding: str, offset: int, now_s: float) -> None:
        """Let a reader pass, unless the offset failed a moment ago.

        Raises:
            ColdRangeError: it did.
        """
        for failure in self._by_encoding.get(encoding, ()):
            if failure.from_offset <= offset < failure.to_offset and now_s < failure.until_s:
                raise failure.error()

    def add(
        self, generation: Generation, from_offset: int, to_offset: int, *, error: LogdError,
        now_s: float,
    ) -> bool:  # fmt: skip
        """Remember that offsets could not be read; return if it is news. What touches is joined."""
        assert from_offset < to_offset
        several = self._by_encoding.setdefault(generation.encoding, [])
        until_s = now_s + FAILED_S
        made = Failure(generation, from_offset, to_offset, str(error), until_s)
        is_news = True
        for other in tuple(several):
            if other.from_offset <= to_offset and from_offset <= other.to_offset:
                is_inside = other.from_offset <= from_offset and to_offset <= other.to_offset
                is_news = is_news and not (is_inside and other.reason == made.reason)
                made.from_offset = min(made.from_offset, other.from_offset)
                made.to_offset = max(made.to_offset, other.to_offset)
                self._forget(other)
        if self._count >= FAILURES_MAX:
            self._forget(next(iter(self._by_encoding.values()))[0])
        self._by_encoding.setdefault(generation.encoding, []).append(made)
        self._count += 1
        return is_news

    def was_read(self, encoding: str, from_offset: int, next_offset: int) -> None:
        """Take note that offsets can be read: what is left of a failure stays."""
        for failure in tuple(self._by_encoding.get(encoding, ())):
            if from_offset <= failure.from_offset < next_offset:
                failure.from_offset = min(next_offset, failure.to_offset)
            elif from_offset < failure.to_offset <= next_offset:
                failure.to_offset = max(from_offset, failure.from_offset)
            if failure.from_offset >= failure.to_offset:
                self._forget(failure)

    def _forget(self, failure: Failure) -> None:
        several = self._by_encoding[failure.generation.encoding]
        several.remove(failure)
        self._count -= 1
        if not several:
            del self._by_encoding[failure.generation.encoding]

    def drop_unless(self, is_live: Callable[[Generation], bool]) -> None:
        """Forget failures of generations that readers use no more."""
        for failure in tuple(self):
            if not is_live(failure.generation):
                self._forget(failure)

    def __iter__(self) -> Iterator[Failure]:
        """Yield all of them."""
        for several in tuple(self._by_encoding.values()):
            yield from tuple(several)
