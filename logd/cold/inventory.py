"""Compares what nodes have with what the catalog says; puts aside what nothing explains.

A node is looked through when it becomes live, and again every while: a disk that was put back from
a copy, a node that returns with old chunks. Each chunk is judged by the records as they are after
it was seen (`policy.cold.removal.judge_chunk`): kept, removed because a record says that it is to
go, or moved to the node's quarantine, where only people delete.

A segment that somebody works on is left alone: repair has a chunk on its node before the catalog
gives it that place. What a crash leaves of that is a chunk without a place; if its segment is
deleted then, the catalog remembers that its generation is gone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from ec.chunk_dir import LIST_MAX
from ec.chunk_id import ChunkId
from ec.errors import ChunkExistsError, ChunkMissingError, EcError
from logd.cold.life_metrics import LifeMetrics
from logd.cold.tier import ColdTier
from logd.errors import LogdError
from logd.events import EventLog
from logd.policy.cold.leases import Work
from logd.policy.cold.removal import ChunkName, Fate, Judgement, judge_chunk
from logd.policy.cold.values import SegmentKey

LOOK_S: Final = 1.0
"""How often it is seen to which nodes have become live."""

AGAIN_S: Final = 1800.0
"""How long after it was looked through a live node is looked through again."""

RETRY_S: Final = 30.0
"""… and after that was cut short by a failure, or chunks were left out."""

NAMES_MAX: Final = 1000
"""Quarantined chunks that are remembered by name; more are only counted."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A chunk that was put aside, and why."""

    chunk: ChunkId
    node: str
    reason: str


class Inventory:
    """See the module. Lives on the event loop.

    Attributes:
        quarantined: the latest that were put aside since the start.
        quarantined_count: how many there were since the start.
        is_needed: whether a chunk without a place is left for repair to find.
        on_put_aside: called with each chunk that was.
    """

    def __init__(self, tier: ColdTier, events: EventLog, *, metrics: LifeMetrics) -> None:
        self._tier = tier
        self._events = events
        self._metrics = metrics
        self._due_s: dict[str, float] = {}
        self.quarantined: OrderedDict[tuple[str, str], Quarantined] = OrderedDict()
        self.quarantined_count = 0
        self.is_needed: Callable[[ChunkId], bool] = lambda _chunk: False
        self.on_put_aside: Callable[[Quarantined], None] = lambda _found: None

    async def run(self) -> None:
        """Look nodes through as they become live, until cancelled."""
        while True:
            try:
                await self.run_due()
            except Exception as error:  # One bad round must not be the last one.
                self._events.error("inventory failed", reason=repr(error))
            await trio.sleep(LOOK_S)

    async def run_due(self) -> None:
        """Look through all live nodes whose turn it is, one after the other."""
        names = self._tier.nodes.names()
        live = [name for name in names if self._tier.nodes.is_live(name)]
        # One that was away has its turn as soon as it is back.
        self._due_s = {name: self._due_s.get(name, 0.0) for name in live}
        for name in live:
            if trio.current_time() >= self._due_s[name]:
                self._due_s[name] = trio.current_time() + await self._look_through(name)

    async def _look_through(self, node: str) -> float:
        """Judge every chunk of a node; return after how many seconds to do it again."""
        after, again_s = "", AGAIN_S
        try:
            store = self._tier.nodes.store(node)
            while True:
                found = await store.list(after=after, limit=LIST_MAX)
                for chunk in found:
                    if not await self._judge(node, chunk):
                        again_s = RETRY_S
                if len(found) < LIST_MAX:
                    return again_s
                after = found[-1].name
        except (EcError, LogdError) as error:
            self._events.warning("node not looked through", node=node, reason=str(error))
            return RETRY_S

    async def _judge(self, node: str, chunk: ChunkId) -> bool:
        """Do what is to be done about a chunk; return whether it could be judged."""
        name = ChunkName(
            SegmentKey(bytes.fromhex(chunk.topic_id), chunk.partition, chunk.base_offset),
            chunk.generation,
            chunk.encoding,
            chunk.index,
            node,
        )
        if name.key in self._tier.leases or self.is_needed(chunk):
            return False
        record = self._tier.generation(chunk.encoding)
        gone = await self._tier.gone(chunk.encoding) if record is None else None
        judgement = judge_chunk(name, {} if record is None else {chunk.encoding: record}, gone)
        if judgement.fate is Fate.REMOVE:
            await self._tier.nodes.store(node).delete(chunk)
            await self._tier.chunk_removed(chunk.encoding, index=chunk.index, node=node)
        elif judgement.fate is Fate.QUARANTINE:
            await self._put_aside(node, chunk, judgement)
        elif judgement.fate is Fate.TRIM:
            return await self._trim(node, name, chunk)
        return True

    async def _trim(self, node: str, name: ChunkName, chunk: ChunkId) -> bool:
        """Remove one copy too many; return whether it is gone: the other may be bad, or away."""
        lease = self._tier.leases.take(Work.TRIM, [name.key])
        if lease is None:
            return False
        try:
            record = self._tier.generation(chunk.encoding)
            holder = None if record is None else record.held.get(chunk.index)
            if holder is None or not self._tier.nodes.is_live(holder):
                return False
            if await self._tier.nodes.store(holder).verify(chunk):
                return False  # Scrub says so, and repair may find this one.
            await self._tier.nodes.store(node).delete(chunk)
        except EcError as error:
            self._events.warning("extra copy of a chunk stays", node=node, reason=str(error))
            return False
        finally:
            self._tier.leases.give_back(lease)
        self._events.info("extra copy of a chunk removed", node=node, chunk=chunk.name, good=holder)
        return True

    async def _put_aside(self, node: str, chunk: ChunkId, judgement: Judgement) -> None:
        try:
            await self._tier.nodes.store(node).quarantine(chunk)
        except (ChunkMissingError, ChunkExistsError) as error:
            # Gone meanwhile, or there is one of that name already: both stay as they are.
            self._events.warning("chunk not put aside", node=node, reason=str(error))
            return
        self._metrics.chunks_quarantined.add()
        self.quarantined_count += 1
        found = Quarantined(chunk, node, judgement.reason)
        self.quarantined[node, chunk.name] = found
        self.on_put_aside(found)
        while len(self.quarantined) > NAMES_MAX:
            self.quarantined.popitem(last=False)
        self._events.warning(
            "chunk put into quarantine", node=node, chunk=chunk.name, reason=judgement.reason
        )
