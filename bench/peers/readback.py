"""What was acknowledged is read back: counted, and compared byte by byte with what was sent.

All batches of a window are equal but for three fields that the server owns or the clock fills:
base offset, leader epoch, timestamp. The first batch that is read back says the timestamp, from
which the batch is built again with its CRC; every other one must equal it from the magic byte on,
and their offsets must leave no gap.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import Any, Final

from bench import protocol
from bench.load import ProduceLoad, connect, make_batch, produce
from bench.paced import PacedLoad, end_to_end

FETCH_BYTES: Final = 10 * 1024 * 1024
CATCH_UP_S: Final = 30.0
TRY_AGAIN_S: Final = 0.005
_MAGIC_POSITION: Final = 16
_TIMESTAMP_POSITION: Final = 27


@dataclass(frozen=True, slots=True)
class Found:
    """What a range of a partition holds."""

    batches: int
    bytes: int


class Reader:
    """One connection that fetches one partition, whole answers into one buffer."""

    def __init__(self, connection: socket.socket, topic: str, partition: int) -> None:
        self.connection = connection
        self.request = protocol.fetch_request(
            topic, partition, max_bytes=FETCH_BYTES, max_wait_ms=0
        )
        # An answer may be larger than asked for by one batch, the first.
        self.buffer = bytearray(2 * FETCH_BYTES)
        self.view = memoryview(self.buffer)

    def fetch(self, offset: int) -> protocol.FetchHead:
        """Fetch from `offset`; the answer is in the buffer afterwards."""
        self.connection.sendall(self.request.at(offset))
        received = 0
        head = None
        while head is None or received < head.frame_bytes:
            count = self.connection.recv_into(self.view[received:])
            if not count:
                raise protocol.AnswerError("the server closed the connection")
            received += count
            head = head or protocol.read_fetch_head(self.buffer, received)
        return head


def end_offset(address: tuple[str, int], topic: str, partition: int) -> int:
    """Return the offset that the next record will get, as consumers may know it."""
    with connect(address) as connection:
        return Reader(connection, topic, partition).fetch(0).high_watermark


def read_back(
    address: tuple[str, int], topic: str, partition: int, *, first: int, end: int, batch_bytes: int
) -> Found:
    """Read all from offset `first` to `end`, where batches of `batch_bytes` were sent.

    Raises:
        AnswerError: an offset is missing or repeated, or a byte is not what was sent.
    """
    batches = 0
    size = 0
    expected, records = b"", 0
    with connect(address) as connection:
        reader = Reader(connection, topic, partition)
        offset = first
        while offset < end:
            head = reader.fetch(offset)
            if not expected:
                expected, records = _sent(reader, head, batch_bytes)
            # Requests of a client that has left may still be appended: not beyond the end.
            most = (end - offset) // records
            came = _compare(reader, head, offset, expected, records, most)
            if not came:
                raise protocol.AnswerError(f"read back: nothing at offset {offset} of {end}")
            offset += came * records
            batches += came
            size += came * (len(expected) + _MAGIC_POSITION)
    return Found(batches, size)


def _sent(reader: Reader, head: protocol.FetchHead, batch_bytes: int) -> tuple[bytes, int]:
    """Return what each batch must be from its magic byte on, and how many records it has."""
    if head.records_bytes < protocol.BATCH_HEADER_BYTES:
        raise protocol.AnswerError("read back: an answer without a batch")
    place = head.records_position + _TIMESTAMP_POSITION
    (timestamp_ms,) = struct.unpack_from(">q", reader.buffer, place)
    batch, records = make_batch(batch_bytes, timestamp_ms=timestamp_ms)
    return batch[_MAGIC_POSITION:], records


def _compare(
    reader: Reader, head: protocol.FetchHead, offset: int, expected: bytes, records: int, most: int
) -> int:
    """Compare the whole batches of an answer, `most` of them; return how many there are."""
    size = len(expected) + _MAGIC_POSITION
    count = min(most, head.records_bytes // size)
    buffer = reader.buffer
    for index in range(count):
        position = head.records_position + index * size
        at = offset + index * records
        if int.from_bytes(buffer[position : position + 8], "big") != at:
            raise protocol.AnswerError(f"read back: another batch where offset {at} was due")
        if not buffer.startswith(expected, position + _MAGIC_POSITION):
            raise protocol.AnswerError(f"read back: the batch at offset {at} is not what was sent")
    return count


# --- Windows that are checked -------------------------------------------------------------------


def produce_checked(load: ProduceLoad) -> dict[str, Any]:
    """Run one produce window, then read back all of it.

    Raises:
        AnswerError: less is there than was acknowledged, more than was sent, or something else.
    """
    partitions = range(load.partitions)
    before = [end_offset(load.address, load.topic, p) for p in partitions]
    result = produce(load)
    acknowledged = result["requests_in_all"] + load.connections  # each learnt from one more
    # Requests that were in flight when the window ended may have been kept as well.
    in_flight = load.connections * load.depth
    checked = _check(load, before, at_least=acknowledged, at_most=acknowledged + in_flight)
    return {**result, "checked_bytes": checked}


def end_to_end_checked(load: PacedLoad) -> dict[str, Any]:
    """Run one end-to-end window, then read back all that was sent in it.

    Raises:
        AnswerError: as `produce_checked`.
    """
    before = [end_offset(load.address, load.topic, 0)]
    result = end_to_end(load)
    # One more was sent first, to learn its offset.
    received, sent = result["requests_in_all"] + 1, result["sent"] + 1
    checked = _check(_as_produced(load), before, at_least=received, at_most=sent)
    return {**result, "checked_bytes": checked}


def _as_produced(load: PacedLoad) -> ProduceLoad:
    return ProduceLoad(
        address=load.address, topic=load.topic, acks=load.acks, batch_bytes=0, connections=1,
        depth=1, seconds=load.seconds,
    )  # fmt: skip


def _check(load: ProduceLoad, before: list[int], *, at_least: int, at_most: int) -> int:
    """Read back what came since `before`; return how many bytes that is."""
    _, records = make_batch(load.batch_bytes, timestamp_ms=0)
    after = await_records(load.address, load.topic, before=before, records=at_least * records)
    found = [
        read_back(
            load.address, load.topic, p, first=before[p], end=after[p], batch_bytes=load.batch_bytes
        )
        for p in range(load.partitions)
        if after[p] > before[p]
    ]
    batches = sum(each.batches for each in found)
    if not at_least <= batches <= at_most:
        raise protocol.AnswerError(
            f"{batches} batches are there; {at_least} were acknowledged, {at_most} sent"
        )
    return sum(each.bytes for each in found)


def await_records(
    address: tuple[str, int], topic: str, *, before: list[int], records: int
) -> list[int]:
    """Wait until the partitions have at least `records` more than `before`; return their ends.

    A server may show a record to consumers later than it acknowledges it with acks=1.

    Raises:
        AnswerError: they had fewer after `CATCH_UP_S`.
    """
    deadline = time.monotonic() + CATCH_UP_S
    while True:
        after = [end_offset(address, topic, p) for p in range(len(before))]
        came = sum(after) - sum(before)
        if came >= records:
            return after
        if time.monotonic() > deadline:
            raise protocol.AnswerError(f"{came} records are there, {records} acknowledged")
        time.sleep(TRY_AGAIN_S)
