"""What a group is made of, and the small steps that all its transitions share.

Effects collect in `effects` while a stimulus is worked on, and leave with its end. Writes are held
back until then: the driver may report a write as done while it carries it out, and by then every
answer of the stimulus must be out.

Deadlines: each member and each id given out has one, and the two phases of a rebalance have one
each. `wake_ms` is never later than the earliest of them. Renewing a session only moves a deadline
away, so a heartbeat does not touch `wake_ms`; it is corrected when the time comes, which is about
once a session time-out for a group at rest.

Source: the Kafka protocol guide; which states may follow which is told in KIP-134 and in the
comments of Kafka's own coordinator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from logd.policy.group.member import GONE, Member, Terms
from logd.policy.group.roster import Roster
from logd.policy.group.values import (
    AnswerJoin,
    AnswerSync,
    Effect,
    GroupState,
    JoinAnswer,
    Persist,
    SyncAnswer,
)
from logd.record.group_records import GroupMember, GroupValue
from logd.wire.error_codes import ErrorCode

NOTHING_STORED: Final = GroupValue(
    protocol_type="",
    generation=0,
    protocol_name=None,
    leader=None,
    state_timestamp_ms=-1,
    members=(),
)
"""What is kept of a group that was never written."""

_FOLLOWS: Final = {
    GroupState.EMPTY: frozenset({GroupState.PREPARING_REBALANCE}),
    GroupState.PREPARING_REBALANCE: frozenset(
        {GroupState.STABLE, GroupState.COMPLETING_REBALANCE, GroupState.EMPTY}
    ),
    GroupState.COMPLETING_REBALANCE: frozenset({GroupState.PREPARING_REBALANCE}),
    GroupState.STABLE: frozenset({GroupState.COMPLETING_REBALANCE}),
    GroupState.DEAD: frozenset(GroupState),
}
"""Which states each state may follow."""


@dataclass(frozen=True, slots=True)
class AssignmentWrite:
    """The leader's assignments for a generation: answered, and in force, once they are durable."""

    generation: int


@dataclass(frozen=True, slots=True)
class EmptyWrite:
    """The group has no members any more; nobody waits for this."""


@dataclass(frozen=True, slots=True)
class SwapWrite:
    """A static member's new id; what came before is for taking it back.

    Attributes:
        leader_told: whom the answer names as the leader.
        skips_assignment: whether the answer may name the member itself as a leader without work.
    """

    generation: int
    member_id: str
    old_member_id: str
    old_terms: Terms
    leader_told: str
    skips_assignment: bool


Write = AssignmentWrite | EmptyWrite | SwapWrite


