"""Which partitions a consumer group's leader gave a member.

As with subscriptions, only the protocol type "consumer" is known, and it is a client's word: every
length is checked before it is used.

    version int16 | topics: count int32, each: name (int16 length), partitions: count int32, int32…

What later versions add comes behind.

Source: Kafka's ConsumerProtocolAssignment, version 0.
"""

from __future__ import annotations

import struct
from typing import Final

_HEAD: Final = struct.Struct(">hi")
_LENGTH: Final = struct.Struct(">h")
_COUNT: Final = struct.Struct(">i")
_TOPIC_BYTES_MIN: Final = _LENGTH.size + _COUNT.size


def read_assignment(raw: bytes) -> list[tuple[str, list[int]]]:
    """Return topics with the partitions that were given; nothing for an empty assignment.

    Raises:
        ValueError: the bytes are something else.
    """
    if not raw:
        return []
    try:
        version, count = _HEAD.unpack_from(raw)
        if version < 0 or not 0 <= count * _TOPIC_BYTES_MIN <= len(raw):
            raise ValueError(f"no assignment has version {version} and {count} topics")
        assigned = []
        position = _HEAD.size
        for _ in range(count):
            topic, partitions, position = _read_topic(raw, position)
            assigned.append((topic, partitions))
    except struct.error as error:
        raise ValueError(f"an assignment ends early: {error}") from error
    return assigned


def _read_topic(raw: bytes, position: int) -> tuple[str, list[int], int]:
    (length,) = _LENGTH.unpack_from(raw, position)
    begin = position + _LENGTH.size
    if not 0 <= length <= len(raw) - begin:
        raise ValueError(f"a topic's name of {length} bytes is not in its assignment")
    position = begin + length
    (count,) = _COUNT.unpack_from(raw, position)
    position += _COUNT.size
    if not 0 <= count * _COUNT.size <= len(raw) - position:
        raise ValueError(f"{count} partitions are not in their assignment")
    partitions = list(struct.unpack_from(f">{count}i", raw, position))
    # Bytes that are not UTF-8 raise a ValueError as well.
    return raw[begin : begin + length].decode(), partitions, position + count * _COUNT.size
