"""The short way of heartbeats and commits answers as the long way does, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from logd.broker.apis import APIS, LateReply
from logd.broker.group_shortcuts import CommitRoute, GroupShortcuts
from logd.broker.reply import Reply
from logd.errors import DiskFullError, LogFailedError
from logd.wire.messages import heartbeat, offset_commit
from logd.wire.request_header import decode_request_header, request_header
from tests.unit.broker_fakes import Server
from tests.unit.broker_requests import versions_of
from tests.unit.group_client import Seat, committed, join, leave, stable, started

CORRELATION_ID = 0x01020304


class Line:
    """A connection: remembers commits, and takes answers."""

    def __init__(self) -> None:
        self.is_ready = False
        self.commit_route: CommitRoute | None = None

    def mark_ready(self) -> None:
        self.is_ready = True

    def close_for(self, reason: str) -> None:
        raise AssertionError(reason)


class Client:
    """Sends frames the short way if there is one, else the long way."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.shortcuts = GroupShortcuts(server.broker)
        self.line = Line()

    def frame(self, module: Any, request: Any, version: int, correlation_id: int = 1) -> bytes:
        header = request_header(module.API_KEY, version, correlation_id, "test")
        return header + bytes(module.encode_request(request, version))

    def long(self, module: Any, frame: bytes, version: int) -> Reply:
        """Handle a frame the long way, and remember it."""
        correlation_id, _, at = decode_request_header(frame, 0, len(frame), module.API_KEY, version)
        request = module.decode_request(frame, version, at, len(frame))
        api = APIS[module.API_KEY]
        reply = LateReply(self.line, api, version=version, correlation_id=correlation_id)
        assert api.begin is not None
        api.begin(self.server.context(api.key, version), request, version, reply)
        if module is heartbeat:
            self.shortcuts.learn_heartbeat(frame, request, version)
        else:
            self.shortcuts.learn_commit(self.line, frame, request, version)
        return reply

    def short_beat(self, frame: bytes) -> bytes | None:
        padded = b"before" + frame
        now_ms = self.server.groups.now_ms()
        answer = self.shortcuts.answer_heartbeat(padded, 6, len(padded), now_ms)
        return None if answer is None else answer[0]

    def short_commit(self, frame: bytes) -> Reply | None:
        padded = bytearray(b"before" + frame + b"behind")
        end = len(frame) + 6
        correlation_id = int.from_bytes(frame[4:8], "big")
        return self.shortcuts.commit(self.line, padded, 6, end, correlation_id)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return trio.run(started, Server(tmp_path))


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server)


# --- heartbeats ----------------------------------------------------------------------------------


def a_beat(seat: Seat, **changes: Any) -> heartbeat.HeartbeatRequest:
    return heartbeat.HeartbeatRequest(
        group_id="g", generation_id=seat.generation, member_id=seat.member_id, **changes
    )


@pytest.mark.parametrize("version", versions_of(heartbeat))
def test_a_heartbeat_that_comes_again(server: Server, client: Client, version: int) -> None:
    """The same answer, under its own correlation id, whatever the group says meanwhile."""
    (seat,) = stable(server)
    frame = client.frame(heartbeat, a_beat(seat), version)
    again = client.frame(heartbeat, a_beat(seat), version, CORRELATION_ID)
    assert client.short_beat(frame) is None
    client.long(heartbeat, frame, version)
    expected = client.long(heartbeat, again, version).data
    if version == 0:
        assert client.short_beat(again) is None
        return
    assert client.short_beat(again) == expected
    join(server)
    rebalancing = client.short_beat(again)
    assert rebalancing == client.long(heartbeat, again, version).data != expected


def test_only_the_very_same_heartbeat_is_taken(server: Server, client: Client) -> None:
    """Another generation, member or version goes the long way; so does a group that is gone."""
    (seat,) = stable(server)
    frame = client.frame(heartbeat, a_beat(seat), 3)
    client.long(heartbeat, frame, 3)
    assert client.short_beat(frame) is not None
    assert client.short_beat(frame[:-1]) is None
    assert client.short_beat(client.frame(heartbeat, a_beat(seat), 2)) is None
    assert client.short_beat(client.frame(heartbeat, a_beat(Seat("x", 1)), 3)) is None
    server.partition("__consumer_offsets").offline = "gone"
    assert client.short_beat(frame) is None
    server.partition("__consumer_offsets").offline = None
    del server.groups.entries["g"]
    assert client.short_beat(frame) is None


def test_the_short_way_renews_the_session(server: Server, client: Client) -> None:
    """A member that is heard of that way alone stays."""
    (seat,) = stable(server)
    frame = client.frame(heartbeat, a_beat(seat), 4)
    client.long(heartbeat, frame, 4)
    for _ in range(5):
        server.group_services.timers.advance(9_000)
        assert client.short_beat(frame) is not None
    assert list(server.groups.entries["g"].group.members) == [seat.member_id]


