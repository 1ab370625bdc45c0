"""How many more losses each coded segment survives, counted over all of them.

Three numbers a segment: how many chunks, how many nodes and how many racks can go, whichever they
are, while it can still be read whole. -1 means that it cannot be read whole now: it is *lost*. The
numbers are made by who knows the coding library (a matching of chunks with distinct nodes); here
they are compared and counted.

A segment that is still here, as a hot copy, is not lost whatever its chunks are: it counts as one
that no loss of a node takes away and no further one is survived by, margin 0.

A chunk of which nothing is known counts as there, because unknown is not lost; the segment says how
many such chunks its margin rests on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from logd.policy.cold.values import Generation

LOST_MARGIN: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentMargin:
    """How many more losses one generation survives.

    Attributes:
        chunks, nodes, domains: any so many can go; -1: it cannot be read whole now. A domain is a
            rack, or a node that has none.
        present: how many different chunks are there, as far as is known.
        unknown: of these, how many nobody can see now.
        has_hot_copy: it cannot be read whole from its chunks, but from its file here.
    """

    generation: Generation
    chunks: int
    nodes: int
    domains: int
    present: int
    unknown: int = 0
    has_hot_copy: bool = False

    def __post_init__(self) -> None:
        assert self.domains >= LOST_MARGIN
        assert LOST_MARGIN <= self.nodes <= self.chunks <= self.target
        assert 0 <= self.unknown <= self.present

    @property
    def target(self) -> int:
        """What it survives when all is well: m."""
        return self.generation.profile.m

    @property
    def is_lost(self) -> bool:
        """Whether it cannot be read whole now."""
        return self.nodes == LOST_MARGIN and not self.has_hot_copy

    @property
    def left(self) -> int:
        """How many nodes can go, the hot copy counted; -1: it is lost."""
        return max(self.nodes, 0) if self.has_hot_copy else self.nodes

    @property
    def left_domains(self) -> int:
        """How many racks can go, likewise."""
        return max(self.domains, 0) if self.has_hot_copy else self.domains

    @property
    def is_below_target(self) -> bool:
        """Whether it survives fewer losses of nodes than it should."""
        return self.nodes < self.target

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts those first that are nearest to loss: by nodes, then by racks."""
        return self.nodes, self.domains

    def __str__(self) -> str:
        profile = self.generation.profile
        if self.nodes == LOST_MARGIN:
            words = f"{self.present} chunks are left, {profile.k} are needed"
            if self.has_hot_copy:
                return f"{self.generation}: {words}; its hot copy is here"
            return f"{self.generation}: lost, {words}"
        words = (
            f"{self.generation}: survives {_count(self.chunks, 'chunk')}, "
            f"{_count(self.nodes, 'node')}, {_count(self.domains, 'rack')}"
        )
        if not self.unknown:
            return words
        return f"{words}, if {_count(self.unknown, 'chunk')} that nobody can see now are there"


@dataclass(frozen=True, slots=True)
class MarginCounts:
    """How many segments have which margin in nodes; what status and metrics lead with.

    Attributes:
        lost: how many cannot be read whole now.
        by_margin: margin and number of segments, lowest first; from 0 to the highest target.
        below_target: how many survive fewer losses than their profile promises; lost ones too.
        uncertain: how many rest on chunks that nobody can see now.
        by_domain: the same as `by_margin` for racks; lost segments are in neither.
    """

    lost: int
    by_margin: tuple[tuple[int, int], ...]
    below_target: int
    uncertain: int
    by_domain: tuple[tuple[int, int], ...]

    @property
    def is_well(self) -> bool:
        """Whether every segment has its full margin."""
        return not self.below_target

    def as_words(self) -> dict[str, int]:
        """Return the counts under the names that status uses: lost, 0, 1, 2."""
        return {"lost": self.lost} | {str(margin): count for margin, count in self.by_margin}

    def __str__(self) -> str:
        parts = [f"{count} survive {margin}" for margin, count in self.by_margin if count]
        if self.lost:
            parts.insert(0, f"{self.lost} lost")
        return ", ".join(parts) + " more losses" if parts else "no coded segments"


MARGINS_SHOWN_MIN: Final = 2
"""Counts are shown for the margins up to this one at least, so that no name comes and goes."""


def count_margins(margins: Iterable[SegmentMargin]) -> MarginCounts:
    """Return the counts over some segments."""
    found = list(margins)
    highest = max((each.target for each in found), default=0)
    shown = range(max(highest, MARGINS_SHOWN_MIN) + 1)
    by_node = Counter(each.left for each in found)
    by_domain = Counter(each.left_domains for each in found)
    lost = by_node.pop(LOST_MARGIN, 0)
    by_domain.pop(LOST_MARGIN, None)
    domains_shown = range(max([shown[-1], *by_domain]) + 1)
    return MarginCounts(
        lost=lost,
        by_margin=tuple((margin, by_node[margin]) for margin in shown),
        below_target=sum(each.is_below_target for each in found),
        uncertain=sum(bool(each.unknown) for each in found),
        by_domain=tuple((margin, by_domain[margin]) for margin in domains_shown),
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
