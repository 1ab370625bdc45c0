"""A consumer group of the classic protocol: a state machine that others drive.

    Empty -> PreparingRebalance -> CompletingRebalance -> Stable
               (members join)     (the leader assigns)

and from each of the later states back to PreparingRebalance, when members come, change or go. Each
method takes a stimulus and returns effects, which the driver carries out in their order. Nothing is
decided by a clock of its own: `tick` is to be called by `next_deadline_ms`.

Invariants, which a simulation checks:

* a parked reply is answered once, or not at all if its connection is gone;
* the generation only grows; a write goes out in the order of the changes;
* nobody can hold up a rebalance for longer than its rebalance time-out;
* assignments are told, and a static member's new id is, when they are durable.

What survives a crash is the group as it was last persisted: a generation that was complete, with
its assignments. Members do not notice, apart from those that were in a rebalance: they join again.

Source: the Kafka protocol guide, "Group Membership API"; KIP-62, KIP-134, KIP-345, KIP-394 and
KIP-814; where these are silent, what Kafka's classic coordinator does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from logd.policy.group import joining, leaving, rebalancing, static_members, syncing
from logd.policy.group.core import AssignmentWrite, GroupCore, SwapWrite
from logd.policy.group.member import GONE, Member, Terms
from logd.policy.group.subscription import CONSUMER, topics_of_all
from logd.policy.group.values import (
    Effect,
    GroupLimits,
    GroupState,
    Join,
    Leaver,
    Sync,
)
from logd.record.group_records import NO_TIMEOUT, GroupMember, GroupValue
from logd.wire.error_codes import ErrorCode

_TOLD: Final = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: ErrorCode.NOT_COORDINATOR,
    ErrorCode.KAFKA_STORAGE_ERROR: ErrorCode.NOT_COORDINATOR,
    ErrorCode.REQUEST_TIMED_OUT: ErrorCode.REBALANCE_IN_PROGRESS,
    ErrorCode.MESSAGE_TOO_LARGE: ErrorCode.UNKNOWN_SERVER_ERROR,
    ErrorCode.RECORD_LIST_TOO_LARGE: ErrorCode.UNKNOWN_SERVER_ERROR,
    ErrorCode.INVALID_FETCH_SIZE: ErrorCode.UNKNOWN_SERVER_ERROR,
}
"""What a member is told where a write failed: codes that group requests may be answered with."""


class Group(GroupCore):
    """One group. `state`, `generation`, `protocol_type` and `protocol_name` are to be read."""

    def __init__(self, group_id: str) -> None:
        super().__init__(group_id)
        self._topics: tuple[tuple[bytes, ...], frozenset[str] | None] | None = None

    @classmethod
    def restore(
        cls, group_id: str, stored: GroupValue, *, now_ms: int, limits: GroupLimits | None = None
    ) -> Group:
        """Return a group as it was kept: stable, if it has members and a protocol, else empty.

        Every member has a session's time to be heard of. Where the group is larger than the limits
        allow, its members have to join again, and the last ones to do so are refused.
        """
        group = cls(group_id)
        group.kept = stored
        group.generation = stored.generation
        group.protocol_type = stored.protocol_type or None
        if stored.protocol_name is not None and stored.members:
            group._restore_members(stored, stored.protocol_name, now_ms=now_ms)
            if limits is not None and len(group.roster) > limits.members_max:
                rebalancing.prepare(group, now_ms=now_ms)
        assert not group.effects
        return group

    def _restore_members(self, stored: GroupValue, protocol: str, *, now_ms: int) -> None:
        roster = self.roster
        for kept in stored.members:
            # Ids are unique in what we wrote. In a log that came from elsewhere, the first counts.
            if kept.member_id not in roster.members and kept.instance_id not in roster.by_instance:
                member = _as_member(kept, protocol)
                roster.add(member)
                self.renew(member, now_ms)
        if stored.leader in roster.members:
            roster.leader = stored.leader
        self.protocol_name = protocol
        self.subscriptions = tuple(member.metadata(protocol) for member in roster)
        self.state = GroupState.STABLE

    # --- Looking ----------------------------------------------------------------------------------

    @property
    def members(self) -> dict[str, Member]:
        """The members by id. For reading only."""
        return self.roster.members

    @property
    def leader(self) -> str | None:
        """The id of the member that assigns; None while there are no members."""
        return self.roster.leader

    @property
    def pending_count(self) -> int:
        """How many member ids were given out and are not used yet."""
        return len(self.roster.pending)

    @property
    def next_deadline_ms(self) -> int | None:
        """When `tick` is to be called at the latest; None: not before another stimulus.

        It may be earlier than needed: heartbeats do not put it off, ticks do.
        """
        return self.wake_ms

    def stored(self) -> GroupValue:
        """Return the group as it was last made durable: what a snapshot has to hold."""
        return self.kept

    def subscribed_topics(self) -> frozenset[str] | None:
        """Return the topics that the members of this generation subscribed to.

        None where that is not known: not a consumer group, or one that cannot be read. Then every
        topic is to be treated as subscribed to.
        """
        if self.protocol_type != CONSUMER:
            return None
        if not self.subscriptions:
            return frozenset() if self.state is GroupState.EMPTY else None
        if self._topics is None or self._topics[0] is not self.subscriptions:
            self._topics = (self.subscriptions, topics_of_all(self.subscriptions))
        return self._topics[1]

    # --- Stimuli ----------------------------------------------------------------------------------

    def join(self, join: Join, reply: object, limits: GroupLimits, *, now_ms: int) -> list[Effect]:
        """Take in a JoinGroup; the answer may come with a later stimulus."""
        assert reply is not None
        joining.join(self, join, reply, limits, now_ms=now_ms)
        return self.take_effects()

    def sync(self, sync: Sync, reply: object, *, now_ms: int) -> list[Effect]:
        """Take in a SyncGroup; the answer may come with a later stimulus."""
        assert reply is not None
        syncing.sync(self, sync, reply, now_ms=now_ms)
        return self.take_effects()

    def heartbeat(
        self, member_id: str, generation: int, instance_id: str | None, *, now_ms: int
    ) -> ErrorCode:
        """Take in a Heartbeat: it renews the session, and tells of a rebalance under way."""
        if self.state is GroupState.DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        error = self.check_member(member_id, instance_id)
        if error:
            return error
        if generation != self.generation:
            return ErrorCode.ILLEGAL_GENERATION
        member = self.roster.members[member_id]
        member.deadline_ms = now_ms + member.wait_ms
        if self.state is GroupState.PREPARING_REBALANCE:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def leave(
        self, leavers: Sequence[Leaver], *, now_ms: int
    ) -> tuple[list[ErrorCode], list[Effect]]:
        """Take in a LeaveGroup; returns one code for each leaver."""
        errors = leaving.leave(self, leavers, now_ms=now_ms)
        return errors, self.take_effects()

    def check_commit(
        self, member_id: str, generation: int, instance_id: str | None, *, now_ms: int
    ) -> ErrorCode:
        """Return whether a sender may commit offsets; a member's session is renewed by it.

        A consumer that does without a group's members, and an administrator, sends a generation
        below zero. They may commit while there are no members.
        """
        if self.state is GroupState.DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        if generation < 0 and self.state is GroupState.EMPTY:
            return ErrorCode.NONE
        error = self.check_member(member_id, instance_id)
        if error:
            return error
        if generation != self.generation:
            return ErrorCode.ILLEGAL_GENERATION
        if self.state is GroupState.COMPLETING_REBALANCE:
            # It knows the new generation, but not yet what is its own in it.
            return ErrorCode.REBALANCE_IN_PROGRESS
        member = self.roster.members[member_id]
        member.deadline_ms = now_ms + member.wait_ms
        return ErrorCode.NONE

    def persisted(self, write_id: int, error: ErrorCode | None, *, now_ms: int) -> list[Effect]:
        """Take in the end of a write: None or NONE, it is durable; else why it is not."""
        stored, what_for = self.writes.pop(write_id)
        failure = _TOLD.get(error, error) if error else ErrorCode.NONE
        if not failure:
            self.kept = stored
        if isinstance(what_for, AssignmentWrite):
            syncing.assigned(self, stored, what_for, failure, now_ms=now_ms)
        elif isinstance(what_for, SwapWrite):
            static_members.swapped(self, what_for, failure, now_ms=now_ms)
        return self.take_effects()

    def tick(self, now_ms: int) -> list[Effect]:
        """Do what is due: end sessions, and phases of a rebalance."""
        if self.wake_ms is None or now_ms < self.wake_ms:
            return []
        leaving.expire(self, now_ms=now_ms)
        if self.join_deadline_ms is not None and self.join_deadline_ms <= now_ms:
            rebalancing.time_over(self, now_ms=now_ms)
        if self.sync_deadline_ms is not None and self.sync_deadline_ms <= now_ms:
            syncing.time_over(self, now_ms=now_ms)
        self.find_wake()
        return self.take_effects()

    def forget_reply(self, reply: object) -> None:
        """A connection is gone: what it waits for is not answered; its member stays for now."""
        for member in self.roster:
            if member.join_reply is reply:
                member.join_reply = GONE
            if member.sync_reply is reply:
                member.sync_reply = GONE

    def die(self) -> list[Effect]:
        """The group is deleted: who waits is told to look for it again."""
        for member in list(self.roster):
            self.drop(member, ErrorCode.COORDINATOR_NOT_AVAILABLE)
        self.roster.pending.clear()
        self.join_deadline_ms = self.sync_deadline_ms = self.wake_ms = None
        self.enter(GroupState.DEAD)
        return self.take_effects()


def _as_member(kept: GroupMember, protocol: str) -> Member:
    timeout_ms = kept.rebalance_timeout_ms
    terms = Terms(
        session_timeout_ms=kept.session_timeout_ms,
        rebalance_timeout_ms=kept.session_timeout_ms if timeout_ms == NO_TIMEOUT else timeout_ms,
        protocols={protocol: kept.subscription},
    )
    return Member(
        kept.member_id,
        terms,
        instance_id=kept.instance_id,
        client_id=kept.client_id,
        client_host=kept.client_host,
        assignment=kept.assignment,
    )
