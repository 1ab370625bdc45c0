"""Whatever a group's member, or nobody, sends: the protocol's error, and the group is unharmed.

In each case a healthy member of the same group goes on: its next heartbeat and commit are accepted,
in the generation that it was in.
"""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from logd.wire.messages import (
    delete_groups,
    describe_groups,
    find_coordinator,
    heartbeat,
    join_group,
    leave_group,
    list_groups,
    offset_commit,
    offset_delete,
    offset_fetch,
    sync_group,
)
from tests.interop.group_server import group_server, new_name, new_topic
from tests.interop.raw_group import (
    FENCED_INSTANCE_ID,
    UNKNOWN_MEMBER_ID,
    Line,
    RawMember,
    assert_goes_on,
    find_the_coordinator,
    frame,
)
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

SESSION_MAX_MS = 240_000

UNKNOWN_TOPIC_OR_PARTITION = 3
OFFSET_METADATA_TOO_LARGE = 12
ILLEGAL_GENERATION = 22
INCONSISTENT_GROUP_PROTOCOL = 23
INVALID_GROUP_ID = 24
INVALID_SESSION_TIMEOUT = 26
NON_EMPTY_GROUP = 68
GROUP_ID_NOT_FOUND = 69
GROUP_SUBSCRIBED_TO_TOPIC = 86


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("groups") / "data"
    with group_server(data, f"group.max.session.timeout.ms={SESSION_MAX_MS}") as process:
        find_the_coordinator(process)
        yield process
        assert "Traceback" not in process.log()


@pytest.fixture(scope="module")
def topic(server: ServerProcess) -> str:
    return new_topic(server)


@pytest.fixture
def healthy(server: ServerProcess, topic: str) -> Iterator[RawMember]:
    """A member of a group that is stable, and must be when the test is over."""
    with RawMember(server, new_name("group"), instance_id="healthy") as member:
        member.join()
        yield member
        assert_goes_on(member, topic)


# Single requests


@dataclass(frozen=True)
class Case:
    """A change to what a healthy member would ask, and the error that it gets."""

    changes: dict[str, Any]
    error: int
    version: int | None = None


def changed(message: Any, changes: dict[str, Any]) -> Any:
    for name, value in changes.items():
        assert hasattr(message, name), name
        setattr(message, name, value)
    return message


OTHER_PROTOCOL = [join_group.JoinGroupRequestProtocol(name="other", metadata=b"")]
NEWCOMER: dict[str, Any] = {"member_id": "", "group_instance_id": None}
HUGE = "g" * 100_000

JOINS = {
    "unknown member": Case({"member_id": "nobody", "group_instance_id": None}, UNKNOWN_MEMBER_ID),
    "unknown group": Case({"group_id": "none"}, UNKNOWN_MEMBER_ID),
    "fenced instance": Case({"member_id": "before"}, FENCED_INSTANCE_ID),
    "unknown instance": Case({"group_instance_id": "nobody"}, UNKNOWN_MEMBER_ID),
    "short session": Case({**NEWCOMER, "session_timeout_ms": 499}, INVALID_SESSION_TIMEOUT),
    "no session": Case({**NEWCOMER, "session_timeout_ms": 0}, INVALID_SESSION_TIMEOUT),
    "negative session": Case({**NEWCOMER, "session_timeout_ms": -1}, INVALID_SESSION_TIMEOUT),
    "long session": Case({"session_timeout_ms": SESSION_MAX_MS + 1}, INVALID_SESSION_TIMEOUT),
    "empty group id": Case({**NEWCOMER, "group_id": ""}, INVALID_GROUP_ID),
    "huge group id": Case({**NEWCOMER, "group_id": HUGE}, INVALID_GROUP_ID),
    "no protocols": Case({**NEWCOMER, "protocols": []}, INCONSISTENT_GROUP_PROTOCOL),
    "no common protocol": Case(
        {**NEWCOMER, "protocols": OTHER_PROTOCOL}, INCONSISTENT_GROUP_PROTOCOL
    ),
    "no type": Case({**NEWCOMER, "protocol_type": ""}, INCONSISTENT_GROUP_PROTOCOL),
    "other type": Case({**NEWCOMER, "protocol_type": "connect"}, INCONSISTENT_GROUP_PROTOCOL),
    "old version, other type": Case(
        {**NEWCOMER, "protocol_type": "connect"}, INCONSISTENT_GROUP_PROTOCOL, 0
    ),
}
MEMBERS = {
    "unknown member": Case({"member_id": "nobody", "group_instance_id": None}, UNKNOWN_MEMBER_ID),
    "unknown group": Case({"group_id": "none"}, UNKNOWN_MEMBER_ID),
    "fenced instance": Case({"member_id": "before"}, FENCED_INSTANCE_ID),
    "unknown instance": Case({"group_instance_id": "nobody"}, UNKNOWN_MEMBER_ID),
}
GENERATIONS = {
    "generation before": Case({"generation_id": 0}, ILLEGAL_GENERATION),
    "generation to come": Case({"generation_id": 2}, ILLEGAL_GENERATION),
    "no generation": Case({"generation_id": -1}, ILLEGAL_GENERATION),
    "last generation": Case({"generation_id": 2**31 - 1}, ILLEGAL_GENERATION),
    "empty group id": Case({"group_id": ""}, INVALID_GROUP_ID),
    "huge group id": Case({"group_id": HUGE}, INVALID_GROUP_ID),
}
SYNCS = {
    **MEMBERS,
    **GENERATIONS,
    "other type": Case({"protocol_type": "connect"}, INCONSISTENT_GROUP_PROTOCOL),
    "other protocol": Case({"protocol_name": "other"}, INCONSISTENT_GROUP_PROTOCOL),
}
COMMITS = {
    **MEMBERS,
    "unknown group, a generation": Case({"group_id": "none"}, ILLEGAL_GENERATION),
    "generation before": Case({"generation_id_or_member_epoch": 0}, ILLEGAL_GENERATION),
    "generation to come": Case({"generation_id_or_member_epoch": 2}, ILLEGAL_GENERATION),
    "a simple consumer": Case({**NEWCOMER, "generation_id_or_member_epoch": -1}, UNKNOWN_MEMBER_ID),
    "huge group id": Case({"group_id": HUGE}, INVALID_GROUP_ID),
}
del COMMITS["unknown group"]


