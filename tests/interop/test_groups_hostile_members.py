"""Members that do not do their part hold a group up for their time-out, and no longer.

They do not rejoin, do not sync, do not read, vanish, or are a thousand. A healthy member of the
same group goes on: alone, when the bad ones are dropped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from logd.wire.messages import describe_groups, join_group, list_groups, sync_group
from tests.interop.group_server import TIMEOUT_S, group_server, new_name, new_topic
from tests.interop.raw_group import (
    FENCED_INSTANCE_ID,
    GROUP_MAX_SIZE_REACHED,
    MEMBER_ID_REQUIRED,
    REBALANCE_IN_PROGRESS,
    UNKNOWN_MEMBER_ID,
    Line,
    RawMember,
    assert_goes_on,
    find_the_coordinator,
    flood,
    frame,
)
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

GROUP_SIZE_MAX = 40
IN_FLIGHT_MAX = 16
# All that members do in a rebalance, they must do within it.
REBALANCE_MS = 2500
# The machine may be busy; a session, which is what would be waited for by mistake, is far longer.
LATE_S = 20
# As many requests as fill a group are answered in this time by far, however busy the machine is;
# and so are the thousand that come before the group may be free again.
BRIEF_MS, CROWD_MS = 3000, 10_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("groups") / "data"
    settings = (
        f"group.max.size={GROUP_SIZE_MAX}",
        f"queued.max.requests.per.connection={IN_FLIGHT_MAX}",
    )
    with group_server(data, *settings) as process:
        find_the_coordinator(process)
        yield process
        assert "Traceback" not in process.log()


@pytest.fixture(scope="module")
def topic(server: ServerProcess) -> str:
    return new_topic(server)


def two_members(server: ServerProcess, **config: Any) -> tuple[RawMember, RawMember]:
    """A stable group of two: who goes on, and leads; and who will not, with this configuration."""
    group = new_name("group")
    one = RawMember(server, group, instance_id="one")
    one.join()
    bad = RawMember(server, group, **config)
    bad.send_join()
    wait_for(lambda: one.heartbeat() == REBALANCE_IN_PROGRESS)
    one.send_join()
    one.take_join()
    bad.take_join()
    bad.line.send(sync_group, bad.sync_request(), 5)
    assert one.sync() == 0
    assert bad.line.receive(sync_group, 5).error_code == 0
    assert one.is_leader
    assert not bad.is_leader
    return one, bad


def join_again(one: RawMember, other: RawMember) -> None:
    """Have both rejoin, so that they are in one generation however late either of them is."""
    one.rebalance_ms = REBALANCE_MS
    one.protocols = (("range", b"has changed"),)
    one.send_join()
    wait_for(lambda: other.heartbeat() == REBALANCE_IN_PROGRESS)
    other.send_join()
    one.take_join()
    other.take_join()
    assert len(one.members or other.members) == 2


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT_S} s"


def test_member_that_does_not_rejoin(server: ServerProcess, topic: str) -> None:
    """The others wait for it as long as its rebalance time-out, and go on without it."""
    one, bad = two_members(server, rebalance_ms=REBALANCE_MS)
    one.rebalance_ms = REBALANCE_MS
    with one, bad:
        one.protocols = (("range", b"has changed"),)
        began = time.monotonic()
        one.send_join()
        one.take_join()
        took_ms = (time.monotonic() - began) * 1000
        assert REBALANCE_MS - 100 <= took_ms < REBALANCE_MS + LATE_S * 1000
        assert one.members == [one.member_id]
        assert one.sync() == 0
        assert bad.heartbeat() == UNKNOWN_MEMBER_ID
        assert_goes_on(one, topic)


def test_member_that_stops_reading(server: ServerProcess, topic: str) -> None:
    """Requests without end, answers never read: the rebalance ends without it all the same."""
    one, bad = two_members(server, rebalance_ms=REBALANCE_MS)
    one.rebalance_ms = REBALANCE_MS
    describe = describe_groups.DescribeGroupsRequest(groups=[one.group] * 100)
    frames = frame(describe_groups, describe, 6) * 50
    resident = server.resident_bytes()
    with one, bad:
        flood(bad.line, frames, one)
        one.protocols = (("range", b"has changed"),)
        began = time.monotonic()
        one.send_join()
        one.take_join()
        assert time.monotonic() - began < REBALANCE_MS / 1000 + LATE_S
        assert one.members == [one.member_id]
        assert one.sync() == 0
        assert_goes_on(one, topic)
        assert server.resident_bytes() - resident < 32 * 1024 * 1024


def test_member_that_sends_while_it_waits(server: ServerProcess, topic: str) -> None:
    """A member at rest that joins, and sends more than may be in flight behind that, is not looked
    at until it is its turn: the server sleeps meanwhile.
    """
    one, bad = two_members(server, rebalance_ms=REBALANCE_MS)
    one.rebalance_ms = REBALANCE_MS
    with one, bad:
        for _ in range(4):
            assert one.heartbeat() == 0
        one.protocols = (("range", b"has changed"),)
        join = frame(join_group, one.join_request(), 9)
        listing = frame(list_groups, list_groups.ListGroupsRequest(), 4)
        began_s = cpu_s(server)
        # More than may be in flight is read at once; then the last one comes.
        one.line.socket.sendall(join + listing * IN_FLIGHT_MAX)
        wait_for(lambda: bad.heartbeat() == REBALANCE_IN_PROGRESS)
        one.line.socket.sendall(listing)
        one.take_join()
        assert cpu_s(server) - began_s < REBALANCE_MS / 1000 / 10


def cpu_s(server: ServerProcess) -> float:
    """What the server has computed so far: a machine that is busy elsewhere adds nothing."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_follower_that_does_not_sync(server: ServerProcess, topic: str) -> None:
    """It is dropped when its time is over; who synced joins again without it."""
    one, bad = two_members(server, rebalance_ms=REBALANCE_MS)
    with one, bad:
        join_again(one, bad)
        good, silent = (one, bad) if one.is_leader else (bad, one)
        assert good.sync() == 0
        began = time.monotonic()
        wait_for(lambda: good.heartbeat() == REBALANCE_IN_PROGRESS)
        assert time.monotonic() - began < REBALANCE_MS / 1000 + LATE_S
        good.send_join()
        good.take_join()
        assert good.members == [good.member_id]
        assert good.sync() == 0
        assert silent.heartbeat() in (UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID)
        assert_goes_on(good, topic)


