"""Batches on their way into a log: staged by the event loop, written by one thread or the loop.

A `StagedWrite` is what is written at a time. It consists of parts, one for each segment it goes to.
A part is all or nothing: a write that fails is cut off again. The parts before it stay written.

Concurrency: the loop fills parts; `take_staged` hands them over, and from then on only the writer
touches them; when the writer is done (or failed), the loop reads what it noted and publishes it.
"""

from __future__ import annotations

from typing import NamedTuple

from logd.storage.segment import Segment
from logd.storage.segment_files import MaxTimestamp


class StagedPart:
    """The batches that go into one segment, one behind the other.

    Attributes:
        rolls: a new segment begins with this part.
        first_offset, end_offset: the offsets; the second one exclusive.
        position: where the part begins in the segment's file; set when the writer takes it.
        buffers: the bytes, slices of the receive buffer.
        first_append_ms: when the first of them came.
        segment, max_timestamp, bytes_since_entry: noted by the writer once the part is written.
    """

    __slots__ = (
        "batches",
        "buffers",
        "bytes_since_entry",
        "end_offset",
        "first_append_ms",
        "first_offset",
        "max_timestamp",
        "position",
        "rolls",
        "segment",
        "size",
    )

    def __init__(self, first_offset: int, first_append_ms: int) -> None:
        assert first_offset >= 0
        self.rolls = False
        self.first_offset = first_offset
        self.end_offset = first_offset
        self.position = 0
        self.size = 0
        self.first_append_ms = first_append_ms
        self.buffers: list[memoryview] = []
        # What the indexes need of each batch: its last offset, its position from the start of the
        # part, its size, its timestamp in ms. Plain tuples: one is made for each batch.
        self.batches: list[tuple[int, int, int, int]] = []
        self.segment: Segment | None = None
        self.max_timestamp: MaxTimestamp | None = None
        self.bytes_since_entry = 0


class StagedWrite:
    """All that was staged when the writer came; at most one is out at a time.

    Attributes:
        rolls: the write takes more than one pwritev (it rolls, or has to open files first): not on
            the event loop.
        created: segments that the writer made, in order.
        written_parts: how many parts are in their files.
    """

    __slots__ = ("created", "parts", "rolls", "size", "written_parts")

    def __init__(self, parts: list[StagedPart], *, rolls: bool, size: int) -> None:
        assert parts
        self.parts = parts
        self.rolls = rolls
        self.size = size
        self.created: list[Segment] = []
        self.written_parts = 0


class WriteResult(NamedTuple):
    """What a successful write did."""

    end_offset: int
    size_bytes: int
