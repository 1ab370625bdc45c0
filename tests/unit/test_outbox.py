"""What a connection sends: in order, whole, a turn's share at a time; slow readers cost no memory.

The sockets here are blocking where a test counts bytes: each call then sends all that it may.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from threading import Thread

import pytest

from logd.net.send import COPY_BYTES, REST_BYTES, TURN_BYTES, Outbox, TruncatedFileError
from logd.storage.file_slice import FileSlice
from logd.storage.files import OpenFile

FILE_BYTES = 4 * TURN_BYTES


@pytest.fixture
def file(tmp_path: Path) -> OpenFile:
    path = tmp_path / "segment"
    path.write_bytes(b"".join(number.to_bytes(4, "big") for number in range(FILE_BYTES // 4)))
    return OpenFile(os.open(path, os.O_RDONLY), str(path))  # It closes itself.


class Reader:
    """The other end: takes all that comes, in a thread."""

    def __init__(self) -> None:
        self.sock, self._other = socket.socketpair()
        self._received = bytearray()
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := self._other.recv(1024 * 1024):
            self._received += data

    def all(self) -> bytes:
        """Close our end; return everything that was sent."""
        self.sock.close()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._other.close()
        return bytes(self._received)


@pytest.mark.parametrize(
    ("size", "turns"),
    [
        (1, 1),
        (TURN_BYTES - 1, 1),
        (TURN_BYTES, 1),
        (TURN_BYTES + REST_BYTES - 8, 1),
        (TURN_BYTES + REST_BYTES + 1, 2),
        (3 * TURN_BYTES, 3),
        (3 * TURN_BYTES + REST_BYTES - 8, 3),
    ],
)
def test_an_answer_goes_out_in_turns(file: OpenFile, size: int, turns: int) -> None:
    """Head, records and tail come in order, in no more turns than the share of one makes needed."""
    reader = Reader()
    outbox = Outbox(reader.sock)
    for part in (b"head", FileSlice(file, 12, size, -1), b"tail"):
        outbox.add(part)
    count = 0
    while outbox:
        assert outbox.send()
        count += 1
    expected = os.pread(file.fd, size, 12)
    assert reader.all() == b"head" + expected + b"tail"
    assert count == turns


def test_many_slices_share_one_turn(file: OpenFile) -> None:
    """A turn's share is of the connection, not of a slice: others wait for no more than that."""
    reader = Reader()
    outbox = Outbox(reader.sock)
    for _ in range(7):
        outbox.add(FileSlice(file, 0, TURN_BYTES // 2, -1))
    count = 0
    while outbox:
        assert outbox.send()
        count += 1
    assert reader.all() == os.pread(file.fd, TURN_BYTES // 2, 0) * 7
    assert count == 4  # 3.5 shares


def test_what_is_in_memory_goes_in_turns_too() -> None:
    """A view of several MiB is sent a share at a time, and is let go of at its end."""
    reader = Reader()
    outbox = Outbox(reader.sock)
    data = bytes(range(256)) * (3 * TURN_BYTES // 256)
    outbox.add(memoryview(data))
    assert outbox.buffered_bytes == len(data)
    count = 0
    while outbox:
        assert outbox.send()
        count += 1
    assert reader.all() == data
    # The last call of a turn may begin when its share is nearly used up.
    assert 3 * TURN_BYTES // (TURN_BYTES + REST_BYTES + COPY_BYTES) <= count <= 3
    assert outbox.buffered_bytes == 0


def test_a_reader_that_stops_costs_no_memory(file: OpenFile) -> None:
    """What the socket does not take stays in the file; sending goes on where it stopped."""
    sock, other = socket.socketpair()
    sock.setblocking(False)
    outbox = Outbox(sock)
    outbox.add(FileSlice(file, 0, FILE_BYTES, -1))
    while outbox.send():
        pass
    assert outbox
    assert outbox.buffered_bytes == 0
    received = bytearray()
    while len(received) < FILE_BYTES:
        received += other.recv(64 * 1024)
        outbox.send()
    assert received == os.pread(file.fd, FILE_BYTES, 0)
    assert not outbox
    sock.close()
    other.close()


def test_a_reader_that_leaves_in_the_middle_is_an_error(file: OpenFile) -> None:
    """The loop hears of it and closes the connection; nothing is kept."""
    sock, other = socket.socketpair()
    sock.setblocking(False)
    outbox = Outbox(sock)
    outbox.add(b"head")
    outbox.add(FileSlice(file, 0, FILE_BYTES, -1))
    while outbox.send():
        pass
    other.close()
    with pytest.raises(ConnectionError):
        outbox.send()
    outbox.clear()
    assert not outbox
    sock.close()


def test_a_file_that_became_shorter_is_named(file: OpenFile) -> None:
    """Bytes that were promised in the answer's head are missing: the connection cannot go on."""
    reader = Reader()
    outbox = Outbox(reader.sock)
    outbox.add(FileSlice(file, FILE_BYTES - 100, 200, -1))
    with pytest.raises(TruncatedFileError, match=f"ends at {FILE_BYTES}, 100 bytes more"):
        outbox.send()
    assert len(reader.all()) == 100
