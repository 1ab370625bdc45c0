"""Which live generation holds an offset: what readers, listings and retention ask the catalog.

Immutable, made anew when the catalog changes, so a reader that holds one is never surprised. Of one
partition, live generations do not overlap (the catalog sees to it), so each offset has at most one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise

from logd.policy.cold.values import LIVE, Generation


class Coverage:
    """The live generations of one partition, in the order of their offsets.

    Attributes:
        generations: COMMITTED and RELEASED ones.
    """

    __slots__ = ("_bases", "generations")

    def __init__(self, generations: Iterable[Generation] = ()) -> None:
        live = [each for each in generations if each.state in LIVE]
        live.sort(key=lambda each: each.key)
        self.generations = tuple(live)
        self._bases = [each.key.base_offset for each in live]
        assert len({(each.key.topic_id, each.key.partition) for each in live}) <= 1
        assert not any(a.overlaps(b) for a, b in pairwise(live))

    def with_changes(self, gone: Iterable[Generation], come: Iterable[Generation]) -> Coverage:
        """Return the coverage after some generations changed; cheap, however many there are.

        Args:
            gone: as they were; those that were not live do not matter.
            come: as they are now, likewise.
        """
        changed = Coverage()
        generations, bases = list(self.generations), list(self._bases)
        for each in gone:
            if each.state in LIVE:
                at = bisect_right(bases, each.key.base_offset) - 1
                assert at >= 0
                assert generations[at].encoding == each.encoding
                del generations[at], bases[at]
        for each in come:
            if each.state in LIVE:
                at = bisect_right(bases, each.key.base_offset)
                assert not any(
                    each.overlaps(other) for other in generations[max(at - 1, 0) : at + 1]
                )
                generations.insert(at, each)
                bases.insert(at, each.key.base_offset)
        changed.generations, changed._bases = tuple(generations), bases
        return changed

    def find(self, offset: int) -> Generation | None:
        """Return the generation that holds an offset; None: it is hot only, or nowhere."""
        at = bisect_right(self._bases, offset) - 1
        if at >= 0 and offset < self.generations[at].next_offset:
            return self.generations[at]
        return None
