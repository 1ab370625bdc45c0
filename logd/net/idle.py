"""Who has waited long enough: connections without a first frame, stuck in a frame, or idle.

Source: connections.max.idle.ms as Kafka's; the time to a whole frame against clients that send a
byte now and then ("slowloris").
"""

from __future__ import annotations

from typing import Final

import trio

from logd.clock import Clock
from logd.net.connection import Connection
from logd.net.serve import ServeLoop

SCAN_INTERVAL_S: Final = 1.0

FRAME_BYTES_PER_S_MIN: Final = 1024
"""A frame that has been arriving for longer than its time-out must have come at this rate."""


def overdue(
    connection: Connection, now: float, *, first_frame_s: float, idle_s: float
) -> str | None:
    """Return why a connection is to be closed now, None if it is not."""
    if connection.pauses or connection.replies or connection.outbox:
        # It waits for us, or for its own socket; a client that never reads is idle after a time.
        return "answers not read" if now - connection.active_at > idle_s else None
    if connection.input is not None:
        age_s = now - connection.frame_started_at
        if age_s > first_frame_s and connection.filled < age_s * FRAME_BYTES_PER_S_MIN:
            return f"a request was not complete after {age_s:.0f} s"
    if not connection.requests and now - connection.active_at > first_frame_s:
        return f"no request within {first_frame_s:.0f} s"
    if now - connection.active_at > idle_s:
        return "idle"
    return None


async def close_idle(loop: ServeLoop, clock: Clock, *, first_frame_s: float, idle_s: float) -> None:
    """Close overdue connections, for ever."""
    while True:
        await trio.sleep(SCAN_INTERVAL_S)
        now = clock.monotonic()
        for connection in list(loop.connections.values()):
            reason = overdue(connection, now, first_frame_s=first_frame_s, idle_s=idle_s)
            if reason is not None:
                loop.close(connection, reason)
