"""Consumer groups as librdkafka lives them: it joins, shares, leaves, crashes, comes back."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

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
    quiet,
    until,
)
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

ALL = set(range(PARTITIONS))


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
def admin(server: ServerProcess) -> AdminClient:
    return AdminClient(quiet(server))


class Member:
    """A consumer in a group, and what happened to it."""

    def __init__(self, server: ServerProcess, group: str, topic: str, **config: Any) -> None:
        self.topic = topic
        self.assigned: list[set[int]] = []
        self.revoked: list[set[int]] = []
        self.messages: list[Any] = []
        self.errors: list[Any] = []
        self.is_open = True
        self.consumer = confluent_kafka.Consumer(
            {
                **quiet(server), "group.id": group, "enable.auto.commit": False,
                "auto.offset.reset": "earliest", "session.timeout.ms": SESSION_MS,
                "heartbeat.interval.ms": HEARTBEAT_MS, **config,
            }
        )  # fmt: skip
        self.consumer.subscribe(
            [topic],
            on_assign=lambda _, partitions: self.assigned.append(numbers(partitions)),
            on_revoke=lambda _, partitions: self.revoked.append(numbers(partitions)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.consumer.close()

    def step(self) -> None:
        for message in self.consumer.consume(1000, 0.02):
            (self.errors if message.error() else self.messages).append(message)

    @property
    def has(self) -> set[int]:
        return numbers(self.consumer.assignment())

    @property
    def values(self) -> list[str]:
        return [message.value().decode() for message in self.messages]


def numbers(partitions: Sequence[Any]) -> set[int]:
    return {partition.partition for partition in partitions}


def run(condition: Any, what: str, *members: Member) -> None:
    """Let the members work until the condition holds."""

    def step() -> None:
        for member in members:
            member.step()

    until(condition, step, what)


def share(*members: Member) -> bool:
    """Whether every partition has one owner, and each member something."""
    parts = [member.has for member in members]
    return all(parts) and sum(map(len, parts)) == PARTITIONS and set().union(*parts) == ALL


def offset_of(consumer: Any, topic: str, partition: int = 0) -> int:
    """The committed offset, as the consumer is told it."""
    (found,) = consumer.committed([TopicPartition(topic, partition)], TIMEOUT_S)
    assert found.error is None
    return int(found.offset)


# Joining and going


@pytest.mark.parametrize("assignor", ["range", "roundrobin", "cooperative-sticky"])
def test_partitions_are_shared_as_members_come_and_go(
    server: ServerProcess, topic: str, group: str, assignor: str
) -> None:
    """Each partition has one owner, with one member, two, three, and after the leader left."""
    config = {"partition.assignment.strategy": assignor}
    with (
        Member(server, group, topic, **config) as one,
        Member(server, group, topic, **config) as two,
        Member(server, group, topic, **config) as three,
    ):
        run(lambda: share(one, two, three), "three share", one, two, three)
        one.close()
        run(lambda: share(two, three), "the rest shares", two, three)
        three.close()
        run(lambda: share(two), "the last one has all", two)


def test_every_record_is_read_once_across_a_rebalance(
    server: ServerProcess, topic: str, group: str
) -> None:
    """Members that commit what they read before they give a partition up lose and repeat
    nothing."""
    fill(server, topic, 50)
    with Member(server, group, topic) as one:
        run(lambda: len(one.messages) == 200, "all read", one)
        one.consumer.commit(asynchronous=False)
        with Member(server, group, topic) as two:
            run(lambda: share(one, two), "two share", one, two)
            fill(server, topic, 25)
            run(lambda: len(one.messages) + len(two.messages) >= 300, "the new", one, two)
    where = [(m.partition(), m.offset()) for m in one.messages + two.messages]
    assert len(where) == len(set(where)) == 300
    assert {number for number, _ in where} == ALL
    assert len({m.partition() for m in two.messages}) == 2


def test_partitions_of_a_killed_member_go_to_the_others(
    server: ServerProcess, topic: str, group: str
) -> None:
    """Not before its session ends, and soon after."""
    command = (
        sys.executable, "-m", "tests.interop.group_member", "confluent", server.bootstrap,
        topic, group, str(SHORT_SESSION_MS),
    )  # fmt: skip
    with MemberProcess(*command) as victim, Member(server, group, topic) as one:

        def step() -> None:
            victim.step()
            one.step()

        until(lambda: share(one) is False and len(one.has | set(victim.partitions)) == 4
              and len(one.has) == len(victim.partitions) == 2, step, "two share")  # fmt: skip
        victim.kill()
        killed = time.monotonic()
        run(lambda: share(one), "the survivor has all", one)
        took_s = time.monotonic() - killed
        # From its last heartbeat on; a busy machine may have kept it from sending one for a while.
        assert SHORT_SESSION_MS / 2000 < took_s < SHORT_SESSION_MS / 1000 + 20


def test_another_protocol_is_refused(server: ServerProcess, topic: str, group: str) -> None:
    """A member without an assignor in common with the group is told so, the group unharmed."""
    with (
        Member(server, group, topic, **{"partition.assignment.strategy": "range"}) as one,
        Member(server, group, topic, **{"partition.assignment.strategy": "roundrobin"}) as odd,
    ):
        run(lambda: share(one) or share(odd), "one has all", one, odd)
        refused = odd if share(one) else one
        run(lambda: refused.errors, "the other is refused", one, odd)
        assert {m.error().code() for m in refused.errors} == {
            KafkaError.INCONSISTENT_GROUP_PROTOCOL
        }
        assert len(one.assigned) + len(odd.assigned) == 1


def test_cooperative_members_keep_what_they_can(
    server: ServerProcess, topic: str, group: str
) -> None:
    """A newcomer takes two of four partitions; the other two are never revoked, nor read twice."""
    fill(server, topic, 10)
    config = {"partition.assignment.strategy": "cooperative-sticky"}
    with Member(server, group, topic, **config) as one:
        run(lambda: len(one.messages) == 40, "all read", one)
        with Member(server, group, topic, **config) as two:
            run(lambda: share(one, two), "two share", one, two)
            assert len(set().union(*one.revoked)) == 2
            assert two.revoked == []
            assert len(one.messages) == 40
        run(lambda: share(one), "one has all again", one)


# Static members


def test_static_member_restarts_unnoticed(server: ServerProcess, topic: str, group: str) -> None:
    """It gets its partitions back; the generation stays, and the others hear nothing."""
    with Member(server, group, topic, **{"group.instance.id": "b"}) as other:
        with Member(server, group, topic, **{"group.instance.id": "a"}) as first:
            run(lambda: share(first, other), "two share", first, other)
            had = first.has
            assignments = len(other.assigned)
            generation = group_status(server, group)["generation"]
        with Member(server, group, topic, **{"group.instance.id": "a"}) as again:
            run(lambda: again.has, "it is back", again, other)
            assert again.has == had
            assert group_status(server, group)["generation"] == generation
        assert len(other.assigned) == assignments
        assert other.revoked == [] or len(other.revoked) == assignments - 1


def test_static_leader_restarts_and_the_group_can_still_rebalance(
    server: ServerProcess, topic: str, group: str
) -> None:
    """The member that assigned before it restarted does not assign twice, but when it is needed."""
    with Member(server, group, topic, **{"group.instance.id": "a"}) as first:
        run(lambda: share(first), "one has all", first)
    with Member(server, group, topic, **{"group.instance.id": "a"}) as leader:
        run(lambda: share(leader), "it has all again", leader)
        with Member(server, group, topic) as newcomer:
            run(lambda: share(leader, newcomer), "two share", leader, newcomer)


def test_second_holder_of_an_instance_id_fences_the_first(
    server: ServerProcess, topic: str, group: str
) -> None:
    """The first gets a fatal error, and only the second goes on."""
    with Member(server, group, topic, **{"group.instance.id": "a"}) as first:
        run(lambda: share(first), "one has all", first)
        with Member(server, group, topic, **{"group.instance.id": "a"}) as second:
            run(lambda: share(second), "the second has all", second)
            run(lambda: first.errors, "the first is fenced", first, second)
            assert first.errors[0].error().code() == KafkaError._FATAL
            assert "fenced" in first.errors[0].error().str()
            assert share(second)


def test_killed_static_member_keeps_its_place_until_its_session_ends(
    server: ServerProcess, topic: str, group: str
) -> None:
    """Its successor after a kill has the same partitions, in the same generation."""
    command = (
        sys.executable, "-m", "tests.interop.group_member", "confluent", server.bootstrap,
        topic, group, str(SESSION_MS), "a",
    )  # fmt: skip
    with MemberProcess(*command) as victim:
        until(lambda: len(victim.partitions) == PARTITIONS, victim.step, "it has all")
        victim.kill()
        generation = group_status(server, group)["generation"]
        with MemberProcess(*command) as again:
            until(lambda: len(again.partitions) == PARTITIONS, again.step, "it has all")
            assert group_status(server, group)["generation"] == generation


def test_group_goes_on_after_the_server_was_killed(tmp_path: Path) -> None:
    """kill -9: members keep their partitions, in their generation, and their offsets are there."""
    with group_server(tmp_path / "data") as server:
        topic, group = new_topic(server), "survivors"
        fill(server, topic, 10)
        with Member(server, group, topic) as one, Member(server, group, topic) as two:
            run(lambda: share(one, two), "two share", one, two)
            run(lambda: len(one.messages) + len(two.messages) == 40, "all read", one, two)
            one.consumer.commit(asynchronous=False)
            two.consumer.commit(asynchronous=False)
            had, generation = one.has, group_status(server, group)["generation"]
            server.kill()
            server.start()
            fill(server, topic, 10)
            run(lambda: len(one.messages) + len(two.messages) >= 80, "the new", one, two)
            assert one.has == had
            assert group_status(server, group)["generation"] == generation
            assert offset_of(one.consumer, topic, min(had)) == 10
        assert len(one.messages) + len(two.messages) == 80


# Offsets


@pytest.mark.parametrize("is_automatic", [False, True])
def test_next_member_resumes_behind_the_last_commit(
    server: ServerProcess, topic: str, group: str, is_automatic: bool
) -> None:
    """Neither repeated nor left out; with automatic commits, those at the close count."""
    fill(server, topic, 10)
    with Member(server, group, topic, **{"enable.auto.commit": is_automatic}) as first:
        run(lambda: len(first.messages) == 40, "all read", first)
        if not is_automatic:
            first.consumer.commit(asynchronous=False)
    fill(server, topic, 5)
    with Member(server, group, topic) as second:
        run(lambda: len(second.messages) >= 20, "the new", second)
        assert sorted(m.offset() for m in second.messages) == sorted([*range(10, 15)] * 4)


def test_what_was_not_committed_is_read_again(
    server: ServerProcess, topic: str, group: str
) -> None:
    """A commit in the middle of a partition is where the next member begins."""
    fill(server, topic, 10)
    with Member(server, group, topic) as first:
        run(lambda: len(first.messages) == 40, "all read", first)
        first.consumer.commit(offsets=[TopicPartition(topic, 2, 7)], asynchronous=False)
    with Member(server, group, topic) as second:
        run(lambda: len(second.messages) >= 33, "the rest", second)
        assert sorted(m.offset() for m in second.messages if m.partition() == 2) == [7, 8, 9]


def test_metadata_comes_back_as_it_was_committed(
    server: ServerProcess, topic: str, group: str
) -> None:
    """Text of any script, and the empty one; too much of it is refused and changes nothing."""
    with Member(server, group, topic) as member:
        run(lambda: share(member), "has all", member)
        # 4,096 characters are allowed; this client sends one, a NUL, more than it is given.
        texts = ["", "where I am", "Stelle 7 – größer als 3 ✓", "x" * 4095]
        wanted = [TopicPartition(topic, n, n + 1, text) for n, text in enumerate(texts)]
        member.consumer.commit(offsets=wanted, asynchronous=False)
        found = member.consumer.committed([TopicPartition(topic, n) for n in range(4)], TIMEOUT_S)
        assert [p.metadata or "" for p in found] == texts
        too_long = [TopicPartition(topic, 1, 9, "x" * 4096)]
        with pytest.raises(KafkaException) as refused:
            member.consumer.commit(offsets=too_long, asynchronous=False)
        assert refused.value.args[0].code() == KafkaError.OFFSET_METADATA_TOO_LARGE
        assert offset_of(member.consumer, topic, 1) == 2
        member.step()
        assert share(member)


def test_pause_resume_and_seek(server: ServerProcess, topic: str, group: str) -> None:
    """What a member does within its partitions is its own affair, while it stays in the group."""
    fill(server, topic, 10)
    one = TopicPartition(topic, 1)
    with Member(server, group, topic) as member:
        run(lambda: len(member.messages) == 40, "all read", member)
        member.consumer.pause([one])
        fill(server, topic, 5)
        run(lambda: len(member.messages) >= 55, "the new of the others", member)
        assert sum(m.partition() == 1 for m in member.messages) == 10
        member.consumer.resume([one])
        run(lambda: len(member.messages) == 60, "the rest", member)
        member.consumer.seek(TopicPartition(topic, 1, 3))
        run(lambda: len(member.messages) == 72, "partition 1 again", member)
        assert [m.offset() for m in member.messages[60:]] == list(range(3, 15))
        assert len(member.assigned) == 1


@pytest.mark.parametrize(("reset", "expected"), [("earliest", 40), ("latest", 0)])
def test_reset_where_nothing_is_committed(
    server: ServerProcess, topic: str, group: str, reset: str, expected: int
) -> None:
    """Earliest reads everything, latest only what comes."""
    fill(server, topic, 10)
    with Member(server, group, topic, **{"auto.offset.reset": reset}) as member:
        run(lambda: share(member), "has all", member)
        # The positions of "latest" are asked for: what comes after the answer is new.
        consumer = member.consumer
        run(lambda: reset == "earliest" or positioned(consumer, topic), "positioned", member)
        fill(server, topic, 1)
        run(lambda: len(member.messages) >= expected + 4, "the new", member)
        offsets = sorted({m.offset() for m in member.messages})
        assert offsets == (list(range(11)) if reset == "earliest" else [10])


def positioned(consumer: Any, topic: str) -> bool:
    """Whether the consumer has been told where each partition ends."""
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    marks = [consumer.get_watermark_offsets(p, cached=True) for p in partitions]
    return all(mark is not None and mark[1] == 10 for mark in marks)


def test_reset_none_is_an_error_for_the_application(
    server: ServerProcess, topic: str, group: str
) -> None:
    """Without a commit and without a rule the client says so."""
    with Member(server, group, topic, **{"auto.offset.reset": "error"}) as member:
        run(lambda: len(member.errors) >= PARTITIONS, "told", member)
        assert {m.error().code() for m in member.errors} == {KafkaError._AUTO_OFFSET_RESET}


def test_reset_where_the_commit_is_out_of_range(
    server: ServerProcess, topic: str, group: str
) -> None:
    """An offset behind the end may be committed; the reader finds out, and begins anew."""
    fill(server, topic, 10)
    with Member(server, group, topic) as first:
        run(lambda: len(first.messages) == 40, "all read", first)
        far = [TopicPartition(topic, number, 10**12) for number in range(PARTITIONS)]
        first.consumer.commit(offsets=far, asynchronous=False)
    with Member(server, group, topic) as second:
        run(lambda: len(second.messages) == 40, "all read again", second)


def test_a_consumer_that_only_commits(
    server: ServerProcess, topic: str, group: str, admin: AdminClient
) -> None:
    """It assigns itself, commits without being a member, and the group stays Empty."""
    fill(server, topic, 10)
    config = {**quiet(server), "group.id": group, "enable.auto.commit": False}
    simple = confluent_kafka.Consumer(config)
    simple.assign([TopicPartition(topic, 0, 0)])
    assert len(simple.consume(10, TIMEOUT_S)) == 10
    simple.commit(offsets=[TopicPartition(topic, 0, 6)], asynchronous=False)
    simple.close()
    described = admin.describe_consumer_groups([group])[group].result(TIMEOUT_S)
    assert described.state == confluent_kafka.ConsumerGroupState.EMPTY
    assert described.members == []
    again = confluent_kafka.Consumer(config)
    again.assign([TopicPartition(topic, 0)])
    assert [m.offset() for m in again.consume(4, TIMEOUT_S)] == [6, 7, 8, 9]
    again.close()


# Administration


def test_groups_are_listed_and_described(
    server: ServerProcess, topic: str, group: str, admin: AdminClient
) -> None:
    """State, assignor, members with their clients and partitions; filters by state and type."""
    states, types = confluent_kafka.ConsumerGroupState, confluent_kafka.ConsumerGroupType
    config = {"partition.assignment.strategy": "roundrobin", "client.id": "someone"}
    with (
        Member(server, group, topic, **config) as one,
        Member(server, group, topic, **config, **{"group.instance.id": "static"}) as two,
    ):
        run(lambda: share(one, two), "two share", one, two)
        described = admin.describe_consumer_groups([group])[group].result(TIMEOUT_S)
        assert described.state == states.STABLE
        assert described.partition_assignor == "roundrobin"
        assert not described.is_simple_consumer_group
        assert f"{described.coordinator.host}:{described.coordinator.port}" == server.bootstrap
        assert {m.client_id for m in described.members} == {"someone"}
        assert {m.group_instance_id for m in described.members} == {None, "static"}
        assert {m.host.lstrip("/") for m in described.members} == {"127.0.0.1"}
        parts = [{p.partition for p in m.assignment.topic_partitions} for m in described.members]
        assert sorted(map(sorted, parts)) == sorted(map(sorted, [one.has, two.has]))
        for chosen, is_in in (
            ({}, True),
            ({"states": {states.STABLE}}, True),
            ({"states": {states.EMPTY, states.DEAD}}, False),
            ({"types": {types.CLASSIC}}, True),
            ({"types": {types.CONSUMER}}, False),
            ({"states": {states.STABLE}, "types": {types.CLASSIC}}, True),
        ):
            listed = admin.list_consumer_groups(**chosen).result(TIMEOUT_S)
            assert listed.errors == []
            found = [one for one in listed.valid if one.group_id == group]
            assert bool(found) == is_in, chosen
            assert all(one.state == states.STABLE for one in found)
    unknown = admin.describe_consumer_groups(["nobody"])["nobody"]
    try:
        assert unknown.result(TIMEOUT_S).state == states.DEAD
    except KafkaException as refused:
        assert refused.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND


def test_groups_are_deleted_when_nobody_is_in(
    server: ServerProcess, topic: str, group: str, admin: AdminClient
) -> None:
    """Refused while there is a member; then the group and its offsets are gone; then unknown."""
    with Member(server, group, topic) as member:
        run(lambda: share(member), "has all", member)
        member.consumer.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
        assert deleted(admin, group) == KafkaError.NON_EMPTY_GROUP
        member.step()
        assert share(member)
    assert deleted(admin, group) is None
    assert deleted(admin, group) == KafkaError.GROUP_ID_NOT_FOUND
    with Member(server, group, topic) as member:
        assert offset_of(member.consumer, topic) == confluent_kafka.OFFSET_INVALID


def deleted(admin: AdminClient, group: str) -> int | None:
    try:
        admin.delete_consumer_groups([group])[group].result(TIMEOUT_S)
    except KafkaException as refused:
        return int(refused.args[0].code())
    return None


def test_offsets_are_altered_when_nobody_is_in(
    server: ServerProcess, topic: str, group: str, admin: AdminClient
) -> None:
    """An administrator's commit is refused while the group is active, and counts afterwards."""
    fill(server, topic, 10)
    wanted = confluent_kafka.ConsumerGroupTopicPartitions(
        group, [TopicPartition(topic, number, number) for number in range(PARTITIONS)]
    )
    with Member(server, group, topic) as member:
        run(lambda: share(member), "has all", member)
        with pytest.raises(KafkaException) as refused:
            altered(admin, wanted)
        assert refused.value.args[0].code() == KafkaError.UNKNOWN_MEMBER_ID
    assert {p.error for p in altered(admin, wanted)} == {None}
    asked = confluent_kafka.ConsumerGroupTopicPartitions(group)
    listed = admin.list_consumer_group_offsets([asked])[group].result(TIMEOUT_S)
    found = {p.partition: p.offset for p in listed.topic_partitions if p.topic == topic}
    assert found == {0: 0, 1: 1, 2: 2, 3: 3}
    with Member(server, group, topic) as member:
        run(lambda: len(member.messages) == 34, "from there", member)


