"""OffsetCommit, OffsetFetch, OffsetDelete: all versions, per partition, durable, as Kafka."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from logd.broker.groups import GROUP_ID_BYTES_MAX
from logd.errors import DiskFullError, LogdError, LogFailedError, MessageTooLargeError
from logd.record.group_records import OffsetKey, decode_key, decode_offset_value
from logd.wire.error_codes import ErrorCode
from logd.wire.messages import offset_commit, offset_delete, offset_fetch
from tests.unit.broker_fakes import Server
from tests.unit.broker_requests import begin, versions_of
from tests.unit.group_client import (
    Seat,
    codes,
    commit,
    committed,
    fetch,
    join,
    leave,
    restarted,
    stable,
    started,
)

UNKNOWN = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
HOUR_MS = 3_600_000


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return trio.run(started, Server(tmp_path))


def records(server: Server) -> dict[tuple[str, str, int], tuple[int, int, str]]:
    """Return the offsets that the log holds."""
    found = {}
    for key, value in server.group_log.kept().items():
        decoded = decode_key(key)
        if isinstance(decoded, OffsetKey):
            offset = decode_offset_value(value)
            found[tuple(decoded)] = (offset.offset, offset.leader_epoch, offset.metadata)
    return found


# --- OffsetCommit --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", versions_of(offset_commit))
def test_a_commit_is_answered_when_it_is_durable(server: Server, version: int) -> None:
    """Not before, and not to be read before; then it is in the log in Kafka's format."""
    (seat,) = stable(server)
    server.group_log.holds = True
    begun = commit(server, {("t", 0): (5, 2, "n"), ("t", 1): (6, -1, None)}, seat, version)
    assert begun.response is None
    assert committed(server) == {}
    server.group_log.sync()
    assert codes(begun.response) == {("t", 0): 0, ("t", 1): 0}
    epoch = 2 if version >= 6 else -1
    expected = {("t", 0): (5, epoch, "n"), ("t", 1): (6, -1, "")}
    assert committed(server) == expected
    assert records(server) == {("g", *key): value for key, value in expected.items()}
    assert server.groups.commits.value == 2


def test_one_request_is_one_append(server: Server) -> None:
    """However many partitions: all of them or none."""
    server.group_log.holds = True
    commit(server, {("t", 0): (1, -1, ""), ("t", 1): (1, -1, "")})
    assert [len(records) for _, records, _ in server.group_log.waiting] == [2]


@pytest.mark.parametrize("version", versions_of(offset_commit))
def test_what_one_partition_refuses_the_others_keep(server: Server, version: int) -> None:
    """Unknown topics and partitions, and notes that are too long; the rest is committed."""
    begun = commit(
        server,
        {
            ("t", 0): (1, -1, "x" * 4096),
            ("t", 1): (1, -1, "x" * 4097),
            ("t", 2): (1, -1, ""),
            ("t", -1): (1, -1, ""),
            ("none", 0): (1, -1, ""),
        },
        version=version,
    )
    assert codes(begun.response) == {
        ("t", 0): 0,
        ("t", 1): ErrorCode.OFFSET_METADATA_TOO_LARGE,
        ("t", 2): UNKNOWN,
        ("t", -1): UNKNOWN,
        ("none", 0): UNKNOWN,
    }
    assert list(committed(server)) == [("t", 0)]


def test_notes_are_counted_in_characters_and_bounded_by_their_format(tmp_path: Path) -> None:
    """As by Kafka; and what a record cannot hold is refused, whatever the setting says."""
    server = trio.run(started, Server(tmp_path, flags={"offset.metadata.max.bytes": "100000"}))
    assert codes(commit(server, {("t", 0): (1, -1, "ü" * 16_383)}, version=8).response) == {
        ("t", 0): 0
    }
    too_large = {("t", 0): ErrorCode.OFFSET_METADATA_TOO_LARGE}
    assert codes(commit(server, {("t", 0): (2, -1, "ü" * 16_384)}, version=8).response) == too_large
    assert committed(server)["t", 0] == (1, -1, "ü" * 16_383)


