"""JoinGroup, SyncGroup, Heartbeat and LeaveGroup: from the wire to the group and back, all
versions; timers, writes and restarts.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from logd.broker import groups as groups_module
from logd.broker.group_requests import MEMBER_NAME_CHARACTERS_MAX
from logd.broker.groups import GROUP_ID_BYTES_MAX
from logd.errors import DiskFullError, InvalidRequestError, LogFailedError, MessageTooLargeError
from logd.policy.group.values import GroupState
from logd.wire.error_codes import ErrorCode
from logd.wire.messages import find_coordinator, heartbeat, join_group, leave_group, sync_group
from tests.unit.broker_fakes import Server
from tests.unit.broker_requests import ask, begin, versions_of
from tests.unit.group_client import (
    ASSIGNMENT,
    DELAY_MS,
    REBALANCE_MS,
    SESSION_MS,
    SUBSCRIPTION,
    Seat,
    beat,
    commit,
    committed,
    join,
    leave,
    restarted,
    stable,
    started,
    sync,
)

LONG = "ü" * (GROUP_ID_BYTES_MAX // 2 + 1)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return trio.run(started, Server(tmp_path))


# --- one member, all versions --------------------------------------------------------------------


@pytest.mark.parametrize("version", versions_of(join_group))
def test_a_member_joins(server: Server, version: int) -> None:
    """A newcomer leads its group; from version 4 on it is told its id first."""
    changes = {"group_instance_id": "i"} if version == 5 else {}
    begun = join(server, version=version, **changes)
    if version >= 4 and not changes:
        assert begun.response.error_code == ErrorCode.MEMBER_ID_REQUIRED
        assert begun.response.member_id == "test-uuid-1"
        begun = join(server, member_id="test-uuid-1", version=version)
    assert begun.response is None
    server.group_services.timers.advance(DELAY_MS)
    answer = begun.response
    assert (answer.error_code, answer.generation_id, answer.protocol_name) == (0, 1, "range")
    assert answer.leader == answer.member_id == ("i-uuid-1" if changes else "test-uuid-1")
    assert [(one.member_id, one.metadata) for one in answer.members] == [
        (answer.leader, SUBSCRIPTION)
    ]
    if version >= 5:
        assert answer.members[0].group_instance_id == changes.get("group_instance_id")
    if version >= 7:
        assert answer.protocol_type == "consumer"
    (member,) = server.groups.entries["g"].group.members.values()
    assert (member.client_id, member.client_host) == ("test", "/127.0.0.1")
    assert member.session_timeout_ms == SESSION_MS
    assert member.rebalance_timeout_ms == (SESSION_MS if version == 0 else REBALANCE_MS)


@pytest.mark.parametrize("timeout_ms", [0, -1])
def test_who_names_no_rebalance_time_out_has_that_of_its_session(
    server: Server, timeout_ms: int
) -> None:
    """kafkajs sends 0 where its user said nothing; there would be no time to sync in."""
    joined = join(server, rebalance_timeout_ms=timeout_ms)
    server.group_services.timers.advance(DELAY_MS)
    seat = Seat(joined.response.member_id, 1)
    server.group_services.timers.advance(SESSION_MS // 2)
    synced = sync(server, seat, {seat.member_id: ASSIGNMENT})
    server.group_log.sync()
    assert (synced.response.error_code, synced.response.assignment) == (0, ASSIGNMENT)


@pytest.mark.parametrize("version", versions_of(sync_group))
def test_an_assignment_is_told_when_it_is_durable(server: Server, version: int) -> None:
    """The leader's sync waits for the log; then each member has its own."""
    server.group_log.holds = True
    joins = [join(server), join(server)]
    server.group_services.timers.advance(2 * DELAY_MS)
    leader, other = (Seat(one.response.member_id, 1) for one in joins)
    waiting = sync(server, other, version=version)
    leading = sync(server, leader, {other.member_id: ASSIGNMENT}, version=version)
    assert waiting.response is None
    assert leading.response is None
    server.group_log.sync()
    for begun, assignment in ((waiting, ASSIGNMENT), (leading, b"")):
        assert (begun.response.error_code, begun.response.assignment) == (0, assignment)
        if version >= 5:
            assert begun.response.protocol_type == "consumer"
            assert begun.response.protocol_name == "range"
    assert server.groups.entries["g"].group.state is GroupState.STABLE


