"""The bare servers: the least that any server must do, and so the most that ours can reach.

They speak just enough of the protocol for the same clients to drive them: every request has the one
length that the client was told too, the batch lies at one place in it, and the answer is a
constant.

* `append`: receives, checks each batch's CRC-32C, writes it to a file, answers; a thread syncs
  behind at the server's own distance, one sync at a time: as soon as `SYNC_BEHIND_BYTES` are
  unsynced or after `SYNC_BEHIND_S`, and never with more than `UNSYNCED_BYTES_MAX` unsynced. Nothing
  is parsed, no offset is assigned, no index written. Its connections share one epoll loop, and what
  comes in one wake-up shares one write.
* `send`: answers each fetch with a constant head and a range of a file, by sendfile in calls of
  256 KiB. A thread a connection: it is blocked in the kernel and wants nothing else.
* `answers`: answers each request with a constant; its connections share one epoll loop.

All print one JSON line with their port when they listen, and run until they are ended.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
from pathlib import Path
from typing import Any, Final

from crc32c import crc32c

from bench import protocol
from bench.load import allow_many_files

SYNC_BEHIND_BYTES: Final = 1024 * 1024
SYNC_BEHIND_S: Final = 0.005
UNSYNCED_BYTES_MAX: Final = 64 * 1024 * 1024
FILE_BYTES_MAX: Final = 1024 * 1024 * 1024
RECEIVE_BYTES_MIN: Final = 256 * 1024
SENDFILE_BYTES: Final = 256 * 1024
IOV_MAX: Final = 1024


def listen() -> socket.socket:
    """Return a listening socket on a free loopback port, and say on stdout which.

    Its connections do not pace, whatever the system's congestion control is: ours do not either.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    return listener


# --- Append -------------------------------------------------------------------------------------


class SyncedFile:
    """A file that grows by appends; a thread of its own syncs what was written, right behind.

    The loop writes `written`, the thread writes `synced`; each only reads the other's, and a stale
    value only makes it wait once more.
    """

    def __init__(self, directory: Path, *, sync: bool) -> None:
        self.directory = directory
        self.sync = sync
        self.generation = 0
        self.fd = self._create()
        self.position = 0
        self.written = 0
        self.synced = 0
        self.wanted = threading.Event()
        self.progress = threading.Condition()
        if sync:
            threading.Thread(target=self._sync_behind, daemon=True).start()

    def _create(self) -> int:
        path = self.directory / f"bare-{self.generation}.log"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        path.unlink()  # the open descriptor keeps it; nothing is left behind when we are ended
        return fd

    def append(self, batches: list[memoryview]) -> None:
        """Write the batches in one call; wait while too much is unsynced."""
        size = sum(map(len, batches))
        if self.position + size > FILE_BYTES_MAX:
            self._roll()
        for first in range(0, len(batches), IOV_MAX):
            self.position += os.pwritev(self.fd, batches[first : first + IOV_MAX], self.position)
        self.written += size
        unsynced = self.written - self.synced
        if self.sync and unsynced >= SYNC_BEHIND_BYTES:
            self.wanted.set()
            if unsynced > UNSYNCED_BYTES_MAX:
                self._wait()

    def _wait(self) -> None:
        with self.progress:
            while self.written - self.synced > UNSYNCED_BYTES_MAX:
                self.progress.wait(0.1)

    def _roll(self) -> None:
        if self.sync:
            with self.progress:
                while self.synced < self.written:
                    self.progress.wait(0.01)
        os.close(self.fd)
        self.generation += 1
        self.fd = self._create()
        self.position = 0

    def _sync_behind(self) -> None:
        while True:
            self.wanted.wait(SYNC_BEHIND_S)
            self.wanted.clear()
            target = self.written
            if target > self.synced:
                os.fdatasync(self.fd)
                self.synced = target
            with self.progress:
                self.progress.notify_all()