def test_what_the_group_refuses(server: Server) -> None:
    """Every partition that exists gets the group's error; nothing is committed."""
    (seat,) = stable(server)
    asked = {("t", 0): (1, -1, ""), ("t", 1): (1, -1, "x" * 9999), ("none", 0): (1, -1, "")}

    def refused(code: ErrorCode) -> dict[tuple[str, int], int]:
        return {("t", 0): code, ("t", 1): code, ("none", 0): UNKNOWN}

    for who, code in (
        (None, ErrorCode.UNKNOWN_MEMBER_ID),
        (Seat("who", 1), ErrorCode.UNKNOWN_MEMBER_ID),
        (Seat(seat.member_id, 9), ErrorCode.ILLEGAL_GENERATION),
    ):
        assert codes(commit(server, asked, who).response) == refused(code)
    begun = commit(server, asked, seat, version=7, group_instance_id="i")
    assert codes(begun.response) == refused(ErrorCode.UNKNOWN_MEMBER_ID)
    begun = commit(server, asked, Seat("m", 3), group="unknown")
    assert codes(begun.response) == refused(ErrorCode.ILLEGAL_GENERATION)
    begun = commit(server, asked, group="x" * (GROUP_ID_BYTES_MAX + 1), version=8)
    assert codes(begun.response) == refused(ErrorCode.INVALID_GROUP_ID)
    assert committed(server) == {}
    assert list(server.groups.entries) == ["g"]


def test_members_may_commit_while_others_are_awaited(server: Server) -> None:
    """During the joining phase of the old generation; not between generation and assignment."""
    (seat,) = stable(server)
    join(server)
    assert codes(commit(server, {("t", 0): (1, -1, "")}, seat).response) == {("t", 0): 0}
    again = join(server, member_id=seat.member_id)
    now = Seat(seat.member_id, again.response.generation_id)
    refused = {("t", 0): ErrorCode.REBALANCE_IN_PROGRESS}
    assert codes(commit(server, {("t", 0): (2, -1, "")}, now).response) == refused
    assert committed(server) == {("t", 0): (1, -1, "")}


def test_consumers_without_a_group_commit_under_any_id(server: Server) -> None:
    """Also under the empty one; a request that keeps nothing leaves no group."""
    for group in ("simple", ""):
        assert codes(commit(server, {("t", 0): (3, -1, "")}, group=group).response) == {("t", 0): 0}
        assert committed(server, group=group) == {("t", 0): (3, -1, "")}
    commit(server, {("none", 0): (3, -1, "")}, group="nothing")
    commit(server, {}, group="nothing")
    assert sorted(server.groups.entries) == ["", "simple"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DiskFullError("full"), ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (LogFailedError("gone"), ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (MessageTooLargeError("large"), ErrorCode.INVALID_COMMIT_OFFSET_SIZE),
    ],
)
def test_what_the_log_refuses(server: Server, error: LogdError, code: ErrorCode) -> None:
    """At once or after a failed sync: the client hears of it, the old offset stays."""
    commit(server, {("t", 0): (1, -1, "")})
    server.group_log.holds = True
    asked = {("t", 0): (2, -1, ""), ("none", 0): (2, -1, "")}
    begun = commit(server, asked)
    server.group_log.fail(error)
    assert codes(begun.response) == {("t", 0): code, ("none", 0): UNKNOWN}
    server.group_log.refuse_with = error
    assert codes(commit(server, asked).response)["t", 0] == code
    assert codes(commit(server, asked, group="new").response)["t", 0] == code
    assert committed(server) == {("t", 0): (1, -1, "")}
    assert list(server.groups.entries) == ["g"]


@pytest.mark.parametrize("version", [2, 3, 4])
async def test_old_clients_say_how_long_an_offset_is_kept(server: Server, version: int) -> None:
    """retention_time_ms counts from the commit, over a restart, whatever the setting says."""
    commit(server, {("t", 0): (1, -1, "")}, version=version, retention_time_ms=HOUR_MS)
    commit(server, {("t", 1): (1, -1, "")}, version=version)
    server = await restarted(server)
    await server.upkeep.expire()
    assert len(committed(server)) == 2
    server.group_services.clock.ms += HOUR_MS - 1
    await server.upkeep.expire()
    assert len(committed(server)) == 2
    server.group_services.clock.ms += 1
    await server.upkeep.expire()
    assert list(committed(server)) == [("t", 1)]


