"""How soon a server keeps its first record, after what; and its memory when it has.

Any `Peer` will do: each says itself what its first record is. Data directories are new for each
empty start. For recovery both servers are filled with the same bytes, killed by SIGKILL while
nothing is in flight, and started on what is there, as often as rows have windows (at most
`KILLS_MAX`, for their time).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.measurement import Window
from bench.peers.contest import Row, Session, Side, compare, take_turns
from bench.peers.peer import Peer
from bench.process import memory_bytes

SECTION: Final = "start-up, memory, recovery"
STARTS_MAX: Final = 3
KILLS_MAX: Final = 2


@dataclass(slots=True)
class EmptyStart:
    """Starts on empty directories, and the memory seen after each."""

    make: Callable[[Path], Peer]
    directory: Path
    memory: list[Window] = field(default_factory=list)

    def window(self) -> Window:
        """Start, look, kill, clear away; the value is in seconds."""
        peer = self.make(self.directory)
        try:
            peer.prepare()
            elapsed = peer.start()
            self.memory.append(Window(memory_bytes(peer.pid) / 1e6))
        finally:
            peer.kill()
            shutil.rmtree(self.directory, ignore_errors=True)
        return Window(elapsed)


def empty_starts(
    session: Session, peer: str, ours: Callable[[Path], Peer], theirs: Callable[[Path], Peer]
) -> list[Row]:
    """Rows of start-up on an empty directory, and of memory after it."""
    run = session.run
    left = EmptyStart(ours, run.directory / "empty-ours")
    right = EmptyStart(theirs, run.directory / "empty-theirs")
    sides = [Side("ours", left.window), Side("theirs", right.window)]
    repetitions = min(STARTS_MAX, run.options.repetitions)
    windows = take_turns(run, sides, repetitions=repetitions)
    name = "start, empty directory, to the first record kept"
    return [
        compare(peer, SECTION, name, "s", windows["ours"], windows["theirs"]),
        compare(peer, SECTION, "memory after start", "MB", left.memory, right.memory),
    ]


def recoveries(
    session: Session, peer: str, sides: Sequence[tuple[Peer, Callable[[Peer], None]]], size: int
) -> list[Row]:
    """The row of start-up after kill -9; `sides` are ours and theirs, each with what fills it."""
    repetitions = min(KILLS_MAX, session.run.options.repetitions)
    ours, theirs = [
        [Window(elapsed) for elapsed in _kill_and_start(each, fill, repetitions)]
        for each, fill in sides
    ]
    name = f"start after kill -9 with {size / 1e9:.3g} GB, to the first record kept"
    return [compare(peer, SECTION, name, "s", ours, theirs, {"log_bytes": size})]


def _kill_and_start(peer: Peer, fill: Callable[[Peer], None], repetitions: int) -> list[float]:
    """Fill a server of its own, then kill and start it; the data is gone afterwards."""
    elapsed = []
    try:
        with peer:
            fill(peer)
            for _ in range(repetitions):
                peer.kill()
                elapsed.append(peer.start())
    finally:
        shutil.rmtree(peer.directory, ignore_errors=True)
    return elapsed
