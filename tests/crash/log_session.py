"""A log under a driver that keeps its promises, and the check that they were kept.

`Session` drives a log as the server does, in one thread: stage, write, sync, acknowledge. It notes
what was acknowledged, and what was ever tried. `check_promises` opens what a crash left and
compares:

* nothing acknowledged is lost, unless it was deleted;
* nothing is invented: what is read at an offset was once staged at that offset;
* no byte lies behind the log's end; a second recovery changes nothing; the log can go on;
* producers: an acknowledged batch is recognised when it comes again, a lost one is not.

The hooks of `Session` are there to be broken by the tests of planted faults.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field

from logd.errors import DamagedRangeError, StorageError
from logd.record.batch import HEADER_BYTES, BatchHeader, read_header
from logd.record.records import encode_batch, iterate
from logd.storage.files import Files
from logd.storage.log import Log, LogSettings
from logd.storage.recovery import RecoveryReport
from logd.storage.sync_record import SyncPoint
from tests.crash.lying_disk import FastFiles

TOPIC_ID = bytes(range(16))
PRODUCER_ID = 7
READ_BYTES = 1000

SETTINGS = LogSettings(
    segment_bytes=1500,
    segment_offsets=12,
    segment_ms=10_000,
    segment_index_bytes=4096,
    index_interval_bytes=150,
)


@dataclass(slots=True)
class History:
    """What a client of the log knows, whatever happens to the log.

    Attributes:
        acked: offset to value of each acknowledged record.
        tried: offset to all values that were ever staged there.
        acked_sequences: (first sequence, base offset) of acknowledged batches.
        log_start_offset: as answered by the last deletion that returned; a later one may count.
        asked_start_offset: the start that a deletion asked for.
        points: what the sync journal was told.
    """

    acked: dict[int, bytes] = field(default_factory=dict)
    tried: dict[int, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    acked_sequences: dict[int, int] = field(default_factory=dict)
    log_start_offset: int = 0
    asked_start_offset: int = 0
    points: list[SyncPoint] = field(default_factory=list)


class Session:
    """One run of a log."""

    acks_wait_for_sync = True
    duplicates_wait_for_sync = True

    def __init__(self, log: Log, history: History) -> None:
        self.log = log
        self.history = history
        self.now_ms = 1_000
        self.sequence = 0
        self._number = 0
        self._unacked: list[tuple[int, int, list[bytes]]] = []

    @classmethod
    def create(cls, files: Files, root: str, history: History, settings: LogSettings) -> Session:
        log = Log.create(
            files,
            f"{root}/t-0",
            topic_id=TOPIC_ID,
            topic="t",
            partition=0,
            settings=settings,
        )
        return cls(log, history)

    # --- what a client asks for ----------------------------------------------------------------

    def stage(self, count: int = 2, *, size: int = 20) -> None:
        """Stage one idempotent batch."""
        values = []
        for _ in range(count):
            self._number += 1
            values.append(f"{os.path.basename(self.log.directory)} {self._number} ".encode() * 2)
        batch = self._encode([value + b"x" * size for value in values])
        header = read_header(batch)
        assert self.log.producers.check(header) is None
        values = [record.value or b"" for record in iterate(batch)]
        base_offset = self.log.stage(batch, 0, header, now_ms=self.now_ms)
        for number, value in enumerate(values):
            self.history.tried[base_offset + number].add(value)
        self._unacked.append((base_offset, self.sequence, values))
        self.sequence += count
        self.now_ms += 7

    def _encode(self, values: list[bytes]) -> bytearray:
        return encode_batch(
            [(None, value, [], self.now_ms) for value in values],
            producer_id=PRODUCER_ID,
            producer_epoch=0,
            base_sequence=self.sequence,
        )

    def write(self) -> None:
        """Write what is staged; acknowledge where that is enough."""
        staged = self.log.take_staged()
        if staged is None:
            return
        try:
            result = self.log.write(staged)
        except StorageError:
            self.log.abandon(staged)
            written = self.log.written_offset
            self._unacked = [entry for entry in self._unacked if entry[0] < written]
            entries = self.log.producers.entries()
            self.sequence = entries[0].last_sequence + 1 if entries else 0
            raise
        self.log.finish_write(staged, result)
        if not self.acks_wait_for_sync:
            self._acknowledge(self.log.written_offset)

    def sync(self) -> None:
        """Sync what is written and acknowledge it."""
        ticket = self.log.begin_sync()
        if ticket is not None:
            self.log.sync(ticket)
            self.log.finish_sync(ticket)
            self.history.points.append(ticket.point)
        self._acknowledge(self.log.synced_offset)

    def repeat_last(self) -> None:
        """Send the last staged batch again: acknowledged once the original is as durable."""
        base_offset, sequence, values = self._unacked[-1]
        batch = encode_batch(
            [(None, value, [], self.now_ms) for value in values],
            producer_id=PRODUCER_ID,
            producer_epoch=0,
            base_sequence=sequence,
        )
        duplicate = self.log.producers.check(read_header(batch))
        assert duplicate is not None
        assert duplicate.base_offset == base_offset
        if not self.duplicates_wait_for_sync:
            self._acknowledge(duplicate.last_offset + 1)

    def append(self, count: int = 2) -> None:
        """Stage, write, sync, acknowledge."""
        self.stage(count)
        self.write()
        self.sync()

    def delete_before(self, offset: int) -> None:
        """Delete records, then unlink, as the server does later."""
        self.history.asked_start_offset = max(self.history.asked_start_offset, offset)
        result = self.log.delete_before(offset)
        self.history.log_start_offset = result.log_start_offset
        for path in result.unlink_paths:
            self.log.files.unlink(path)

    def _acknowledge(self, below: int) -> None:
        while self._unacked and self._unacked[0][0] + len(self._unacked[0][2]) <= below:
            base_offset, sequence, values = self._unacked.pop(0)
            for number, value in enumerate(values):
                self.history.acked[base_offset + number] = value
            self.history.acked_sequences[sequence] = base_offset


def recover(
    files: Files,
    root: str,
    *,
    same_boot: bool,
    point: SyncPoint | None,
    settings: LogSettings = SETTINGS,
) -> tuple[Log, RecoveryReport]:
    """Recover the session's log from a directory."""
    return Log.recover(
        files,
        f"{root}/t-0",
        topic_id=TOPIC_ID,
        topic="t",
        partition=0,
        settings=settings,
        sync_point=point,
        same_boot=same_boot,
    )


