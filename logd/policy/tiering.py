"""Which sealed segments are coded now, with which profile, and which hot copies may go.

A segment is coded when it is sealed, whole on disk and visible to every reader: its end is at or
below the high watermark and the synced offset. Then cold.after.ms must have passed since it was
sealed, and cold.after.bytes of newer sealed segments must lie behind it. The oldest goes first. The
active segment is never coded, nor one that has a generation already or that somebody works on.

Of a compacted topic a segment is coded when a round of compaction went through all of it. Before,
most of what would be coded is likely to go, and the next round would thaw it and code the rest.

The plan says of every segment that is not coded why not, so `segments` can show it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate
from operator import itemgetter
from typing import Final

from logd.config.topic import TopicSettings
from logd.policy.cold.preflight import Fit, NodeFacts, Refusal, chunk_bytes_max, preflight
from logd.policy.cold.proof import ReleaseTerms, release_at_ms
from logd.policy.cold.values import ColdState, Generation, Profile, SegmentKey
from logd.policy.node_health import NodeHealth
from logd.units import INT64_MAX, format_byte_count, format_duration_ms

AUTO: Final = "auto"

# From this number of nodes on, that profile.
_PROFILES: Final = (
    (10, Profile(6, 3)),
    (7, Profile(4, 3)),
    (6, Profile(4, 2)),
    (5, Profile(3, 2)),
    (4, Profile(2, 2)),
)
NODES_MIN: Final = _PROFILES[-1][0]


# --- profiles -------------------------------------------------------------------------------------


def choose_profile(
    setting: str,
    nodes: Sequence[NodeFacts],
    *,
    source_bytes: int = 0,
    index_bytes: int = 0,
    counts_dead: bool = False,
) -> Profile | str:
    """Return the profile that cold.profile means for a segment now, or why there is none.

    `auto` goes by the nodes that can take a chunk of it, as `preflight` judges: active, not dead,
    with room. One that is suspect, or that is not asked for a while, counts: within a minute it is
    back, or dead, and a node that is started again must not change how segments are coded.

    Args:
        source_bytes, index_bytes: of the segment; 0 where they are not known yet.
        counts_dead: dead nodes count too: what would be chosen when they are back.
    """
    if setting != AUTO:
        return Profile.parse(setting)
    hoped = [_when_back(node) if _may_be_back(node, counts_dead) else node for node in nodes]
    fit: Fit | Refusal | None = None
    for least, profile in _PROFILES:
        chunk_bytes = chunk_bytes_max(source_bytes, profile, index_bytes=index_bytes)
        fit = preflight(profile, hoped, chunk_bytes=chunk_bytes)
        if isinstance(fit, Fit) and len(fit.nodes) >= least:
            return profile
    if len(nodes) < NODES_MIN:
        return (
            f"cold.profile=auto codes with {NODES_MIN} storage nodes or more, there are "
            f"{len(nodes)}; add some with `logd node add`, or set cold.profile"
        )
    assert isinstance(fit, Refusal)
    return f"cold.profile=auto finds too few nodes: {fit.reason}"


def _may_be_back(node: NodeFacts, counts_dead: bool) -> bool:
    return node.is_kept_from or node.health is NodeHealth.SUSPECT or counts_dead


def _when_back(node: NodeFacts) -> NodeFacts:
    """Return a node as it will be when it answers; what is not known of it is hoped for."""
    free_bytes = INT64_MAX if node.free_bytes is None else node.free_bytes
    return replace(node, health=NodeHealth.LIVE, is_kept_from=False, free_bytes=free_bytes)


def profile_advice(profile: Profile, node_count: int) -> tuple[str, ...]:
    """Return what an operator should know about a profile on so many nodes."""
    advice = []
    if profile == Profile(4, 2):
        advice.append("4+2 survives any two losses; while repair is slow three copies survive more")
    if profile.m == 1:
        advice.append(f"{profile} survives one loss; a second before its repair loses data")
    if node_count <= profile.chunks:
        advice.append(
            f"{profile} on {node_count} nodes leaves no spare: a lost chunk waits until a node is "
            f"replaced; {profile.chunks + 1} nodes are better"
        )
    return tuple(advice)


# --- what is coded --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TieringRules:
    """A topic's settings; `force` is `logd cold encode`: everything that can be coded, now."""

    enabled: bool
    after_ms: int
    after_bytes: int
    force: bool = False


