"""Which groups of a planned round are done at a time, where segments are in chunks: pure decisions.

A round takes all of a log: what it makes obsolete may lie anywhere. But what is released has to be
thawed for it, and whatever is coded is kept from repair and release meanwhile. So the round is done
in parts, each under a stated limit, from the log's first segment on:

    clean  clean  clean  clean  clean │ dirty  dirty  dirty
    └─ part 1 ──┘ └─ part 2 ──┘ └───────── part 3 ────────┘
                                        └── their keys are read for each part

Only the last part makes the dirty tail a clean one, so it alone moves the first dirty offset; and
a tombstone gets its delete horizon there, when all that it deletes is gone. Where the tail itself
is beyond half of the limit it is cut: the rest of it is another round's.

At least one group is taken, however large. Where nothing is coded there is one part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from logd.policy.compaction import SegmentFacts

Group = Sequence[SegmentFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedBytes:
    """What of a log is in chunks.

    Attributes:
        coded: bytes by base offset, of all that have live encodings.
        released: of those that have to be thawed; all are in `coded`.
    """

    coded: Mapping[int, int]
    released: Mapping[int, int]

    def coded_in(self, group: Group) -> int:
        """Return the bytes of a group that are in chunks."""
        return sum(self.coded.get(segment.base_offset, 0) for segment in group)

    def released_in(self, group: Group) -> int:
        """Return the bytes of a group that are in chunks only."""
        return sum(self.released.get(segment.base_offset, 0) for segment in group)

    def space_of(self, group: Group) -> int:
        """Return the most that doing a group takes: it is thawed, and written once more."""
        released = self.released_in(group)
        return released + sum(segment.size_bytes for segment in group) if released else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLimits:
    """How much a part may take.

    Attributes:
        coded_bytes_max: log.cleaner.coded.max.bytes.
        space_bytes: what may be written to the disk now; less than nothing counts as nothing.
    """

    coded_bytes_max: int
    space_bytes: int


@dataclass(frozen=True, slots=True)
class Part:
    """What is done now.

    Attributes:
        first, end: the groups that are copied, as indexes.
        groups_end: groups from here on are left for another round.
        is_last: the dirty tail is among them, so the round is over behind it.
        thaw_bytes: of them, and of the tail.
    """

    first: int
    end: int
    groups_end: int
    is_last: bool
    thaw_bytes: int

    def __post_init__(self) -> None:
        assert 0 <= self.first < self.end <= self.groups_end
        assert not self.is_last or self.end == self.groups_end


def plan_part(
    groups: Sequence[Group],
    found: CodedBytes,
    limits: PartLimits,
    *,
    first_dirty_offset: int,
    done_offset: int = 0,
    keeps_tail: bool = False,
) -> Part:
    """Return the part of a round that is done now.

    Args:
        groups: all that the round takes; `done_offset` lies in none of them.
        first_dirty_offset: from here on keys are read.
        done_offset: below it earlier parts have been.
        keeps_tail: parts have gone by the keys of all of the tail: it is not cut any more.
    """
    assert groups
    count = len(groups)
    dirty = (at for at, each in enumerate(groups) if each[-1].end_offset > first_dirty_offset)
    tail = next(dirty, count)
    left = (at for at, each in enumerate(groups) if each[0].base_offset >= done_offset)
    first = min(next(left, count - 1), tail)
    coded_max, space_max = limits.coded_bytes_max, max(0, limits.space_bytes)
    groups_end = count
    if tail < count and not keeps_tail:
        groups_end, _ = _taken(groups, found, tail, count, (coded_max // 2, space_max // 2))
    tails = groups[tail:groups_end]
    tail_coded, tail_space = sum(map(found.coded_in, tails)), sum(map(found.space_of, tails))
    rest = max(0, coded_max - tail_coded), max(0, space_max - tail_space)
    end, is_all = _taken(groups, found, first, tail, rest) if first < tail else (tail, True)
    if is_all:
        end = groups_end
    thawed = sum(map(found.released_in, (*groups[first : min(end, tail)], *tails)))
    return Part(first, end, groups_end, is_all, thawed)


def _taken(
    groups: Sequence[Group], found: CodedBytes, first: int, end: int, most: tuple[int, int]
) -> tuple[int, bool]:
    """Return up to where groups are taken, at least one, and whether all of them fit."""
    assert first < end
    coded = space = 0
    for at in range(first, end):
        coded += found.coded_in(groups[at])
        space += found.space_of(groups[at])
        if coded > most[0] or space > most[1]:
            taken = max(at, first + 1)
            return taken, taken == end
    return end, True


def cut_groups(groups: Iterable[Group], *offsets: int) -> tuple[tuple[SegmentFacts, ...], ...]:
    """Return the groups, those divided in which one of some offsets lies."""
    found: list[tuple[SegmentFacts, ...]] = []
    for group in groups:
        places = [0, *_cuts(group, offsets), len(group)]
        found += [tuple(group[begin:end]) for begin, end in pairwise(places)]
    return tuple(found)


def _cuts(group: Group, offsets: Collection[int]) -> list[int]:
    return [at for at, each in enumerate(group) if at and each.base_offset in offsets]
