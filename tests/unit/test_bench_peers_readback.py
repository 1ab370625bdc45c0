"""What a window's server kept is compared with what was sent: a loss cannot be fast."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

import pytest

from bench import protocol
from bench.peers.readback import Found, await_records, end_offset, read_back
from bench.process import BenchError, read_frame

TOPIC = "bench"
BATCH_BYTES = 2000
BATCH, RECORDS = protocol.batch_within(BATCH_BYTES, timestamp_ms=5)


def log_of(count: int) -> list[bytearray]:
    """Return batches as a server keeps them: with offsets, and a leader epoch of its own."""
    batches = []
    for index in range(count):
        batch = bytearray(BATCH)
        struct.pack_into(">q", batch, 0, index * RECORDS)
        struct.pack_into(">i", batch, 12, 7)
        batches.append(batch)
    return batches


@contextlib.contextmanager
def server_of(batches: list[bytearray], *, says: int | None = None, at_once: int = 3):
    """A server that answers fetches from a list of batches, some at once."""
    listener = socket.create_server(("127.0.0.1", 0))
    end = len(batches) * RECORDS if says is None else says
    place = protocol.fetch_request(TOPIC, 0, max_bytes=1).offset_position

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(BenchError):
            while True:
                (offset,) = struct.unpack_from(">q", read_frame(connection), place)
                first = offset // RECORDS
                data = b"".join(batches[first : first + at_once])
                head = protocol.fetch_answer_head(TOPIC, 0, records_bytes=len(data), end_offset=end)
                connection.sendall(head + data + protocol.FETCH_ANSWER_TAIL)

    def serve() -> None:
        with contextlib.suppress(OSError):  # the listener is shut down at the end
            while True:
                answer(listener.accept()[0])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def check(address, *, end: int) -> Found:
    return read_back(address, TOPIC, 0, first=0, end=end, batch_bytes=BATCH_BYTES)


def test_all_that_was_kept_is_found() -> None:
    """Batches and their bytes are counted, over several answers."""
    with server_of(log_of(8)) as address:
        assert end_offset(address, TOPIC, 0) == 8 * RECORDS
        assert check(address, end=8 * RECORDS) == Found(8, 8 * len(BATCH))


def test_what_came_after_the_end_is_left_alone() -> None:
    """Requests of a client that has left may be appended while it is read."""
    with server_of(log_of(8)) as address:
        assert check(address, end=4 * RECORDS).batches == 4


@pytest.mark.parametrize("position", [16, 20, 70, len(BATCH) - 1])
def test_a_changed_byte_is_found(position) -> None:
    """A byte that is not what was sent is an error that names the offset."""
    batches = log_of(8)
    batches[4][position] ^= 1
    with (
        server_of(batches) as address,
        pytest.raises(protocol.AnswerError, match=f"offset {4 * RECORDS} is not what was sent"),
    ):
        check(address, end=8 * RECORDS)


def test_a_missing_batch_is_found() -> None:
    """A gap between offsets is an error, though the count of bytes may be right."""
    batches = log_of(9)
    del batches[4]
    with (
        server_of(batches) as address,
        pytest.raises(protocol.AnswerError, match=f"another batch where offset {4 * RECORDS}"),
    ):
        check(address, end=8 * RECORDS)


def test_an_end_that_is_not_there_is_found() -> None:
    """A server that says more than it has is an error."""
    with (
        server_of(log_of(4), says=8 * RECORDS) as address,
        pytest.raises(protocol.AnswerError, match=f"nothing at offset {4 * RECORDS}"),
    ):
        check(address, end=8 * RECORDS)


def test_records_that_never_come_are_an_error(monkeypatch) -> None:
    """What was acknowledged and cannot be read is a failure, not a slow window."""
    monkeypatch.setattr("bench.peers.readback.CATCH_UP_S", 0.05)
    with server_of(log_of(4)) as address:
        assert await_records(address, TOPIC, before=[0], records=4 * RECORDS) == [4 * RECORDS]
        with pytest.raises(protocol.AnswerError, match="acknowledged"):
            await_records(address, TOPIC, before=[0], records=4 * RECORDS + 1)
