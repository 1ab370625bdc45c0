"""JoinGroup, SyncGroup, Heartbeat, LeaveGroup: from the wire to a group's stimuli and back.

What can be said without the group is said here: an id that cannot be a group's, an offsets log
that is not there, a group that does not exist. Everything else its state machine decides.

A newcomer makes its group; who claims to be a member already does not.

Source: the Kafka protocol guide, "Group Membership API"; KIP-345, KIP-394, KIP-559, KIP-800.
"""

from __future__ import annotations

from typing import Final

from logd.broker.context import RequestContext
from logd.broker.group_entry import GroupEntry
from logd.broker.group_replies import join_response, sync_response
from logd.broker.groups import GROUP_ID_BYTES_MAX, Coordinator
from logd.broker.reply import Answer
from logd.policy.group.values import Join, JoinAnswer, Leaver, Sync, SyncAnswer
from logd.units import INT16_MAX
from logd.wire.error_codes import ErrorCode
from logd.wire.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from logd.wire.messages.join_group import JoinGroupRequest
from logd.wire.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberResponse
from logd.wire.messages.sync_group import SyncGroupRequest

MEMBER_NAME_CHARACTERS_MAX: Final = 255
"""A member id begins with so much of the client's id, or of its instance id."""

_UUID_BYTES: Final = 37
"""A dash and a UUID, behind that."""

INSTANCE_ID_BYTES_MAX: Final = INT16_MAX - _UUID_BYTES
"""A longer group.instance.id does not fit a group's record: INVALID_REQUEST."""

PROTOCOL_NAME_BYTES_MAX: Final = INT16_MAX
"""A longer protocol name or type does not fit it either: INCONSISTENT_GROUP_PROTOCOL."""

_FIRST_WITH_MEMBER_ID: Final = 4
_FIRST_WITH_SKIPPED_ASSIGNMENT: Final = 9
_FIRST_WITH_REBALANCE_TIMEOUT: Final = 1
_FIRST_SYNC_WITH_PROTOCOL: Final = 5
_FIRST_WITH_SEVERAL_LEAVERS: Final = 3


def check_group(groups: Coordinator, group_id: str, *, may_be_empty: bool = False) -> ErrorCode:
    """Return why a group id is refused, NONE where it is not.

    Args:
        may_be_empty: clients that only keep offsets may leave the id empty.
    """
    if not group_id and not may_be_empty:
        return ErrorCode.INVALID_GROUP_ID
    # A character has at least one byte, so this is encoded only where it is close.
    if len(group_id) > GROUP_ID_BYTES_MAX // 4 and len(group_id.encode()) > GROUP_ID_BYTES_MAX:
        return ErrorCode.INVALID_GROUP_ID
    return groups.refusal(group_id)


# --- joining -------------------------------------------------------------------------------------


def begin_join_group(
    context: RequestContext, request: JoinGroupRequest, version: int, answer: Answer
) -> None:
    """Let a client into a group; answered when the group's next generation begins."""
    groups = context.broker.groups
    error = check_group(groups, request.group_id) or _check_join(request)
    entry = None if error else _entry_to_join(groups, request)
    if entry is None:
        refused = JoinAnswer(error or _not_found(request), request.member_id)
        answer.answer(join_response(refused, version))
        return
    join = _as_join(context, request, version)
    now_ms = groups.now_ms()
    _forget_when_abandoned(entry, answer)
    groups.run(entry, entry.group.join(join, answer, groups.limits, now_ms=now_ms))


def _check_join(request: JoinGroupRequest) -> ErrorCode:
    if len((request.group_instance_id or "").encode()) > INSTANCE_ID_BYTES_MAX:
        return ErrorCode.INVALID_REQUEST
    names = (request.protocol_type, *(protocol.name for protocol in request.protocols))
    if any(len(name.encode()) > PROTOCOL_NAME_BYTES_MAX for name in names):
        return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    return ErrorCode.NONE


def _entry_to_join(groups: Coordinator, request: JoinGroupRequest) -> GroupEntry | None:
    if request.member_id:
        return groups.entries.get(request.group_id)
    return groups.find_or_make(request.group_id)


def _not_found(request: JoinGroupRequest) -> ErrorCode:
    """Who has a member id finds no group any more; a newcomer finds the server full."""
    return ErrorCode.UNKNOWN_MEMBER_ID if request.member_id else ErrorCode.POLICY_VIOLATION