def test_leader_that_does_not_sync(server: ServerProcess, topic: str) -> None:
    """Its followers are not held longer than its time: one of them leads then."""
    first, second = two_members(server, rebalance_ms=REBALANCE_MS)
    with first, second:
        join_again(first, second)
        good = second if first.is_leader else first
        began = time.monotonic()
        assert good.sync() == REBALANCE_IN_PROGRESS
        assert time.monotonic() - began < REBALANCE_MS / 1000 + LATE_S
        good.send_join()
        good.take_join()
        assert good.is_leader
        assert good.members == [good.member_id]
        assert good.sync() == 0
        assert_goes_on(good, topic)


def test_member_that_vanishes_while_it_joins(server: ServerProcess, topic: str) -> None:
    """A connection that is closed in the middle of a join costs one time-out at most."""
    one, bad = two_members(server, session_ms=REBALANCE_MS, rebalance_ms=REBALANCE_MS)
    with one, bad:
        bad.send_join()
        bad.line.close()
        one.rebalance_ms = REBALANCE_MS
        wait_for(lambda: rejoined_alone(one))
        assert_goes_on(one, topic)


def rejoined_alone(member: RawMember) -> bool:
    """Do what a member does; whether it is the only one."""
    if member.heartbeat() == REBALANCE_IN_PROGRESS:
        member.send_join()
        member.take_join()
        assert member.sync() == 0
    return member.members == [member.member_id]


def test_a_group_that_is_described_a_thousand_times(server: ServerProcess, topic: str) -> None:
    """A small request does not become an answer of any size, which all others would wait for."""
    protocols = (("range", b"x" * 900_000),)
    resident = server.resident_bytes()
    with RawMember(server, new_name("group"), protocols=protocols) as one, Line(server) as line:
        one.join()
        asked = describe_groups.DescribeGroupsRequest(groups=[one.group] * 1000)
        began = time.monotonic()
        assert_goes_on(one, topic)
        alone_s = time.monotonic() - began
        line.send(describe_groups, asked, 6)
        began = time.monotonic()
        assert_goes_on(one, topic)
        # A machine on which the same took long without the request may take long with it.
        assert time.monotonic() - began < LATE_S + 10 * alone_s
        assert server.resident_bytes() - resident < 32 * 1024 * 1024


