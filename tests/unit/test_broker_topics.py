"""Topics: what is created is there after a crash, what is deleted gone, what is unknown stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from logd.broker.topic import random_topic_id
from logd.errors import (
    DiskFullError,
    InvalidConfigError,
    InvalidPartitionsError,
    InvalidTopicError,
    PolicyViolationError,
    StorageError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from logd.storage import layout
from tests.unit.broker_fakes import Server


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


async def test_a_created_topic_survives_a_restart(server: Server) -> None:
    """Name, id, partitions and settings are the same after a restart."""
    topic = await server.topics.create("orders", 3, {"retention.ms": "1000"})
    assert server.directories() == ["orders-0", "orders-1", "orders-2"]
    again = await server.restarted()
    found = again.topics.by_name["orders"]
    assert found.topic_id == topic.topic_id
    assert again.topics.by_id[topic.topic_id] is found
    assert len(found.partitions) == 3
    assert found.settings.retention_ms == 1000
    assert again.topics.partition("orders", 2).index == 2


async def test_a_topic_exists_once(server: Server) -> None:
    """The second creation of a name is refused, also when both are asked for at the same moment."""
    outcomes: list[str] = []

    async def create() -> None:
        try:
            await server.topics.create("orders", 1, {})
            outcomes.append("created")
        except TopicExistsError:
            outcomes.append("exists")

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(create)
    assert sorted(outcomes) == ["created", "exists", "exists"]


@pytest.mark.parametrize(
    ("name", "partitions", "overrides", "error"),
    [
        ("a/b", 1, {}, InvalidTopicError),
        ("", 1, {}, InvalidTopicError),
        ("..", 1, {}, InvalidTopicError),
        ("x" * 250, 1, {}, InvalidTopicError),
        ("a.b", 1, {}, InvalidTopicError),  # Collides with a_b.
        ("ok", 0, {}, InvalidPartitionsError),
        ("ok", -1, {}, InvalidPartitionsError),
        ("ok", 10**9, {}, InvalidPartitionsError),
        ("ok", 10_001, {}, InvalidPartitionsError),
        ("ok", 1, {"no.such.setting": "1"}, InvalidConfigError),
        ("ok", 1, {"retention.ms": "NaN"}, InvalidConfigError),
        ("ok", 1, {"segment.bytes": "-1"}, InvalidConfigError),
    ],
)
async def test_bad_creations_are_refused_and_change_nothing(
    server: Server, name: str, partitions: int, overrides: dict[str, str], error: type[Exception]
) -> None:
    """A bad name, count or setting: the error that says so, no directory, no row."""
    await server.topics.create("a_b", 1, {})
    with pytest.raises(error):
        await server.topics.create(name, partitions, overrides)
    assert server.directories() == ["a_b-0"]
    assert [row.name for row in server.catalog.topics()] == ["a_b"]


async def test_the_number_of_all_partitions_is_limited(tmp_path: Path) -> None:
    """max.partitions bounds the sum over all topics."""
    server = Server(tmp_path, flags={"max.partitions": "3"})
    first = await server.topics.create("a", 2, {})
    with pytest.raises(PolicyViolationError):
        await server.topics.create("b", 2, {})
    with pytest.raises(PolicyViolationError):
        await server.topics.add_partitions(first, 4)
    await server.topics.delete(first)
    await server.topics.create("b", 3, {})


async def test_a_creation_that_the_disk_refuses_leaves_nothing(server: Server) -> None:
    """If one partition cannot be made, the others are unmade, and the name is free."""
    server.factory.fail["orders", 1] = OSError(28, "No space left on device")
    with pytest.raises(StorageError):
        await server.topics.create("orders", 3, {})
    assert server.directories() == []
    assert server.catalog.topics() == []
    assert sorted(server.factory.retired) == [("orders", 0), ("orders", 2)]
    server.factory.fail.clear()
    await server.topics.create("orders", 3, {})


async def test_a_creation_that_the_catalog_refuses_leaves_nothing(server: Server) -> None:
    """A transaction that certainly failed takes the directories with it."""
    server.stop_at, server.stop_error = "before create_topic", DiskFullError("full")
    with pytest.raises(DiskFullError):
        await server.topics.create("orders", 1, {})
    assert server.directories() == []
    assert "orders" not in server.topics.by_name


async def test_a_creation_in_doubt_keeps_its_directories(server: Server) -> None:
    """After an I/O error of the catalog the topic may exist: then its directories must, too."""
    server.stop_at, server.stop_error = "after create_topic", StorageError("I/O error")
    with pytest.raises(StorageError):
        await server.topics.create("orders", 1, {})
    again = await server.restarted()
    assert again.topics.partition("orders", 0).index == 0


async def test_a_creation_cut_short_is_made_room_for(server: Server) -> None:
    """Directories without records and without a row are reported, kept, and replaced on demand."""
    server.stop_at, server.stop_error = "before create_topic", KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        await server.topics.create("orders", 2, {})
    assert server.directories() == ["orders-0", "orders-1"]
    again = await server.restarted()
    assert [path.rpartition("/")[2] for path in again.topics.unknown_paths] == [
        "orders-0",
        "orders-1",
    ]
    topic = await again.topics.create("orders", 1, {})
    assert topic.partition(0).topic_id == topic.topic_id
    assert again.directories() == ["orders-0", "orders-1"]


async def test_unknown_records_are_never_replaced(server: Server) -> None:
    """A directory with records that the catalog does not know stops a creation, and stays."""
    server.write_log("orders-1")
    await server.start()
    with pytest.raises(TopicExistsError, match="logd topic adopt"):
        await server.topics.create("orders", 2, {})
    assert server.directories() == ["orders-1"]
    assert server.path.joinpath("topics/orders-1/00000000000000000000.log").stat().st_size == 10


async def test_a_creation_goes_on_when_its_client_leaves(server: Server) -> None:
    """Cancelled in the middle, a creation is complete all the same."""
    with trio.CancelScope() as scope:
        async with server.topics.changing():
            scope.cancel()
            await trio.lowlevel.checkpoint()  # Shielded: a change runs to its end.
            reached = True
    assert reached
    assert not scope.cancelled_caught


async def test_a_deleted_topic_is_gone_and_its_name_free(server: Server) -> None:
    """Delete and create again at once: a new id, and only the old one's files go."""
    old = await server.topics.create("orders", 2, {})
    await server.topics.delete(old)
    assert old.deleted
    assert "orders" not in server.topics.by_name
    assert old.topic_id not in server.topics.by_id
    assert server.topics.partition_count == 0
    new = await server.topics.create("orders", 1, {})
    assert new.topic_id != old.topic_id
    retired = [layout.deleted_directory_name(old.topic_id, index) for index in (0, 1)]
    assert sorted(server.directories()) == sorted(["orders-0", *retired])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.topics.deleted.run_reaper)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert server.directories() == ["orders-0"]
    assert [row.topic_id for row in server.catalog.topics()] == [new.topic_id]
    with pytest.raises(UnknownTopicOrPartitionError):
        await server.topics.delete(old)


