"""`topic adopt`: a directory becomes a partition, or nothing changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.broker.adopt import Adopted, adopt, forget_producers
from logd.errors import (
    DataDirectoryError,
    InvalidRequestError,
    InvalidTopicError,
    StorageError,
    TopicExistsError,
)
from logd.record.build import NewRecord, encode_batch
from logd.storage.files import Files
from logd.storage.log import Log
from logd.storage.log_settings import LogSettings
from tests.unit.broker_fakes import Server

DATA = bytes(encode_batch([(b"k", b"v", [], 1000)], base_offset=0))


@pytest.fixture
def server(tmp_path: Path) -> Server:
    (tmp_path / "server").mkdir()
    return Server(tmp_path / "server")


async def take(
    server: Server, path: Path | str, name: str | None = None, partition: int | None = None
) -> Adopted:
    return await adopt(server.topics, str(path), name=name, partition=partition, reserve_bytes=0)


def outside(tmp_path: Path, name: str, data: bytes = DATA) -> Path:
    directory = tmp_path / name
    directory.mkdir(parents=True)
    (directory / "00000000000000000000.log").write_bytes(data)
    return directory


async def test_an_unknown_directory_becomes_a_topic(server: Server) -> None:
    """One of our own, reported at start, is a live partition and stays one after a restart."""
    server.write_log("orders-0", DATA)
    await server.start()
    (path,) = server.topics.unknown_paths
    adopted = await take(server, path)
    assert (adopted.topic, adopted.partition, adopted.directory) == ("orders", 0, path)
    assert server.topics.unknown_paths == []
    for now in (server, await server.restarted()):
        assert now.topics.partition("orders", 0).high_watermark == len(DATA)
        assert now.topics.unknown_paths == []
        assert now.topics.partition_count == 1


async def test_one_from_elsewhere_is_copied(server: Server, tmp_path: Path) -> None:
    """The original stays as it was; lower partitions of a new topic are empty."""
    source = outside(tmp_path, "kafka/orders-2")
    await take(server, f"{source}/")
    topic = server.topics.by_name["orders"]
    assert [partition.high_watermark for partition in server.topics.open_partitions()] == [
        0,
        0,
        len(DATA),
    ]
    assert server.topics.partition_count == len(topic.partitions) == 3
    assert [path.name for path in source.iterdir()] == ["00000000000000000000.log"]
    assert server.directories() == ["orders-0", "orders-1", "orders-2"]


async def test_its_siblings_follow(server: Server, tmp_path: Path) -> None:
    """The other partitions take the places of the empty ones, or are added."""
    for index in (2, 0, 3):
        await take(server, outside(tmp_path, f"kafka/orders-{index}"))
    again = await server.restarted()
    assert [partition.high_watermark for partition in again.topics.open_partitions()] == [
        len(DATA),
        0,
        len(DATA),
        len(DATA),
    ]
    assert again.topics.unknown_paths == []


async def test_another_name(server: Server, tmp_path: Path) -> None:
    """Name and number may be given, where the directory's say nothing or something else."""
    await take(server, outside(tmp_path, "backup"), name="orders", partition=0)
    server.write_log("strange-name-5", DATA)
    await server.topics.look_for_unknown()
    await take(server, server.topics.unknown_paths[0], name="orders", partition=1)
    assert server.directories() == ["orders-0", "orders-1"]


async def test_producers_are_forgotten(server: Server, tmp_path: Path) -> None:
    """The ids in a log from elsewhere may be other producers' here: none is remembered."""
    await take(server, outside(tmp_path, "kafka/orders-0"))
    assert server.partition("orders").log.checkpoints == 1


async def test_records_are_never_replaced(server: Server, tmp_path: Path) -> None:
    """A partition with records, and a directory in use, are refused; nothing changes."""
    await server.topics.create("orders", 2, {})
    server.partition("orders", 0).hold(5)
    with pytest.raises(TopicExistsError):
        await take(server, outside(tmp_path, "kafka/orders-0"))
    with pytest.raises(DataDirectoryError):
        await take(server, server.path / "topics" / "orders-1")
    with pytest.raises(DataDirectoryError):
        await take(server, server.path / "topics" / "orders-1", name="other")
    assert server.factory.retired == []
    assert list(server.topics.by_name) == ["orders"]


async def test_unknown_records_in_the_way(server: Server, tmp_path: Path) -> None:
    """Where another unknown directory lies, that one must be taken in first."""
    server.write_log("orders-0", DATA)
    with pytest.raises(DataDirectoryError, match="orders-0"):
        await take(server, outside(tmp_path, "kafka/orders-0"))
    with pytest.raises(TopicExistsError, match="orders-0"):
        await take(server, outside(tmp_path, "kafka/orders-1"))
    assert server.topics.by_name == {}


@pytest.mark.parametrize(
    ("directory", "name", "partition", "error"),
    [
        ("backup", None, None, InvalidRequestError),
        ("backup", "orders", None, InvalidRequestError),
        ("a-0", "a/b", None, InvalidTopicError),
        ("a-0", "__consumer_offsets", None, InvalidTopicError),
        ("a-0", "old.one", None, InvalidTopicError),
        ("a-0", None, 100_000, InvalidRequestError),
        ("a-0", None, -1, InvalidRequestError),
    ],
)
async def test_bad_destinations(
    server: Server,
    tmp_path: Path,
    directory: str,
    name: str | None,
    partition: int | None,
    error: type[Exception],
) -> None:
    """A place that no partition can have is refused before anything is looked at."""
    await server.topics.create("old_one", 1, {})
    with pytest.raises(error):
        await take(server, outside(tmp_path, directory), name, partition)
    assert server.directories() == ["old_one-0"]


async def test_a_log_that_cannot_be_opened_stays_unknown(server: Server) -> None:
    """What recovery refuses is not in the catalog, and the directory is still there."""
    server.write_log("orders-0", DATA)
    server.factory.fail["orders", 0] = OSError(5, "Input/output error")
    with pytest.raises(StorageError):
        await take(server, server.path / "topics" / "orders-0")
    assert server.catalog.topics() == []
    assert server.directories() == ["orders-0"]


def recovered(directory: Path) -> Log:
    log, _ = Log.recover(
        Files(),
        str(directory),
        topic_id=bytes(range(16)),
        topic="orders",
        partition=0,
        settings=LogSettings(),
        sync_point=None,
        same_boot=False,
    )
    return log


def test_forgotten_producers_stay_forgotten(tmp_path: Path) -> None:
    """After a crash, too: the checkpoint says that the log's old batches are nobody's here."""
    rows: list[NewRecord] = [(b"k", b"v" * 5000, [], 1000)]
    batches = [
        encode_batch(rows, base_offset=at, producer_id=7, producer_epoch=0, base_sequence=at)
        for at in range(3)
    ]
    directory = outside(tmp_path, "orders-0", b"".join(batches))
    log = recovered(directory)
    assert [entry.producer_id for entry in log.producers.entries()] == [7]
    forget_producers(log)
    assert log.producers.entries() == []
    log.let_go()
    assert recovered(directory).producers.entries() == []
