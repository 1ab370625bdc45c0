"""A static member starts again: the same instance id, and no member id yet.

It takes the place of the member that it was, under a new id; whoever still uses the old one is
fenced. In a stable group that is all: the others notice nothing, which is what static members are
for. The new id has to be durable before it is told, or a crash would bring the old one back.

Only a change of the group's protocol makes the others join again. Other changes of metadata do not,
as in Kafka: what sticky assignors put there differs after each restart.

A leader that starts again must not assign: nobody would be told of the result. From version 9 of
JoinGroup on it is told so. Before that, it is told that its old id leads, and so takes itself for a
follower.

Source: KIP-345, KIP-814.
"""

from __future__ import annotations

from dataclasses import replace

from logd.policy.group import rebalancing
from logd.policy.group.core import GroupCore, SwapWrite
from logd.policy.group.member import Member, Terms
from logd.policy.group.values import GroupState, Join, JoinAnswer, SyncAnswer
from logd.wire.error_codes import ErrorCode


def take_over(
    group: GroupCore, member: Member, request: Join, reply: object, *, now_ms: int
) -> None:
    """Give a static member's place to a join with its instance id."""
    leader_told = group.roster.leader or ""
    swap = SwapWrite(
        generation=group.generation,
        member_id=request.new_member_id,
        old_member_id=member.member_id,
        old_terms=member.terms,
        leader_told=leader_told,
        skips_assignment=request.skips_assignment_ok,
    )
    _fence(group, member)
    _rename(group, member, request.new_member_id)
    group.roster.change(member, Terms.of(request))
    member.client_id, member.client_host = request.client_id, request.client_host
    group.park_join(member, reply)
    group.renew(member, now_ms)
    if group.state is GroupState.STABLE and group.roster.elect_protocol() == group.protocol_name:
        group.write(swap)
    else:
        rebalancing.prepare_or_finish(group, now_ms=now_ms)


def swapped(group: GroupCore, swap: SwapWrite, error: ErrorCode, *, now_ms: int) -> None:
    """A new id is durable, or could not be written: tell it, or take it back.

    Where a rebalance has begun meanwhile, the member takes part in it under the new id, and the
    next generation's write settles the matter.
    """
    member = group.roster.members.get(swap.member_id)
    is_current = group.state is GroupState.STABLE and group.generation == swap.generation
    if member is None or not is_current:
        return
    group.answer_join(member, _answer(group, member, swap, error))
    if error:
        group.roster.change(member, swap.old_terms)
        _rename(group, member, swap.old_member_id)
    group.renew(member, now_ms)


def _answer(group: GroupCore, member: Member, swap: SwapWrite, error: ErrorCode) -> JoinAnswer:
    answer = group.current_answer(member)
    if error:
        return replace(answer, error=error, member_id="", leader=swap.leader_told, members=())
    if swap.skips_assignment:
        return replace(answer, skip_assignment=group.roster.leader == member.member_id)
    return replace(answer, leader=swap.leader_told, members=())


def _fence(group: GroupCore, member: Member) -> None:
    error = ErrorCode.FENCED_INSTANCE_ID
    group.answer_join(member, JoinAnswer(error=error, member_id=member.member_id))
    group.answer_sync(member, SyncAnswer(error))


def _rename(group: GroupCore, member: Member, member_id: str) -> None:
    group.unsynced.discard(member.member_id)
    group.roster.rename(member, member_id)
