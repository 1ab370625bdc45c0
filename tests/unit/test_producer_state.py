"""storage.producer_state: the rules for idempotent producers, rollback, snapshots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logd.errors import (
    CorruptFileError,
    DuplicateSequenceError,
    InvalidProducerEpochError,
    OutOfOrderSequenceError,
    RequestError,
)
from logd.record.batch import BatchHeader
from logd.storage.producer_state import (
    BATCHES_KEPT,
    REFUSED_KEPT,
    ProducerBatch,
    ProducerEntry,
    ProducerSnapshot,
    ProducerStates,
    decode_snapshot,
    encode_snapshot,
)
from logd.units import INT32_MAX


def header(
    sequence: int, count: int = 1, *, epoch: int = 0, producer_id: int = 9, offset: int = 0
) -> BatchHeader:
    return BatchHeader(
        base_offset=offset, length=100, leader_epoch=0, magic=2, crc=0, attributes=0,
        last_offset_delta=count - 1, base_timestamp=50, max_timestamp=60,
        producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence, count=count,
    )  # fmt: skip


class Writer:
    """Assigns offsets as a log does."""

    def __init__(self) -> None:
        self.states = ProducerStates()
        self.end_offset = 0

    def stage(self, batch: BatchHeader) -> None:
        assert self.states.check(batch) is None
        self.end_offset += batch.count
        self.states.stage(batch, last_offset=self.end_offset - 1, timestamp_ms=1000)

    def append(self, batch: BatchHeader) -> None:
        self.stage(batch)
        self.states.publish(self.end_offset)


def test_batches_must_follow_each_other() -> None:
    """A gap is refused; the next batch in order is accepted."""
    writer = Writer()
    writer.append(header(0, 3))
    with pytest.raises(OutOfOrderSequenceError):
        writer.states.check(header(4))
    writer.append(header(3))


def test_any_of_the_last_five_is_recognised_as_a_duplicate() -> None:
    """The answer is the original's first offset; a sixth is too old, part of one never fits."""
    writer = Writer()
    for number in range(6):
        writer.append(header(2 * number, 2))
    for number in range(1, 6):
        duplicate = writer.states.check(header(2 * number, 2))
        assert duplicate is not None
        assert (duplicate.base_offset, duplicate.last_offset) == (2 * number, 2 * number + 1)
    with pytest.raises(DuplicateSequenceError):
        writer.states.check(header(0, 2))
    with pytest.raises(OutOfOrderSequenceError):
        writer.states.check(header(10, 1))


def test_sequences_wrap() -> None:
    """After 2^31 - 1 comes 0, also in the middle of a batch; duplicates over the wrap are found."""
    writer = Writer()
    writer.append(header(INT32_MAX - 1, 4))  # INT32_MAX - 1, INT32_MAX, 0, 1
    duplicate = writer.states.check(header(INT32_MAX - 1, 4))
    assert duplicate is not None
    assert duplicate.base_offset == 0
    writer.append(header(2))
    with pytest.raises(OutOfOrderSequenceError):
        writer.states.check(header(4))


def test_epochs_fence() -> None:
    """An older epoch is refused for good; a newer one begins at sequence 0."""
    writer = Writer()
    writer.append(header(0, 2, epoch=3))
    with pytest.raises(InvalidProducerEpochError):
        writer.states.check(header(2, epoch=2))
    with pytest.raises(OutOfOrderSequenceError):
        writer.states.check(header(2, epoch=4))
    writer.append(header(0, epoch=4))
    with pytest.raises(InvalidProducerEpochError):
        writer.states.check(header(2, epoch=3))


def test_an_unknown_producer_may_begin_anywhere() -> None:
    """It may have been forgotten: its sequence is taken as it is."""
    writer = Writer()
    writer.append(header(77))
    writer.append(header(78))


def test_staged_batches_count_and_rollback_forgets_them() -> None:
    """Several may be staged; what was not written leaves no trace, so a retry is no duplicate."""
    writer = Writer()
    writer.append(header(0))
    for sequence in (1, 2, 3):
        writer.stage(header(sequence))
    assert writer.states.check(header(2)) is not None
    writer.states.publish(2)  # Sequence 1 is written, 2 and 3 are not.
    writer.states.rollback()
    assert writer.states.check(header(1)) is not None
    assert writer.states.check(header(2)) is None
    with pytest.raises(OutOfOrderSequenceError):
        writer.states.check(header(3))
    assert writer.states.entries()[0].last_sequence == 1


