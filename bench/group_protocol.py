"""The requests of consumer groups as bytes, built by hand: `bench.protocol` says why and how.

    FindCoordinator 0, JoinGroup 5, SyncGroup 3, Heartbeat 3, OffsetCommit 9

The first four are in the last versions before the flexible ones; what they measure does not depend
on it. OffsetCommit is the one that counts, and clients of today send it in version 9 or 10.

Source: the Kafka protocol guide; KIP-394 (member ids are given before members are let in).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.protocol import (
    CORRELATION_ID,
    AnswerError,
    check_code,
    compact,
    framed,
    header,
    string,
    uvarint,
)

OFFSET_COMMIT: Final = 8
FIND_COORDINATOR: Final = 10
JOIN_GROUP: Final = 11
HEARTBEAT: Final = 12
SYNC_GROUP: Final = 14

OFFSET_COMMIT_VERSION: Final = 9
FIND_COORDINATOR_VERSION: Final = 0
JOIN_GROUP_VERSION: Final = 5
HEARTBEAT_VERSION: Final = 3
SYNC_GROUP_VERSION: Final = 3

MEMBER_ID_REQUIRED: Final = 79
PROTOCOL_TYPE: Final = b"consumer"
ASSIGNOR: Final = b"range"
NO_GENERATION: Final = -1
_NO_TAGS: Final = b"\0"
_NULL_STRING: Final = struct.pack(">h", -1)


@dataclass(frozen=True, slots=True)
class Membership:
    """What a member says of itself in every request."""

    group: str
    member_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class JoinAnswer:
    """What a member learns when the joining phase has ended; only a leader has `members`."""

    membership: Membership
    leader: str
    members: tuple[str, ...]


def _bytes(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def find_coordinator_request(group: str) -> bytes:
    """Return the request that also makes the server create its offsets topic."""
    body = header(FIND_COORDINATOR, FIND_COORDINATOR_VERSION, flexible=False)
    return framed(body + string(group.encode()))


def check_coordinator_answer(frame: bytes) -> None:
    """Raise AnswerError unless the answer names a coordinator."""
    check_code(struct.unpack_from(">h", frame, 8)[0], "find coordinator")


# --- Membership ---------------------------------------------------------------------------------


def subscription(topics: Sequence[str]) -> bytes:
    """Return the metadata of a consumer that wants these topics."""
    names = b"".join(string(topic.encode()) for topic in topics)
    return struct.pack(">hi", 0, len(topics)) + names + struct.pack(">i", -1)


def assignment(topic: str, partitions: Sequence[int]) -> bytes:
    """Return what a leader gives a consumer."""
    numbers = struct.pack(f">i{len(partitions)}i", len(partitions), *partitions)
    return struct.pack(">hi", 0, 1) + string(topic.encode()) + numbers + struct.pack(">i", -1)


def join_request(
    group: str,
    member_id: str,
    topic: str,
    *,
    session_timeout_ms: int,
    rebalance_timeout_ms: int,
) -> bytes:
    """Return the JoinGroup of a consumer of one topic; an empty member id asks for one."""
    body = header(JOIN_GROUP, JOIN_GROUP_VERSION, flexible=False) + string(group.encode())
    body += struct.pack(">ii", session_timeout_ms, rebalance_timeout_ms)
    body += string(member_id.encode()) + _NULL_STRING + string(PROTOCOL_TYPE)
    body += struct.pack(">i", 1) + string(ASSIGNOR) + _bytes(subscription([topic]))
    return framed(body)


def read_join_answer(frame: bytes, group: str) -> JoinAnswer:
    """Return the answer to a JoinGroup, also one that only gives a member id.

    Raises:
        AnswerError: any other error.
    """
    error, generation = struct.unpack_from(">hi", frame, 12)
    if error != MEMBER_ID_REQUIRED:
        check_code(error, "join group")
    _, position = _read_string(frame, 18)
    leader, position = _read_string(frame, position)
    member_id, position = _read_string(frame, position)
    (count,) = struct.unpack_from(">i", frame, position)
    position += 4
    members = []
    for _ in range(count):
        name, position = _read_string(frame, position)
        _, position = _read_string(frame, position)
        position += 4 + int(struct.unpack_from(">i", frame, position)[0])
        members.append(name)
    if position != len(frame):
        raise AnswerError("join group: an answer of another length than it says")
    return JoinAnswer(Membership(group, member_id, generation), leader, tuple(members))


def _read_string(frame: bytes, position: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", frame, position)
    end = position + 2 + max(0, int(size))
    return frame[position + 2 : end].decode(), end


def sync_request(member: Membership, assignments: Mapping[str, bytes]) -> bytes:
    """Return a member's SyncGroup; only the leader's has assignments."""
    body = header(SYNC_GROUP, SYNC_GROUP_VERSION, flexible=False) + _membership(member)
    body += struct.pack(">i", len(assignments))
    for member_id, given in assignments.items():
        body += string(member_id.encode()) + _bytes(given)
    return framed(body)


def check_sync_answer(frame: bytes) -> None:
    """Raise AnswerError unless the member was given something."""
    check_code(struct.unpack_from(">h", frame, 12)[0], "sync group")


HEARTBEAT_ERROR_POSITION: Final = 4 + 4 + 4


def heartbeat_request(member: Membership) -> bytes:
    """Return a member's Heartbeat."""
    return framed(header(HEARTBEAT, HEARTBEAT_VERSION, flexible=False) + _membership(member))


def heartbeat_answer() -> bytes:
    """Return a framed answer without error: what a bare server sends."""
    return framed(struct.pack(">iih", CORRELATION_ID, 0, 0))


def _membership(member: Membership) -> bytes:
    named = string(member.group.encode()) + struct.pack(">i", member.generation)
    return named + string(member.member_id.encode()) + _NULL_STRING


# --- Offsets ------------------------------------------------------------------------------------


def commit_request(member: Membership, topic: str, offsets: Mapping[int, int]) -> bytes:
    """Return the request that commits an offset for each of some partitions of one topic.

    Without membership (an empty id, no generation) it is that of a client that only commits.
    """
    body = header(OFFSET_COMMIT, OFFSET_COMMIT_VERSION, flexible=True)
    body += compact(member.group.encode()) + struct.pack(">i", member.generation)
    body += compact(member.member_id.encode()) + b"\0"  # not a static member
    body += uvarint(1 + 1) + compact(topic.encode()) + uvarint(len(offsets) + 1)
    for partition, offset in offsets.items():
        body += struct.pack(">iqi", partition, offset, -1) + compact(b"") + _NO_TAGS
    return framed(body + _NO_TAGS * 2)


def commit_error_position(topic: str) -> int:
    """Return where in an answer frame the first partition's error code stands."""
    return 4 + 4 + 1 + 4 + 1 + len(compact(topic.encode())) + 1 + 4


def check_commit_answer(frame: bytes, topic: str, partitions: int) -> None:
    """Raise AnswerError unless every one of so many partitions was committed."""
    step = 4 + 2 + 1
    place = commit_error_position(topic) + len(uvarint(partitions + 1)) - 1
    if len(frame) != place + step * (partitions - 1) + 2 + 3:
        raise AnswerError("offset commit: an answer of another length")
    for index in range(partitions):
        check_code(struct.unpack_from(">h", frame, place + step * index)[0], "offset commit")
