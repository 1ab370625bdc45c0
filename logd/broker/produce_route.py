"""Where requests of one shape go: most producers send the same bytes around each batch.

A connection keeps one route. While requests are like the one that it was made of, their records are
found by comparing bytes, and nothing is parsed; a run of them is found in one pass.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from logd.broker.partition import Partition
from logd.wire.frame import LENGTH, LENGTH_BYTES
from logd.wire.produce_prefix import ProducePrefix

ACKS_ALL: Final = -1
_INT32: Final = struct.Struct(">i")


class ProduceRoute:
    """Where requests of one shape go, looked up once; good while `topics_version` is current."""

    __slots__ = ("frame_bytes", "head", "middle", "partitions", "prefix", "records_at", "size",
                 "size_at", "size_field", "start", "tail", "topics_version", "unpack", "version",
                 "wants_sync")  # fmt: skip

    def __init__(
        self, prefix: ProducePrefix, partitions: list[Partition | None], *, topics_version: int
    ) -> None:
        self.prefix = prefix
        self.head = prefix.head
        self.version = prefix.version
        self.wants_sync = prefix.acks == ACKS_ALL
        self.partitions = partitions
        self.topics_version = topics_version
        # Of the last request: most producers' requests are as long as each other.
        self.frame_bytes = -1
        self.size_at = 8 + len(prefix.head) + 4
        self.size_field = self.tail = b""
        self.records_at = 0
        self.size = 0
        # The same, for a whole run: everything before the records but the correlation id.
        self.start = self.middle = b""
        self.unpack: Callable[[bytearray, int], tuple[bytes, int, bytes]]

    def find_run(
        self, buffer: bytearray, position: int, end: int, limit: int
    ) -> tuple[int, list[int]]:
        """Return the partition and the correlation ids of the requests like the last one.

        Args:
            position: of the first one's length field.
        """
        correlation_ids: list[int] = []
        if self.frame_bytes < 0:
            return -1, correlation_ids
        stride = LENGTH_BYTES + self.frame_bytes
        start, middle, tail = self.start, self.middle, self.tail
        tail_at = stride - len(tail)
        unpack = self.unpack
        index = _INT32.unpack_from(middle, len(self.head))[0]
        while position + stride <= end and len(correlation_ids) < limit:
            found_start, correlation_id, found_middle = unpack(buffer, position)
            if (
                found_start != start
                or found_middle != middle
                or not buffer.startswith(tail, position + tail_at)
            ):
                break
            correlation_ids.append(correlation_id)
            position += stride
        return index, correlation_ids

    def remember(self, buffer: bytearray, position: int, end: int, at: int, size: int) -> None:
        """Note where a request that was looked at with care had its records."""
        self.frame_bytes = end - position
        self.records_at = at - position
        self.size_field = bytes(buffer[position + self.size_at : at])
        self.tail = bytes(buffer[at + size : end])
        self.size = size
        self.start = LENGTH.pack(end - position) + bytes(buffer[position : position + 4])
        self.middle = bytes(buffer[position + 8 : at])
        self.unpack = struct.Struct(f">8si{len(self.middle)}s").unpack_from
