"""DescribeGroups, ListGroups, DeleteGroups; what the admin port and the metrics tell of groups."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trio

from logd.broker import group_deletes, group_status, status
from logd.broker.group_lag import register_group_metrics
from logd.errors import DiskFullError, GroupNotFoundError
from logd.wire.error_codes import ErrorCode
from logd.wire.messages import delete_groups, describe_groups, list_groups
from tests.unit.broker_fakes import Server
from tests.unit.broker_requests import Begun, begin, versions_of
from tests.unit.group_client import (
    ASSIGNMENT,
    SESSION_MS,
    SUBSCRIPTION,
    beat,
    codes,
    commit,
    committed,
    join,
    leave,
    restarted,
    stable,
    started,
)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return trio.run(started, Server(tmp_path))


# --- DescribeGroups ------------------------------------------------------------------------------


def describe(server: Server, *groups: str, version: int = 6) -> list[Any]:
    request = describe_groups.DescribeGroupsRequest(groups=list(groups))
    described: list[Any] = begin(server, describe_groups, request, version).response.groups
    return described


@pytest.mark.parametrize("version", versions_of(describe_groups))
def test_describing(server: Server, version: int) -> None:
    """A stable group with what its members said and were given; an unknown one is dead."""
    (seat,) = stable(server, version=5, group_instance_id="i")
    found, none = describe(server, "g", "none", version=version)
    assert (found.error_code, found.group_id, found.group_state) == (0, "g", "Stable")
    assert (found.protocol_type, found.protocol_data) == ("consumer", "range")
    (member,) = found.members
    assert (member.member_id, member.client_id, member.client_host) == (
        seat.member_id,
        "test",
        "/127.0.0.1",
    )
    assert (member.member_metadata, member.member_assignment) == (SUBSCRIPTION, ASSIGNMENT)
    if version >= 4:
        assert member.group_instance_id == "i"
    if version >= 3:
        assert found.authorized_operations == -(2**31)
    assert (none.group_id, none.group_state, none.members) == ("none", "Dead", [])
    assert none.error_code == (ErrorCode.GROUP_ID_NOT_FOUND if version >= 6 else 0)
    if version >= 6:
        assert none.error_message


@pytest.mark.parametrize("version", [3, 6])
def test_what_may_be_done_with_a_group_is_told_to_who_asks(server: Server, version: int) -> None:
    """All that there is to do: read, delete, describe. Of a group that does not exist, nothing."""
    stable(server)
    request = describe_groups.DescribeGroupsRequest(
        groups=["g", "none"], include_authorized_operations=True
    )
    found, none = begin(server, describe_groups, request, version).response.groups
    assert found.authorized_operations == 1 << 3 | 1 << 6 | 1 << 8
    if version >= 6:
        assert none.authorized_operations == -(2**31)


def test_a_group_that_is_named_twice_is_described_once(server: Server) -> None:
    """So no small request has an answer of any size."""
    stable(server)
    assert [one.group_id for one in describe(server, "g", "none", "g", "none")] == ["g", "none"]


def test_describing_other_states(server: Server) -> None:
    """What is not agreed on yet is not told; a group of offsets alone is empty."""
    (seat,) = stable(server)
    join(server)
    (found,) = describe(server, "g")
    assert (found.group_state, found.protocol_data) == ("PreparingRebalance", "")
    assert [(one.member_metadata, one.member_assignment) for one in found.members] == [
        (b"", b"")
    ] * 2
    again = join(server, member_id=seat.member_id)
    assert again.response.generation_id == 2
    assert describe(server, "g")[0].group_state == "CompletingRebalance"
    commit(server, {("t", 0): (1, -1, "")}, group="simple")
    (found,) = describe(server, "simple")
    assert (found.group_state, found.protocol_type, found.members) == ("Empty", "", [])
    server.partition("__consumer_offsets").offline = "gone"
    for one in describe(server, "g", "none"):
        assert one.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE


async def test_without_an_offsets_log_no_group_exists(tmp_path: Path) -> None:
    """Nothing to list, nothing to describe, nothing to delete: no error of the coordinator."""
    server = Server(tmp_path)
    assert describe(server, "g", version=0)[0].group_state == "Dead"
    assert listed(server) == {}
    assert delete(server, "g").response.results[0].error_code == ErrorCode.GROUP_ID_NOT_FOUND


# --- ListGroups ----------------------------------------------------------------------------------


def listed(server: Server, version: int = 5, **filters: list[str]) -> dict[str, Any]:
    request = list_groups.ListGroupsRequest(**filters)
    response = begin(server, list_groups, request, version).response
    assert response.error_code == 0
    return {one.group_id: one for one in response.groups}


@pytest.mark.parametrize("version", versions_of(list_groups))
def test_listing(server: Server, version: int) -> None:
    """All groups, with state from version 4 and type from version 5 on."""
    stable(server)
    commit(server, {("t", 0): (1, -1, "")}, group="simple")
    found = listed(server, version)
    assert {name: one.protocol_type for name, one in found.items()} == {
        "g": "consumer",
        "simple": "",
    }
    if version >= 4:
        assert [found["g"].group_state, found["simple"].group_state] == ["Stable", "Empty"]
    if version >= 5:
        assert {one.group_type for one in found.values()} == {"classic"}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"states_filter": ["Stable"]}, ["g"]),
        ({"states_filter": ["stable", "EMPTY"]}, ["g", "simple"]),
        ({"states_filter": ["PreparingRebalance"]}, []),
        ({"states_filter": ["no such"]}, []),
        ({"types_filter": ["Classic"]}, ["g", "simple"]),
        ({"types_filter": ["consumer"]}, []),
        ({"types_filter": ["consumer", "classic"], "states_filter": ["Empty"]}, ["simple"]),
    ],
)
def test_listing_by_state_and_type(
    server: Server, filters: dict[str, list[str]], expected: list[str]
) -> None:
    """Both filters hold; the case of letters does not count."""
    stable(server)
    commit(server, {("t", 0): (1, -1, "")}, group="simple")
    assert sorted(listed(server, **filters)) == expected


# --- DeleteGroups --------------------------------------------------------------------------------


def delete(server: Server, *groups: str, version: int = 2) -> Begun:
    request = delete_groups.DeleteGroupsRequest(groups_names=list(groups))
    return begin(server, delete_groups, request, version)


@pytest.mark.parametrize("version", versions_of(delete_groups))
async def test_deleting(server: Server, version: int) -> None:
    """Groups without members, with their offsets, answered when durable; after a restart too."""
    commit(server, {("t", 0): (1, -1, ""), ("t", 1): (1, -1, "")}, group="simple")
    (seat,) = stable(server, group="left")
    leave(server, seat.member_id, group="left")
    (busy,) = stable(server, group="busy")
    server.group_log.holds = True
    begun = delete(server, "simple", "left", "busy", "none", "simple", version=version)
    assert begun.response is None
    server.group_log.sync()
    assert {one.group_id: one.error_code for one in begun.response.results} == {
        "simple": 0,
        "left": 0,
        "busy": ErrorCode.NON_EMPTY_GROUP,
        "none": ErrorCode.GROUP_ID_NOT_FOUND,
    }
    assert list(server.groups.entries) == ["busy"]
    server = await restarted(server)
    assert list(server.groups.entries) == ["busy"]
    assert beat(server, busy, group="busy") == 0


def test_a_member_whose_session_is_over_keeps_no_group(server: Server) -> None:
    """Also in the milliseconds in which the timer has not fired yet."""
    (seat,) = stable(server)
    (kept,) = delete(server, "g").response.results
    assert kept.error_code == ErrorCode.NON_EMPTY_GROUP
    server.group_services.clock.ms += SESSION_MS
    begun = delete(server, "g")
    server.group_log.sync()
    assert begun.response.results[0].error_code == 0
    assert beat(server, seat) == ErrorCode.UNKNOWN_MEMBER_ID


def test_a_group_that_is_being_deleted_is_dead(server: Server) -> None:
    """Whoever comes meanwhile looks again, and then finds a new group."""
    commit(server, {("t", 0): (1, -1, "")})
    server.group_log.holds = True
    begun = delete(server, "g")
    assert describe(server, "g")[0].group_state == "Dead"
    assert join(server).response.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    answer = commit(server, {("t", 0): (2, -1, "")}).response
    assert codes(answer) == {("t", 0): ErrorCode.COORDINATOR_NOT_AVAILABLE}
    assert committed(server) == {}
    assert delete(server, "g").response.results[0].error_code == ErrorCode.GROUP_ID_NOT_FOUND
    server.group_log.sync()
    assert begun.response.results[0].error_code == 0
    assert join(server).response is None


def test_a_delete_that_cannot_be_written_leaves_the_group(server: Server) -> None:
    """With its offsets and its generation."""
    (seat,) = stable(server)
    commit(server, {("t", 0): (1, -1, "")}, seat)
    leave(server, seat.member_id)
    generation = server.groups.entries["g"].group.generation
    server.group_log.refuse_with = DiskFullError("full")
    answer = delete(server, "g").response
    assert answer.results[0].error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert committed(server) == {("t", 0): (1, -1, "")}
    server.group_log.refuse_with = None
    group = server.groups.entries["g"].group
    assert (group.state.value, group.generation) == ("Empty", generation)
    assert join(server).response is None


def test_a_delete_reaches_a_commit_on_its_way(server: Server) -> None:
    """Nothing of the group is left in the log, though the commit was answered before."""
    commit(server, {("t", 0): (1, -1, "")})
    server.group_log.holds = True
    late = commit(server, {("t", 1): (2, -1, "")})
    begun = delete(server, "g")
    server.group_log.sync()
    assert codes(late.response) == {("t", 1): 0}
    assert begun.response.results[0].error_code == 0
    assert server.group_log.kept() == {}


async def test_many_offsets_are_deleted_in_several_batches(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No batch is much larger than it may be; the answer waits for all."""
    monkeypatch.setattr(group_deletes, "TOMBSTONES_BATCH_BYTES", 100)
    await server.topics.create("w", 50, {})
    commit(server, {("w", index): (1, -1, "") for index in range(50)})
    server.group_log.holds = True
    begun = delete(server, "g")
    sizes = [sum(len(key) for key, _ in records) for _, records, _ in server.group_log.waiting]
    assert len(sizes) > 2
    assert max(sizes) < 200
    server.group_log.sync(len(sizes) - 1)
    assert begun.response is None
    server.group_log.sync()
    assert begun.response.results[0].error_code == 0
    assert server.group_log.kept() == {}


