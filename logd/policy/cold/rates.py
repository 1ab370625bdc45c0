"""How fast background work may go: a rate between floor and ceiling, and a bucket to keep it.

With repair.rate.bytes at 0 repair takes half of what the device was measured to give, most of it
while a segment has no margin left, and never less than 8 MiB a second: repair that yields to
everything never ends, and the data is at risk meanwhile.

The bucket is a value: taking bytes gives a new one and how long to wait. It may go into debt by one
call, so a window that is longer than the bucket passes, late.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from logd.units import MIB

RATE_MIN_BYTES_S: Final = 8 * MIB
SHARE: Final = 0.5
SHARE_AT_NO_MARGIN: Final = 0.9
BURST_S: Final = 0.25
"""A bucket holds what its rate gives in this time."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The bounds of a rate, in bytes a second.

    Attributes:
        ceiling: None: no bound.
    """

    floor: int
    ceiling: int | None

    def __post_init__(self) -> None:
        assert self.floor >= 1
        assert self.ceiling is None or self.floor <= self.ceiling

    def clamp(self, rate: float) -> float:
        """Return the rate nearest to one asked for."""
        bounded = max(rate, float(self.floor))
        return bounded if self.ceiling is None else min(bounded, float(self.ceiling))


def repair_rate(setting_bytes: int, *, measured_bytes_s: float | None, margin: int) -> float:
    """Return what repair may read or write a second on one node.

    Args:
        setting_bytes: repair.rate.bytes; 0: by what was measured.
        measured_bytes_s: what the device gave; None: not measured yet, so the floor.
        margin: of the segment that is repaired.
    """
    assert setting_bytes >= 0
    if setting_bytes:
        return float(setting_bytes)
    share = SHARE_AT_NO_MARGIN if margin <= 0 else SHARE
    return RateLimits(RATE_MIN_BYTES_S, None).clamp(share * (measured_bytes_s or 0.0))


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """What may be read or written now; see the module.

    Attributes:
        rate: bytes a second.
        tokens: bytes at time `at_s`; below zero: somebody waits for it to be paid back.
    """

    rate: float
    tokens: float
    at_s: float

    @classmethod
    def full(cls, rate: float, *, now_s: float) -> TokenBucket:
        """Return a bucket that nobody took from."""
        assert rate > 0
        return cls(rate, rate * BURST_S, now_s)

    def at_rate(self, rate: float, *, now_s: float) -> TokenBucket:
        """Return it with another rate from now on; a debt stays one."""
        assert rate > 0
        now = self._filled(now_s)
        return replace(now, rate=rate, tokens=min(now.tokens, rate * BURST_S))

    def take(self, count: int, *, now_s: float) -> tuple[TokenBucket, float]:
        """Return the bucket without these bytes, and how many seconds to wait before using them."""
        assert count >= 0
        now = self._filled(now_s)
        left = replace(now, tokens=now.tokens - count)
        return left, max(0.0, -left.tokens / self.rate)

    def _filled(self, now_s: float) -> TokenBucket:
        passed_s = max(0.0, now_s - self.at_s)
        tokens = min(self.tokens + passed_s * self.rate, self.rate * BURST_S)
        return replace(self, tokens=tokens, at_s=max(now_s, self.at_s))


@dataclass(frozen=True, slots=True)
class MeasuredRate:
    """What work achieved: bytes a second, over its last pieces.

    Old pieces weigh less: each second of work halves them after `HALF_LIFE_S`.

    Attributes:
        bytes_s: None: nothing was measured yet.
        weight_s: seconds of work behind the figure.
    """

    bytes_s: float | None = None
    weight_s: float = 0.0

    def with_piece(self, count: int, *, seconds: float) -> MeasuredRate:
        """Return the rate after one more piece of work.

        Args:
            seconds: how long it took, waiting for its turn included.
        """
        assert count >= 0
        if seconds <= 0:
            return self
        kept_s = self.weight_s * 0.5 ** (seconds / HALF_LIFE_S)
        total_s = kept_s + seconds
        done = kept_s * (self.bytes_s or 0.0) + count
        return MeasuredRate(done / total_s, total_s)


HALF_LIFE_S: Final = 60.0