def test_describing_without_end_and_without_reading(server: ServerProcess, topic: str) -> None:
    """Answers far larger than their requests are not made ahead of their being read."""
    protocols = (("range", b"x" * 100_000),)
    resident = server.resident_bytes()
    with RawMember(server, new_name("group"), protocols=protocols) as one, Line(server) as line:
        one.join()
        asked = describe_groups.DescribeGroupsRequest(groups=[one.group])
        flood(line, frame(describe_groups, asked, 6) * 2000, one)
        assert_goes_on(one, topic)
        assert server.resident_bytes() - resident < 32 * 1024 * 1024


# Joins without end


def test_a_thousand_ids_that_never_join(server: ServerProcess, topic: str) -> None:
    """No more than group.max.size are given out, and they lapse when their sessions would."""
    with (
        RawMember(server, new_name("group"), instance_id="healthy") as healthy,
        RawMember(server, healthy.group) as newcomer,
        RawMember(server, new_name("group"), session_ms=BRIEF_MS) as brief,
    ):
        healthy.join()
        codes = [ask_for_id(newcomer) for _ in range(1000)]
        assert codes[: GROUP_SIZE_MAX - 1] == [MEMBER_ID_REQUIRED] * (GROUP_SIZE_MAX - 1)
        assert set(codes[GROUP_SIZE_MAX - 1 :]) == {GROUP_MAX_SIZE_REACHED}
        assert_goes_on(healthy, topic)
        wait_for(lambda: ask_for_id(brief) == GROUP_MAX_SIZE_REACHED)
        wait_for(lambda: ask_for_id(brief) == MEMBER_ID_REQUIRED)


def ask_for_id(member: RawMember) -> int:
    """Join as a newcomer, and do not come back with the id that is given out."""
    return int(member.line.ask(join_group, member.join_request(), 9).error_code)


def test_a_thousand_joins_that_are_never_read(server: ServerProcess, topic: str) -> None:
    """Of an old version, which need no id: the group takes group.max.size of them and refuses the
    rest; when their clients are gone it is free for others.
    """
    group, protocols = new_name("group"), (("range", b"x" * 5000),)
    crowd = [
        RawMember(server, group, session_ms=CROWD_MS, rebalance_ms=CROWD_MS, protocols=protocols)
        for _ in range(1000)
    ]
    resident = server.resident_bytes()
    try:
        for member in crowd:
            member.line.send(join_group, member.join_request(), 3)
        refused = 0
        for member in crowd[GROUP_SIZE_MAX:]:
            answer = member.line.receive(join_group, 3)
            assert answer.error_code == GROUP_MAX_SIZE_REACHED
            refused += 1
        assert refused == 1000 - GROUP_SIZE_MAX
        assert server.resident_bytes() - resident < 32 * 1024 * 1024
    finally:
        for member in crowd:
            member.line.close()
    with RawMember(server, group, instance_id="late", rebalance_ms=REBALANCE_MS) as late:

        def joins() -> bool:
            answer = late.line.ask(join_group, late.join_request(), 9)
            assert answer.error_code in (0, GROUP_MAX_SIZE_REACHED)
            late.member_id, late.generation = answer.member_id, answer.generation_id
            late.members = [member.member_id for member in answer.members]
            late.is_leader = bool(answer.leader) and answer.leader == answer.member_id
            return bool(answer.error_code == 0)

        wait_for(joins)
        wait_for(lambda: stands_alone(late))
        assert_goes_on(late, topic)


def stands_alone(member: RawMember) -> bool:
    """Sync and join on until nobody else is left in the group."""
    if member.sync() == 0 and member.members == [member.member_id]:
        return True
    if member.heartbeat() == REBALANCE_IN_PROGRESS:
        member.send_join()
        member.take_join()
    return False


def test_a_thousand_groups_of_one_id(server: ServerProcess, topic: str) -> None:
    """Ids in groups that never come to be cost little memory."""
    resident = server.resident_bytes()
    with RawMember(server, new_name("group")) as healthy, Line(server) as line:
        healthy.join()
        for number in range(1000):
            asked = healthy.join_request()
            asked.group_id, asked.member_id = f"passing-{number}", ""
            assert line.ask(join_group, asked, 9).error_code == MEMBER_ID_REQUIRED
        assert server.resident_bytes() - resident < 16 * 1024 * 1024
        assert_goes_on(healthy, topic)
