"""Drains, replaces and rebalances storage nodes: what `logd node` asks for, beside add and remove.

Draining records that a node is to be emptied; repair copies its chunks away, as it does everything,
by plans made anew. So a drain goes on over restarts, and ends when it is taken back. Before it is
recorded the plan says whether it can end well, with the sum; a refusal changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from logd.cold.chunk_health import ChunkHealth
from logd.cold.missing import MissingChunks
from logd.cold.repairing import Repairer
from logd.cold.tier import ColdTier
from logd.errors import NodeRefusedError
from logd.policy.cold.condition import SegmentCondition, examine
from logd.policy.cold.moves import DrainPlan, ReplacePlan, plan_drain, plan_replace
from logd.policy.cold.rebalance import RebalancePlan, plan_rebalance
from logd.policy.cold.repair_plan import RepairItem
from logd.policy.cold.values import LIVE, NodeState
from logd.policy.node_health import NodeHealth

MOVES_SHOWN_MAX: Final = 1000


class NodeMoving:
    """See the module. Lives on the event loop."""

    def __init__(
        self, tier: ColdTier, health: ChunkHealth, missing: MissingChunks, repairer: Repairer
    ) -> None:
        self._tier = tier
        self._missing = missing
        self._health = health
        self._repairer = repairer

    # --- drain ------------------------------------------------------------------------------------

    def plan_drain(self, name: str) -> DrainPlan:
        """Return what draining a node means.

        Raises:
            UnknownNodeError: there is no such node.
        """
        self._tier.nodes.node(name)
        return plan_drain(name, self._conditions(), self._tier.nodes.facts())

    async def drain(self, name: str) -> DrainPlan:
        """Begin to empty a node; harmless where that is under way.

        Raises:
            UnknownNodeError: there is no such node. NodeRefusedError: it cannot end well; the
            reason shows the sum. StorageError: the catalog cannot be written.
        """
        plan = self.plan_drain(name)
        if plan.refusal is not None:
            raise NodeRefusedError(f"{plan}; add nodes first: `logd node add NAME DIR_OR_URL`")
        record = self._tier.nodes.node(name)
        if record.state is not NodeState.DRAINING:
            await self._tier.nodes.change(replace(record, state=NodeState.DRAINING))
        self._repairer.wake()
        return plan

    async def stop_draining(self, name: str) -> None:
        """Let a node take chunks again; what was moved stays where it is.

        Raises:
            As `drain`, but for the sum.
        """
        record = self._tier.nodes.node(name)
        if record.state is NodeState.DRAINING:
            await self._tier.nodes.change(replace(record, state=NodeState.ACTIVE))

    def progress(self, name: str) -> dict[str, Any]:
        """Return how far the draining of a node is, and what keeps it.

        Raises:
            UnknownNodeError: there is no such node.
        """
        record = self._tier.nodes.node(name)
        placed = [each for each in self._tier.generations() if name in each.held.values()]
        leaving = sum(
            at.node == name and at.is_leaving
            for each in self._tier.generations()
            for at in each.placements
        )
        plan = self._repairer.plan()
        eta = self._repairer.eta(plan)
        mine = [item for item in plan.items if self._is_about(item, name)]
        ends = [eta.end_ms.get(item.encoding) for item in mine]
        reasons = {item.reason for item in mine if not item.steps and item.reason}
        is_known = None not in ends and bool(ends)
        return {
            "node": name,
            "state": record.state.value,
            "chunks": len(placed),
            "to_remove": leaving,
            "done": not placed and not leaving,
            "stuck": sorted(reasons)[:10],
            "is_stuck": bool(mine) and all(not item.steps for item in mine),
            "eta_s": eta.total_s if is_known else None,
        }

    def _is_about(self, item: RepairItem, name: str) -> bool:
        return any(chunk.node == name for chunk in item.condition.chunks)

    # --- replace ----------------------------------------------------------------------------------

    def plan_replace(self, name: str) -> ReplacePlan:
        """Return what replacing a node means.

        Raises:
            UnknownNodeError: there is no such node.
        """
        self._tier.nodes.node(name)
        is_reachable = self._tier.nodes.health(name) is NodeHealth.LIVE
        return plan_replace(name, self._conditions(), is_reachable=is_reachable)

    async def replace(self, name: str, place: str | None) -> ReplacePlan:
        """Let an empty place take a node's; its chunks are made again at once.

        Raises:
            UnknownNodeError: there is no such node. NodeRefusedError: it answers and is needed, or
            the place is not empty. StorageError: the catalog cannot be written.
        """
        plan = self.plan_replace(name)
        if plan.refusal is not None:
            raise NodeRefusedError(str(plan))
        await self._tier.nodes.replace(name, place)
        self._health.replaced(name)
        self._missing.look_soon(name)
        self._repairer.wake()
        return plan

    # --- rebalance --------------------------------------------------------------------------------

    def plan_rebalance(self) -> RebalancePlan:
        """Return which chunks would move."""
        leased = {key for lease in self._tier.leases for key in lease.keys}
        return plan_rebalance(self._conditions(), self._tier.nodes.facts(), leased=leased)

    def rebalance(self) -> RebalancePlan:
        """Begin to move chunks; those of a rebalance that is under way are not doubled."""
        plan = self.plan_rebalance()
        self._repairer.add_moves(plan.moves)
        return plan

    def moves_left(self) -> int:
        """Return how many moves are still to be made."""
        return len(self._repairer.moves) + (self._repairer.moving is not None)

    def moves_document(self) -> dict[str, Any]:
        """Return what became of the moves so far, as the admin port shows it."""
        return {"left": self.moves_left(), **self._repairer.moves.as_document()}

    def _conditions(self) -> list[SegmentCondition]:
        """Return what is known of every generation, also of those that are not live."""
        views = self._health.nodes()
        others = [
            examine(each, views, {}) for each in self._tier.generations() if each.state not in LIVE
        ]
        return [condition for condition, _ in self._health.look()] + others


def drain_document(plan: DrainPlan) -> dict[str, Any]:
    """Return a drain's plan as the admin port shows it."""
    return {
        "node": plan.node,
        "moves": len(plan.moves),
        "rebuilds": len(plan.rebuilds),
        "unrecoverable": len(plan.unrecoverable),
        "waits": plan.waits,
        "bytes": plan.move_bytes,
        "refusal": plan.refusal,
        "summary": str(plan),
    }


