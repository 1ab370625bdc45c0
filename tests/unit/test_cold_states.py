"""The table of moves, the proofs, what a start does, and which chunks may go."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from logd.errors import ColdStateError
from logd.policy.cold.coverage import Coverage
from logd.policy.cold.leases import Leases, Work
from logd.policy.cold.proof import (
    CHECK_AGE_MAX_MS,
    ChunkCheck,
    HotCopy,
    Proof,
    ReleaseCheck,
    ReleaseTerms,
    commit_refusal,
    drop_refusal,
    release_at_ms,
    release_refusal,
    thaw_refusal,
)
from logd.policy.cold.removal import (
    ChunkName,
    Fate,
    chunks_to_remove,
    judge_chunk,
    stale_catalog_refusal,
)
from logd.policy.cold.states import (
    TRANSITIONS,
    ColdEvent,
    StartAction,
    format_transitions,
    is_allowed,
    on_start,
    step,
)
from logd.policy.cold.values import (
    LIVE,
    REMOVABLE,
    ColdState,
    Generation,
    Gone,
    Placement,
    Profile,
    SegmentKey,
)

ALLOWED = {
    ("hot", "plan"): "planned",
    ("hot", "start"): "hot",
    ("planned", "commit"): "committed",
    ("planned", "abort"): "aborted",
    ("planned", "delete"): "aborted",
    ("planned", "start"): "aborted",
    ("committed", "release"): "released",
    ("committed", "supersede"): "superseded",
    ("committed", "delete"): "deleting",
    ("committed", "start"): "committed",
    ("released", "thaw"): "committed",
    ("released", "supersede"): "superseded",
    ("released", "delete"): "deleting",
    ("released", "start"): "released",
    ("superseded", "delete"): "deleting",
    ("superseded", "start"): "superseded",
    ("aborted", "forget"): "gone",
    ("aborted", "start"): "aborted",
    ("deleting", "forget"): "gone",
    ("deleting", "start"): "deleting",
    ("gone", "start"): "gone",
}
KEY = SegmentKey(b"t" * 16, 0, 0)
TERMS = ReleaseTerms(grace_ms=100, hot_retention_ms=50)


def generation(state: ColdState = ColdState.COMMITTED, **changes: object) -> Generation:
    """Return a 2+1 generation on nodes a, b and c, changed at 1000 ms."""
    made = Generation(
        key=KEY, number=3, encoding="e" * 32, profile=Profile(2, 1), next_offset=10,
        source_bytes=1000, state=state, changed_ms=1000,
        placements=(Placement(0, "a"), Placement(1, "b"), Placement(2, "c")),
    )  # fmt: skip
    return replace(made, **changes)


CHECKS = (ChunkCheck(0, "a", True), ChunkCheck(1, "b", True), ChunkCheck(2, "c", True))
PROOF = Proof(CHECKS, decoded_without=1, decode_is_equal=True)
CHECK = ReleaseCheck(checks=CHECKS, began_ms=1150, ended_ms=1160)


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "event"), list(product(ColdState, ColdEvent)))
def test_each_state_and_event(state: ColdState, event: ColdEvent) -> None:
    """Each pair does what the list above says, or is refused in words that name both."""
    target = ALLOWED.get((state.value, event.value))
    assert is_allowed(state, event) == (target is not None)
    if target is None:
        with pytest.raises(ColdStateError, match=f"{state.value} cannot {event.value}"):
            step(state, event)
    else:
        assert step(state, event).target.value == target


def test_every_state_can_end() -> None:
    """From each state some events lead to GONE, and a start never loses a live segment."""
    for state in ColdState:
        reached = {state}
        while True:
            more = {row.target for row in TRANSITIONS if row.state in reached} - reached
            if not more:
                break
            reached |= more
        assert state is ColdState.GONE or ColdState.GONE in reached
        after = step(state, ColdEvent.START).target
        assert after is state or (state, after) == (ColdState.PLANNED, ColdState.ABORTED)
    assert not LIVE & REMOVABLE


def test_only_a_proved_commit_or_thaw_makes_a_segment_live() -> None:
    """Each way into COMMITTED or RELEASED has a guard, and so has each way out of SUPERSEDED."""
    for row in TRANSITIONS:
        if row.event is ColdEvent.START:
            continue
        if row.target in LIVE or row.state is ColdState.SUPERSEDED:
            assert row.guard, row


def test_the_documentation_shows_the_table() -> None:
    """docs/formats/catalog.md has the table as it is."""
    page = Path(__file__).parents[2] / "docs" / "formats" / "catalog.md"
    assert format_transitions() in page.read_text()


@pytest.mark.parametrize(
    ("state", "has_hot_log", "action"),
    [
        (ColdState.HOT, True, StartAction.NOTHING),
        (ColdState.PLANNED, True, StartAction.ABORT),
        (ColdState.PLANNED, False, StartAction.ABORT),
        (ColdState.COMMITTED, True, StartAction.NOTHING),
        (ColdState.COMMITTED, False, StartAction.SAY_HOT_IS_MISSING),
        (ColdState.RELEASED, True, StartAction.REMOVE_HOT),
        (ColdState.RELEASED, False, StartAction.NOTHING),
        (ColdState.SUPERSEDED, True, StartAction.LOOK_AT_SUCCESSORS),
        (ColdState.SUPERSEDED, False, StartAction.LOOK_AT_SUCCESSORS),
        (ColdState.ABORTED, True, StartAction.REMOVE_CHUNKS),
        (ColdState.DELETING, False, StartAction.REMOVE_CHUNKS),
    ],
)
def test_what_a_start_does(state: ColdState, has_hot_log: bool, action: StartAction) -> None:
    """Each state has one thing to do, whether its hot file is there or not."""
    assert on_start(generation(state), has_hot_log=has_hot_log) is action


# --- proofs ---------------------------------------------------------------------------------------


def test_a_proved_generation_commits() -> None:
    """All chunks right where they are placed, and the decode of the chunk whose turn it is."""
    assert commit_refusal(generation(), PROOF) is None


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        (replace(PROOF, decoded_without=0), "to be tried is 1"),
        (replace(PROOF, decode_is_equal=False), "is not the source"),
        (replace(PROOF, checks=()), "0 of 3 chunks were found right, not: 0 on a, 1 on b, 2 on c"),
        (replace(PROOF, checks=CHECKS[:2]), "2 of 3 chunks were found right, not: 2 on c"),
        (replace(PROOF, checks=(*CHECKS[:2], ChunkCheck(2, "c", False))), "not: 2 on c"),
        (replace(PROOF, checks=(*CHECKS[:2], ChunkCheck(2, "d", True))), "not: 2 on c"),
        (replace(PROOF, checks=(*CHECKS[:2], ChunkCheck(3, "c", True))), "not: 2 on c"),
    ],
)
def test_what_is_not_proved_does_not_commit(proof: Proof, said: str) -> None:
    """Each thing that is missing is said."""
    refusal = commit_refusal(generation(), proof)
    assert refusal is not None
    assert said in refusal


def test_a_generation_with_too_few_places_is_never_proved() -> None:
    """A set that lost a chunk neither commits nor releases, whatever was checked."""
    degraded = generation(
        placements=(Placement(0, "a"), Placement(1, "b"), Placement(2, "c", True))
    )
    assert "2 of 3 chunks have a place" in str(commit_refusal(degraded, PROOF))
    assert "2 of 3 chunks have a place" in str(release_refusal(degraded, CHECK, TERMS, now_ms=1160))


@pytest.mark.parametrize(
    ("check", "now_ms", "said"),
    [
        (CHECK, 1160, None),
        (CHECK, 1160 + CHECK_AGE_MAX_MS, None),
        (CHECK, 1161 + CHECK_AGE_MAX_MS, "ended 1m1ms ago"),
        (CHECK, 1149, "grace time ends in 1ms"),
        (replace(CHECK, began_ms=1149), 1160, "between the end of the grace time and now"),
        (replace(CHECK, ended_ms=1161), 1160, "between the end of the grace time and now"),
        (replace(CHECK, began_ms=1160, ended_ms=1159), 1160, "between the end"),
        (replace(CHECK, nodes_not_live=("b",)), 1160, "not all its nodes are live: b"),
        (replace(CHECK, checks=CHECKS[1:]), 1160, "2 of 3 chunks were found right"),
    ],
)
def test_when_a_hot_copy_may_go(check: ReleaseCheck, now_ms: int, said: str | None) -> None:
    """After grace and retention, all checked within this minute, all nodes live."""
    refusal = release_refusal(generation(), check, TERMS, now_ms=now_ms)
    assert (refusal is None) if said is None else (said in str(refusal))


def test_a_thawed_segment_stays_until_its_time() -> None:
    """Without cold.hot.retention.ms for good, with it for so long; grace plays no part."""
    held = generation(is_held=True)
    never = ReleaseTerms(grace_ms=100, hot_retention_ms=0)
    assert release_at_ms(held, never) is None
    assert "held" in str(release_refusal(held, CHECK, never, now_ms=10**15))
    assert release_at_ms(held, TERMS) == 1050
    assert release_at_ms(generation(), never) == 1100


@pytest.mark.parametrize(
    ("copy", "said"),
    [
        (HotCopy(1000, True, True), None),
        (HotCopy(999, True, True), "999 bytes were written, the segment has 1000"),
        (HotCopy(1000, False, True), "not verified"),
        (HotCopy(1000, True, False), "not synced"),
    ],
)
def test_what_a_thawed_copy_must_be(copy: HotCopy, said: str | None) -> None:
    """Whole, verified and synced."""
    refusal = thaw_refusal(generation(), copy)
    assert (refusal is None) if said is None else (said in str(refusal))


def test_what_is_superseded_stays_until_its_successors_are_proved_again() -> None:
    """Without a hot file its chunks are a copy like the hot one; with one they are not needed."""
    old = generation(ColdState.SUPERSEDED)
    new = replace(generation(ColdState.RELEASED), number=4, encoding="f" * 32)
    first = replace(new, next_offset=6)
    last = replace(new, key=SegmentKey(b"t" * 16, 0, 6), encoding="d" * 32)
    for others, said in (
        ([new], None),
        ([first, last], None),
        ([last, first, old], None),
        ([replace(new, state=ColdState.COMMITTED)], "not proved again"),
        ([first, replace(last, state=ColdState.COMMITTED)], "not proved again"),
        ([first], "not all its offsets"),
        ([last], "not all its offsets"),
        ([], "not all its offsets"),
        ([replace(new, state=ColdState.PLANNED)], "not all its offsets"),
        ([replace(new, key=SegmentKey(b"t" * 16, 1, 0))], "not all its offsets"),
    ):
        refusal = drop_refusal(old, others, has_hot_log=False)
        assert (refusal is None) if said is None else (said in str(refusal)), others
        assert drop_refusal(old, others, has_hot_log=True) is None


# --- chunks ---------------------------------------------------------------------------------------

CHUNK = ChunkName(KEY, 3, "e" * 32, 0, "a")


@pytest.mark.parametrize(
    ("state", "fate", "elsewhere"),
    [
        (ColdState.PLANNED, Fate.KEEP, Fate.QUARANTINE),
        (ColdState.COMMITTED, Fate.KEEP, Fate.TRIM),
        (ColdState.RELEASED, Fate.KEEP, Fate.TRIM),
        (ColdState.SUPERSEDED, Fate.KEEP, Fate.KEEP),
        (ColdState.ABORTED, Fate.REMOVE, Fate.REMOVE),
        (ColdState.DELETING, Fate.REMOVE, Fate.REMOVE),
    ],
)
def test_the_fate_of_a_chunk(state: ColdState, fate: Fate, elsewhere: Fate) -> None:
    """In its place chunks of generations on their way out go, others stay; copies elsewhere too."""
    records = {"e" * 32: generation(state)}
    assert judge_chunk(CHUNK, records).fate is fate
    assert judge_chunk(replace(CHUNK, node="z"), records).fate is elsewhere


def test_what_no_record_explains_is_put_aside() -> None:
    """An unknown encoding, another number, another segment."""
    records = {"e" * 32: generation(ColdState.DELETING)}
    for stranger in (
        replace(CHUNK, encoding="d" * 32),
        replace(CHUNK, number=2),
        replace(CHUNK, key=SegmentKey(b"t" * 16, 0, 1)),
    ):
        assert judge_chunk(stranger, records).fate is Fate.QUARANTINE
        assert judge_chunk(stranger, {}).fate is Fate.QUARANTINE


def test_what_is_left_of_a_generation_that_is_gone_is_removed() -> None:
    """Where it is remembered under the chunk's segment and number, and has no record any more."""
    gone = Gone(CHUNK.key, CHUNK.number)
    assert judge_chunk(CHUNK, {}, gone).fate is Fate.REMOVE
    assert judge_chunk(replace(CHUNK, number=2), {}, gone).fate is Fate.QUARANTINE
    assert judge_chunk(CHUNK, {"e" * 32: generation()}, gone).fate is Fate.KEEP


