"""Which chunks may be removed, which stay, and which are put aside: only records decide.

What is missing from the catalog proves nothing: an old catalog, a node that was away, a name from
another cluster look the same. So a chunk is removed only where a record says that its generation,
or this copy of it, is to go. What no record explains is moved to quarantine, where people decide.

A copy of a live generation's chunk on a node that has not its place is neither: what was cut short
between the chunk and its record leaves one. It may go while the one in the recorded place is good.
When its segment is deleted before anybody saw it, it is a chunk of a generation that is gone: the
catalog remembers those, so it goes, too, and so does what an old disk brings back of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from logd.policy.cold.values import (
    LIVE,
    REMOVABLE,
    ColdState,
    Generation,
    Gone,
    Placement,
    SegmentKey,
)


@dataclass(frozen=True, slots=True, order=True)
class ChunkName:
    """A chunk as its file name tells it, with the node it was seen on."""

    key: SegmentKey
    number: int
    encoding: str
    index: int
    node: str


class Fate(Enum):
    """What becomes of a chunk that a node has; TRIM: it goes if the one in its place is good."""

    KEEP = "keep"
    REMOVE = "remove"
    TRIM = "trim"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A fate, and the record that it follows from."""

    fate: Fate
    reason: str


def judge_chunk(
    chunk: ChunkName, records: Mapping[str, Generation], gone: Gone | None = None
) -> Judgement:
    """Return what becomes of a chunk.

    Args:
        records: all generations of the catalog, by encoding, read after the chunk was seen: one
            that is being written has its record first.
        gone: what is remembered of its encoding, where that has no record any more.
    """
    record = records.get(chunk.encoding)
    if record is None:
        if gone == Gone(chunk.key, chunk.number):
            return Judgement(Fate.REMOVE, "its generation was removed")
        return Judgement(Fate.QUARANTINE, "no record names its encoding")
    if (record.key, record.number) != (chunk.key, chunk.number):
        return Judgement(Fate.QUARANTINE, f"its encoding is recorded as {record}")
    if record.state in REMOVABLE:
        return Judgement(Fate.REMOVE, f"its generation is {record.state.value}")
    assert record.state in LIVE | {ColdState.PLANNED, ColdState.SUPERSEDED}
    if Placement(chunk.index, chunk.node) in record.placements:
        return Judgement(Fate.KEEP, f"its generation is {record.state.value}")
    if Placement(chunk.index, chunk.node, is_leaving=True) in record.placements:
        return Judgement(Fate.REMOVE, "its place is recorded elsewhere")
    if record.state in LIVE and chunk.index in record.held:
        return Judgement(Fate.TRIM, f"{record.held[chunk.index]} has its place")
    if record.state is ColdState.SUPERSEDED:
        return Judgement(Fate.KEEP, "it goes with its generation, which is superseded")
    return Judgement(Fate.QUARANTINE, "no record says that it is on this node")


def chunks_to_remove(generations: Iterable[Generation]) -> tuple[ChunkName, ...]:
    """Return all chunks that are to go, as recorded; each until its node has acknowledged it."""
    return tuple(
        ChunkName(each.key, each.number, each.encoding, at.index, at.node)
        for each in generations
        for at in each.placements
        if at.is_leaving or each.state in REMOVABLE
    )


def stale_catalog_refusal(sequence: int, seen: Mapping[str, int]) -> str | None:
    """Return why a catalog is not to be used; None: no node has seen a later one.

    Args:
        sequence: the catalog's.
        seen: per node, the highest sequence in its identity file.
    """
    later = sorted(node for node, number in seen.items() if number > sequence)
    if not later:
        return None
    words = ", ".join(f"{node} saw {seen[node]}" for node in later)
    return (
        f"the catalog is an old copy: its sequence is {sequence}, {words}; chunks may have moved "
        "or gone since. Make it again from the chunks (--rebuild-catalog)"
    )
