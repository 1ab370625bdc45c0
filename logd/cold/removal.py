"""Removes chunks that records say are to go, one by one, until their nodes have said that they are.

Of an ABORTED or DELETING generation all chunks go, of others those that are leaving their place
(`policy.cold.removal`). The record of a chunk goes when its node has acknowledged the removal, and
the generation's with its last. A node that is away is asked again when it is back; the others do
not wait for it. Nodes are served side by side, each one chunk at a time.

A node may still be at a chunk whose upload was given up: syncing it, reading it back. It refuses to
remove it then, and is asked again: "not there" now, and forgotten, it would turn up as nobody's.

A crash at any point leaves the record of what is still to be removed, or a chunk that is removed
again, which is harmless.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import trio

from ec.chunk_id import ChunkId
from ec.errors import ChunkBusyError, EcError
from logd.cold.attempts import Attempts
from logd.cold.forgetting import topics_to_forget
from logd.cold.life_metrics import LifeMetrics
from logd.cold.tier import ColdTier
from logd.errors import LogdError
from logd.events import EventLog
from logd.policy.cold.removal import ChunkName, chunks_to_remove

RETRY_S: Final = 2.0
"""How often nodes that have chunks to remove are looked at; each is asked as soon as it is live."""

REFUSED_MS: Final = 5000
"""How long a node that refused is left alone; never longer: its chunks go within 10 s."""

IDLE_S: Final = 60.0
"""… and how often where nothing is known to be removed; whatever changes wakes it at once."""


def chunk_id(chunk: ChunkName) -> ChunkId:
    """Return the name that nodes know a chunk by."""
    return ChunkId(
        topic_id=chunk.key.topic_id.hex(),
        partition=chunk.key.partition,
        base_offset=chunk.key.base_offset,
        generation=chunk.number,
        encoding=chunk.encoding,
        index=chunk.index,
    )


class Removal:
    """See the module. Lives on the event loop.

    Args:
        forget_topic: called when nothing coded is left of a topic, which may be one that is gone.

    Attributes:
        waiting: chunks that are to be removed and are still there, as of the last look.
        failures: nodes that refused, with the reason.
    """

    def __init__(
        self,
        tier: ColdTier,
        events: EventLog,
        *,
        now_ms: Callable[[], int],
        metrics: LifeMetrics,
        forget_topic: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._tier = tier
        self._events = events
        self._metrics = metrics
        self._forget_topic = forget_topic
        self._wake = trio.Event()
        self._topics: set[bytes] = set()
        self.waiting = 0
        self.failures: Attempts[str] = Attempts(now_ms, first_ms=REFUSED_MS, longest_ms=REFUSED_MS)

    def changed(self, topics: Iterable[bytes]) -> None:
        """Generations of some topics, by id, changed: remove what is to go, forget what is gone.

        They are noted here: one may come and go while a round waits for a slow node.
        """
        self._topics.update(topics)
        self.wake()

    def wake(self) -> None:
        """There may be something new to remove."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake = trio.Event()
            try:
                await self.run_once()
            except Exception as error:  # One bad round must not be the last one.
                self._events.error("removal of chunks failed", reason=repr(error))
            with trio.move_on_after(RETRY_S if self.waiting else IDLE_S):
                await self._wake.wait()

    async def run_once(self) -> None:
        """Ask every live node for the removal of what it has to give up."""
        by_node: dict[str, list[ChunkName]] = defaultdict(list)
        chunks = chunks_to_remove(self._tier.generations())
        self.waiting = len(chunks)
        self._topics.update(each.key.topic_id for each in self._tier.generations())
        for chunk in chunks:
            by_node[chunk.node].append(chunk)
        self.failures.keep_only(by_node)
        async with trio.open_nursery() as nursery:
            for node, asked in sorted(by_node.items()):
                if self._tier.nodes.is_live(node) and self.failures.may_try(node):
                    nursery.start_soon(self._remove_from, node, asked)
        await self._forget_topics()

    async def _remove_from(self, node: str, chunks: Sequence[ChunkName]) -> None:
        """Remove a node's chunks until one cannot be; those that are being written come later."""
        try:
            store = self._tier.nodes.store(node)
            for chunk in chunks:
                try:
                    await store.delete(chunk_id(chunk))
                except ChunkBusyError:
                    continue  # An upload that was given up; its node ends it, one way or other.
                await self._tier.chunk_removed(chunk.encoding, index=chunk.index, node=chunk.node)
                self._metrics.chunks_removed.add()
                self.waiting -= 1
            self.failures.succeeded(node)
        except (EcError, LogdError) as error:
            self.failures.failed(node, str(error))

    async def _forget_topics(self) -> None:
        """Tell of topics that lost their last generation, whoever removed its last chunk.

        That may have been the node's inventory, or an empty disk that took a node's place.
        """
        for topic_id in topics_to_forget(self._topics, self._tier.generations()):
            await self._forget_topic(topic_id)
            self._topics.discard(topic_id)
