"""Groups as records of the offsets log: stamped when they are written, restored when read."""

from __future__ import annotations

from dataclasses import replace

from logd.policy.group.group import Group
from logd.policy.group.values import GroupLimits
from logd.record.group_records import GroupValue, decode_group_value, encode_group_value


def encode_stored_group(group: GroupValue, *, state_timestamp_ms: int) -> bytes:
    """Return the value of a group's record, stamped with the time of its state."""
    return encode_group_value(replace(group, state_timestamp_ms=state_timestamp_ms))


def restore_group(group_id: str, value: bytes, limits: GroupLimits, *, now_ms: int) -> Group:
    """Return a group as its record says, every member with a fresh session.

    Raises:
        CorruptRecordsError: the value is malformed.
    """
    return Group.restore(group_id, decode_group_value(value), now_ms=now_ms, limits=limits)
