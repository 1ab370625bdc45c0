"""A signal that only sets a flag, for commands that must put something in order before they end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

# A signal that goes to a process and to its group, as timeout(1) sends it, comes twice.
SAME_SIGNAL_S: Final = 1.0


class StopFlag:
    """Which signal has asked us to stop, and when."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.at = 0.0

    def ask(self, number: int, _: FrameType | None) -> None:
        """Remember a signal; another one, a while later, interrupts."""
        now = time.monotonic()
        if self.signal is None:
            self.signal = number
            self.at = now
        elif now - self.at > SAME_SIGNAL_S:
            raise KeyboardInterrupt


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Let SIGINT and SIGTERM set the flag while the block runs."""
    flag = StopFlag()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, flag.ask) for number in numbers]
    try:
        yield flag
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
