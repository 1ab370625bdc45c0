"""What idempotent producers appended last: refuses gaps, recognises repetitions.

For each producer id, the last five batches: sequence numbers, offsets, timestamp. A batch must
follow the last one (sequence numbers wrap from 2^31 - 1 to 0); a repetition of one of the five is
answered with the original's offset; anything else is refused. An older epoch is fenced; a newer one
begins at sequence 0. A producer that is not known may begin anywhere: it may have been forgotten.
Unless the disk has just refused a batch of it: what it sent behind that one must not come first, or
the refused one, sent again, would pass for a copy of something long written.

Two layers, because appends are staged before they are written, and several may be staged at a time:

* `_written`: the state of what is in the file. Changed only by `publish` after the write succeeded.
* `_staged`: the newest state of producers with batches on the way; asked first. `rollback` drops
  it.

Entries are immutable and replaced, so that a copy of the dict is a snapshot.

Concurrency: all methods run on the event loop; `WrittenProducers` values go to threads.

Snapshot file `<20-digit offset>.producers`, a state file; the name's offset is S, up to which the
log was walked or appended. The payload, big-endian:

    position  size  field
    0         8     base offset of S's segment
    8         8     position of S in it
    16        8     offset of S
    24        8     greatest timestamp in that segment below S
    32        8     the offset that goes with it
    40        4     number of producers
    44        …     each: id (8), epoch (2), batches (1), then per batch
                    first sequence (4), last sequence (4), last offset (8), timestamp (8)

Source: KIP-98 and Kafka's rules for producer append; DESIGN section 4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from logd.errors import (
    CorruptFileError,
    DuplicateSequenceError,
    InvalidProducerEpochError,
    OutOfOrderSequenceError,
)
from logd.record.batch import BatchHeader
from logd.record.timestamps import latest_timestamp_ms
from logd.units import INT32_MAX

BATCHES_KEPT: Final = 5
REFUSED_KEPT: Final = 10_000
"""Of so many unknown producers a refused batch is remembered; the oldest are forgotten first."""

SNAPSHOT_VERSION: Final = 1
SNAPSHOT_BYTES_MAX: Final = 1024 * 1024 * 1024
_SNAPSHOT_HEAD: Final = struct.Struct(">qqqqqI")
SNAPSHOT_HEAD_BYTES: Final = _SNAPSHOT_HEAD.size
_PRODUCER: Final = struct.Struct(">qhB")
_BATCH: Final = struct.Struct(">iiqq")


class Duplicate(NamedTuple):
    """The original of a repeated batch."""

    base_offset: int
    last_offset: int
    timestamp_ms: int


class ProducerBatch(NamedTuple):
    """One batch of a producer that is remembered."""

    first_sequence: int
    last_sequence: int
    last_offset: int
    timestamp_ms: int

    @property
    def base_offset(self) -> int:
        """The offset of the batch's first record."""
        delta = self.last_sequence - self.first_sequence
        return self.last_offset - (delta if delta >= 0 else delta + INT32_MAX + 1)


class ProducerEntry(NamedTuple):
    """A producer's epoch and its last batches, the newest last."""

    epoch: int
    batches: tuple[ProducerBatch, ...]


WrittenProducers = dict[int, ProducerEntry]


class ProducerDescription(NamedTuple):
    """One line of DescribeProducers."""

    producer_id: int
    epoch: int
    last_sequence: int
    last_timestamp_ms: int
    last_offset: int


@dataclass(frozen=True, slots=True)
class ProducerSnapshot:
    """The producers as of S, and what else recovery needs to go on from there."""

    segment_base: int
    position: int
    offset: int
    max_timestamp_ms: int
    max_timestamp_offset: int
    producers: WrittenProducers


def next_sequence(last_sequence: int) -> int:
    """Return the sequence number that follows."""
    assert -1 <= last_sequence <= INT32_MAX
    return 0 if last_sequence == INT32_MAX else last_sequence + 1


