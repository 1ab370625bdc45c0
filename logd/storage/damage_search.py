"""How far damage in a segment reaches: from the last good batch to the next one behind it."""

from __future__ import annotations

import contextlib

from logd.errors import CorruptFileError
from logd.storage.damage import DamagedRange, DamageList
from logd.storage.files import Files, OpenFile
from logd.storage.segment import Segment
from logd.storage.segment_files import healthy_ranges
from logd.storage.segment_scan import find_next_batch, scan_batches
from logd.units import INT32_MAX


def find_damage(
    files: Files,
    damage: DamageList,
    segment: Segment,
    file: OpenFile,
    *,
    position: int,
    size: int,
    end_offset: int,
    reason: str,
) -> DamagedRange:
    """Return the range that begins with the bad bytes at `position`: up to the next valid batch.

    Args:
        size: up to where the segment is looked at.
        end_offset: the range's end where no valid batch follows.

    Raises:
        OSError: the segment cannot be read.
    """
    assert 0 <= position <= size
    first_offset = offset_before(files, damage, segment, file, position)
    found = find_next_batch(
        files,
        file,
        position + 1,
        size,
        low_offset=first_offset,
        high_offset=min(end_offset, segment.base_offset + INT32_MAX) - 1,
    )
    return DamagedRange(
        first_offset=first_offset,
        next_offset=found.header.base_offset if found else max(end_offset, first_offset + 1),
        base_offset=segment.base_offset,
        file=segment.paths.log.rpartition("/")[2],
        position=position,
        end_position=found.position if found else size,
        reason=reason,
    )


def offset_before(
    files: Files, damage: DamageList, segment: Segment, file: OpenFile, position: int
) -> int:
    """Return the offset that follows the last batch before `position`: the first one missed."""
    next_offset = segment.base_offset
    damaged = damage.in_segment(segment.base_offset)
    for entry in damaged:
        if entry.end_position <= position:
            next_offset = entry.next_offset
    ranges = healthy_ranges(damaged, position)
    if ranges and ranges[-1][1] == position:
        with contextlib.suppress(CorruptFileError):
            for _, header, _ in scan_batches(files, file, *ranges[-1], verify=False):
                next_offset = max(next_offset, header.next_offset)
    assert next_offset >= segment.base_offset
    return next_offset
