"""The clock that retention goes by, with its memory from run to run; see `policy.clock_guard`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from logd.broker.services import PartitionServices
from logd.policy.clock_guard import ClockNote, RetentionTime, start_guard

LOOK_INTERVAL_S: Final = 60.0
"""How soon a wall clock that jumped is said in the log, and how old the last run's note may be."""


class RetentionClock:
    """Both clocks since the server started. Lives on the event loop."""

    def __init__(
        self,
        services: PartitionServices,
        *,
        boot_id: str,
        last: ClockNote | None,
        write_note: Callable[[ClockNote], None],
    ) -> None:
        """Begin now.

        Args:
            boot_id: of the running kernel.
            last: what the last run noted.
            write_note: keeps a note for the next run; blocking, may raise OSError.
        """
        self._services = services
        self._boot_id = boot_id
        self._write_note = write_note
        clock = services.clock
        self._guard = start_guard(
            wall_ms=clock.now_ms(), boot_ms=clock.boot_ms(), boot_id=boot_id, last=last
        )
        self._was_stopped = False
        self._note_failed = False

    def time(self) -> RetentionTime:
        """Return the time that retention goes by."""
        clock = self._services.clock
        return self._guard.time(wall_ms=clock.now_ms(), boot_ms=clock.boot_ms())

    def now_ms(self, *, ignore_clock_guard: bool = False) -> int:
        """Return that time, or, where somebody vouches for it, what the wall clock says."""
        return self._services.clock.now_ms() if ignore_clock_guard else self.time().now_ms

    async def run(self) -> None:
        """Look and note until cancelled."""
        while True:
            self.look()
            await self.note()
            await trio.sleep(LOOK_INTERVAL_S)

    def look(self) -> None:
        """Say in the log when the wall clock has run ahead, and when it is right again."""
        time = self.time()
        if time.stopped == self._was_stopped:
            return
        self._was_stopped = time.stopped
        if time.stopped:
            self._services.events.error("retention stopped", reason=time.reason)
        else:
            self._services.events.info("retention goes on: the wall clock counts again")

    async def note(self) -> None:
        """Note for the next run what time it is; where that fails, the last note stays."""
        time = self.time()
        note = ClockNote(time.borne_out_ms, self._services.clock.boot_ms(), self._boot_id)
        try:
            await self._services.offload.run("admin", self._write_note, note)
        except OSError as error:
            if not self._note_failed:
                self._services.events.warning("the time was not noted", reason=str(error))
            self._note_failed = True
        else:
            self._note_failed = False
