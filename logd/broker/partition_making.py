"""How partitions come into being: what is needed to make one, and many of them at a time.

The server's factory opens real logs; a test's, fakes. An error of one partition is a value among
the others, because one bad directory must not keep the rest from coming up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from logd.broker.partition import Partition
from logd.config import TopicSettings

OPEN_CHUNK: Final = 16
"""Partitions made in one job of a thread: a hop to a thread costs as much as opening one."""

OPEN_TASKS: Final = 16
"""Such jobs at a time."""


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """What it takes to create or open one partition."""

    topic: str
    topic_id: bytes
    index: int
    settings: TopicSettings


Outcome = Partition | Exception
"""An open partition, or why it is not: LogdError or OSError."""


class PartitionFactory(Protocol):
    """Makes partitions. Errors are returned, not raised: one outcome a spec, in their order."""

    async def create(self, specs: Sequence[PartitionSpec]) -> list[Outcome]:
        """Make the directories, synced, and open them; none of them exists before."""
        ...

    async def open(self, specs: Sequence[PartitionSpec]) -> list[Outcome]:
        """Open existing directories, recovering where the last stop was not clean."""
        ...

    async def retire(self, partition: Partition) -> None:
        """Let go of a partition whose directory is about to be renamed: refuse who waits, close."""
        ...


async def in_chunks(
    work: Callable[[Sequence[PartitionSpec]], Awaitable[list[Outcome]]],
    specs: Sequence[PartitionSpec],
) -> list[Outcome]:
    """Do the work in chunks, OPEN_TASKS at a time; return the outcomes in the specs' order."""
    chunks = [specs[at : at + OPEN_CHUNK] for at in range(0, len(specs), OPEN_CHUNK)]
    results: list[list[Outcome]] = [[] for _ in chunks]
    waiting = iter(range(len(chunks)))

    async def take_chunks() -> None:
        for number in waiting:
            results[number] = await work(chunks[number])

    # Ends when all chunks are done; the tasks share one iterator, on one thread.
    async with trio.open_nursery() as nursery:
        for _ in range(min(OPEN_TASKS, len(chunks))):
            nursery.start_soon(take_chunks)
    return [outcome for result in results for outcome in result]
