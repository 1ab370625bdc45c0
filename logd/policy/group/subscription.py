"""Which topics the members of a consumer group are subscribed to.

The metadata of a group's members belongs to its clients. Only for the protocol type "consumer" is
it known what it begins with: a version, then the names of topics; whatever later versions add comes
behind. It is a client's word, so every length in it is checked before it is used.

Source: Kafka's ConsumerProtocolSubscription, version 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

CONSUMER: Final = "consumer"
"""The protocol type of groups whose metadata can be read."""

_HEAD: Final = struct.Struct(">hi")
_LENGTH: Final = struct.Struct(">h")


def topics_of_all(subscriptions: Iterable[bytes]) -> frozenset[str] | None:
    """Return the topics of all these subscriptions; None if one of them cannot be read."""
    topics: set[str] = set()
    try:
        for metadata in subscriptions:
            topics.update(read_topics(metadata))
    except ValueError:
        return None
    return frozenset(topics)


def read_topics(metadata: bytes) -> list[str]:
    """Return the topics that a subscription names.

    Raises:
        ValueError: the bytes are something else.
    """
    if len(metadata) < _HEAD.size:
        raise ValueError("a subscription is at least a version and a count")
    version, count = _HEAD.unpack_from(metadata)
    if version < 0 or not 0 <= count * _LENGTH.size <= len(metadata):
        raise ValueError(f"no subscription has version {version} and {count} topics in its bytes")
    topics: list[str] = []
    position = _HEAD.size
    for _ in range(count):
        topic, position = _read_string(metadata, position)
        topics.append(topic)
    return topics


def _read_string(metadata: bytes, position: int) -> tuple[str, int]:
    begin = position + _LENGTH.size
    if begin > len(metadata):
        raise ValueError("a subscription ends within a length")
    (length,) = _LENGTH.unpack_from(metadata, position)
    if not 0 <= length <= len(metadata) - begin:
        raise ValueError(f"a topic's name of {length} bytes is not in its subscription")
    # Bytes that are not UTF-8 raise a ValueError as well.
    return metadata[begin : begin + length].decode(), begin + length