@pytest.mark.parametrize("name", JOINS)
def test_bad_joins(server: ServerProcess, healthy: RawMember, name: str) -> None:
    """A join that cannot be gets its error, and begins no rebalance."""
    case = JOINS[name]
    with Line(server) as line:
        asked = changed(healthy.join_request(), case.changes)
        answer = line.ask(join_group, asked, 9 if case.version is None else case.version)
        assert answer.error_code == case.error


@pytest.mark.parametrize("name", SYNCS)
def test_bad_syncs(server: ServerProcess, healthy: RawMember, name: str) -> None:
    """A sync that is not the member's gets its error and no assignment."""
    with Line(server) as line:
        asked = changed(healthy.sync_request(), SYNCS[name].changes)
        answer = line.ask(sync_group, asked, 5)
        assert answer.error_code == SYNCS[name].error
        assert not answer.assignment


@pytest.mark.parametrize("name", {**MEMBERS, **GENERATIONS})
def test_bad_heartbeats(server: ServerProcess, healthy: RawMember, name: str) -> None:
    """A heartbeat of another keeps nobody alive."""
    case = {**MEMBERS, **GENERATIONS}[name]
    asked = heartbeat.HeartbeatRequest(
        group_id=healthy.group, generation_id=healthy.generation, member_id=healthy.member_id,
        group_instance_id=healthy.instance_id,
    )  # fmt: skip
    with Line(server) as line:
        assert line.ask(heartbeat, changed(asked, case.changes), 4).error_code == case.error


@pytest.mark.parametrize("name", COMMITS)
def test_bad_commits(server: ServerProcess, healthy: RawMember, topic: str, name: str) -> None:
    """A commit of who may not changes no offset."""
    assert healthy.commit(topic, 3) == 0
    with Line(server) as line:
        asked = changed(healthy.commit_request(topic, 4), COMMITS[name].changes)
        answer = line.ask(offset_commit, asked, 9)
        assert answer.topics[0].partitions[0].error_code == COMMITS[name].error
        assert committed(line, healthy.group, topic) == 3


