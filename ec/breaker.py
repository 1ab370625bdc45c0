"""A circuit breaker for one node: when to stop asking it, and when to try again. No clock in it.

    closed     calls go through; the last 100 are remembered
    open       calls are refused at once, for 30 s: too many failed, or too many were slow
    half-open  a few calls go through as probes: all good closes it, one bad opens it again

Who asks the node past the breaker, and gets a good answer, says so (`answered`): once for each time
that it opened, or when the node was away meanwhile, it is half-open from then on. So a node that is
back is used at once, and one that answers and does no work is not tried again and again.

A call fails when the node gave no sensible answer in time. "No such chunk", a bad checksum or a
full disk are answers. An open breaker means that nothing is known of the node's chunks; it never
means that they are lost.

Source: the breaker of Nygard, "Release It!"; the two rates and their defaults as in Resilience4j.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from math import inf


class BreakerState(Enum):
    """What a breaker does with calls."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a breaker opens, and how it closes.

    Attributes:
        window: how many of the last calls are remembered.
        calls_min: fewer say nothing.
        failure_rate: of calls that failed, opens it.
        slow_rate: of calls that took longer than `slow_s`, opens it.
        given_up_s: a call that its caller gave up on after so long counts as slow.
        open_s: how long it stays open.
        probes: good calls that close it again.
    """

    window: int = 100
    calls_min: int = 10
    failure_rate: float = 0.5
    slow_rate: float = 0.8
    slow_s: float = 3.0
    given_up_s: float = 0.5
    open_s: float = 30.0
    probes: int = 3

    def __post_init__(self) -> None:
        assert 1 <= self.calls_min <= self.window
        assert 0 < self.failure_rate <= 1
        assert 0 < self.slow_rate <= 1
        assert self.probes >= 1


class Breaker:
    """One node's breaker; `now` is any clock that does not go back, in seconds."""

    def __init__(self, settings: BreakerSettings | None = None) -> None:
        self.settings = settings or BreakerSettings()
        self._calls: deque[tuple[bool, bool]] = deque(maxlen=self.settings.window)
        self._opened_s: float | None = None
        self._probing = 0
        self._good_probes = 0
        self._period = 1
        self._is_tried_early = False
        self.times_opened = 0

    def state(self, now_s: float) -> BreakerState:
        """Return what it would do with a call now."""
        if self._opened_s is None:
            return BreakerState.CLOSED
        if now_s - self._opened_s < self.settings.open_s:
            return BreakerState.OPEN
        return BreakerState.HALF_OPEN

    def admit(self, now_s: float) -> int | None:
        """Return the period in which a call may go out now, never 0; None: it may not.

        Every call that goes out must be told of by `record` or `give_up`. One that ends in a later
        period does not count: it began before the breaker opened, or closed, and is no probe.
        """
        state = self.state(now_s)
        if state is BreakerState.HALF_OPEN:
            if self._probing + self._good_probes >= self.settings.probes:
                return None
            self._probing += 1
        return None if state is BreakerState.OPEN else self._period

    def answered(self, *, asked_s: float) -> bool:
        """The node answered well what it was asked at that time, past the breaker.

        Returns:
            Whether the breaker lets calls through again, as probes, that it would have refused.
        """
        opened_s = self._opened_s
        if opened_s is None or self._is_tried_early or asked_s < opened_s:
            return False
        self._is_tried_early = True
        self._opened_s = min(opened_s, asked_s - self.settings.open_s)
        return self._opened_s < opened_s

    def went_away(self) -> None:
        """The node did not answer: when it does again, there is something new to try."""
        self._is_tried_early = False

    def record(self, period: int, now_s: float, *, seconds: float, failed: bool) -> None:
        """Take note of how a call ended that was admitted in `period`."""
        assert seconds >= 0
        if period != self._period:
            return
        slow = seconds > self.settings.slow_s
        if self._opened_s is None:
            self._calls.append((failed, slow))
            if self._is_bad():
                self._open(now_s)
        elif self._probing:
            self._probing -= 1
            self._record_probe(now_s, good=not failed and not slow)

    def give_up(self, period: int, now_s: float, *, seconds: float) -> None:
        """Take note that a call admitted in `period` was given up: its bytes came from elsewhere.

        Early it says nothing; but a node that hangs, and is always given up on, must not look well.
        """
        if seconds >= self.settings.given_up_s:
            self.record(period, now_s, seconds=inf, failed=False)
        elif period == self._period and self._opened_s is not None and self._probing:
            self._probing -= 1

    def _record_probe(self, now_s: float, *, good: bool) -> None:
        assert self._opened_s is not None
        if not good:
            self._open(now_s)
            return
        self._good_probes += 1
        if self._good_probes >= self.settings.probes:
            self._opened_s = None
            self._is_tried_early = False
            self._reset()

    def _open(self, now_s: float) -> None:
        self._opened_s = now_s
        self.times_opened += 1
        self._reset()

    def _reset(self) -> None:
        self._period += 1
        self._calls.clear()
        self._probing = self._good_probes = 0
        assert not self._calls

    def _is_bad(self) -> bool:
        count = len(self._calls)
        if count < self.settings.calls_min:
            return False
        failed = sum(failed for failed, _ in self._calls)
        slow = sum(slow for _, slow in self._calls)
        return (
            failed >= self.settings.failure_rate * count or slow >= self.settings.slow_rate * count
        )
