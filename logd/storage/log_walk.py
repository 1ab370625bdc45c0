"""Every batch of a .log file, and every stretch of it that is no batch. Reads only.

Unlike recovery, which must decide what to keep, this walk only reports: what is no valid batch is a
`Damage`, and the walk goes on at the next place where a whole batch with a right checksum and a
fitting offset begins. So a file with a hole in it is shown whole: before, hole, after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from logd.errors import CorruptFileError
from logd.storage.files import Files, OpenFile
from logd.storage.segment_scan import ScannedBatch, find_next_batch, scan_batches
from logd.units import INT32_MAX, INT64_MAX


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes [position, end) of a file that cannot be right.

    Attributes:
        end: where it ends; the file's size where nothing valid follows.
        reason: what was found, or what was expected.
    """

    path: str
    position: int
    end: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: damaged at position {self.position}: {self.reason}"


def walk_log(
    files: Files, file: OpenFile, *, base_offset: int = 0
) -> Iterator[ScannedBatch | Damage]:
    """Yield the file's batches and damaged stretches, which together are the whole file, in order.

    Every batch that is yielded has a right checksum.

    Args:
        base_offset: of the segment; no batch may begin before it.

    Raises:
        OSError: the file cannot be read.
    """
    assert base_offset >= 0
    size = files.size(file)
    # A segment's offsets fit 31 bits from its base on, as its indexes need.
    high_offset = min(base_offset + INT32_MAX, INT64_MAX)
    position, next_offset = 0, base_offset
    while position < size:
        reason = ""
        try:
            for scanned in scan_batches(files, file, position, size):
                reason = _fault(scanned, next_offset, high_offset)
                if reason:
                    break
                yield scanned
                position += scanned.header.size
                next_offset = scanned.header.next_offset
        except CorruptFileError as error:
            reason = error.reason
        if reason:
            end = _next_position(files, file, position + 1, size, next_offset, high_offset)
            yield Damage(file.path, position, end, reason)
            position = end


def _fault(scanned: ScannedBatch, low_offset: int, high_offset: int) -> str:
    header = scanned.header
    if not scanned.crc_ok:
        return f"the batch of offset {header.base_offset} fails its CRC-32C"
    if header.base_offset < low_offset:
        return f"offset {header.base_offset} where {low_offset} or more must follow"
    if header.last_offset > high_offset:
        return f"offset {header.last_offset}, where a segment can hold {high_offset} at most"
    return ""


def _next_position(
    files: Files, file: OpenFile, start: int, size: int, low_offset: int, high_offset: int
) -> int:
    if low_offset > high_offset:
        return size
    found = find_next_batch(
        files, file, start, size, low_offset=low_offset, high_offset=high_offset
    )
    assert found is None or found.position >= start
    return size if found is None else found.position
