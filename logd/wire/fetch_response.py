"""The Fetch response, written by hand: it carries ranges of files instead of bytes.

The answer is a list of parts to send one behind the other: headers as bytes, and between them the
record ranges as whatever object the caller gave, of which only `size` is looked at here. So the
bytes of the log never pass through Python.

All versions from 4 to 17. Tagged fields (diverging epoch, current leader, node endpoints) are left
out: they are optional, and nothing here has anything to say in them.

Source: Kafka's FetchResponse schema; KIP-227 (sessions), KIP-392 (preferred replica), KIP-516
(topic ids). A test holds it against the generated codec.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from logd.wire.frame import LENGTH

FIRST_VERSION: Final = 4
LAST_VERSION: Final = 17
_FIRST_FLEXIBLE: Final = 12
_FIRST_WITH_LOG_START: Final = 5
_FIRST_WITH_SESSION: Final = 7
_FIRST_WITH_PREFERRED_REPLICA: Final = 11
_FIRST_WITH_TOPIC_ID: Final = 13

_INT16: Final = struct.Struct(">h")
_INT32: Final = struct.Struct(">i")
_NO_REPLICA: Final = -1
_NULL_LEGACY: Final = b"\xff\xff\xff\xff"
_EMPTY_LEGACY: Final = b"\0\0\0\0"


class Records(Protocol):
    """A range of whole record batches."""

    @property
    def size(self) -> int:
        """Bytes in the range."""
        ...


class PartitionFetched(NamedTuple):
    """One partition's part of the answer."""

    partition: int
    error_code: int
    high_watermark: int
    log_start_offset: int
    records: Records | None


class TopicFetched(NamedTuple):
    """One topic's part; `name` is sent up to version 12, the id from 13 on."""

    name: str
    topic_id: bytes
    partitions: list[PartitionFetched]


class _Layout:
    """What depends on the version alone, worked out once."""

    def __init__(self, version: int) -> None:
        self.flexible = version >= _FIRST_FLEXIBLE
        self.by_id = version >= _FIRST_WITH_TOPIC_ID
        self.with_session = version >= _FIRST_WITH_SESSION
        self.with_log_start = version >= _FIRST_WITH_LOG_START
        self.with_replica = version >= _FIRST_WITH_PREFERRED_REPLICA
        # index, error, high watermark, last stable offset
        self.partition = struct.Struct(">ihqqq" if self.with_log_start else ">ihqq").pack
        self.replica = _INT32.pack(_NO_REPLICA) if self.with_replica else b""
        self.null_list = b"\0" if self.flexible else _NULL_LEGACY
        self.empty_list = b"\x01" if self.flexible else _EMPTY_LEGACY
        self.tags = b"\0" if self.flexible else b""

    def count(self, count: int) -> bytes:
        """Return an array's or a records field's length."""
        return _uvarint(count + 1) if self.flexible else _INT32.pack(count)

    def topic(self, topic: TopicFetched) -> bytes:
        """Return how the version names a topic."""
        if self.by_id:
            return topic.topic_id
        name = topic.name.encode()
        return (_uvarint(len(name) + 1) if self.flexible else _INT16.pack(len(name))) + name


_LAYOUTS: Final = {v: _Layout(v) for v in range(FIRST_VERSION, LAST_VERSION + 1)}


def encode(
    version: int,
    correlation_id: int,
    topics: Sequence[TopicFetched],
    *,
    session_id: int,
    error_code: int,
    read_committed: bool,
) -> list[bytes | Records]:
    """Return the parts of the whole frame, in order; neighbouring bytes are joined.

    The last stable offset equals the high watermark: there are no transactions. So the list of
    aborted ones is empty for a client that reads committed data, and null for others.
    """
    layout = _LAYOUTS[version]
    tags = layout.tags
    aborted = (layout.empty_list if read_committed else layout.null_list) + layout.replica
    parts: list[bytes | Records] = []
    # Header tags, throttle time, error, session.
    head = [tags, _EMPTY_LEGACY]
    if layout.with_session:
        head.append(struct.pack(">hi", error_code, session_id))
    head.append(layout.count(len(topics)))
    for topic in topics:
        head.append(layout.topic(topic))
        head.append(layout.count(len(topic.partitions)))
        for index, code, high_watermark, log_start, records in topic.partitions:
            if layout.with_log_start:
                head.append(
                    layout.partition(index, code, high_watermark, high_watermark, log_start)
                )
            else:
                head.append(layout.partition(index, code, high_watermark, high_watermark))
            head.append(aborted)
            size = 0 if records is None else records.size
            head.append(layout.count(size))
            if records is not None and size:
                parts.append(b"".join(head))
                parts.append(records)
                head = []
            head.append(tags)
        head.append(tags)
    head.append(tags)
    parts.append(b"".join(head))
    size = sum(part.size if not isinstance(part, bytes) else len(part) for part in parts)
    first = parts[0]
    assert isinstance(first, bytes)
    parts[0] = LENGTH.pack(size + 4) + _INT32.pack(correlation_id) + first
    return parts


def _uvarint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
