"""Groups for people: the documents of the admin port, and what is wrong with the offsets log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from logd.broker.group_entry import GroupEntry
from logd.broker.group_lag import end_offset, lag
from logd.broker.groups import Coordinator
from logd.broker.problems import Problem
from logd.broker.status import WARNING
from logd.broker.topic_names import OFFSETS_TOPIC
from logd.errors import GroupNotFoundError
from logd.policy.group.assignment import read_assignment
from logd.policy.group.subscription import CONSUMER
from logd.policy.group.values import GroupState


def list_groups(groups: Coordinator) -> list[dict[str, Any]]:
    """Return a row for each group, in the order of their ids."""
    return [
        {
            "group": group_id,
            "state": entry.group.state.value,
            "protocol_type": entry.group.protocol_type or "",
            "members": len(entry.group.members),
            "offsets": len(entry.offsets),
        }
        for group_id, entry in sorted(groups.entries.items())
    ]


def describe_group(groups: Coordinator, group_id: str) -> dict[str, Any]:
    """Return everything that is known of a group.

    Raises:
        GroupNotFoundError: there is none of this id.
    """
    entry = groups.entries.get(group_id)
    if entry is None:
        raise GroupNotFoundError(f"there is no group {group_id!r}")
    group = entry.group
    return {
        "group": group_id,
        "state": group.state.value,
        "protocol_type": group.protocol_type or "",
        "protocol": group.protocol_name or "",
        "generation": group.generation,
        "members": _members(entry),
        "offsets": _offsets(groups, entry),
    }


def _members(entry: GroupEntry) -> list[dict[str, Any]]:
    group = entry.group
    is_readable = group.protocol_type == CONSUMER and group.state is GroupState.STABLE
    return [
        {
            "member_id": member.member_id,
            "instance_id": member.instance_id,
            "client_id": member.client_id,
            "client_host": member.client_host,
            "assignment": _assignment(member.assignment) if is_readable else [],
        }
        for member in group.members.values()
    ]


def _assignment(raw: bytes) -> list[dict[str, Any]]:
    """What a leader gave; it is a client's word, and may be anything."""
    try:
        assigned = read_assignment(raw)
    except ValueError:
        return []
    return [{"topic": topic, "partitions": partitions} for topic, partitions in assigned]


def _offsets(groups: Coordinator, entry: GroupEntry) -> list[dict[str, Any]]:
    rows = []
    for (topic, partition), committed in sorted(entry.offsets.items(), key=lambda pair: pair[0]):
        end = end_offset(groups.topics, topic, partition)
        rows.append(
            {
                "topic": topic,
                "partition": partition,
                "committed_offset": committed.offset,
                "leader_epoch": committed.leader_epoch,
                "metadata": committed.metadata,
                "committed_at_ms": committed.commit_timestamp_ms,
                "log_end_offset": end,
                "lag": lag(committed.offset, end),
            }
        )
    return rows


def group_problems(groups: Coordinator) -> Iterator[Problem]:
    """Yield what the start found wrong with the offsets log."""
    for text in groups.problems:
        yield Problem("group_offsets", WARNING, text, topic=OFFSETS_TOPIC)