def altered(admin: AdminClient, wanted: Any) -> list[Any]:
    result = admin.alter_consumer_group_offsets([wanted])[wanted.group_id].result(TIMEOUT_S)
    for partition in result.topic_partitions:
        if partition.error:
            raise KafkaException(partition.error)
    return list(result.topic_partitions)


def test_offsets_of_a_deleted_topic_are_gone(
    server: ServerProcess, topic: str, group: str, admin: AdminClient
) -> None:
    """A new topic of the same name begins without commits."""
    with Member(server, group, topic) as member:
        run(lambda: share(member), "has all", member)
        member.consumer.commit(offsets=[TopicPartition(topic, 0, 5)], asynchronous=False)
    admin.delete_topics([topic])[topic].result(TIMEOUT_S)
    admin.create_topics([confluent_kafka.admin.NewTopic(topic, PARTITIONS, 1)])[topic].result(10)
    with Member(server, group, topic) as member:
        assert offset_of(member.consumer, topic) == confluent_kafka.OFFSET_INVALID


def test_nobody_writes_to_the_offsets_topic(server: ServerProcess, group: str) -> None:
    """Clients may see it, and not append to it."""
    errors: list[Any] = []
    producer = confluent_kafka.Producer(quiet(server))
    producer.produce(
        "__consumer_offsets", b"x", partition=0, on_delivery=lambda e, _: errors.append(e)
    )
    assert producer.flush(TIMEOUT_S) == 0
    assert errors[0].code() == KafkaError.TOPIC_EXCEPTION
