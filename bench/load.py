"""A produce client that costs little: bytes built beforehand, answers counted and not parsed.

Each connection has a ring of prebuilt requests and keeps `depth` of them in flight. What comes back
is a run of frames of one known length (the first answer of each connection teaches it), so that a
receive of many answers is checked with three slices: every length prefix, every error code. No
frame is looked at one by one; a server that answers with errors, or with anything else, ends the
run.

Latencies are kept per receive, as (time, count) pairs. A window begins after a warm-up of its own.
"""

from __future__ import annotations

import resource
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Final

from bench import protocol
from bench.histogram import latency_fields
from bench.process import cpu_seconds, read_frame

RECEIVE_BYTES: Final = 256 * 1024
RING_BYTES_MIN: Final = 256 * 1024
WARM_UP_SHARE: Final = 0.2
STALL_S: Final = 30.0
FILL_DEPTH: Final = 4


@dataclass(frozen=True, slots=True)
class ProduceLoad:
    """What one produce window sends.

    `partitions` requests are sent in turn, one to each; `partition` is the first of them.
    """

    address: tuple[str, int]
    topic: str
    acks: int
    batch_bytes: int  # the most that a batch may have; 0: one record
    connections: int
    depth: int
    seconds: float
    partitions: int = 1
    server_pid: int = 0  # 0: nobody to watch
    record_bytes: int = protocol.RECORD_VALUE_BYTES


