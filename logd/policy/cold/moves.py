"""Whether a node can be emptied, removed or replaced, with the sum, before anything is moved.

Draining copies every chunk of a node to another one. A drain that cannot end well is refused at
once: too few nodes would be left for a profile, too many in one rack, or too little space. What
cannot be saved by draining, because the node's own chunk is bad and too few others are left, is
named and does not keep the rest from moving.

Removing is allowed once no chunk has its only place on the node. Replacing says what is to be made
again on the empty node, and what nobody can make again.

Source for refusing with the sum: the decommissions of other stores that never end (HDDS-10462).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from logd.policy.cold.condition import SegmentCondition
from logd.policy.cold.preflight import NodeFacts
from logd.policy.cold.targets import Targets, active_nodes, chunk_bytes_of
from logd.policy.cold.values import LIVE, Generation, Profile
from logd.units import format_byte_count

REASONS_MAX: Final = 5
"""So many segments that are in the way are named."""


@dataclass(frozen=True, slots=True)
class Move:
    """A chunk that goes from one node to another."""

    generation: Generation
    index: int
    source: str
    target: str

    @property
    def chunk_bytes(self) -> int:
        """What the chunk file is expected to be at most."""
        return chunk_bytes_of(self.generation)

    @property
    def is_parity(self) -> bool:
        """Whether readers do without it while all is well."""
        return self.index >= self.generation.profile.k

    def __str__(self) -> str:
        return f"{self.generation.key}, chunk {self.index}: {self.source} to {self.target}"


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What draining a node means.

    Attributes:
        moves: copies; those of parity chunks first.
        rebuilds: chunks of the node that are lost or cannot be read, and are made from others.
        unrecoverable: segments whose chunk there nothing gives back; they stay on record.
        waits: generations that are being written, or on their way out: they need no move.
        refusal: why it is not begun, with the sum; None: it can end well.
    """

    node: str
    moves: tuple[Move, ...]
    rebuilds: tuple[Generation, ...]
    unrecoverable: tuple[Generation, ...]
    waits: int
    refusal: str | None

    @property
    def move_bytes(self) -> int:
        """What is copied, at most."""
        return sum(move.chunk_bytes for move in self.moves)

    def __str__(self) -> str:
        if self.refusal is not None:
            return f"{self.node} cannot be drained: {self.refusal}"
        words = f"{self.node}: {_count(len(self.moves), 'chunk')} to copy"
        words += f", {format_byte_count(self.move_bytes)} at most"
        words += f"; {len(self.rebuilds)} to make from others" if self.rebuilds else ""
        words += f"; {self.waits} end by themselves" if self.waits else ""
        words += f"; {len(self.unrecoverable)} cannot be saved" if self.unrecoverable else ""
        return words


def plan_drain(
    node: str, segments: Iterable[SegmentCondition], nodes: Sequence[NodeFacts]
) -> DrainPlan:
    """Return what draining a node means, or why it cannot end well.

    Args:
        segments: of every state.
        nodes: all of them, this one too.
    """
    others = [each for each in nodes if each.name != node]
    targets = Targets(others)
    moves: list[Move] = []
    rebuilds: list[Generation] = []
    unrecoverable: list[Generation] = []
    stuck: list[tuple[Generation, str]] = []
    profiles: Counter[Profile] = Counter()
    waits = need_bytes = 0
    for condition in segments:
        generation = condition.generation
        chunk = next((each for each in condition.chunks if each.node == node), None)
        if chunk is None:
            continue
        if generation.state not in LIVE:
            waits += 1
            continue
        profiles[generation.profile] += 1
        if chunk.is_lost and len(condition.present) < generation.profile.k:
            unrecoverable.append(generation)
            continue
        need_bytes += chunk_bytes_of(generation)
        kept = {held for held in condition.present.values() if held != node}
        found = targets.pick(
            generation.profile, kept, count=1, chunk_bytes=chunk_bytes_of(generation),
            barred=generation.leaving_nodes,
        )  # fmt: skip
        if not found:
            chunk_bytes = chunk_bytes_of(generation)
            why = targets.refusal(generation.profile, kept, count=1, chunk_bytes=chunk_bytes)
            stuck.append((generation, why) if len(stuck) < REASONS_MAX else (generation, ""))
        elif chunk.is_lost:
            rebuilds.append(generation)
        else:
            moves.append(Move(generation, chunk.index, node, found[0]))
    moves.sort(key=lambda move: not move.is_parity)
    refusal = _drain_refusal(profiles, others, stuck, need_bytes)
    return DrainPlan(node, tuple(moves), tuple(rebuilds), tuple(unrecoverable), waits, refusal)


