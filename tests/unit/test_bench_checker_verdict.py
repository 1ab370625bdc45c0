"""The checker's judge finds every kind of broken promise that is planted in a journal, and no
other."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.checker.journal import (
    UNKNOWN_OFFSET,
    JournalError,
    JournalWriter,
    Killed,
    ReaderError,
    Ready,
    Seen,
    Sent,
    Settled,
    Stalled,
    Watermark,
    read_journals,
)
from bench.checker.payload import digest_of, key_of, value_of
from bench.checker.verdict import judge

PRODUCERS = ("p0.0", "p1.0")
READERS = ("tail0", "final-1", "final-2", "final-3")
PER_PRODUCER = 10
MS = 1_000_000


def digest(key):
    return digest_of(key.encode(), value_of(key))


def healthy():
    """A journal of two partitions, two producers in turn, one attempt of unknown end in the log."""
    events = [Killed(5), Ready(0.3, 6)]
    for partition in range(2):
        for offset in range(PER_PRODUCER * len(PRODUCERS)):
            producer, sequence = PRODUCERS[offset % 2], offset // 2
            key = key_of("run", producer, partition, sequence)
            at = offset * MS
            events.append(Sent(key, producer, partition, sequence, digest(key), at))
            outcome = "info" if offset == 7 else "ok"
            place = UNKNOWN_OFFSET if offset == 7 else offset
            events.append(Settled(key, outcome, place, at + MS // 2))
            events += [Seen(r, partition, offset, key, digest(key), at + MS) for r in READERS]
            events.append(Watermark("tail0", partition, offset + 1, at + MS))
    key = key_of("run", "p0.0", 0, 99)  # an attempt of unknown end that is not in the log
    events.append(Sent(key, "p0.0", 0, 99, digest(key), 10**12))
    return events


def kinds(events, **limits):
    """The kinds of finding in a judged journal."""
    return set(judge(events, **limits).counts())


def is_seen(event, offset, *, readers=READERS, partition=0):
    return (
        isinstance(event, Seen)
        and event.reader in readers
        and (event.partition, event.offset) == (partition, offset)
    )


def without(events, offset, **where):
    return [event for event in events if not is_seen(event, offset, **where)]


def changed(events, offset, change, **where):
    return [change(e) if is_seen(e, offset, **where) else e for e in events]


def swapped(events, first, second):
    """The records at two offsets of partition 0 change places, for every reader."""
    by_offset = {e.offset: e for e in events if is_seen(e, first) or is_seen(e, second)}

    def other(event):
        source = by_offset[second if event.offset == first else first]
        return replace(event, key=source.key, digest=source.digest)

    return changed(changed(events, first, other), second, other)


def test_a_healthy_run_is_valid() -> None:
    """Nothing is found where nothing is wrong, and the numbers are told."""
    verdict = judge(healthy(), acks_min=30)
    assert verdict.findings == ()
    assert verdict.is_valid
    assert (verdict.sent, verdict.acknowledged, verdict.unknown) == (41, 38, 3)
    assert (verdict.unknown_but_present, verdict.records, verdict.kills) == (2, 40, 1)
    assert verdict.slowest_start_s == 0.3


def test_lost_at_the_end() -> None:
    """An acknowledged last record that no reader finds is lost."""
    assert kinds(without(healthy(), 19)) == {"lost", "unseen"}


def test_lost_in_the_middle() -> None:
    """An acknowledged record that is missing leaves a gap, too."""
    events = without(healthy(), 4)
    assert kinds(events) == {"lost", "gap", "poll-order", "unseen"}


def test_lost_after_it_was_shown() -> None:
    """A record that the following consumer saw and the final readings do not: lost and unstable."""
    events = without(healthy(), 19, readers=READERS[1:])
    assert kinds(events) == {"lost", "unstable"}


def test_an_unknown_attempt_may_be_absent() -> None:
    """An attempt that nobody acknowledged may be missing at the end of the log."""
    events = [e for e in healthy() if not isinstance(e, Settled) or e.offset != 19]
    assert kinds(without(without(events, 19), 19, partition=1)) == set()


def test_duplicate() -> None:
    """A record that is in the log twice is found, whether it was acknowledged or not."""
    for offset in (16, 7):  # 16 is acknowledged, 7 of unknown end
        source = next(e for e in healthy() if is_seen(e, offset))
        again = [replace(source, reader=reader, offset=20) for reader in READERS]
        assert kinds([*healthy(), *again]) == {"duplicate", "reordered"} | (
            {"moved"} if offset == 16 else set()
        )


def test_duplicate_at_once() -> None:
    """A copy right behind the original is found, too: retried, and stored again."""
    last = next(e for e in healthy() if is_seen(e, 19))
    again = [replace(last, reader=reader, offset=20) for reader in READERS]
    assert kinds([*healthy(), *again]) == {"duplicate", "moved"}


def test_reordered() -> None:
    """Two records of one producer that changed places are found."""
    assert kinds(swapped(healthy(), 8, 10)) == {"reordered", "moved"}


def test_reordered_without_known_offsets() -> None:
    """Order is judged by sequence: it does not need the acknowledged offsets."""
    events = [
        replace(e, offset=UNKNOWN_OFFSET) if isinstance(e, Settled) else e
        for e in swapped(healthy(), 8, 10)
    ]
    assert kinds(events) == {"reordered"}


def test_realtime_order() -> None:
    """Acknowledged before another producer sent, and yet behind it: found."""
    events = swapped(healthy(), 8, 13)
    place = {e.key: e.offset for e in events if is_seen(e, 8) or is_seen(e, 13)}
    events = [
        replace(e, offset=place[e.key]) if isinstance(e, Settled) and e.key in place else e
        for e in events
    ]
    assert "realtime-order" in kinds(events)
    assert "moved" not in kinds(events)


def test_phantom() -> None:
    """A record that nobody sent is found."""
    extra = [Seen(reader, 0, 20, "run/p9.0/0/0", "00", 10**12) for reader in READERS]
    assert kinds([*healthy(), *extra]) == {"phantom"}


def test_phantom_in_another_partition() -> None:
    """A record that was sent to another partition is found."""
    key = key_of("run", "p0.0", 0, 99)
    extra = [Seen(reader, 1, 20, key, digest(key), 10**12) for reader in READERS]
    assert kinds([*healthy(), *extra]) == {"phantom"}


def test_corrupt() -> None:
    """A record with other bytes than were sent is found."""
    events = changed(healthy(), 3, lambda e: replace(e, digest="beef"))
    assert kinds(events) == {"corrupt"}


def test_moved() -> None:
    """A record at another offset than was acknowledged is found."""
    events = [
        replace(e, offset=21) if isinstance(e, Settled) and e.offset == 19 else e for e in healthy()
    ]
    assert kinds(events) == {"moved"}


def test_one_offset_for_two() -> None:
    """An offset that was acknowledged for two records is found."""
    events = [
        replace(e, offset=18) if isinstance(e, Settled) and e.offset == 19 else e for e in healthy()
    ]
    assert "two-at-one" in kinds(events)


def test_unstable() -> None:
    """A consumer was shown another record than lies there now: found."""
    key = key_of("run", "p0.0", 0, 99)
    events = changed(
        healthy(), 7, lambda e: replace(e, key=key, digest=digest(key)), readers=("tail0",)
    )
    assert kinds(events) == {"unstable"}


def test_poll_order_again() -> None:
    """A consumer that is shown an offset twice is found."""
    again = next(e for e in healthy() if is_seen(e, 19, readers=("tail0",)))
    assert kinds([*healthy(), again]) == {"poll-order"}


def test_poll_order_skipped() -> None:
    """A consumer that is never shown a record in the middle is found."""
    events = without(healthy(), 11, readers=("tail0",))
    assert kinds(events) == {"poll-order", "unseen"}


def test_passes_differ() -> None:
    """A later reading that lacks a record, or has another one, is found."""
    assert kinds(without(healthy(), 19, readers=("final-3",))) == {"passes-differ"}
    events = changed(healthy(), 5, lambda e: replace(e, digest="beef"), readers=("final-2",))
    assert kinds(events) == {"passes-differ"}


def test_watermark_fell() -> None:
    """A high watermark that goes back is found."""
    assert kinds([*healthy(), Watermark("tail0", 1, 3, 10**12)]) == {"watermark-fell"}


def test_reader_error() -> None:
    """An error that a reader was given is a finding."""
    assert kinds([*healthy(), ReaderError("tail0", "out of range", 1)]) == {"reader-error"}


def test_stalled() -> None:
    """A server that is ready and acknowledges nothing is a finding: safety alone is not enough."""
    assert kinds([*healthy(), Stalled("p0", 30.0, 1)]) == {"stalled"}


@pytest.mark.parametrize(
    ("drop", "limits"),
    [
        (lambda e: isinstance(e, Killed), {}),
        (lambda e: isinstance(e, Seen) and e.reader.startswith("final"), {}),
        (lambda _: False, {"acks_min": 1000}),
        (lambda _: False, {"kills_min": 2}),
        (lambda _: True, {}),
    ],
    ids=["no kill", "no final reading", "too few acknowledgements", "too few kills", "nothing"],
)
def test_a_run_that_proves_nothing(drop, limits) -> None:
    """Without kills, acknowledgements or a final reading the run fails: it is no pass."""
    verdict = judge([e for e in healthy() if not drop(e)], **limits)
    assert verdict.is_harness_failure
    assert not verdict.is_valid


def test_no_acknowledgement_is_no_pass() -> None:
    """A server that never acknowledges breaks no promise, and proves none."""
    verdict = judge([e for e in healthy() if not isinstance(e, Settled)])
    assert verdict.is_harness_failure


@given(st.integers(min_value=0, max_value=2**32))
def test_any_lost_record_is_found(seed) -> None:
    """Whichever acknowledged record is taken out of the log: it is found lost, and by its key."""
    source = random.Random(seed)
    events = healthy()
    victim = source.choice([e for e in events if isinstance(e, Settled) and e.outcome == "ok"])
    kept = [e for e in events if not (isinstance(e, Seen) and e.key == victim.key)]
    lost = [finding for finding in judge(kept).findings if finding.kind == "lost"]
    assert len(lost) == 1
    assert victim.key in lost[0].detail


def test_events_may_come_in_any_order() -> None:
    """Only the order within one reader counts: journals are read file by file."""
    events = healthy()
    seen = [e for e in events if isinstance(e, Seen | Watermark)]
    rest = [e for e in events if not isinstance(e, Seen | Watermark)]
    random.Random(1).shuffle(rest)
    assert judge([*seen, *rest]).is_valid


def test_journals_round_trip(tmp_path) -> None:
    """Every kind of event reads back as it was written."""
    events = [*healthy(), ReaderError("tail0", "é", 1), Stalled("p0", 30.0, 1)]
    writer = JournalWriter(tmp_path / "a.jsonl")
    for event in events:
        writer.write(event)
    writer.close()
    assert list(read_journals([tmp_path / "a.jsonl"])) == events


@pytest.mark.parametrize("line", ['{"t": "sent", "ke', "[]", '{"t": "other"}', '{"t": "killed"}'])
def test_a_cut_journal_is_an_error(tmp_path, line) -> None:
    """A line that is no event is an error with its place: a cut journal must not look healthy."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"t": "killed", "at_ns": 1}\n' + line)
    with pytest.raises(JournalError, match=r"a\.jsonl:2"):
        list(read_journals([path]))


def test_payloads_can_be_made_again() -> None:
    """A key's value is always the same, differs from other keys', and its digest covers both."""
    assert value_of("a") == value_of("a") != value_of("b")
    assert digest_of(b"ab", b"c") != digest_of(b"a", b"bc")