NEVER_CODED: Final = frozenset({"__consumer_offsets"})
"""Topics that a start reads itself: it must not wait for storage nodes."""


def tiering_rules(topic: TopicSettings, name: str, *, force: bool = False) -> TieringRules:
    """Return the rules of a topic with this name."""
    return TieringRules(
        enabled=topic.cold_enable and name not in NEVER_CODED,
        after_ms=topic.cold_after_ms,
        after_bytes=topic.cold_after_bytes,
        force=force,
    )


def release_terms(topic: TopicSettings) -> ReleaseTerms:
    """Return when a topic's hot copies may go."""
    return ReleaseTerms(grace_ms=topic.cold_grace_ms, hot_retention_ms=topic.cold_hot_retention_ms)


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """A hot segment, as far as tiering goes.

    Attributes:
        sealed_ms: wall-clock time of its roll, or the best that is known of it.
        retry_at_ms: after a failed attempt, when the next one may begin.
    """

    base_offset: int
    next_offset: int
    size_bytes: int
    sealed_ms: int
    is_active: bool = False
    retry_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFacts:
    """A partition's hot segments, oldest first, and what is known about them.

    Attributes:
        visible_offset: the lower of high watermark and synced offset.
        coded: base offsets that have a planned or live generation.
        leased: base offsets that somebody works on.
        topic_name: for people.
        cleaned_below: of a compacted topic, up to where rounds of compaction went; None: it is not
            compacted.
    """

    topic_id: bytes
    partition: int
    segments: Sequence[SegmentFacts]
    visible_offset: int
    topic_name: str = ""
    coded: Collection[int] = frozenset()
    leased: Collection[int] = frozenset()
    cleaned_below: int | None = None

    def key_of(self, segment: SegmentFacts) -> SegmentKey:
        """Return the name of one of its segments."""
        return SegmentKey(self.topic_id, self.partition, segment.base_offset, topic=self.topic_name)


class Wait(Enum):
    """Why a segment is not coded now."""

    DISABLED = "cold.enable is off"
    ACTIVE = "it is the active segment"
    EMPTY = "it has no records"
    NOT_VISIBLE = "not all of it is synced and visible"
    CODED = "it is coded already"
    LEASED = "it is being worked on"
    DIRTY = "it was not compacted yet"
    TOO_YOUNG = "cold.after.ms has not passed"
    KEPT_HOT = "cold.after.bytes keeps it hot"
    RETRY_LATER = "the last attempt failed"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A segment that is not coded now.

    Attributes:
        partition: it is a segment of this one.
        rest: milliseconds or bytes until it is; 0 where that cannot be told.
    """

    partition: PartitionFacts
    segment: SegmentFacts
    why: Wait
    rest: int = 0

    @property
    def key(self) -> SegmentKey:
        """The segment's name."""
        return self.partition.key_of(self.segment)

    def __str__(self) -> str:
        words = f"{self.key}: {self.why.value}"
        if self.why in (Wait.TOO_YOUNG, Wait.RETRY_LATER):
            return f"{words}, {format_duration_ms(self.rest)} are left"
        if self.why is Wait.KEPT_HOT:
            return f"{words}, until {format_byte_count(self.rest)} more are sealed"
        return words


@dataclass(frozen=True, slots=True)
class Candidate:
    """A segment that is to be coded now."""

    partition: PartitionFacts
    segment: SegmentFacts

    @property
    def key(self) -> SegmentKey:
        """The segment's name."""
        return self.partition.key_of(self.segment)

    def __str__(self) -> str:
        return f"{self.key}: code {format_byte_count(self.segment.size_bytes)}"


@dataclass(frozen=True, slots=True)
class TieringPlan:
    """What is coded now, the longest sealed first, and what waits, by segment."""

    encode: tuple[Candidate, ...]
    waiting: tuple[Waiting, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.encode, *self.waiting)))


def plan_tiering(
    partitions: Iterable[tuple[PartitionFacts, TieringRules]], *, now_ms: int
) -> TieringPlan:
    """Return what is to be coded now, of all partitions."""
    order: list[tuple[int, Candidate]] = []
    waiting: list[Waiting] = []
    for facts, rules in sorted(partitions, key=lambda each: (each[0].topic_id, each[0].partition)):
        encode, waits = _plan_partition(facts, rules, now_ms=now_ms)
        waiting += waits
        # Within a partition in the order of offsets, whatever clocks said when it was sealed.
        latest_ms = accumulate((each.segment.sealed_ms for each in encode), max)
        order += zip(latest_ms, encode, strict=True)
    order.sort(key=itemgetter(0))
    return TieringPlan(tuple(each for _, each in order), tuple(waiting))


