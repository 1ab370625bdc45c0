"""What is verified next, how fast, and whether every block has its turn within the cycle.

Each place, a node or this server's own sealed segments, is scrubbed by itself: its items in the
order of their names, round and round, from a start that chance picked, so that not all places begin
with what is oldest. A name has a random part (the id of an encoding, or of a topic), so the order
says nothing about age or size; and it does not depend on what else is there: items that come or go
move no other. What comes in behind the cursor has its turn in the next round; it was read back when
it was written.

The rate follows from the cycle: what is left of a round, over the time that is left of it. Where
that is more than the allowed rate, the plan says so with the sum, because a cycle that is not kept
is a promise that nobody checks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from logd.policy.cold.values import SegmentKey
from logd.units import DAY_MS, MIB, format_byte_count, format_duration_ms

RATE_MIN_BYTES_S: Final = MIB
"""A cycle of two weeks over a few files need not take two weeks."""
HEADROOM: Final = 1.1
"""The rate is this much more than needed: nodes are away at times, and servers stop."""
TIME_LEFT_MIN_SHARE: Final = 20
"""A round that is late is planned as if a twentieth of its cycle were left."""
DEVICE_SHARE: Final = 0.5
"""Where scrub.rate.bytes is 0, at most this share of what the device gives."""


@dataclass(frozen=True, slots=True, order=True)
class ScrubItem:
    """A chunk, or a hot sealed segment.

    Attributes:
        name: see `chunk_item_name` and `segment_item_name`; unique in its place.
    """

    name: str
    size_bytes: int


def chunk_item_name(encoding: str, index: int) -> str:
    """Return the name of a chunk in the order."""
    assert index >= 0
    return f"{encoding}.{index:02}"


def segment_item_name(key: SegmentKey) -> str:
    """Return the name of a hot segment in the order."""
    return f"{key.topic_id.hex()}.{key.partition:010}.{key.base_offset:020}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubCursor:
    """How far the scrub of one place has come; what is kept over a restart.

    Attributes:
        start: the name at or behind which each round begins.
        at: the last item of this round that is done; None: none yet.
        began_ms: of this round; wall clock.
        previous_ms: when the round before began, which is complete; None: there was none.
        verified_bytes: in this round.
        rounds: that are complete.
    """

    start: str
    began_ms: int
    at: str | None = None
    previous_ms: int | None = None
    verified_bytes: int = 0
    rounds: int = 0

    def passed(self, item: ScrubItem, *, verified_bytes: int) -> ScrubCursor:
        """Return the cursor behind an item; of one that went meanwhile no byte was verified."""
        return replace(self, at=item.name, verified_bytes=self.verified_bytes + verified_bytes)

    def next_round(self, *, now_ms: int) -> ScrubCursor:
        """Return the cursor at the beginning of the next round."""
        return replace(
            self, at=None, began_ms=now_ms, previous_ms=self.began_ms, verified_bytes=0,
            rounds=self.rounds + 1,
        )  # fmt: skip

    def oldest_ms(self, *, now_ms: int) -> int:
        """Return for how long at most the item that is next was not verified.

        Before the first round is complete: since scrubbing began here.
        """
        since_ms = self.began_ms if self.previous_ms is None else self.previous_ms
        return max(0, now_ms - since_ms)


class ScrubOrder:
    """All items of a place in the order of their names, for one look; made anew for the next."""

    def __init__(self, items: Iterable[ScrubItem]) -> None:
        self._items = sorted(items)
        self._names = [item.name for item in self._items]
        assert len(set(self._names)) == len(self._names)
        self._bytes_before = [0, *accumulate(item.size_bytes for item in self._items)]

    @property
    def total_bytes(self) -> int:
        """The size of all items."""
        return self._bytes_before[-1]

    def __len__(self) -> int:
        return len(self._items)

    def next(self, cursor: ScrubCursor) -> ScrubItem | None:
        """Return the item behind the cursor; None: the round is complete."""
        first, end, wrapped = self._left(cursor)
        if first < end:
            return self._items[first]
        return self._items[0] if wrapped else None

    def left_bytes(self, cursor: ScrubCursor) -> int:
        """Return the size of what is still to be verified in this round."""
        first, end, wrapped = self._left(cursor)
        before = self._bytes_before
        return before[end] - before[first] + (before[wrapped] if wrapped else 0)

    def _left(self, cursor: ScrubCursor) -> tuple[int, int, int]:
        """Return what is left: items `first` to `end`, and then the first `wrapped` ones."""
        start = bisect_left(self._names, cursor.start)
        if cursor.at is None:
            return start, len(self._items), start
        after = bisect_right(self._names, cursor.at)
        if cursor.at >= cursor.start:
            return after, len(self._items), start
        return min(after, start), start, 0


# --- how fast -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubRules:
    """How fast a place may be read.

    Attributes:
        cycle_ms: scrub.cycle.ms.
        rate_bytes: scrub.rate.bytes; 0: derived from the cycle.
        device_bytes_s: what its device gives; None: not known.
        hurries: `logd scrub start`: one whole round at the allowed rate.
    """

    cycle_ms: int = 14 * DAY_MS
    rate_bytes: int = 0
    device_bytes_s: float | None = None
    hurries: bool = False

    @property
    def allowed_bytes_s(self) -> float | None:
        """The most that it may be read at; None: no bound is known."""
        if self.rate_bytes:
            return float(self.rate_bytes)
        return None if self.device_bytes_s is None else self.device_bytes_s * DEVICE_SHARE


@dataclass(frozen=True, slots=True)
class ScrubRate:
    """How fast a place is read now.

    Attributes:
        bytes_s: None: as fast as it goes.
        needed_bytes_s: to be done within the cycle.
        warning: the sum in words, where the allowed rate is less than what is needed.
    """

    bytes_s: float | None
    needed_bytes_s: float
    warning: str | None = None


def plan_scrub_rate(
    place: str, order: ScrubOrder, cursor: ScrubCursor, rules: ScrubRules, *, now_ms: int
) -> ScrubRate:
    """Return the rate for a place.

    Args:
        place: its name, for the warning.
        now_ms: wall clock; one that went back shortens nothing.
    """
    assert rules.cycle_ms >= 1
    passed_ms = max(0, now_ms - cursor.began_ms)
    left_ms = max(rules.cycle_ms - passed_ms, rules.cycle_ms // TIME_LEFT_MIN_SHARE, 1)
    needed = 1000 * order.left_bytes(cursor) / left_ms
    steady = 1000 * order.total_bytes / rules.cycle_ms
    allowed = rules.allowed_bytes_s
    warning = None
    if allowed is not None and steady > allowed:
        warning = _warning(place, order.total_bytes, steady, allowed, rules)
    if rules.hurries:
        return ScrubRate(float(rules.rate_bytes) or None, needed, warning)
    wanted = max(needed * HEADROOM, float(RATE_MIN_BYTES_S))
    return ScrubRate(wanted if allowed is None else min(wanted, allowed), needed, warning)


def _warning(place: str, total_bytes: int, needed: float, allowed: float, rules: ScrubRules) -> str:
    takes_ms = int(1000 * total_bytes / allowed)
    takes_ms -= takes_ms % 60_000 if takes_ms >= 60_000 else 0
    source = "scrub.rate.bytes allows" if rules.rate_bytes else "half of its device gives"
    return (
        f"{place}: {format_byte_count(total_bytes)} in {format_duration_ms(rules.cycle_ms)} "
        f"(scrub.cycle.ms) needs {format_byte_count(round(needed))} a second, {source} "
        f"{format_byte_count(round(allowed))}: a round takes {format_duration_ms(takes_ms)}"
    )


def scrub_eta_s(
    left_bytes: int, *, rate: ScrubRate, measured_bytes_s: float | None
) -> float | None:
    """Return how long the rest of a round takes; None: nothing says how fast it goes.

    Args:
        measured_bytes_s: what scrubbing achieved here; None: nothing yet, so the planned rate.
    """
    assert left_bytes >= 0
    if not left_bytes:
        return 0.0
    speed = rate.bytes_s if measured_bytes_s is None else measured_bytes_s
    return left_bytes / speed if speed else None
