"""What goes into a group's state machine and what comes out of it: plain values.

Stimuli carry what a request says; effects are what the driver is to do. Both can be printed and
compared, so a transition is a row of a test table.

Times are milliseconds of one monotonic clock that the driver chooses, handed in with each
stimulus. Replies are opaque to the machine: it gives back the object that came with the stimulus.

Source: Kafka protocol guide, "Group Membership API"; KIP-62, KIP-134, KIP-345, KIP-394, KIP-559.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from logd.record.group_records import GroupValue
from logd.wire.error_codes import ErrorCode


class GroupState(Enum):
    """The states of a group; the values are the names that admin answers use."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """The settings that a group obeys; read anew at each stimulus.

    Attributes:
        initial_rebalance_delay_ms: group.initial.rebalance.delay.ms.
        session_timeout_min_ms, session_timeout_max_ms: what a member may ask for.
        members_max: group.max.size.
    """

    initial_rebalance_delay_ms: int
    session_timeout_min_ms: int
    session_timeout_max_ms: int
    members_max: int


@dataclass(frozen=True, slots=True)
class Join:
    """A JoinGroup request.

    Attributes:
        member_id: empty for a newcomer.
        new_member_id: the id that a newcomer gets; made by the driver, never used before.
        needs_member_id: from version 4 on a newcomer is told its id first and joins again.
        skips_assignment_ok: from version 9 on a static leader may be told to skip its assignor.
        protocols: (name, metadata) in the member's order of preference.
    """

    member_id: str
    new_member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: tuple[tuple[str, bytes], ...]
    needs_member_id: bool
    skips_assignment_ok: bool = False


@dataclass(frozen=True, slots=True)
class Sync:
    """A SyncGroup request; protocol type and name are None before version 5."""

    member_id: str
    generation: int
    instance_id: str | None
    protocol_type: str | None
    protocol_name: str | None
    assignments: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Leaver:
    """One member of a LeaveGroup request."""

    member_id: str
    instance_id: str | None


@dataclass(frozen=True, slots=True)
class JoinAnswer:
    """The answer to a Join; `members` (id, instance id, metadata) only for the leader."""

    error: ErrorCode
    member_id: str
    generation: int = -1
    protocol_type: str | None = None
    protocol_name: str | None = None
    leader: str = ""
    skip_assignment: bool = False
    members: tuple[tuple[str, str | None, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class SyncAnswer:
    """The answer to a Sync."""

    error: ErrorCode
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignment: bytes = b""


# --- effects -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnswerJoin:
    """Send this answer to the Join that came with `reply`."""

    reply: object
    answer: JoinAnswer


@dataclass(frozen=True, slots=True)
class AnswerSync:
    """Send this answer to the Sync that came with `reply`."""

    reply: object
    answer: SyncAnswer


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the group durably, then call `Group.persisted(write_id, error, now_ms)`.

    Writes of a group are given out in order and must reach the log in that order.
    """

    write_id: int
    group: GroupValue


Effect = AnswerJoin | AnswerSync | Persist
