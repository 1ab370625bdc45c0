"""SyncGroup: the leader says who gets what, and everybody learns its part.

Followers wait for the leader. What the leader says is made durable first and told then, so that an
assignment that a member works by is never lost. Members that have not asked within the rebalance
time-out are dropped, and the others join again without them.

Source: the Kafka protocol guide; KAFKA-12890 for the time-out.
"""

from __future__ import annotations

from logd.policy.group import rebalancing
from logd.policy.group.core import AssignmentWrite, GroupCore
from logd.policy.group.values import AnswerSync, GroupState, Sync, SyncAnswer
from logd.record.group_records import GroupValue
from logd.wire.error_codes import ErrorCode


def sync(group: GroupCore, request: Sync, reply: object, *, now_ms: int) -> None:
    """Answer with the assignment, or wait for it; a leader's sync has it written."""
    error = _refusal(group, request)
    if error:
        group.effects.append(AnswerSync(reply, SyncAnswer(error)))
        return
    member = group.roster.members[request.member_id]
    group.unsynced.discard(member.member_id)
    if not group.unsynced:
        group.sync_deadline_ms = None
    if group.state is GroupState.STABLE:
        group.renew(member, now_ms)
        answer = _assignment(group, member.assignment)
        group.effects.append(AnswerSync(reply, answer))
        return
    assert group.state is GroupState.COMPLETING_REBALANCE
    group.park_sync(member, reply)
    # The first word counts. A second one of the same generation would be in the log behind it,
    # but not be what the members were told.
    if member.member_id == group.roster.leader and group.assignment_write is None:
        assignments = dict(request.assignments)
        group.assignment_write = group.write(AssignmentWrite(group.generation), assignments)


def assigned(
    group: GroupCore,
    stored: GroupValue,
    write: AssignmentWrite,
    error: ErrorCode,
    *,
    now_ms: int,
) -> None:
    """The assignments are durable, or could not be written: tell them, or begin again.

    Where another rebalance has begun meanwhile, they are out of date.
    """
    is_current = write.generation == group.generation
    if group.state is not GroupState.COMPLETING_REBALANCE or not is_current:
        return
    group.assignment_write = None
    if error:
        rebalancing.cancel_syncs(group, error, now_ms=now_ms)
        rebalancing.prepare(group, now_ms=now_ms)
        return
    group.enter(GroupState.STABLE)
    for kept in stored.members:
        member = group.roster.members[kept.member_id]
        member.assignment = kept.assignment
        if member.is_syncing:
            group.answer_sync(member, _assignment(group, kept.assignment))
            group.renew(member, now_ms)


def time_over(group: GroupCore, *, now_ms: int) -> None:
    """The time for syncing is over: drop who has not, and begin again without them."""
    group.sync_deadline_ms = None
    if not group.unsynced:
        return
    assert group.state in (GroupState.COMPLETING_REBALANCE, GroupState.STABLE)
    for member_id in tuple(group.unsynced):
        group.drop(group.roster.members[member_id])
    rebalancing.prepare(group, now_ms=now_ms)


def _refusal(group: GroupCore, request: Sync) -> ErrorCode:
    if group.state is GroupState.DEAD:
        return ErrorCode.COORDINATOR_NOT_AVAILABLE
    error = group.check_member(request.member_id, request.instance_id)
    if error:
        return error
    if request.generation != group.generation:
        return ErrorCode.ILLEGAL_GENERATION
    if request.protocol_type not in (None, group.protocol_type):
        return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    if request.protocol_name not in (None, group.protocol_name):
        return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    if group.state is GroupState.PREPARING_REBALANCE:
        return ErrorCode.REBALANCE_IN_PROGRESS
    return ErrorCode.NONE


def _assignment(group: GroupCore, assignment: bytes) -> SyncAnswer:
    return SyncAnswer(
        ErrorCode.NONE,
        protocol_type=group.protocol_type,
        protocol_name=group.protocol_name,
        assignment=assignment,
    )