@pytest.mark.parametrize("version", versions_of(heartbeat))
def test_heartbeats(server: Server, version: int) -> None:
    """Members hear that all is well, strangers that they are none, all of a rebalance."""
    (seat,) = stable(server)
    assert beat(server, seat, version) == 0
    assert beat(server, Seat("who", 1), version) == ErrorCode.UNKNOWN_MEMBER_ID
    assert beat(server, Seat(seat.member_id, 7), version) == ErrorCode.ILLEGAL_GENERATION
    assert beat(server, seat, version, group="none") == ErrorCode.UNKNOWN_MEMBER_ID
    assert beat(server, seat, version, group="") == ErrorCode.INVALID_GROUP_ID
    join(server)
    assert beat(server, seat, version) == ErrorCode.REBALANCE_IN_PROGRESS


@pytest.mark.parametrize("version", versions_of(leave_group))
def test_leaving(server: Server, version: int) -> None:
    """Before version 3 the one leaver's error is the answer's, later each has its own."""
    first, second = stable(server, 2)
    if version < 3:
        assert leave(server, first.member_id, version=version).error_code == 0
        assert leave(server, "x", version=version).error_code == ErrorCode.UNKNOWN_MEMBER_ID
        answer = leave(server, "x", version=version, group="none")
        assert answer.error_code == ErrorCode.UNKNOWN_MEMBER_ID
    else:
        answer = leave(server, first.member_id, "x", version=version)
        assert answer.error_code == 0
        assert [(one.member_id, one.error_code) for one in answer.members] == [
            (first.member_id, 0),
            ("x", ErrorCode.UNKNOWN_MEMBER_ID),
        ]
        answer = leave(server, "y", version=version, group="none")
        assert [one.error_code for one in answer.members] == [ErrorCode.UNKNOWN_MEMBER_ID]
    assert leave(server, "x", version=version, group="").error_code == ErrorCode.INVALID_GROUP_ID
    assert beat(server, second) == ErrorCode.REBALANCE_IN_PROGRESS


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"group": ""}, ErrorCode.INVALID_GROUP_ID),
        ({"group": LONG, "version": 9}, ErrorCode.INVALID_GROUP_ID),
        ({"session_timeout_ms": 5_999}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"session_timeout_ms": 1_800_001}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"session_timeout_ms": -1}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"member_id": "gone"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"protocols": []}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": ""}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": "x" * 32_768, "version": 9}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"group_instance_id": "x" * 32_760, "version": 9}, ErrorCode.INVALID_REQUEST),
    ],
)
def test_a_join_that_cannot_be_leaves_no_group(
    server: Server, changes: dict[str, object], code: ErrorCode
) -> None:
    """The protocol's error, with the member's id as it came; nothing is kept."""
    response = join(server, **changes).response
    assert response.error_code == code
    assert response.member_id == changes.get("member_id", "")
    assert server.groups.entries == {}


def test_the_longest_ids_fit_their_records(server: Server) -> None:
    """A group id of the largest size is kept, and so is a long client id's member."""
    group = "x" * GROUP_ID_BYTES_MAX
    (seat,) = stable(server, group=group)
    assert len(server.group_log.kept()) == 1
    context = server.context(version=3)
    context.client_id = "y" * 32_767
    begun = join(server, version=4)
    assert len(begun.response.member_id) <= MEMBER_NAME_CHARACTERS_MAX + 37
    assert beat(server, seat, group=group) == 0


def test_a_sync_of_version_5_must_name_the_protocol(server: Server) -> None:
    """Type and name are mandatory from there on."""
    (seat,) = stable(server)
    for changes in ({"protocol_type": None}, {"protocol_name": None}):
        begun = sync(server, seat, version=5, **changes)
        assert begun.response.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    begun = sync(server, seat, version=5, protocol_name="other")
    assert begun.response.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert sync(server, seat, version=5).response.assignment == ASSIGNMENT
    for group, code in (("", ErrorCode.INVALID_GROUP_ID), ("n", ErrorCode.UNKNOWN_MEMBER_ID)):
        assert sync(server, seat, group=group).response.error_code == code