def test_what_was_sent_behind_a_refused_first_batch_does_not_come_before_it() -> None:
    """Else the first one, sent again, would pass for a copy of what is written, and be lost."""
    writer = Writer()
    writer.stage(header(0))
    writer.stage(header(1))
    writer.states.rollback()
    for sequence in (1, 2):
        with pytest.raises(OutOfOrderSequenceError):
            writer.states.check(header(sequence))
    writer.append(header(0))
    writer.append(header(1))
    writer.states.note_refused(header(5, epoch=4, producer_id=7))
    writer.states.note_refused(header(6, epoch=4, producer_id=7))
    with pytest.raises(OutOfOrderSequenceError):
        writer.states.check(header(6, epoch=4, producer_id=7))
    assert writer.states.check(header(5, epoch=4, producer_id=7)) is None
    assert writer.states.check(header(0, epoch=5, producer_id=7)) is None


def test_refused_batches_are_remembered_of_a_bounded_number_of_producers() -> None:
    """Whoever makes up producers while the disk is full costs no more than that."""
    states = ProducerStates()
    for producer_id in range(REFUSED_KEPT + 1):
        states.note_refused(header(0, producer_id=producer_id))
    assert states.check(header(1, producer_id=0)) is None, "the oldest is forgotten"
    with pytest.raises(OutOfOrderSequenceError):
        states.check(header(1, producer_id=1))


def test_a_snapshot_holds_what_is_written_only() -> None:
    """Copies are not touched by what comes later."""
    writer = Writer()
    writer.append(header(0))
    copy = writer.states.copy_written()
    writer.stage(header(1))
    assert writer.states.copy_written() == copy
    writer.states.publish(2)
    assert len(copy[9].batches) == 1


def test_producers_expire_by_their_last_append() -> None:
    """Expired ones are forgotten, those with a batch on the way are not."""
    writer = Writer()
    writer.append(header(0))
    writer.append(header(0, producer_id=10))
    writer.stage(header(1, producer_id=10))
    assert writer.states.expire(1999, 1000) == 0
    assert writer.states.expire(2000, 1000) == 1
    assert [entry.producer_id for entry in writer.states.entries()] == [10]
    assert writer.states.check(header(50)) is None


def test_replay_from_the_log_equals_appending() -> None:
    """Walking batches again, some of them twice, gives the state that appending gave."""
    writer = Writer()
    replayed = ProducerStates()
    offset = 0
    for number in range(9):
        batch = header(2 * number, 2, offset=offset)
        writer.append(batch)
        replayed.replay(batch)
        replayed.replay(header(0, 2, offset=0))
        offset += 2
    expected = [batch._replace(timestamp_ms=0) for batch in writer.states.copy_written()[9].batches]
    actual = [batch._replace(timestamp_ms=0) for batch in replayed.copy_written()[9].batches]
    assert actual == expected
    assert len(actual) == BATCHES_KEPT


_BATCHES = st.builds(
    ProducerBatch,
    st.integers(0, INT32_MAX),
    st.integers(0, INT32_MAX),
    st.integers(0, 2**62),
    st.integers(-1, 2**62),
)
_ENTRIES = st.builds(
    ProducerEntry,
    st.integers(0, 2**15 - 1),
    st.lists(_BATCHES, min_size=1, max_size=BATCHES_KEPT).map(tuple),
)
_SNAPSHOTS = st.builds(
    ProducerSnapshot,
    st.just(5),
    st.integers(0, 2**31),
    st.integers(5, 2**62),
    st.integers(-1, 2**62),
    st.integers(0, 2**62),
    st.dictionaries(st.integers(0, 2**62), _ENTRIES, max_size=5),
)


@given(_SNAPSHOTS)
def test_snapshots_round_trip(snapshot: ProducerSnapshot) -> None:
    """Every batch of every producer comes back; every shorter payload is refused."""
    payload = encode_snapshot(snapshot)
    assert decode_snapshot("p", payload) == snapshot
    for size in range(0, len(payload), max(1, len(payload) // 20)):
        with pytest.raises(CorruptFileError):
            decode_snapshot("p", payload[:size])
    with pytest.raises(CorruptFileError):
        decode_snapshot("p", payload + b"x")


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 3), st.integers(0, 2)), max_size=40))
def test_what_is_accepted_is_gapless(batches: list[tuple[int, int, int]]) -> None:
    """Whatever is sent, the accepted batches of an epoch follow each other without a gap."""
    writer = Writer()
    last: tuple[int, int] | None = None
    for sequence, count, epoch in batches:
        batch = header(sequence, count, epoch=epoch)
        try:
            if writer.states.check(batch) is not None:
                continue
        except RequestError:
            continue  # Refused, so not in the log.
        if last is not None:
            assert sequence == (last[1] + 1 if epoch == last[0] else 0)
            assert epoch >= last[0]
        writer.append(batch)
        last = (epoch, sequence + count - 1)