class GroupCore:
    """The state of a group.

    Attributes:
        state, generation, protocol_type, protocol_name: as in the protocol.
        roster: the members.
        unsynced: ids of members that have not asked for their assignment in this generation.
        is_initial: the group was empty before this rebalance; it waits for more members.
        joined_since: in an initial rebalance: a member came since the delay began.
        delay_ms: in an initial rebalance: how much one more member adds to the wait.
        join_limit_ms: in an initial rebalance: the end of all delays.
        join_deadline_ms: when the joining phase ends for those who have not joined.
        sync_deadline_ms: when members that have not synced since the generation began are dropped.
        assignment_write: the write of this generation's assignments, while it is under way.
        kept: the group as it was last made durable.
        writes: what is written and not confirmed: the group, and what for, by write id.
        subscriptions: the members' metadata as this generation began.
    """

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.state = GroupState.EMPTY
        self.generation = 0
        self.protocol_type: str | None = None
        self.protocol_name: str | None = None
        self.roster = Roster()
        self.unsynced: set[str] = set()
        self.is_initial = False
        self.joined_since = False
        self.delay_ms = 0
        self.join_limit_ms = 0
        self.join_deadline_ms: int | None = None
        self.sync_deadline_ms: int | None = None
        self.wake_ms: int | None = None
        self.assignment_write: int | None = None
        self.kept = NOTHING_STORED
        self.writes: dict[int, tuple[GroupValue, Write]] = {}
        self.subscriptions: tuple[bytes, ...] = ()
        self.effects: list[Effect] = []
        self._held: Persist | None = None
        self._next_write_id = 1

    def enter(self, state: GroupState) -> None:
        """Change the state."""
        assert self.state in _FOLLOWS[state], f"{self.state} -> {state}"
        self.state = state

    def take_effects(self) -> list[Effect]:
        """Return what the stimulus led to, the write last."""
        effects = self.effects
        self.effects = []
        if self._held is not None:
            effects.append(self._held)
            self._held = None
        return effects

    # --- Members ----------------------------------------------------------------------------------

    def check_member(self, member_id: str, instance_id: str | None) -> ErrorCode:
        """Return whether a request's sender is a member, and the one that it says it is."""
        if instance_id is not None:
            holder = self.roster.by_instance.get(instance_id)
            if holder is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            if holder != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
        if member_id not in self.roster.members:
            return ErrorCode.UNKNOWN_MEMBER_ID
        return ErrorCode.NONE

    def renew(self, member: Member, now_ms: int) -> None:
        """Begin a member's session anew."""
        member.deadline_ms = now_ms + member.wait_ms
        self.wake_by(member.deadline_ms)

    def wake_by(self, at_ms: int) -> None:
        """See to it that the next tick is not later than this."""
        if self.wake_ms is None or at_ms < self.wake_ms:
            self.wake_ms = at_ms

    def find_wake(self) -> None:
        """Find out anew when the next tick is needed."""
        times = [member.deadline_ms for member in self.roster if member.can_expire]
        times.extend(self.roster.pending.values())
        times.extend(
            at_ms for at_ms in (self.join_deadline_ms, self.sync_deadline_ms) if at_ms is not None
        )
        self.wake_ms = min(times, default=None)

    def drop(self, member: Member, error: ErrorCode = ErrorCode.UNKNOWN_MEMBER_ID) -> None:
        """Let a member go; what it waits for is answered with the error."""
        self.answer_join(member, JoinAnswer(error=error, member_id=""))
        self.answer_sync(member, SyncAnswer(error))
        self.unsynced.discard(member.member_id)
        self.roster.remove(member)

    # --- Answers ----------------------------------------------------------------------------------

    def park_join(self, member: Member, reply: object) -> None:
        """Let a member wait for the next generation; an earlier join of its is answered now."""
        self._reply_join(self.roster.park_join(member, reply), _superseded(member))

    def answer_join(self, member: Member, answer: JoinAnswer) -> None:
        """Answer a member's parked join, if there is one."""
        self._reply_join(self.roster.unpark_join(member), answer)

    def _reply_join(self, reply: object | None, answer: JoinAnswer) -> None:
        if reply is not None and reply is not GONE:
            self.effects.append(AnswerJoin(reply, answer))

    def park_sync(self, member: Member, reply: object) -> None:
        """Let a member wait for its assignment; an earlier sync of its is answered now."""
        self.answer_sync(member, SyncAnswer(ErrorCode.REBALANCE_IN_PROGRESS))
        member.sync_reply = reply

    def answer_sync(self, member: Member, answer: SyncAnswer) -> None:
        """Answer a member's parked sync, if there is one."""
        reply = member.sync_reply
        member.sync_reply = None
        if reply is not None and reply is not GONE:
            self.effects.append(AnswerSync(reply, answer))

    def current_answer(self, member: Member) -> JoinAnswer:
        """Return what a member is told of the current generation; the leader about all members."""
        leads = self.roster.leader == member.member_id
        return JoinAnswer(
            error=ErrorCode.NONE,
            member_id=member.member_id,
            generation=self.generation,
            protocol_type=self.protocol_type,
            protocol_name=self.protocol_name,
            leader=self.roster.leader or "",
            members=self.member_list() if leads else (),
        )

    def member_list(self) -> tuple[tuple[str, str | None, bytes], ...]:
        """Return what the leader needs to know to assign."""
        name = self.protocol_name
        return tuple((m.member_id, m.instance_id, m.metadata(name)) for m in self.roster)

    # --- Writes -----------------------------------------------------------------------------------

    def write(self, what_for: Write, assignments: dict[str, bytes] | None = None) -> int:
        """Have the group written, with these assignments or the current ones; returns its id."""
        assert self._held is None
        write_id = self._next_write_id
        self._next_write_id += 1
        stored = self._as_stored(assignments)
        self.writes[write_id] = (stored, what_for)
        self._held = Persist(write_id, stored)
        return write_id

    def _as_stored(self, assignments: dict[str, bytes] | None) -> GroupValue:
        members = tuple(
            GroupMember(
                member_id=member.member_id,
                instance_id=member.instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                rebalance_timeout_ms=member.rebalance_timeout_ms,
                session_timeout_ms=member.session_timeout_ms,
                subscription=member.metadata(self.protocol_name),
                assignment=(
                    member.assignment
                    if assignments is None
                    else assignments.get(member.member_id, b"")
                ),
            )
            for member in self.roster
        )
        return GroupValue(
            protocol_type=self.protocol_type or "",
            generation=self.generation,
            protocol_name=self.protocol_name,
            leader=self.roster.leader,
            state_timestamp_ms=-1,
            members=members,
        )


def _superseded(member: Member) -> JoinAnswer:
    # A client that asks again has given up on the first answer. If it still reads it, it is told
    # to ask again, which it did.
    return JoinAnswer(error=ErrorCode.REBALANCE_IN_PROGRESS, member_id=member.member_id)
