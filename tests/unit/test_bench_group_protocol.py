"""The benchmark's requests of consumer groups are what Kafka's schemas say, by another codec."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from bench import group_protocol as protocol
from bench.group_protocol import JoinAnswer, Membership
from bench.protocol import CORRELATION_ID, AnswerError

with warnings.catch_warnings():
    # kafka-python reads its schemas by a call that Python 3.11 deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.protocol.consumer import (
        HeartbeatRequest,
        HeartbeatResponse,
        JoinGroupRequest,
        JoinGroupResponse,
        OffsetCommitRequest,
        OffsetCommitResponse,
        SyncGroupRequest,
        SyncGroupResponse,
    )
    from kafka.protocol.consumer.metadata import (
        ConsumerProtocolAssignment,
        ConsumerProtocolSubscription,
    )
    from kafka.protocol.metadata import FindCoordinatorRequest, FindCoordinatorResponse

MEMBER = Membership("a group", "member-1", 7)
TOPIC = "topic"


def decode(message_class: Any, frame: bytes, version: int) -> Any:
    """Decode a framed message with kafka-python, and check that nothing is left."""
    message = message_class.decode(bytes(frame), version=version, header=True, framed=True)
    assert bytes(message.encode(header=True, framed=True)) == bytes(frame)
    return message


def framed(answer: Any) -> bytes:
    """Return an answer of kafka-python's as a server sends it."""
    answer.with_header(correlation_id=CORRELATION_ID)
    return bytes(answer.encode(header=True, framed=True))


def test_find_coordinator() -> None:
    """The group is asked for; an error of the answer is seen."""
    frame = protocol.find_coordinator_request("a group")
    message = decode(FindCoordinatorRequest, frame, protocol.FIND_COORDINATOR_VERSION)
    assert message.key == "a group"
    for error in (0, 15):
        answer = framed(
            FindCoordinatorResponse(version=0, error_code=error, node_id=1, host="h", port=1)
        )
        if error:
            with pytest.raises(AnswerError, match="COORDINATOR_NOT_AVAILABLE"):
                protocol.check_coordinator_answer(answer)
        else:
            protocol.check_coordinator_answer(answer)


def test_join_request() -> None:
    """A JoinGroup is that of a consumer of one topic, with the time-outs that were asked for."""
    frame = protocol.join_request(
        "a group", "member-1", TOPIC, session_timeout_ms=1, rebalance_timeout_ms=2
    )
    message = decode(JoinGroupRequest, frame, protocol.JOIN_GROUP_VERSION)
    assert (message.group_id, message.member_id, message.group_instance_id) == (
        "a group", "member-1", None,
    )  # fmt: skip
    assert (message.session_timeout_ms, message.rebalance_timeout_ms) == (1, 2)
    (offered,) = message.protocols
    assert (message.protocol_type, offered.name) == ("consumer", "range")
    assert list(ConsumerProtocolSubscription.decode(bytes(offered.metadata)).topics) == [TOPIC]


def join_answer(error: int, members: list[str]) -> bytes:
    """Return the answer to a JoinGroup, made by kafka-python."""
    return framed(
        JoinGroupResponse(
            version=5, throttle_time_ms=0, error_code=error, generation_id=7,
            protocol_name="range", leader="member-0", member_id="member-1",
            members=[
                JoinGroupResponse.JoinGroupResponseMember(
                    member_id=name, group_instance_id=None, metadata=b"what it said"
                )
                for name in members
            ],
        )
    )  # fmt: skip


@pytest.mark.parametrize("error", [0, protocol.MEMBER_ID_REQUIRED])
def test_join_answer(error: int) -> None:
    """Ids, generation, leader and members are read; being given an id only is no error."""
    answer = protocol.read_join_answer(join_answer(error, ["member-0", "member-1"]), "a group")
    assert answer == JoinAnswer(MEMBER, "member-0", ("member-0", "member-1"))


