"""Clients of consumer groups: members that commit, rebalance, send heartbeats; and one that fills.

Members are real ones: they join, are given partitions, and say who they are in each request. Their
sessions are long, so that what an earlier window left behind does not end in a later one.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from bench import group_protocol as protocol
from bench.group_protocol import JoinAnswer, Membership
from bench.load import (
    RECEIVE_BYTES,
    WARM_UP_SHARE,
    Connection,
    Stopwatch,
    allow_many_files,
    connect,
    drive,
)
from bench.process import cpu_seconds, read_frame
from bench.protocol import AnswerError, api_versions_request

SESSION_TIMEOUT_MS: Final = 1_800_000
REBALANCE_TIMEOUT_MS: Final = 60_000
RING_COMMITS: Final = 500
FILL_DEPTH: Final = 8
HEAD_START_S: Final = 0.05
# How often the answers to heartbeats are received: they are not what is measured.
DRAIN_EVERY: Final = 50


def exchange(sockets: Sequence[socket.socket], requests: Sequence[bytes]) -> list[bytes]:
    """Send one request on each connection, then wait for all answers; return them in order."""
    for connection, request in zip(sockets, requests, strict=True):
        connection.sendall(request)
    return [read_frame(connection) for connection in sockets]


def form_groups(
    sockets: Sequence[socket.socket], groups: Sequence[str], topic: str
) -> list[Membership]:
    """Let each connection's member join its group, and give each a partition of the topic."""
    ids = ask_for_ids(sockets, groups, topic)
    answers = read_joins(exchange(sockets, joins(groups, ids, topic)), groups)
    for frame in exchange(sockets, syncs(answers, topic)):
        protocol.check_sync_answer(frame)
    return [answer.membership for answer in answers]


def ask_for_ids(sockets: Sequence[socket.socket], groups: Sequence[str], topic: str) -> list[str]:
    """Return the member ids that the groups give to newcomers."""
    frames = exchange(sockets, joins(groups, [""] * len(groups), topic))
    return [answer.membership.member_id for answer in read_joins(frames, groups)]


def joins(groups: Sequence[str], ids: Sequence[str], topic: str) -> list[bytes]:
    """Return a JoinGroup for each member."""
    return [
        protocol.join_request(
            group, member_id, topic,
            session_timeout_ms=SESSION_TIMEOUT_MS, rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
        )
        for group, member_id in zip(groups, ids, strict=True)
    ]  # fmt: skip


def read_joins(frames: Sequence[bytes], groups: Sequence[str]) -> list[JoinAnswer]:
    """Return what each member was told."""
    return [
        protocol.read_join_answer(frame, group) for frame, group in zip(frames, groups, strict=True)
    ]


def syncs(answers: Sequence[JoinAnswer], topic: str) -> list[bytes]:
    """Return a SyncGroup for each member; leaders give everyone a partition."""
    return [
        protocol.sync_request(
            answer.membership,
            {
                member_id: protocol.assignment(topic, [index])
                for index, member_id in enumerate(answer.members)
            },
        )
        for answer in answers
    ]


@contextmanager
def _connections(address: tuple[str, int], count: int) -> Any:
    """Open connections; the limit of open files is raised as far as it may be."""
    allow_many_files()
    with ExitStack() as stack:
        yield [stack.enter_context(connect(address)) for _ in range(count)]


def _unique(name: str) -> str:
    """Return a group's name that no other window has: nobody else's members are in it."""
    return f"{name}-{os.getpid()}-{time.monotonic_ns() // 1_000_000}"


# --- Commits ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CommitLoad:
    """What one window commits: each connection is the one member of a group of its own."""

    address: tuple[str, int]
    topic: str
    connections: int
    depth: int
    seconds: float
    server_pid: int = 0


