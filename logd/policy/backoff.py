"""How long to wait before a call is tried again: exponential, with full jitter, bounded.

After attempt n (from 1) anything between nothing and base * 2^(n-1), at most the cap, is as likely:
callers that failed together do not come back together. The driver hands the random number in.

Source: M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

from logd.units import SECOND_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and how patiently.

    Attributes:
        attempts_max: calls in all, the first one too.
        base_ms: the most that is waited after the first attempt.
        cap_ms: the most that is waited after any.
    """

    attempts_max: int = 3
    base_ms: int = 50
    cap_ms: int = 2 * SECOND_MS

    def __post_init__(self) -> None:
        assert self.attempts_max >= 1
        assert 0 <= self.base_ms <= self.cap_ms


def wait_max_ms(policy: RetryPolicy, attempt: int) -> int:
    """Return the longest wait after an attempt."""
    assert attempt >= 1
    # A shift by more bits than the cap has gains nothing, and would cost memory.
    return min(policy.cap_ms, policy.base_ms << min(attempt - 1, policy.cap_ms.bit_length()))


def retry_wait_ms(policy: RetryPolicy, attempt: int, fraction: float) -> int | None:
    """Return how long to wait after a failed attempt; None: it was the last one.

    Args:
        fraction: a random number, at least 0 and below 1.
    """
    assert 0 <= fraction < 1
    if attempt >= policy.attempts_max:
        return None
    return int((wait_max_ms(policy, attempt) + 1) * fraction)


def worst_wait_ms(policy: RetryPolicy) -> int:
    """Return what all waits together can come to."""
    return sum(wait_max_ms(policy, attempt) for attempt in range(1, policy.attempts_max))