def replace_document(plan: ReplacePlan) -> dict[str, Any]:
    """Return a replacement's plan as the admin port shows it."""
    return {
        "node": plan.node,
        "rebuilds": len(plan.rebuilds) + len(plan.later),
        "unrecoverable": len(plan.unrecoverable),
        "bytes": plan.write_bytes,
        "refusal": plan.refusal,
        "summary": str(plan),
    }


def rebalance_document(plan: RebalancePlan) -> dict[str, Any]:
    """Return a rebalance's plan as the admin port shows it."""
    return {
        "moves": [
            {
                "topic": move.generation.key.topic or None,
                "topic_id": move.generation.key.topic_id.hex(),
                "partition": move.generation.key.partition,
                "base_offset": move.generation.key.base_offset,
                "chunk": move.index,
                "parity": move.is_parity,
                "source": move.source,
                "target": move.target,
                "bytes": move.chunk_bytes,
            }
            for move in plan.moves[:MOVES_SHOWN_MAX]
        ],
        "move_count": len(plan.moves),
        "bytes": plan.move_bytes,
        "nodes": [
            {
                "node": share.node,
                "before_bytes": share.before_bytes,
                "after_bytes": share.after_bytes,
                "before_share": round(share.before, 4),
                "after_share": round(share.after, 4),
            }
            for share in plan.shares
        ],
        "left_alone": plan.left_alone,
    }
