"""Removes renamed segment files, later: readers that still hold them finish first.

What a crash leaves is removed when the log is next opened; nothing is lost by forgetting here.
"""

from __future__ import annotations

from collections.abc import Sequence

from logd.broker.timers import Timers
from logd.events import EventLog
from logd.offload import Offload
from logd.storage.files import Files


class Unlinker:
    """Unlinks files after a delay, in a thread."""

    def __init__(self, files: Files, offload: Offload, timers: Timers, events: EventLog) -> None:
        self._files = files
        self._offload = offload
        self._timers = timers
        self._events = events

    def unlink_later(self, paths: Sequence[str], delay_s: float) -> None:
        """Unlink `paths` after `delay_s` seconds; a failure is reported, the rest goes on."""
        if paths:
            self._timers.call_later(delay_s, lambda: self._submit(list(paths)))

    def _submit(self, paths: list[str]) -> None:
        self._offload.submit("admin", lambda: self._unlink(paths), self._deliver)

    def _unlink(self, paths: list[str]) -> str | None:
        failures = []
        for path in paths:
            try:
                self._files.unlink(path)
            except FileNotFoundError:
                continue  # The topic was deleted meanwhile, and the file with it.
            except OSError as error:
                failures.append(str(error))
        return "; ".join(failures) or None

    def _deliver(self, outcome: object, error: BaseException | None) -> None:
        reason = str(error) if error is not None else outcome
        if reason is not None:
            self._events.warning("segment files not removed", reason=str(reason))