def test_a_copy_that_moved_is_removed_from_where_it_was() -> None:
    """And only that one."""
    moved = generation(
        placements=(
            Placement(0, "a", True),
            Placement(0, "z"),
            Placement(1, "b"),
            Placement(2, "c"),
        )
    )
    records = {"e" * 32: moved}
    assert judge_chunk(CHUNK, records).fate is Fate.REMOVE
    assert judge_chunk(replace(CHUNK, node="z"), records).fate is Fate.KEEP
    assert chunks_to_remove([moved]) == (CHUNK,)
    assert len(chunks_to_remove([replace(moved, state=ColdState.ABORTED)])) == 4


def test_an_old_catalog_is_found_out() -> None:
    """By any node that has seen a later one; equal or earlier is as it should be."""
    assert stale_catalog_refusal(5, {"a": 5, "b": 0}) is None
    assert stale_catalog_refusal(5, {}) is None
    said = stale_catalog_refusal(5, {"a": 5, "c": 7, "b": 6})
    assert said is not None
    assert "sequence is 5, b saw 6, c saw 7" in said


# --- leases and coverage --------------------------------------------------------------------------


def test_leases_exclude_each_other() -> None:
    """Whatever the work; several segments are leased together or not at all."""
    leases = Leases()
    one, two, three = (SegmentKey(b"t" * 16, 0, base) for base in (0, 10, 20))
    for first, second in product(Work, Work):
        lease = leases.take(first, [one, two])
        assert lease is not None
        assert leases.take(second, [two, three]) is None
        assert leases.work_on(two) is first
        assert (three in leases, one in leases, len(leases), list(leases)) == (
            False, True, 1, [lease],
        )  # fmt: skip
        other = leases.take(second, [three])
        assert other is not None
        leases.give_back(other)
        leases.give_back(lease)
        with pytest.raises((AssertionError, KeyError)):
            leases.give_back(lease)
        assert leases.work_on(two) is None


def test_each_offset_is_found_in_its_generation() -> None:
    """Between, before and behind there is none; what is not live does not count."""
    low = generation(next_offset=10)
    high = generation(ColdState.RELEASED, key=SegmentKey(b"t" * 16, 0, 20), next_offset=30)
    planned = generation(ColdState.PLANNED, key=SegmentKey(b"t" * 16, 0, 10), next_offset=20)
    coverage = Coverage([high, planned, low])
    found = {offset: coverage.find(offset) for offset in (0, 9, 10, 19, 20, 29, 30)}
    assert found == {0: low, 9: low, 10: None, 19: None, 20: high, 29: high, 30: None}
    assert coverage.generations == (low, high)
    assert Coverage().find(0) is None
