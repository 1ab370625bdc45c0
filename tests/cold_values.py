"""Generations, nodes and their conditions for tests of the cold tier's decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from logd.policy.cold.condition import (
    ChunkPlace,
    Finding,
    NodeCondition,
    SegmentCondition,
    examine,
)
from logd.policy.cold.margins import SegmentMargin
from logd.policy.cold.preflight import NodeFacts
from logd.policy.cold.values import (
    ColdState,
    Generation,
    NodeState,
    Placement,
    Profile,
    SegmentKey,
)
from logd.policy.cold.what_if import margin_by_count
from logd.policy.node_health import NodeHealth
from logd.units import GIB, MIB

TOPIC = b"t" * 16
FOUR_TWO = Profile(4, 2)


def generation(
    number: int = 0,
    nodes: Iterable[str] = "abcdef",
    *,
    profile: Profile = FOUR_TWO,
    source_bytes: int = 16 * MIB,
    state: ColdState = ColdState.RELEASED,
) -> Generation:
    """Return the coded segment at offset 10 * number, its chunks on these nodes in order."""
    return Generation(
        key=SegmentKey(TOPIC, 0, 10 * number),
        number=1,
        encoding=f"{number:032x}",
        profile=profile,
        next_offset=10 * number + 10,
        source_bytes=source_bytes,
        state=state,
        placements=tuple(Placement(index, node) for index, node in enumerate(nodes)),
    )


def node(name: str, *, rack: str | None = None, free: int | None = 100 * GIB) -> NodeCondition:
    """Return a node that is well."""
    return NodeCondition(facts=NodeFacts(name=name, rack=rack, free_bytes=free))


def nodes(names: Iterable[str] = "abcdef") -> dict[str, NodeCondition]:
    """Return nodes that are well, by name."""
    return {name: node(name) for name in names}


def dead(
    known: Mapping[str, NodeCondition], names: str, since_ms: int = 0
) -> dict[str, NodeCondition]:
    """Return the nodes with some of them dead."""
    return dict(known) | {
        name: replace(
            known[name],
            facts=replace(known[name].facts, health=NodeHealth.DEAD),
            dead_since_ms=since_ms,
        )
        for name in names
    }


def suspect(known: Mapping[str, NodeCondition], names: str) -> dict[str, NodeCondition]:
    """Return the nodes with some of them suspect."""
    return dict(known) | {
        name: replace(known[name], facts=replace(known[name].facts, health=NodeHealth.SUSPECT))
        for name in names
    }


def draining(known: Mapping[str, NodeCondition], names: str) -> dict[str, NodeCondition]:
    """Return the nodes with some of them being drained."""
    return dict(known) | {
        name: replace(known[name], facts=replace(known[name].facts, state=NodeState.DRAINING))
        for name in names
    }


def look(
    generations: Iterable[Generation],
    known: Mapping[str, NodeCondition],
    findings: Mapping[ChunkPlace, Finding] | None = None,
) -> list[tuple[SegmentCondition, SegmentMargin]]:
    """Return condition and margin of each."""
    conditions = [examine(each, known, findings or {}) for each in generations]
    return [(each, margin_by_count(each, known)) for each in conditions]


def facts(known: Mapping[str, NodeCondition]) -> list[NodeFacts]:
    """Return what placement goes by."""
    return [each.facts for each in known.values()]