# --- documents, lag, problems --------------------------------------------------------------------


def test_the_documents_of_the_admin_port(server: Server) -> None:
    """A row for each group; one group with members, assignment, offsets and lag."""
    (seat,) = stable(server, version=5, group_instance_id="i")
    server.partition("t", 0).hold(10)
    commit(server, {("t", 0): (4, 2, "note"), ("t", 1): (3, -1, "")}, seat)
    commit(server, {("t", 0): (1, -1, "")}, group="a")
    assert group_status.list_groups(server.groups) == [
        {"group": "a", "state": "Empty", "protocol_type": "", "members": 0, "offsets": 1},
        {"group": "g", "state": "Stable", "protocol_type": "consumer", "members": 1, "offsets": 2},
    ]
    document = group_status.describe_group(server.groups, "g")
    offsets = document.pop("offsets")
    assert document == {
        "group": "g",
        "state": "Stable",
        "protocol_type": "consumer",
        "protocol": "range",
        "generation": 1,
        "members": [
            {
                "member_id": seat.member_id,
                "instance_id": "i",
                "client_id": "test",
                "client_host": "/127.0.0.1",
                "assignment": [{"topic": "t", "partitions": [0, 1]}],
            }
        ],
    }
    assert offsets[0] == {
        "topic": "t",
        "partition": 0,
        "committed_offset": 4,
        "leader_epoch": 2,
        "metadata": "note",
        "committed_at_ms": server.groups.wall_ms(),
        "log_end_offset": 10,
        "lag": 6,
    }
    assert (offsets[1]["log_end_offset"], offsets[1]["lag"]) == (0, 0)
    with pytest.raises(GroupNotFoundError, match="none"):
        group_status.describe_group(server.groups, "none")


