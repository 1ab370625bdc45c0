"""Consumer groups as Java's client lives them, by Kafka's own tools, unchanged."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.interop.group_server import (
    HEARTBEAT_MS,
    PARTITIONS,
    SESSION_MS,
    SHORT_SESSION_MS,
    TIMEOUT_S,
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
from tests.interop.java_tools import JavaTools, UnavailableError, find_tools
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

CONSOLE = "org.apache.kafka.tools.consumer.ConsoleConsumer"
VERIFIABLE = "org.apache.kafka.tools.VerifiableConsumer"
GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
COOPERATIVE = "org.apache.kafka.clients.consumer.CooperativeStickyAssignor"


@pytest.fixture(scope="module")
def java() -> JavaTools:
    try:
        return find_tools()
    except UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def server(java: JavaTools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with group_server(tmp_path_factory.mktemp("groups") / "data") as process:
        yield process
        assert "Traceback" not in process.log()


class Verifiable(MemberProcess):
    """VerifiableConsumer, which commits what it reads; its events are told in Kafka's words."""

    ENDED_WELL = 128 + signal.SIGTERM  # As a JVM says that it ended in an orderly way.

    def take(self, event: dict[str, Any]) -> None:
        name = event["name"]
        if name == "partitions_assigned":
            # A cooperative member is told only what it gains, and what it loses.
            gained = [partition["partition"] for partition in event["partitions"]]
            self.partitions = sorted({*self.partitions, *gained})
            self.rebalances += 1
        elif name == "partitions_revoked":
            lost = {partition["partition"] for partition in event["partitions"]}
            self.partitions = [number for number in self.partitions if number not in lost]
        elif name == "records_consumed":
            for part in event["partitions"]:
                offsets = range(part["minOffset"], part["maxOffset"] + 1)
                self.offsets.setdefault(part["partition"], []).extend(offsets)
        elif name == "offsets_committed" and event["success"]:
            self.commits += 1

    def leave(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT_S) == self.ENDED_WELL


class Team:
    """One topic and one group, who joins it, and the tools pointed at it."""

    def __init__(self, java: JavaTools, server: ServerProcess, directory: Path) -> None:
        self.java, self.server = java, server
        self.topic, self.group = new_topic(server), new_name("group")
        self._config = directory / "consumer.properties"
        self._config.write_text(f"heartbeat.interval.ms={HEARTBEAT_MS}\n")

    def join(self, *options: str, session_ms: int = SESSION_MS) -> Verifiable:
        return Verifiable(
            *self.java.options(CONSOLE), VERIFIABLE,  # Mostly the same classes.
            "--bootstrap-server", self.server.bootstrap, "--topic", self.topic,
            "--group-id", self.group, "--session-timeout", str(session_ms),
            "--consumer.config", str(self._config), *options,
        )  # fmt: skip

    def run(self, tool: str, *arguments: str, code: int = 0) -> str:
        return self.java.run(
            tool, "--bootstrap-server", self.server.bootstrap, *arguments, code=code
        )

    def groups(self, *arguments: str, code: int = 0) -> str:
        return self.run(GROUPS, *arguments, "--group", self.group, code=code)

    def described(self) -> dict[int, dict[str, str]]:
        """What the tool shows of each partition's offsets, by the names of its columns."""
        rows = self.groups("--describe", "--offsets").splitlines()
        table = [row.split() for row in rows if row.startswith(("GROUP", self.group))]
        shown = [dict(zip(table[0], row, strict=False)) for row in table[1:]]
        return {int(row["PARTITION"]): row for row in shown}

    def await_shares(self, *members: Verifiable) -> None:
        until(lambda: shares(members), step_all(members), f"{len(members)} share")


@pytest.fixture
def team(java: JavaTools, server: ServerProcess, tmp_path: Path) -> Team:
    return Team(java, server, tmp_path)