async def test_a_deletion_cut_short_is_finished_after_a_restart(server: Server) -> None:
    """Marked in the catalog and then killed: the next start renames, and the reaper unlinks."""
    topic = await server.topics.create("orders", 2, {})
    server.stop_at, server.stop_error = "after mark_deleting", KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        await server.topics.delete(topic)
    assert server.directories() == ["orders-0", "orders-1"]
    again = await server.restarted()
    assert "orders" not in again.topics.by_name
    assert again.topics.unknown_paths == []
    assert all(name.endswith("-delete") for name in again.directories())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(again.topics.deleted.run_reaper)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert again.directories() == []
    assert again.catalog.topics() == []


async def test_a_late_deletion_spares_the_new_topic_of_the_name(server: Server) -> None:
    """Only the topic id decides whose directory it is, not the name."""
    old = await server.topics.create("orders", 1, {})
    await server.topics.delete(old)
    new = await server.topics.create("orders", 1, {})
    again = await server.restarted()  # The reaper never ran; both rows are in the catalog.
    assert again.topics.by_name["orders"].topic_id == new.topic_id
    assert again.topics.partition("orders", 0).topic_id == new.topic_id


async def test_partitions_are_added_and_survive(server: Server) -> None:
    """More partitions appear; fewer or as many are refused; a failure changes nothing."""
    topic = await server.topics.create("orders", 1, {})
    version = server.topics.version
    await server.topics.add_partitions(topic, 3)
    assert server.topics.version > version
    assert [partition.index for partition in server.topics.open_partitions()] == [0, 1, 2]
    for count in (3, 2, 0, -1):
        with pytest.raises(InvalidPartitionsError):
            await server.topics.add_partitions(topic, count)
    server.factory.fail["orders", 4] = OSError(5, "Input/output error")
    with pytest.raises(StorageError):
        await server.topics.add_partitions(topic, 6)
    assert len(topic.partitions) == 3
    assert server.topics.partition_count == 3
    again = await server.restarted()
    assert len(again.topics.by_name["orders"].partitions) == 3