def read_all(log: Log) -> dict[int, bytes]:
    """Return all readable records, by `read` and `try_read` in turn; damaged ranges are skipped."""
    records: dict[int, bytes] = {}
    offset = log.log_start_offset
    while offset < log.end_offset:
        try:
            piece = log.try_read(offset, max_bytes=READ_BYTES, below=log.end_offset)
            if piece is None:
                piece = log.read(offset, max_bytes=READ_BYTES, below=log.end_offset)
        except DamagedRangeError:
            damaged = next(entry for entry in log.damaged if entry.next_offset > offset)
            offset = damaged.next_offset
            continue
        if piece.size == 0:
            break
        data = log.files.read_at(piece.file, piece.position, piece.size)
        assert len(data) == piece.size
        for header, batch in split(data):
            for record in iterate(batch):
                if record.offset >= log.log_start_offset:
                    assert record.offset not in records or record.offset < offset
                    records[record.offset] = record.value or b""
            offset = header.next_offset
    return records


def split(data: bytes) -> list[tuple[BatchHeader, bytes]]:
    """Return the batches in a slice, which must be whole."""
    batches = []
    at = 0
    while at < len(data):
        assert at + HEADER_BYTES <= len(data)
        header = read_header(data, at)
        batches.append((header, data[at : at + header.size]))
        assert at + header.size <= len(data)
        at += header.size
    return batches


def check_promises(
    root: str,
    history: History,
    *,
    same_boot: bool,
    point: SyncPoint | None,
    settings: LogSettings = SETTINGS,
    files: Files | None = None,
) -> None:
    """Recover what a crash left in `root` and check every promise. Changes the directory."""
    files = files or FastFiles()
    log, report = recover(files, root, same_boot=same_boot, point=point, settings=settings)
    assert not report.damaged, report.lines()
    _check_records(log, history)
    _check_lengths(log)
    _check_producers(log, history)
    end_offset = log.end_offset
    again, second = recover(files, root, same_boot=same_boot, point=point, settings=settings)
    assert again.end_offset == end_offset
    assert not second.cuts
    assert not second.damaged
    _check_goes_on(again, history, end_offset, settings)


def _check_records(log: Log, history: History) -> None:
    start = log.log_start_offset
    assert history.log_start_offset <= start <= max(history.asked_start_offset, 0)
    records = read_all(log)
    for offset, value in history.acked.items():
        if offset >= start:
            assert records.get(offset) == value, f"acknowledged offset {offset} is lost"
    for offset, value in records.items():
        assert value in history.tried[offset], f"offset {offset} was never written"
    assert sorted(records) == list(range(start, log.end_offset))
    assert log.synced_offset == log.written_offset == log.end_offset


def _check_lengths(log: Log) -> None:
    names = os.listdir(log.directory)
    sizes = [os.path.getsize(f"{log.directory}/{name}") for name in names if name.endswith(".log")]
    assert sum(sizes) == log.size_bytes, "bytes lie behind the end of the log"


def _check_producers(log: Log, history: History) -> None:
    entries = log.producers.entries()
    if log.end_offset > 0 and entries:
        last_offset = entries[0].last_offset
        if log.end_offset > log.log_start_offset:
            assert last_offset == log.end_offset - 1
        else:  # What was deleted last need not have reached the device.
            assert last_offset < log.end_offset
    if history.acked_sequences:
        sequence = max(history.acked_sequences)
        base_offset = history.acked_sequences[sequence]
        count = sum(1 for offset in history.acked if offset >= base_offset)
        batch = encode_batch(
            [(None, b"", [], 1)] * count,
            producer_id=PRODUCER_ID,
            producer_epoch=0,
            base_sequence=sequence,
        )
        duplicate = log.producers.check(read_header(batch))
        assert duplicate is not None, "an acknowledged batch is not recognised"
        assert duplicate.base_offset == base_offset


def _check_goes_on(log: Log, history: History, end_offset: int, settings: LogSettings) -> None:
    later = History()
    session = Session(log, later)
    entries = log.producers.entries()
    session.sequence = entries[0].last_sequence + 1 if entries else 0
    for _ in range(3):
        session.stage(3)
        session.write()
    session.sync()
    assert log.end_offset == log.synced_offset == end_offset + 9
    third, _ = recover(
        log.files, log.directory.rpartition("/")[0], same_boot=True, point=None, settings=settings
    )
    assert third.end_offset == end_offset + 9
    for offset, value in read_all(third).items():
        assert value in (later.tried if offset >= end_offset else history.tried)[offset]
