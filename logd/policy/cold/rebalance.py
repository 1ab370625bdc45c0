"""Which chunks move so that the nodes are filled alike, and the rules of placement hold again.

First what breaks a rule: more than m chunks of a segment in one rack, which happens when a node is
given another rack. Then evenness: from the node whose share of used space lies farthest above the
mean to one that lies below, until all are within the tolerance. Parity chunks go first: nobody
reads them while all is well, so moving them disturbs no reader. A segment that is worked on, is not
live, or has not its full margin, is left alone: a balancer that touches what is under repair makes
both slower, and a copy in the air is one more thing that can go wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from logd.policy.cold.condition import SegmentCondition
from logd.policy.cold.moves import Move
from logd.policy.cold.preflight import NodeFacts
from logd.policy.cold.targets import active_nodes, chunk_bytes_of
from logd.policy.cold.values import LIVE, SegmentKey
from logd.units import format_byte_count

TOLERANCE: Final = 0.05
"""A node whose used share is this much over the mean, of all space, is too full."""
MOVES_MAX: Final = 10_000
"""One plan has no more; the next goes on."""


@dataclass(frozen=True, slots=True)
class NodeShare:
    """How full a node is with chunks, of what chunks may take.

    Attributes:
        before_bytes, after_bytes: of its chunks.
        space_bytes: its chunks and what more it could take.
    """

    node: str
    before_bytes: int
    after_bytes: int
    space_bytes: int

    @property
    def before(self) -> float:
        """Share used before."""
        return self.before_bytes / max(self.space_bytes, 1)

    @property
    def after(self) -> float:
        """Share used after."""
        return self.after_bytes / max(self.space_bytes, 1)

    def __str__(self) -> str:
        return (
            f"{self.node}: {format_byte_count(self.before_bytes)} ({self.before:.0%}) to "
            f"{format_byte_count(self.after_bytes)} ({self.after:.0%})"
        )


@dataclass(frozen=True, slots=True)
class RebalancePlan:
    """Which chunks move, in this order, and what it gives.

    Attributes:
        left_alone: segments that were not looked at: not live, worked on, or not whole.
    """

    moves: tuple[Move, ...]
    shares: tuple[NodeShare, ...]
    left_alone: int

    @property
    def move_bytes(self) -> int:
        """What is copied, at most."""
        return sum(move.chunk_bytes for move in self.moves)

    def __str__(self) -> str:
        lines = [str(move) for move in self.moves]
        lines += [str(share) for share in self.shares]
        return "\n".join(lines)


def plan_rebalance(
    segments: Iterable[SegmentCondition],
    nodes: Sequence[NodeFacts],
    *,
    leased: Collection[SegmentKey] = (),
) -> RebalancePlan:
    """Return the moves.

    Args:
        nodes: all; chunks move between those that are live and not leaving.
    """
    balance = _Balance(active_nodes(nodes))
    whole: list[SegmentCondition] = []
    left_alone = 0
    for condition in segments:
        is_whole = len(condition.live) == condition.generation.profile.chunks
        if condition.generation.state in LIVE and is_whole:
            balance.add(condition)
            if condition.generation.key not in leased and not condition.leaving:
                whole.append(condition)
                continue
        left_alone += 1
    moves = balance.spread(whole)
    moves += balance.level(whole, count_max=MOVES_MAX - len(moves))
    return RebalancePlan(tuple(moves), balance.shares(), left_alone)


class _Balance:
    """Bytes per node while a plan is made."""

    def __init__(self, nodes: Sequence[NodeFacts]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._before: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self._places: dict[str, dict[int, str]] = {}

    def add(self, condition: SegmentCondition) -> None:
        """Count the chunks of a segment."""
        generation = condition.generation
        self._places[generation.encoding] = generation.held
        for node in generation.held.values():
            self._before[node] += chunk_bytes_of(generation)
            self._now[node] += chunk_bytes_of(generation)

    def shares(self) -> tuple[NodeShare, ...]:
        """Return how full each node was and is."""
        return tuple(
            NodeShare(name, self._before[name], self._now[name], self._space(name))
            for name in sorted(self._nodes)
        )

    def spread(self, segments: Sequence[SegmentCondition]) -> list[Move]:
        """Return moves that leave no rack with more than m chunks of a segment."""
        moves: list[Move] = []
        for condition in segments:
            profile = condition.generation.profile
            for index in range(profile.chunks - 1, -1, -1):  # Parity first.
                node = self._nodes.get(self._places[condition.generation.encoding][index])
                domains = self._domains(condition)
                if node is None or domains[node.failure_domain] <= profile.m:
                    continue
                target = self._target(condition, index)
                if target is not None:
                    moves.append(self._move(condition, index, target))
        return moves[:MOVES_MAX]

    def level(self, segments: Sequence[SegmentCondition], *, count_max: int) -> list[Move]:
        """Return moves from nodes that are too full to others, parity first."""
        mean = self._mean()
        moves: list[Move] = []
        for wants_parity in (True, False):
            for condition in segments:
                k, chunks = condition.generation.profile.k, condition.generation.profile.chunks
                for index in range(k, chunks) if wants_parity else range(k):
                    if len(moves) >= count_max:
                        return moves
                    move = self._levelling(condition, index, mean)
                    if move is not None:
                        moves.append(move)
        return moves

    def _levelling(self, condition: SegmentCondition, index: int, mean: float) -> Move | None:
        """Return a move that brings two nodes nearer to the mean; None: this chunk stays."""
        source = self._places[condition.generation.encoding][index]
        if source not in self._nodes or self._share(source) <= mean + TOLERANCE:
            return None
        size = chunk_bytes_of(condition.generation)
        target = self._target(condition, index)
        if target is None or self._share(target, size) > mean:
            return None
        return self._move(condition, index, target)

    def _target(self, condition: SegmentCondition, index: int) -> str | None:
        """Return the emptiest node that the rules allow for a chunk; None: there is none."""
        generation = condition.generation
        places = self._places[generation.encoding]
        size = chunk_bytes_of(generation)
        domains = self._domains(condition)
        old = self._nodes.get(places[index])
        if old is not None:
            domains[old.failure_domain] -= 1
        best: tuple[float, str] | None = None
        for name, node in self._nodes.items():
            if name in places.values() or domains[node.failure_domain] >= generation.profile.m:
                continue
            if name in generation.leaving_nodes:
                continue
            if self._now[name] + size > self._space(name):
                continue
            share = (self._share(name, size), name)
            best = share if best is None else min(best, share)
        return None if best is None else best[1]

    def _move(self, condition: SegmentCondition, index: int, target: str) -> Move:
        places = self._places[condition.generation.encoding]
        move = Move(condition.generation, index, places[index], target)
        places[index] = target
        self._now[move.source] -= move.chunk_bytes
        self._now[target] += move.chunk_bytes
        return move

    def _domains(self, condition: SegmentCondition) -> Counter[tuple[bool, str]]:
        places = self._places[condition.generation.encoding]
        return Counter(
            self._nodes[name].failure_domain if name in self._nodes else (False, name)
            for name in places.values()
        )

    def _space(self, name: str) -> int:
        return self._before[name] + self._nodes[name].usable_bytes

    def _share(self, name: str, more_bytes: int = 0) -> float:
        return (self._now[name] + more_bytes) / max(self._space(name), 1)

    def _mean(self) -> float:
        space = sum(self._space(name) for name in self._nodes)
        return sum(self._now[name] for name in self._nodes) / max(space, 1)