def _as_join(context: RequestContext, request: JoinGroupRequest, version: int) -> Join:
    client_id = context.client_id or ""
    instance_id = request.group_instance_id
    name = (client_id if instance_id is None else instance_id)[:MEMBER_NAME_CHARACTERS_MAX]
    # With no time to sync in, no member would ever have an assignment.
    has_timeout = version >= _FIRST_WITH_REBALANCE_TIMEOUT and request.rebalance_timeout_ms > 0
    return Join(
        member_id=request.member_id,
        new_member_id=f"{name}-{context.broker.groups.new_uuid()}",
        instance_id=instance_id,
        client_id=client_id,
        client_host=f"/{context.client_address}",  # as Java writes an address, and so Kafka
        session_timeout_ms=request.session_timeout_ms,
        rebalance_timeout_ms=(
            request.rebalance_timeout_ms if has_timeout else request.session_timeout_ms
        ),
        protocol_type=request.protocol_type,
        protocols=tuple((one.name, bytes(one.metadata)) for one in request.protocols),
        needs_member_id=version >= _FIRST_WITH_MEMBER_ID,
        skips_assignment_ok=version >= _FIRST_WITH_SKIPPED_ASSIGNMENT,
    )


def _forget_when_abandoned(entry: GroupEntry, answer: Answer) -> None:
    answer.on_abandon = lambda: entry.group.forget_reply(answer)


# --- syncing -------------------------------------------------------------------------------------


def begin_sync_group(
    context: RequestContext, request: SyncGroupRequest, version: int, answer: Answer
) -> None:
    """Give a member its assignment; answered when the leader's is durable."""
    groups = context.broker.groups
    error = check_group(groups, request.group_id)
    if not error and version >= _FIRST_SYNC_WITH_PROTOCOL:
        error = _check_protocol(request)
    entry = groups.entries.get(request.group_id)
    if error or entry is None:
        answer.answer(sync_response(SyncAnswer(error or ErrorCode.UNKNOWN_MEMBER_ID)))
        return
    sync = Sync(
        member_id=request.member_id,
        generation=request.generation_id,
        instance_id=request.group_instance_id,
        protocol_type=request.protocol_type,
        protocol_name=request.protocol_name,
        assignments=tuple((one.member_id, bytes(one.assignment)) for one in request.assignments),
    )
    _forget_when_abandoned(entry, answer)
    groups.run(entry, entry.group.sync(sync, answer, now_ms=groups.now_ms()))


def _check_protocol(request: SyncGroupRequest) -> ErrorCode:
    if request.protocol_type is None or request.protocol_name is None:
        return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    return ErrorCode.NONE


# --- staying and leaving -------------------------------------------------------------------------


def begin_heartbeat(
    context: RequestContext, request: HeartbeatRequest, _version: int, answer: Answer
) -> None:
    """Renew a member's session; it hears whether a rebalance is on."""
    groups = context.broker.groups
    error = check_group(groups, request.group_id)
    if not error:
        entry = groups.entries.get(request.group_id)
        error = (
            ErrorCode.UNKNOWN_MEMBER_ID
            if entry is None
            else entry.group.heartbeat(
                request.member_id,
                request.generation_id,
                request.group_instance_id,
                now_ms=groups.now_ms(),
            )
        )
    answer.answer(HeartbeatResponse(error_code=error))


def begin_leave_group(
    context: RequestContext, request: LeaveGroupRequest, version: int, answer: Answer
) -> None:
    """Let one or several members go; the group does not wait for their sessions to end."""
    groups = context.broker.groups
    leavers = _leavers(request, version)
    error = check_group(groups, request.group_id)
    if error:
        answer.answer(LeaveGroupResponse(error_code=error))
        return
    entry = groups.entries.get(request.group_id)
    if entry is None:
        codes = [ErrorCode.UNKNOWN_MEMBER_ID] * len(leavers)
    else:
        codes, effects = entry.group.leave(leavers, now_ms=groups.now_ms())
        groups.run(entry, effects)
    answer.answer(_leave_response(leavers, codes, version))


def _leavers(request: LeaveGroupRequest, version: int) -> list[Leaver]:
    if version < _FIRST_WITH_SEVERAL_LEAVERS:
        return [Leaver(request.member_id, None)]
    return [Leaver(one.member_id, one.group_instance_id) for one in request.members]


def _leave_response(
    leavers: list[Leaver], codes: list[ErrorCode], version: int
) -> LeaveGroupResponse:
    if version < _FIRST_WITH_SEVERAL_LEAVERS:
        return LeaveGroupResponse(error_code=codes[0])
    return LeaveGroupResponse(
        members=[
            MemberResponse(
                member_id=leaver.member_id,
                group_instance_id=leaver.instance_id,
                error_code=code,
            )
            for leaver, code in zip(leavers, codes, strict=True)
        ]
    )
