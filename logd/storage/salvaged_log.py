"""Batches out of a segment of which only some bytes are known, and segment files made of them.

The bytes lie in a file at their places in the segment; between the ranges that are known there is
nothing. A walk begins only where a batch is known to begin: at position 0, where the last one
ended, or at a place that an index or the manifest names. It is never guessed from bytes that look
right: records may hold batches themselves. What the walk gives are runs: batches one behind the
other, each whole, in its place, and with a right CRC-32C.

Each run becomes a segment of its own, so whoever opens the log finds a gap between two segments,
which recovery reports as damage, and not a silent one within a segment.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from logd.errors import CorruptFileError
from logd.storage.files import Files, OpenFile
from logd.storage.log_settings import LogSettings
from logd.storage.segment_files import rebuild_sealed, segment_paths
from logd.storage.segment_scan import scan_batches
from logd.units import INT32_MAX, MIB

_COPY_BYTES: Final = MIB
_SYNC_EVERY_BYTES: Final = 64 * MIB


@dataclass(frozen=True, slots=True)
class Run:
    """Batches one behind the other.

    Attributes:
        start, end: where they lie in the segment.
        first_offset: of the first batch.
        next_offset: behind the last one.
        batches: how many.
    """

    start: int
    end: int
    first_offset: int
    next_offset: int
    batches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialSegment:
    """What is known of a segment.

    Attributes:
        file: has the bytes, at their places.
        ranges: (start, end) of the bytes that are known, in order, neighbours joined.
        boundaries: positions at which a batch begins, rising.
        base_offset, next_offset: all offsets lie between.
        wanted: (first, next) offset of what is asked for, in order; batches that lie in none are
            left out, those that lie across an end too. No run crosses from one to the next.
    """

    file: OpenFile
    ranges: Sequence[tuple[int, int]]
    boundaries: Sequence[int]
    base_offset: int
    next_offset: int
    wanted: Sequence[tuple[int, int]]


def find_runs(files: Files, segment: PartialSegment) -> tuple[Run, ...]:
    """Return the runs of batches that can be had; every CRC was computed.

    Raises:
        OSError: the file cannot be read.
    """
    assert segment.next_offset - segment.base_offset <= INT32_MAX
    runs: list[Run] = []
    low_offset = segment.base_offset
    for start, end in segment.ranges:
        at = start if start == 0 else _next_boundary(segment, start)
        while at is not None and at < end:
            reached, low_offset = _walk(files, segment, (at, end), low_offset, runs)
            assert reached >= at
            at = _next_boundary(segment, reached + 1)
    return tuple(runs)


def _next_boundary(segment: PartialSegment, position: int) -> int | None:
    """Return the first known beginning of a batch at or behind a position."""
    at = bisect_left(segment.boundaries, position)
    return segment.boundaries[at] if at < len(segment.boundaries) else None


def _walk(
    files: Files, segment: PartialSegment, span: tuple[int, int], low_offset: int, runs: list[Run]
) -> tuple[int, int]:
    """Add the runs from a batch's beginning on, up to the first bytes that are no batch in place.

    Returns:
        Where that is, and the offset behind the last batch.
    """
    run: Run | None = None
    held: tuple[int, int] | None = None
    end = span[0]
    # CorruptFileError: no batch, or one that ends behind what is known.
    with contextlib.suppress(CorruptFileError):
        for position, header, crc_ok in scan_batches(files, segment.file, *span):
            base, following = header.base_offset, header.next_offset
            if not crc_ok or base < low_offset or following > segment.next_offset:
                break
            low_offset, end = following, position + header.size
            wanted = _holder(segment.wanted, base, following)
            if run is not None and wanted != held:
                runs.append(run)
                run = None
            held = wanted
            if run is not None:
                run = Run(run.start, end, run.first_offset, following, run.batches + 1)
            elif wanted is not None:
                run = Run(position, end, base, following, 1)
    if run is not None:
        runs.append(run)
    return end, low_offset


def _holder(
    wanted: Sequence[tuple[int, int]], first_offset: int, next_offset: int
) -> tuple[int, int] | None:
    """Return the wanted range that a batch lies in, if it does wholly."""
    assert first_offset <= next_offset
    return next(
        (each for each in wanted if each[0] <= first_offset and next_offset <= each[1]), None
    )


def write_run(
    files: Files, directory: str, file: OpenFile, run: Run, *, base_offset: int, end_bound: int
) -> int:
    """Write a run as a segment with its indexes; return the bytes of its log. All is synced.

    Args:
        base_offset: the segment's; no batch lies before it.
        end_bound: all offsets lie below.

    Raises:
        FileExistsError: there is one of that base offset. OSError: no space, or unreadable.
    """
    assert base_offset <= run.first_offset < run.next_offset <= end_bound
    paths = segment_paths(directory, base_offset)
    copy = files.create(paths.log)
    position, unsynced_bytes = run.start, 0
    while position < run.end:
        data = files.read_at(file, position, min(_COPY_BYTES, run.end - position))
        if not data:
            raise CorruptFileError(file.path, position, "the file became shorter")
        files.write_at(copy, position - run.start, [data])
        position += len(data)
        unsynced_bytes += len(data)
        if unsynced_bytes >= _SYNC_EVERY_BYTES:
            files.sync_data(copy)
            unsynced_bytes = 0
    files.sync(copy)
    add_indexes(files, directory, copy, base_offset=base_offset, end_bound=end_bound)
    return run.end - run.start


def add_indexes(
    files: Files, directory: str, file: OpenFile, *, base_offset: int, end_bound: int
) -> None:
    """Build both indexes of a segment whose log is there, and sync the directory.

    Raises:
        CorruptFileError: the log is no row of batches. OSError: no space.
    """
    assert base_offset <= end_bound
    paths = segment_paths(directory, base_offset)
    rebuild_sealed(
        files,
        paths,
        file,
        base_offset=base_offset,
        end_bound=end_bound,
        settings=LogSettings(),
        damaged=(),
    )