class Receiver:
    """One connection of the bare append server: a buffer that holds whole requests and one part."""

    def __init__(self, connection: socket.socket, spec: dict[str, Any]) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.request_bytes: int = spec["request_bytes"]
        self.batch_position: int = spec["batch_position"]
        self.batch_bytes: int = spec["batch_bytes"]
        # Small requests: as many as come. Large ones: never into the next, so that none is moved.
        whole = -(-RECEIVE_BYTES_MIN // self.request_bytes)
        self.buffer = bytearray(whole * self.request_bytes)
        self.view = memoryview(self.buffer)
        self.filled = 0

    def receive(self) -> None:
        """Receive until the buffer is full or the socket empty. Raises EOFError at the end."""
        try:
            while self.filled < len(self.buffer):
                count = self.connection.recv_into(self.view[self.filled :])
                if not count:
                    raise EOFError
                self.filled += count
                if self.filled % self.request_bytes == 0:
                    return  # whole requests: asking for more would most often be in vain
        except BlockingIOError:
            return

    def batches(self) -> list[memoryview]:
        """Return the batches of all whole requests, checked; `consume` follows their write."""
        found = []
        for start in range(0, self.filled - self.request_bytes + 1, self.request_bytes):
            place = start + self.batch_position
            batch = self.view[place : place + self.batch_bytes]
            if crc32c(batch[protocol.BATCH_CRC_START :]) != int.from_bytes(batch[17:21], "big"):
                raise ValueError("a batch fails its CRC-32C")
            found.append(batch)
        return found

    def consume(self, requests: int) -> None:
        """Move the part of a request that is left to the front."""
        used = requests * self.request_bytes
        self.view[: self.filled - used] = self.view[used : self.filled]
        self.filled -= used


def serve_append(spec: dict[str, Any]) -> None:
    """Run the bare append server until it is ended."""
    answer = protocol.produce_answer(spec["topic"], 0)
    allow_many_files()
    log = SyncedFile(Path(spec["directory"]), sync=spec["sync"])
    listener = listen()
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    receivers: dict[int, Receiver] = {}
    while True:
        ready: list[Receiver] = []
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                connection, _ = listener.accept()
                receivers[connection.fileno()] = Receiver(connection, spec)
                poll.register(connection, select.EPOLLIN)
                continue
            try:
                receivers[fd].receive()
                ready.append(receivers[fd])
            except (EOFError, ConnectionError):
                poll.unregister(fd)
                receivers.pop(fd).connection.close()
        _append_and_answer(ready, log, answer)


def _append_and_answer(ready: list[Receiver], log: SyncedFile, answer: bytes) -> None:
    """One write for all that came in one wake-up, and only then the answers."""
    found = [(receiver, receiver.batches()) for receiver in ready]
    batches = [batch for _, several in found for batch in several]
    if not batches:
        return
    log.append(batches)
    for receiver, several in found:
        receiver.consume(len(several))
        try:
            # Answers are small and the client reads them: the socket always has room for them.
            receiver.connection.sendall(answer * len(several))
        except ConnectionError:
            continue  # the client has left; the next receive says so, too


# --- Answers ------------------------------------------------------------------------------------


def serve_answers(spec: dict[str, Any]) -> None:
    """Run the bare answering server until it is ended. Requests come whole and one by one."""
    answer = bytes.fromhex(spec["answer"])
    allow_many_files()
    listener = listen()
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                connection, _ = listener.accept()
                connections[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
                continue
            try:
                received = connections[fd].recv(RECEIVE_BYTES_MIN)
            except ConnectionResetError:
                received = b""  # the client has left with answers unread
            if not received:
                poll.unregister(fd)
                connections.pop(fd).close()
                continue
            if int.from_bytes(received[:4], "big") != len(received) - 4:
                raise ValueError("not one whole request")
            connections[fd].sendall(answer)


# --- Send ---------------------------------------------------------------------------------------


def serve_send(spec: dict[str, Any]) -> None:
    """Run the bare sendfile server until it is ended.

    `unasked` answers without end after the first request: what a loop that waits for nobody
    reaches. `copy` reads and sends instead, as a server without sendfile does.
    """
    fd = os.open(spec["file"], os.O_RDONLY)
    size = os.fstat(fd).st_size
    listener = listen()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_send_all, args=(connection, fd, size, spec), daemon=True).start()


def _send_all(connection: socket.socket, fd: int, size: int, spec: dict[str, Any]) -> None:
    records_bytes: int = spec["records_bytes"]
    assert 0 < records_bytes <= size
    head = protocol.fetch_answer_head(
        spec["topic"], 0, records_bytes=records_bytes, end_offset=2**40
    )
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = bytearray(4096)
    copied = memoryview(bytearray(SENDFILE_BYTES)) if spec.get("copy") else None
    position = 0
    try:
        while spec["unasked"] or connection.recv_into(request):
            connection.sendall(head)
            end = position + records_bytes
            while position < end:
                size_now = min(SENDFILE_BYTES, end - position)
                if copied is None:
                    position += os.sendfile(connection.fileno(), fd, position, size_now)
                else:
                    count = os.preadv(fd, [copied[:size_now]], position)
                    connection.sendall(copied[:count])
                    position += count
            connection.sendall(protocol.FETCH_ANSWER_TAIL)
            if position + records_bytes > size:
                position = 0
    except ConnectionError:
        return  # the client has what it wanted
    finally:
        connection.close()
