"""Finds chunks that should be on a node and are not, and findings that do not hold any more.

A node is looked through when it becomes live and again every while: its list of names is compared
with the catalog's. What is not in the list is asked for once more by name; only a node that is
there and says "no such chunk" makes a finding. A place that changed meanwhile, and a segment that
somebody works on, are left for the next look.

Findings about chunks on the node are looked at again too: a disk that was away, or a file that was
put back, may have made them good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from ec.chunk_dir import LIST_MAX
from ec.chunk_id import ChunkId
from ec.errors import ChunkMissingError, EcError
from logd.cold.chunk_findings import ChunkFindings, ChunkPlace, ChunkState
from logd.cold.removal import chunk_id
from logd.cold.tier import ColdTier
from logd.errors import LogdError
from logd.events import EventLog
from logd.policy.cold.removal import ChunkName
from logd.policy.cold.values import LIVE, Generation

LOOK_S: Final = 1.0
"""How often it is seen to which nodes have become live."""

AGAIN_S: Final = 600.0
"""How long after it was looked through a live node is looked through again."""

RETRY_S: Final = 15.0
"""… and after that was cut short by a failure."""


class MissingChunks:
    """See the module. Lives on the event loop.

    Args:
        looked_through: called with the name of a node that was, wholly.
    """

    def __init__(
        self,
        tier: ColdTier,
        findings: ChunkFindings,
        *,
        looked_through: Callable[[str], None],
        events: EventLog,
    ) -> None:
        self._tier = tier
        self._looked_through = looked_through
        self._findings = findings
        self._events = events
        self._due_s: dict[str, float] = {}

    async def run(self) -> None:
        """Look nodes through as they become live, until cancelled."""
        while True:
            try:
                await self.run_due()
            except Exception as error:  # One bad round must not be the last one.
                self._events.error("look for missing chunks failed", reason=repr(error))
            await trio.sleep(LOOK_S)

    async def run_due(self) -> None:
        """Look through all live nodes whose turn it is, side by side."""
        nodes = self._tier.nodes
        live = [name for name in nodes.names() if nodes.is_live(name)]
        # One that was away has its turn as soon as it is back.
        self._due_s = {name: self._due_s.get(name, 0.0) for name in live}
        async with trio.open_nursery() as nursery:
            for name in live:
                if trio.current_time() >= self._due_s[name]:
                    nursery.start_soon(self._run_one, name)

    async def _run_one(self, name: str) -> None:
        try:
            await self.look(name)
            pause_s = AGAIN_S
        except (EcError, LogdError) as error:
            self._events.warning("node not looked through", node=name, reason=str(error))
            pause_s = RETRY_S
        if name in self._due_s:
            self._due_s[name] = trio.current_time() + pause_s

    def look_soon(self, node: str) -> None:
        """Let a node have its turn now: another disk is there."""
        self._due_s[node] = 0.0

    async def look(self, node: str) -> None:
        """Compare a node's chunks with the catalog's.

        Raises:
            EcError: the node does not say, or not all of it. UnknownNodeError: there is none.
        """
        expected = {
            chunk_id(ChunkName(each.key, each.number, each.encoding, index, node)): each
            for each in self._tier.generations()
            if each.state in LIVE
            for index, holder in each.held.items()
            if holder == node
        }
        there = await self._names(node)
        for chunk, generation in expected.items():
            if chunk not in there and self._is_still(chunk, generation, node):
                await self._ask(node, chunk)
        for place, finding in list(self._findings):
            if place.node == node:
                await self._look_again(place, finding.state)
        self._looked_through(node)

    async def _names(self, node: str) -> set[ChunkId]:
        store = self._tier.nodes.store(node, "repair")
        there: set[ChunkId] = set()
        after = ""
        while True:
            found = await store.list(after=after, limit=LIST_MAX)
            there.update(found)
            if len(found) < LIST_MAX:
                return there
            after = found[-1].name

    def _is_still(self, chunk: ChunkId, generation: Generation, node: str) -> bool:
        """Return whether the chunk's place is what it was, and nobody is changing it."""
        now = self._tier.generation(chunk.encoding)
        if now is None or now.state not in LIVE or generation.key in self._tier.leases:
            return False
        return now.held.get(chunk.index) == node

    async def _ask(self, node: str, chunk: ChunkId) -> None:
        """Ask for a chunk by its name; a finding if the node has none."""
        place = ChunkPlace(chunk.encoding, chunk.index, node)
        try:
            await self._tier.nodes.store(node, "repair").head(chunk)
        except ChunkMissingError as error:
            self._findings.note(place, error)
        except EcError as error:
            self._findings.note(place, error)  # Damage counts; no answer does not.

    async def _look_again(self, place: ChunkPlace, state: ChunkState) -> None:
        """Verify a chunk that was found bad; what is good now is no finding any more."""
        generation = self._tier.generation(place.encoding)
        if generation is None or generation.held.get(place.index) != place.node:
            return
        name = ChunkName(generation.key, generation.number, place.encoding, place.index, place.node)
        store = self._tier.nodes.store(place.node, "repair")
        try:
            if state is ChunkState.MISSING:
                await store.head(chunk_id(name))
            damage = await store.verify(chunk_id(name))
        except EcError:
            return  # As bad as before, as far as is known.
        if not damage:
            self._findings.right(place)
