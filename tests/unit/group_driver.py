"""A driver of one group on a clock of its own, which carries effects out and keeps the answers.

It checks what every driver may rely on: a reply is answered once, and a write comes last among the
effects of a stimulus.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from logd.policy.group.group import Group
from logd.policy.group.values import (
    AnswerJoin,
    AnswerSync,
    Effect,
    GroupLimits,
    Join,
    JoinAnswer,
    Leaver,
    Persist,
    Sync,
    SyncAnswer,
)
from logd.wire.error_codes import ErrorCode

DELAY_MS = 3_000
SESSION_MS = 10_000
REBALANCE_MS = 60_000
RANGE = (("range", b"topics"),)
TWO = (("range", b"r"), ("sticky", b"s"))


def limits(*, delay_ms: int = DELAY_MS, members_max: int = 1_000_000) -> GroupLimits:
    return GroupLimits(
        initial_rebalance_delay_ms=delay_ms,
        session_timeout_min_ms=6_000,
        session_timeout_max_ms=1_800_000,
        members_max=members_max,
    )


def a_join(member_id: str = "", **changes: Any) -> Join:
    """Return a join of version 3 or older, with changes."""
    values: dict[str, Any] = {
        "member_id": member_id,
        "new_member_id": "new",
        "instance_id": None,
        "client_id": "client",
        "client_host": "127.0.0.1",
        "session_timeout_ms": SESSION_MS,
        "rebalance_timeout_ms": REBALANCE_MS,
        "protocol_type": "consumer",
        "protocols": RANGE,
        "needs_member_id": False,
    }
    return Join(**(values | changes))


def a_sync(member_id: str, generation: int, **changes: Any) -> Sync:
    """Return a sync of version 4 or older, with changes."""
    values: dict[str, Any] = {
        "instance_id": None,
        "protocol_type": None,
        "protocol_name": None,
        "assignments": (),
    }
    return Sync(member_id=member_id, generation=generation, **(values | changes))


class GroupDriver:
    """One group with its clock, the answers by reply, and the writes that are not confirmed."""

    def __init__(self, *, group: Group | None = None, now_ms: int = 1_000, **changes: int) -> None:
        self.group = Group("g") if group is None else group
        self.limits = limits(**changes)
        self.now_ms = now_ms
        self.joined: dict[object, JoinAnswer] = {}
        self.synced: dict[object, SyncAnswer] = {}
        self.writes: deque[Persist] = deque()
        self.tick_count = 0

    # --- Stimuli ----------------------------------------------------------------------------------

    def join(self, reply: object, member_id: str = "", **changes: Any) -> JoinAnswer | None:
        """Send a join; returns the answer, if it came at once."""
        request = a_join(member_id, **({"new_member_id": str(reply)} | changes))
        self.carry_out(self.group.join(request, reply, self.limits, now_ms=self.now_ms))
        return self.joined.get(reply)

    def sync(self, reply: object, member_id: str, **changes: Any) -> SyncAnswer | None:
        """Send a sync of the current generation; returns the answer, if it came at once."""
        request = a_sync(member_id, **({"generation": self.group.generation} | changes))
        self.carry_out(self.group.sync(request, reply, now_ms=self.now_ms))
        return self.synced.get(reply)

    def assign(self, reply: object = "assign") -> None:
        """Send the leader's sync, which gives every member its own name."""
        leader = self.group.leader
        assert leader is not None
        assignments = tuple((name, name.encode()) for name in self.group.members)
        self.sync(reply, leader, assignments=assignments)

    def heartbeat(self, member_id: str, **changes: Any) -> ErrorCode:
        values = {"generation": self.group.generation, "instance_id": None} | changes
        return self.group.heartbeat(member_id, now_ms=self.now_ms, **values)

    def check_commit(self, member_id: str, **changes: Any) -> ErrorCode:
        values = {"generation": self.group.generation, "instance_id": None} | changes
        return self.group.check_commit(member_id, now_ms=self.now_ms, **values)

    def leave(self, *leavers: str | Leaver) -> list[ErrorCode]:
        """Send a leave; a string is a member id."""
        asked = [Leaver(one, None) if isinstance(one, str) else one for one in leavers]
        errors, effects = self.group.leave(asked, now_ms=self.now_ms)
        self.carry_out(effects)
        return errors

    def confirm(self, error: ErrorCode | None = None) -> Persist:
        """End the oldest write that is under way."""
        write = self.writes.popleft()
        self.carry_out(self.group.persisted(write.write_id, error, now_ms=self.now_ms))
        return write

    def advance(self, duration_ms: int) -> None:
        """Let time pass; the group is ticked at each deadline that it names."""
        end_ms = self.now_ms + duration_ms
        while (due_ms := self.group.next_deadline_ms) is not None and due_ms <= end_ms:
            self.now_ms = max(self.now_ms, due_ms)
            self.carry_out(self.group.tick(self.now_ms))
            self.tick_count += 1
            assert self.tick_count < 100_000, "the group asks for ticks without end"
        self.now_ms = end_ms

    def keep_alive(self, duration_ms: int, *member_ids: str) -> None:
        """Let time pass while these members send heartbeats."""
        end_ms = self.now_ms + duration_ms
        while self.now_ms < end_ms:
            for member_id in member_ids:
                self.heartbeat(member_id)
            self.advance(min(3_000, end_ms - self.now_ms))

    # --- Effects ----------------------------------------------------------------------------------

    def carry_out(self, effects: Iterable[Effect]) -> None:
        done = False
        for effect in effects:
            assert not done, "an effect comes behind a write"
            if isinstance(effect, AnswerJoin):
                assert effect.reply not in self.joined, f"{effect.reply} is answered twice"
                self.joined[effect.reply] = effect.answer
            elif isinstance(effect, AnswerSync):
                assert effect.reply not in self.synced, f"{effect.reply} is answered twice"
                self.synced[effect.reply] = effect.answer
            else:
                self.writes.append(effect)
                done = True

    # --- Scenes -----------------------------------------------------------------------------------

    def completing(self, *names: str, **changes: Any) -> GroupDriver:
        """Have members join, and the delay pass: the first one leads generation 1."""
        for name in names:
            self.join(f"join {name}", **({"new_member_id": name} | changes))
        while self.group.generation == 0:
            self.advance(1)
        return self

    def stable(self, *names: str, **changes: Any) -> GroupDriver:
        """Have members join and get their assignments: their own names."""
        self.completing(*names, **changes)
        self.assign("sync " + names[0])
        for name in names[1:]:
            self.sync("sync " + name, name)
        self.confirm()
        return self

    def errors(self, *replies: object) -> list[ErrorCode | None]:
        """Return the error codes of answers; None for those that have not come."""
        found: list[ErrorCode | None] = []
        for reply in replies:
            answer = self.joined.get(reply) or self.synced.get(reply)
            found.append(None if answer is None else answer.error)
        return found
