"""Checkpoint S: from where recovery walks the log.

A checkpoint says: at this position of this segment the log had this offset, these producers, this
greatest timestamp; everything below is on the device, data and index entries alike. It is one file,
`<20-digit offset>.producers`, a state file (see `producer_state`), written after the data and the
indexes were synced, and the last two are kept: the newest may lie in a tail that was damaged.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Final

from logd.errors import CorruptFileError, UnsupportedFormatError
from logd.storage.files import Files
from logd.storage.layout import PRODUCERS_SUFFIX, offset_name
from logd.storage.producer_state import (
    SNAPSHOT_BYTES_MAX,
    SNAPSHOT_HEAD_BYTES,
    SNAPSHOT_VERSION,
    ProducerSnapshot,
    decode_snapshot,
    encode_snapshot,
)
from logd.storage.state_file import HEADER_BYTES, read_state, write_state

SNAPSHOTS_KEPT: Final = 2

EMPTY_SNAPSHOT_BYTES: Final = HEADER_BYTES + SNAPSHOT_HEAD_BYTES
"""The length of a snapshot that names no producer; any other one is longer."""


def snapshot_path(directory: str, offset: int) -> str:
    """Return the path of the snapshot as of `offset`."""
    return f"{directory}/{offset_name(offset)}{PRODUCERS_SUFFIX}"


def write_snapshot(
    files: Files, directory: str, snapshot: ProducerSnapshot, known: list[int]
) -> list[int]:
    """Write a snapshot, then unlink those before the last two; return the offsets that are left.

    Durability: once this returns, a restart finds the snapshot. A crash leaves it or the older
    ones.

    Raises:
        OSError: the older ones are still there.
    """
    assert snapshot.offset >= snapshot.segment_base
    payload = encode_snapshot(snapshot)
    assert len(payload) <= SNAPSHOT_BYTES_MAX
    path = snapshot_path(directory, snapshot.offset)
    write_state(files, path, payload, version=SNAPSHOT_VERSION)
    offsets = sorted({*known, snapshot.offset})
    for offset in offsets[:-SNAPSHOTS_KEPT]:
        # One that stays behind is removed next time.
        with contextlib.suppress(OSError):
            files.unlink(snapshot_path(directory, offset))
    return offsets[-SNAPSHOTS_KEPT:]


def read_snapshot(files: Files, directory: str, offset: int) -> ProducerSnapshot:
    """Read the snapshot as of `offset`.

    Raises:
        CorruptFileError, UnsupportedFormatError, OSError: it cannot be used.
    """
    path = snapshot_path(directory, offset)
    _, payload = read_state(
        files, path, limit_bytes=SNAPSHOT_BYTES_MAX, newest_version=SNAPSHOT_VERSION
    )
    snapshot = decode_snapshot(path, payload)
    if snapshot.offset != offset:
        raise CorruptFileError(path, 0, f"is the snapshot of offset {snapshot.offset}")
    return snapshot


def has_no_producers(files: Files, directory: str, offset: int) -> bool:
    """Return whether the snapshot as of `offset` names no producer, by its length alone.

    For starts after a clean stop: most logs have no idempotent producers, and a thousand files need
    not be read to learn that.

    Raises:
        OSError: it is not there.
    """
    return files.stat_size(snapshot_path(directory, offset)) == EMPTY_SNAPSHOT_BYTES


def find_snapshot(
    files: Files, directory: str, offsets: list[int], sizes: dict[int, int], *, log_start: int
) -> ProducerSnapshot | None:
    """Return the newest snapshot that can be read and that lies within the segments, if any.

    One as of the end of a segment that was deleted is as good as one of the next one's beginning,
    and is returned as that.

    Args:
        sizes: bytes of each segment by base offset.
    """
    for offset in sorted(offsets, reverse=True):
        try:
            snapshot = read_snapshot(files, directory, offset)
        except (CorruptFileError, UnsupportedFormatError, OSError):
            continue  # An older one, or a walk of the whole log, gives the same.
        if snapshot.position <= sizes.get(snapshot.segment_base, -1):
            return snapshot
        is_deleted = snapshot.segment_base not in sizes and offset <= log_start
        if is_deleted and offset in sizes:
            return replace(
                snapshot,
                segment_base=offset,
                position=0,
                max_timestamp_ms=-1,
                max_timestamp_offset=offset,
            )
    return None
