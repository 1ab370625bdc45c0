"""What there is to tell of coded segments: rows of `logd segments`, margins, sizes, what is wrong.

What is known of each chunk, and the margins that follow, are those that repair goes by
(`chunk_health`): a chunk on a node that does not answer for a while is *unknown*, which is not
lost, and counts as there; how many such chunks the margins rest on is said. A segment of which
fewer than k chunks can be there, and that has no hot file, is *lost*, as far as can be told now:
what comes back with its node is found again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from logd.cold.chunk_findings import ChunkFindings, ChunkPlace
from logd.cold.chunk_health import ChunkHealth
from logd.cold.tier import ColdTier
from logd.policy.cold.condition import ChunkState
from logd.policy.cold.values import LIVE, Generation

LOST: Final = "lost"

IsHot = Callable[[Generation], bool]


@dataclass(slots=True)
class ColdFigures:
    """Counts over all generations.

    Attributes:
        by_margin: "lost", "0", "1", …: how many segments have that margin.
        lost: generations that cannot be read whole and have no hot file.
        below_target: those with a margin below the m of their profile, but the lost ones.
        unknown_chunks, unknown_segments: chunks of which nothing is known now, and the segments
            that have some; they count as there.
    """

    by_margin: Counter[str] = field(default_factory=Counter)
    by_state: Counter[str] = field(default_factory=Counter)
    lost: list[Generation] = field(default_factory=list)
    below_target: list[Generation] = field(default_factory=list)
    unknown_chunks: int = 0
    unknown_segments: int = 0

    def margins(self) -> dict[str, int]:
        """Return the document's form: lost, 0, 1 and 2 are always in it."""
        names = [LOST, *map(str, range(max(3, *(_rank(name) + 1 for name in self.by_margin), 0)))]
        return {name: self.by_margin[name] for name in names}


class ColdView:
    """Looks at generations with what is known of nodes and chunks. Lives on the event loop."""

    def __init__(self, tier: ColdTier, findings: ChunkFindings, health: ChunkHealth) -> None:
        self._tier = tier
        self._findings = findings
        self._health = health

    def chunk_states(self, generation: Generation) -> dict[int, ChunkState]:
        """Return what is known of each chunk, by index."""
        condition, _ = self._health.find(generation)
        return {chunk.index: chunk.state for chunk in condition.chunks}

    def margin(self, generation: Generation) -> int:
        """Return how many more nodes can go; -1: it cannot be read whole from its chunks now."""
        return self._health.find(generation)[1].nodes

    def figures(self, is_hot: IsHot) -> ColdFigures:
        """Return the sums over all live generations."""
        found = ColdFigures()
        found.by_state.update(each.state.value for each in self._tier.generations())
        for condition, margin in self._health.look():
            generation = condition.generation
            found.unknown_chunks += margin.unknown
            found.unknown_segments += margin.unknown > 0
            if margin.is_lost and not is_hot(generation):
                found.by_margin[LOST] += 1
                found.lost.append(generation)
                continue
            found.by_margin[str(max(margin.nodes, 0))] += 1
            if margin.is_below_target:
                found.below_target.append(generation)
        return found

    def row(self, generation: Generation) -> dict[str, Any]:
        """Return the fields of a `logd segments` row that a coded segment has."""
        sizes = self._tier.holdings.lengths(generation.encoding)
        held, states = generation.held, self.chunk_states(generation)
        return {
            "state": "coded",
            "generation": generation.number,
            "k": generation.profile.k,
            "m": generation.profile.m,
            "margin": self.margin(generation),
            "chunks": [
                {
                    "index": index,
                    "node": held.get(index),
                    "bytes": None if sizes is None else sizes[index],
                    "state": states[index].value,
                }
                for index in range(generation.profile.chunks)
            ],
        }

    def findings(self) -> Iterator[tuple[Generation, ChunkPlace, str]]:
        """Yield each chunk that is known to be missing or damaged, with what was seen."""
        for place, finding in self._findings:
            generation = self._tier.generation(place.encoding)
            if generation is not None and generation.state in LIVE:
                yield generation, place, finding.reason


def _rank(name: str) -> int:
    return -1 if name == LOST else int(name)