def commit(load: CommitLoad) -> dict[str, Any]:
    """Run one window of commits, one partition each, of offsets that go up."""
    name = _unique("commits")
    groups = [f"{name}-{index:04d}" for index in range(load.connections)]
    with _connections(load.address, load.connections) as sockets:
        connections = []
        for socket_, member in zip(sockets, form_groups(sockets, groups, load.topic), strict=True):
            frames = [
                protocol.commit_request(member, load.topic, {0: offset})
                for offset in range(RING_COMMITS)
            ]
            connection = Connection(socket_, memoryview(b"".join(frames)), len(frames[0]))
            connection.learn(protocol.commit_error_position(load.topic), "offset commit")
            connections.append(connection)
        window = Stopwatch(load.seconds, load.server_pid)
        drive(connections, load.depth, window)
    return {**window.result(), "bytes": 0}


@dataclass(frozen=True, slots=True)
class FillLoad:
    """So many commits, spread over all partitions of a topic and over groups without members."""

    address: tuple[str, int]
    topic: str
    groups: int
    partitions: int
    commits: int


def fill(load: FillLoad) -> dict[str, Any]:
    """Commit as often as asked, all partitions in one request; return how long it took."""
    count = load.commits // load.partitions
    partitions = load.partitions
    began = time.perf_counter()
    with connect(load.address) as connection:
        for index in range(count + FILL_DEPTH):
            if index >= FILL_DEPTH:
                protocol.check_commit_answer(read_frame(connection), load.topic, partitions)
            if index < count:
                group = f"filled-{index % load.groups:06d}"
                member = Membership(group, "", protocol.NO_GENERATION)
                offsets = dict.fromkeys(range(partitions), index // load.groups)
                connection.sendall(protocol.commit_request(member, load.topic, offsets))
    return {"commits": count * partitions, "seconds": time.perf_counter() - began}


# --- Rebalances ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RebalanceLoad:
    """A group of so many members; `delay_ms` is the server's initial rebalance delay."""

    address: tuple[str, int]
    topic: str
    members: int
    delay_ms: int


def rebalance(load: RebalanceLoad) -> dict[str, Any]:
    """Form a group, let all its members join again; return how long they waited, in ms.

    first_ms: from the first JoinGroup until all are answered, without the delay. The server waits
        it twice: again when members came in the first one.
    again_ms: from the last JoinGroup until all are answered, and from the leader's SyncGroup, sent
        last, until all are: what a rebalance adds to the time that its members take.
    bare_ms: as many requests and answers as in `again_ms`, all of the smallest kind.
    """
    groups = [_unique("rebalance")] * load.members
    with _connections(load.address, load.members) as sockets:
        ids = ask_for_ids(sockets, groups, load.topic)
        requests = joins(groups, ids, load.topic)
        began = time.perf_counter()
        answers = read_joins(exchange(sockets, requests), groups)
        first_s = time.perf_counter() - began - 2 * load.delay_ms / 1000
        _sync(sockets, answers, load.topic)
        # Only a leader's JoinGroup begins a rebalance; the last member's ends its joining phase.
        leader = ids.index(answers[0].leader)
        join_s, frames = _last_to_all(sockets, requests, first=leader)
        again = read_joins(frames, groups)
        sync_s = _sync(sockets, again, load.topic)
        bare_s = [_last_to_all(sockets, [api_versions_request()] * len(sockets))[0]] * 2
    if any(answer.membership.generation != 2 for answer in again):
        raise AnswerError("rebalance: the members joined again, and are not of one generation")
    return {
        "first_ms": first_s * 1e3,
        "again_ms": (join_s + sync_s) * 1e3,
        "bare_ms": sum(bare_s) * 1e3,
    }


def _sync(sockets: Sequence[socket.socket], answers: Sequence[JoinAnswer], topic: str) -> float:
    leader = next(n for n, a in enumerate(answers) if a.leader == a.membership.member_id)
    seconds, frames = _last_to_all(sockets, syncs(answers, topic), last=leader)
    for frame in frames:
        protocol.check_sync_answer(frame)
    return seconds


def _last_to_all(
    sockets: Sequence[socket.socket],
    requests: Sequence[bytes],
    *,
    first: int | None = None,
    last: int | None = None,
) -> tuple[float, list[bytes]]:
    """Send all requests; return the time from the last one until all are answered."""
    if first is not None:
        sockets[first].sendall(requests[first])
        time.sleep(HEAD_START_S)  # Connections are not served in the order of our sends.
    order = [index for index in range(len(sockets)) if index not in (first, last)]
    order += [] if last is None else [last]
    for index in order[:-1]:
        sockets[index].sendall(requests[index])
    sent = time.perf_counter()
    sockets[order[-1]].sendall(requests[order[-1]])
    frames = [read_frame(connection) for connection in sockets]
    return time.perf_counter() - sent, frames


# --- Heartbeats ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeartbeatLoad:
    """Groups whose members only say that they live; `is_bare`: to a server that has no groups."""

    address: tuple[str, int]
    topic: str
    groups: int
    members: int
    interval_s: float
    seconds: float
    server_pid: int
    is_bare: bool = False


def heartbeats(load: HeartbeatLoad) -> dict[str, Any]:
    """Send each member's heartbeat in its turn, evenly spread; return what they cost the server."""
    name = _unique("idle")
    groups = [f"{name}-{n:06d}" for n in range(load.groups) for _ in range(load.members)]
    with _connections(load.address, len(groups)) as sockets:
        if load.is_bare:
            members = [Membership(group, bare_member_id(n), 1) for n, group in enumerate(groups)]
        else:
            members = form_groups(sockets, groups, load.topic)
        requests = [protocol.heartbeat_request(member) for member in members]
        with select.epoll() as poll:
            for connection in sockets:
                poll.register(connection, select.EPOLLIN)
            by_fd = {connection.fileno(): connection for connection in sockets}
            pulse = _Pulse(sockets, requests, poll, by_fd)
            step_s = load.interval_s / len(sockets)
            pulse.beat(step_s, load.seconds * WARM_UP_SHARE)
            server, client = cpu_seconds(load.server_pid), time.process_time()
            before = pulse.sent
            elapsed = pulse.beat(step_s, load.seconds)
            server, client = cpu_seconds(load.server_pid) - server, time.process_time() - client
    return {
        "requests": pulse.sent - before,
        "seconds": elapsed,
        "bytes": 0,
        "p50_us": None,
        "p99_us": None,
        "client_cpu_s": client,
        "server_cpu_s": server,
    }


def bare_member_id(number: int) -> str:
    """Return a member id of the usual length."""
    return f"logd-bench-{number:036d}"


class _Pulse:
    """Sends heartbeats on schedule, round and round, and checks the answers some time later."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        requests: Sequence[bytes],
        poll: select.epoll,
        by_fd: dict[int, socket.socket],
    ) -> None:
        self._sockets = sockets
        self._requests = requests
        self._poll = poll
        self._by_fd = by_fd
        self._answer = protocol.heartbeat_answer()
        self._buffer = bytearray(RECEIVE_BYTES)
        self.sent = 0

    def beat(self, step_s: float, seconds: float) -> float:
        """Send one each `step_s`; return how long it took, about `seconds`."""
        began = time.perf_counter()
        for index in range(int(seconds / step_s)):
            wait = began + index * step_s - time.perf_counter()
            if wait > 0:
                time.sleep(wait)  # To the microsecond; a poll would round up to milliseconds.
            turn = self.sent % len(self._sockets)
            self._sockets[turn].sendall(self._requests[turn])
            self.sent += 1
            if index % DRAIN_EVERY == 0:
                self._drain()
        return time.perf_counter() - began

    def _drain(self) -> None:
        for fd, _ in self._poll.poll(0, len(self._sockets)):
            count = self._by_fd[fd].recv_into(self._buffer)
            answers = self._answer * (count // len(self._answer))
            if not count or self._buffer[:count] != answers:
                raise AnswerError("a heartbeat was refused, or not answered as one")
