"""When a repair queue will be empty, from the rate that was measured.

The queue is gone through as repair does: of what is due the most urgent first, one after the other
at the measured rate. Items that wait for something else than time have no end, and are counted
apart: an ETA that leaves them out says so.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from logd.policy.cold.repair_plan import STUCK, RepairItem, RepairPlan


@dataclass(frozen=True, slots=True)
class QueueEta:
    """When what is queued will be done.

    Attributes:
        end_ms: per encoding, by the clock that the plan went by.
        total_s: until the last of them; None: no rate was measured yet, or all of them are stuck. 0
            where nothing is queued.
        stuck: how many have no end.
    """

    end_ms: Mapping[str, int]
    total_s: float | None
    stuck: int


def estimate_queue(
    plan: RepairPlan,
    *,
    bytes_s: float | None,
    done_bytes: Mapping[str, int] | None = None,
    now_ms: int,
) -> QueueEta:
    """Return when each item ends.

    Args:
        bytes_s: read and written together, of all that is repaired at once.
        done_bytes: of running items, what is done already.
    """
    done = done_bytes or {}
    stuck = sum(_is_stuck(item) for item in plan.items)
    work = [(rank, item) for rank, item in enumerate(plan.items) if not _is_stuck(item)]
    if not work:
        return QueueEta({}, None if stuck else 0.0, stuck)
    if not bytes_s:
        return QueueEta({}, None, stuck)
    # Running ones are in front whatever their rank: nothing stops them for a more urgent one.
    later = [(_starts_ms(item, now_ms), rank, item) for rank, item in work]
    heapq.heapify(later)
    due: list[tuple[bool, int, RepairItem]] = []
    ends: dict[str, int] = {}
    at_ms = float(now_ms)
    while later or due:
        if not due:
            at_ms = max(at_ms, later[0][0])
        while later and later[0][0] <= at_ms:
            _, rank, item = heapq.heappop(later)
            heapq.heappush(due, (not item.is_running, rank, item))
        _, _, item = heapq.heappop(due)
        left = item.read_bytes + item.write_bytes - done.get(item.encoding, 0)
        at_ms += 1000 * max(left, 0) / bytes_s
        ends[item.encoding] = int(at_ms)
    return QueueEta(ends, max(0.0, (at_ms - now_ms) / 1000), stuck)


def _is_stuck(item: RepairItem) -> bool:
    return item.hold in STUCK and not item.is_running


def _starts_ms(item: RepairItem, now_ms: int) -> int:
    if item.is_running or item.hold is None or item.due_ms is None:
        return now_ms
    return max(now_ms, item.due_ms)
