"""JoinGroup: who may join, and whether that begins a rebalance.

A newcomer has no id. Static members are known by their instance id all the same, and are taken in
at once; dynamic ones, from version 4 of the request on, are told an id first and join again with
it. So a client that loses the first answer leaves an id behind that lapses, not a member that holds
up every rebalance.

A member that joins again begins a rebalance if it leads (it saw something change that is not in its
metadata), or if its protocols have changed. Otherwise it has lost an answer, and gets it again.

Source: KIP-394 (member ids), KIP-345 (static members); the order of the checks is Kafka's.
"""

from __future__ import annotations

from logd.policy.group import rebalancing
from logd.policy.group.core import GroupCore
from logd.policy.group.member import Member, Terms, protocols_of
from logd.policy.group.static_members import take_over
from logd.policy.group.values import AnswerJoin, GroupLimits, GroupState, Join, JoinAnswer
from logd.wire.error_codes import ErrorCode


def join(
    group: GroupCore, request: Join, reply: object, limits: GroupLimits, *, now_ms: int
) -> None:
    """Take a member in, or refuse it; the answer may have to wait for the others."""
    error, member_id = _refusal(group, request, limits)
    if error:
        _answer(group, reply, error, member_id)
    elif request.member_id in group.roster.pending:
        _add(group, request.member_id, request, reply, limits, now_ms=now_ms)
    elif request.member_id:
        _join_again(group, group.roster.members[request.member_id], request, reply, now_ms=now_ms)
    elif request.instance_id is not None:
        _join_static(group, request.instance_id, request, reply, limits, now_ms=now_ms)
    elif request.needs_member_id:
        lapses_ms = now_ms + request.session_timeout_ms
        group.roster.pending[request.new_member_id] = lapses_ms
        group.wake_by(lapses_ms)
        _answer(group, reply, ErrorCode.MEMBER_ID_REQUIRED, request.new_member_id)
    else:
        _add(group, request.new_member_id, request, reply, limits, now_ms=now_ms)
    if group.state is GroupState.PREPARING_REBALANCE:
        rebalancing.finish_if_all_joined(group, now_ms=now_ms)


# --- Refusing ------------------------------------------------------------------------------------


def _refusal(group: GroupCore, request: Join, limits: GroupLimits) -> tuple[ErrorCode, str]:
    """Return why a join is refused, and the member id that the answer carries."""
    member_id = request.member_id
    session_ms = request.session_timeout_ms
    if not limits.session_timeout_min_ms <= session_ms <= limits.session_timeout_max_ms:
        return ErrorCode.INVALID_SESSION_TIMEOUT, member_id
    if group.state is GroupState.DEAD:
        return ErrorCode.COORDINATOR_NOT_AVAILABLE, member_id
    if not _has_room(group, request, limits.members_max):
        _give_up_place(group, member_id)
        return ErrorCode.GROUP_MAX_SIZE_REACHED, ""
    if not _protocols_fit(group, request):
        return ErrorCode.INCONSISTENT_GROUP_PROTOCOL, member_id
    if member_id and not (member_id in group.roster.pending and request.instance_id is None):
        return group.check_member(member_id, request.instance_id), member_id
    return ErrorCode.NONE, ""


def _has_room(group: GroupCore, request: Join, members_max: int) -> bool:
    """Return whether the group is not full.

    While it rebalances, those count who have joined: the last ones to come are the ones too many,
    where the limit was lowered. Ids that were given out count against those who want one more.
    """
    roster = group.roster
    member_id = request.member_id
    if not member_id and request.instance_id is not None:
        # A static member that starts again takes the place that it had.
        member_id = roster.by_instance.get(request.instance_id, "")
    member = roster.members.get(member_id)
    if group.state is GroupState.PREPARING_REBALANCE:
        count, has_place = roster.joining_count, member is not None and member.is_joining
    else:
        count, has_place = len(roster), member is not None
    if not request.member_id:
        count += len(roster.pending)
    return has_place or count < members_max


def _give_up_place(group: GroupCore, member_id: str) -> None:
    """Drop the member, or the id, that there is no room for."""
    group.roster.pending.pop(member_id, None)
    member = group.roster.members.get(member_id)
    if member is not None:
        group.drop(member)


def _protocols_fit(group: GroupCore, request: Join) -> bool:
    """Return whether the others, if any, have a protocol in common with a join's sender."""
    if not request.protocol_type or not request.protocols:
        return False
    if group.state is GroupState.EMPTY:
        return True
    return group.protocol_type == request.protocol_type and group.roster.supports_any(
        protocols_of(request)
    )


# --- Taking in -----------------------------------------------------------------------------------


def _add(
    group: GroupCore,
    member_id: str,
    request: Join,
    reply: object,
    limits: GroupLimits,
    *,
    now_ms: int,
) -> None:
    """Make a newcomer a member; it waits for the next generation."""
    if not group.roster.members:
        group.protocol_type = request.protocol_type
    if group.state is GroupState.PREPARING_REBALANCE and group.is_initial:
        group.joined_since = True
    member = Member.newcomer(member_id, request)
    group.roster.add(member)
    group.park_join(member, reply)
    group.renew(member, now_ms)
    rebalancing.prepare_or_finish(
        group, now_ms=now_ms, initial_delay_ms=limits.initial_rebalance_delay_ms
    )


def _join_static(
    group: GroupCore,
    instance_id: str,
    request: Join,
    reply: object,
    limits: GroupLimits,
    *,
    now_ms: int,
) -> None:
    holder = group.roster.by_instance.get(instance_id)
    if holder is None:
        _add(group, request.new_member_id, request, reply, limits, now_ms=now_ms)
    else:
        take_over(group, group.roster.members[holder], request, reply, now_ms=now_ms)


def _join_again(
    group: GroupCore, member: Member, request: Join, reply: object, *, now_ms: int
) -> None:
    """Answer a known member from the current generation, or begin the next one."""
    if _has_news(group, member, request):
        group.roster.change(member, Terms.of(request))
        group.park_join(member, reply)
        group.renew(member, now_ms)
        rebalancing.prepare_or_finish(group, now_ms=now_ms)
    else:
        group.renew(member, now_ms)
        group.effects.append(AnswerJoin(reply, group.current_answer(member)))


def _has_news(group: GroupCore, member: Member, request: Join) -> bool:
    """Return whether a join of a member is more than the question for a lost answer."""
    if group.state is GroupState.PREPARING_REBALANCE:
        return True
    if group.state is GroupState.STABLE and group.roster.leader == member.member_id:
        return True
    return not member.says_the_same(request)


def _answer(group: GroupCore, reply: object, error: ErrorCode, member_id: str) -> None:
    group.effects.append(AnswerJoin(reply, JoinAnswer(error=error, member_id=member_id)))