# --- OffsetFetch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", versions_of(offset_fetch))
def test_fetching(server: Server, version: int) -> None:
    """What was asked for, in its order; -1 and no error where nothing is committed."""
    commit(server, {("t", 1): (7, 4, "note")})
    wanted = {"t": [1, 0, 9], "none": [0]}
    epoch = 4 if version >= 5 else -1
    nothing = (-1, -1, "")
    assert committed(server, wanted, version) == {
        ("t", 1): (7, epoch, "note"),
        ("t", 0): nothing,
        ("t", 9): nothing,
        ("none", 0): nothing,
    }
    assert committed(server, {"t": [0]}, version, group="unknown") == {("t", 0): nothing}
    assert committed(server, {"t": [0]}, version, group="") == {("t", 0): nothing}
    if version >= 2:
        assert committed(server, None, version) == {("t", 1): (7, epoch, "note")}
        assert committed(server, None, version, group="unknown") == {}
    assert "unknown" not in server.groups.entries


@pytest.mark.parametrize("version", [8, 9])
def test_several_groups_in_one_fetch(server: Server, version: int) -> None:
    """Each with its topics, or all of them, and an error of its own."""
    for group, offset in (("a", 1), ("b", 2)):
        commit(server, {("t", 0): (offset, -1, "")}, group=group)
    asked = offset_fetch.OffsetFetchRequestGroup
    topics = [offset_fetch.OffsetFetchRequestTopics(name="t", partition_indexes=[0])]
    request = offset_fetch.OffsetFetchRequest(
        groups=[
            asked(group_id="a", topics=topics),
            asked(group_id="b", topics=None),
            asked(group_id="x" * (GROUP_ID_BYTES_MAX + 1), topics=topics),
        ]
    )
    first, second, third = begin(server, offset_fetch, request, version).response.groups
    for answer, group, offset in ((first, "a", 1), (second, "b", 2)):
        assert (answer.group_id, answer.error_code) == (group, 0)
        assert answer.topics[0].partitions[0].committed_offset == offset
    assert (third.error_code, third.topics) == (ErrorCode.INVALID_GROUP_ID, [])


@pytest.mark.parametrize("version", [8, 9])
def test_what_is_asked_twice_in_one_fetch_is_told_once(server: Server, version: int) -> None:
    """Of groups, topics and partitions; who asks for all of a group once is told all."""
    for group in ("a", "b"):
        commit(server, {("t", 0): (1, -1, ""), ("t", 1): (2, -1, "")}, group=group)
    asked, topic = offset_fetch.OffsetFetchRequestGroup, offset_fetch.OffsetFetchRequestTopics
    request = offset_fetch.OffsetFetchRequest(
        groups=[
            asked(group_id="a", topics=[topic(name="t", partition_indexes=[1, 1, 9])]),
            asked(group_id="b", topics=[topic(name="t", partition_indexes=[1])]),
            asked(group_id="b", topics=None),
            asked(
                group_id="a",
                topics=[
                    topic(name="t", partition_indexes=[0, 1]),
                    topic(name="t", partition_indexes=[9]),
                ],
            ),
            asked(group_id="b", topics=None),
        ]
    )
    groups = begin(server, offset_fetch, request, version).response.groups
    assert [
        (group.group_id, topic.name, [one.committed_offset for one in topic.partitions])
        for group in groups
        for topic in group.topics
    ] == [("a", "t", [2, -1, 1]), ("b", "t", [1, 2])]


