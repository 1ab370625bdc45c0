"""A fetch client that costs little: the head of an answer is read, the rest is received and
dropped.

Each connection asks for the next range as soon as it has the whole answer, as a consumer without
prefetching does, and starts again at the beginning when it reaches the end. The log holds batches
of one size, so that the bytes of an answer say how far it went; nothing of them is parsed. The
bytes are received into one reused buffer: copying them out of the kernel is part of what any
consumer pays.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from bench import protocol
from bench.histogram import latency_fields
from bench.load import STALL_S, Stopwatch, connect
from bench.process import cpu_seconds

BUFFER_BYTES: Final = 1024 * 1024
START_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class FetchLoad:
    """What one fetch window asks for: one partition of batches that are all alike.

    check_offsets: whether each answer must begin at the offset that was asked for; a bare server
    sends what comes next in its file.
    """

    address: tuple[str, int]
    topic: str
    max_bytes: int
    connections: int
    seconds: float
    batch_bytes: int
    batch_records: int
    end_offset: int
    server_pid: int = 0
    check_offsets: bool = False


class Consumer:
    """One connection that fetches range after range."""

    def __init__(self, load: FetchLoad, first_offset: int) -> None:
        self.load = load
        self.socket: socket.socket = connect(load.address)
        self.request = protocol.fetch_request(load.topic, 0, max_bytes=load.max_bytes)
        self.offset = first_offset
        self.start = memoryview(bytearray(START_BYTES))
        self.received = 0
        self.head: protocol.FetchHead | None = None
        self.asked_at = 0.0

    def ask(self, now: float) -> None:
        """Ask for the next range."""
        self.received = 0
        self.head = None
        self.asked_at = now
        self.socket.sendall(self.request.at(self.offset))

    def receive(self, sink: bytearray) -> bool:
        """Receive once, into `sink` what needs no look; return whether the whole answer is here."""
        try:
            # The head's bytes must stay together, whatever else is received meanwhile.
            count = self.socket.recv_into(sink if self.head else self.start[self.received :])
        except BlockingIOError:
            return False
        if not count:
            raise protocol.AnswerError("the server closed the connection")
        self.received += count
        if self.head is None:
            self.head = protocol.read_fetch_head(self.start, self.received)
        return self.head is not None and self.received == self.head.frame_bytes

    def advance(self) -> int:
        """Move past the batches that came; return their bytes."""
        assert self.head is not None
        batches = self.head.records_bytes // self.load.batch_bytes
        if not batches:
            raise protocol.AnswerError(f"an answer without a whole batch at offset {self.offset}")
        place = self.head.records_position
        first = int.from_bytes(self.start[place : place + 8], "big")
        if self.load.check_offsets and first != self.offset:
            raise protocol.AnswerError(f"an answer of other records than at offset {self.offset}")
        self.offset += batches * self.load.batch_records
        if self.offset >= self.load.end_offset:
            self.offset = 0
        return batches * self.load.batch_bytes


def fetch(load: FetchLoad) -> dict[str, Any]:
    """Run one window; return what came in it and what it cost both sides."""
    batches = load.end_offset // load.batch_records
    with ExitStack() as stack:
        consumers = []
        for index in range(load.connections):
            first_offset = index * batches // load.connections * load.batch_records
            consumers.append(Consumer(load, first_offset))
            stack.enter_context(consumers[-1].socket)
        window = Stopwatch(load.seconds, load.server_pid)
        drive = _drive_one if load.connections == 1 else _drive_many
        size = drive(consumers, window)
    return {**window.result(), "bytes": size}


def fetch_places(load: FetchLoad, places: Sequence[int]) -> dict[str, Any]:
    """Ask for each place once, one after the other; return what came and what it cost."""
    consumer = Consumer(load, 0)
    sink = bytearray(BUFFER_BYTES)
    latencies: list[tuple[float, int]] = []
    size = 0
    with consumer.socket:
        client_cpu = time.process_time()
        server_cpu = cpu_seconds(load.server_pid) if load.server_pid else 0.0
        begin = time.perf_counter()
        for place in places:
            consumer.offset = place
            asked = time.perf_counter()
            while not _has_records(consumer, sink, asked):
                pass  # It came too late for the answer: the client asks again.
            latencies.append((time.perf_counter() - asked, 1))
            size += consumer.advance()
        seconds = time.perf_counter() - begin
    return {
        "requests": len(places), "seconds": seconds, **latency_fields(latencies),
        "client_cpu_s": time.process_time() - client_cpu,
        "server_cpu_s": cpu_seconds(load.server_pid) - server_cpu if load.server_pid else None,
        "bytes": size,
    }  # fmt: skip


def _has_records(consumer: Consumer, sink: bytearray, asked: float) -> bool:
    """Ask once; return whether the answer has records in it."""
    consumer.ask(asked)
    while not consumer.receive(sink):
        if time.perf_counter() > asked + STALL_S:
            raise protocol.AnswerError(f"no answer within {STALL_S:g} s")
    return consumer.head is not None and consumer.head.records_bytes > 0


def _drive_one(consumers: Sequence[Consumer], window: Stopwatch) -> int:
    (consumer,) = consumers
    sink = bytearray(BUFFER_BYTES)
    size = 0
    consumer.ask(time.perf_counter())
    while True:
        if not consumer.receive(sink):
            if time.perf_counter() > consumer.asked_at + STALL_S:
                raise protocol.AnswerError(f"no answer within {STALL_S:g} s")
            continue
        now = time.perf_counter()
        came = consumer.advance()
        size += came if window.warm else 0
        if not window.count([(now - consumer.asked_at, 1)], now):
            return size
        consumer.ask(now)


def _drive_many(consumers: Sequence[Consumer], window: Stopwatch) -> int:
    sink = bytearray(BUFFER_BYTES)
    by_fd = {consumer.socket.fileno(): consumer for consumer in consumers}
    poll = select.epoll()
    size = 0
    for fd, consumer in by_fd.items():
        consumer.socket.setblocking(False)
        poll.register(fd, select.EPOLLIN)
        consumer.ask(time.perf_counter())
    while True:
        events = poll.poll(STALL_S)
        if not events:
            raise protocol.AnswerError(f"no answer within {STALL_S:g} s")
        for fd, _ in events:
            consumer = by_fd[fd]
            if not consumer.receive(sink):
                continue
            now = time.perf_counter()
            came = consumer.advance()
            size += came if window.warm else 0
            if not window.count([(now - consumer.asked_at, 1)], now):
                return size
            consumer.ask(now)


def drain(load: FetchLoad) -> dict[str, Any]:
    """Receive from a server that sends without being asked, on one connection, and drop it all."""
    with connect(load.address) as connection:
        connection.sendall(b"\0")
        buffer = bytearray(BUFFER_BYTES)
        window = Stopwatch(load.seconds, load.server_pid)
        size = 0
        while True:
            count = connection.recv_into(buffer)
            if not count:
                raise protocol.AnswerError("the server closed the connection")
            now = time.perf_counter()
            size += count if window.warm else 0
            if not window.count([], now):
                return {**window.result(), "bytes": size}
