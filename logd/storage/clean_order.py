"""What a round of compaction is told, and what it tells: the whole of both, as JSON.

The round runs in an interpreter of its own (`cleaner`): it gets a `CleanOrder`, writes segments
beside the log, and gives back a `CleanResult`. Only the log's writer makes them part of the log
(`swap`). Neither of the two needs anything else to understand the other.

JSON objects have the names of the attributes; a group is a list of segments, a segment a list of
numbers in the order of its attributes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeVar

from logd.units import DAY_MS, INT64_MAX, KIB, MIB

KEY_MAP_BYTES: Final = 128 * MIB
BATCH_MEMORY_BYTES: Final = 40 * MIB

ProgressCall = Callable[["Progress"], None]
PaceCall = Callable[[int], None]
"""Is told of bytes that were just read or written, and waits as long as the budget says."""

T = TypeVar("T")


class SourceSegment(NamedTuple):
    """A sealed segment that the round reads.

    Attributes:
        end_offset: the next segment's base offset.
    """

    base_offset: int
    end_offset: int
    log_bytes: int


class NewSegment(NamedTuple):
    """A segment that the round wrote: its three files are on the device, under other names."""

    base_offset: int
    log_bytes: int
    index_bytes: int
    time_index_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanLimits:
    """What a round may take, and how long tombstones stay.

    Attributes:
        delete_retention_ms: counts from the first round that meets a tombstone.
        key_map_bytes: the round ends early where its keys need more.
        batch_memory_bytes: a batch that needs more, decompressed, is refused.
        io_bytes_per_s: the budget of reading and writing; 0: none. `pace` keeps it.
        reserve_bytes: so much space must stay free on the device.
    """

    delete_retention_ms: int = DAY_MS
    key_map_bytes: int = KEY_MAP_BYTES
    batch_memory_bytes: int = BATCH_MEMORY_BYTES
    io_bytes_per_s: int = 0
    reserve_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanOrder:
    """A round of one log.

    Attributes:
        name: the partition, for messages.
        attempt: part of the new files' names; no earlier round in this directory had it.
        groups: all segments from the log's first one up to `end_offset`, in order; a group becomes
            one segment (or none, or several where one cannot hold it).
        first_dirty_offset: from here on the keys are looked at, and the last of each is kept.
        end_offset: up to here; it is a segment's end, and not above the high watermark.
        producer_last_offsets: the last offset of each live producer id; the batches that end there
            are kept, be it without records.
        now_ms: the wall clock, for delete horizons.
        keeps_groups: some of the log is in chunks: of each group at least the last batch's header
            stays, so that there is a segment whose chunks speak for the group's offsets.
        part: the groups that are copied, from and up to an index; None: all of them. The others are
            read where they are in the dirty tail, for their keys. Needs `keeps_groups`.
    """

    name: str
    directory: str
    attempt: int
    groups: tuple[tuple[SourceSegment, ...], ...]
    first_dirty_offset: int
    end_offset: int
    producer_last_offsets: tuple[int, ...] = ()
    now_ms: int
    keeps_groups: bool = False
    part: tuple[int, int] | None = None
    segment_index_bytes: int = 10 * MIB
    index_interval_bytes: int = 4 * KIB
    limits: CleanLimits = field(default_factory=CleanLimits)

    def __post_init__(self) -> None:
        """Refuse what no plan can be."""
        segments = self.segments
        if not segments or self.attempt < 0 or not all(self.groups):
            raise ValueError("an order names segments and an attempt")
        if any(a.end_offset != b.base_offset for a, b in pairwise(segments)):
            raise ValueError("the segments do not follow each other")
        if not segments[0].base_offset <= self.first_dirty_offset <= self.end_offset:
            raise ValueError(f"first dirty offset {self.first_dirty_offset} lies outside")
        if self.end_offset != segments[-1].end_offset or self.end_offset > INT64_MAX:
            raise ValueError(f"end offset {self.end_offset} is not the last segment's")
        first, end = self.part or (0, len(self.groups))
        is_all = first == 0 and end == len(self.groups)
        if not (0 <= first < end <= len(self.groups) and (is_all or self.keeps_groups)):
            raise ValueError(f"{self.part} of {len(self.groups)} groups cannot be done alone")

    @property
    def copied_groups(self) -> tuple[tuple[SourceSegment, ...], ...]:
        """The groups that the round copies."""
        first, end = self.part or (0, len(self.groups))
        return self.groups[first:end]

    @property
    def segments(self) -> tuple[SourceSegment, ...]:
        """All segments that the round reads, in order."""
        return tuple(segment for group in self.groups for segment in group)

    @property
    def source_bytes(self) -> int:
        """Bytes of the copied ones' .log files: what the new ones need at most, horizons apart."""
        return sum(segment.log_bytes for group in self.copied_groups for segment in group)

    def to_json(self) -> str:
        """Return the order as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> CleanOrder:
        """Return the order in a line of JSON.

        Raises:
            ValueError: it is none.
        """
        return _decode(text, cls._from_fields)

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> CleanOrder:
        groups = tuple(tuple(SourceSegment(*item) for item in group) for group in fields["groups"])
        part = fields["part"]
        return cls(
            **{
                **fields,
                "groups": groups,
                "producer_last_offsets": tuple(fields["producer_last_offsets"]),
                "part": None if part is None else (int(part[0]), int(part[1])),
                "limits": CleanLimits(**fields["limits"]),
            }
        )


@dataclass(frozen=True, slots=True)
class CleanedGroup:
    """Segments, and what takes their place: none where no record is left."""

    old_bases: tuple[int, ...]
    new: tuple[NewSegment, ...]


class Totals(NamedTuple):
    """What the segments of a round hold."""

    segments: int
    records: int
    log_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanResult:
    """What a round wrote.

    Attributes:
        attempt: the order's.
        groups: the segments to be replaced; the order's, except for those that no record left and
            no neighbour joined: they stay as they are.
        before, after: of the segments that the round went through; all, if all keys fitted.
        first_uncleaned_offset: the next round's first dirty offset.
        next_horizon_ms: the earliest delete horizon below; None if no tombstone is left.
        fitted: whether all keys fitted the map. If not, another round goes on at
            `first_uncleaned_offset`.
        read_bytes, written_bytes: what it cost.
        keys: distinct keys in the map.
    """

    attempt: int
    groups: tuple[CleanedGroup, ...]
    before: Totals
    after: Totals
    first_uncleaned_offset: int
    next_horizon_ms: int | None
    fitted: bool
    read_bytes: int
    written_bytes: int
    keys: int

    def to_json(self) -> str:
        """Return the result as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> CleanResult:
        """Return the result in a line of JSON.

        Raises:
            ValueError: it is none.
        """
        return _decode(text, cls._from_fields)

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> CleanResult:
        groups = tuple(
            CleanedGroup(
                tuple(group["old_bases"]), tuple(NewSegment(*item) for item in group["new"])
            )
            for group in fields["groups"]
        )
        totals = {name: Totals(*fields[name]) for name in ("before", "after")}
        return cls(**{**fields, **totals, "groups": groups})


class Progress(NamedTuple):
    """How far a round is.

    Attributes:
        phase: "keys" (reading the dirty tail) or "copy" (writing what stays); where some of the log
            is in chunks, "thaw" before (reading it from them) and "encode" behind. Where the round
            is done in parts, "part from" and "part to" first: which share of it follows.
        done_bytes, all_bytes: of the phase, in source bytes.
    """

    phase: str
    done_bytes: int
    all_bytes: int


def _decode(text: str, build: Callable[[dict[str, Any]], T]) -> T:
    try:
        return build(json.loads(text))
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"no order or result of a compaction: {error}") from error
