"""Clients of Redis and NATS under the loop, the sockets and the bookkeeping of `bench.load`.

What differs from a Kafka request is only the bytes: a request is `records` commands end to end, and
answers are counted by the marks that each must have, never parsed one by one. A `Speech` knows one
protocol: how to connect, what a request is, how answers are tallied, and how to read back what a
window left behind.

All records have one value of 100 ASCII bytes without a line end: whole replies can then be found by
counting line ends, and values by counting the value.
"""

from __future__ import annotations

import random
import select
import socket
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from bench.load import RECEIVE_BYTES, RING_BYTES_MIN, STALL_S, Connection, Stopwatch, drive
from bench.paced import Receiver, Sender, pace
from bench.protocol import RECORD_VALUE_BYTES, AnswerError

VALUE: Final = random.Random(1).randbytes(RECORD_VALUE_BYTES // 2).hex().encode()
assert len(VALUE) == RECORD_VALUE_BYTES


@dataclass(frozen=True, slots=True)
class RawLoad:
    """What one window sends or reads, whichever of its figures the job uses.

    records: in one request, or in one fetch.
    stream: is made by the caller, new for each window that writes.
    total: how many records a stream has that is read.
    """

    address: tuple[str, int]
    stream: str
    seconds: float
    records: int = 1
    connections: int = 1
    depth: int = 1
    per_second: int = 0
    total: int = 0
    server_pid: int = 0


class PatternCounter:
    """Counts a pattern in a stream of bytes, wherever the pieces of it are cut."""

    def __init__(self, pattern: bytes) -> None:
        self.pattern = pattern
        self.tail = b""
        self.count = 0

    def feed(self, piece: bytes | bytearray) -> None:
        """Count what is complete with this piece."""
        keep = len(self.pattern) - 1
        self.count += piece.count(self.pattern)
        if keep:
            # The tail is shorter than the pattern: what is found here spans the cut.
            self.count += (self.tail + piece[:keep]).count(self.pattern)
            self.tail = (self.tail + piece[-keep:])[-keep:]


class Tally(ABC):
    """How many records have been acknowledged on one connection."""

    @abstractmethod
    def feed(self, piece: bytes) -> int:
        """Take what was received; return how many are acknowledged since the beginning.

        Raises:
            AnswerError: there is an error among the answers, or something that is no answer.
        """


class Speech(ABC):
    """One protocol."""

    @abstractmethod
    def connect(self, load: RawLoad, index: int, /) -> socket.socket:
        """Return a blocking connection, ready for requests."""

    @abstractmethod
    def request(self, load: RawLoad, index: int, /) -> bytes:
        """Return the bytes that append `load.records` records, on the connection of this index."""

    @abstractmethod
    def tally(self) -> Tally:
        """Return the count of acknowledgements of a new connection."""

    @abstractmethod
    def read_back(self, load: RawLoad) -> tuple[int, int]:
        """Return how many records the stream says it has, and how many values were found in it."""

    @abstractmethod
    def reader(self, load: RawLoad, index: int, /) -> StreamReader:
        """Return a client that reads the stream in ranges, beginning at its share of it."""

    @abstractmethod
    def sender(self, load: RawLoad) -> Sender:
        """Return a producer that can be paced, with one record already kept."""

    @abstractmethod
    def receiver(self, load: RawLoad) -> Receiver:
        """Return a consumer that waits for all that is sent from now on."""


class StreamReader(ABC):
    """Reads ranges of a stream; whole answers are found by counting line ends."""

    socket: socket.socket

    @abstractmethod
    def ask(self) -> None:
        """Ask for the next range, from the beginning again when less than one is left."""

    @abstractmethod
    def feed(self, piece: bytes) -> int:
        """Take what was received; return how many records came when the answer is whole, else 0."""


# --- Produce ------------------------------------------------------------------------------------


class RawConnection(Connection):
    """A connection whose answers have no one length: a `Tally` counts them."""

    def __init__(
        self, connected: socket.socket, request: bytes, tally: Tally, records: int
    ) -> None:
        repeats = -(-RING_BYTES_MIN // len(request))
        super().__init__(connected, memoryview(request * repeats), len(request))
        self.tally = tally
        self.records = records
        self.learned = 0

    def first(self, buffer: bytearray) -> None:
        """Send one request and wait for its answer: what follows is of a connection that works."""
        self.socket.sendall(self.ring[: self.request_bytes])
        self.ring_position = self.request_bytes % len(self.ring)
        while not self.receive(buffer):
            continue
        self.learned = self.answered

    def receive(self, buffer: bytearray) -> int:
        """Receive once; return how many requests were answered in full by it."""
        try:
            count = self.socket.recv_into(buffer)
        except BlockingIOError:
            return 0
        if not count:
            raise AnswerError("the server closed the connection")
        acknowledged = self.tally.feed(bytes(memoryview(buffer)[:count]))
        answered = acknowledged // self.records - self.answered
        self.answered += answered
        return answered


def produce_raw(speech: Speech, load: RawLoad) -> dict[str, Any]:
    """Run one window, then read back all of it; the stream was empty before.

    Raises:
        AnswerError: less is there than was acknowledged, more than was sent, or something else.
    """
    buffer = bytearray(RECEIVE_BYTES)
    with ExitStack() as stack:
        connections = []
        for index in range(load.connections):
            connected = stack.enter_context(speech.connect(load, index))
            request = speech.request(load, index)
            connections.append(RawConnection(connected, request, speech.tally(), load.records))
            connections[-1].first(buffer)
        window = Stopwatch(load.seconds, load.server_pid)
        drive(connections, load.depth, window)
        acknowledged = sum(each.answered for each in connections) * load.records
    in_flight = load.connections * load.depth * load.records
    checked = check(speech, load, at_least=acknowledged, at_most=acknowledged + in_flight)
    size = window.requests * load.records * RECORD_VALUE_BYTES
    return {**window.result(), "bytes": size, "checked_bytes": checked}


def check(speech: Speech, load: RawLoad, *, at_least: int, at_most: int) -> int:
    """Read back the stream; return how many bytes of values are in it."""
    said, found = speech.read_back(load)
    if not at_least <= said <= at_most or found != said:
        raise AnswerError(
            f"{found} values are there and {said} are said to be; "
            f"{at_least} were acknowledged, {at_most} sent"
        )
    return found * RECORD_VALUE_BYTES


# --- Fetch, end to end --------------------------------------------------------------------------


def fetch_raw(speech: Speech, load: RawLoad) -> dict[str, Any]:
    """Read ranges one after the other for one window; return how many bytes of values came."""
    buffer = bytearray(4 * RECEIVE_BYTES)
    size = 0
    with ExitStack() as stack:
        poll = select.epoll()
        by_fd: dict[int, tuple[StreamReader, float]] = {}
        for index in range(load.connections):
            reader = speech.reader(load, index)
            stack.enter_context(reader.socket)
            poll.register(reader.socket, select.EPOLLIN)
            reader.ask()
            by_fd[reader.socket.fileno()] = (reader, time.perf_counter())
        window = Stopwatch(load.seconds, load.server_pid)
        while True:
            events = poll.poll(STALL_S)
            if not events:
                raise AnswerError(f"no answer within {STALL_S:g} s")
            for fd, _ in events:
                reader, asked_at = by_fd[fd]
                came = _receive(reader, buffer)
                if not came:
                    continue
                now = time.perf_counter()
                size += came * RECORD_VALUE_BYTES if window.warm else 0
                if not window.count([(now - asked_at, 1)], now):
                    return {**window.result(), "bytes": size}
                reader.ask()
                by_fd[fd] = (reader, now)


def _receive(reader: StreamReader, buffer: bytearray) -> int:
    count = reader.socket.recv_into(buffer)
    if not count:
        raise AnswerError("the server closed the connection")
    return reader.feed(bytes(memoryview(buffer)[:count]))


def end_to_end_raw(speech: Speech, load: RawLoad) -> dict[str, Any]:
    """Run one end-to-end window at a steady pace, then read back the stream."""
    head = speech.sender(load)
    with head.socket:
        tail = speech.receiver(load)
        with tail.socket:
            result = pace(load.per_second, load.seconds, load.server_pid, head, tail)
    # One more was sent first.
    received, sent = result["requests_in_all"] + 1, result["sent"] + 1
    return {**result, "checked_bytes": check(speech, load, at_least=received, at_most=sent)}


class RawSender:
    """A producer that sends one prebuilt record at a time, and tallies what is acknowledged."""

    def __init__(self, connected: socket.socket, request: bytes, tally: Tally) -> None:
        self.socket = connected
        self.request = request
        self.tally = tally
        self.buffer = bytearray(RECEIVE_BYTES)
        self.sent_at: list[float] = []

    def first(self) -> None:
        """Have one record kept."""
        self.socket.sendall(self.request)
        while not self.drain():
            continue

    def send_due(self, count: int) -> None:
        """Send `count` records, a request each."""
        for _ in range(count):
            self.sent_at.append(time.perf_counter())
            self.socket.sendall(self.request)

    def drain(self) -> int:
        """Receive acknowledgements; return how many there are in all."""
        count = self.socket.recv_into(self.buffer)
        if not count:
            raise AnswerError("the server closed the producer's connection")
        return self.tally.feed(bytes(memoryview(self.buffer)[:count]))
