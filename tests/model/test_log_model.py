"""A log behaves as a Python list of batches, whatever is done to it in whatever order.

Hypothesis appends, writes, syncs, fails writes, rolls, deletes, checkpoints, reads, looks up times,
releases segments to chunks and thaws them, loses indexes of released ones, restarts cleanly and by
recovery; after each step the log must agree with the list.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from logd.errors import DiskFullError, OffsetOutOfRangeError
from logd.record.batch import read_header
from logd.storage.files import OpenFile
from logd.storage.log import LogSettings
from logd.storage.released import ReleasedRange
from logd.storage.sync_record import SyncPoint
from tests.crash.lying_disk import FastFiles
from tests.unit.log_builder import batch_of, headers_in, make_log
from tests.unit.released_rig import Chunks, open_again, recover_again

PRODUCER_ID = 3


@dataclass(frozen=True)
class Appended:
    """One batch that the log must hold."""

    base_offset: int
    count: int
    timestamp_ms: int
    data: bytes
    sequence: int

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.count


class FullDisk(FastFiles):
    """Writes half and fails while `full` is set."""

    full = False

    def write_at(self, file: OpenFile, position: int, buffers: Any) -> int:
        data = b"".join(buffers)
        if self.full:
            super().write_at(file, position, [data[: len(data) // 2]])
            raise OSError(errno.ENOSPC, "full")
        return super().write_at(file, position, [data])


class LogMachine(RuleBasedStateMachine):
    """The log, and the list that it must equal."""

    @initialize(
        segment_bytes=st.sampled_from([200, 700, 5000]),
        segment_offsets=st.sampled_from([3, 10, 1000]),
        index_interval_bytes=st.sampled_from([0, 100, 4096]),
    )
    def create(self, segment_bytes: int, segment_offsets: int, index_interval_bytes: int) -> None:
        """Begin with an empty log."""
        self.directory = tempfile.mkdtemp()
        self.settings = LogSettings(
            segment_bytes=segment_bytes,
            segment_offsets=segment_offsets,
            index_interval_bytes=index_interval_bytes,
            segment_index_bytes=64,
        )
        self.files = FullDisk()
        self.log = make_log(self.directory, settings=self.settings, files=self.files)
        self.written: list[Appended] = []
        self.staged: list[Appended] = []
        self.start = 0
        self.sequence = 0
        self.point: SyncPoint | None = None
        self.now_ms = 1000
        self.chunks = Chunks()

    def teardown(self) -> None:
        """Remove the log."""
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)

    # --- appending -------------------------------------------------------------------------------

    @rule(
        count=st.integers(1, 5),
        size=st.integers(0, 60),
        timestamp_ms=st.integers(0, 30),
        idempotent=st.booleans(),
    )
    def stage(self, count: int, size: int, timestamp_ms: int, idempotent: bool) -> None:
        """Stage a batch: its offsets follow the last one's."""
        fields = {}
        if idempotent:
            fields = {"producer_id": PRODUCER_ID, "base_sequence": self.sequence}
            fields["producer_epoch"] = 0
        batch = batch_of([b"x" * size] * count, timestamp_ms=timestamp_ms, **fields)
        if idempotent:
            assert self.log.producers.check(read_header(batch)) is None
        expected = self.log.end_offset
        base_offset = self.log.stage(batch, 0, read_header(batch), now_ms=self.now_ms)
        assert base_offset == expected
        sequence = self.sequence if idempotent else -1
        self.staged.append(Appended(base_offset, count, timestamp_ms, bytes(batch), sequence))
        self.sequence += count if idempotent else 0
        self.now_ms += 1

    @rule()
    def write(self) -> None:
        """Write what is staged."""
        taken = self.log.take_staged()
        assert (taken is None) == (not self.staged)
        if taken is not None:
            self.log.finish_write(taken, self.log.write(taken))
            self.written += self.staged
            self.staged = []

    @precondition(lambda self: self.staged)
    @rule()
    def write_to_a_full_disk(self) -> None:
        """What was not written is gone, as if it had never been staged."""
        taken = self.log.take_staged()
        assert taken is not None
        self.files.full = True
        try:
            self.log.write(taken)
            raise AssertionError("a full disk took a write")
        except DiskFullError:
            self.log.abandon(taken)
        self.files.full = False
        written = self.log.written_offset
        self.written += [entry for entry in self.staged if entry.base_offset < written]
        self.staged = []
        known = [entry for entry in self.written if entry.sequence >= 0]
        self.sequence = known[-1].sequence + known[-1].count if known else 0

    @rule()
    def sync(self) -> None:
        """Sync what is written."""
        ticket = self.log.begin_sync()
        if ticket is not None:
            self.log.sync(ticket)
            self.log.finish_sync(ticket)
            self.point = ticket.point
        assert self.log.synced_offset == self.log.written_offset

    @rule()
    def roll(self) -> None:
        """Begin a new segment, also with batches staged."""
        self.log.roll_now()

    @rule()
    def checkpoint(self) -> None:
        """Take and write a checkpoint."""
        self.log.checkpoint(self.log.begin_checkpoint())

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """Move the log start anywhere up to what is written."""
        offset = data.draw(st.integers(0, self.log.written_offset))
        result = self.log.delete_before(offset)
        self.start = max(self.start, offset)
        assert result.log_start_offset == self.start
        for path in result.unlink_paths:
            self.files.unlink(path)

    # --- chunks ----------------------------------------------------------------------------------

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """A sealed segment goes to chunks."""
        hot = [each.base_offset for each in self.log.sealed_segments()]
        if hot:
            self.chunks.release(self.log, data.draw(st.sampled_from(hot)))

    @rule(data=st.data())
    def thaw(self, data: st.DataObject) -> None:
        """A released segment comes back."""
        if released := self._released():
            self.chunks.thaw(self.log, data.draw(st.sampled_from(released)), step=77)

    @rule(data=st.data(), put_back=st.booleans())
    def lose_indexes(self, data: st.DataObject, put_back: bool) -> None:
        """A released segment's indexes are lost, and perhaps put back."""
        if released := self._released():
            base = data.draw(st.sampled_from(released))
            self.log.distrust_indexes(base)
            assert base in self.log.released_without_indexes()
            if put_back:
                self.log.put_indexes(base, *self.chunks.indexes[base])
                assert base not in self.log.released_without_indexes()

    def _released(self) -> list[int]:
        items = self.log.segment_list.items
        return [item.base_offset for item in items if item.released is not None]

    # --- starting again --------------------------------------------------------------------------

    @precondition(lambda self: not self.staged)
    @rule()
    def stop_and_start(self) -> None:
        """A clean stop and a start."""
        clean = self.log.close()
        self.log = open_again(
            self.directory, clean, self.chunks, settings=self.settings, files=self.files
        )

    @rule(uses_point=st.booleans())
    def die_and_recover(self, uses_point: bool) -> None:
        """kill -9: what was staged is gone, all that was written is there."""
        self.log.let_go()
        self.log, report = recover_again(
            self.directory,
            self.chunks,
            settings=self.settings,
            files=self.files,
            point=self.point if uses_point else None,
            same_boot=True,
        )
        assert report.lines() == []
        self.staged = []
        known = [entry for entry in self.written if entry.sequence >= 0]
        self.sequence = known[-1].sequence + known[-1].count if known else 0

    # --- asking ----------------------------------------------------------------------------------

    @rule(data=st.data(), max_bytes=st.sampled_from([1, 150, 400, 100_000]), thread=st.booleans())
    def read(self, data: st.DataObject, max_bytes: int, thread: bool) -> None:
        """A reader gets the batches of the list, from its offset on, as many as fit."""
        ends = [self.start, *(entry.next_offset for entry in self.written)]
        below = data.draw(st.sampled_from([end for end in ends if end >= self.start]))
        offset = data.draw(st.integers(0, self.log.end_offset + 1))
        reading = self.log.read if thread else self.log.try_read
        if not self.start <= offset <= self.log.end_offset:
            try:
                reading(offset, max_bytes=max_bytes, below=below)
                raise AssertionError(f"offset {offset} was accepted")
            except OffsetOutOfRangeError:
                return
        piece = reading(offset, max_bytes=max_bytes, below=below)
        if piece is None:
            assert not thread
            return
        wanted = [e for e in self.written if e.next_offset > offset and e.next_offset <= below]
        if isinstance(piece, ReleasedRange):
            self._check_cut(piece, wanted, below, max_bytes)
            return
        got = self.files.read_at(piece.file, piece.position, piece.size) if piece.size else b""
        assert b"".join(entry.data for entry in wanted).startswith(got)
        assert bool(got) == bool(wanted)
        assert len(got) <= max_bytes or got == wanted[0].data
        if piece.next_offset >= 0 and got:
            assert piece.next_offset == headers_in(self.log, piece)[-1].next_offset

    def _check_cut(
        self, where: ReleasedRange, wanted: list[Appended], below: int, max_bytes: int
    ) -> None:
        """What is cut out of the source is what a hot read would give of this segment."""
        got, cut = self.chunks.cut(where, below=below, max_bytes=max_bytes, window=90)
        assert got
        assert b"".join(entry.data for entry in wanted).startswith(got)
        assert len(got) <= max_bytes or got == wanted[0].data
        assert cut.next_offset in [entry.next_offset for entry in wanted]

    @rule(timestamp_ms=st.integers(0, 31))
    def look_up_time(self, timestamp_ms: int) -> None:
        """The first record at or after a time is the list's."""
        below = self.log.written_offset
        expected = next(
            (
                (max(entry.base_offset, self.start), entry.timestamp_ms)
                for entry in self.written
                if entry.next_offset > self.start and entry.timestamp_ms >= timestamp_ms
            ),
            None,
        )
        assert self.chunks.find_time(self.log, timestamp_ms, below=below) == expected
        latest = self.chunks.find_latest(self.log, below=below)
        times = [e.timestamp_ms for e in self.written if e.next_offset > self.start]
        assert (latest and latest[1]) == max(times, default=None)

    @rule()
    def repeat(self) -> None:
        """The last idempotent batch, sent again, is recognised."""
        known = [entry for entry in (*self.written, *self.staged) if entry.sequence >= 0]
        if known and known[-1].base_offset >= self.start:
            duplicate = self.log.producers.check(read_header(known[-1].data))
            assert duplicate is not None
            assert duplicate.base_offset == known[-1].base_offset

    @invariant()
    def offsets_agree(self) -> None:
        """The published offsets and sizes are the list's."""
        if not hasattr(self, "log"):
            return
        log = self.log
        written = self.written[-1].next_offset if self.written else 0
        staged = self.staged[-1].next_offset if self.staged else written
        assert log.log_start_offset == self.start
        assert log.written_offset == written
        assert log.end_offset == staged
        assert log.log_start_offset <= log.written_offset
        assert log.synced_offset <= log.written_offset
        assert log.staged_bytes == sum(len(entry.data) for entry in self.staged)
        first_base = log.segment_list.bases[0]
        assert log.total_bytes == sum(
            len(entry.data) for entry in self.written if entry.base_offset >= first_base
        )
        assert log.damaged == []
        on_disk = [item for item in log.segment_list.items if os.path.exists(item.paths.log)]
        assert [item for item in log.segment_list.items if item.released is None] == on_disk
        assert log.size_bytes == sum(os.path.getsize(item.paths.log) for item in on_disk)


LogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLogModel = LogMachine.TestCase
