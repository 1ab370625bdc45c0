"""Which nodes get chunks that are made again or moved, many of them in one plan.

The rules are those of a first placement (`policy.cold.preflight`): at most one chunk of a segment
on a node, at most m in a rack, only on nodes that are live, not leaving, and have the space. What a
plan has promised already counts as used, so that a plan for a thousand segments does not promise
one disk's last gibibyte a thousand times.

Of the nodes that the rules leave, the one is taken whose share of free space is promised least. So
work spreads in proportion to free space, and the same plan comes out of the same facts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from typing import Final

from logd.policy.cold.preflight import NodeFacts, chunk_bytes_max, unfit_reason
from logd.policy.cold.values import Generation, NodeState, Profile
from logd.policy.node_health import NodeHealth
from logd.units import format_byte_count

INDEX_SHARE: Final = 200
"""One byte of index for so many of log: entries of 20 bytes for each 4 KiB, by default."""
NODES_NAMED_MAX: Final = 12
"""So many nodes are named in a refusal."""


def chunk_bytes_of(generation: Generation) -> int:
    """Return the most that a chunk file of a generation is expected to be."""
    size = generation.source_bytes
    return chunk_bytes_max(size, generation.profile, index_bytes=size // INDEX_SHARE)


class Targets:
    """Nodes that chunks may go to, and what was promised of each; for one plan.

    Args:
        nodes: all that are known, also those that are not fit: they count where racks are counted.
    """

    def __init__(self, nodes: Iterable[NodeFacts]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._promised: defaultdict[str, int] = defaultdict(int)
        # Asked for once here, and not for every chunk of a plan that has many thousands.
        self._domains = {name: node.failure_domain for name, node in self._nodes.items()}
        self._fit = [
            (name, node.usable_bytes, node.failure_domain)
            for name, node in sorted(self._nodes.items())
            if unfit_reason(node, 0) is None and node.usable_bytes > 0
        ]

    def pick(
        self,
        profile: Profile,
        kept: Collection[str],
        *,
        count: int,
        chunk_bytes: int,
        barred: Collection[str] = (),
    ) -> tuple[str, ...]:
        """Return nodes for `count` more chunks of a segment, and promise them.

        Fewer where the rules leave no more: `refusal` says why.

        Args:
            kept: the nodes that keep chunks of the segment; they get no other.
            barred: others that get none either, such as those that have yet to remove a copy.
        """
        assert count >= 0
        assert chunk_bytes > 0
        used = Counter(self._domain(name) for name in kept)
        taken = {*kept, *barred}
        chosen: list[str] = []
        while len(chosen) < count:
            best = self._best(profile, used, taken, chunk_bytes)
            if best is None:
                break
            chosen.append(best)
            taken.add(best)
            used[self._domain(best)] += 1
            self._promised[best] += chunk_bytes
        assert len(taken) == len({*kept, *barred}) + len(chosen)
        return tuple(chosen)

    def has_room(self, node: str, chunk_bytes: int) -> bool:
        """Return whether one node may get a chunk of that size."""
        found = self._nodes.get(node)
        if found is None or unfit_reason(found, chunk_bytes) is not None:
            return False
        return found.usable_bytes - self._promised[node] >= chunk_bytes

    def promise(self, node: str, chunk_bytes: int) -> None:
        """Take note that a node is to get a chunk of that size."""
        assert chunk_bytes >= 0
        self._promised[node] += chunk_bytes

    def take_back(self, node: str, chunk_bytes: int) -> None:
        """Take note that a node is not to get a chunk that it was promised for."""
        assert 0 <= chunk_bytes <= self._promised[node]
        self._promised[node] -= chunk_bytes

    def refusal(
        self, profile: Profile, kept: Collection[str], *, count: int, chunk_bytes: int
    ) -> str:
        """Return in words why `count` chunks more than were placed find no node."""
        used = Counter(self._domain(name) for name in kept)
        out = []
        for name, node in sorted(self._nodes.items()):
            why = self._refusal_of(node, profile, kept, used, chunk_bytes)
            if why is not None:
                out.append(f"{name} {why}")
        more = f"; and {len(out) - NODES_NAMED_MAX} more" if len(out) > NODES_NAMED_MAX else ""
        words = f"{count} of {profile.chunks} chunks of {profile} have no target"
        words += f": of {len(self._nodes)} nodes {len(kept)} keep its other chunks"
        return words + (f" ({'; '.join(out[:NODES_NAMED_MAX])}{more})" if out else "")

    # --- one node -----------------------------------------------------------------------------

    def _best(
        self,
        profile: Profile,
        used: Counter[tuple[bool, str]],
        taken: Collection[str],
        chunk_bytes: int,
    ) -> str | None:
        best: str | None = None
        best_share = 0.0
        for name, usable, domain in self._fit:
            promised = self._promised[name] + chunk_bytes
            if promised > usable or name in taken or used[domain] >= profile.m:
                continue
            share = promised / usable
            if best is None or share < best_share:
                best, best_share = name, share
        return best

    def _refusal_of(
        self,
        node: NodeFacts,
        profile: Profile,
        kept: Collection[str],
        used: Counter[tuple[bool, str]],
        chunk_bytes: int,
    ) -> str | None:
        """Return why a node gets none; None: it keeps a chunk, and is counted as that."""
        if node.name in kept:
            return None
        why = unfit_reason(node, chunk_bytes)
        if why is not None:
            return why
        if used[node.failure_domain] >= profile.m:
            return f"is in {node.rack}, which has m = {profile.m} already"
        left = node.usable_bytes - self._promised[node.name]
        return f"has {format_byte_count(max(left, 0))} that is not promised yet"

    def _domain(self, name: str) -> tuple[bool, str]:
        return self._domains.get(name, (False, name))


def active_nodes(nodes: Iterable[NodeFacts]) -> tuple[NodeFacts, ...]:
    """Return the nodes that are live and take chunks, whatever their space."""
    return tuple(
        node for node in nodes if node.state is NodeState.ACTIVE and node.health is NodeHealth.LIVE
    )