def test_remembered_heartbeats_are_bounded(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of generations that ended do not pile up."""
    monkeypatch.setattr("logd.broker.group_shortcuts.HEARTBEATS_MAX", 3)
    (seat,) = stable(server)
    for generation in range(10):
        frame = client.frame(heartbeat, a_beat(Seat(seat.member_id, generation)), 3)
        client.long(heartbeat, frame, 3)
        assert client.short_beat(frame) is not None
    assert len(client.shortcuts._heartbeats) <= 3


# --- commits -------------------------------------------------------------------------------------


def a_commit(
    offset: int, seat: Seat | None = None, metadata: str | None = "n", **changes: Any
) -> offset_commit.OffsetCommitRequest:
    partition = offset_commit.OffsetCommitRequestPartition(
        partition_index=1,
        committed_offset=offset,
        committed_leader_epoch=changes.pop("epoch", -1),
        committed_metadata=metadata,
    )
    return offset_commit.OffsetCommitRequest(
        group_id="g",
        generation_id_or_member_epoch=-1 if seat is None else seat.generation,
        member_id="" if seat is None else seat.member_id,
        topics=[offset_commit.OffsetCommitRequestTopic(name="t", partitions=[partition])],
        **changes,
    )


@pytest.mark.parametrize("version", versions_of(offset_commit))
@pytest.mark.parametrize("metadata", [None, "", "note"])
def test_a_commit_that_differs_in_its_offset(
    server: Server, client: Client, version: int, metadata: str | None
) -> None:
    """The same record and the same answer as the long way's, once it is durable."""
    epoch = {"epoch": 7} if version >= 6 else {}
    frame = client.frame(offset_commit, a_commit(5, metadata=metadata), version)
    other = client.frame(
        offset_commit, a_commit(2**40, metadata=metadata, **epoch), version, CORRELATION_ID
    )
    assert client.short_commit(frame) is None
    expected = client.long(offset_commit, other, version).data
    record = server.group_log.records[0][-1]
    client.long(offset_commit, frame, version)
    server.group_log.holds = True
    reply = client.short_commit(other)
    assert reply is not None
    assert reply.data is None
    assert committed(server)["t", 1][0] == 5
    server.group_log.sync()
    assert reply.data == expected
    assert server.group_log.records[0][-1] == record
    assert committed(server)["t", 1] == (2**40, epoch.get("epoch", -1), metadata or "")
    assert server.groups.commits.value == 3


def test_what_a_commit_meets_goes_the_long_way(server: Server, client: Client) -> None:
    """A topic that changed, a group that refuses or is gone, another shape of request."""
    (seat,) = stable(server)
    frame = client.frame(offset_commit, a_commit(5, seat), 8)

    def learned() -> bool:
        client.long(offset_commit, frame, 8)
        return client.short_commit(frame) is not None

    assert learned()
    assert client.short_commit(frame[:-1]) is None
    assert client.short_commit(client.frame(offset_commit, a_commit(5, seat), 7)) is None
    assert client.short_commit(client.frame(offset_commit, a_commit(5, seat, "other"), 8)) is None
    trio.run(server.topics.create, "u", 1, {})
    assert client.short_commit(frame) is None
    assert learned()
    trio.run(server.topics.delete, server.topics.by_name["t"])
    assert client.short_commit(frame) is None
    assert not learned()
    trio.run(server.topics.create, "t", 2, {})
    assert learned()
    join(server)
    assert client.short_commit(frame) is not None
    leave(server, seat.member_id)
    assert client.short_commit(frame) is None
    del server.groups.entries["g"]
    assert client.short_commit(frame) is None


@pytest.mark.parametrize(
    "request_",
    [
        a_commit(5, metadata="x" * 5000),
        a_commit(5, retention_time_ms=1000),
        offset_commit.OffsetCommitRequest(group_id="g"),
    ],
)
def test_unusual_commits_are_not_learned(client: Client, request_: Any) -> None:
    """Notes that are too long, a retention of their own, no partition at all."""
    version = 3
    client.long(offset_commit, client.frame(offset_commit, a_commit(1), version), version)
    assert client.line.commit_route is not None
    frame = client.frame(offset_commit, request_, version)
    client.long(offset_commit, frame, version)
    assert client.line.commit_route is None
    assert client.short_commit(frame) is None


def test_tagged_fields_are_not_mistaken_for_an_offset(client: Client) -> None:
    """A frame that ends in fields of a later version is decoded each time."""
    frame = client.frame(offset_commit, a_commit(1), 8)
    tagged = frame[:-1] + b"\1\x05\2ab"
    client.long(offset_commit, tagged, 8)
    assert client.line.commit_route is None


@pytest.mark.parametrize("error", [DiskFullError("full"), LogFailedError("gone")])
def test_a_short_commit_that_is_refused(server: Server, client: Client, error: Any) -> None:
    """The same answer as the long way's, the old offset stays."""
    frame = client.frame(offset_commit, a_commit(5), 8)
    client.long(offset_commit, frame, 8)
    server.group_log.holds = True
    other = client.frame(offset_commit, a_commit(6), 8)
    short, long = client.short_commit(other), client.long(offset_commit, other, 8)
    assert short is not None
    server.group_log.fail(error)
    assert short.data == long.data
    assert short.data is not None
    assert committed(server)["t", 1][0] == 5
    assert server.groups.entries["g"].in_flight == set()
