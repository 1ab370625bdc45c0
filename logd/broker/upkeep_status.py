"""Repair, scrub and moves as `logd status` and the admin port show them.

Without a storage node nothing looks after coded segments, and there is nothing to tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from logd.broker.cold_segments import ColdSegments
from logd.broker.problems import Problem
from logd.cold.tier import ColdTier
from logd.policy.cold.values import LIVE, NodeState
from logd.policy.node_health import NodeHealth

if TYPE_CHECKING:
    from logd.cold.upkeep import Upkeep

WAITS: Final = frozenset(("no-target", "source-slow", "retry", "unrecoverable"))
NAMED_MAX: Final = 20


async def upkeep_of(coded: ColdSegments, *, needs_nodes: bool = True) -> Upkeep:
    """Return what looks after coded segments; soon after a start it is waited for.

    Args:
        needs_nodes: what is wanted of it has no meaning without storage nodes.

    Raises:
        NoStorageNodesError: there is no storage node.
    """
    upkeep = (await coded.ready(needs_nodes=needs_nodes)).upkeep
    assert upkeep is not None, "a server has it, tests may not"
    return upkeep


def upkeep_status(coded: ColdSegments, *, cycle_ms: int) -> dict[str, Any]:
    """Return the fields `repair` and `scrub` of the status."""
    upkeep = None if coded.life is None else coded.life.upkeep
    if upkeep is None:
        return {
            "repair": {"queued": 0, "running": 0, "states": {}, "eta_s": None},
            "scrub": scrub_of_nobody(cycle_ms),
        }
    return {"repair": upkeep.repair_summary(), "scrub": upkeep.scrubber.status()}


def scrub_of_nobody(cycle_ms: int) -> dict[str, Any]:
    """Return the document of `logd scrub status` where nothing is scrubbed by itself."""
    return {
        "state": "idle",
        "cycle_s": cycle_ms // 1000,
        "progress": 0.0,
        "eta_s": None,
        "verified_bytes": 0,
        "findings": [],
        "found_total": {},
        "quarantined": {"total": 0, "latest": []},
        "oldest_unverified_s": None,
        "warnings": [],
        "places": [],
    }


def upkeep_problems(coded: ColdSegments, tier: ColdTier) -> Iterator[Problem]:
    """Yield what keeps repair and scrub from doing their work, also before it happens."""
    upkeep = None if coded.life is None else coded.life.upkeep
    if upkeep is None:
        return
    yield from _waiting(upkeep)
    for warning in upkeep.scrubber.warnings():
        yield Problem("scrub_too_slow", "warning", warning)
    uncertain = upkeep.health.counts().uncertain
    # Behind a start every node is looked through first; nobody need hear of that second.
    if uncertain and upkeep.health.has_silent_nodes():
        yield Problem(
            "margin_uncertain", "warning",
            f"{uncertain} coded segments have chunks that nobody can see now; they are taken as "
            "there until their nodes answer, or are dead",
        )  # fmt: skip
    yield from _no_spare(tier)


def _waiting(upkeep: Upkeep) -> Iterator[Problem]:
    """Yield why repairs wait, one problem a reason."""
    items = [item for item in upkeep.repairer.plan().items if item.state in WAITS]
    counts = Counter(item.state for item in items)
    for state, count in sorted(counts.items()):
        first = next(item for item in items if item.state == state)
        yield Problem(
            f"repair_{state.replace('-', '_')}", "warning",
            f"{count} segments wait for repair ({state}); the first, {first.condition.generation}: "
            f"{first.reason}",
        )  # fmt: skip


def _no_spare(tier: ColdTier) -> Iterator[Problem]:
    """Say that a lost chunk would have no target, before there is one."""
    # A server that codes nothing does not come here, and need not have imported it.
    from logd.policy.tiering import profile_advice

    active = sum(
        node.state is NodeState.ACTIVE and node.health is not NodeHealth.DEAD
        for node in tier.nodes.facts()
    )
    profiles = {each.profile for each in tier.generations() if each.state in LIVE}
    for profile in sorted(profiles):
        if active <= profile.chunks:
            yield Problem("no_spare_node", "warning", profile_advice(profile, active)[-1])