def test_groups_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One group more than there may be is refused; those that are there go on."""
    monkeypatch.setattr(groups_module, "GROUPS_MAX", 2)
    stable(server, group="a")
    (seat,) = stable(server, group="b")
    assert join(server, "c").response.error_code == ErrorCode.POLICY_VIOLATION
    assert (
        commit(server, {("t", 0): (1, -1, "")}, group="c")
        .response.topics[0]
        .partitions[0]
        .error_code
        == ErrorCode.POLICY_VIOLATION
    )
    assert beat(server, seat, group="b") == 0


async def test_without_an_offsets_log_this_is_no_coordinator(tmp_path: Path) -> None:
    """Clients look for the coordinator again, and that makes the log."""
    server = Server(tmp_path)
    seat = Seat("m", 1)
    assert join(server).response.error_code == ErrorCode.NOT_COORDINATOR
    assert sync(server, seat).response.error_code == ErrorCode.NOT_COORDINATOR
    assert beat(server, seat) == ErrorCode.NOT_COORDINATOR
    assert leave(server, "m").error_code == ErrorCode.NOT_COORDINATOR
    request = find_coordinator.FindCoordinatorRequest(coordinator_keys=["g"])
    (found,) = (await ask(server, find_coordinator, request, 4)).coordinators
    assert (found.error_code, found.node_id) == (0, 1)
    assert server.group_log.exists
    assert join(server).response is None


async def test_a_log_that_cannot_be_made_or_opened(tmp_path: Path) -> None:
    """COORDINATOR_NOT_AVAILABLE until it can: for new groups as for those that are known."""
    server = Server(tmp_path)
    server.group_log.refuse_with = DiskFullError("full")
    request = find_coordinator.FindCoordinatorRequest(key="g")
    found = await ask(server, find_coordinator, request, 1)
    assert found.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert (found.node_id, found.port) == (-1, -1)
    server.group_log.refuse_with = InvalidRequestError("too many partitions")
    assert (await ask(server, find_coordinator, request, 1)).error_code == 15
    server.group_log.refuse_with = None
    await started(server)
    (seat,) = stable(server)
    server.partition("__consumer_offsets").offline = "the disk is gone"
    assert (await ask(server, find_coordinator, request, 1)).error_code == 15
    assert join(server).response.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert beat(server, seat) == ErrorCode.COORDINATOR_NOT_AVAILABLE
    server.partition("__consumer_offsets").offline = None
    assert beat(server, seat) == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DiskFullError("full"), ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (LogFailedError("gone"), ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (MessageTooLargeError("large"), ErrorCode.UNKNOWN_SERVER_ERROR),
    ],
)
def test_assignments_that_cannot_be_written(
    server: Server, error: Exception, code: ErrorCode
) -> None:
    """Nobody gets an assignment that a crash would lose; the group can try again."""
    begun = join(server)
    server.group_services.timers.advance(DELAY_MS)
    seat = Seat(begun.response.member_id, 1)
    server.group_log.refuse_with = error
    answer = sync(server, seat, {seat.member_id: ASSIGNMENT}).response
    assert (answer.error_code, answer.assignment) == (code, b"")
    assert server.groups.entries["g"].stored is None
    server.group_log.refuse_with = None
    again = join(server, member_id=seat.member_id)
    seat = Seat(again.response.member_id, again.response.generation_id)
    answer = sync(server, seat, {seat.member_id: ASSIGNMENT}).response
    assert (answer.error_code, answer.assignment) == (0, ASSIGNMENT)


# --- time ----------------------------------------------------------------------------------------


def test_sessions_end_by_themselves(server: Server) -> None:
    """A silent member is dropped in its time, one that sends heartbeats or commits stays."""
    first, second = stable(server, 2)
    for _ in range(4):
        server.group_services.timers.advance(SESSION_MS // 2 - 1)
        assert beat(server, first) in (0, ErrorCode.REBALANCE_IN_PROGRESS)
    assert beat(server, second) == ErrorCode.UNKNOWN_MEMBER_ID
    assert list(server.groups.entries["g"].group.members) == [first.member_id]
    commit(server, {("t", 0): (1, -1, "")}, first)
    server.group_services.timers.advance(REBALANCE_MS + SESSION_MS + 1)
    entry = server.groups.entries["g"]
    assert (entry.group.state, entry.group.members) == (GroupState.EMPTY, {})
    assert entry.empty_since_ms is not None


def test_a_newcomer_that_never_comes_back_leaves_nothing(server: Server) -> None:
    """An id that was given out and not used is forgotten with its session, and so is the group."""
    assert join(server, version=4).response.error_code == ErrorCode.MEMBER_ID_REQUIRED
    assert "g" in server.groups.entries
    server.group_services.timers.advance(SESSION_MS + 1)
    assert server.groups.entries == {}


def test_whose_connection_is_gone_is_not_answered(server: Server) -> None:
    """Its member stays for now, as in Kafka; the others' rebalance goes on."""
    gone, other = join(server), join(server)
    gone.hang_up()
    server.group_services.timers.advance(2 * DELAY_MS)
    assert gone.response is None
    assert other.response.generation_id == 1
    assert len(server.groups.entries["g"].group.members) == 2


