"""Logs with released segments in tests: a dictionary stands for the chunks."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from logd.record.batch import BatchHeader, read_header
from logd.record.records import encode_batch, iterate
from logd.storage.batch_run import scan_run
from logd.storage.clean_stop import CleanLog
from logd.storage.files import Files, OpenFile
from logd.storage.log import Log, LogSettings
from logd.storage.offset_index import OffsetIndex
from logd.storage.recovery import RecoveryReport
from logd.storage.released import CutBatches, ReleasedRange, ReleasedSegment, SourcePiece
from logd.storage.released_times import ReleasedLatest, ReleasedTimeRange, TimeSearch, later
from logd.storage.sync_record import SyncPoint
from logd.storage.time_index import TimeIndex
from tests.crash.lying_disk import FastFiles
from tests.unit.log_builder import (
    SMALL,
    TOPIC_ID,
    bases,
    batch_of,
    make_log,
    segment_path,
    stage,
    sync,
    write,
)


@dataclass(slots=True)
class Chunks:
    """What the chunks of one log hold, and what the catalog says is released.

    Attributes:
        sources: base offset to the source that was coded.
        indexes: base offset to what parity chunks carry.
        released: what the catalog says.
    """

    sources: dict[int, bytes] = field(default_factory=dict)
    indexes: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    released: dict[int, ReleasedSegment] = field(default_factory=dict)

    def encode(self, log: Log, base_offset: int) -> ReleasedSegment:
        """Take a segment's bytes, as an encoder does; return what the catalog would say."""
        source = log.segment_source(base_offset)
        data = bytearray(source.size_bytes)
        assert source.read_into(0, data) == len(data)
        self.sources[base_offset] = bytes(data)
        self.indexes[base_offset] = source.indexes()
        found = ReleasedSegment(
            base_offset, source.next_offset, source.size_bytes, source.max_timestamp_ms,
            source.min_timestamp_ms,
        )  # fmt: skip
        source.close()
        return found

    def release(self, log: Log, base_offset: int) -> tuple[str, ...]:
        """Encode, record, release; the paths are unlinked."""
        self.released[base_offset] = self.encode(log, base_offset)
        size_bytes = len(self.sources[base_offset])
        next_offset = self.released[base_offset].next_offset
        paths = log.release(base_offset, size_bytes=size_bytes, next_offset=next_offset)
        for path in paths:
            log.files.unlink(path)
        return paths

    def thaw(self, log: Log, base_offset: int, *, step: int = 1000) -> None:
        """Write the source back, then record it."""
        writer = log.thaw(base_offset)
        data = self.sources[base_offset]
        for at in range(0, len(data), step):
            writer.write(data[at : at + step])
        copy = writer.finish()
        assert copy.size_bytes == len(data)
        del self.released[base_offset]

    @property
    def catalog(self) -> Sequence[ReleasedSegment]:
        """What a log is told at its opening."""
        return [self.released[base] for base in sorted(self.released)]

    # --- reading ---------------------------------------------------------------------------------

    def cut(
        self,
        at: ReleasedRange,
        *,
        below: int,
        max_bytes: int,
        min_one: bool = True,
        window: int = 300,
    ) -> tuple[bytes, CutBatches]:
        """Read windows of the source until something can be cut out of them."""
        source = self.sources[at.base_offset]
        position, size = at.position, window
        nothing = CutBatches(0, 0, at.end_bound)
        while position < len(source):
            data = source[position : position + size]
            run = scan_run(
                SourcePiece(
                    data, position, len(source), at.base_offset, at.end_bound, name="chunks"
                )
            )
            if not run.ends:
                size = max(window, run.needed_bytes)
            elif run.next_offsets[-1] <= at.wanted_offset:
                position, size = run.end, window
            else:
                found = run.cut(at.wanted_offset, max_bytes=max_bytes, below=below, min_one=min_one)
                return source[found.start : found.end], found
        return b"", nothing

    def read(
        self, log: Log, offset: int, *, below: int, max_bytes: int = 1000
    ) -> tuple[bytes, int]:
        """Return what a reader gets at an offset, and where it goes on; by both ways of asking."""
        found = log.try_read(offset, max_bytes=max_bytes, below=below)
        if found is None:
            found = log.read(offset, max_bytes=max_bytes, below=below)
        if isinstance(found, ReleasedRange):
            data, cut = self.cut(found, below=below, max_bytes=max_bytes)
            return data, cut.next_offset
        data = log.files.read_at(found.file, found.position, found.size) if found.size else b""
        return data, split(data)[-1].next_offset if data else found.next_offset

    def read_all(self, log: Log, *, max_bytes: int = 1000) -> list[tuple[int, bytes]]:
        """Return (base offset, batch) of all that is readable, read as a consumer does."""
        offset, end, batches = log.log_start_offset, log.written_offset, []
        while offset < end:
            data, next_offset = self.read(log, offset, below=end, max_bytes=max_bytes)
            at = 0
            for header in split(data):
                batches.append((header.base_offset, data[at : at + header.size]))
                at += header.size
            assert next_offset > offset, f"stuck at {offset}"
            offset = next_offset
        return batches

    def find_time(self, log: Log, timestamp_ms: int, *, below: int) -> tuple[int, int] | None:
        """Look an offset up by time, as a driver does."""
        from_offset = 0
        while True:
            found = log.offset_for_timestamp(timestamp_ms, below=below, from_offset=from_offset)
            if not isinstance(found, ReleasedTimeRange):
                return found[:2] if found else None
            record = self.search(found)
            if record is not None:
                return record
            from_offset = found.end_bound

    def find_latest(self, log: Log, *, below: int) -> tuple[int, int] | None:
        """Look the latest record up, as a driver does."""
        found = log.max_timestamp(below=below)
        if not isinstance(found, ReleasedLatest):
            return found
        best = found.known
        for where in found.ranges:
            best = later(best, self.search(where))
        return best

    def search(self, where: ReleasedTimeRange, *, window: int = 300) -> tuple[int, int] | None:
        """Feed a search until it is done."""
        source = self.sources[where.base_offset]
        search = TimeSearch(where, name="chunks")
        while not search.is_done:
            size = max(window, search.needed_bytes)
            search.feed(source[search.position : search.position + size])
        return None if search.found is None else search.found[:2]


