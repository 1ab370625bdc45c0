"""Consumer groups as aiokafka lives them: with old versions of each request.

Its heartbeats and commits carry no instance id, so a fenced static member cannot be told so and
joins again; that case is left to the other clients. It has no cooperative assignor.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from typing import Any

import aiokafka
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    NoOffsetForPartitionError,
    OffsetMetadataTooLargeError,
)
from aiokafka.structs import OffsetAndMetadata

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
)
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop


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


class Listener(aiokafka.ConsumerRebalanceListener):  # type: ignore[misc]  # The client is untyped.
    """Remembers what a member was given and lost."""

    def __init__(self) -> None:
        self.assigned: list[set[int]] = []
        self.revoked: list[set[int]] = []

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.revoked.append({partition.partition for partition in revoked})

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.assigned.append({partition.partition for partition in assigned})


class Member:
    """A consumer in a group and what it read."""

    def __init__(self, consumer: aiokafka.AIOKafkaConsumer, listener: Listener) -> None:
        self.consumer = consumer
        self.listener = listener
        self.records: list[Any] = []

    @property
    def has(self) -> set[int]:
        return {partition.partition for partition in self.consumer.assignment()}

    async def step(self) -> None:
        for records in (await self.consumer.getmany(timeout_ms=20)).values():
            self.records += records

    async def stop(self) -> None:
        await self.consumer.stop()


class Scene:
    """One server, one topic, one group; every member ends with it."""

    def __init__(self, server: ServerProcess, topic: str, group: str) -> None:
        self.server, self.topic, self.group = server, topic, group
        self._stack = AsyncExitStack()

    async def member(self, **config: Any) -> Member:
        listener = Listener()
        consumer = aiokafka.AIOKafkaConsumer(
            **{
                "bootstrap_servers": self.server.bootstrap, "group_id": self.group,
                "enable_auto_commit": False, "auto_offset_reset": "earliest",
                "session_timeout_ms": SESSION_MS, "heartbeat_interval_ms": HEARTBEAT_MS,
                "metadata_max_age_ms": 1000, **config,
            }
        )  # fmt: skip
        consumer.subscribe([self.topic], listener=listener)
        self._stack.push_async_callback(consumer.stop)
        await consumer.start()
        return Member(consumer, listener)

    async def simple(self, **config: Any) -> aiokafka.AIOKafkaConsumer:
        """A consumer that is in no group and commits to one."""
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=self.server.bootstrap, group_id=self.group, enable_auto_commit=False,
            **config,
        )  # fmt: skip
        self._stack.push_async_callback(consumer.stop)
        await consumer.start()
        return consumer

    def partition(self, number: int) -> TopicPartition:
        return TopicPartition(self.topic, number)

    async def run(self, condition: Callable[[], Any], what: str, *members: Member) -> None:
        """Let the members work until the condition holds."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not condition():
                    await asyncio.gather(*(member.step() for member in members))
        except TimeoutError:
            raise AssertionError(f"not within {TIMEOUT_S} s: {what}") from None

    async def fill(self, per_partition: int) -> None:
        await asyncio.to_thread(fill, self.server, self.topic, per_partition)

    async def close(self) -> None:
        await self._stack.aclose()


def play(
    server: ServerProcess,
    topic: str,
    group: str,
    scenario: Callable[[Scene], Coroutine[Any, Any, None]],
) -> None:
    async def run() -> None:
        scene = Scene(server, topic, group)
        try:
            await scenario(scene)
        finally:
            await scene.close()

    asyncio.run(run())


def share_and_know(*members: Member) -> bool:
    """Whether they do, and each has been called back about it."""
    return share(*members) and all(one.listener.assigned[-1:] == [one.has] for one in members)


def share(*members: Member) -> bool:
    """Whether every partition has one owner, and each member something."""
    parts = [member.has for member in members]
    return all(parts) and sorted(chain(*parts)) == list(range(PARTITIONS))


