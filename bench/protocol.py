"""Kafka requests as bytes, built by hand, and the places in an answer where a client must look.

This is the benchmark's own idea of the protocol: it shares no code with the server, so that a
mistake in the server's codecs cannot hide itself here, and so that a request costs nothing to send:
it is built once and sent a million times. Only what the benchmarks need is here, each API in one
version:

    Produce 9, Fetch 12, CreateTopics 4, DeleteTopics 3, IncrementalAlterConfigs 0, ApiVersions 0

Produce 9 and Fetch 12 are the versions that clients of several years ago up to today's choose or
come close to. Both are "flexible": strings and arrays carry their length plus one as a varint,
structures end with a count of tagged fields, always 0 here.

Source: the Kafka protocol guide; KIP-98 (record batches), KIP-482 (flexible versions).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from crc32c import crc32c

PRODUCE: Final = 0
FETCH: Final = 1
API_VERSIONS: Final = 18
CREATE_TOPICS: Final = 19
DELETE_TOPICS: Final = 20
ALTER_CONFIGS: Final = 44

PRODUCE_VERSION: Final = 9
FETCH_VERSION: Final = 12
CREATE_TOPICS_VERSION: Final = 4
DELETE_TOPICS_VERSION: Final = 3
ALTER_CONFIGS_VERSION: Final = 0

CLIENT_ID: Final = b"logd-bench"
CORRELATION_ID: Final = 7
TIMEOUT_MS: Final = 30_000

BATCH_HEADER_BYTES: Final = 61
BATCH_CRC_START: Final = 21
RECORD_VALUE_BYTES: Final = 100
_NO_TAGS: Final = b"\0"
_TOPIC_RESOURCE: Final = 2
_SET_CONFIG: Final = 0

ERROR_NAMES: Final[Mapping[int, str]] = {
    -1: "UNKNOWN_SERVER_ERROR",
    1: "OFFSET_OUT_OF_RANGE",
    2: "CORRUPT_MESSAGE",
    3: "UNKNOWN_TOPIC_OR_PARTITION",
    6: "NOT_LEADER_OR_FOLLOWER",
    10: "MESSAGE_TOO_LARGE",
    14: "COORDINATOR_LOAD_IN_PROGRESS",
    15: "COORDINATOR_NOT_AVAILABLE",
    16: "NOT_COORDINATOR",
    22: "ILLEGAL_GENERATION",
    25: "UNKNOWN_MEMBER_ID",
    27: "REBALANCE_IN_PROGRESS",
    35: "UNSUPPORTED_VERSION",
    36: "TOPIC_ALREADY_EXISTS",
    40: "INVALID_CONFIG",
    42: "INVALID_REQUEST",
    56: "KAFKA_STORAGE_ERROR",
    87: "INVALID_RECORD",
}


class AnswerError(Exception):
    """The server answered with an error code, or with bytes that are no answer at all."""


def check_code(code: int, what: str) -> None:
    """Raise AnswerError unless `code` is 0."""
    if code:
        raise AnswerError(
            f"{what}: error {code} ({ERROR_NAMES.get(code, 'see the protocol guide')})"
        )


# --- Primitives ---------------------------------------------------------------------------------


def uvarint(value: int) -> bytes:
    """Return `value`, which is not negative, as an unsigned varint."""
    assert value >= 0
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def zigzag(value: int) -> bytes:
    """Return `value` as the signed varint that records use."""
    return uvarint((value << 1) ^ (value >> 63))


def read_uvarint(buffer: bytes | bytearray | memoryview, position: int) -> tuple[int, int]:
    """Return the unsigned varint at `position`, and the position after it."""
    value = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 28:
            raise AnswerError("a varint of more than five bytes")


def compact(data: bytes) -> bytes:
    """Return `data` as a compact string, bytes or records field."""
    return uvarint(len(data) + 1) + data


def string(text: bytes) -> bytes:
    """Return `text` as a string of versions that are not flexible."""
    return struct.pack(">h", len(text)) + text


def framed(body: bytes) -> bytes:
    """Return `body` with its length in front."""
    return struct.pack(">i", len(body)) + body


def header(api_key: int, version: int, *, flexible: bool) -> bytes:
    """Return the head of a request."""
    head = struct.pack(">hhi", api_key, version, CORRELATION_ID) + string(CLIENT_ID)
    return head + _NO_TAGS if flexible else head


# --- Record batches -----------------------------------------------------------------------------


def record(offset_delta: int, value: bytes) -> bytes:
    """Return one record without key or headers, at the batch's base timestamp."""
    body = b"\0" + zigzag(0) + zigzag(offset_delta) + zigzag(-1)
    body += zigzag(len(value)) + value + zigzag(0)
    return zigzag(len(body)) + body


