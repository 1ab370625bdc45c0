"""Groups and offsets as values of the state machine, and as records of the offsets log."""

from __future__ import annotations

from logd.policy.group.group import Group
from logd.policy.group.values import GroupLimits, StoredGroup, StoredMember
from logd.record.group_records import (
    NO_TIMEOUT,
    GroupMember,
    GroupValue,
    decode_group_value,
    encode_group_value,
)


def encode_stored_group(group: StoredGroup, *, state_timestamp_ms: int) -> bytes:
    """Return the value of a group's record, stamped with the time of its state."""
    return encode_group_value(
        GroupValue(
            group.protocol_type,
            group.generation,
            group.protocol_name,
            group.leader,
            state_timestamp_ms,
            tuple(_to_record(member) for member in group.members),
        )
    )


def decode_stored_group(value: bytes) -> StoredGroup:
    """Return what a group's record holds.

    Raises:
        CorruptRecordsError: the value is malformed.
    """
    group = decode_group_value(value)
    return StoredGroup(
        group.protocol_type,
        group.generation,
        group.protocol_name,
        group.leader,
        group.state_timestamp_ms,
        tuple(_from_record(member) for member in group.members),
    )


def restore_group(group_id: str, value: bytes, limits: GroupLimits, *, now_ms: int) -> Group:
    """Return a group as its record says, every member with a fresh session.

    Raises:
        CorruptRecordsError: the value is malformed.
    """
    return Group.restore(group_id, decode_stored_group(value), now_ms=now_ms, limits=limits)


def _to_record(member: StoredMember) -> GroupMember:
    return GroupMember(
        member.member_id,
        member.instance_id,
        member.client_id,
        member.client_host,
        member.rebalance_timeout_ms,
        member.session_timeout_ms,
        member.subscription,
        member.assignment,
    )


def _from_record(member: GroupMember) -> StoredMember:
    timeout_ms = member.rebalance_timeout_ms
    return StoredMember(
        member.member_id,
        member.instance_id,
        member.client_id,
        member.client_host,
        member.session_timeout_ms if timeout_ms == NO_TIMEOUT else timeout_ms,
        member.session_timeout_ms,
        member.subscription,
        member.assignment,
    )