@pytest.mark.parametrize("version", [2, 9])
@pytest.mark.parametrize(
    ("where", "error"),
    [
        ({"metadata": "x" * 4097}, OFFSET_METADATA_TOO_LARGE),
        ({"metadata": "ü" * 4097}, OFFSET_METADATA_TOO_LARGE),
        ({"topic": "none"}, UNKNOWN_TOPIC_OR_PARTITION),
        ({"topic": ""}, UNKNOWN_TOPIC_OR_PARTITION),
        ({"partition": 4}, UNKNOWN_TOPIC_OR_PARTITION),
        ({"partition": -1}, UNKNOWN_TOPIC_OR_PARTITION),
        ({"partition": 2**31 - 1}, UNKNOWN_TOPIC_OR_PARTITION),
    ],
)
def test_bad_partitions_of_commits(
    server: ServerProcess, healthy: RawMember, topic: str, where: dict[str, Any], error: int,
    version: int,
) -> None:  # fmt: skip
    """Each partition has its own error; a good one beside it is committed."""
    good = healthy.commit_request(topic, 5, partition=1).topics
    asked = healthy.commit_request(**{"topic": topic, "offset": 4, **where})
    asked.topics += good
    with Line(server) as line:
        answer = line.ask(offset_commit, asked, version)
        codes = [one.error_code for found in answer.topics for one in found.partitions]
        assert codes == [error, 0]
        assert committed(line, healthy.group, topic, 1) == 5


def committed(line: Line, group: str, topic: str, partition: int = 0) -> int:
    topics = [offset_fetch.OffsetFetchRequestTopics(name=topic, partition_indexes=[partition])]
    asked = offset_fetch.OffsetFetchRequestGroup(group_id=group, topics=topics)
    answer = line.ask(offset_fetch, offset_fetch.OffsetFetchRequest(groups=[asked]), 9)
    found = answer.groups[0].topics[0].partitions[0]
    assert (answer.groups[0].error_code, found.error_code) == (0, 0)
    return int(found.committed_offset)


def test_bad_fetches_of_offsets(server: ServerProcess, healthy: RawMember, topic: str) -> None:
    """What was never committed is -1, whatever was asked for; an id too long is an error."""
    with Line(server) as line:
        for group, name, partition in itertools.product(
            (healthy.group, "none"), ("none", "", "x" * 300), (0, -1, 2**31 - 1)
        ):
            assert committed(line, group, name, partition) == -1
        asked = offset_fetch.OffsetFetchRequestGroup(group_id=HUGE, topics=None)
        answer = line.ask(offset_fetch, offset_fetch.OffsetFetchRequest(groups=[asked]), 9)
        assert answer.groups[0].error_code == INVALID_GROUP_ID


def test_bad_leavers(server: ServerProcess, healthy: RawMember) -> None:
    """Each has its own error, and only who is meant leaves."""
    identity = leave_group.MemberIdentity
    leavers = [
        (identity(member_id="nobody", group_instance_id=None), UNKNOWN_MEMBER_ID),
        (identity(member_id="", group_instance_id=None), UNKNOWN_MEMBER_ID),
        (identity(member_id="before", group_instance_id="healthy"), FENCED_INSTANCE_ID),
        (identity(member_id="", group_instance_id="nobody"), UNKNOWN_MEMBER_ID),
    ]
    asked = leave_group.LeaveGroupRequest(
        group_id=healthy.group, members=[leaver for leaver, _ in leavers]
    )
    with Line(server) as line:
        answer = line.ask(leave_group, asked, 5)
        assert answer.error_code == 0
        assert [one.error_code for one in answer.members] == [error for _, error in leavers]
        old = leave_group.LeaveGroupRequest(group_id=healthy.group, member_id="nobody")
        assert line.ask(leave_group, old, 0).error_code == UNKNOWN_MEMBER_ID
        for group_id in ("", HUGE):
            asked.group_id = group_id
            assert line.ask(leave_group, asked, 5).error_code == INVALID_GROUP_ID


def test_bad_administration(server: ServerProcess, healthy: RawMember, topic: str) -> None:
    """A group in use stays, with the offsets that it uses; a group that is not there is said so."""
    with Line(server) as line:
        names = [healthy.group, "none", HUGE]
        asked = delete_groups.DeleteGroupsRequest(groups_names=names)
        answer = line.ask(delete_groups, asked, 2)
        codes = {one.group_id: one.error_code for one in answer.results}
        assert codes[healthy.group] == NON_EMPTY_GROUP
        assert codes["none"] == GROUP_ID_NOT_FOUND
        assert codes[HUGE] in (INVALID_GROUP_ID, GROUP_ID_NOT_FOUND)
        for version, error in ((5, 0), (6, GROUP_ID_NOT_FOUND)):
            described = line.ask(
                describe_groups, describe_groups.DescribeGroupsRequest(groups=["none"]), version
            ).groups[0]
            assert (described.error_code, described.group_state) == (error, "Dead")
        partition = offset_delete.OffsetDeleteRequestPartition(partition_index=0)
        partitions = offset_delete.OffsetDeleteRequestTopic(name=topic, partitions=[partition])
        asked = offset_delete.OffsetDeleteRequest(group_id="none", topics=[partitions])
        assert line.ask(offset_delete, asked, 0).error_code == GROUP_ID_NOT_FOUND
        asked.group_id = healthy.group
        # Its subscription cannot be read, so every topic may be in use.
        answer = line.ask(offset_delete, asked, 0)
        assert answer.topics[0].partitions[0].error_code == GROUP_SUBSCRIBED_TO_TOPIC
        filtered = list_groups.ListGroupsRequest(states_filter=["no such"], types_filter=["none"])
        assert line.ask(list_groups, filtered, 5).groups == []


