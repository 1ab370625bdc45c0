"""The catalog's cold part, made again from what lies on storage nodes.

Chunks say by themselves which segment, generation and encoding they belong to, and carry the
manifest of all. So, per offset range: the highest generation of which at least k chunks on
different nodes are verified is COMMITTED, or RELEASED where no hot file has all its offsets.
Everything else goes to quarantine with a reason, for people to decide: nothing is deleted here.

* Chunks are one set only if number, encoding and manifest are the same, byte for byte: of two
  encodings with one number, never a chunk of both.
* What compaction made of several segments has a higher number than any of them had, so its chunks
  win over theirs where both are there. They do not where it never happened: the segments that it
  was to replace are still here, and begin in the middle of it. Nor does anything come back that
  lies in the middle of a hot file.
* Of unknown topics, and wholly below the log start offset, nothing comes back: it was deleted.
* Where a chunk lies on several nodes, places are given so that most chunks have one.

What is lost with a catalog are moves that were under way: an encoding that had written enough comes
back, though it was not committed; its hot file is still there, and is released only by the usual
proof. A node that does not answer is left out: rebuild again when it does, before people empty any
quarantine.

The plan does not depend on the order in which chunks were found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from logd.policy.cold.removal import ChunkName
from logd.policy.cold.values import ColdState, Generation, Placement, Profile, SegmentKey

_NO_MANIFEST: Final = "its manifest cannot be read, and no other chunk of its encoding has one"


@dataclass(frozen=True, slots=True)
class ManifestFacts:
    """What a chunk's manifest says, and its bytes."""

    profile: Profile
    next_offset: int
    source_bytes: int
    min_timestamp_ms: int
    max_timestamp_ms: int
    data: bytes


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A chunk that was found on a node.

    Attributes:
        manifest: None if it cannot be read, or is not that of the chunk's name.
        is_verified: every byte of it was read from the device and is right.
    """

    name: ChunkName
    manifest: ManifestFacts | None
    is_verified: bool

    def __post_init__(self) -> None:
        assert self.manifest is not None or not self.is_verified


@dataclass(frozen=True, slots=True)
class KnownPartition:
    """A partition of a topic that exists.

    Attributes:
        log_start_offset: as it is kept durably.
        hot: (base offset, next offset) of the hot files of segments that have chunks.
        hot_bases: base offsets of all hot files.
    """

    log_start_offset: int
    hot: tuple[tuple[int, int], ...] = ()
    hot_bases: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class SetAside:
    """A chunk that goes to quarantine."""

    name: ChunkName
    reason: str


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """What the catalog is to hold; `ColdCatalog.restore` takes it.

    Attributes:
        generations: each with the bytes of its manifest, by segment.
        numbers: the highest number that a chunk of each segment had, quarantined ones too: the next
            encoding gets a higher one.
        quarantine: all other chunks.
        sequence: higher than any that a node has seen.
    """

    generations: tuple[tuple[Generation, bytes], ...]
    numbers: tuple[tuple[SegmentKey, int], ...]
    quarantine: tuple[SetAside, ...]
    sequence: int

    def __str__(self) -> str:
        lines = [
            f"{each}: {len(each.held)} of {each.profile.chunks} chunks"
            for each, _ in self.generations
        ]
        lines += [
            f"quarantine chunk {each.name.index} on {each.name.node} of {each.name.key}, "
            f"generation {each.name.number}: {each.reason}"
            for each in self.quarantine
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Set:
    """Chunks that agree on number, encoding and manifest."""

    key: SegmentKey
    number: int
    encoding: str
    facts: ManifestFacts
    good: tuple[ChunkName, ...]
    damaged: tuple[ChunkName, ...]

    @property
    def rank(self) -> tuple[object, ...]:
        """Sorts the set that is to be preferred first."""
        different = len({name.index for name in self.good})
        return (-self.number, -different, self.key, self.encoding, self.facts.data)


def plan_rebuild(
    chunks: Iterable[FoundChunk],
    partitions: Mapping[tuple[bytes, int], KnownPartition],
    *,
    sequences_seen: Iterable[int] = (),
) -> RebuildPlan:
    """Return the catalog's rows, and what goes to quarantine.

    Args:
        chunks: all that were found; a name at most once.
        partitions: all of topics that exist, by topic id and number.
        sequences_seen: the highest of each node.
    """
    chunks = tuple(chunks)
    aside: list[SetAside] = []
    accepted: dict[tuple[bytes, int], list[Generation]] = {}
    manifests: dict[str, bytes] = {}
    for each in sorted(_sets(chunks, aside), key=lambda one: one.rank):
        partition = (each.key.topic_id, each.key.partition)
        others = accepted.setdefault(partition, [])
        if each.encoding in manifests:
            made: Generation | str = "another set of chunks has its encoding's id"
        else:
            made = _generation(each, partitions.get(partition), others)
        if isinstance(made, str):
            aside += [SetAside(name, made) for name in (*each.good, *each.damaged)]
            continue
        others.append(made)
        manifests[made.encoding] = each.facts.data
        aside += _spare(each, made)
    found = sorted((one for many in accepted.values() for one in many), key=lambda one: one.key)
    return RebuildPlan(
        tuple((one, manifests[one.encoding]) for one in found),
        _highest_numbers(chunks, partitions),
        tuple(sorted(aside)),
        max(sequences_seen, default=0) + 1,
    )


def _highest_numbers(
    chunks: Iterable[FoundChunk], partitions: Mapping[tuple[bytes, int], KnownPartition]
) -> tuple[tuple[SegmentKey, int], ...]:
    highest: dict[SegmentKey, int] = {}
    for chunk in chunks:
        key = chunk.name.key
        if (key.topic_id, key.partition) in partitions:
            highest[key] = max(highest.get(key, 0), chunk.name.number)
    return tuple(sorted(highest.items()))


def _sets(chunks: Iterable[FoundChunk], aside: list[SetAside]) -> list[_Set]:
    """Return the sets of chunks that belong together; what belongs to none is put aside."""
    by_name: dict[tuple[SegmentKey, int, str], list[FoundChunk]] = {}
    for chunk in chunks:
        name = chunk.name
        by_name.setdefault((name.key, name.number, name.encoding), []).append(chunk)
    sets = []
    for (key, number, encoding), several in by_name.items():
        # More than one if somebody gave out a uuid twice; then each is a set of its own.
        manifests = {each.manifest for each in several if each.manifest is not None}
        unread = tuple(each.name for each in several if each.manifest is None)
        if len(manifests) != 1:
            aside += [SetAside(name, _NO_MANIFEST) for name in unread]
            unread = ()
        for facts in manifests:
            same = [each for each in several if each.manifest == facts]
            good = tuple(each.name for each in same if each.is_verified)
            bad = tuple(each.name for each in same if not each.is_verified)
            sets.append(_Set(key, number, encoding, facts, good, bad + unread))
    return sets


def _generation(
    found: _Set, partition: KnownPartition | None, others: Sequence[Generation]
) -> Generation | str:
    """Return what the catalog records of a set, or why nothing."""
    facts, k = found.facts, found.facts.profile.k
    if partition is None:
        return "its topic, or partition, is not known"
    if facts.next_offset <= partition.log_start_offset:
        return f"it is below the log start offset {partition.log_start_offset}"
    places = _match(found.good, {}, facts.profile)
    if len(places) < k:
        return f"{len(places)} chunks of it are whole on different nodes, needed are {k}"
    places = _match(found.damaged, places, facts.profile)
    begin = found.key.base_offset
    inside = [base for base in partition.hot_bases if begin < base < facts.next_offset]
    if inside:
        return f"a hot segment begins at offset {inside[0]}, in the middle of it: it never was one"
    around = [base for base, end in partition.hot if base < begin < end]
    if around:
        return f"the hot segment at offset {around[0]} has its offsets"
    hot = any(
        base == found.key.base_offset and end >= facts.next_offset for base, end in partition.hot
    )
    made = Generation(
        key=found.key,
        number=found.number,
        encoding=found.encoding,
        profile=facts.profile,
        next_offset=facts.next_offset,
        source_bytes=facts.source_bytes,
        min_timestamp_ms=facts.min_timestamp_ms,
        max_timestamp_ms=facts.max_timestamp_ms,
        state=ColdState.COMMITTED if hot else ColdState.RELEASED,
        placements=tuple(Placement(index, places[index]) for index in sorted(places)),
    )
    for other in others:
        if other.overlaps(made):
            return f"generation {other.number} at {other.key.base_offset} has its offsets"
    return made


def _match(
    names: Sequence[ChunkName], places: Mapping[int, str], profile: Profile
) -> dict[int, str]:
    """Give as many further chunks a place as can be: index to node, a node once.

    Places that are given already stay as they are. Among the new ones a chunk gives way to another
    if it can lie elsewhere (augmenting paths: Kuhn 1955).
    """
    nodes_of: dict[int, list[str]] = {}
    for name in sorted(names):
        if name.index < profile.chunks:
            nodes_of.setdefault(name.index, []).append(name.node)
    index_on = {node: index for index, node in places.items()}
    fixed = frozenset(index_on)

    def settle(index: int, seen: set[str]) -> bool:
        for node in nodes_of[index]:
            if node in seen or node in fixed:
                continue
            seen.add(node)
            if node not in index_on or settle(index_on[node], seen):
                index_on[node] = index
                return True
        return False

    for index in sorted(nodes_of):
        if index not in places:
            settle(index, set())
    return {index: node for node, index in index_on.items()}


def _spare(found: _Set, made: Generation) -> list[SetAside]:
    """Return the chunks of a set that got no place."""
    placed = set(made.held.items())
    aside = []
    for name in (*found.good, *found.damaged):
        if (name.index, name.node) not in placed:
            known = name.index < made.profile.chunks
            reason = "another copy has its place" if known else "its generation has no such chunk"
            aside.append(SetAside(name, reason))
    return aside
