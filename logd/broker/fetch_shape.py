"""The shape of a fetch that a client sends over and over: all its bytes but the offset.

A consumer of one partition repeats its request; only correlation id and offset change. Where they
lie is found once, and the next ones are read by comparing what is before and behind.
"""

from __future__ import annotations

from typing import NamedTuple

from logd.broker.fetch_sessions import FetchItem
from logd.wire.messages import fetch as messages


class FetchShape(NamedTuple):
    """A request for one partition whose bytes repeat but for the offset."""

    head: bytes
    tail: bytes
    version: int
    request: messages.FetchRequest
    item: FetchItem


def learn(
    buffer: bytearray,
    position: int,
    end: int,
    version: int,
    request: messages.FetchRequest,
    item: FetchItem,
) -> FetchShape | None:
    """Find where the fetch offset lies: the tail behind it has a length that the version gives."""
    rack = request.rack_id.encode()
    flexible = version >= 12
    tail = 4 + (8 if version >= 5 else 0) + (4 if flexible else 0)
    tail += 2 if flexible else 0  # tags of partition and topic
    if version >= 7:
        tail += 1 if flexible else 4  # no forgotten topics
    if version >= 11:
        tail += len(rack) + (1 if flexible else 2)
    tail += 1 if flexible else 0  # tags of the request
    offset_at = end - tail - 8
    if len(rack) > 126 or offset_at < position + 8:
        return None
    if int.from_bytes(buffer[offset_at : offset_at + 8], "big", signed=True) != item.offset:
        return None  # Tagged fields that we skip; the long way reads them right.
    return FetchShape(
        head=bytes(buffer[position + 8 : offset_at]),
        tail=bytes(buffer[offset_at + 8 : end]),
        version=version,
        request=request,
        item=item,
    )
