"""What is shown of storage nodes: rows of `logd node list`, problems, metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from logd.broker.problems import Problem
from logd.cold.tier import ColdTier
from logd.metrics import Registry
from logd.policy.cold.values import NodeState

BREAKER_STATES = ("closed", "half-open", "open")
"""As numbers on /metrics: 0, 1, 2."""

_Samples = Iterator[tuple[dict[str, str], int | float]]


def list_nodes(tier: ColdTier) -> list[dict[str, Any]]:
    """Return the rows of `logd node list`, by name."""
    return [describe_node(tier, name) for name in tier.nodes.names()]


def describe_node(tier: ColdTier, name: str) -> dict[str, Any]:
    """Return one row of `logd node list`.

    Raises:
        UnknownNodeError: there is no such node.
    """
    nodes = tier.nodes
    record = nodes.node(name)
    chunks, size = tier.holdings.of_node(name)
    return {
        "name": name,
        "address": record.place,
        "id": record.identity,
        "rack": nodes.rack(name),
        "state": node_state(tier, name),
        "reason": nodes.describe(name),
        "chunks": chunks,
        "bytes": size,
        "free_bytes": nodes.free_bytes(name),
        "breaker": nodes.breaker(name),
        "last_error": nodes.last_error(name),
    }


def node_state(tier: ColdTier, name: str) -> str:
    """Return live, suspect, dead, or draining, which a node is only while it is live."""
    is_draining = tier.nodes.node(name).state is NodeState.DRAINING
    return "draining" if is_draining and tier.nodes.is_live(name) else tier.nodes.health(name).value


def node_counts(tier: ColdTier) -> dict[str, int]:
    """Return how many nodes there are, and how many of them answer."""
    names = tier.nodes.names()
    return {"total": len(names), "live": sum(tier.nodes.is_live(name) for name in names)}


def node_problems(tier: ColdTier) -> Iterator[Problem]:
    """Yield what is wrong with nodes. One that is away is a warning: margins say what it costs."""
    nodes = tier.nodes
    if nodes.stale is not None:
        yield Problem("stale_catalog", "damage", f"nothing is changed on nodes: {nodes.stale}")
    for name in nodes.names():
        if not nodes.is_live(name):
            state, error = nodes.health(name).value, nodes.last_error(name)
            words = f"storage node {name} is {nodes.describe(name)}"
            words += f"; {error}" if error else ""
            yield Problem(f"node_{state}", "warning", words, path=nodes.node(name).place)


def register_node_metrics(registry: Registry, tier: ColdTier) -> None:
    """Register the gauges of storage nodes; they are worked out at each scrape."""
    nodes = tier.nodes

    def family(name: str, text: str, value: Callable[[str], int | float | None]) -> None:
        def samples() -> _Samples:
            for node in nodes.names():
                number = value(node)
                if number is not None:
                    yield {"node": node}, number

        registry.family(name, text, "gauge", samples)

    def states() -> _Samples:
        for node in nodes.names():
            yield {"node": node, "state": node_state(tier, node)}, 1

    family(
        "logd_node_up",
        "1 while a storage node answers as it must.",
        lambda node: int(nodes.is_live(node)),
    )
    registry.family("logd_node_state", "The state a storage node is in.", "gauge", states)
    family(
        "logd_node_breaker_state",
        "A storage node's circuit breaker: 0 closed, 1 half-open, 2 open.",
        lambda node: BREAKER_STATES.index(nodes.breaker(node)),
    )
    family("logd_node_free_bytes", "Free space of a storage node, as last seen.", nodes.free_bytes)
    family(
        "logd_node_chunks", "Chunks on a storage node.", lambda node: tier.holdings.of_node(node)[0]
    )
    family(
        "logd_node_chunk_bytes",
        "Bytes of the chunks on a storage node.",
        lambda node: tier.holdings.of_node(node)[1],
    )