def test_a_refused_join_is_an_error() -> None:
    """Any other code ends the run, and so does an answer that is longer than it says."""
    with pytest.raises(AnswerError, match="UNKNOWN_MEMBER_ID"):
        protocol.read_join_answer(join_answer(25, []), "a group")
    with pytest.raises(AnswerError, match="length"):
        protocol.read_join_answer(join_answer(0, []) + b"\0", "a group")


def test_sync_request() -> None:
    """A SyncGroup names the member, and a leader's has what each member gets."""
    given = {"member-1": protocol.assignment(TOPIC, [0, 5])}
    frame = protocol.sync_request(MEMBER, given)
    message = decode(SyncGroupRequest, frame, protocol.SYNC_GROUP_VERSION)
    assert (message.group_id, message.generation_id, message.member_id) == (
        "a group", 7, "member-1",
    )  # fmt: skip
    (entry,) = message.assignments
    (assigned,) = ConsumerProtocolAssignment.decode(bytes(entry.assignment)).assigned_partitions
    assert (entry.member_id, assigned.topic, list(assigned.partitions)) == (
        "member-1", TOPIC, [0, 5],
    )  # fmt: skip
    answer = SyncGroupResponse(version=3, throttle_time_ms=0, error_code=27, assignment=b"")
    with pytest.raises(AnswerError, match="REBALANCE_IN_PROGRESS"):
        protocol.check_sync_answer(framed(answer))


def test_heartbeat() -> None:
    """A Heartbeat names the member; the bare server's answer is one, and says that all is well."""
    message = decode(
        HeartbeatRequest, protocol.heartbeat_request(MEMBER), protocol.HEARTBEAT_VERSION
    )
    assert (message.group_id, message.generation_id, message.member_id) == (
        "a group", 7, "member-1",
    )  # fmt: skip
    answer = decode(HeartbeatResponse, protocol.heartbeat_answer(), protocol.HEARTBEAT_VERSION)
    assert answer.error_code == 0


def test_commit_request() -> None:
    """An OffsetCommit has the member and each partition's offset; its length is the same for all
    offsets, because the client takes requests out of a ring by their length."""
    frame = protocol.commit_request(MEMBER, TOPIC, {0: 5, 3: 2**40})
    message = decode(OffsetCommitRequest, frame, protocol.OFFSET_COMMIT_VERSION)
    assert (message.group_id, message.generation_id_or_member_epoch, message.member_id) == (
        "a group", 7, "member-1",
    )  # fmt: skip
    (topic,) = message.topics
    committed = [(p.partition_index, p.committed_offset) for p in topic.partitions]
    assert (topic.name, committed) == (TOPIC, [(0, 5), (3, 2**40)])
    assert len(protocol.commit_request(MEMBER, TOPIC, {0: 2**40, 3: 0})) == len(frame)


def commit_answer(errors: list[int]) -> bytes:
    """Return the answer to an OffsetCommit, made by kafka-python."""
    answered = OffsetCommitResponse.OffsetCommitResponseTopic
    partitions = [
        answered.OffsetCommitResponsePartition(partition_index=index, error_code=error)
        for index, error in enumerate(errors)
    ]
    topics = [answered(name=TOPIC, partitions=partitions)]
    return framed(OffsetCommitResponse(version=9, throttle_time_ms=0, topics=topics))


def test_the_error_code_is_where_the_client_looks() -> None:
    """In an answer of another codec, the first error stands at the position that is promised."""
    place = protocol.commit_error_position(TOPIC)
    assert int.from_bytes(commit_answer([22])[place : place + 2], "big") == 22


@pytest.mark.parametrize("count", [1, 2, 100, 127, 128])
def test_every_partition_of_a_commit_is_checked(count: int) -> None:
    """No partition may be refused, and none may be missing."""
    protocol.check_commit_answer(commit_answer([0] * count), TOPIC, count)
    for refused in {0, count - 1}:
        errors = [0] * count
        errors[refused] = 22
        with pytest.raises(AnswerError, match="ILLEGAL_GENERATION"):
            protocol.check_commit_answer(commit_answer(errors), TOPIC, count)
    with pytest.raises(AnswerError, match="length"):
        protocol.check_commit_answer(commit_answer([0] * count), TOPIC, count + 1)
