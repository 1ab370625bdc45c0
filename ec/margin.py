"""How many more losses a coded segment survives: what is counted is what can fail apart.

Counting chunks says "healthy" of six chunks on one disk. So chunks are matched with distinct nodes:
the margin in nodes is the size of the largest matching less k. Racks fail as a whole, so the margin
in racks is how many of the worst of them can go while k chunks remain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ec.profile import Profile


@dataclass(frozen=True, slots=True)
class Margin:
    """How many more losses are survived; -1 means that the segment cannot be read whole now.

    Attributes:
        nodes: any so many nodes can go.
        domains: any so many failure domains (racks, or nodes without one) can go.
        chunks: how many different chunks there are.
    """

    nodes: int
    domains: int
    chunks: int


def margin(
    profile: Profile, holders: Mapping[int, Collection[str]], domains: Mapping[str, str]
) -> Margin:
    """Return the margin of a segment.

    Args:
        holders: per chunk index, the nodes that hold an intact copy and can be reached.
        domains: the failure domain of each node; one that is not in it is its own.
    """
    assert all(0 <= index < profile.chunks for index in holders)
    present = sum(1 for nodes in holders.values() if nodes)
    if present < profile.k:
        return Margin(-1, -1, present)
    by_domain = {
        index: {domains.get(node, f"n {node}") for node in nodes}
        for index, nodes in holders.items()
    }
    return Margin(
        nodes=len(match(holders)) - profile.k,
        domains=_worst_losses(by_domain, profile.k),
        chunks=present,
    )


def match(holders: Mapping[int, Collection[str]]) -> dict[int, str]:
    """Return a largest assignment of chunks to distinct nodes that hold them (augmenting paths)."""
    taken: dict[str, int] = {}

    def assign(index: int, tried: set[str]) -> bool:
        for node in sorted(holders[index]):
            if node in tried:
                continue
            tried.add(node)
            if node not in taken or assign(taken[node], tried):
                taken[node] = index
                return True
        return False

    for index in sorted(holders):
        assign(index, set())
    assert len(set(taken.values())) == len(taken)
    return {index: node for node, index in taken.items()}


def _worst_losses(by_domain: Mapping[int, Collection[str]], k: int) -> int:
    """Return how many domains can go, whichever they are, while k chunks remain.

    Of each domain only the chunks count that no other holds; where copies make that too simple
    (a chunk in two domains is lost with both), the answer errs on the side of caution.
    """
    assert k >= 1
    left = {index: set(found) for index, found in by_domain.items() if found}
    lost = -1
    while len(left) >= k:
        lost += 1
        counts: dict[str, int] = {}
        for found in left.values():
            for domain in found:
                counts[domain] = counts.get(domain, 0) + 1
        worst = max(sorted(counts), key=lambda domain: counts[domain])
        left = {index: found for index, found in left.items() if worst not in found}
    return lost
