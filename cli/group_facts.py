"""What the server says of consumer groups: state, members, committed offsets, ends of partitions.

All of it comes over the Kafka port but the time of a commit, which Kafka's protocol does not tell:
for that the admin port is asked, and what it does not know stays None.

librdkafka's newer calls know the groups of consumers only. Groups of other programs (Connect and
its like) are listed and described by the older one, which gives a member's assignment as bytes that
only the group itself can read.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from cli.errors import Refused, Unreachable
from cli.kafka import CREATE_TIMEOUT_S, Connection, admin_types
from cli.options import Address

# Of the protocol types, those that are groups of consumers; a group that only commits has none.
CONSUMER_TYPES: Final = ("consumer", "")

Place = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A group as the list shows it; `raw_members` are the library's, assignments as bytes."""

    group: str
    state: str
    protocol_type: str
    protocol: str
    raw_members: tuple[Any, ...]

    @property
    def is_active(self) -> bool:
        """Whether somebody else decides on its offsets: it has members, or is about to."""
        return bool(self.raw_members) or self.state != "Empty"

    def row(self) -> dict[str, Any]:
        """Return the row of `group list --json`."""
        return {
            "group": self.group,
            "state": self.state,
            "protocol_type": self.protocol_type,
            "members": len(self.raw_members),
        }


@dataclass(frozen=True, slots=True)
class Committed:
    """A committed offset, and the text that the committer left with it."""

    offset: int
    metadata: str


def list_groups(connection: Connection, group: str | None = None) -> list[Listed]:
    """Return all groups in the order of their ids, or only the one of this id.

    Raises:
        Refused: a group cannot be described now; the text says why.
    """
    asked = () if group is None else (group,)
    with warnings.catch_warnings():
        # The calls that replace this one leave out groups of other protocol types.
        warnings.simplefilter("ignore", DeprecationWarning)
        admin = connection.admin()
        found = connection.call(
            "list groups", lambda: admin.list_groups(*asked, timeout=CREATE_TIMEOUT_S)
        )
    return sorted((_listed(connection, one) for one in found), key=lambda one: one.group)


def _listed(connection: Connection, found: Any) -> Listed:
    if found.error is not None:
        raise connection.translate(found.error, f"group {found.id}")
    return Listed(
        found.id,
        found.state or "Unknown",
        found.protocol_type or "",
        found.protocol or "",
        tuple(found.members),
    )


def find_group(connection: Connection, group: str) -> Listed | None:
    """Return a group, or None where there is none of this id."""
    found = [one for one in list_groups(connection, group) if one.group == group]
    return found[0] if found and found[0].state != "Dead" else None


def no_group(group: str) -> Refused:
    """Return the error for a group that does not exist."""
    return Refused(f"there is no group {group!r}; `logd group list` shows those there are")


# --- Members -------------------------------------------------------------------------------------


def describe_members(connection: Connection, listed: Listed) -> list[dict[str, Any]]:
    """Return the members with what each was given, in the order of client id and member id."""
    if listed.protocol_type in CONSUMER_TYPES:
        members = [_described(member) for member in _consumers(connection, listed.group)]
    else:
        members = [_foreign(member) for member in listed.raw_members]
    return sorted(members, key=lambda member: (member["client_id"], member["member_id"]))


def _consumers(connection: Connection, group: str) -> list[Any]:
    futures = connection.admin().describe_consumer_groups([group], request_timeout=CREATE_TIMEOUT_S)
    return list(connection.result(f"describe group {group}", futures[group]).members)


def _described(member: Any) -> dict[str, Any]:
    assigned = member.assignment.topic_partitions if member.assignment is not None else ()
    return {
        "member_id": member.member_id,
        "instance_id": member.group_instance_id,
        "client_id": member.client_id,
        "client_host": member.host,
        "assignment": by_topic((place.topic, place.partition) for place in assigned),
    }


def _foreign(member: Any) -> dict[str, Any]:
    return {
        "member_id": member.id,
        "instance_id": None,
        "client_id": member.client_id,
        "client_host": member.client_host,
        "assignment": [],
    }


def by_topic(places: Iterable[Place]) -> list[dict[str, Any]]:
    """Return partitions gathered under their topics, both in order."""
    gathered: dict[str, set[int]] = defaultdict(set)
    for topic, partition in places:
        gathered[topic].add(partition)
    return [{"topic": t, "partitions": sorted(gathered[t])} for t in sorted(gathered)]


def places_of(members: Iterable[Mapping[str, Any]]) -> set[Place]:
    """Return all partitions that members were given."""
    return {
        (assigned["topic"], partition)
        for member in members
        for assigned in member["assignment"]
        for partition in assigned["partitions"]
    }


# --- Offsets -------------------------------------------------------------------------------------


def committed_offsets(connection: Connection, group: str) -> dict[Place, Committed]:
    """Return what the group has committed, of all topics; nothing for a group that is unknown."""
    from confluent_kafka import ConsumerGroupTopicPartitions

    futures = connection.admin().list_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group)], request_timeout=CREATE_TIMEOUT_S
    )
    found: dict[Place, Committed] = {}
    for place in connection.result(f"offsets of group {group}", futures[group]).topic_partitions:
        if place.error is not None:
            raise connection.translate(place.error, f"offsets of group {group}")
        if place.offset >= 0:
            found[place.topic, place.partition] = Committed(place.offset, place.metadata or "")
    return found


def end_offsets(connection: Connection, places: Iterable[Place]) -> dict[Place, int | None]:
    """Return the offset behind each partition's last record; None where nothing is served."""
    from confluent_kafka import KafkaException, TopicPartition

    wanted = {(t, p): TopicPartition(t, p) for t, p in places}
    if not wanted:
        return {}
    latest = admin_types().OffsetSpec.latest()
    futures = connection.admin().list_offsets(
        dict.fromkeys(wanted.values(), latest), request_timeout=CREATE_TIMEOUT_S
    )
    ends: dict[Place, int | None] = {}
    for place, future in futures.items():
        try:
            ends[place.topic, place.partition] = future.result().offset
        except KafkaException:  # Deleted or offline: the rest of the group is still worth showing.
            ends[place.topic, place.partition] = None
    return ends


def commit_times(admin: Address, group: str) -> dict[tuple[str, int, int], int]:
    """Return when each (topic, partition, offset) was committed, from the admin port.

    The offset is part of the key: what another server says of a group of this name, or what was
    committed since, is not taken for the time of this commit.

    Raises:
        Unreachable: nothing answers there.
        Refused: it knows no such group: another server's admin port, or the group has just gone.
    """
    from cli.admin import get

    document = get(admin, f"/v1/groups/{quote(group, safe='')}")
    try:
        return {
            (row["topic"], row["partition"], row["committed_offset"]): row["committed_at_ms"]
            for row in document["offsets"]
        }
    except (KeyError, TypeError) as error:
        raise Unreachable(f"what answers at {admin} is not logd's admin port") from error


def offset_rows(
    committed: Mapping[Place, Committed],
    ends: Mapping[Place, int | None],
    times: Mapping[tuple[str, int, int], int],
) -> list[dict[str, Any]]:
    """Return the rows of `offsets` in `group describe --json`."""
    rows = []
    for (topic, partition), found in sorted(committed.items(), key=lambda pair: pair[0]):
        end = ends.get((topic, partition))
        rows.append(
            {
                "topic": topic,
                "partition": partition,
                "committed_offset": found.offset,
                "log_end_offset": end,
                "lag": None if end is None else max(0, end - found.offset),
                "committed_at_ms": times.get((topic, partition, found.offset)),
                "metadata": found.metadata,
            }
        )
    return rows
