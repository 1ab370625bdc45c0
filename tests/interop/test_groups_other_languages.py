"""Consumer groups as kafkajs and franz-go live them, each by a small program of ours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop import client_programs
from tests.interop.group_server import (
    HEARTBEAT_MS,
    PARTITIONS,
    SESSION_MS,
    SHORT_SESSION_MS,
    MemberProcess,
    fill,
    group_server,
    group_status,
    new_name,
    new_topic,
    shares,
    step_all,
    until,
)
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

CLIENTS = {
    "kafkajs": client_programs.kafkajs_member,
    "franz-go": client_programs.franz_go_member,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with group_server(tmp_path_factory.mktemp("groups") / "data") as process:
        yield process
        assert "Traceback" not in process.log()


@pytest.fixture(scope="module", params=CLIENTS)
def program(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """A client's program, ready to run."""
    try:
        return CLIENTS[request.param]()
    except client_programs.UnavailableError as reason:
        pytest.skip(str(reason))


class Team:
    """One topic and one group, and who joins it."""

    def __init__(self, server: ServerProcess, program: tuple[str, ...]) -> None:
        self.server, self.program = server, program
        self.topic, self.group = new_topic(server), new_name("group")

    def join(self, session_ms: int = SESSION_MS) -> MemberProcess:
        where = (self.server.bootstrap, self.topic, self.group)
        return MemberProcess(*self.program, *where, str(session_ms), str(HEARTBEAT_MS))

    def await_shares(self, *members: MemberProcess) -> None:
        until(lambda: shares(members), step_all(members), f"{len(members)} share")


@pytest.fixture
def team(server: ServerProcess, program: tuple[str, ...]) -> Team:
    return Team(server, program)


def test_partitions_are_shared_as_members_come_and_go(team: Team) -> None:
    """Two members have two partitions each; the one that stays when the leader leaves has all."""
    with team.join() as one:
        team.await_shares(one)
        with team.join() as two:
            team.await_shares(one, two)
            one.leave()
            team.await_shares(two)
            two.leave()
    assert group_status(team.server, team.group)["state"] == "Empty"


def test_partitions_of_a_killed_member_go_to_the_others(team: Team) -> None:
    """When its session is over, the survivor has all."""
    with team.join() as one:
        team.await_shares(one)
        with team.join(SHORT_SESSION_MS) as two:
            team.await_shares(one, two)
            two.kill()
            team.await_shares(one)


def test_next_member_resumes_behind_the_last_commit(team: Team) -> None:
    """What was read and committed is not read again, and nothing is left out."""
    fill(team.server, team.topic, 10)
    with team.join() as first:
        until(lambda: first.read_count() == 10 * PARTITIONS, first.step, "all read")
        first.tell("commit")
        until(lambda: first.commits == 1, first.step, "committed")
        first.leave()
    status = group_status(team.server, team.group)
    assert [offset["committed_offset"] for offset in status["offsets"]] == [10] * PARTITIONS
    fill(team.server, team.topic, 5)
    with team.join() as second:
        until(lambda: second.read_count() >= 5 * PARTITIONS, second.step, "the new")
        second.leave()
    assert second.offsets == {number: list(range(10, 15)) for number in range(PARTITIONS)}


def test_what_was_not_committed_is_read_again(team: Team) -> None:
    """A member that was killed before it committed leaves its work to the next."""
    fill(team.server, team.topic, 10)
    with team.join(SHORT_SESSION_MS) as first:
        until(lambda: first.read_count() == 10 * PARTITIONS, first.step, "all read")
        first.kill()
    with team.join() as second:
        until(lambda: second.read_count() >= 10 * PARTITIONS, second.step, "all read again")
        second.leave()
    assert second.offsets == {number: list(range(10)) for number in range(PARTITIONS)}
