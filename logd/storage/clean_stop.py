"""The marker of a clean stop: where every log ended, so that the next start need not scan any.

A state file (state_file, payload version 1) whose payload is JSON in UTF-8:

    {"cluster_id": "…", "logs": [[topic id as 32 hex digits, partition, log start offset,
      log end offset, leader epoch, base offset of the active segment, bytes in its .log, bytes of
      all segments, [base offsets of all segments, the active one last], number of segments], …]}

It is written when all logs are closed and synced, and removed, durably, before the first write
after a start. So it is there only while it is true. It saves work and proves nothing: a start
without it, or with a damaged one, is a start after a crash, and recovery finds out the same by
reading.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from logd.storage.files import Files
from logd.storage.json_state import read_json_state
from logd.storage.layout import PARTITIONS_MAX, TOPIC_ID_BYTES
from logd.storage.state_file import write_state
from logd.units import INT32_MAX, INT64_MAX, MIB

CLEAN_STOP_VERSION: Final = 1
# 100,000 partitions with ten segments each have 30 MB.
CLEAN_STOP_BYTES_MAX: Final = 256 * MIB


@dataclass(frozen=True, slots=True)
class CleanLog:
    """Where one log ended.

    Attributes:
        active_base: base offset of the active segment.
        active_size: bytes in the active segment's .log, all of them whole batches, all synced.
        size_bytes: bytes of all segments, released ones as their source.
        segment_bases: base offsets of all segments in order, the active one last; empty: not noted.
        segment_count: of all segments, released ones too; 0: not noted, by an older version.
    """

    log_start_offset: int
    log_end_offset: int
    leader_epoch: int
    active_base: int
    active_size: int
    size_bytes: int
    segment_bases: tuple[int, ...] = ()
    segment_count: int = 0

    def __post_init__(self) -> None:
        assert 0 <= self.log_start_offset <= self.log_end_offset
        assert 0 <= self.active_base <= self.log_end_offset
        assert 0 <= self.active_size <= self.size_bytes
        assert not self.segment_bases or self.segment_bases[-1] == self.active_base


@dataclass(frozen=True, slots=True)
class CleanStop:
    """What a clean stop left behind: its logs by (topic id, partition)."""

    logs: dict[tuple[bytes, int], CleanLog]


def write_clean_stop(files: Files, path: str, stop: CleanStop, *, cluster_id: str) -> None:
    """Write the marker; durable once this returns.

    Raises:
        OSError: it may be there or not; either is right.
    """
    rows = [
        [
            topic_id.hex(),
            partition,
            log.log_start_offset,
            log.log_end_offset,
            log.leader_epoch,
            log.active_base,
            log.active_size,
            log.size_bytes,
            log.segment_bases,
            *((log.segment_count,) if log.segment_count else ()),
        ]
        for (topic_id, partition), log in stop.logs.items()
    ]
    payload = json.dumps({"cluster_id": cluster_id, "logs": rows}, separators=(",", ":")).encode()
    assert len(payload) <= CLEAN_STOP_BYTES_MAX
    write_state(files, path, payload, version=CLEAN_STOP_VERSION)


def read_clean_stop(files: Files, path: str, *, cluster_id: str) -> CleanStop:
    """Return what the marker says.

    Raises:
        FileNotFoundError: there is none: the last stop was not clean.
        CorruptFileError: damaged, of another cluster, or it says what cannot be.
        UnsupportedFormatError: of a newer version.
        OSError: it cannot be read.
    """
    assert cluster_id

    def decode(document: Any) -> CleanStop:
        if document["cluster_id"] != cluster_id:
            raise ValueError(f"belongs to cluster {document['cluster_id']}")
        return CleanStop(dict(map(_decode_row, document["logs"])))

    return read_json_state(
        files,
        path,
        decode,
        what="clean-stop marker of ours",
        limit_bytes=CLEAN_STOP_BYTES_MAX,
        newest_version=CLEAN_STOP_VERSION,
    )


def _decode_row(row: list[Any]) -> tuple[tuple[bytes, int], CleanLog]:
    """Return one log; ValueError or TypeError where the row says what cannot be."""
    topic_hex, partition, start, end, epoch, active_base, active_size, size, bases, *more = row
    count = more[0] if more else 0
    topic_id = bytes.fromhex(topic_hex)
    if not (len(topic_id) == TOPIC_ID_BYTES and 0 <= partition < PARTITIONS_MAX):
        raise ValueError(f"{row[:2]} names no partition")
    if not (0 <= start <= end <= INT64_MAX and 0 <= active_base <= end and 0 <= epoch <= INT32_MAX):
        raise ValueError(f"{row[:6]}: offsets that cannot be")
    if not (0 <= active_size <= size <= INT64_MAX):
        raise ValueError(f"{row[:2]}: sizes that cannot be")
    if bases and (bases[-1] != active_base or bases != sorted(set(bases)) or bases[0] < 0):
        raise ValueError(f"{row[:2]}: segments that cannot be")
    if len(more) > 1 or not 0 <= count <= INT64_MAX:
        raise ValueError(f"{row[:2]}: a number of segments that cannot be")
    if not all(type(value) is int for value in (*row[1:8], *bases, count)):
        raise TypeError(f"{row[:2]}: a number that is none")
    log = CleanLog(start, end, epoch, active_base, active_size, size, tuple(bases), count)
    assert log.size_bytes >= log.active_size
    return (topic_id, partition), log
