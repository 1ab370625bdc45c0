"""What would be lost, what degraded, and how long repair would take, if these nodes failed now.

The same rules as in earnest: the nodes' chunks are lost, the others are what they are, and repair
plans with what is left (`policy.cold.repair_plan`, delays included). Nothing is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from logd.policy.cold.condition import ChunkState, NodeCondition, SegmentCondition
from logd.policy.cold.margins import LOST_MARGIN, SegmentMargin
from logd.policy.cold.queue_eta import estimate_queue
from logd.policy.cold.rates import RATE_MIN_BYTES_S
from logd.policy.cold.repair_plan import Hold, RepairFacts, RepairPlan, RepairRules, plan_repairs
from logd.policy.cold.values import LIVE, Generation, Profile
from logd.policy.node_health import NodeHealth
from logd.units import format_byte_count, format_duration_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What would become of the coded segments.

    Attributes:
        lost: those that could not be read whole any more.
        by_margin: margin and number of the others.
        degraded: how many of the others would have lost a chunk by it.
        plan: what repair would do.
        repair_s: until its queue is empty, from the failure on; None: nothing can be repaired.
        is_measured: at the rate that was measured here; else at the least that repair keeps to.
        no_target: how many would wait for another node.
    """

    failed: tuple[str, ...]
    lost: tuple[Generation, ...]
    by_margin: tuple[tuple[int, int], ...]
    degraded: int
    plan: RepairPlan
    repair_s: float | None
    is_measured: bool
    no_target: int

    @property
    def write_bytes(self) -> int:
        """What repair would write."""
        return sum(item.write_bytes for item in self.plan.items)

    @property
    def read_bytes(self) -> int:
        """What repair would read."""
        return sum(item.read_bytes for item in self.plan.items)

    def __str__(self) -> str:
        left = ", ".join(f"{count} at margin {margin}" for margin, count in self.by_margin)
        words = f"without {', '.join(self.failed)}: {len(self.lost)} lost, {self.degraded} degraded"
        words += f"; {left}" if left else ""
        words += f"; repair reads {format_byte_count(self.read_bytes)}"
        words += f", writes {format_byte_count(self.write_bytes)}"
        if self.repair_s is not None:
            words += f", takes {format_duration_ms(int(self.repair_s) * 1000)}"
            if self.repair_s and not self.is_measured:
                least = format_byte_count(RATE_MIN_BYTES_S)
                words += f" at {least} a second, the least: nothing was repaired here yet"
        return words + (f"; {self.no_target} wait for another node" if self.no_target else "")


def simulate_failure(
    segments: Iterable[SegmentCondition],
    nodes: Mapping[str, NodeCondition],
    failed: Collection[str],
    rules: RepairRules,
    *,
    detect_ms: int,
    bytes_s: float | None,
    anew: Mapping[str, Profile] | None = None,
) -> Outcome:
    """Return what the failure of some nodes would mean.

    Args:
        segments: as they are now, of every state.
        detect_ms: until a node that is silent is called dead.
        bytes_s: what repair reads and writes a second, measured; None: not known.
        anew: encodings whose segment is still here, and the profile that it would be coded with.
    """
    hot = anew or {}
    assert all(name in nodes for name in failed)
    after = {
        name: _dead(node, detect_ms) if name in failed else node for name, node in nodes.items()
    }
    found = [
        (_without(condition, failed, detect_ms), condition)
        for condition in segments
        if condition.generation.state in LIVE
    ]
    margins = [
        (now, margin_by_count(now, after, has_hot_copy=now.generation.encoding in hot))
        for now, _ in found
    ]
    plan = plan_repairs(margins, RepairFacts(after, anew=hot), rules, now_ms=0)
    by_margin = Counter(margin.left for _, margin in margins)
    by_margin.pop(LOST_MARGIN, None)
    lost = tuple(margin.generation for _, margin in margins if margin.is_lost)
    return Outcome(
        failed=tuple(sorted(failed)),
        lost=lost,
        by_margin=tuple(sorted(by_margin.items())),
        degraded=sum(
            now != before and not margin.is_lost
            for (now, before), (_, margin) in zip(found, margins, strict=True)
        ),
        plan=plan,
        repair_s=estimate_queue(plan, bytes_s=bytes_s or RATE_MIN_BYTES_S, now_ms=0).total_s,
        is_measured=bytes_s is not None,
        no_target=sum(item.hold is Hold.NO_TARGET for item in plan.items),
    )


def _dead(node: NodeCondition, since_ms: int) -> NodeCondition:
    facts = replace(node.facts, health=NodeHealth.DEAD)
    return replace(node, facts=facts, dead_since_ms=since_ms, is_refused=False)


def _without(
    condition: SegmentCondition, failed: Collection[str], since_ms: int
) -> SegmentCondition:
    """Return a segment as it would be without some nodes."""
    chunks = tuple(
        replace(chunk, state=ChunkState.MISSING, since_ms=since_ms, reason="its node failed")
        if chunk.node in failed and not chunk.is_lost
        else chunk
        for chunk in condition.chunks
    )
    return (
        condition if chunks == condition.chunks else SegmentCondition(condition.generation, chunks)
    )


def margin_by_count(
    condition: SegmentCondition,
    nodes: Mapping[str, NodeCondition],
    *,
    has_hot_copy: bool = False,
) -> SegmentMargin:
    """Return a segment's margin: its chunks are on different nodes, so counting does.

    Racks are taken out one by one, the one with the most chunks first.
    """
    profile = condition.generation.profile
    present = condition.present
    left = len(present) - profile.k
    racks = Counter(
        nodes[name].facts.failure_domain if name in nodes else (False, name)
        for name in present.values()
    )
    domains, chunks = LOST_MARGIN, len(present)
    for _, count in racks.most_common():
        if chunks < profile.k:
            break
        domains += 1
        chunks -= count
    margin = max(left, LOST_MARGIN)
    return SegmentMargin(
        generation=condition.generation, chunks=margin, nodes=margin, domains=domains,
        present=len(present), unknown=len(condition.unknown),
        has_hot_copy=has_hot_copy and margin == LOST_MARGIN,
    )  # fmt: skip
