"""kill -9 in every state of a group: members and acknowledged commits are there afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from logd.wire.error_codes import ErrorCode
from logd.wire.messages import (
    create_topics,
    describe_groups,
    find_coordinator,
    heartbeat,
    join_group,
    leave_group,
    offset_commit,
    offset_fetch,
    sync_group,
)
from tests.raw_client import RawClient
from tests.server_process import ServerProcess

GROUP = "g"
PARTITIONS = 20
JOIN, SYNC, BEAT, LEAVE, COMMIT, FETCH = 9, 5, 4, 5, 9, 9


_opened: list[RawClient] = []


def connect(server: ServerProcess) -> RawClient:
    """Return a connection that the fixture closes."""
    _opened.append(RawClient(server))
    return _opened[-1]


@dataclass
class Member:
    """A static member with a connection of its own."""

    client: RawClient
    instance_id: str
    member_id: str = ""
    generation: int = -1

    def send_join(self) -> None:
        protocol = join_group.JoinGroupRequestProtocol(name="range", metadata=b"\0\0\0\0\0\0")
        request = join_group.JoinGroupRequest(
            group_id=GROUP,
            session_timeout_ms=30_000,
            rebalance_timeout_ms=30_000,
            member_id=self.member_id,
            group_instance_id=self.instance_id,
            protocol_type="consumer",
            protocols=[protocol],
        )
        self.client.send(join_group, request, JOIN)

    def receive_join(self) -> Any:
        answer = self.client.receive(join_group, JOIN)
        assert answer.error_code == 0
        self.member_id, self.generation = answer.member_id, answer.generation_id
        return answer

    def send_sync(self, assignments: dict[str, bytes]) -> None:
        request = sync_group.SyncGroupRequest(
            group_id=GROUP,
            generation_id=self.generation,
            member_id=self.member_id,
            group_instance_id=self.instance_id,
            protocol_type="consumer",
            protocol_name="range",
            assignments=[
                sync_group.SyncGroupRequestAssignment(member_id=name, assignment=raw)
                for name, raw in assignments.items()
            ],
        )
        self.client.send(sync_group, request, SYNC)

    def receive_sync(self) -> bytes:
        answer = self.client.receive(sync_group, SYNC)
        assert answer.error_code == 0
        return bytes(answer.assignment)

    def beat(self) -> int:
        request = heartbeat.HeartbeatRequest(
            group_id=GROUP,
            generation_id=self.generation,
            member_id=self.member_id,
            group_instance_id=self.instance_id,
        )
        code: int = self.client.ask(heartbeat, request, BEAT).error_code
        return code


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(
        tmp_path / "data", "--set", "group.initial.rebalance.delay.ms=50"
    ) as process:
        with RawClient(process) as client:
            topic = create_topics.CreatableTopic(
                name="t", num_partitions=PARTITIONS, replication_factor=1
            )
            request = create_topics.CreateTopicsRequest(topics=[topic], timeout_ms=1000)
            assert client.ask(create_topics, request, 5).topics[0].error_code == 0
            request = find_coordinator.FindCoordinatorRequest(coordinator_keys=[GROUP])
            assert client.ask(find_coordinator, request, 4).coordinators[0].error_code == 0
        yield process
        while _opened:
            _opened.pop().sock.close()
        assert "Traceback" not in process.log()


def two_members(server: ServerProcess) -> list[Member]:
    """Have two members join; the first one leads.

    Where a busy machine has the group form before the second one is heard, the first joins again.
    """
    members = [Member(connect(server), f"instance-{n}") for n in range(2)]
    for member in members:
        member.send_join()
    while len(members[0].receive_join().members) < len(members):
        members[0].send_join()
    members[1].receive_join()
    return members


def assigned(server: ServerProcess) -> list[Member]:
    """Have two members join and be given their own ids."""
    members = two_members(server)
    members[0].send_sync({one.member_id: one.instance_id.encode() for one in members})
    members[1].send_sync({})
    for member in members:
        assert member.receive_sync() == member.instance_id.encode()
    return members


def third_joins(server: ServerProcess) -> Member:
    """Have another member begin a rebalance."""
    third = Member(connect(server), "instance-2")
    third.send_join()
    deadline = time.monotonic() + 60
    while state(server) != "PreparingRebalance":
        assert time.monotonic() < deadline
    return third


def commit(server: ServerProcess, offset: int, member: Member | None = None) -> None:
    """Commit the offset for all partitions; it is acknowledged when this returns."""
    partitions = [
        offset_commit.OffsetCommitRequestPartition(
            partition_index=index, committed_offset=offset + index, committed_metadata=f"at {index}"
        )
        for index in range(PARTITIONS)
    ]
    request = offset_commit.OffsetCommitRequest(
        group_id=GROUP,
        topics=[offset_commit.OffsetCommitRequestTopic(name="t", partitions=partitions)],
    )
    if member is not None:
        request.generation_id_or_member_epoch = member.generation
        request.member_id, request.group_instance_id = member.member_id, member.instance_id
    with RawClient(server) as client:
        (topic,) = client.ask(offset_commit, request, COMMIT).topics
    assert [one.error_code for one in topic.partitions] == [0] * PARTITIONS


def assert_committed(server: ServerProcess, offset: int) -> None:
    asked = offset_fetch.OffsetFetchRequestGroup(group_id=GROUP, topics=None)
    request = offset_fetch.OffsetFetchRequest(groups=[asked], require_stable=True)
    with RawClient(server) as client:
        (group,) = client.ask(offset_fetch, request, FETCH).groups
    (topic,) = group.topics
    found = [(one.partition_index, one.committed_offset, one.metadata) for one in topic.partitions]
    assert sorted(found) == [(n, offset + n, f"at {n}") for n in range(PARTITIONS)]


def state(server: ServerProcess) -> str:
    request = describe_groups.DescribeGroupsRequest(groups=[GROUP])
    with RawClient(server) as client:
        found: str = client.ask(describe_groups, request, 5).groups[0].group_state
    return found


def restart(server: ServerProcess, members: list[Member]) -> None:
    """kill -9 and start; the members connect again."""
    server.kill()
    server.start()
    for member in members:
        member.client.sock.close()
        member.client = connect(server)


def assert_as_before(members: list[Member]) -> None:
    """The members are known by their ids, and have what they were given."""
    for member in members:
        assert member.beat() == 0
        member.send_sync({})
        assert member.receive_sync() == member.instance_id.encode()


def test_an_empty_group(server: ServerProcess) -> None:
    """Commits without members, several times over the same partitions."""
    for offset in (100, 200):
        commit(server, offset)
    restart(server, [])
    assert state(server) == "Empty"
    assert_committed(server, 200)
    commit(server, 300)
    restart(server, [])
    assert_committed(server, 300)


def test_a_group_that_its_members_left(server: ServerProcess) -> None:
    """It is empty after the restart too, with its offsets."""
    members = assigned(server)
    commit(server, 100, members[0])
    for member in members:
        identity = leave_group.MemberIdentity(group_instance_id=member.instance_id)
        request = leave_group.LeaveGroupRequest(group_id=GROUP, members=[identity])
        assert member.client.ask(leave_group, request, LEAVE).members[0].error_code == 0
    commit(server, 200)
    restart(server, members)
    assert state(server) == "Empty"
    assert_committed(server, 200)
    assert {member.beat() for member in members} == {ErrorCode.UNKNOWN_MEMBER_ID}


def test_a_group_whose_first_members_are_joining(server: ServerProcess) -> None:
    """Nothing of them was agreed on: they join again. Offsets from before are there."""
    commit(server, 100)
    members = [Member(connect(server), "instance-0")]
    members[0].send_join()
    restart(server, members)
    assert_committed(server, 100)
    members[0].send_join()
    answer = members[0].receive_join()
    assert answer.leader == members[0].member_id
    members[0].send_sync({members[0].member_id: b"mine"})
    assert members[0].receive_sync() == b"mine"


def test_a_stable_group(server: ServerProcess) -> None:
    """Its members go on with heartbeats and commits as if nothing had been."""
    members = assigned(server)
    commit(server, 100, members[1])
    restart(server, members)
    assert state(server) == "Stable"
    assert_as_before(members)
    assert_committed(server, 100)
    commit(server, 200, members[0])
    restart(server, members)
    assert_as_before(members)
    assert_committed(server, 200)


def test_a_group_in_a_rebalance(server: ServerProcess) -> None:
    """Its last complete generation holds: the members of it are known, with their assignments."""
    members = assigned(server)
    commit(server, 100, members[0])
    third = third_joins(server)
    assert members[0].beat() == ErrorCode.REBALANCE_IN_PROGRESS
    restart(server, members)
    third.client.sock.close()
    assert_as_before(members)
    assert_committed(server, 100)


def test_a_group_whose_leader_assigns(server: ServerProcess) -> None:
    """Between the generation and its assignment: again the last complete generation holds."""
    members = assigned(server)
    commit(server, 100, members[0])
    third = third_joins(server)
    ids = [(one.member_id, one.generation) for one in members]
    for member in members:
        member.send_join()
    for member in (*members, third):
        member.receive_join()
    assert state(server) == "CompletingRebalance"
    restart(server, members)
    third.client.sock.close()
    for member, (member_id, generation) in zip(members, ids, strict=True):
        member.member_id, member.generation = member_id, generation
    assert_as_before(members)
    assert_committed(server, 100)


def test_a_static_member_that_was_restarted_itself(server: ServerProcess) -> None:
    """Its new id is as durable as its place: after kill -9 the old one is fenced."""
    members = assigned(server)
    old = Member(connect(server), "instance-1", members[1].member_id, members[1].generation)
    members[1].member_id = ""
    members[1].send_join()
    assert members[1].receive_join().generation_id == old.generation
    assert members[1].member_id != old.member_id
    restart(server, [*members, old])
    assert old.beat() == ErrorCode.FENCED_INSTANCE_ID
    assert_as_before(members)
