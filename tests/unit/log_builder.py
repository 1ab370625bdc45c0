"""Small logs for tests: made, filled, read, opened again."""

from __future__ import annotations

import os
from collections.abc import Sequence

from logd.record.batch import HEADER_BYTES, BatchHeader, read_header
from logd.record.records import encode_batch
from logd.storage.clean_stop import CleanLog
from logd.storage.file_slice import FileSlice
from logd.storage.files import Files
from logd.storage.log import Log, LogSettings
from logd.storage.open_files import OpenFiles
from logd.storage.recovery import RecoveryReport
from logd.storage.sync_record import SyncPoint
from tests.crash.lying_disk import FastFiles

TOPIC_ID = bytes(range(16))
SMALL = LogSettings(segment_bytes=2000, index_interval_bytes=200)
NOW_MS = 1_000_000


def make_log(
    directory: str,
    *,
    settings: LogSettings = SMALL,
    files: Files | None = None,
    open_files: OpenFiles | None = None,
) -> Log:
    """Create an empty log in `directory`/t-0."""
    return Log.create(
        files or FastFiles(),
        f"{directory}/t-0",
        topic_id=TOPIC_ID,
        topic="t",
        partition=0,
        settings=settings,
        open_files=open_files,
    )


def reopen(
    directory: str, clean: CleanLog, *, settings: LogSettings = SMALL, files: Files | None = None
) -> Log:
    """Open the log of `directory` after a clean stop."""
    return Log.open_clean(
        files or FastFiles(),
        f"{directory}/t-0",
        topic_id=TOPIC_ID,
        topic="t",
        partition=0,
        settings=settings,
        clean=clean,
    )


def recover_log(
    directory: str,
    *,
    settings: LogSettings = SMALL,
    files: Files | None = None,
    point: SyncPoint | None = None,
    same_boot: bool = True,
    from_begin: bool = False,
) -> tuple[Log, RecoveryReport]:
    """Recover the log of `directory`."""
    return Log.recover(
        files or FastFiles(),
        f"{directory}/t-0",
        topic_id=TOPIC_ID,
        topic="t",
        partition=0,
        settings=settings,
        sync_point=point,
        same_boot=same_boot,
        from_begin=from_begin,
    )


def batch_of(
    values: Sequence[bytes] = (b"value",), *, timestamp_ms: int = 5000, **fields: int
) -> bytearray:
    """Return a batch of records without keys, all of one time."""
    return encode_batch([(None, value, [], timestamp_ms) for value in values], **fields)


def stage(log: Log, batch: bytearray, *, now_ms: int = NOW_MS) -> int:
    """Stage one batch; return its base offset."""
    return log.stage(batch, 0, read_header(batch), now_ms=now_ms)


def write(log: Log) -> None:
    """Write what is staged, if anything."""
    staged = log.take_staged()
    if staged is not None:
        log.finish_write(staged, log.write(staged))


def sync(log: Log) -> SyncPoint | None:
    """Sync what is written; return what the journal would be told."""
    ticket = log.begin_sync()
    if ticket is None:
        return None
    log.sync(ticket)
    log.finish_sync(ticket)
    return ticket.point


def append(log: Log, *batches: bytearray, now_ms: int = NOW_MS) -> SyncPoint | None:
    """Append batches in one write, and sync."""
    for batch in batches:
        stage(log, batch, now_ms=now_ms)
    write(log)
    return sync(log)


def fill(log: Log, count: int, *, records: int = 2, size: int = 50) -> SyncPoint | None:
    """Append `count` batches, each in a write of its own; then sync."""
    for number in range(count):
        stage(log, batch_of([b"x" * size] * records, timestamp_ms=5000 + number))
        write(log)
    return sync(log)


def headers_in(log: Log, piece: FileSlice) -> list[BatchHeader]:
    """Return the headers of the batches in a slice, which must be whole."""
    data = log.files.read_at(piece.file, piece.position, piece.size)
    assert len(data) == piece.size
    headers: list[BatchHeader] = []
    at = 0
    while at < len(data):
        assert at + HEADER_BYTES <= len(data)
        headers.append(read_header(data, at))
        at += headers[-1].size
    assert at == len(data)
    return headers


def segment_path(directory: str, base_offset: int, suffix: str = ".log") -> str:
    """Return the path of a segment's file."""
    return f"{directory}/t-0/{base_offset:020d}{suffix}"


def bases(directory: str) -> list[int]:
    """Return the base offsets of the segments on disk."""
    names = sorted(os.listdir(f"{directory}/t-0"))
    return [int(name[:20]) for name in names if name.endswith(".log")]


def overwrite(path: str, position: int, data: bytes) -> None:
    """Put other bytes into a file."""
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(data)


def offsets_read(log: Log, start: int, end: int, max_bytes: int = 1 << 30) -> list[int]:
    """Return the base offsets of the batches that a reader sees, in slices of max_bytes."""
    found = []
    offset = start
    while offset < end:
        piece = log.try_read(offset, max_bytes=max_bytes, below=end)
        if piece is None:
            piece = log.read(offset, max_bytes=max_bytes, below=end)
        headers = headers_in(log, piece)
        assert headers
        assert headers[0].base_offset <= offset < headers[0].next_offset
        assert piece.next_offset in (-1, headers[-1].next_offset)
        assert piece.size <= max_bytes or len(headers) == 1
        found += [header.base_offset for header in headers]
        offset = headers[-1].next_offset
    return found
