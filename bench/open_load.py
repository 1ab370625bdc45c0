"""Produce at a fixed rate of arrivals, whatever the server does: what its users would wait.

A closed loop sends the next request when the last one was answered, so a server that stalls for a
second is charged with one slow request, not with all those that would have come meanwhile (Tene's
"coordinated omission"). Here each request has a time at which it is due, and its latency runs from
there to its answer, whether or not the client was able to send it then. How late the client was is
reported beside it: where that is not small against the latency, the client is part of the figure.

Requests go over the connections in turn. Those that were due in the window are waited for after it,
so that the slowest are counted too. Sleeping ends a little before a request is due; the rest of the
time is spent asking for answers without sleeping, because a timer wakes tens of microseconds late.
"""

from __future__ import annotations

import ctypes
import select
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from bench import protocol
from bench.histogram import Histogram, latency_fields
from bench.load import (
    RECEIVE_BYTES,
    STALL_S,
    WARM_UP_SHARE,
    Connection,
    ProduceLoad,
    allow_many_files,
    build_ring,
    connect,
)
from bench.process import cpu_seconds

SPIN_S: Final = 0.000_1
_PR_SET_TIMERSLACK: Final = 29


@dataclass(frozen=True, slots=True)
class OpenLoad:
    """What one window sends, and how often."""

    address: tuple[str, int]
    topic: str
    acks: int
    per_second: int
    seconds: float
    connections: int = 1
    batch_bytes: int = 0
    server_pid: int = 0

    def closed(self) -> ProduceLoad:
        """Return the same requests for the client of closed loops, whose parts are used here."""
        return ProduceLoad(
            self.address, self.topic, self.acks, self.batch_bytes, self.connections, 1,
            self.seconds, server_pid=self.server_pid,
        )  # fmt: skip


class Schedule:
    """When each request is due, and what became of it."""

    def __init__(self, load: OpenLoad, begin: float) -> None:
        self.gap = 1 / load.per_second
        self.begin = begin
        self.first = int(load.per_second * load.seconds * WARM_UP_SHARE)
        self.last = self.first + max(1, round(load.per_second * load.seconds))
        self.sent = 0
        self.answered = 0
        self.latencies: list[tuple[float, int]] = []
        self.lateness: list[tuple[float, int]] = []

    def due(self, index: int) -> float:
        """Return when a request is due."""
        return self.begin + index * self.gap

    def due_now(self, now: float) -> range:
        """Return which requests are due and not sent; they count as sent from here on."""
        end = min(self.last, int((now - self.begin) / self.gap) + 1)
        found = range(self.sent, max(self.sent, end))
        self.sent = found.stop
        self.lateness += [(now - self.due(i), 1) for i in found if i >= self.first]
        return found

    def settle(self, latencies: list[tuple[float, int]], now: float) -> None:
        """Take note of answers: latencies run from when each request was due."""
        start = self.due(self.first)
        self.answered += sum(count for _, count in latencies)
        # A request was due `latency` before `now`: it counts if that was in the window.
        self.latencies += [pair for pair in latencies if now - pair[0] >= start - 1e-9]

    @property
    def is_over(self) -> bool:
        """Whether all was sent and answered."""
        return self.answered >= self.last


def open_produce(load: OpenLoad) -> dict[str, Any]:
    """Run one window; return the latencies of the requests that were due in it."""
    allow_many_files()
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    ring, request = build_ring(load.closed(), timestamp_ms=time.time_ns() // 1_000_000)
    error_position = protocol.produce_error_position(load.topic)
    with ExitStack() as stack:
        connections = []
        for _ in range(load.connections):
            connected = stack.enter_context(connect(load.address))
            connections.append(Connection(connected, ring, len(request.frame)))
            connections[-1].learn(error_position, "produce")
            connected.setblocking(False)
        schedule = Schedule(load, time.perf_counter())
        costs = _drive(connections, schedule, load)
    histogram = Histogram.of(schedule.lateness)
    return {
        **latency_fields(schedule.latencies),
        "requests": len(schedule.latencies),
        "bytes": len(schedule.latencies) * request.batch_bytes,
        "late_p99_us": histogram.percentile_us(99),
        **costs,
    }


def _drive(connections: list[Connection], schedule: Schedule, load: OpenLoad) -> dict[str, Any]:
    """Send what is due and receive what came, until all that was due is answered."""
    buffer = bytearray(RECEIVE_BYTES)
    poll = select.epoll()
    by_fd = {connection.socket.fileno(): connection for connection in connections}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    cost = Cost(load.server_pid)
    progress = time.perf_counter()
    while not schedule.is_over:
        now = time.perf_counter()
        _send_due(connections, schedule, now)
        if schedule.sent >= schedule.first:
            cost.begin(now)
        for fd, _ in poll.poll(0):
            answered = by_fd[fd].receive(buffer)
            if answered:
                progress = now = time.perf_counter()
                schedule.settle(by_fd[fd].settle(answered, now), now)
        if now > progress + STALL_S:
            raise protocol.AnswerError(f"no answer within {STALL_S:g} s")
        _rest(poll, schedule, connections)
    return cost.end(time.perf_counter())


class Cost:
    """What a window costs both sides, without its warm-up."""

    def __init__(self, server_pid: int) -> None:
        self.server_pid = server_pid
        self.before: tuple[float, float, float] | None = None

    def begin(self, now: float) -> None:
        """Begin to count, once."""
        if self.before is None:
            self.before = (now, time.process_time(), self._server())

    def end(self, now: float) -> dict[str, Any]:
        """Return the seconds of wall clock and CPU since the beginning."""
        assert self.before is not None
        return {
            "seconds": now - self.before[0],
            "client_cpu_s": time.process_time() - self.before[1],
            "server_cpu_s": self._server() - self.before[2] if self.server_pid else None,
        }

    def _server(self) -> float:
        return cpu_seconds(self.server_pid) if self.server_pid else 0.0


def _send_due(connections: list[Connection], schedule: Schedule, now: float) -> None:
    for index in schedule.due_now(now):
        connection = connections[index % len(connections)]
        connection.sent_at.append([schedule.due(index), 1])
        connection.unsent_bytes += connection.request_bytes
    for connection in connections:
        if connection.unsent_bytes:
            connection.send()


def _rest(poll: select.epoll, schedule: Schedule, connections: list[Connection]) -> None:
    """Sleep until an answer comes or the next request is nearly due."""
    if schedule.is_over or any(connection.unsent_bytes for connection in connections):
        return  # all is done, or a socket was full: try again at once
    if schedule.sent >= schedule.last:
        select.select([poll], [], [], STALL_S)
        return
    wait = schedule.due(schedule.sent) - time.perf_counter() - SPIN_S
    if wait > 0:
        select.select([poll], [], [], wait)  # microseconds, where epoll counts milliseconds
