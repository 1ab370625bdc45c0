"""Offsets by time in coded segments: the log says where to look, the bytes come from chunks."""

from __future__ import annotations

from typing import Final

from logd.cold.reading import ColdReads
from logd.errors import ColdRangeError, CorruptFileError
from logd.storage.released_times import ReleasedLatest, ReleasedTimeRange, TimeSearch, later
from logd.units import KIB

STEP_BYTES: Final = 256 * KIB
"""Read at a time: the time index leads to within some batches of the record."""

Found = tuple[int, int, int]
"""Offset, timestamp, leader epoch."""


async def find_by_time(
    reads: ColdReads, topic_id: bytes, partition: int, where: ReleasedTimeRange
) -> Found | None:
    """Return the record that a range asks for; None: it is not in that segment.

    Raises:
        ColdRangeError: the bytes cannot be read, or are not what they must be.
    """
    name = f"the segment at {where.base_offset}"
    search = TimeSearch(where, name=name)
    while not search.is_done:
        start = search.position
        end = min(start + max(search.needed_bytes, STEP_BYTES), where.size_bytes)
        data = await reads.read_source(
            topic_id, partition, base_offset=where.base_offset, start=start, end=end
        )
        try:
            await reads.in_thread(search.feed, data)
        except CorruptFileError as error:
            raise ColdRangeError(f"{name} cannot be searched: {error}") from error
    return search.found


async def find_latest(
    reads: ColdReads, topic_id: bytes, partition: int, where: ReleasedLatest
) -> tuple[int, int] | None:
    """Return offset and timestamp of the latest record, the first of several.

    Raises:
        ColdRangeError: as `find_by_time`.
    """
    best = where.known
    for each in where.ranges:
        found = await find_by_time(reads, topic_id, partition, each)
        best = later(best, None if found is None else found[:2])
    return best
