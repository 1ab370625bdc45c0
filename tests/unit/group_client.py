"""Group requests as a client sends them, in any version, to a server in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from logd.broker.group_loading import load_groups
from logd.wire.messages import (
    heartbeat,
    join_group,
    leave_group,
    offset_commit,
    offset_fetch,
    sync_group,
)
from tests.unit.broker_fakes import Server
from tests.unit.broker_requests import Begun, begin

DELAY_MS = 3_000
SESSION_MS = 10_000
REBALANCE_MS = 30_000
SUBSCRIPTION = b"\0\0\0\0\0\1\0\1t\0\0\0\0"
"""Of the topic t, as consumers write it."""

ASSIGNMENT = b"\0\0\0\0\0\1\0\1t\0\0\0\2\0\0\0\0\0\0\0\1\0\0\0\0"
"""Partitions 0 and 1 of t."""

Committed = tuple[int, int, str]
"""Offset, leader epoch, metadata."""


@dataclass
class Seat:
    """A member as its client knows it."""

    member_id: str
    generation: int


async def started(server: Server) -> Server:
    """Give the server an offsets log and a topic t of two partitions."""
    await server.group_log.ensure_created()
    await server.topics.create("t", 2, {})
    return server


async def restarted(server: Server) -> Server:
    """Return the next server on the same directory, with what is durable of the offsets log."""
    records, new_uuid = server.group_log.records, server.groups.new_uuid
    clock_ms = server.group_services.clock.ms
    server = await server.restarted()
    server.group_log.records, server.groups.new_uuid = records, new_uuid
    server.group_services.clock.ms = clock_ms
    await load_groups(server.groups)
    return server


def join(
    server: Server, group: str = "g", member_id: str = "", version: int = 3, **changes: Any
) -> Begun:
    """Send a JoinGroup."""
    fields: dict[str, Any] = {
        "session_timeout_ms": SESSION_MS,
        "rebalance_timeout_ms": REBALANCE_MS if version else -1,
        "protocol_type": "consumer",
        "protocols": [
            join_group.JoinGroupRequestProtocol(name="range", metadata=SUBSCRIPTION),
        ],
    }
    request = join_group.JoinGroupRequest(group_id=group, member_id=member_id, **fields | changes)
    return begin(server, join_group, request, version)


def sync(
    server: Server,
    seat: Seat,
    assignments: dict[str, bytes] | None = None,
    version: int = 3,
    group: str = "g",
    **changes: Any,
) -> Begun:
    """Send a SyncGroup."""
    request = sync_group.SyncGroupRequest(
        group_id=group,
        generation_id=seat.generation,
        member_id=seat.member_id,
        assignments=[
            sync_group.SyncGroupRequestAssignment(member_id=name, assignment=raw)
            for name, raw in (assignments or {}).items()
        ],
        **({"protocol_type": "consumer", "protocol_name": "range"} if version >= 5 else {})
        | changes,
    )
    return begin(server, sync_group, request, version)


def beat(server: Server, seat: Seat, version: int = 3, group: str = "g", **changes: Any) -> int:
    """Send a Heartbeat; return the error."""
    request = heartbeat.HeartbeatRequest(
        group_id=group, generation_id=seat.generation, member_id=seat.member_id, **changes
    )
    code: int = begin(server, heartbeat, request, version).response.error_code
    return code


def leave(
    server: Server, *member_ids: str, version: int = 3, group: str = "g", **changes: Any
) -> Any:
    """Send a LeaveGroup; return the response."""
    request = leave_group.LeaveGroupRequest(group_id=group)
    if version < 3:
        (request.member_id,) = member_ids
    else:
        identity = leave_group.MemberIdentity
        request.members = [identity(member_id=one, **changes) for one in member_ids]
    return begin(server, leave_group, request, version).response


def stable(server: Server, count: int = 1, group: str = "g", **changes: Any) -> list[Seat]:
    """Have so many members join and get their assignments, durably; the first one leads."""
    joins = [join(server, group, **changes) for _ in range(count)]
    server.group_services.timers.advance(count * DELAY_MS)
    seats = [Seat(one.response.member_id, one.response.generation_id) for one in joins]
    syncs = [
        sync(server, seat, {one.member_id: ASSIGNMENT for one in seats} if not n else {},
             group=group)
        for n, seat in enumerate(seats)
    ]  # fmt: skip
    server.group_log.sync()
    assert [one.response.error_code for one in syncs] == [0] * count
    return seats


def commit(
    server: Server,
    offsets: dict[tuple[str, int], tuple[int, int, str | None]],
    seat: Seat | None = None,
    version: int = 6,
    group: str = "g",
    **changes: Any,
) -> Begun:
    """Send an OffsetCommit."""
    topics: dict[str, list[Any]] = {}
    for (topic, index), (offset, epoch, metadata) in offsets.items():
        topics.setdefault(topic, []).append(
            offset_commit.OffsetCommitRequestPartition(
                partition_index=index,
                committed_offset=offset,
                committed_leader_epoch=epoch if version >= 6 else -1,
                committed_metadata=metadata,
            )
        )
    request = offset_commit.OffsetCommitRequest(
        group_id=group,
        generation_id_or_member_epoch=-1 if seat is None else seat.generation,
        member_id="" if seat is None else seat.member_id,
        topics=[
            offset_commit.OffsetCommitRequestTopic(name=name, partitions=partitions)
            for name, partitions in topics.items()
        ],
        **changes,
    )
    return begin(server, offset_commit, request, version)


def codes(response: Any) -> dict[tuple[str, int], int]:
    """Return the error of each partition."""
    return {
        (topic.name, partition.partition_index): partition.error_code
        for topic in response.topics
        for partition in topic.partitions
    }


def fetch(
    server: Server,
    topics: dict[str, list[int]] | None,
    version: int = 7,
    group: str = "g",
    *,
    stable: bool = False,
) -> Begun:
    """Send an OffsetFetch for one group."""
    request = offset_fetch.OffsetFetchRequest(require_stable=stable)
    if version >= 8:
        asked = offset_fetch.OffsetFetchRequestTopics
        names = None
        if topics is not None:
            names = [asked(name=name, partition_indexes=ns) for name, ns in topics.items()]
        request.groups = [offset_fetch.OffsetFetchRequestGroup(group_id=group, topics=names)]
    else:
        request.group_id = group
        request.topics = None
        if topics is not None:
            request.topics = [
                offset_fetch.OffsetFetchRequestTopic(name=name, partition_indexes=ns)
                for name, ns in topics.items()
            ]
    return begin(server, offset_fetch, request, version)


def committed(
    server: Server, topics: dict[str, list[int]] | None = None, version: int = 7, group: str = "g"
) -> dict[tuple[str, int], Committed]:
    """Return what a group has committed, as a fetch tells it."""
    response = fetch(server, topics, version, group).response
    (answer,) = response.groups if version >= 8 else [response]
    assert answer.error_code == 0
    return {
        (topic.name, one.partition_index): (
            one.committed_offset,
            one.committed_leader_epoch,
            one.metadata,
        )
        for topic in answer.topics
        for one in topic.partitions
    }
