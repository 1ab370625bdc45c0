"""The joining phase of a rebalance: how it begins, how long it waits, and how it ends.

It ends with the join of the last member that is known, or when the slowest member's rebalance
time-out is over. Members that have not joined by then are dropped; static ones are kept, without a
vote, until their session or the time for syncing ends. A group that was empty waits the initial
rebalance delay instead, and again each time that a member came meanwhile, but no longer than the
first member's rebalance time-out: when many consumers start together, they get one generation, not
one each.

Source: KIP-134 (initial delay), KIP-345 (static members); in the cases that these leave open, it
does what Kafka's coordinator does.
"""

from __future__ import annotations

from logd.policy.group.core import EmptyWrite, GroupCore
from logd.policy.group.values import GroupState, SyncAnswer
from logd.units import SECOND_MS
from logd.wire.error_codes import ErrorCode


def prepare(group: GroupCore, *, now_ms: int, initial_delay_ms: int = 0) -> None:
    """Begin a rebalance; it may end at once, if nobody is missing."""
    if group.state is GroupState.COMPLETING_REBALANCE:
        cancel_syncs(group, ErrorCode.REBALANCE_IN_PROGRESS, now_ms=now_ms)
    group.unsynced.clear()
    group.sync_deadline_ms = None
    group.assignment_write = None
    group.is_initial = group.state is GroupState.EMPTY
    group.enter(GroupState.PREPARING_REBALANCE)
    timeout_ms = group.roster.rebalance_timeout_ms
    if group.is_initial:
        group.joined_since = False
        group.delay_ms = initial_delay_ms
        group.join_limit_ms = now_ms + max(initial_delay_ms, timeout_ms)
        _wait_until(group, now_ms + initial_delay_ms)
        if not initial_delay_ms:
            finish(group, now_ms=now_ms)
    else:
        _wait_until(group, now_ms + timeout_ms)
        finish_if_all_joined(group, now_ms=now_ms)


def prepare_or_finish(group: GroupCore, *, now_ms: int, initial_delay_ms: int = 0) -> None:
    """Begin a rebalance, or see whether the one under way is complete now."""
    if group.state is GroupState.PREPARING_REBALANCE:
        finish_if_all_joined(group, now_ms=now_ms)
    else:
        prepare(group, now_ms=now_ms, initial_delay_ms=initial_delay_ms)


def finish_if_all_joined(group: GroupCore, *, now_ms: int) -> None:
    """End the joining phase if nobody is missing and there is no initial delay to wait for."""
    assert group.state is GroupState.PREPARING_REBALANCE
    if not group.is_initial and group.roster.all_joined:
        finish(group, now_ms=now_ms)


def time_over(group: GroupCore, *, now_ms: int) -> None:
    """The deadline has come: wait on for newcomers, or go on without the missing."""
    assert group.state is GroupState.PREPARING_REBALANCE
    if group.is_initial and group.joined_since and now_ms < group.join_limit_ms:
        group.joined_since = False
        _wait_until(group, min(now_ms + group.delay_ms, group.join_limit_ms))
    else:
        finish(group, now_ms=now_ms)


def finish(group: GroupCore, *, now_ms: int) -> None:
    """End the joining phase: drop who has not joined, and begin the next generation.

    Where only static members are left and none of them has joined, the phase goes on: one of them
    comes back, or their sessions end.
    """
    roster = group.roster
    for member in [m for m in roster if not m.is_joining and not m.is_static]:
        group.drop(member)
    group.is_initial = False
    if roster.members and not roster.elect_joined_leader():
        # At least a second: a client may have asked for a rebalance time-out of nothing.
        _wait_until(group, now_ms + max(roster.rebalance_timeout_ms, SECOND_MS))
        return
    group.join_deadline_ms = None
    group.generation += 1
    if roster.members:
        _begin_generation(group, now_ms=now_ms)
    else:
        _become_empty(group)


def _begin_generation(group: GroupCore, *, now_ms: int) -> None:
    group.protocol_name = group.roster.elect_protocol()
    group.subscriptions = tuple(m.metadata(group.protocol_name) for m in group.roster)
    group.enter(GroupState.COMPLETING_REBALANCE)
    for member in group.roster:
        member.is_new = False
        group.answer_join(member, group.current_answer(member))
        group.renew(member, now_ms)
        group.unsynced.add(member.member_id)
    group.sync_deadline_ms = now_ms + group.roster.rebalance_timeout_ms
    group.wake_by(group.sync_deadline_ms)


def _become_empty(group: GroupCore) -> None:
    group.protocol_name = None
    group.subscriptions = ()
    group.enter(GroupState.EMPTY)
    group.write(EmptyWrite())


def cancel_syncs(group: GroupCore, error: ErrorCode, *, now_ms: int) -> None:
    """Take the assignments back, and tell those who wait for theirs."""
    assert group.state is GroupState.COMPLETING_REBALANCE
    for member in group.roster:
        member.assignment = b""
        if member.is_syncing:
            group.answer_sync(member, SyncAnswer(error))
            group.renew(member, now_ms)


def _wait_until(group: GroupCore, at_ms: int) -> None:
    group.join_deadline_ms = at_ms
    group.wake_by(at_ms)
