"""What the parts of the broker owe at the end of a turn of the serving loop.

A turn: all ready connections are received and parsed, batches are staged in their logs; then one
write a log; then the answers; then the waiting fetches.
`Turn` is the list of what was touched meanwhile. It is written and read by the serving loop alone.

Source: measured in docs/adr/0006; one write a log and turn is worth a third of the throughput.
"""

from __future__ import annotations

from typing import Protocol


class Flushable(Protocol):
    """A log with staged batches, or what appends to one."""

    def flush(self) -> None:
        """Write what is staged, or hand it to a thread."""
        ...


class Wakeable(Protocol):
    """A fetch that waits for data."""

    def wake(self) -> None:
        """Look again whether there is enough to answer."""
        ...


class Turn:
    """Logs to write, fetches to look at again, each at most once."""

    __slots__ = ("buffers_pinned", "now_ms", "started_at", "touched", "woken")

    def __init__(self) -> None:
        self.touched: list[Flushable] = []
        self.woken: list[Wakeable] = []
        # The clocks at the start of the turn: one system call each for all requests of a turn.
        self.now_ms = 0
        self.started_at = 0.0
        # Set when a slice of a receive buffer outlives the turn: the buffer is not used again.
        self.buffers_pinned = False

    def flush(self) -> None:
        """Write what was staged in this turn."""
        while self.touched:
            touched, self.touched = self.touched, []
            for log in touched:
                log.flush()

    def wake(self) -> None:
        """Answer the fetches whose data has come."""
        while self.woken:
            woken, self.woken = self.woken, []
            for fetch in woken:
                fetch.wake()
