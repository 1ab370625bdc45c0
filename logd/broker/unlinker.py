"""Removes renamed segment files, later: readers that still hold them finish first.

What is due is removed by one thread, in small steps with pauses, however much it is: appends sync
in between (`slow_removal`). What a crash leaves is removed when the log is next opened; nothing is
lost by forgetting here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from logd.broker.timers import Timers
from logd.events import EventLog
from logd.offload import Offload
from logd.storage.files import Files
from logd.storage.slow_removal import SlowRemoval

PAUSE_S_MIN: Final = 0.01

PAUSE_PER_STEP: Final = 4
"""At least so many times as long as a step took is waited: the device is there for others, too."""


def pause_s(step_s: float) -> float:
    """Return how long to wait after a step that took so long."""
    assert step_s >= 0
    return max(PAUSE_S_MIN, PAUSE_PER_STEP * step_s)


class Unlinker:
    """Removes files after a delay, in a thread. On the loop."""

    def __init__(self, files: Files, offload: Offload, timers: Timers, events: EventLog) -> None:
        self._removal = SlowRemoval(files)
        self._offload = offload
        self._timers = timers
        self._events = events
        self._at_work = False
        self._began_s = 0.0

    def unlink_later(self, paths: Sequence[str], delay_s: float) -> None:
        """Remove `paths` after `delay_s` seconds; a failure is reported, the rest goes on."""
        if paths:
            self._timers.call_later(delay_s, lambda: self._begin(list(paths)))

    def _begin(self, paths: list[str]) -> None:
        self._removal.extend(paths)
        if not self._at_work:
            self._at_work = True
            self._step()

    def _step(self) -> None:
        self._began_s = trio.current_time()
        self._offload.submit("admin", self._removal.step, self._stepped)

    def _stepped(self, _outcome: object, error: BaseException | None) -> None:
        reasons = [*self._removal.failures, *([] if error is None else [repr(error)])]
        self._removal.failures.clear()
        if reasons:
            self._events.warning("segment files not removed", reason="; ".join(reasons))
        if error is not None or self._removal.is_done:
            self._at_work = False
            return
        self._timers.call_later(pause_s(trio.current_time() - self._began_s), self._step)
