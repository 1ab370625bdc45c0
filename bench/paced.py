"""End to end: a producer that sends at a steady pace, a consumer that waits, one clock for both.

One process holds both connections, so that a latency is a difference of two readings of one clock:
from just before the send of a one-record Produce to the moment when the fetch answer that holds the
record has been received. Requests leave on schedule whether or not earlier ones were answered: a
server that stalls is charged for every record that was due meanwhile. Beside it stand the latencies
from the time at which each record was due, which also hold what the client lost by waking late or
by a full socket: `from_schedule_us`.
"""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass
from typing import Any, Final, Protocol

from bench import protocol
from bench.histogram import Histogram
from bench.load import RECEIVE_BYTES, STALL_S, WARM_UP_SHARE, Stopwatch, connect, make_batch
from bench.process import read_frame

FETCH_BYTES_MAX: Final = 128 * 1024
MAX_WAIT_MS: Final = 500


@dataclass(frozen=True, slots=True)
class PacedLoad:
    """What one end-to-end window sends and waits for."""

    address: tuple[str, int]
    topic: str
    acks: int
    per_second: int
    seconds: float
    server_pid: int = 0


class Tail:
    """The consumer: one long poll is always waiting at the server."""

    def __init__(self, load: PacedLoad, first_offset: int) -> None:
        self.socket = connect(load.address)
        self.request = protocol.fetch_request(
            load.topic, 0, max_bytes=FETCH_BYTES_MAX, max_wait_ms=MAX_WAIT_MS
        )
        self.buffer = bytearray(2 * FETCH_BYTES_MAX)
        self.view = memoryview(self.buffer)
        self.first_offset = first_offset
        self.offset = first_offset
        self.received = 0

    def ask(self) -> None:
        """Ask for what follows the last record that came."""
        self.received = 0
        self.socket.sendall(self.request.at(self.offset))

    def receive(self) -> int:
        """Receive once; when an answer is whole, ask again. Returns how many records came."""
        count = self.socket.recv_into(self.view[self.received :])
        if not count:
            raise protocol.AnswerError("the server closed the consumer's connection")
        self.received += count
        head = protocol.read_fetch_head(self.buffer, self.received)
        if head is None or self.received < head.frame_bytes:
            return 0
        end = head.records_position + head.records_bytes
        last = protocol.last_offsets(self.view[head.records_position : end])
        came = last[-1] + 1 - self.offset if last else 0
        if came < 0:
            raise protocol.AnswerError(f"records before offset {self.offset} came again")
        self.offset += came
        self.ask()
        return came


class Head:
    """The producer: sends what is due, drains the answers, remembers when each record left."""

    def __init__(self, load: PacedLoad) -> None:
        batch, _ = make_batch(0, timestamp_ms=time.time_ns() // 1_000_000)
        self.frame = protocol.produce_request(load.topic, 0, batch, acks=load.acks).frame
        self.socket = connect(load.address)
        self.buffer = bytearray(RECEIVE_BYTES)
        self.sent_at: list[float] = []
        self.error_position = protocol.produce_error_position(load.topic)

    def first_offset(self) -> int:
        """Append one record and wait; return the offset that the next one will get."""
        self.socket.sendall(self.frame)
        answer = read_frame(self.socket)
        place = self.error_position
        protocol.check_code(
            int.from_bytes(answer[place : place + 2], "big", signed=True), "produce"
        )
        return int.from_bytes(answer[place + 2 : place + 10], "big", signed=True) + 1

    def send_due(self, count: int) -> None:
        """Send `count` records, a request each."""
        for _ in range(count):
            self.sent_at.append(time.perf_counter())
            self.socket.sendall(self.frame)

    def drain(self) -> None:
        """Receive the answers: they are not what is measured."""
        if not self.socket.recv_into(self.buffer):
            raise protocol.AnswerError("the server closed the producer's connection")


class Sender(Protocol):
    """A producer that can be paced."""

    socket: socket.socket
    sent_at: list[float]

    def send_due(self, count: int) -> None:
        """Send `count` records, and note when each left."""

    def drain(self) -> object:
        """Receive what the server answered."""


class Receiver(Protocol):
    """A consumer that always waits for more."""

    socket: socket.socket
    first_offset: int
    offset: int

    def ask(self) -> None:
        """Begin to wait."""

    def receive(self) -> int:
        """Receive once, and wait again; return how many records came."""


def end_to_end(load: PacedLoad) -> dict[str, Any]:
    """Run one window; return the latencies from send to receive."""
    head = Head(load)
    with head.socket:
        tail = Tail(load, head.first_offset())
        with tail.socket:
            return pace(load.per_second, load.seconds, load.server_pid, head, tail)


def pace(
    per_second: int, seconds: float, server_pid: int, head: Sender, tail: Receiver
) -> dict[str, Any]:
    """Send on schedule for one window; return the latencies from send to receive."""
    window = Stopwatch(seconds, server_pid)
    begin = time.perf_counter()
    tail.ask()
    scheduled = Histogram()
    while _turn(per_second, head, tail, window, begin, scheduled):
        continue
    return {
        **window.result(), "bytes": 0, "sent": len(head.sent_at),
        "from_schedule_us": scheduled.summary(),
    }  # fmt: skip


def _turn(
    per_second: int, head: Sender, tail: Receiver, window: Stopwatch, begin: float,
    scheduled: Histogram,
) -> bool:  # fmt: skip
    """Send what is due and take what came; return False when the window is over."""
    due = int((time.perf_counter() - begin) * per_second) + 1
    head.send_due(due - len(head.sent_at))
    next_at = begin + due / per_second
    wait = max(0.0, next_at - time.perf_counter())
    # select, not epoll: its time-out has microseconds, and there are two sockets.
    ready, _, _ = select.select((head.socket, tail.socket), (), (), wait)
    if head.socket in ready:
        head.drain()
    if tail.socket not in ready:
        return _is_alive(window)
    first = tail.offset - tail.first_offset
    came = tail.receive()
    now = time.perf_counter()
    if window.warm:
        for index in range(first, first + came):
            scheduled.add(now - (begin + index / per_second))
    return window.count([(now - at, 1) for at in head.sent_at[first : first + came]], now)


def _is_alive(window: Stopwatch) -> bool:
    if time.perf_counter() > window.begin + window.seconds * (1 + WARM_UP_SHARE) + STALL_S:
        raise protocol.AnswerError(f"no record came for {STALL_S:g} s")
    return True