def test_a_stable_fetch_waits_for_commits_on_their_way(server: Server) -> None:
    """It tells what is committed when those that were under way have landed, no later."""
    commit(server, {("t", 0): (1, -1, "")})
    server.group_log.holds = True
    commit(server, {("t", 0): (2, -1, "")})
    begun = fetch(server, None, stable=True)
    at_once = fetch(server, None)
    assert at_once.response.topics[0].partitions[0].committed_offset == 1
    commit(server, {("t", 0): (3, -1, "")})
    assert begun.response is None
    server.group_log.sync(1)
    assert begun.response.topics[0].partitions[0].committed_offset == 2


@pytest.mark.parametrize("version", versions_of(offset_fetch))
def test_a_group_that_cannot_be_served_is_no_empty_group(server: Server, version: int) -> None:
    """Or its consumers would begin anew: an error for all, or for each partition before there
    was one.
    """
    server.partition("__consumer_offsets").offline = "gone"
    response = fetch(server, {"t": [0]}, version).response
    answer = response.groups[0] if version >= 8 else response
    if version < 2:
        assert answer.topics[0].partitions[0].error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    else:
        assert (answer.error_code, answer.topics) == (ErrorCode.COORDINATOR_NOT_AVAILABLE, [])


# --- OffsetDelete --------------------------------------------------------------------------------


def delete(server: Server, topics: dict[str, list[int]], group: str = "g") -> Any:
    """Send an OffsetDelete; return the response."""
    request = offset_delete.OffsetDeleteRequest(
        group_id=group,
        topics=[
            offset_delete.OffsetDeleteRequestTopic(
                name=name,
                partitions=[
                    offset_delete.OffsetDeleteRequestPartition(partition_index=index)
                    for index in indexes
                ],
            )
            for name, indexes in topics.items()
        ],
    )
    return begin(server, offset_delete, request, 0).response


async def test_deleting_offsets(server: Server) -> None:
    """Of topics that no member reads; partitions without an offset are fine."""
    await server.topics.create("other", 1, {})
    (seat,) = stable(server)
    for topic in ("t", "other"):
        commit(server, {(topic, 0): (1, -1, "")}, seat)
    response = delete(server, {"t": [0], "other": [0, 5], "none": [0]})
    assert response.error_code == 0
    assert codes(response) == {
        ("t", 0): ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC,
        ("other", 0): 0,
        ("other", 5): UNKNOWN,
        ("none", 0): UNKNOWN,
    }
    assert list(committed(server)) == [("t", 0)]
    leave(server, seat.member_id)
    assert codes(delete(server, {"t": [0, 1]})) == {("t", 0): 0, ("t", 1): 0}
    assert committed(server) == {}
    assert records(server) == {}


def test_deletes_that_are_refused_whole(server: Server) -> None:
    """Unknown groups, no id, members that cannot be read, a log that refuses."""

    def error(group: str = "g") -> int:
        code: int = delete(server, {"t": [0]}, group).error_code
        return code

    assert error() == ErrorCode.GROUP_ID_NOT_FOUND
    assert error("") == ErrorCode.INVALID_GROUP_ID
    stable(server, group="connect", protocol_type="connect")
    assert error("connect") == ErrorCode.NON_EMPTY_GROUP
    commit(server, {("t", 0): (1, -1, "")})
    server.group_log.refuse_with = DiskFullError("full")
    assert error() == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert committed(server) == {("t", 0): (1, -1, "")}


def test_a_delete_reaches_commits_on_their_way(server: Server) -> None:
    """Its tombstone lies behind them in the log, and what comes later stays."""
    server.group_log.holds = True
    commit(server, {("t", 0): (1, -1, "")})
    request = offset_delete.OffsetDeleteRequest(
        group_id="g",
        topics=[
            offset_delete.OffsetDeleteRequestTopic(
                name="t",
                partitions=[offset_delete.OffsetDeleteRequestPartition(partition_index=0)],
            )
        ],
    )
    begun = begin(server, offset_delete, request, 0)
    commit(server, {("t", 1): (2, -1, "")})
    assert begun.response is None
    server.group_log.sync()
    assert begun.response.error_code == 0
    assert list(committed(server)) == [("t", 1)]
    assert list(records(server)) == [("g", "t", 1)]
