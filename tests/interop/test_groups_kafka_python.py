"""Consumer groups as kafka-python lives them, and its admin client, which knows the most calls."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import chain
from typing import Any, Self

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
    until,
)
from tests.server_process import ServerProcess

with warnings.catch_warnings():
    # It reads its schemas at import by a way that Python will drop.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka
    from kafka import OffsetAndMetadata, TopicPartition, errors
    from kafka.admin import KafkaAdminClient, MemberToRemove, OffsetSpec
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
    from kafka.coordinator.assignors.range import RangePartitionAssignor
    from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
    from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

pytestmark = [
    pytest.mark.interop,
    # The same, for schemas that it reads when they are first used.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

# A poll that ends while the member joins leaves the join under way, and the next one takes its
# answer; but not where what began it was news of a topic: so a member knows its topic beforehand.
POLL_MS = 50


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with group_server(tmp_path_factory.mktemp("groups") / "data") as process:
        yield process
        assert "Traceback" not in process.log()


@pytest.fixture
def topic(server: ServerProcess) -> str:
    return new_topic(server)


@pytest.fixture
def group() -> str:
    return new_name("group")


@pytest.fixture
def admin(server: ServerProcess) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=server.bootstrap)
    yield client
    client.close()


class Listener(kafka.ConsumerRebalanceListener):  # type: ignore[misc]  # The client is untyped.
    """Remembers what a member was given and lost."""

    def __init__(self) -> None:
        self.assigned: list[set[int]] = []
        self.revoked: list[set[int]] = []

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.revoked.append({partition.partition for partition in revoked})

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.assigned.append({partition.partition for partition in assigned})


class Member:
    """A consumer in a group, and what happened to it."""

    def __init__(self, server: ServerProcess, group: str, topic: str, **config: Any) -> None:
        self.listener = Listener()
        self.records: list[Any] = []
        self.is_open = True
        self.consumer = kafka.KafkaConsumer(
            **{
                "bootstrap_servers": server.bootstrap, "group_id": group,
                "enable_auto_commit": False, "auto_offset_reset": "earliest",
                "session_timeout_ms": SESSION_MS, "heartbeat_interval_ms": HEARTBEAT_MS, **config,
            }
        )  # fmt: skip
        self.consumer.subscribe([topic], listener=self.listener)
        known = self.consumer.partitions_for_topic
        until(lambda: bool(known(topic)), lambda: None, "it knows its topic")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.consumer.close()

    def step(self) -> None:
        for records in self.consumer.poll(POLL_MS).values():
            self.records += records

    @property
    def has(self) -> set[int]:
        return {partition.partition for partition in self.consumer.assignment()}


def run(condition: Callable[[], Any], what: str, *members: Member) -> None:
    """Let the members work, each in a thread, until the condition holds."""
    is_over = threading.Event()

    def work(member: Member) -> None:
        while not is_over.is_set():
            member.step()

    with ThreadPoolExecutor(len(members)) as threads:
        working = [threads.submit(work, member) for member in members]

        def look() -> None:
            done, _ = wait(working, 0.02, FIRST_COMPLETED)
            for ended in done:
                ended.result()

        try:
            until(lambda: bool(condition()), look, what)
        finally:
            is_over.set()


def share_and_know(*members: Member) -> bool:
    """Whether they do, and each has been called back about it."""
    return share(*members) and all(one.listener.assigned[-1:] == [one.has] for one in members)


def share(*members: Member) -> bool:
    """Whether every partition has one owner, and each member something."""
    parts = [member.has for member in members]
    return all(parts) and sorted(chain(*parts)) == list(range(PARTITIONS))


# Joining and going


@pytest.mark.parametrize(
    "assignor",
    [
        RangePartitionAssignor,
        RoundRobinPartitionAssignor,
        StickyPartitionAssignor,
        CooperativeStickyAssignor,
    ],
)
def test_partitions_are_shared_as_members_come_and_go(
    server: ServerProcess, topic: str, group: str, assignor: type
) -> None:
    """Each partition has one owner, with three members, and after the leader left."""
    config = {"partition_assignment_strategy": (assignor,)}
    with (
        Member(server, group, topic, **config) as one,
        Member(server, group, topic, **config) as two,
        Member(server, group, topic, **config) as three,
    ):
        run(lambda: share(one), "one has all", one)
        run(lambda: share(one, two, three), "three share", one, two, three)
        one.close()
        run(lambda: share(two, three), "the rest shares", two, three)
        three.close()
        run(lambda: share(two), "the last one has all", two)


def test_cooperative_members_keep_what_they_can(
    server: ServerProcess, topic: str, group: str
) -> None:
    """A newcomer takes two of four partitions; the other two are never revoked, nor read twice."""
    fill(server, topic, 10)
    config = {"partition_assignment_strategy": (CooperativeStickyAssignor,)}
    with Member(server, group, topic, **config) as one:
        run(lambda: len(one.records) == 40, "all read", one)
        with Member(server, group, topic, **config) as two:
            run(lambda: share(one, two), "two share", one, two)
            assert len(set().union(*one.listener.revoked)) == 2
            assert len(one.records) == 40


def test_partitions_of_a_killed_member_go_to_the_others(
    server: ServerProcess, topic: str, group: str
) -> None:
    """When its session is over, the survivor has all."""
    command = (
        sys.executable, "-m", "tests.interop.group_member", "kafka-python", server.bootstrap,
        topic, group, str(SHORT_SESSION_MS),
    )  # fmt: skip
    with MemberProcess(*command) as victim, Member(server, group, topic) as one:

        def is_shared() -> bool:
            victim.step()
            return sorted([*one.has, *victim.partitions]) == [0, 1, 2, 3] and len(one.has) == 2

        run(is_shared, "two share", one)
        victim.kill()
        run(lambda: share(one), "the survivor has all", one)


# Static members


def test_static_member_restarts_unnoticed(server: ServerProcess, topic: str, group: str) -> None:
    """It gets its partitions back; the generation stays, and the others hear nothing."""
    with Member(server, group, topic, group_instance_id="b") as other:
        with Member(server, group, topic, group_instance_id="a") as first:
            run(lambda: share_and_know(first, other), "two share", first, other)
            had, told = first.has, len(other.listener.assigned)
            generation = group_status(server, group)["generation"]
        with Member(server, group, topic, group_instance_id="a") as again:
            run(lambda: again.has, "it is back", again, other)
            assert again.has == had
            assert group_status(server, group)["generation"] == generation
            assert len(other.listener.assigned) == told


def test_second_holder_of_an_instance_id_fences_the_first(
    server: ServerProcess, topic: str, group: str
) -> None:
    """The first cannot commit any more, and only the second goes on."""
    with Member(server, group, topic, group_instance_id="a") as first:
        run(lambda: share(first), "one has all", first)
        with Member(server, group, topic, group_instance_id="a") as second:
            run(lambda: share(second), "the second has all", second)
            with pytest.raises((errors.FencedInstanceIdError, errors.CommitFailedError)):
                first.consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(7, "", -1)})
            run(lambda: share(second), "the second still has all", second)
            assert second.consumer.committed(TopicPartition(topic, 0)) is None


def test_static_members_are_removed_by_an_administrator(
    server: ServerProcess, topic: str, group: str, admin: KafkaAdminClient
) -> None:
    """By instance id alone; an id that is not there is an error of its own."""
    with Member(server, group, topic, group_instance_id="gone") as first:
        run(lambda: share(first), "one has all", first)
    with Member(server, group, topic) as other:
        removed = admin.remove_group_members(
            group,
            [
                MemberToRemove(group_instance_id="gone"),
                MemberToRemove(group_instance_id="never there"),
            ],
        )
        assert set(removed.values()) == {errors.NoError, errors.UnknownMemberIdError}
        run(lambda: share(other), "the other has all", other)


# Offsets


@pytest.mark.parametrize("is_automatic", [False, True])
def test_next_member_resumes_behind_the_last_commit(
    server: ServerProcess, topic: str, group: str, is_automatic: bool
) -> None:
    """Neither repeated nor left out; with automatic commits, those at the close count."""
    fill(server, topic, 10)
    with Member(server, group, topic, enable_auto_commit=is_automatic) as first:
        run(lambda: len(first.records) == 40, "all read", first)
        if not is_automatic:
            first.consumer.commit()
    fill(server, topic, 5)
    with Member(server, group, topic) as second:
        run(lambda: len(second.records) >= 20, "the new", second)
        assert sorted(r.offset for r in second.records) == sorted([*range(10, 15)] * 4)


def test_metadata_comes_back_as_it_was_committed(
    server: ServerProcess, topic: str, group: str
) -> None:
    """Text of any script with its leader epoch, up to 4,096 characters; more is refused."""
    with Member(server, group, topic) as member:
        run(lambda: share(member), "has all", member)
        texts = ["", "where I am", "Stelle 7 – größer als 3 ✓", "x" * 4096]
        wanted = {
            TopicPartition(topic, number): OffsetAndMetadata(number + 1, text, 0)
            for number, text in enumerate(texts)
        }
        member.consumer.commit(wanted)
        assert {p: member.consumer.committed(p, metadata=True) for p in wanted} == wanted
        too_long = {TopicPartition(topic, 1): OffsetAndMetadata(9, "x" * 4097, 0)}
        with pytest.raises(errors.OffsetMetadataTooLargeError):
            member.consumer.commit(too_long)
        assert member.consumer.committed(TopicPartition(topic, 1)) == 2
        member.step()
        assert share(member)


def test_pause_resume_and_seek(server: ServerProcess, topic: str, group: str) -> None:
    """What a member does within its partitions is its own affair, while it stays in the group."""
    fill(server, topic, 10)
    one = TopicPartition(topic, 1)
    with Member(server, group, topic) as member:
        run(lambda: len(member.records) == 40, "all read", member)
        member.consumer.pause(one)
        fill(server, topic, 5)
        run(lambda: len(member.records) >= 55, "the new of the others", member)
        assert sum(r.partition == 1 for r in member.records) == 10
        member.consumer.resume(one)
        run(lambda: len(member.records) == 60, "the rest", member)
        member.consumer.seek(one, 3)
        run(lambda: len(member.records) == 72, "partition 1 again", member)
        assert [r.offset for r in member.records[60:]] == list(range(3, 15))
        assert len(member.listener.assigned) == 1


@pytest.mark.parametrize("reset", ["earliest", "latest"])
def test_reset_where_nothing_is_committed(
    server: ServerProcess, topic: str, group: str, reset: str
) -> None:
    """Earliest reads everything, latest only what comes."""
    fill(server, topic, 10)
    with Member(server, group, topic, auto_offset_reset=reset) as member:
        run(lambda: share(member), "has all", member)
        for number in range(PARTITIONS):
            member.consumer.position(TopicPartition(topic, number))
        fill(server, topic, 1)
        offsets = list(range(11)) if reset == "earliest" else [10]
        run(lambda: len(member.records) >= len(offsets) * PARTITIONS, "the new", member)
        assert sorted(r.offset for r in member.records) == sorted(offsets * PARTITIONS)


def test_reset_none_is_an_error_for_the_application(
    server: ServerProcess, topic: str, group: str
) -> None:
    """Without a commit and without a rule the client says so."""
    with (
        Member(server, group, topic, auto_offset_reset="none") as member,
        pytest.raises(errors.NoOffsetForPartitionError),
    ):
        run(lambda: False, "told", member)


def test_a_consumer_that_only_commits(server: ServerProcess, topic: str, group: str) -> None:
    """It assigns itself, commits without being a member, and another goes on from there."""
    fill(server, topic, 10)
    partition = TopicPartition(topic, 0)
    for wanted in ([*range(10)], [6, 7, 8, 9]):
        consumer = kafka.KafkaConsumer(
            bootstrap_servers=server.bootstrap, group_id=group, enable_auto_commit=False,
            auto_offset_reset="earliest", consumer_timeout_ms=TIMEOUT_S * 1000,
        )  # fmt: skip
        consumer.assign([partition])
        assert [next(consumer).offset for _ in wanted] == wanted
        consumer.commit({partition: OffsetAndMetadata(6, "", -1)})
        consumer.close()
    assert group_status(server, group)["state"] == "Empty"


# Administration


def test_groups_are_listed_described_and_deleted(
    server: ServerProcess, topic: str, group: str, admin: KafkaAdminClient
) -> None:
    """By state and type; with members while there are some; deleted when there are none."""

    def is_listed(**filters: list[str]) -> bool:
        return group in {listed["group_id"] for listed in admin.list_groups(**filters)}

    with Member(server, group, topic, group_instance_id="a") as member:
        run(lambda: share(member), "has all", member)
        described = admin.describe_groups([group])[group]
        assert described["group_state"] == "Stable"
        assert described["protocol_type"] == "consumer"
        (found,) = described["members"]
        assert found["group_instance_id"] == "a"
        assert found["client_host"].endswith("127.0.0.1")
        assert is_listed()
        assert is_listed(states_filter=["Stable"], types_filter=["classic"])
        assert not is_listed(states_filter=["Empty"])
        assert not is_listed(types_filter=["consumer"])
        assert admin.delete_groups([group]) == {group: "NonEmptyGroupError"}
    admin.remove_group_members(group, [MemberToRemove(group_instance_id="a")])
    assert is_listed(states_filter=["Empty"])
    assert admin.delete_groups([group]) == {group: "OK"}
    assert not is_listed()
    assert admin.delete_groups([group]) == {group: "GroupIdNotFoundError"}


def test_offsets_are_listed_altered_reset_and_deleted(
    server: ServerProcess, topic: str, group: str, admin: KafkaAdminClient
) -> None:
    """Each change is what the next listing shows, of several groups at once."""
    fill(server, topic, 10)
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    wanted = {p: OffsetAndMetadata(p.partition, f"at {p.partition}", -1) for p in partitions}
    assert set(admin.alter_group_offsets(group, wanted).values()) == {errors.NoError}
    other = new_name("group")
    admin.alter_group_offsets(other, {partitions[0]: OffsetAndMetadata(9, "", -1)})
    listed = admin.list_group_offsets(
        {group: None, other: partitions[:2], "nobody": partitions[:1]}
    )
    assert listed[group] == wanted
    assert [listed[other][p].offset for p in partitions[:2]] == [9, -1]
    assert listed["nobody"][partitions[0]].offset == -1
    done = admin.reset_group_offsets(
        group, {partitions[0]: OffsetSpec.LATEST, partitions[1]: OffsetSpec.EARLIEST}
    )
    assert [done[p]["offset"] for p in partitions[:2]] == [10, 0]
    deleted = admin.delete_group_offsets(group, partitions[2:])
    assert set(deleted.values()) == {errors.NoError}
    left = admin.list_group_offsets(group)[group]
    assert {p.partition: found.offset for p, found in left.items()} == {0: 10, 1: 0}


def test_offsets_in_use_are_neither_altered_nor_deleted(
    server: ServerProcess, topic: str, group: str, admin: KafkaAdminClient
) -> None:
    """Those of a topic that a member is subscribed to; another topic's may be deleted."""
    other_topic = new_topic(server)
    used, unused = TopicPartition(topic, 0), TopicPartition(other_topic, 0)
    with Member(server, group, topic) as member:
        run(lambda: share(member), "has all", member)
        both = {used: OffsetAndMetadata(1, "", -1), unused: OffsetAndMetadata(2, "", -1)}
        member.consumer.commit(both)
        altered = admin.alter_group_offsets(group, {used: OffsetAndMetadata(9, "", -1)})
        assert altered == {used: errors.UnknownMemberIdError}
        deleted = admin.delete_group_offsets(group, [used, unused])
        assert deleted == {used: errors.GroupSubscribedToTopicError, unused: errors.NoError}
        assert member.consumer.committed(used) == 1
        assert member.consumer.committed(unused) is None
        member.step()
        assert share(member)
    with pytest.raises(errors.GroupIdNotFoundError):
        admin.delete_group_offsets("nobody", [used])
