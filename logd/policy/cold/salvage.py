"""Which encoding gives which offsets, when there are chunks and nothing else.

No catalog says which encodings count. So, per partition: those of which every byte can be had come
first, the highest generation before lower ones; then those of which only a part is left. Each is
asked only for offsets that none before it gave. So no offset comes twice, and never is a batch put
together from two encodings.

A segment that was deleted, or replaced by another encoding, and whose chunks still lie somewhere,
comes back too: without a catalog nobody can tell, and too much is better than too little.

Offsets are ranges with an end that is not in them. All functions are pure; the plan does not depend
on the order in which chunks were found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

NO_CHUNK: Final = "no chunk that was found has them"


@dataclass(frozen=True, slots=True, order=True)
class Offsets:
    """The offsets `first` to `next_offset`, which is not in it."""

    first: int
    next_offset: int

    def __post_init__(self) -> None:
        assert 0 <= self.first <= self.next_offset

    @property
    def count(self) -> int:
        """How many there are."""
        return self.next_offset - self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSet:
    """What is left of one encoding of one segment.

    Attributes:
        offsets: the segment's, as its manifest says.
        number, encoding: of the encoding.
        chunks: how many different chunks there are, damaged ones too.
        good: how many of them are whole.
        k, m: of its profile.
        source_bytes: length of the segment.
        recoverable_bytes: how much of it can be had.
        manifest: digest of its manifest, which tells encodings with one uuid apart.
    """

    offsets: Offsets
    number: int
    encoding: str
    chunks: int
    good: int
    k: int
    m: int
    source_bytes: int
    recoverable_bytes: int
    manifest: str

    def __post_init__(self) -> None:
        assert self.good <= self.chunks <= self.k + self.m
        assert self.recoverable_bytes <= self.source_bytes

    @property
    def is_whole(self) -> bool:
        """Whether every byte can be had."""
        return self.recoverable_bytes == self.source_bytes

    def __str__(self) -> str:
        here = f"{self.good} whole" if self.good == self.chunks else (
            f"{self.good} whole and {self.chunks - self.good} damaged"
        )  # fmt: skip
        return (
            f"generation {self.number} of the segment at {self.offsets.first} ({self.encoding[:8]})"
            f" has {here} of its {self.k}+{self.m} chunks"
        )


@dataclass(frozen=True, slots=True)
class Missing:
    """Offsets that nothing gives, and why."""

    offsets: Offsets
    reason: str


def order_sets(sets: Iterable[FoundSet]) -> tuple[FoundSet, ...]:
    """Return the encodings of one partition in the order in which they are asked."""
    return tuple(sorted(sets, key=_rank))


def _rank(each: FoundSet) -> tuple[object, ...]:
    left = 0 if each.is_whole else each.recoverable_bytes
    return (
        not each.is_whole, -each.number, -left, -each.good,
        each.offsets.first, each.encoding, each.manifest,
    )  # fmt: skip


def subtract(wanted: Offsets, taken: Iterable[Offsets]) -> tuple[Offsets, ...]:
    """Return what of `wanted` lies in none of `taken`, in order."""
    rest: list[Offsets] = []
    first = wanted.first
    for each in sorted(taken):
        if not each.count or each.next_offset <= first or each.first >= wanted.next_offset:
            continue
        if each.first > first:
            rest.append(Offsets(first, each.first))
        first = max(first, each.next_offset)
    if first < wanted.next_offset:
        rest.append(Offsets(first, wanted.next_offset))
    assert all(one.count > 0 for one in rest)
    return tuple(rest)


def find_missing(sets: Sequence[FoundSet], taken: Sequence[Offsets]) -> tuple[Missing, ...]:
    """Return every gap between the first and the last offset that any encoding had, with a reason.

    Where several encodings had an offset, the reason names the one that was asked first.
    """
    if not sets:
        return ()
    first = min(each.offsets.first for each in sets)
    last = max(each.offsets.next_offset for each in sets)
    missing: list[Missing] = []
    for gap in subtract(Offsets(first, last), taken):
        missing += _explain(gap, order_sets(sets))
    return tuple(sorted(missing, key=lambda one: one.offsets))


def _explain(gap: Offsets, sets: Sequence[FoundSet]) -> list[Missing]:
    """Return a gap in parts, each with the reason of the first encoding that had it."""
    rest = [gap]
    missing: list[Missing] = []
    for each in sets:
        after: list[Offsets] = []
        for part in rest:
            outside = subtract(part, [each.offsets])
            missing += [Missing(inside, _why(each)) for inside in subtract(part, outside)]
            after += outside
        rest = after
    return missing + [Missing(part, NO_CHUNK) for part in rest]


def _why(each: FoundSet) -> str:
    if each.is_whole:
        return f"{each}, but what was coded there are no batches of these offsets"
    return str(each)