def _drain_refusal(
    profiles: Counter[Profile],
    others: Sequence[NodeFacts],
    stuck: Sequence[tuple[Generation, str]],
    need_bytes: int,
) -> str | None:
    """Return the sum: nodes for the widest profile, then bytes, then what else is in the way."""
    if not stuck:
        return None
    left = active_nodes(others)
    total = sum(profiles.values())
    words = f"{len(stuck)} of {_count(total, 'chunk')} have no other node"
    wide = [profile for profile in sorted(profiles) if profile.chunks > len(left)]
    if wide:
        sums = [
            f"{profile} needs {profile.chunks} nodes for {_count(profiles[profile], 'segment')}"
            for profile in wide
        ]
        return f"{words}: {', '.join(sums)}; {_count(len(left), 'live node')} would be left"
    usable = sum(node.usable_bytes for node in left)
    if usable < need_bytes:
        return (
            f"{words}: they need {format_byte_count(need_bytes)}, the "
            f"{_count(len(left), 'live node')} that would be left have "
            f"{format_byte_count(usable)} for chunks"
        )
    return f"{words}: {'; '.join(f'{one.key}: {why}' for one, why in stuck if why)}"


@dataclass(frozen=True, slots=True)
class ReplacePlan:
    """What is made again on an empty node that takes another's place.

    Attributes:
        rebuilds: generations whose chunk is computed from others.
        later: those for which that cannot be told now: chunks they need are unknown.
        unrecoverable: those of which fewer than k chunks are left without this node.
        refusal: why it is not done; None: nothing is lost by it.
    """

    node: str
    rebuilds: tuple[Generation, ...]
    later: tuple[Generation, ...]
    unrecoverable: tuple[Generation, ...]
    refusal: str | None

    @property
    def write_bytes(self) -> int:
        """What is written to the node, at most."""
        return sum(chunk_bytes_of(each) for each in (*self.rebuilds, *self.later))

    def __str__(self) -> str:
        if self.refusal is not None:
            return f"{self.node} is not replaced: {self.refusal}"
        words = f"{self.node}: {_count(len(self.rebuilds) + len(self.later), 'chunk')} to make"
        words += f" again, {format_byte_count(self.write_bytes)} at most"
        lost = len(self.unrecoverable)
        return (
            f"{words}; {_count(lost, 'segment')} cannot be read whole any more" if lost else words
        )


def plan_replace(
    node: str, segments: Iterable[SegmentCondition], *, is_reachable: bool
) -> ReplacePlan:
    """Return what replacing a node means.

    Args:
        is_reachable: the node answers as itself. Its chunks can be read then, and giving them up is
            refused where a segment needs one of them.
    """
    rebuilds: list[Generation] = []
    later: list[Generation] = []
    unrecoverable: list[Generation] = []
    for condition in segments:
        generation = condition.generation
        if generation.state not in LIVE or node not in generation.held.values():
            continue
        k = generation.profile.k
        live = sum(1 for i in condition.live if condition.chunks[i].node != node)
        unknown = sum(1 for chunk in condition.unknown if chunk.node != node)
        if live >= k:
            rebuilds.append(generation)
        elif live + unknown >= k:
            later.append(generation)
        else:
            unrecoverable.append(generation)
    refusal = None
    if is_reachable and (unrecoverable or later):
        needed = [*unrecoverable, *later]
        named = "; ".join(str(each.key) for each in needed[:REASONS_MAX])
        refusal = (
            f"it answers, and {_count(len(needed), 'segment')} cannot do without its chunks now "
            f"({named}); drain it instead"
        )
    return ReplacePlan(node, tuple(rebuilds), tuple(later), tuple(unrecoverable), refusal)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
