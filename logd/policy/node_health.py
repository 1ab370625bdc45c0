"""Whether a storage node is live, suspect or dead: by what its probes brought, and when.

Silence counts only where somebody asked: after a pause of the server, in which no probe went out, a
node is what it was. So suspect and dead need failed probes, and dead several of them. A node that
says that its disk is not mounted, or that is another node than its name says, is dead at once: its
chunks cannot be read there, however well it answers.

Dead says nothing about chunks either. Repair begins by its own delays (`repair.delay.ms`).

Times are milliseconds of one monotonic clock, handed in with each probe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from logd.units import MINUTE_MS, SECOND_MS, format_duration_ms

FAILED_PROBES_FOR_DEAD: Final = 3


class NodeHealth(Enum):
    """What is known of a node; the values are the words that listings use."""

    LIVE = "live"
    SUSPECT = "suspect"
    DEAD = "dead"


class ProbeResult(Enum):
    """What a probe brought."""

    ANSWERED = "answers"
    NO_ANSWER = "does not answer"
    NOT_MOUNTED = "says that its disk is not mounted"
    WRONG_IDENTITY = "is another node than was added under its name"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """node.suspect.ms and node.dead.ms."""

    suspect_ms: int = 10 * SECOND_MS
    dead_ms: int = MINUTE_MS


@dataclass(frozen=True, slots=True)
class ProbeHistory:
    """What the probes of a node brought so far; immutable, each probe gives a new one.

    Attributes:
        since_ms: time of the last good probe, or of the first one where none was good.
        last_ms: time of the last probe; None: there was none yet.
        result: of the last probe.
        failed: how many failed since the last good one.
        was_good: whether any was good.
    """

    since_ms: int = 0
    last_ms: int | None = None
    result: ProbeResult = ProbeResult.NO_ANSWER
    failed: int = 0
    was_good: bool = False

    def probed(self, result: ProbeResult, *, now_ms: int) -> ProbeHistory:
        """Return the history with one more probe, which ended now."""
        assert self.last_ms is None or now_ms >= self.last_ms
        if result is ProbeResult.ANSWERED:
            return ProbeHistory(now_ms, now_ms, result, 0, was_good=True)
        since_ms = now_ms if self.last_ms is None else self.since_ms
        return replace(
            self, since_ms=since_ms, last_ms=now_ms, result=result, failed=self.failed + 1
        )

    @property
    def silent_ms(self) -> int:
        """How long it was known not to be well when it was last asked."""
        return 0 if self.last_ms is None else self.last_ms - self.since_ms


def node_health(history: ProbeHistory, limits: HealthLimits) -> NodeHealth:
    """Return what a node is. One that was never asked, or never answered, is not live."""
    if history.result in (ProbeResult.NOT_MOUNTED, ProbeResult.WRONG_IDENTITY):
        return NodeHealth.DEAD
    if history.failed >= FAILED_PROBES_FOR_DEAD and history.silent_ms >= limits.dead_ms:
        return NodeHealth.DEAD
    if not history.was_good or (history.failed and history.silent_ms >= limits.suspect_ms):
        return NodeHealth.SUSPECT
    return NodeHealth.LIVE


def describe_health(history: ProbeHistory, limits: HealthLimits) -> str:
    """Return state and reason, as `logd node list` shows them."""
    health = node_health(history, limits).value
    if history.last_ms is None:
        return f"{health}: not asked yet"
    if not history.failed:
        return health
    silent_ms = history.silent_ms
    if silent_ms >= SECOND_MS:
        silent_ms -= silent_ms % SECOND_MS  # Nobody wants to read the rest.
    return f"{health}: {history.result.value}, for {format_duration_ms(silent_ms)}"
