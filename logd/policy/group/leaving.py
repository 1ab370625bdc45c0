"""Members go: by their own word, by an administrator's, or by silence.

However many go with one request, or at one time, the others join again once.

Source: KIP-345 (leaving by instance id, several members in one request).
"""

from __future__ import annotations

from collections.abc import Sequence

from logd.policy.group import rebalancing
from logd.policy.group.core import GroupCore
from logd.policy.group.values import GroupState, Leaver
from logd.wire.error_codes import ErrorCode


def leave(group: GroupCore, leavers: Sequence[Leaver], *, now_ms: int) -> list[ErrorCode]:
    """Let members go; returns one code for each."""
    if group.state is GroupState.DEAD:
        return [ErrorCode.COORDINATOR_NOT_AVAILABLE] * len(leavers)
    count = len(group.roster)
    errors = [_leave(group, leaver) for leaver in leavers]
    # An id that was given out and is handed back is missed by nobody but a rebalance under way.
    if len(group.roster) < count or group.state is GroupState.PREPARING_REBALANCE:
        _go_on(group, now_ms=now_ms)
    return errors


def expire(group: GroupCore, *, now_ms: int) -> None:
    """Drop members whose session is over, and take back ids that were not used in time."""
    pending = group.roster.pending
    lapsed = [member_id for member_id, lapses_ms in pending.items() if lapses_ms <= now_ms]
    for member_id in lapsed:
        del pending[member_id]
    silent = [m for m in group.roster if m.deadline_ms <= now_ms and m.can_expire]
    for member in silent:
        group.drop(member)
    if silent or (lapsed and group.state is GroupState.PREPARING_REBALANCE):
        _go_on(group, now_ms=now_ms)


def _leave(group: GroupCore, leaver: Leaver) -> ErrorCode:
    roster = group.roster
    member_id = leaver.member_id
    if not member_id and leaver.instance_id is not None:
        # An administrator names the instance alone.
        member_id = roster.by_instance.get(leaver.instance_id, "")
    elif member_id in roster.pending:
        del roster.pending[member_id]
        return ErrorCode.NONE
    error = group.check_member(member_id, leaver.instance_id)
    if not error:
        group.drop(roster.members[member_id])
    return error


def _go_on(group: GroupCore, *, now_ms: int) -> None:
    """Have the others join again, unless they are about to."""
    if group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
        rebalancing.prepare(group, now_ms=now_ms)
    elif group.state is GroupState.PREPARING_REBALANCE:
        rebalancing.finish_if_all_joined(group, now_ms=now_ms)