class ProducerStates:
    """The producers of one log."""

    __slots__ = ("_journal", "_refused", "_staged", "_written")

    def __init__(self, written: WrittenProducers | None = None) -> None:
        self._written: WrittenProducers = {} if written is None else written
        self._staged: WrittenProducers = {}
        # (offset after the batch, producer id, entry), in the order of staging.
        self._journal: list[tuple[int, int, ProducerEntry]] = []
        # Of producers without an entry: epoch and sequence of the first batch that was refused.
        self._refused: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        """Return the number of producers that are known from the file."""
        return len(self._written)

    def check(self, header: BatchHeader) -> Duplicate | None:
        """Check an idempotent batch against what its producer sent last.

        Returns:
            The original if the batch repeats it (to be answered once the original is as durable as
            the request wants); None if the batch is new and may be staged.

        Raises:
            InvalidProducerEpochError: the epoch is older than the last one.
            OutOfOrderSequenceError: batches are missing before this one.
            DuplicateSequenceError: it lies before those that are remembered.
        """
        producer_id = header.producer_id
        assert producer_id >= 0
        entry = self._staged.get(producer_id) or self._written.get(producer_id)
        if entry is None:
            self._check_refused(header)
            return None
        first = header.base_sequence
        if header.producer_epoch != entry.epoch:
            _check_new_epoch(header, entry)
            return None
        last = (first + header.last_offset_delta) & INT32_MAX
        newest = entry.batches[-1]
        if first == next_sequence(newest.last_sequence):
            return None
        for batch in entry.batches:
            if batch.first_sequence == first and batch.last_sequence == last:
                return Duplicate(batch.base_offset, batch.last_offset, batch.timestamp_ms)
        raise _out_of_order(header, entry)

    def _check_refused(self, header: BatchHeader) -> None:
        epoch, first = self._refused.get(header.producer_id, (-1, -1))
        if header.producer_epoch == epoch and header.base_sequence != first:
            raise OutOfOrderSequenceError(
                f"producer {header.producer_id}: sequence {header.base_sequence} was sent behind "
                f"{first}, which was refused"
            )

    def note_refused(self, header: BatchHeader) -> None:
        """The disk has no room for this batch; its producer will send it again, before others."""
        assert header.producer_id >= 0
        self._note_refused(header.producer_id, header.producer_epoch, header.base_sequence)

    def _note_refused(self, producer_id: int, epoch: int, first_sequence: int) -> None:
        if producer_id in self._written or producer_id in self._staged:
            return  # What comes next is known.
        if self._refused.get(producer_id, (-1, -1))[0] >= epoch:
            return  # Behind the first one.
        self._refused[producer_id] = (epoch, first_sequence)
        if len(self._refused) > REFUSED_KEPT:
            del self._refused[next(iter(self._refused))]

    def stage(self, header: BatchHeader, *, last_offset: int, timestamp_ms: int) -> None:
        """Remember a batch that was checked and got its offsets; it counts until `rollback`."""
        producer_id = header.producer_id
        entry = self._staged.get(producer_id) or self._written.get(producer_id)
        entry = _appended(entry, header, last_offset=last_offset, timestamp_ms=timestamp_ms)
        self._staged[producer_id] = entry
        self._journal.append((last_offset + 1, producer_id, entry))

    def publish(self, written_offset: int) -> None:
        """What was staged below `written_offset` is in the file now."""
        journal = self._journal
        count = 0
        for end_offset, producer_id, entry in journal:
            if end_offset > written_offset:
                break
            self._written[producer_id] = entry
            if self._refused:
                self._refused.pop(producer_id, None)
            if self._staged.get(producer_id) is entry:
                del self._staged[producer_id]
            count += 1
        if count:
            del journal[:count]
        assert bool(journal) >= bool(self._staged), "what is staged is in the journal"

    def rollback(self) -> None:
        """Forget what was staged and never written; its producers are to send it again."""
        journal = self._journal
        self._staged.clear()
        self._journal = []
        for _, producer_id, entry in journal:
            self._note_refused(producer_id, entry.epoch, entry.batches[-1].first_sequence)

    @property
    def has_staged(self) -> bool:
        """Whether `publish` has anything to do."""
        return bool(self._journal)

    def expire(self, now_ms: int, expiration_ms: int) -> int:
        """Forget producers whose last batch is older than `expiration_ms`; return how many."""
        assert expiration_ms >= 0
        expired = [
            producer_id
            for producer_id, entry in self._written.items()
            if now_ms - entry.batches[-1].timestamp_ms >= expiration_ms
            and producer_id not in self._staged
        ]
        for producer_id in expired:
            del self._written[producer_id]
        return len(expired)

    def entries(self) -> list[ProducerDescription]:
        """Return what DescribeProducers tells, by producer id."""
        return [_describe(*item) for item in sorted(self._written.items())]

    def copy_written(self) -> WrittenProducers:
        """Return the state of what is in the file; later changes do not reach it."""
        return self._written.copy()

    def replay(self, header: BatchHeader) -> None:
        """Take in a batch found in the file: what is in the log was accepted once.

        A batch at or below what its producer's entry covers already changes nothing.
        """
        entry = self._written.get(header.producer_id)
        if entry is not None and header.last_offset <= entry.batches[-1].last_offset:
            return
        timestamp_ms = latest_timestamp_ms(header)
        self._written[header.producer_id] = _appended(
            entry, header, last_offset=header.last_offset, timestamp_ms=timestamp_ms
        )