@pytest.mark.parametrize(
    "assignor", [RangePartitionAssignor, RoundRobinPartitionAssignor, StickyPartitionAssignor]
)
def test_partitions_are_shared_as_members_come_and_go(
    server: ServerProcess, topic: str, group: str, assignor: type
) -> None:
    """Each partition has one owner, with three members, and after the leader left."""

    async def scenario(scene: Scene) -> None:
        config = {"partition_assignment_strategy": (assignor,)}
        one = await scene.member(**config)
        await scene.run(lambda: share(one), "one has all", one)
        two, three = await asyncio.gather(scene.member(**config), scene.member(**config))
        await scene.run(lambda: share(one, two, three), "three share", one, two, three)
        await one.stop()
        await scene.run(lambda: share(two, three), "the rest shares", two, three)
        await three.stop()
        await scene.run(lambda: share(two), "the last one has all", two)

    play(server, topic, group, scenario)


def test_partitions_of_a_killed_member_go_to_the_others(
    server: ServerProcess, topic: str, group: str
) -> None:
    """When its session is over, the survivor has all."""
    command = (
        sys.executable, "-m", "tests.interop.group_member", "aiokafka", server.bootstrap,
        topic, group, str(SHORT_SESSION_MS),
    )  # fmt: skip

    async def scenario(scene: Scene) -> None:
        with MemberProcess(*command) as victim:
            one = await scene.member()

            def is_shared() -> bool:
                victim.step()
                return sorted([*one.has, *victim.partitions]) == [0, 1, 2, 3] and len(one.has) == 2

            await scene.run(is_shared, "two share", one)
            victim.kill()
            await scene.run(lambda: share(one), "the survivor has all", one)

    play(server, topic, group, scenario)


def test_static_member_restarts_unnoticed(server: ServerProcess, topic: str, group: str) -> None:
    """It gets its partitions back; the generation stays, and the others hear nothing."""

    async def scenario(scene: Scene) -> None:
        other = await scene.member(group_instance_id="b")
        first = await scene.member(group_instance_id="a")
        await scene.run(lambda: share_and_know(first, other), "two share", first, other)
        had, told = first.has, len(other.listener.assigned)
        generation = group_status(server, group)["generation"]
        await first.stop()
        again = await scene.member(group_instance_id="a")
        await scene.run(lambda: again.has, "it is back", again, other)
        assert again.has == had
        assert group_status(server, group)["generation"] == generation
        assert len(other.listener.assigned) == told

    play(server, topic, group, scenario)


@pytest.mark.parametrize("is_automatic", [False, True])
def test_next_member_resumes_behind_the_last_commit(
    server: ServerProcess, topic: str, group: str, is_automatic: bool
) -> None:
    """Neither repeated nor left out; with automatic commits, those at the stop count."""

    async def scenario(scene: Scene) -> None:
        await scene.fill(10)
        first = await scene.member(enable_auto_commit=is_automatic)
        await scene.run(lambda: len(first.records) == 40, "all read", first)
        if not is_automatic:
            await first.consumer.commit()
        await first.stop()
        await scene.fill(5)
        second = await scene.member()
        await scene.run(lambda: len(second.records) >= 20, "the new", second)
        assert sorted(r.offset for r in second.records) == sorted([*range(10, 15)] * 4)

    play(server, topic, group, scenario)


def test_metadata_comes_back_as_it_was_committed(
    server: ServerProcess, topic: str, group: str
) -> None:
    """Text of any script, up to 4,096 characters; more is refused and changes nothing."""

    async def scenario(scene: Scene) -> None:
        member = await scene.member()
        await scene.run(lambda: share(member), "has all", member)
        consumer = member.consumer
        texts = ["", "where I am", "Stelle 7 – größer als 3 ✓", "x" * 4096]
        wanted = {scene.partition(n): OffsetAndMetadata(n + 1, t) for n, t in enumerate(texts)}
        await consumer.commit(wanted)
        async with admin_of(server) as admin:
            assert await admin.list_consumer_group_offsets(group) == wanted
        with pytest.raises((CommitFailedError, OffsetMetadataTooLargeError)):
            await consumer.commit({scene.partition(1): OffsetAndMetadata(9, "x" * 4097)})
        assert await consumer.committed(scene.partition(1)) == 2
        await member.step()
        assert share(member)

    play(server, topic, group, scenario)