def test_console_consumer_resumes_where_it_stopped(team: Team) -> None:
    """What it commits at its end is where the same group begins again."""
    fill(team.server, team.topic, 10)
    lines: list[str] = []
    for count in (25, 15):
        lines += team.run(
            CONSOLE, "--topic", team.topic, "--group", team.group, "--from-beginning",
            "--max-messages", str(count), "--timeout-ms", str(TIMEOUT_S * 1000),
        ).splitlines()  # fmt: skip
    wanted = itertools.product(range(PARTITIONS), range(10))
    assert sorted(lines) == sorted(f"{partition}:{number}" for partition, number in wanted)
    assert group_status(team.server, team.group)["state"] == "Empty"


def test_verifiable_consumers_share_and_resume(team: Team) -> None:
    """Each record is read once, by two members, and by the one that is left."""
    fill(team.server, team.topic, 10)
    with team.join() as one, team.join() as two:
        both = step_all((one, two))
        team.await_shares(one, two)
        until(lambda: one.read_count() + two.read_count() >= 40, both, "all read")
        one.leave()
        one.step()
        team.await_shares(two)
        fill(team.server, team.topic, 5)
        until(lambda: one.read_count() + two.read_count() >= 60, both, "the new")
        two.leave()
    read = [sorted(one.offsets.get(n, []) + two.offsets.get(n, [])) for n in range(PARTITIONS)]
    assert read == [list(range(15))] * PARTITIONS
    assert two.commits > 0


def test_partitions_of_a_killed_member_go_to_the_others(team: Team) -> None:
    """When its session is over, the survivor has all; here the members are cooperative."""
    option = ("--assignment-strategy", COOPERATIVE)
    with team.join(*option) as one, team.join(*option, session_ms=SHORT_SESSION_MS) as two:
        team.await_shares(one, two)
        two.kill()
        team.await_shares(one)


def test_static_member_restarts_unnoticed(team: Team) -> None:
    """Java's newest JoinGroup: it has its partitions again, and the others hear nothing."""
    with team.join("--group-instance-id", "b") as other:
        with team.join("--group-instance-id", "a") as first:
            team.await_shares(first, other)
            had, rebalances = first.partitions, other.rebalances
            generation = group_status(team.server, team.group)["generation"]
            first.leave()
        with team.join("--group-instance-id", "a") as again:
            until(lambda: bool(again.partitions), step_all((again, other)), "it is back")
            assert again.partitions == had
            assert group_status(team.server, team.group)["generation"] == generation
            assert other.rebalances == rebalances


def test_groups_are_administered(team: Team) -> None:
    """List, describe, reset, delete; refused where the group is in use, shown where it is done."""
    fill(team.server, team.topic, 10)
    reset = ("--reset-offsets", "--topic", team.topic)
    with team.join() as member:
        until(lambda: member.read_count() == 40, member.step, "all read")
        until(lambda: member.commits > 0, member.step, "committed")
        # Starting takes these tools longer than their work does: all at once.
        with ThreadPoolExecutor() as tools:
            listed = tools.submit(team.run, GROUPS, "--list", "--state", "Stable")
            shown = tools.submit(team.described)
            members = tools.submit(team.groups, "--describe", "--members", "--verbose")
            refused = tools.submit(team.groups, *reset, "--to-earliest", "--execute")
            kept = tools.submit(team.groups, "--delete")
        rows = shown.result()
        assert team.group in listed.result()
        assert {n: row["LAG"] for n, row in rows.items()} == dict.fromkeys(range(PARTITIONS), "0")
        assert {row["HOST"] for row in rows.values()} == {"/127.0.0.1"}
        assert f"{team.topic}:0,1,2,3" in members.result()
        assert "current state is Stable" in refused.result()
        assert "The group is not empty" in kept.result()
        member.leave()
    team.groups(*reset, "--to-offset", "4", "--execute")
    rows = team.described()
    assert [rows[n]["CURRENT-OFFSET"] for n in range(PARTITIONS)] == ["4"] * PARTITIONS
    assert [rows[n]["LAG"] for n in range(PARTITIONS)] == ["6"] * PARTITIONS
    team.groups("--delete-offsets", "--topic", f"{team.topic}:0")
    left = group_status(team.server, team.group)["offsets"]
    assert sorted(offset["partition"] for offset in left) == [1, 2, 3]
    assert "successful" in team.groups("--delete")
    assert team.group not in team.run(GROUPS, "--list").splitlines()