def test_a_group_goes_on_while_a_write_is_under_way(server: Server) -> None:
    """A member that joins meanwhile is not held up, and the sync learns of the rebalance."""
    server.group_log.holds = True
    begun = join(server)
    server.group_services.timers.advance(DELAY_MS)
    seat = Seat(begun.response.member_id, 1)
    syncing = sync(server, seat, {seat.member_id: ASSIGNMENT})
    newcomer = join(server)
    assert syncing.response.error_code == ErrorCode.REBALANCE_IN_PROGRESS
    again = join(server, member_id=seat.member_id)
    assert newcomer.response.generation_id == again.response.generation_id == 2
    server.group_log.sync()
    leader = Seat(again.response.member_id, 2)
    second = sync(server, leader, {leader.member_id: ASSIGNMENT})
    server.group_log.sync()
    assert second.response.assignment == ASSIGNMENT


def test_a_bug_costs_one_group(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails in a timer is logged; the timers go on."""
    begun = join(server, "bad")
    monkeypatch.setattr(
        type(server.groups.entries["bad"].group), "tick", lambda *_: 1 / 0, raising=True
    )
    server.group_services.timers.advance(DELAY_MS)
    assert begun.response is None
    assert "group failed" in server.log_lines.getvalue()


# --- restarts ------------------------------------------------------------------------------------


async def test_members_and_offsets_survive_a_restart(server: Server) -> None:
    """What was acknowledged is there: members go on with their ids and generation."""
    seats = stable(server, 2)
    commit(server, {("t", 0): (7, 3, "note")}, seats[0])
    commit(server, {("t", 1): (8, -1, "")}, group="simple")
    server = await restarted(server)
    assert committed(server) == {("t", 0): (7, 3, "note")}
    assert committed(server, group="simple") == {("t", 1): (8, -1, "")}
    assert [beat(server, seat) for seat in seats] == [0, 0]
    assert sync(server, seats[1]).response.assignment == ASSIGNMENT
    # Nobody is heard of for a session: they are gone.
    server.group_services.timers.advance(SESSION_MS + 1)
    assert beat(server, seats[0]) == ErrorCode.UNKNOWN_MEMBER_ID


async def test_a_static_member_keeps_its_place_over_a_restart(server: Server) -> None:
    """It comes back under its instance id, gets a new member id, and no rebalance begins."""
    (seat,) = stable(server, version=5, group_instance_id="i")
    server = await restarted(server)
    begun = join(server, version=5, group_instance_id="i")
    assert (begun.response.error_code, begun.response.generation_id) == (0, 1)
    assert begun.response.member_id != seat.member_id
    assert beat(server, seat, group_instance_id="i") == ErrorCode.FENCED_INSTANCE_ID
    now = Seat(begun.response.member_id, 1)
    assert beat(server, now, group_instance_id="i") == 0
    assert sync(server, now).response.assignment == ASSIGNMENT


async def test_what_was_not_durable_is_not_there_after_a_restart(server: Server) -> None:
    """Neither is it told before: a crash takes back nothing that anybody saw."""
    (seat,) = stable(server)
    server.group_log.holds = True
    lost = commit(server, {("t", 0): (9, -1, "")}, seat)
    assert lost.response is None
    assert committed(server, {"t": [0]}) == {("t", 0): (-1, -1, "")}
    server = await restarted(server)
    assert committed(server, {"t": [0]}) == {("t", 0): (-1, -1, "")}
    assert beat(server, seat) == 0


async def test_records_that_cannot_be_read_are_told_and_left_out(server: Server) -> None:
    """A group whose record is broken keeps its last good one; the others are there."""
    (seat,) = stable(server)
    commit(server, {("t", 0): (7, -1, "")}, seat)
    records = server.group_log.records[0]
    records.append((records[0][0], b"\0\3broken"))
    server = await restarted(server)
    assert len(server.groups.problems) == 1
    assert beat(server, seat) == 0
    assert committed(server) == {("t", 0): (7, -1, "")}


async def test_rebalances_and_states_are_counted(server: Server) -> None:
    """Each generation counts once; groups are counted by state."""
    stable(server)
    join(server, "other")
    text = server.broker.metrics.render()
    assert "logd_group_rebalances_total 1\n" in text
    assert server.groups.rebalances.value == 1
    assert begin(server, heartbeat, heartbeat.HeartbeatRequest(group_id="g"), 0).response