def test_members_that_cannot_be_read_are_shown_all_the_same(server: Server) -> None:
    """An assignment is a client's word: whatever it is, it breaks nothing."""
    (seat,) = stable(server)
    member = server.groups.entries["g"].group.members[seat.member_id]
    many = b"\0\0\x7f\xff\xff\xff"
    for raw in (b"", b"\0", b"\0\0\0\0\0\1", b"\xff" * 20, ASSIGNMENT[:-6], many):
        member.assignment = raw
        (shown,) = group_status.describe_group(server.groups, "g")["members"]
        assert shown["assignment"] == []


def lags(server: Server) -> dict[str, int]:
    """Return the series of the lag, by topic and partition, and how many are left out."""
    text = server.broker.metrics.render()
    found = {
        f"{match[2]}-{match[1]}": int(match[3])
        for match in re.finditer(
            r'logd_group_lag\{group="g",partition="(\d+)",topic="(\w+)"\} (\d+)', text
        )
    }
    (left_out,) = re.findall(r"logd_group_lag_left_out (\d+)", text)
    return found | {"left out": int(left_out)}


def test_lag_is_measured_within_a_bound(tmp_path: Path) -> None:
    """As many series as the setting allows, the others are counted; none where it is unknown."""
    flags = {"metrics.group.lag.series.max": "1"}
    server = trio.run(started, Server(tmp_path, flags=flags))
    register_group_metrics(server.broker.metrics, server.groups)
    assert lags(server) == {"left out": 0}
    server.partition("t", 0).hold(10)
    commit(server, {("t", 0): (3, -1, "")})
    assert lags(server) == {"t-0": 7, "left out": 0}
    commit(server, {("t", 1): (0, -1, "")})
    assert lags(server) == {"t-0": 7, "left out": 1}
    server.partition("t", 0).offline = "gone"
    assert lags(server) == {"t-1": 0, "left out": 0}
    commit(server, {("t", 1): (-1, -1, "")})
    assert lags(server) == {"left out": 0}
    stable(server, group="other")
    assert 'logd_groups{state="Stable"} 1\n' in server.broker.metrics.render()
    assert "logd_group_offsets 2\n" in server.broker.metrics.render()


def test_what_the_start_found_is_on_status(server: Server) -> None:
    """Problems of the offsets log are warnings of their own kind."""
    server.broker.problem_sources.append(lambda: group_status.group_problems(server.groups))
    assert list(status.find_problems(server.broker)) == []
    server.groups.problems = ["__consumer_offsets-0: snapshot not used"]
    (problem,) = status.find_problems(server.broker)
    assert (problem.kind, problem.severity) == ("group_offsets", "warning")