def test_pause_resume_and_seek(server: ServerProcess, topic: str, group: str) -> None:
    """What a member does within its partitions is its own affair, while it stays in the group."""

    async def scenario(scene: Scene) -> None:
        await scene.fill(10)
        member = await scene.member()
        await scene.run(lambda: len(member.records) == 40, "all read", member)
        member.consumer.pause(scene.partition(1))
        await scene.fill(5)
        await scene.run(lambda: len(member.records) >= 55, "the new of the others", member)
        assert sum(r.partition == 1 for r in member.records) == 10
        member.consumer.resume(scene.partition(1))
        await scene.run(lambda: len(member.records) == 60, "the rest", member)
        member.consumer.seek(scene.partition(1), 3)
        await scene.run(lambda: len(member.records) == 72, "partition 1 again", member)
        assert [r.offset for r in member.records[60:]] == list(range(3, 15))
        assert len(member.listener.assigned) == 1

    play(server, topic, group, scenario)


@pytest.mark.parametrize("reset", ["earliest", "latest"])
def test_reset_where_nothing_is_committed(
    server: ServerProcess, topic: str, group: str, reset: str
) -> None:
    """Earliest reads everything, latest only what comes."""

    async def scenario(scene: Scene) -> None:
        await scene.fill(10)
        member = await scene.member(auto_offset_reset=reset)
        await scene.run(lambda: share(member), "has all", member)
        for number in range(PARTITIONS):
            await member.consumer.position(scene.partition(number))
        await scene.fill(1)
        offsets = list(range(11)) if reset == "earliest" else [10]
        count = len(offsets) * PARTITIONS
        await scene.run(lambda: len(member.records) >= count, "the new", member)
        assert sorted(r.offset for r in member.records) == sorted(offsets * PARTITIONS)

    play(server, topic, group, scenario)


def test_reset_none_is_an_error_for_the_application(
    server: ServerProcess, topic: str, group: str
) -> None:
    """Without a commit and without a rule the client says so."""

    async def scenario(scene: Scene) -> None:
        await scene.fill(1)
        member = await scene.member(auto_offset_reset="none")
        with pytest.raises(NoOffsetForPartitionError):
            await scene.run(lambda: False, "told", member)

    play(server, topic, group, scenario)


def test_a_consumer_that_only_commits(server: ServerProcess, topic: str, group: str) -> None:
    """It assigns itself, commits without being a member, and another goes on from there."""

    async def scenario(scene: Scene) -> None:
        await scene.fill(10)
        for wanted in ([*range(10)], [6, 7, 8, 9]):
            consumer = await scene.simple(auto_offset_reset="earliest")
            consumer.assign([scene.partition(0)])
            async with asyncio.timeout(TIMEOUT_S):
                assert [(await consumer.getone()).offset for _ in wanted] == wanted
            await consumer.commit({scene.partition(0): 6})
            await consumer.stop()
        assert group_status(server, group)["state"] == "Empty"

    play(server, topic, group, scenario)


@asynccontextmanager
async def admin_of(server: ServerProcess) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=server.bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


def test_groups_are_listed_and_described(server: ServerProcess, topic: str, group: str) -> None:
    """The state, the members, and the group's offsets; of a group unknown, no offsets."""

    async def scenario(scene: Scene) -> None:
        one, two = await scene.member(client_id="someone"), await scene.member()
        await scene.run(lambda: share(one, two), "two share", one, two)
        await one.consumer.commit({scene.partition(min(one.has)): 3})
        async with admin_of(server) as admin:
            assert (group, "consumer") in await admin.list_consumer_groups()
            (answer,) = await admin.describe_consumer_groups([group])
            error, name, state, kind, protocol, members, *_ = answer.groups[0]
            assert (error, name, state) == (0, group, "Stable")
            assert (kind, protocol) == ("consumer", "roundrobin")
            assert max(member[1] for member in members) == "someone"
            assert len(members) == 2
            offsets = await admin.list_consumer_group_offsets(group)
            assert offsets == {scene.partition(min(one.has)): OffsetAndMetadata(3, "")}
            assert await admin.list_consumer_group_offsets("nobody") == {}

    play(server, topic, group, scenario)
