"""A circuit breaker: whether calls to one storage node are worth making.

    CLOSED -> OPEN -> HALF_OPEN -> CLOSED
                ^         |
                +---------+

Closed: calls go out, and the last 100 that ended are remembered. Open, once there are at least 10
of them and half of them failed, or 80 % took 3 s or longer: no call goes out for 30 s. Half-open:
a few probes do; if all are well and fast it closes and begins to remember anew, else it opens
again.

An open breaker says that nothing is known, never that something is missing: it triggers no repair.
Who would otherwise fail may call all the same, and asks nobody. A chunk that is damaged or not
there is an answer like another: what the caller makes of it is IGNORED here.

Times are milliseconds of one monotonic clock, handed in; nothing happens between two calls.

Source: M. Nygard, "Release It!"; the numbers are our settings' defaults.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from logd.units import SECOND_MS


class BreakerState(Enum):
    """The states of a breaker; the values are the words that metrics and listings use."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Outcome(Enum):
    """How a call ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    """No answer, a broken one, a time-out, or an error of the node's own."""
    IGNORED = "ignored"
    """Cancelled, or answered: it is not there, it is damaged. Says nothing about the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a breaker opens, and how it closes.

    Attributes:
        window_calls: how many ended calls are remembered.
        calls_min: with fewer it does not open.
        failure_percent, slow_percent: from this share on it opens.
        slow_ms: a call that took so long was slow, however it ended.
        open_ms: how long no call goes out.
        probes: how many go out when half-open.
    """

    window_calls: int = 100
    calls_min: int = 10
    failure_percent: int = 50
    slow_percent: int = 80
    slow_ms: int = 3 * SECOND_MS
    open_ms: int = 30 * SECOND_MS
    probes: int = 3

    def __post_init__(self) -> None:
        assert 1 <= self.calls_min <= self.window_calls
        assert 1 <= self.failure_percent <= 100
        assert 1 <= self.slow_percent <= 100
        assert self.probes >= 1


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to make one call; `Breaker.ended` takes it back.

    Attributes:
        period: of the breaker; what ends in a later one is not counted.
    """

    period: int
    began_ms: int
    is_probe: bool


@dataclass(frozen=True, slots=True)
class BreakerView:
    """What is shown of a breaker.

    Attributes:
        calls: ended calls that are remembered; of them `failed` and `slow`.
        open_until_ms: while open, when probes may go out; else None.
        times_opened: since the server's start.
    """

    state: BreakerState
    calls: int
    failed: int
    slow: int
    open_until_ms: int | None
    times_opened: int


class Breaker:
    """The breaker of one node, for one kind of work."""

    def __init__(self, settings: BreakerSettings) -> None:
        self.settings = settings
        self._state = BreakerState.CLOSED
        # Each (failed, slow) of an ended call, with both counted along.
        self._window: deque[tuple[bool, bool]] = deque()
        self._failed = self._slow = 0
        self._period = 0
        self._changed_ms = 0
        self._probes_out = self._probes_good = 0
        self._times_opened = 0

    def try_call(self, now_ms: int) -> Permit | None:
        """Return the right to make a call; None: not now."""
        self._advance(now_ms)
        if self._state is BreakerState.OPEN:
            return None
        if self._state is BreakerState.CLOSED:
            return Permit(self._period, now_ms, is_probe=False)
        if self._probes_out + self._probes_good >= self.settings.probes:
            return None
        self._probes_out += 1
        return Permit(self._period, now_ms, is_probe=True)

    def ended(self, permit: Permit, outcome: Outcome, *, now_ms: int) -> None:
        """Take in how a call ended; each permit ends once, a cancelled call's as IGNORED."""
        self._advance(now_ms)
        if permit.period != self._period:
            return  # It began before the breaker opened, or closed: that is judged already.
        failed = outcome is Outcome.FAILURE
        slow = now_ms - permit.began_ms >= self.settings.slow_ms
        if permit.is_probe:
            self._probe_ended(outcome, is_good=not failed and not slow, now_ms=now_ms)
        elif outcome is not Outcome.IGNORED:
            self._remember(failed, slow)
            if self._is_too_bad():
                self._enter(BreakerState.OPEN, now_ms)

    def view(self, now_ms: int) -> BreakerView:
        """Return what is to be shown."""
        self._advance(now_ms)
        is_open = self._state is BreakerState.OPEN
        ends_ms = self._changed_ms + self.settings.open_ms if is_open else None
        calls = len(self._window)
        return BreakerView(
            self._state, calls, self._failed, self._slow, ends_ms, self._times_opened
        )

    def _advance(self, now_ms: int) -> None:
        """Let time do what it does: an open breaker becomes half-open, lost probes are given up."""
        if now_ms - self._changed_ms < self.settings.open_ms:
            return
        if self._state is BreakerState.OPEN or (
            # A probe that never ended must not keep the node out for good.
            self._state is BreakerState.HALF_OPEN and self._probes_out
        ):
            self._enter(BreakerState.HALF_OPEN, now_ms)

    def _enter(self, state: BreakerState, now_ms: int) -> None:
        self._state = state
        self._changed_ms = now_ms
        self._period += 1
        self._times_opened += state is BreakerState.OPEN
        self._probes_out = self._probes_good = 0
        if state is BreakerState.CLOSED:
            self._window.clear()
            self._failed = self._slow = 0

    def _probe_ended(self, outcome: Outcome, *, is_good: bool, now_ms: int) -> None:
        assert self._probes_out >= 1
        self._probes_out -= 1
        if not is_good:
            self._enter(BreakerState.OPEN, now_ms)
        elif outcome is Outcome.SUCCESS:
            self._probes_good += 1
            if self._probes_good == self.settings.probes:
                self._enter(BreakerState.CLOSED, now_ms)

    def _remember(self, failed: bool, slow: bool) -> None:
        self._window.append((failed, slow))
        self._failed += failed
        self._slow += slow
        if len(self._window) > self.settings.window_calls:
            old_failed, old_slow = self._window.popleft()
            self._failed -= old_failed
            self._slow -= old_slow
        assert 0 <= max(self._failed, self._slow) <= len(self._window)

    def _is_too_bad(self) -> bool:
        calls, settings = len(self._window), self.settings
        return calls >= settings.calls_min and (
            100 * self._failed >= settings.failure_percent * calls
            or 100 * self._slow >= settings.slow_percent * calls
        )