async def test_altered_settings_reach_partitions_and_survive(server: Server) -> None:
    """New overrides replace the old ones at once, in every partition, and after a restart."""
    topic = await server.topics.create("orders", 2, {"retention.ms": "5"})
    await server.topics.alter(topic, {"max.message.bytes": "4096"})
    assert server.partition("orders", 1).settings.max_message_bytes == 4096
    with pytest.raises(InvalidConfigError):
        await server.topics.alter(topic, {"retention.ms": "soon"})
    again = await server.restarted()
    assert again.topics.by_name["orders"].overrides == {"max.message.bytes": "4096"}
    assert again.partition("orders").settings.max_message_bytes == 4096


async def test_server_defaults_reach_topics_that_have_no_own(server: Server) -> None:
    """A new server default changes all topics but those that override it, and survives."""
    await server.topics.create("plain", 1, {})
    await server.topics.create("special", 1, {"retention.ms": "5"})
    await server.topics.alter_server({"log.retention.ms": "77"})
    for now in (server, await server.restarted()):
        assert now.partition("plain").settings.retention_ms == 77
        assert now.partition("special").settings.retention_ms == 5


async def test_a_default_that_contradicts_a_topic_is_refused(server: Server) -> None:
    """A server default that some topic's own settings exclude changes nothing."""
    await server.topics.create("compacted", 1, {"min.compaction.lag.ms": "1000"})
    with pytest.raises(InvalidConfigError, match="compacted"):
        await server.topics.alter_server({"log.cleaner.max.compaction.lag.ms": "10"})
    assert server.config.overrides == {}
    assert server.catalog.broker_overrides() == {}


async def test_one_bad_partition_keeps_no_other_down(server: Server) -> None:
    """A partition that cannot be opened is offline with its reason; the rest serve."""
    await server.topics.create("orders", 3, {})
    server.catalog.close()
    again = Server(server.path)
    again.factory.fail["orders", 1] = OSError(5, "Input/output error")
    await again.start()
    topic = again.topics.by_name["orders"]
    assert [one is not None for one in topic.partitions] == [True, False, True]
    with pytest.raises(StorageError, match="Input/output error"):
        topic.partition(1)
    with pytest.raises(UnknownTopicOrPartitionError):
        topic.partition(3)
    assert "partition offline topic=orders partition=1" in again.log_lines.getvalue()


async def test_a_missing_directory_is_an_offline_partition(server: Server) -> None:
    """A directory that went missing is not made anew: the disk may only not be mounted."""
    await server.topics.create("orders", 1, {})
    (server.path / "topics/orders-0").rename(server.path / "elsewhere")
    again = await server.restarted()
    with pytest.raises(StorageError):
        again.topics.partition("orders", 0)
    assert again.directories() == []


async def test_settings_of_another_version_keep_the_topic_offline(server: Server) -> None:
    """Overrides that this version does not understand are not guessed at."""
    topic = await server.topics.create("orders", 1, {})
    server.catalog.set_topic_overrides(topic.topic_id, {"retention.of.the.future": "1"})
    again = await server.restarted()
    with pytest.raises(StorageError, match=r"retention\.of\.the\.future"):
        again.topics.partition("orders", 0)


def test_topic_ids_are_version_4_and_no_option() -> None:
    """A topic id is a random UUID, and its text never begins with a dash."""
    given = iter([b"\xf8" + bytes(15), bytes(range(16))])
    topic_id = random_topic_id(lambda _size: next(given))
    assert topic_id == bytes([0, 1, 2, 3, 4, 5, 0x46, 7, 0x88, 9, 10, 11, 12, 13, 14, 15])