def record_batch(
    records: int, *, timestamp_ms: int, value_bytes: int = RECORD_VALUE_BYTES
) -> bytes:
    """Return a batch of `records` records, values incompressible, with its CRC-32C.

    The values repeat after a few: only their size matters, and building them must not take long.
    """
    assert records >= 1
    source = random.Random(records)
    values = [source.randbytes(value_bytes) for _ in range(16)]
    payload = b"".join(record(delta, values[delta % 16]) for delta in range(records))
    covered = (
        struct.pack(">hiqq", 0, records - 1, timestamp_ms, timestamp_ms)
        + struct.pack(">qhii", -1, -1, -1, records)
        + payload
    )
    length = 4 + 1 + 4 + len(covered)  # leader epoch, magic, CRC
    return struct.pack(">qiibI", 0, length, -1, 2, crc32c(covered)) + covered


def batch_within(
    size_bytes: int, *, timestamp_ms: int, value_bytes: int = RECORD_VALUE_BYTES
) -> tuple[bytes, int]:
    """Return the largest batch of such records within `size_bytes`, and its record count."""
    per_record = len(record(16_000, bytes(value_bytes)))
    records = max(1, (size_bytes - BATCH_HEADER_BYTES) // per_record)
    batch = record_batch(records, timestamp_ms=timestamp_ms, value_bytes=value_bytes)
    assert records == 1 or len(batch) <= size_bytes
    return batch, records


# --- Produce ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProduceRequest:
    """A framed Produce request, and where its batch lies in it."""

    frame: bytes
    batch_position: int
    batch_bytes: int


def produce_request(topic: str, partition: int, batch: bytes, *, acks: int) -> ProduceRequest:
    """Return the request that appends `batch` to one partition."""
    before = (
        header(PRODUCE, PRODUCE_VERSION, flexible=True)
        + b"\0"  # no transactional id
        + struct.pack(">hi", acks, TIMEOUT_MS)
        + uvarint(1 + 1)
        + compact(topic.encode())
        + uvarint(1 + 1)
        + struct.pack(">i", partition)
        + uvarint(len(batch) + 1)
    )
    frame = framed(before + batch + _NO_TAGS * 3)
    return ProduceRequest(frame, 4 + len(before), len(batch))


def produce_error_position(topic: str) -> int:
    """Return where in an answer frame the partition's error code stands; the base offset follows
    it."""
    return 4 + 4 + 1 + 1 + len(compact(topic.encode())) + 1 + 4


def produce_answer(topic: str, partition: int) -> bytes:
    """Return a framed answer without error: what a bare server sends."""
    body = struct.pack(">i", CORRELATION_ID) + _NO_TAGS + uvarint(1 + 1) + compact(topic.encode())
    body += uvarint(1 + 1) + struct.pack(">ihqqq", partition, 0, 0, -1, 0)
    body += uvarint(0 + 1) + b"\0" + _NO_TAGS * 2  # no record errors, no message
    return framed(body + struct.pack(">i", 0) + _NO_TAGS)


# --- Fetch --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """A framed Fetch request for one partition; the offset is patched in place for each fetch."""

    frame: bytearray
    offset_position: int

    def at(self, offset: int) -> bytearray:
        """Return the frame, asking for `offset` from now on."""
        struct.pack_into(">q", self.frame, self.offset_position, offset)
        return self.frame


def fetch_request(
    topic: str, partition: int, *, max_bytes: int, max_wait_ms: int = 500, min_bytes: int = 1
) -> FetchRequest:
    """Return a fetch without a session, of at most `max_bytes`, as any consumer would send it."""
    before = (
        header(FETCH, FETCH_VERSION, flexible=True)
        + struct.pack(">iiiibii", -1, max_wait_ms, min_bytes, max_bytes, 0, 0, -1)
        + uvarint(1 + 1)
        + compact(topic.encode())
        + uvarint(1 + 1)
        + struct.pack(">ii", partition, -1)
    )
    after = struct.pack(">qiqi", 0, -1, -1, max_bytes) + _NO_TAGS * 2
    after += uvarint(0 + 1) + compact(b"") + _NO_TAGS  # nothing forgotten, no rack
    return FetchRequest(bytearray(framed(before + after)), 4 + len(before))


@dataclass(frozen=True, slots=True)
class FetchHead:
    """What stands before the records of a one-partition fetch answer."""

    frame_bytes: int
    high_watermark: int
    records_position: int
    records_bytes: int


FETCH_HEAD_BYTES_MAX: Final = 4 + 4 + 1 + 10 + 1 + 2 + 250 + 1 + 30 + 5 + 5 + 5


def read_fetch_head(buffer: bytes | bytearray | memoryview, received: int) -> FetchHead | None:
    """Return the head of the answer at the buffer's start, or None if more bytes are needed.

    Raises:
        AnswerError: an error code, or not the one partition that was asked for.
    """
    if received < 4:
        return None
    frame_bytes = 4 + int(struct.unpack_from(">i", buffer)[0])
    if received < min(frame_bytes, FETCH_HEAD_BYTES_MAX):
        return None
    _, _, _, error, _ = struct.unpack_from(">ibihi", buffer, 4)
    check_code(error, "fetch")
    topics, position = read_uvarint(buffer, 4 + 15)
    name_bytes, position = read_uvarint(buffer, position)
    position += name_bytes - 1
    partitions, position = read_uvarint(buffer, position)
    if topics != 2 or partitions != 2:
        raise AnswerError(
            f"fetch: {topics - 1} topics of {partitions - 1} partitions, asked for one"
        )
    _, error, high_watermark, _, _ = struct.unpack_from(">ihqqq", buffer, position)
    check_code(error, "fetch")
    aborted, position = read_uvarint(buffer, position + 30)
    if aborted > 1:
        raise AnswerError("fetch: aborted transactions in a log that has none")
    size, position = read_uvarint(buffer, position + 4)  # after the preferred read replica
    return FetchHead(frame_bytes, high_watermark, position, max(0, size - 1))


def fetch_answer_head(topic: str, partition: int, *, records_bytes: int, end_offset: int) -> bytes:
    """Return all of a framed answer that stands before its records: what a bare server sends.

    Three bytes of no tags (`FETCH_ANSWER_TAIL`) must follow the records.
    """
    head = struct.pack(">ibihi", CORRELATION_ID, 0, 0, 0, 0) + uvarint(1 + 1)
    head += compact(topic.encode()) + uvarint(1 + 1)
    head += struct.pack(">ihqqq", partition, 0, end_offset, end_offset, 0)
    head += uvarint(0 + 1) + struct.pack(">i", -1) + uvarint(records_bytes + 1)
    return struct.pack(">i", len(head) + records_bytes + len(FETCH_ANSWER_TAIL)) + head


FETCH_ANSWER_TAIL: Final = _NO_TAGS * 3


def last_offsets(records: memoryview) -> list[int]:
    """Return the last offset of each whole batch in the records of a fetch answer."""
    found = []
    position = 0
    while position + BATCH_HEADER_BYTES <= len(records):
        base, length = struct.unpack_from(">qi", records, position)
        if position + 12 + length > len(records):
            break
        (delta,) = struct.unpack_from(">i", records, position + 23)
        found.append(base + delta)
        position += 12 + length
    return found


# --- Administration -----------------------------------------------------------------------------


def create_topic_request(topic: str, partitions: int, configs: Mapping[str, str]) -> bytes:
    """Return the request that creates one topic."""
    body = header(CREATE_TOPICS, CREATE_TOPICS_VERSION, flexible=False)
    body += struct.pack(">i", 1) + string(topic.encode()) + struct.pack(">ihi", partitions, 1, 0)
    body += struct.pack(">i", len(configs))
    for name, value in configs.items():
        body += string(name.encode()) + string(value.encode())
    return framed(body + struct.pack(">ib", TIMEOUT_MS, 0))


def delete_topics_request(topics: Sequence[str]) -> bytes:
    """Return the request that deletes `topics`."""
    body = header(DELETE_TOPICS, DELETE_TOPICS_VERSION, flexible=False)
    body += struct.pack(">i", len(topics)) + b"".join(string(name.encode()) for name in topics)
    return framed(body + struct.pack(">i", TIMEOUT_MS))


def check_topics_answer(frame: bytes, what: str) -> None:
    """Raise AnswerError unless a CreateTopics or DeleteTopics answer has error 0 for its topic."""
    _, _, count, name_bytes = struct.unpack_from(">iiih", frame, 4)
    if count != 1:
        raise AnswerError(f"{what}: {count} topics in the answer, asked for one")
    check_code(struct.unpack_from(">h", frame, 4 + 14 + name_bytes)[0], what)


def alter_topic_request(topic: str, configs: Mapping[str, str]) -> bytes:
    """Return the request that sets some settings of a topic and leaves the others."""
    body = header(ALTER_CONFIGS, ALTER_CONFIGS_VERSION, flexible=False)
    body += struct.pack(">ib", 1, _TOPIC_RESOURCE) + string(topic.encode())
    body += struct.pack(">i", len(configs))
    for name, value in configs.items():
        body += string(name.encode()) + struct.pack(">b", _SET_CONFIG) + string(value.encode())
    return framed(body + b"\0")


def check_altered_answer(frame: bytes, what: str) -> None:
    """Raise AnswerError unless an IncrementalAlterConfigs answer has error 0 for its topic."""
    _, _, count, code = struct.unpack_from(">iiih", frame, 4)
    if count != 1:
        raise AnswerError(f"{what}: {count} topics in the answer, asked for one")
    check_code(code, what)


def api_versions_request() -> bytes:
    """Return the smallest request there is."""
    return framed(header(API_VERSIONS, 0, flexible=False))
