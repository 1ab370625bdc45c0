"""What is to be read of coded segments: loads, some of them behind others that are under way.

Where a run ends is known when its bytes were walked: at the last batch that is in them whole. So
that nodes need not wait for that, the bytes behind are asked for meanwhile, and what the first run
leaves of its own goes before them:

    load        ├── batch ── batch ── ba│              its run ends behind the second batch
    the next one                        │tch ── batch ── batch ── b│

If the first one ends elsewhere than it was thought to (its batch was longer, something is missing),
the next one's bytes are read anew; if it fails, the next one is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import trio

from logd.cold.run_reader import Rest
from logd.policy.cold.values import Generation


class Waiter(Protocol):
    """Whoever looks again when it is woken; hashable by identity."""

    def wake(self) -> None:
        """Look again."""
        ...


@dataclass(slots=True, eq=False)
class Load:
    """A run that is being read, or is to be.

    Attributes:
        from_offset: offsets from here on are answered by it.
        start, size: what is read of the source.
        is_indexed: the log's index says that a batch begins there.
        is_ahead: nobody waits for it.
        further: how many runs are to follow it.
        front: the one whose run ends where this one's begins; None: that is known.
        rest: what its run left; None: there is none so far.
        ended: it is over, whether there is a run or not.
        charged_bytes: what it counts for in memory while it is under way.
    """

    partition: tuple[bytes, int]
    generation: Generation
    from_offset: int
    start: int
    size: int
    is_ahead: bool
    level: int
    further: int
    is_indexed: bool = False
    front: Load | None = None
    rest: Rest | None = None
    ended: trio.Event = field(default_factory=trio.Event)
    charged_bytes: int = 0
    waiters: dict[Waiter, None] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """Where the bytes end that are read for it."""
        return self.start + self.size

    @property
    def is_behind(self) -> bool:
        """Whether one is under way in front of it. Two at once keep a node busy; more would only
        take from the first one, for which somebody waits.
        """
        return self.front is not None and not self.front.ended.is_set()

    async def rest_in_front(self) -> Rest | None:
        """Wait for the one in front; return what its run left, None if there is no run."""
        assert self.front is not None
        await self.front.ended.wait()
        return self.front.rest

    def begin_behind(self, rest: Rest) -> None:
        """The one in front has ended: positions and offsets behind its run are this one's."""
        self.size = max(self.end - rest.start, self.size)
        self.start, self.from_offset = rest.start, rest.offset


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run begins that is read ahead: at a batch, or behind a load that is under way."""

    generation: Generation
    start: int
    offset: int
    front: Load | None = None
