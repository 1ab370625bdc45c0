"""The part of a Produce request that repeats, recognised without parsing it again.

A producer that sends one batch a request (all benchmarks, most clients under load) repeats
everything between the correlation id and the partition index: client id, acks, time-out, topic. So
the first request of a shape is parsed with care and its bytes are kept; the next are compared with
them (`bytearray.startswith` is a memcmp) and only partition index and record length are read.
Worth 100 k requests a second at depth 100 (measured; docs/adr/0006).

A request of any other shape is left to the generated codec in wire.messages.produce, which is also
what decides about malformed ones: `learn` and `locate` answer None, they never raise.

Source: Kafka's ProduceRequest and ProduceResponse, versions 5 to 11.
"""

from __future__ import annotations

import struct
from typing import Final

FIRST_VERSION: Final = 5
LAST_VERSION: Final = 11
_FIRST_FLEXIBLE_VERSION: Final = 9
_FIRST_VERSION_WITH_MESSAGE: Final = 8

_HEADER_BYTES: Final = 8  # api key, api version, correlation id
_INT16: Final = struct.Struct(">h")
_INT32: Final = struct.Struct(">i")
_ACKS_TIMEOUT: Final = struct.Struct(">hi")
_INDEX_SIZE: Final = struct.Struct(">ii")
_NO_TAGS: Final = b"\0\0\0"  # of partition, topic and request


class ProducePrefix:
    """One shape of request: its repeating bytes, what they say, and how its answer is packed."""

    __slots__ = ("_answer", "_answer_bytes", "_middle", "_tail", "acks", "flexible", "head",
                 "topic", "version")  # fmt: skip

    def __init__(self, *, head: bytes, version: int, acks: int, topic: str) -> None:
        self.head = head
        self.version = version
        self.acks = acks
        self.topic = topic
        self.flexible = version >= _FIRST_FLEXIBLE_VERSION
        name = topic.encode()
        if self.flexible:
            # Response header tags, 1 topic + 1, name, 1 partition + 1.
            self._middle = b"\0\x02" + bytes((len(name) + 1,)) + name + b"\x02"
            # No record errors, no message, tags of partition and topic, throttle time, tags.
            self._tail = b"\x01\0\0\0" + b"\0\0\0\0" + b"\0"
        else:
            self._middle = _INT32.pack(1) + _INT16.pack(len(name)) + name + _INT32.pack(1)
            with_message = version >= _FIRST_VERSION_WITH_MESSAGE
            self._tail = (b"\0\0\0\0\xff\xff" if with_message else b"") + b"\0\0\0\0"
        self._answer = struct.Struct(f">ii{len(self._middle)}sihqqq{len(self._tail)}s").pack
        self._answer_bytes = 4 + len(self._middle) + 30 + len(self._tail)

    def pack_answer(
        self, correlation_id: int, index: int, base_offset: int, append_time_ms: int, start: int
    ) -> bytes:
        """Return the whole answer's frame: no error, one topic, one partition."""
        return self._answer(
            self._answer_bytes,
            correlation_id,
            self._middle,
            index,
            0,
            base_offset,
            append_time_ms,
            start,
            self._tail,
        )

    def locate(self, buffer: bytearray, position: int, end: int) -> tuple[int, int, int] | None:
        """Return (partition index, position, size) of the records of a request that has this shape.

        The caller compared `head`. None where the request continues in another way.
        """
        at = position + _HEADER_BYTES + len(self.head)
        if end - at < 9:
            return None
        if not self.flexible:
            index, size = _INDEX_SIZE.unpack_from(buffer, at)
            return (index, at + 8, size) if size >= 0 and at + 8 + size == end else None
        (index,) = _INT32.unpack_from(buffer, at)
        at += 4
        size = shift = 0
        while at < end and shift <= 28:
            byte = buffer[at]
            at += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        size -= 1
        if size < 0 or at + size + 3 != end or buffer[end - 3 : end] != _NO_TAGS:
            return None
        return index, at, size


def learn(buffer: bytearray, position: int, end: int, version: int) -> ProducePrefix | None:
    """Return the shape of the request at `position` (its api key), or None if it has another
    one.
    """
    if not FIRST_VERSION <= version <= LAST_VERSION:
        return None
    flexible = version >= _FIRST_FLEXIBLE_VERSION
    try:
        parsed = _parse_head(buffer, position + _HEADER_BYTES, end, flexible)
    except (struct.error, IndexError, UnicodeDecodeError):
        return None  # Cut short or not text: the codec says what is wrong with it.
    if parsed is None:
        return None
    acks, topic, head_end = parsed
    if head_end > end:
        return None
    head = bytes(buffer[position + _HEADER_BYTES : head_end])
    return ProducePrefix(head=head, version=version, acks=acks, topic=topic)


def _parse_head(
    buffer: bytearray, at: int, end: int, flexible: bool
) -> tuple[int, str, int] | None:
    """Return (acks, topic, position of the partition index)."""
    (length,) = _INT16.unpack_from(buffer, at)
    at += 2 + max(length, 0)
    if flexible:
        # Header tags: none. Transactional id: null.
        if buffer[at] != 0 or buffer[at + 1] != 0:
            return None
        at += 2
        acks, _ = _ACKS_TIMEOUT.unpack_from(buffer, at)
        at += 6
        # One topic; a name whose length takes one byte.
        if buffer[at] != 2 or not 2 <= buffer[at + 1] < 0x80:
            return None
        length = buffer[at + 1] - 1
        at += 2
        if at + length >= end or buffer[at + length] != 2:
            return None
        return acks, str(buffer[at : at + length], "utf-8"), at + length + 1
    (length,) = _INT16.unpack_from(buffer, at)
    if length != -1:
        return None
    acks, _ = _ACKS_TIMEOUT.unpack_from(buffer, at + 2)
    at += 8
    topics, length = struct.unpack_from(">ih", buffer, at)
    at += 6
    if topics != 1 or length < 1 or at + length + 4 > end:
        return None
    if _INT32.unpack_from(buffer, at + length)[0] != 1:
        return None
    return acks, str(buffer[at : at + length], "utf-8"), at + length + 4
