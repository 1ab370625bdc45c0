"""What there is to tell of coded segments: rows of `logd segments`, margins, sizes, what is wrong.

A chunk is *live* if its node is and nothing is known against it. *Missing*: its node says so, or is
dead, or it has no place. *Corrupt*: it was read and is not right. *Unknown*: its node is suspect.
A segment's margin counts the live ones (`ec.margin`): how many more nodes can go. Below its k live
chunks a segment that has no hot file is *lost*, as far as can be told now: what comes back with its
node is found again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from ec.margin import margin
from ec.profile import Profile as EcProfile
from logd.cold.chunk_findings import ChunkFindings, ChunkPlace, ChunkState
from logd.cold.tier import ColdTier
from logd.policy.cold.values import LIVE, Generation
from logd.policy.node_health import NodeHealth

LOST: Final = "lost"

IsHot = Callable[[Generation], bool]


@dataclass(slots=True)
class ColdFigures:
    """Counts over all generations.

    Attributes:
        by_margin: "lost", "0", "1", …: how many segments have that margin.
        lost: generations that cannot be read whole and have no hot file.
        below_target: those with a margin below the m of their profile, but the lost ones.
    """

    by_margin: Counter[str] = field(default_factory=Counter)
    by_state: Counter[str] = field(default_factory=Counter)
    lost: list[Generation] = field(default_factory=list)
    below_target: list[Generation] = field(default_factory=list)

    def margins(self) -> dict[str, int]:
        """Return the document's form: lost, 0, 1 and 2 are always in it."""
        names = [LOST, *map(str, range(max(3, *(_rank(name) + 1 for name in self.by_margin), 0)))]
        return {name: self.by_margin[name] for name in names}


class ColdView:
    """Looks at generations with what is known of nodes and chunks. Lives on the event loop."""

    def __init__(self, tier: ColdTier, findings: ChunkFindings) -> None:
        self._tier = tier
        self._findings = findings

    def chunk_states(self, generation: Generation) -> dict[int, ChunkState]:
        """Return what is known of each chunk, by index."""
        states = dict.fromkeys(range(generation.profile.chunks), ChunkState.MISSING)
        for index, node in generation.held.items():
            finding = self._findings.get(ChunkPlace(generation.encoding, index, node))
            states[index] = self._state_on(node) if finding is None else finding.state
        return states

    def _state_on(self, node: str) -> ChunkState:
        health = self._tier.nodes.health(node)
        if health is NodeHealth.LIVE:
            return ChunkState.LIVE
        return ChunkState.MISSING if health is NodeHealth.DEAD else ChunkState.UNKNOWN

    def margin(self, generation: Generation) -> int:
        """Return how many more nodes can go; -1: it cannot be read whole from its chunks now."""
        states = self.chunk_states(generation)
        held = generation.held
        live = tuple(item for item in held.items() if states[item[0]] is ChunkState.LIVE)
        return _margin(generation.profile.k, generation.profile.m, live)

    def figures(self, is_hot: IsHot) -> ColdFigures:
        """Return the sums over all live generations."""
        found = ColdFigures()
        by_node = {name: self._state_on(name) for name in self._tier.nodes.names()}
        noted = {place.encoding for place, _ in self._findings}
        for generation in self._tier.generations():
            found.by_state[generation.state.value] += 1
            if generation.state not in LIVE:
                continue
            if generation.encoding in noted:
                left = self.margin(generation)
            else:
                left = _margin_on(generation, by_node)
            if left < 0 and not is_hot(generation):
                found.by_margin[LOST] += 1
                found.lost.append(generation)
                continue
            found.by_margin[str(max(left, 0))] += 1
            if left < generation.profile.m:
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


def _margin_on(generation: Generation, by_node: Mapping[str, ChunkState]) -> int:
    """Return the margin where nothing is known against a chunk itself."""
    held = generation.held
    live = tuple(item for item in held.items() if by_node[item[1]] is ChunkState.LIVE)
    return _margin(generation.profile.k, generation.profile.m, live)


@lru_cache(maxsize=4096)
def _margin(k: int, m: int, live: tuple[tuple[int, str], ...]) -> int:
    """Return the margin of chunks on nodes; few of the many segments differ in it."""
    return margin(EcProfile(k, m), {index: (node,) for index, node in live}, {}).nodes


def _rank(name: str) -> int:
    return -1 if name == LOST else int(name)
