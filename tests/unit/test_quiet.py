"""Connections that only send heartbeats are read together; what else they send is served too."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from logd.broker.group_shortcuts import GroupShortcuts
from logd.broker.groups import Coordinator
from logd.broker.reply import Reply
from logd.broker.timers import Timers
from logd.net.connection import Connection
from logd.net.quiet import MANY, QUIET_S, QuietConnections
from logd.wire.error_codes import ErrorCode

BEAT = struct.pack(">i", 4) + b"beat"
OTHER = struct.pack(">i", 5) + b"other"


class Loop:
    """A loop that notes what it is asked to do; a frame "beat" is a heartbeat."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.later: list[tuple[float, Any]] = []
        self.turns: list[list[tuple[int, int]]] = []
        self.parsed: list[bytes] = []
        self.counted = 0
        self.closed: list[Connection] = []
        self.quiet = QuietConnections(
            self,
            self.epoll,
            cast("Timers", SimpleNamespace(call_later=lambda *call: self.later.append(call))),
            cast("GroupShortcuts", self),
            cast("Coordinator", SimpleNamespace(now_ms=lambda: 5_000)),
        )

    def answer_heartbeat(
        self, data: bytes, start: int, end: int, now_ms: int
    ) -> tuple[bytes, ErrorCode] | None:
        assert now_ms == 5_000
        assert data[start:end] != b"buggy"
        if data[start:end] == b"last":
            return b"<join>", ErrorCode.REBALANCE_IN_PROGRESS
        return (b"<fine>", ErrorCode.NONE) if data[start:end] == b"beat" else None

    def close(self, connection: Connection, reason: str) -> None:
        assert reason in ("", "internal error")
        connection.closed = True
        del self.connections[connection.fd]
        self.closed.append(connection)

    def serve_now(self, ready: list[tuple[int, int]]) -> None:
        self.turns.append(ready)

    def parse_received(self, connection: Connection, data: bytearray) -> None:
        self.parsed.append(bytes(data))
        connection.requests += 1

    def send_bytes(self, connection: Connection, data: bytes) -> None:
        connection.sock.send(data)

    def count_answers(self, api_key: int, count: int) -> None:
        assert api_key == 12
        self.counted += count

    def mark_ready(self, connection: Connection) -> None:
        raise AssertionError(connection)

    resume = make_quiet = mark_ready

    def look(self) -> None:
        """Have the timer fire that the first event set."""
        events = self.epoll.poll(0)
        assert events == [(self.quiet.fd, select.EPOLLIN)]
        self.quiet.noticed()
        ((delay_s, call),) = self.later
        assert delay_s == QUIET_S
        self.later.clear()
        assert self.epoll.poll(0) == [], "one event until it was looked at"
        call()


class Pair:
    """A quiet connection and its client's socket."""

    def __init__(self, loop: Loop) -> None:
        server, self.client = socket.socketpair()
        server.setblocking(False)
        self.connection = Connection(server, "127.0.0.1", loop, loop.epoll, now=0.0)
        self.connection.events = select.EPOLLIN
        self.connection.requests = self.connection.heartbeat_at = 2
        loop.epoll.register(self.connection.fd, select.EPOLLIN)
        loop.connections[self.connection.fd] = self.connection
        loop.quiet.take(self.connection)

    def close(self) -> None:
        self.client.close()
        self.connection.sock.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.epoll.close()


@pytest.fixture
def pair(loop: Loop) -> Iterator[Pair]:
    made = Pair(loop)
    yield made
    made.close()


def test_heartbeats_of_many_connections_are_answered_at_once(loop: Loop, pair: Pair) -> None:
    """One event, one look: all are answered, several of one connection with one send."""
    second = Pair(loop)
    pair.client.send(BEAT * 3)
    second.client.send(BEAT)
    loop.look()
    assert pair.client.recv(100) == b"<fine>" * 3
    assert second.client.recv(100) == b"<fine>"
    assert (loop.counted, loop.turns, loop.parsed) == (4, [[]], [])
    assert (pair.connection.requests, pair.connection.heartbeat_at) == (5, 5)
    assert pair.connection.active_at == 5.0
    pair.client.send(BEAT)
    loop.look()
    assert pair.client.recv(100) == b"<fine>"
    second.close()


def test_where_many_send_heartbeats_nobody_waits_for_an_event(loop: Loop) -> None:
    """The next look is due at once; when few are left, an event is waited for again."""
    pairs = [Pair(loop) for _ in range(MANY)]
    for pair in pairs:
        pair.client.send(BEAT)
    loop.look()
    ((_, look_again),) = loop.later
    loop.later.clear()
    pairs[0].client.send(BEAT)
    assert loop.epoll.poll(0) == []
    look_again()
    assert loop.later == []
    assert loop.counted == MANY + 1
    pairs[0].client.send(BEAT)
    loop.look()
    assert loop.counted == MANY + 2
    for pair in pairs:
        pair.close()


def test_whoever_sends_something_else_is_quiet_no_more(loop: Loop, pair: Pair) -> None:
    """What came behind the heartbeats is handled as ever, and the loop's epoll has it again."""
    pair.client.send(BEAT + OTHER + BEAT)
    loop.look()
    assert pair.client.recv(100) == b"<fine>"
    assert loop.parsed == [OTHER + BEAT]
    pair.client.send(OTHER)
    assert loop.epoll.poll(0) == [(pair.connection.fd, select.EPOLLIN)]


def test_whoever_hears_of_a_rebalance_is_quiet_no_more(loop: Loop, pair: Pair) -> None:
    """The others wait for its next request."""
    pair.client.send(struct.pack(">i", 4) + b"last")
    loop.look()
    assert pair.client.recv(100) == b"<join>"
    pair.client.send(OTHER)
    assert loop.epoll.poll(0) == [(pair.connection.fd, select.EPOLLIN)]


def test_half_a_heartbeat_is_left_to_the_loop(loop: Loop, pair: Pair) -> None:
    """So are lengths that cannot be."""
    for part in (BEAT[:5], b"\xff\xff\xff\xff", struct.pack(">i", -100), b"\0"):
        pair.client.send(part)
        loop.look()
        assert loop.parsed.pop() == part
        loop.quiet.take(pair.connection)


def test_a_bug_costs_one_connection(loop: Loop, pair: Pair) -> None:
    """The others are answered, and looked at again."""
    second = Pair(loop)
    pair.client.send(struct.pack(">i", 5) + b"buggy")
    second.client.send(BEAT)
    loop.look()
    assert loop.closed == [pair.connection]
    assert second.client.recv(100) == b"<fine>"
    loop.epoll.modify(loop.quiet.fd, 0)
    second.close()


def test_a_client_that_is_gone_is_closed(loop: Loop, pair: Pair) -> None:
    """Whether it said so or not."""
    pair.client.close()
    loop.look()
    # A pair of sockets tells of the end with more than a readable event; TCP may not.
    assert loop.closed == [pair.connection] or loop.turns[0][0][0] == pair.connection.fd


def test_a_connection_with_something_under_way_has_an_ordinary_turn(loop: Loop, pair: Pair) -> None:
    """Answers go out in the order of the requests, so nothing may overtake them."""
    pair.connection.replies.append(Reply(pair.connection))
    pair.client.send(BEAT)
    loop.look()
    assert loop.turns == [[(pair.connection.fd, select.EPOLLIN)]]
    assert loop.counted == 0
