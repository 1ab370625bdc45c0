"""A group's member over a raw socket, with our own codec: it can be as bad as a test needs."""

from __future__ import annotations

import socket
from types import ModuleType, TracebackType
from typing import Any, Self

from logd.wire.messages import (
    find_coordinator,
    heartbeat,
    join_group,
    leave_group,
    offset_commit,
    sync_group,
)
from tests.server_process import ANSWER_TIMEOUT_S, ServerProcess, read_frame, request

# Longer than any test, since members of these tests beat only where they are told to.
SESSION_MS = 120_000
REBALANCE_MS = 30_000
RANGE = (("range", b"what range needs"),)

UNKNOWN_MEMBER_ID = 25
REBALANCE_IN_PROGRESS = 27
MEMBER_ID_REQUIRED = 79
GROUP_MAX_SIZE_REACHED = 81
FENCED_INSTANCE_ID = 82


def frame(module: ModuleType, message: Any, version: int) -> bytes:
    """Return a request as it is sent, with the header that its version has."""
    body: bytes = module.encode_request(message, version)
    return request(module.API_KEY, version, b"\0" + body if is_flexible(module, version) else body)


def is_flexible(module: ModuleType, version: int) -> bool:
    """Whether the headers of this version have room for tagged fields."""
    first: int | None = module.FIRST_FLEXIBLE_VERSION
    return first is not None and version >= first


class Line:
    """One connection."""

    def __init__(self, server: ServerProcess) -> None:
        self.socket = server.connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, module: ModuleType, message: Any, version: int) -> None:
        self.socket.sendall(frame(module, message, version))

    def receive(self, module: ModuleType, version: int) -> Any:
        """The next answer."""
        answer = read_frame(self.socket)
        assert answer, "the connection was closed"
        begin = 5 if is_flexible(module, version) else 4
        return module.decode_response(answer, version, begin, len(answer))

    def ask(self, module: ModuleType, message: Any, version: int) -> Any:
        """Send a request and return the answer to it."""
        self.send(module, message, version)
        return self.receive(module, version)

    def is_closed(self) -> bool:
        """Whether the server closes the connection without another word."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def is_silent(self) -> bool:
        """Whether nothing has come so far."""
        try:
            self.socket.setblocking(False)
            return not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(ANSWER_TIMEOUT_S)


def find_the_coordinator(server: ServerProcess) -> None:
    """As every client does first; the server keeps offsets from then on."""
    with Line(server) as line:
        asked = find_coordinator.FindCoordinatorRequest(key="any")
        assert line.ask(find_coordinator, asked, 0).error_code == 0


class RawMember:
    """A member: it does what it should where a test does not have it do otherwise."""

    def __init__(
        self,
        server: ServerProcess,
        group: str,
        *,
        instance_id: str | None = None,
        session_ms: int = SESSION_MS,
        rebalance_ms: int = REBALANCE_MS,
        protocols: tuple[tuple[str, bytes], ...] = RANGE,
    ) -> None:
        self.line = Line(server)
        self.group, self.instance_id = group, instance_id
        self.session_ms, self.rebalance_ms = session_ms, rebalance_ms
        self.protocols = protocols
        self.member_id = ""
        self.generation = -1
        self.members: list[str] = []
        self.is_leader = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, at: TracebackType | None
    ) -> None:
        self.line.close()

    def join_request(self) -> join_group.JoinGroupRequest:
        return join_group.JoinGroupRequest(
            group_id=self.group, session_timeout_ms=self.session_ms,
            rebalance_timeout_ms=self.rebalance_ms, member_id=self.member_id,
            group_instance_id=self.instance_id, protocol_type="consumer",
            protocols=[
                join_group.JoinGroupRequestProtocol(name=name, metadata=metadata)
                for name, metadata in self.protocols
            ],
        )  # fmt: skip

    def get_id(self) -> None:
        """Be told a member id, if it has none and is dynamic."""
        if not self.member_id and self.instance_id is None:
            told = self.line.ask(join_group, self.join_request(), 9)
            assert told.error_code == MEMBER_ID_REQUIRED
            self.member_id = told.member_id

    def send_join(self) -> None:
        """Join; the answer comes when the group is ready."""
        self.get_id()
        self.line.send(join_group, self.join_request(), 9)

    def take_join(self) -> None:
        answer = self.line.receive(join_group, 9)
        assert answer.error_code == 0
        self.member_id, self.generation = answer.member_id, answer.generation_id
        self.is_leader = answer.leader == answer.member_id
        self.members = [member.member_id for member in answer.members]

    def sync_request(self) -> sync_group.SyncGroupRequest:
        assigned = self.members if self.is_leader else []
        return sync_group.SyncGroupRequest(
            group_id=self.group, generation_id=self.generation, member_id=self.member_id,
            group_instance_id=self.instance_id, protocol_type="consumer",
            protocol_name=self.protocols[0][0],
            assignments=[
                sync_group.SyncGroupRequestAssignment(member_id=one, assignment=one.encode())
                for one in assigned
            ],
        )  # fmt: skip

    def sync(self) -> int:
        """Sync to the end and return the error; the assignment must be the member's own."""
        answer = self.line.ask(sync_group, self.sync_request(), 5)
        assert answer.error_code or bytes(answer.assignment) == self.member_id.encode()
        return int(answer.error_code)

    def join(self) -> None:
        """Join and sync, alone or where the others do the same in their own time."""
        self.send_join()
        self.take_join()
        assert self.sync() == 0

    def heartbeat_request(self) -> heartbeat.HeartbeatRequest:
        return heartbeat.HeartbeatRequest(
            group_id=self.group, generation_id=self.generation, member_id=self.member_id,
            group_instance_id=self.instance_id,
        )  # fmt: skip

    def heartbeat(self) -> int:
        return int(self.line.ask(heartbeat, self.heartbeat_request(), 4).error_code)

    def commit_request(
        self, topic: str, offset: int, *, partition: int = 0, metadata: str = ""
    ) -> offset_commit.OffsetCommitRequest:
        asked = offset_commit.OffsetCommitRequestPartition(
            partition_index=partition, committed_offset=offset, committed_metadata=metadata
        )
        return offset_commit.OffsetCommitRequest(
            group_id=self.group, generation_id_or_member_epoch=self.generation,
            member_id=self.member_id, group_instance_id=self.instance_id,
            topics=[offset_commit.OffsetCommitRequestTopic(name=topic, partitions=[asked])],
        )  # fmt: skip

    def commit(self, topic: str, offset: int) -> int:
        answer = self.line.ask(offset_commit, self.commit_request(topic, offset), 9)
        return int(answer.topics[0].partitions[0].error_code)

    def leave(self) -> int:
        leaver = leave_group.MemberIdentity(
            member_id=self.member_id, group_instance_id=self.instance_id
        )
        asked = leave_group.LeaveGroupRequest(group_id=self.group, members=[leaver])
        return int(self.line.ask(leave_group, asked, 5).members[0].error_code)


def assert_goes_on(member: RawMember, topic: str) -> None:
    """A healthy member is accepted, in the generation that it is in."""
    assert member.heartbeat() == 0
    assert member.commit(topic, 7) == 0


def flood(line: Line, frames: bytes, healthy: RawMember) -> None:
    """Send for as long as the server reads; the healthy member is served meanwhile."""
    line.socket.setblocking(False)
    blocked = 0
    while blocked < 3:
        try:
            line.socket.send(frames)
        except BlockingIOError:
            blocked += 1
            assert healthy.heartbeat() == 0
