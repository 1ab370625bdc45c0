"""The groups as the offsets log has them: loaded at start, handed out for snapshots.

Loading is in two steps, because a group's own record may come before or behind its offsets, or not
at all: first everything is noted, then the state machines are made.
"""

from __future__ import annotations

from collections.abc import Iterator

from logd.broker.group_entry import GroupEntry
from logd.broker.group_values import restore_group
from logd.broker.groups import Coordinator
from logd.broker.offset_requests import encode_value
from logd.policy.group.committed import CommittedOffset
from logd.policy.group.group import Group
from logd.policy.group.values import GroupState
from logd.record.group_records import (
    GroupKey,
    OffsetKey,
    decode_group_value,
    decode_key,
    decode_offset_value,
    encode_group_key,
    encode_offset_key,
)

_NOT_KNOWN_MS = -1


async def load_groups(groups: Coordinator) -> None:
    """Take over what the offsets log holds; members have a session's time to be heard of.

    What is wrong with the log is then in `groups.problems`.
    """
    loading = _Loading(groups)
    groups.problems += await groups.log.load(loading.apply)
    for entry in list(groups.entries.values()):
        loading.restore(entry)


class _Loading:
    """Notes what the records say."""

    def __init__(self, groups: Coordinator) -> None:
        self._groups = groups

    def apply(self, partition: int, key: bytes, value: bytes | None, _timestamp_ms: int) -> None:
        """Take note of one record; of the same key the last one counts.

        Raises:
            CorruptRecordsError: the record cannot be read.
        """
        decoded = decode_key(key)
        if isinstance(decoded, GroupKey):
            if value is not None:
                decode_group_value(value)  # What cannot be read must not replace what can.
            self._entry(decoded.group, partition).stored = value
        elif isinstance(decoded, OffsetKey):
            entry = self._entry(decoded.group, partition)
            place = decoded.topic, decoded.partition
            if value is None:
                entry.offsets.pop(place, None)
            else:
                entry.offsets[place] = CommittedOffset(*decode_offset_value(value))

    def _entry(self, group_id: str, partition: int) -> GroupEntry:
        entries = self._groups.entries
        entry = entries.get(group_id)
        if entry is None:
            entry = entries[group_id] = GroupEntry(Group(group_id), partition)
        return entry

    def restore(self, entry: GroupEntry) -> None:
        """Make the state machine of a group, or forget the group if nothing is left of it."""
        groups = self._groups
        if entry.stored is not None:
            _restore(groups, entry, entry.stored)
        groups.arm(entry)
        groups.forget_if_unused(entry)


def _restore(groups: Coordinator, entry: GroupEntry, value: bytes) -> None:
    stored = decode_group_value(value)
    group_id = entry.group.group_id
    entry.group = restore_group(group_id, value, groups.limits, now_ms=groups.now_ms())
    entry.generation = entry.group.generation
    entry.state = entry.group.state
    is_known = stored.state_timestamp_ms != _NOT_KNOWN_MS
    if entry.state is GroupState.EMPTY and is_known:
        entry.empty_since_ms = stored.state_timestamp_ms


def snapshot_pairs(groups: Coordinator, partition: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of everything that is kept in a partition of the offsets log.

    Groups may change between two of them; what changes meanwhile is replayed from the log.
    """
    for entry in list(groups.entries.values()):
        if entry.partition != partition:
            continue
        group_id = entry.group.group_id
        if entry.stored is not None:
            yield encode_group_key(group_id), entry.stored
        for key, committed in list(entry.offsets.items()):
            yield encode_offset_key(group_id, *key), encode_value(committed)
