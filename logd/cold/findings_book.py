"""Keeps what was found wrong with chunks over restarts: findings, mended or not, and quarantine.

Read once, before anybody looks at chunks; from then on written within a second of a change, and at
the end. Findings that are not mended stand again after a start, so repair need not wait for scrub
to come by; each is looked at again with its node, before anything is done because of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import trio

from logd.cold.chunk_health import ChunkHealth
from logd.cold.inventory import Quarantined
from logd.events import EventLog
from logd.offload import Offload
from logd.policy.cold.finding_record import PutAside, shortened
from logd.storage.findings_note import PUT_ASIDE_MAX, FindingsNote

KEEP_S: Final = 1.0
"""How soon after a change it is written."""


class FindingsBook:
    """See the module. Lives on the event loop.

    Args:
        wall_ms: the wall clock.
        read_note, write_note: blocking.
    """

    def __init__(
        self,
        health: ChunkHealth,
        *,
        offload: Offload,
        events: EventLog,
        wall_ms: Callable[[], int],
        read_note: Callable[[], FindingsNote],
        write_note: Callable[[FindingsNote], None],
    ) -> None:
        self._health = health
        self._offload = offload
        self._events = events
        self._wall_ms = wall_ms
        self._read_note = read_note
        self._write_note = write_note
        self._put_aside: deque[PutAside] = deque(maxlen=PUT_ASIDE_MAX)
        self._put_aside_count = 0
        self._written: tuple[int, int] | None = None

    async def open(self) -> None:
        """Take over what the last run knew. Called once, before `run`.

        Raises:
            OSError: it cannot be read; nothing is written over it then.
        """
        note = await self._offload.run("admin", self._read_note)
        self._health.restore(note)
        self._put_aside.extendleft(reversed(note.put_aside))
        self._put_aside_count += note.put_aside_count
        self._written = self._now()

    async def run(self) -> None:
        """Write what changes, until cancelled; then once more."""
        try:
            while True:
                await trio.sleep(KEEP_S)
                await self._write()
        finally:
            with trio.CancelScope(shield=True):
                await self._write()

    def put_aside(self, found: Quarantined) -> None:
        """A chunk was put into quarantine."""
        self._put_aside_count += 1
        self._put_aside.append(
            PutAside(found.node, found.chunk.name, shortened(found.reason), self._wall_ms())
        )

    def as_document(self) -> dict[str, Any]:
        """Return what `logd scrub status` shows beside the findings."""
        return {
            "found_total": {state.value: count for state, count in self._health.found.items()},
            "quarantined": {
                "total": self._put_aside_count,
                "latest": [each.as_document() for each in self._put_aside],
            },
        }

    def _now(self) -> tuple[int, int]:
        return self._health.changes, self._put_aside_count

    async def _write(self) -> None:
        """Write the note if it changed; a failure is said, and tried again."""
        now = self._now()
        if self._written is None or now == self._written:
            return
        note = FindingsNote(
            records=tuple(self._health.records()),
            found=dict(self._health.found),
            put_aside=tuple(self._put_aside),
            put_aside_count=self._put_aside_count,
        )
        try:
            await self._offload.run("admin", self._write_note, note)
        except OSError as error:
            self._events.warning("findings not kept", reason=str(error))
        else:
            self._written = now