def connect(address: tuple[str, int]) -> socket.socket:
    """Return a blocking connection whose receives the kernel bounds: Python's own time-out would
    cost a poll each."""
    connection = socket.create_connection(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound = struct.pack("@ll", int(STALL_S), 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bound)
    return connection


class Connection:
    """One connection: its ring of requests, how much of it is still to send, what is in flight."""

    def __init__(self, connected: socket.socket, ring: memoryview, request_bytes: int) -> None:
        self.socket = connected
        self.ring = ring
        self.request_bytes = request_bytes
        self.ring_position = 0
        self.unsent_bytes = 0
        self.answer_bytes = 0
        self.received_bytes = 0
        self.answered = 0
        self.sent_at: deque[list[float]] = deque()  # [time, requests not yet answered]

    def learn(self, error_position: int, what: str) -> bytes:
        """Send one request and wait: the answer is correct, and so long are all of them."""
        self.socket.sendall(self.ring[: self.request_bytes])
        frame = read_frame(self.socket)
        protocol.check_code(
            int.from_bytes(frame[error_position : error_position + 2], "big", signed=True), what
        )
        self.ring_position = self.request_bytes % len(self.ring)
        self.answer_bytes = len(frame)
        self.error_position = error_position
        self.length_byte = frame[3]
        return frame

    def submit(self, count: int, now: float) -> None:
        """Put `count` more requests in flight; send what the socket takes."""
        self.sent_at.append([now, count])
        self.unsent_bytes += count * self.request_bytes
        self.send()

    def send(self) -> None:
        """Send until all is sent or the socket is full."""
        try:
            while self.unsent_bytes:
                end = min(len(self.ring), self.ring_position + self.unsent_bytes)
                sent = self.socket.send(self.ring[self.ring_position : end])
                self.unsent_bytes -= sent
                self.ring_position = (self.ring_position + sent) % len(self.ring)
        except BlockingIOError:
            return  # the poll says when there is room again

    def receive(self, buffer: bytearray) -> int:
        """Receive once and check; return how many requests were answered by it."""
        try:
            count = self.socket.recv_into(buffer)
        except BlockingIOError:
            return 0
        if not count:
            raise protocol.AnswerError("the server closed the connection")
        self._check(buffer, count)
        self.received_bytes += count
        answered = self.received_bytes // self.answer_bytes - self.answered
        self.answered += answered
        return answered

    def _check(self, buffer: bytearray, count: int) -> None:
        size = self.answer_bytes
        before = self.received_bytes % size
        lengths = buffer[(3 - before) % size : count : size]
        if lengths.count(self.length_byte) != len(lengths):
            raise protocol.AnswerError("an answer of another length: not the success of the first")
        place = (self.error_position - before) % size
        if buffer[place:count:size].strip(b"\0") or (
            buffer[(place + 1) % size : count : size].strip(b"\0")
        ):
            code = int.from_bytes(buffer[place : place + 2], "big", signed=True)
            raise protocol.AnswerError(f"an answer with an error (the first's code: {code})")

    def settle(self, answered: int, now: float) -> list[tuple[float, int]]:
        """Return the latencies of the `answered` oldest requests in flight, as (seconds, count)."""
        latencies = []
        while answered:
            oldest = self.sent_at[0]
            taken = min(answered, int(oldest[1]))
            latencies.append((now - oldest[0], taken))
            answered -= taken
            oldest[1] -= taken
            if not oldest[1]:
                self.sent_at.popleft()
        return latencies


def build_ring(
    load: ProduceLoad, *, timestamp_ms: int
) -> tuple[memoryview, protocol.ProduceRequest]:
    """Return the requests of all partitions end to end, repeated up to a good size to send."""
    batch, _ = make_batch(
        load.batch_bytes, timestamp_ms=timestamp_ms, record_bytes=load.record_bytes
    )
    requests = [
        protocol.produce_request(load.topic, partition, batch, acks=load.acks)
        for partition in range(load.partitions)
    ]
    round_trip = b"".join(request.frame for request in requests)
    repeats = -(-RING_BYTES_MIN // len(round_trip))
    return memoryview(round_trip * repeats), requests[0]


def make_batch(
    batch_bytes: int, *, timestamp_ms: int, record_bytes: int = protocol.RECORD_VALUE_BYTES
) -> tuple[bytes, int]:
    """Return a batch of one record (0), or of as many as fit in `batch_bytes`, and its count."""
    if batch_bytes:
        return protocol.batch_within(
            batch_bytes, timestamp_ms=timestamp_ms, value_bytes=record_bytes
        )
    return protocol.record_batch(1, timestamp_ms=timestamp_ms, value_bytes=record_bytes), 1


def append_batches(
    address: tuple[str, int], topic: str, partitions: Sequence[int], batch: bytes, count: int
) -> None:
    """Append `batch` `count` times, to the partitions in turn, a few requests in flight."""
    frames = [protocol.produce_request(topic, p, batch, acks=1).frame for p in partitions]
    append_frames(address, topic, islice(cycle(frames), count))


def append_frames(address: tuple[str, int], topic: str, frames: Iterable[bytes]) -> None:
    """Send framed Produce requests for one topic, a few in flight; all are answered at the end.

    Raises:
        AnswerError: one was answered with an error.
    """
    error_position = protocol.produce_error_position(topic)
    in_flight = 0

    def settle(connection: socket.socket) -> None:
        answer = read_frame(connection)
        code = answer[error_position : error_position + 2]
        protocol.check_code(int.from_bytes(code, "big", signed=True), "produce")

    with connect(address) as connection:
        for frame in frames:
            if in_flight == FILL_DEPTH:
                settle(connection)
                in_flight -= 1
            connection.sendall(frame)
            in_flight += 1
        for _ in range(in_flight):
            settle(connection)


def allow_many_files() -> None:
    """Raise this process's limit of open files and sockets as far as it may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def produce(load: ProduceLoad) -> dict[str, Any]:
    """Run one window; return what was answered in it and what it cost both sides."""
    allow_many_files()
    ring, request = build_ring(load, timestamp_ms=time.time_ns() // 1_000_000)
    error_position = protocol.produce_error_position(load.topic)
    with ExitStack() as stack:
        connections = []
        for _ in range(load.connections):
            connected = stack.enter_context(connect(load.address))
            connections.append(Connection(connected, ring, len(request.frame)))
            connections[-1].learn(error_position, "produce")
        window = Stopwatch(load.seconds, load.server_pid)
        drive(connections, load.depth, window)
    return {**window.result(), "bytes": window.requests * request.batch_bytes}


class Stopwatch:
    """When the warm-up and the window end; what was answered in between, and its cost."""

    def __init__(self, seconds: float, server_pid: int) -> None:
        self.server_pid = server_pid
        self.begin = time.perf_counter() + seconds * WARM_UP_SHARE
        self.end = self.begin + seconds
        self.seconds = seconds
        self.warm = False
        self.requests = 0
        self.requests_in_all = 0  # those of the warm-up too
        self.latencies: list[tuple[float, int]] = []

    def count(self, latencies: Sequence[tuple[float, int]], now: float) -> bool:
        """Take note of answers; return False when the window is over."""
        for _, count in latencies:
            self.requests_in_all += count
        if self.warm:
            self.latencies.extend(latencies)
            if now >= self.end:
                self._finish(now)
                return False
        elif now >= self.begin:
            self._start(now)
        return True

    def _start(self, now: float) -> None:
        self.warm = True
        self.requests_before = self.requests_in_all
        self.begin, self.end = now, now + self.seconds
        self.client_cpu = time.process_time()
        self.server_cpu = cpu_seconds(self.server_pid) if self.server_pid else 0.0

    def _finish(self, now: float) -> None:
        self.end = now
        self.requests = self.requests_in_all - self.requests_before
        self.client_cpu = time.process_time() - self.client_cpu
        if self.server_pid:
            self.server_cpu = cpu_seconds(self.server_pid) - self.server_cpu

    def result(self) -> dict[str, Any]:
        """Return the finished window's figures, as JSON has them."""
        return {
            "requests": self.requests,
            "requests_in_all": self.requests_in_all,
            "seconds": self.end - self.begin,
            **latency_fields(self.latencies),
            "client_cpu_s": self.client_cpu,
            "server_cpu_s": self.server_cpu if self.server_pid else None,
        }


def drive(connections: Sequence[Connection], depth: int, window: Stopwatch) -> None:
    """Keep `depth` requests in flight on each connection until the window is over."""
    if len(connections) == 1 and depth * connections[0].request_bytes <= RING_BYTES_MIN:
        _drive_one(connections[0], depth, window)
    else:
        _drive_many(connections, depth, window)


def _drive_one(connection: Connection, depth: int, window: Stopwatch) -> None:
    """One connection with little in flight: a blocking receive spares the poll."""
    buffer = bytearray(RECEIVE_BYTES)
    now = time.perf_counter()
    connection.submit(depth, now)
    while True:
        answered = connection.receive(buffer)
        if not answered:  # a part of one answer, or the end of the socket's patience
            if time.perf_counter() > now + STALL_S:
                raise protocol.AnswerError(f"no answer within {STALL_S:g} s")
            continue
        now = time.perf_counter()
        if not window.count(connection.settle(answered, now), now):
            return
        connection.submit(answered, now)


def _drive_many(connections: Sequence[Connection], depth: int, window: Stopwatch) -> None:
    """Any number of connections, or requests larger than a socket takes at once."""
    buffer = bytearray(RECEIVE_BYTES)
    poll = select.epoll()
    by_fd = {connection.socket.fileno(): connection for connection in connections}
    blocked: set[int] = set()
    for fd, connection in by_fd.items():
        connection.socket.setblocking(False)
        poll.register(fd, select.EPOLLIN)
    for fd, connection in by_fd.items():
        connection.submit(depth, time.perf_counter())
        _watch(poll, fd, connection, blocked)
    while True:
        events = poll.poll(STALL_S)
        if not events:
            raise protocol.AnswerError(f"no answer within {STALL_S:g} s")
        for fd, event in events:
            connection = by_fd[fd]
            if event & select.EPOLLOUT:
                connection.send()
            answered = connection.receive(buffer) if event & ~select.EPOLLOUT else 0
            if answered:
                now = time.perf_counter()
                if not window.count(connection.settle(answered, now), now):
                    return
                connection.submit(answered, now)
            _watch(poll, fd, connection, blocked)


def _watch(poll: select.epoll, fd: int, connection: Connection, blocked: set[int]) -> None:
    """Ask to be told of room in the socket, exactly while something is unsent."""
    if bool(connection.unsent_bytes) == (fd in blocked):
        return
    if connection.unsent_bytes:
        blocked.add(fd)
        poll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
    else:
        blocked.discard(fd)
        poll.modify(fd, select.EPOLLIN)