# Requests that are none


# The newest version that is served, where the codec knows newer ones.
NEWEST = {offset_commit: 9, offset_fetch: 9}


def versions(module: ModuleType) -> range:
    """The versions of a request that are served."""
    return range(module.MIN_VERSION, NEWEST.get(module, module.MAX_VERSION) + 1)


def requests(healthy: RawMember, topic: str) -> dict[ModuleType, Any]:
    """One of each kind, of a member that the group does not have; joins go elsewhere."""
    nobody = {"member_id": "nobody", "group_instance_id": "nobody"}
    partition = offset_delete.OffsetDeleteRequestPartition(partition_index=3)
    topics = [offset_delete.OffsetDeleteRequestTopic(name="none", partitions=[partition])]
    asked = offset_fetch.OffsetFetchRequestTopics(name=topic, partition_indexes=[0, 1])
    return {
        join_group: changed(healthy.join_request(), {**nobody, "group_id": "elsewhere"}),
        sync_group: changed(healthy.sync_request(), {**nobody, "group_id": "elsewhere"}),
        heartbeat: heartbeat.HeartbeatRequest(group_id=healthy.group, generation_id=1, **nobody),
        leave_group: leave_group.LeaveGroupRequest(
            group_id=healthy.group, members=[leave_group.MemberIdentity(**nobody)]
        ),
        offset_commit: changed(healthy.commit_request(topic, 9, metadata="words"), nobody),
        offset_fetch: offset_fetch.OffsetFetchRequest(
            groups=[offset_fetch.OffsetFetchRequestGroup(group_id=healthy.group, topics=[asked])]
        ),
        offset_delete: offset_delete.OffsetDeleteRequest(group_id="elsewhere", topics=topics),
        describe_groups: describe_groups.DescribeGroupsRequest(groups=[healthy.group, "none"]),
        list_groups: list_groups.ListGroupsRequest(states_filter=["Stable"], types_filter=["x"]),
        delete_groups: delete_groups.DeleteGroupsRequest(groups_names=["elsewhere"]),
        find_coordinator: find_coordinator.FindCoordinatorRequest(
            key_type=0, coordinator_keys=[healthy.group]
        ),
    }


def test_requests_cut_anywhere(server: ServerProcess, healthy: RawMember, topic: str) -> None:
    """A request that ends early, or goes on too long, is no request: its connection is closed."""
    for module, message in requests(healthy, topic).items():
        whole = frame(module, message, versions(module)[-1])
        for body in (*(whole[4:cut] for cut in range(8, len(whole))), whole[4:] + b"\0"):
            with Line(server) as line:
                line.socket.sendall(len(body).to_bytes(4, "big") + body)
                assert line.is_closed(), (module.__name__, len(body))
    assert_goes_on(healthy, topic)


def test_mutated_requests(
    server: ServerProcess, healthy: RawMember, topic: str, rng: random.Random
) -> None:
    """3,000 mutations: each is answered or its connection closed, never more."""
    seeds = [
        frame(module, message, version)
        for module, message in requests(healthy, topic).items()
        for version in versions(module)[-2:]
    ]
    resident = server.resident_bytes()
    for _ in range(3000):
        mutated = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 5)):
            # Behind length, key and version.
            at = rng.randrange(8, len(mutated))
            mutated[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        with Line(server) as line:
            line.socket.sendall(mutated)
            line.socket.shutdown(socket.SHUT_WR)
    assert_goes_on(healthy, topic)
    assert server.resident_bytes() - resident < 32 * 1024 * 1024


def test_the_server_said_nothing_of_faults(server: ServerProcess) -> None:
    """After all this there is no traceback in its log."""
    assert "Traceback" not in Path(server.log_path).read_text()