def _check_new_epoch(header: BatchHeader, entry: ProducerEntry) -> None:
    if header.producer_epoch < entry.epoch:
        raise InvalidProducerEpochError(
            f"producer {header.producer_id} has epoch {entry.epoch}, "
            f"the batch is of epoch {header.producer_epoch}"
        )
    if header.base_sequence != 0:
        raise OutOfOrderSequenceError(
            f"producer {header.producer_id} begins epoch {header.producer_epoch} "
            f"with sequence {header.base_sequence}, not 0"
        )


def _out_of_order(header: BatchHeader, entry: ProducerEntry) -> Exception:
    newest, oldest = entry.batches[-1], entry.batches[0]
    expected = next_sequence(newest.last_sequence)
    # Sequence numbers wrap, so "before" is measured backwards from the one that is expected.
    behind = (expected - header.base_sequence) & INT32_MAX
    known = (expected - oldest.first_sequence) & INT32_MAX
    if known < behind <= INT32_MAX // 2:
        return DuplicateSequenceError(
            f"producer {header.producer_id}: sequence {header.base_sequence} lies before the "
            f"last {len(entry.batches)} batches"
        )
    return OutOfOrderSequenceError(
        f"producer {header.producer_id}: sequence {header.base_sequence} does not follow; "
        f"expected {expected}"
    )


def _appended(
    entry: ProducerEntry | None, header: BatchHeader, *, last_offset: int, timestamp_ms: int
) -> ProducerEntry:
    first = header.base_sequence
    last = (first + header.last_offset_delta) & INT32_MAX
    assert last_offset >= header.last_offset_delta
    batch = ProducerBatch(first, last, last_offset, timestamp_ms)
    if entry is None or entry.epoch != header.producer_epoch:
        return ProducerEntry(header.producer_epoch, (batch,))
    return ProducerEntry(entry.epoch, (*entry.batches[1 - BATCHES_KEPT :], batch))


def _describe(producer_id: int, entry: ProducerEntry) -> ProducerDescription:
    newest = entry.batches[-1]
    return ProducerDescription(
        producer_id, entry.epoch, newest.last_sequence, newest.timestamp_ms, newest.last_offset
    )


def encode_snapshot(snapshot: ProducerSnapshot) -> bytes:
    """Return the payload of a snapshot file."""
    parts = [
        _SNAPSHOT_HEAD.pack(
            snapshot.segment_base,
            snapshot.position,
            snapshot.offset,
            snapshot.max_timestamp_ms,
            snapshot.max_timestamp_offset,
            len(snapshot.producers),
        )
    ]
    for producer_id, entry in snapshot.producers.items():
        assert 1 <= len(entry.batches) <= BATCHES_KEPT
        parts.append(_PRODUCER.pack(producer_id, entry.epoch, len(entry.batches)))
        parts.extend(_BATCH.pack(*batch) for batch in entry.batches)
    return b"".join(parts)


def decode_snapshot(path: str, payload: bytes) -> ProducerSnapshot:
    """Return the snapshot in a payload.

    Raises:
        CorruptFileError: lengths or values that cannot be.
    """
    try:
        base, position, offset, ts, ts_offset, count = _SNAPSHOT_HEAD.unpack_from(payload)
        producers = dict(_decode_producers(payload, count))
    except (struct.error, ValueError) as error:
        raise CorruptFileError(path, 0, f"is no producer snapshot: {error}") from error
    if not (0 <= base <= offset and position >= 0) or len(producers) != count:
        raise CorruptFileError(path, 0, f"base {base}, position {position}, offset {offset}")
    return ProducerSnapshot(base, position, offset, ts, ts_offset, producers)


def _decode_producers(payload: bytes, count: int) -> Iterator[tuple[int, ProducerEntry]]:
    at = _SNAPSHOT_HEAD.size
    for _ in range(count):
        producer_id, epoch, batch_count = _PRODUCER.unpack_from(payload, at)
        at += _PRODUCER.size
        if not 1 <= batch_count <= BATCHES_KEPT:
            raise ValueError(f"{batch_count} batches of producer {producer_id}")
        batches = []
        for _ in range(batch_count):
            batches.append(ProducerBatch._make(_BATCH.unpack_from(payload, at)))
            at += _BATCH.size
        yield producer_id, ProducerEntry(epoch, tuple(batches))
    if at != len(payload):
        raise ValueError(f"{len(payload) - at} bytes too many")
