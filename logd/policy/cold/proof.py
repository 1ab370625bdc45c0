"""What must be shown before a segment's copies may be trusted, or given up.

Each function returns the reason why not, in words, or None. The catalog asks them inside the
transaction that records the move, with the placements of that moment: a chunk that was moved or
lost between the check and the record makes the check worthless, and is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from logd.policy.cold.values import LIVE, ColdState, Generation
from logd.units import MINUTE_MS, format_duration_ms

CHECK_AGE_MAX_MS: Final = MINUTE_MS
"""A check that ended longer ago says nothing about this moment."""


@dataclass(frozen=True, slots=True)
class ChunkCheck:
    """What reading one chunk from its node's device showed.

    Attributes:
        is_right: every block has its checksum, and the chunk is the manifest's.
    """

    index: int
    node: str
    is_right: bool


@dataclass(frozen=True, slots=True)
class Proof:
    """What was shown of a generation before it is committed.

    Attributes:
        decoded_without: the data chunk that was computed from others.
        decode_is_equal: it was the source's, byte for byte.
    """

    checks: tuple[ChunkCheck, ...]
    decoded_without: int
    decode_is_equal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseCheck:
    """What was shown of a generation before its hot copy goes.

    Attributes:
        began_ms, ended_ms: wall-clock times of the check.
        nodes_not_live: of its placements, the nodes that are not live now.
    """

    checks: tuple[ChunkCheck, ...]
    began_ms: int
    ended_ms: int
    nodes_not_live: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseTerms:
    """A topic's cold.grace.ms and cold.hot.retention.ms."""

    grace_ms: int
    hot_retention_ms: int


@dataclass(frozen=True, slots=True)
class HotCopy:
    """What a thaw wrote."""

    size_bytes: int
    is_verified: bool
    is_synced: bool


def data_chunk_to_decode(generation: Generation) -> int:
    """Return the data chunk whose loss the proof tries out: a different one each generation."""
    return generation.number % generation.profile.k


def commit_refusal(generation: Generation, proof: Proof) -> str | None:
    """Return why a generation is not to be committed; None: it is proved."""
    expected = data_chunk_to_decode(generation)
    if proof.decoded_without != expected:
        return f"decoded without chunk {proof.decoded_without}, to be tried is {expected}"
    if not proof.decode_is_equal:
        return f"decoded without data chunk {expected} it is not the source"
    return _checks_refusal(generation, proof.checks)


def release_at_ms(generation: Generation, terms: ReleaseTerms) -> int | None:
    """Return from when on the hot copy may go; None: not on its own account.

    Of a thawed segment it stays until people ask for coding again, or for cold.hot.retention.ms
    where that is not 0.
    """
    if generation.is_held:
        held_ms = terms.hot_retention_ms
        return generation.changed_ms + held_ms if held_ms else None
    return generation.changed_ms + terms.grace_ms + terms.hot_retention_ms


def release_refusal(
    generation: Generation, check: ReleaseCheck, terms: ReleaseTerms, *, now_ms: int
) -> str | None:
    """Return why the hot copy is not to go; None: it may, if this is recorded now."""
    at_ms = release_at_ms(generation, terms)
    if at_ms is None:
        return "it was thawed, and is held until it is coded again"
    if now_ms < at_ms:
        return f"its grace time ends in {format_duration_ms(at_ms - now_ms)}"
    if not at_ms <= check.began_ms <= check.ended_ms <= now_ms:
        return "the check did not fall between the end of the grace time and now"
    if now_ms - check.ended_ms > CHECK_AGE_MAX_MS:
        return f"the check ended {format_duration_ms(now_ms - check.ended_ms)} ago"
    if check.nodes_not_live:
        return f"not all its nodes are live: {', '.join(check.nodes_not_live)}"
    return _checks_refusal(generation, check.checks)


def is_hold_inherited(generation: Generation, superseded: Iterable[Generation]) -> bool:
    """Return whether a successor is held hot because something of what it follows was.

    Coding anew by itself, for a repair or a compaction, is not what people ask for with
    `logd cold encode`: what they thawed stays hot.
    """
    first, end = generation.key.base_offset, generation.next_offset
    return any(
        old.is_held and old.key.base_offset < end and first < old.next_offset for old in superseded
    )


def thaw_refusal(generation: Generation, copy: HotCopy) -> str | None:
    """Return why a hot copy is not to be relied on; None: it is as good as the segment was."""
    if copy.size_bytes != generation.source_bytes:
        return f"{copy.size_bytes} bytes were written, the segment has {generation.source_bytes}"
    if not copy.is_verified:
        return "the hot copy was not verified"
    return None if copy.is_synced else "the hot copy is not synced"


def drop_refusal(
    generation: Generation, others: Sequence[Generation], *, has_hot_log: bool
) -> str | None:
    """Return why the chunks of a superseded generation must stay; None: they may go.

    While there is no hot file they are the only copy besides its successors'. So these have to pass
    the check of a release first, as if the old chunks were the hot file.
    """
    assert generation.state is ColdState.SUPERSEDED
    if has_hot_log:
        return None
    for other in others:
        if other.state is ColdState.COMMITTED and other.overlaps(generation):
            return f"generation {other.number} at {other.key.base_offset} is not proved again yet"
    covered = [other for other in others if other.state in LIVE and other.overlaps(generation)]
    if not _cover(generation, covered):
        return "not all its offsets are in generations that follow it"
    return None


def _cover(generation: Generation, others: Sequence[Generation]) -> bool:
    at = generation.key.base_offset
    for other in sorted(others, key=lambda each: each.key.base_offset):
        if other.key.base_offset > at:
            return False
        at = max(at, other.next_offset)
    return at >= generation.next_offset


def _checks_refusal(generation: Generation, checks: Sequence[ChunkCheck]) -> str | None:
    """Return what the checks lack of "each of the k+m chunks, where it is now, is right"."""
    chunks, held = generation.profile.chunks, generation.held
    if generation.missing:
        return f"{len(held)} of {chunks} chunks have a place"
    right = {check.index: check.node for check in checks if check.is_right}
    wrong = sorted(index for index, node in held.items() if right.get(index) != node)
    if wrong:
        words = ", ".join(f"{index} on {held[index]}" for index in wrong)
        return f"{chunks - len(wrong)} of {chunks} chunks were found right, not: {words}"
    return None