def _plan_partition(
    facts: PartitionFacts, rules: TieringRules, *, now_ms: int
) -> tuple[list[Candidate], list[Waiting]]:
    """Return what of a partition is coded now, and what waits, both in the order of offsets."""
    encode: list[Candidate] = []
    waiting: list[Waiting] = []
    newer_bytes = 0
    for segment in reversed(facts.segments):
        why, rest = _wait(segment, facts, rules, newer_bytes=newer_bytes, now_ms=now_ms)
        if why is None:
            encode.append(Candidate(facts, segment))
        else:
            waiting.append(Waiting(facts, segment, why, rest))
        if not segment.is_active:
            newer_bytes += segment.size_bytes
    encode.reverse()
    waiting.reverse()
    return encode, waiting


def _wait(
    segment: SegmentFacts,
    facts: PartitionFacts,
    rules: TieringRules,
    *,
    newer_bytes: int,
    now_ms: int,
) -> tuple[Wait | None, int]:
    """Return why a segment is not coded now, and what is missing; None: it is."""
    if segment.is_active:
        return Wait.ACTIVE, 0
    if segment.base_offset in facts.coded:
        return Wait.CODED, 0
    if not rules.enabled:
        return Wait.DISABLED, 0
    if segment.size_bytes == 0 or segment.next_offset == segment.base_offset:
        return Wait.EMPTY, 0
    if segment.next_offset > facts.visible_offset:
        return Wait.NOT_VISIBLE, 0
    if segment.base_offset in facts.leased:
        return Wait.LEASED, 0
    if rules.force:
        return None, 0
    if facts.cleaned_below is not None and segment.next_offset > facts.cleaned_below:
        return Wait.DIRTY, 0
    if now_ms < segment.retry_at_ms:
        return Wait.RETRY_LATER, segment.retry_at_ms - now_ms
    if now_ms < segment.sealed_ms + rules.after_ms:
        return Wait.TOO_YOUNG, segment.sealed_ms + rules.after_ms - now_ms
    if newer_bytes < rules.after_bytes:
        return Wait.KEPT_HOT, rules.after_bytes - newer_bytes
    return None, 0


# --- what is released -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReleasePlan:
    """Which committed segments are to be checked now, so that their hot copies go, and when others.

    Attributes:
        check: by time since when they may be.
        later: when, per encoding; None: not on their own account.
        degraded: encodings that wait for their repair.
    """

    check: tuple[Generation, ...]
    later: Mapping[str, int | None]
    degraded: tuple[str, ...]

    @property
    def next_ms(self) -> int | None:
        """When there will be something to check; None: not before something else happens."""
        return min((at for at in self.later.values() if at is not None), default=None)

    def __str__(self) -> str:
        lines = [f"{each}: check and release" for each in self.check]
        lines += [
            f"{encoding}: held" if at is None else f"{encoding}: not before {at} ms"
            for encoding, at in self.later.items()
        ]
        lines += [f"{encoding}: degraded, not released" for encoding in self.degraded]
        return "\n".join(lines)


def plan_releases(
    generations: Iterable[tuple[Generation, ReleaseTerms]],
    *,
    live_nodes: frozenset[str],
    leased: Collection[SegmentKey],
    now_ms: int,
) -> ReleasePlan:
    """Return whose chunks are to be checked now; the check decides (`policy.cold.proof`).

    Args:
        live_nodes: the names of all that are.
    """
    due: list[tuple[int, Generation]] = []
    later: dict[str, int | None] = {}
    degraded: list[str] = []
    for generation, terms in generations:
        if generation.state is not ColdState.COMMITTED or generation.key in leased:
            continue
        at_ms = release_at_ms(generation, terms)
        if at_ms is None or now_ms < at_ms:
            later[generation.encoding] = at_ms
        elif generation.missing or not live_nodes >= set(generation.held.values()):
            degraded.append(generation.encoding)
        else:
            due.append((at_ms, generation))
    due.sort(key=lambda pair: pair[0])
    return ReleasePlan(tuple(each for _, each in due), later, tuple(degraded))
