"""Storage nodes of the chaos simulation: with records, so that people can do all that they do.

They are drained, replaced, renamed, removed, put back and given racks, as `logd.cold.nodes` does
it; and a catalog is made again from what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from random import Random
from typing import TypeVar

import msgspec
import trio

from ec.errors import StoreTimeoutError
from ec.placement import Candidate
from logd.cold.node_access import Access
from logd.cold.rebuild import Rebuild, _Place
from logd.cold.tier import ColdTier
from logd.errors import UnknownNodeError
from logd.offload import InlineOffload
from logd.policy.cold.preflight import NodeFacts
from logd.policy.cold.values import NodeState, StorageNode
from tests.unit.life_rig import SimNode, SimNodes

T = TypeVar("T")

TIMEOUT_S = 30.0


DELAYS_S = (0.0, 0.0, 0.0, 0.002, 0.02, 0.1)
"""How long a node that is well takes for a call, and a thread for its work: so that other things
happen in between."""


class ChaosOffload(InlineOffload):
    """Work takes a while, before it is done and until it is told of, as that of threads does.

    Args:
        random: says how long.
    """

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random
        self._catalog = trio.Lock()  # It has one thread: what is asked first is done first.

    async def run(self, kind: str, function: Callable[..., T], *args: object) -> T:
        with trio.CancelScope(shield=True):
            return await self._work(kind, function, *args)

    async def ask(self, kind: str, function: Callable[..., T], *args: object) -> T:
        return await self._work(kind, function, *args)

    async def _work(self, kind: str, function: Callable[..., T], *args: object) -> T:
        assert kind in self._kinds
        async with self._catalog if kind == "catalog" else nullcontext():
            await trio.sleep(self._random.choice(DELAYS_S))
            try:
                return function(*args)
            finally:
                await trio.sleep(self._random.choice(DELAYS_S))


class ChaosNode(SimNode):
    """A node whose calls end in time, as all calls do: where it hangs, by a time-out.

    Args:
        random: says how long a call takes where all is well.
    """

    def __init__(self, name: str, random: Random) -> None:
        super().__init__(name)
        self._random = random

    async def answer(self, call: str) -> None:
        with trio.move_on_after(TIMEOUT_S):
            await trio.sleep(self._random.choice(DELAYS_S))
            await super().answer(call)
            return
        raise StoreTimeoutError(f"{self.node}: {call} not within {TIMEOUT_S:.0f} s")


class ChaosNodes(SimNodes):
    """See the module.

    Attributes:
        records: as the catalog has them, by name.
        removed: nodes that were taken out of the cluster, by name; their files are on them.
    """

    def __init__(self, nodes: list[SimNode]) -> None:
        super().__init__(nodes)
        self.records = {
            node.node: StorageNode(
                name=node.node, place=f"/{node.node}", identity=f"{ord(node.node):032x}"
            )
            for node in nodes
        }
        self.removed: dict[str, tuple[SimNode, StorageNode]] = {}
        self.tier: ColdTier | None = None
        self.disks = 0

    # --- looking ----------------------------------------------------------------------------------

    def node(self, name: str) -> StorageNode:
        self.store(name)
        return self.records[name]

    def store(self, name: str, _purpose: str = "serve") -> SimNode:
        if name not in self.by_name:
            raise UnknownNodeError(f"there is no storage node {name!r}")
        return self.by_name[name]

    def is_live(self, name: str) -> bool:
        return name in self.by_name and super().is_live(name)

    def facts(self) -> list[NodeFacts]:
        return [replace(each, rack=self.records[each.name].rack) for each in super().facts()]

    def candidates(self) -> list[Candidate]:
        return [replace(each, rack=self.records[each.node].rack) for each in super().candidates()]

    # --- changes ----------------------------------------------------------------------------------

    async def change(self, record: StorageNode) -> None:
        """Another state, or rack."""
        assert self.tier is not None
        await self.tier.change_node(record)
        self._took(record)

    async def replace(self, name: str, _place: str | None = None) -> None:
        """An empty disk takes the node's place."""
        assert self.tier is not None
        self.disks += 1
        record = replace(self.node(name), identity=f"{self.disks:032x}", state=NodeState.ACTIVE)
        await self.tier.replace_node(record)
        self.by_name[name].files.clear()
        self.by_name[name].quarantined.clear()
        self._took(record)

    async def rename(self, name: str, new_name: str) -> None:
        """The node is called otherwise; its chunks stay."""
        assert self.tier is not None
        record = replace(self.node(name), name=new_name)
        await self.tier.rename_node(name, record)
        node, _ = self._forget(name)
        self._add(node, record)
        self._tell(name)

    async def remove(self, name: str) -> None:
        """A node that holds nothing leaves the cluster."""
        assert self.tier is not None
        self.node(name)
        await self.tier.remove_node(name)
        self.removed[name] = self._forget(name)
        self._tell(name)

    async def put_back(self, name: str) -> None:
        """A node that was removed is added again, with whatever it has."""
        assert self.tier is not None
        node, record = self.removed[name]
        record = replace(record, state=NodeState.ACTIVE)
        await self.tier.add_node(record)
        del self.removed[name]
        self._add(node, record)

    def follow(self, records: Iterable[StorageNode]) -> None:
        """Have the nodes be those of a catalog, after a start."""
        known = [*self.removed.values()]
        known += [(self.by_name[name], record) for name, record in self.records.items()]
        by_place = {record.place: (node, record) for node, record in known}
        self.by_name, self.records, self.states, self.removed = {}, {}, {}, {}
        for record in records:
            node, _ = by_place.pop(record.place)
            self._add(node, record)
        self.removed = {record.name: (node, record) for node, record in by_place.values()}

    def _forget(self, name: str) -> tuple[SimNode, StorageNode]:
        self.suspects.discard(name)
        del self.states[name]
        return self.by_name.pop(name), self.records.pop(name)

    def _add(self, node: SimNode, record: StorageNode) -> None:
        node.identity = msgspec.structs.replace(node.identity, node=record.name)
        self.by_name[record.name] = node
        self._took(record)

    def _took(self, record: StorageNode) -> None:
        self.records[record.name] = record
        self.states[record.name] = record.state
        self._tell(record.name)

    def _tell(self, name: str) -> None:
        for call in self.on_change:
            call(name)


class SimRebuild(Rebuild):
    """A rebuild from nodes in memory."""

    nodes: ChaosNodes
    sequence: int

    async def _look(self, access: Access, word: str) -> _Place:
        name = word.partition("=")[0]
        nodes = self.nodes
        node, record = nodes.removed.get(name) or (nodes.by_name[name], nodes.records[name])
        found = replace(record, state=NodeState.ACTIVE, rack=None)
        return _Place(found, node, self.sequence, lambda: None)