def split(data: bytes) -> list[BatchHeader]:
    """Return the headers of whole batches."""
    headers: list[BatchHeader] = []
    at = 0
    while at < len(data):
        headers.append(read_header(data, at))
        at += headers[-1].size
    assert at == len(data)
    return headers


def recompressed(source: bytes, base_offset: int) -> tuple[bytes, tuple[bytes, bytes]]:
    """Return the same records in gzip batches, with an index entry for every batch."""
    data, index, times, latest_ms = bytearray(), bytearray(), bytearray(), -1
    at = 0
    for header in split(source):
        batch = encode_batch(
            [(r.key, r.value, r.headers, r.timestamp_ms)
             for r in iterate(source[at : at + header.size])],
            base_offset=header.base_offset,
            leader_epoch=header.leader_epoch,
            codec=1,
            producer_id=header.producer_id,
            producer_epoch=header.producer_epoch,
            base_sequence=header.base_sequence,
        )  # fmt: skip
        relative = header.last_offset - base_offset
        if relative or data:
            index += OffsetIndex.ENTRY.pack(relative, len(data))
        if header.max_timestamp > latest_ms:
            latest_ms = header.max_timestamp
            times += TimeIndex.ENTRY.pack(latest_ms, relative)
        data += batch
        at += header.size
    assert bytes(data) != source
    return bytes(data), (bytes(index), bytes(times))


def filled(directory: str, *, settings: LogSettings = SMALL, batches: int = 60) -> Log:
    """Return a log of several segments with batches of different lengths, rising in time."""
    log = make_log(directory, settings=settings)
    rng = random.Random(7)
    for number in range(batches):
        values = [b"x" * rng.randrange(1, 120)] * rng.randrange(1, 4)
        stage(log, batch_of(values, timestamp_ms=5000 + 10 * number))
        write(log)
    sync(log)
    assert len(log.segment_list.items) >= 5
    return log


def sealed_bases(log: Log) -> list[int]:
    """Return the base offsets of the sealed segments."""
    return list(log.segment_list.bases[:-1])


def open_again(
    directory: str,
    clean: CleanLog,
    chunks: Chunks,
    *,
    settings: LogSettings = SMALL,
    files: Files | None = None,
) -> Log:
    """Open a log that was stopped cleanly."""
    return Log.open_clean(
        files or FastFiles(),
        f"{directory}/t-0",
        topic_id=TOPIC_ID,
        topic="t",
        partition=0,
        settings=settings,
        clean=clean,
        released=chunks.catalog,
    )


def recover_again(
    directory: str,
    chunks: Chunks,
    *,
    settings: LogSettings = SMALL,
    files: Files | None = None,
    point: SyncPoint | None = None,
    same_boot: bool = True,
) -> tuple[Log, RecoveryReport]:
    """Recover a log."""
    return Log.recover(
        files or FastFiles(),
        f"{directory}/t-0",
        topic_id=TOPIC_ID,
        topic="t",
        partition=0,
        settings=settings,
        sync_point=point,
        same_boot=same_boot,
        released=chunks.catalog,
    )


class NoLogFiles(FastFiles):
    """Files that remember which .log was opened."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open_read(self, path: str) -> OpenFile:
        self.opened.append(path)
        return super().open_read(path)


def released(directory: str, which: list[int], chunks: Chunks) -> Log:
    """Return a filled log of which some sealed segments are released."""
    log = filled(directory)
    everything = sealed_bases(log)
    for at in which:
        chunks.release(log, everything[at])
    return log


def hot_bytes(directory: str, base: int) -> bytes:
    """Return what a .log file holds."""
    return Path(segment_path(directory, base)).read_bytes()


def log_bytes(directory: str) -> int:
    """Return the bytes of all .log files."""
    return sum(os.path.getsize(segment_path(directory, base)) for base in bases(directory))
