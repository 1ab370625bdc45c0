"""CreateTopics, DeleteTopics, CreatePartitions, DeleteRecords, in every version that is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.wire.error_codes import ErrorCode
from logd.wire.messages import create_partitions, create_topics, delete_records, delete_topics
from tests.unit.broker_fakes import Server
from tests.unit.broker_requests import ask, versions_of

NO_ID = bytes(16)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def new_topic(title: str, **fields: object) -> create_topics.CreatableTopic:
    topic = create_topics.CreatableTopic(name=title, num_partitions=1, replication_factor=1)
    for field, value in fields.items():
        setattr(topic, field, value)
    return topic


async def create(
    server: Server, *topics: create_topics.CreatableTopic, version: int = 7, dry: bool = False
) -> list[create_topics.CreatableTopicResult]:
    request = create_topics.CreateTopicsRequest(topics=list(topics), validate_only=dry)
    response = await ask(server, create_topics, request, version)
    return response.topics  # type: ignore[no-any-return]  # `ask` serves all APIs.


@pytest.mark.parametrize("version", versions_of(create_topics))
async def test_create(server: Server, version: int) -> None:
    """A topic is created; from version 5 on its settings come back, from 7 on its id."""
    configs = [create_topics.CreatableTopicConfig(name="retention.ms", value="60000")]
    (result,) = await create(
        server, new_topic("orders", num_partitions=2, configs=configs), version=version
    )
    topic = server.topics.by_name["orders"]
    assert result.error_code == 0
    assert len(topic.partitions) == 2
    assert topic.settings.retention_ms == 60000
    if version >= 5:
        assert (result.num_partitions, result.replication_factor) == (2, 1)
        assert result.configs is not None
        shown = {entry.name: (entry.value, entry.config_source) for entry in result.configs}
        assert shown["retention.ms"] == ("60000", 1)
        assert shown["segment.bytes"][1] == 5
    assert result.topic_id == (topic.topic_id if version >= 7 else NO_ID)


async def test_create_defaults(server: Server) -> None:
    """-1 partitions are num.partitions, -1 replicas are one."""
    (result,) = await create(server, new_topic("a", num_partitions=-1, replication_factor=-1))
    assert (result.error_code, result.num_partitions) == (0, 4)


def assignment(index: int, *brokers: int) -> create_topics.CreatableReplicaAssignment:
    return create_topics.CreatableReplicaAssignment(partition_index=index, broker_ids=list(brokers))


def config(name: str, value: str | None) -> create_topics.CreatableTopicConfig:
    return create_topics.CreatableTopicConfig(name=name, value=value)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "a/b"}, ErrorCode.INVALID_TOPIC),
        ({"name": "x" * 250}, ErrorCode.INVALID_TOPIC),
        ({"name": "__consumer_offsets"}, ErrorCode.INVALID_TOPIC),
        ({"name": "old_one"}, ErrorCode.TOPIC_ALREADY_EXISTS),
        ({"name": "old.one"}, ErrorCode.INVALID_TOPIC),
        ({"num_partitions": 0}, ErrorCode.INVALID_PARTITIONS),
        ({"num_partitions": -2}, ErrorCode.INVALID_PARTITIONS),
        ({"num_partitions": 10**9}, ErrorCode.INVALID_PARTITIONS),
        ({"replication_factor": 3}, ErrorCode.INVALID_REPLICATION_FACTOR),
        ({"replication_factor": 0}, ErrorCode.INVALID_REPLICATION_FACTOR),
        ({"configs": [config("retention.ms", "1e30")]}, ErrorCode.INVALID_CONFIG),
        ({"configs": [config("retention.ms", None)]}, ErrorCode.INVALID_CONFIG),
        (
            {"configs": [config("retention.ms", "1"), config("retention.ms", "2")]},
            ErrorCode.INVALID_CONFIG,
        ),
        ({"assignments": [assignment(0, 1)]}, ErrorCode.INVALID_REQUEST),
        (
            {"assignments": [assignment(0, 2)], "num_partitions": -1, "replication_factor": -1},
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
        ),
        (
            {"assignments": [assignment(1, 1)], "num_partitions": -1, "replication_factor": -1},
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
        ),
    ],
)
async def test_refused_creations(
    server: Server, fields: dict[str, object], code: ErrorCode
) -> None:
    """What cannot be is refused by itself, with a reason, and without a null array."""
    await server.topics.create("old_one", 1, {})
    bad = new_topic("bad", **fields)
    refused, made = await create(server, bad, new_topic("good"))
    assert refused.error_code == code
    assert refused.error_message
    assert refused.configs == []
    # "" instead of null is a message for some clients.
    assert (made.error_code, made.error_message) == (0, None)
    assert sorted(server.topics.by_name) == ["good", "old_one"]


async def test_assignments_to_this_broker_count_the_partitions(server: Server) -> None:
    """A manual assignment is accepted where it says what would be done anyway."""
    (result,) = await create(
        server,
        new_topic(
            "a",
            num_partitions=-1,
            replication_factor=-1,
            assignments=[assignment(1, 1), assignment(0, 1)],
        ),
    )
    assert result.error_code == 0
    assert len(server.topics.by_name["a"].partitions) == 2


async def test_a_name_twice_is_refused_once(server: Server) -> None:
    """Duplicates in a request get one INVALID_REQUEST a name, and nothing is created."""
    results = await create(server, new_topic("a"), new_topic("b"), new_topic("a"))
    assert [(one.name, one.error_code) for one in results] == [
        ("a", ErrorCode.INVALID_REQUEST),
        ("b", 0),
    ]
    assert list(server.topics.by_name) == ["b"]


async def test_validate_only_says_and_does_not(server: Server) -> None:
    """A dry run finds the same errors and creates nothing."""
    good, bad = await create(server, new_topic("a"), new_topic("b", num_partitions=0), dry=True)
    assert (good.error_code, bad.error_code) == (0, ErrorCode.INVALID_PARTITIONS)
    assert server.directories() == []


# --- DeleteTopics --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", versions_of(delete_topics))
async def test_delete_by_name(server: Server, version: int) -> None:
    """A topic is deleted by its name; an unknown name is said to be."""
    await server.topics.create("orders", 1, {})
    names = ["orders", "nothing"]
    request = delete_topics.DeleteTopicsRequest(topic_names=names)
    if version >= 6:
        topics = [delete_topics.DeleteTopicState(name=name) for name in names]
        request = delete_topics.DeleteTopicsRequest(topics=topics)
    response = await ask(server, delete_topics, request, version)
    assert [(one.name, one.error_code) for one in response.responses] == [
        ("orders", 0),
        ("nothing", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]
    assert server.topics.by_name == {}


async def test_delete_by_id(server: Server) -> None:
    """From version 6 on by id: an id that is gone, both, neither and twice are told apart."""
    topic = await server.topics.create("orders", 1, {})
    kept = await server.topics.create("kept", 1, {})
    state = delete_topics.DeleteTopicState
    request = delete_topics.DeleteTopicsRequest(
        topics=[
            state(topic_id=topic.topic_id),
            state(topic_id=b"\1" * 16),
            state(name="kept", topic_id=kept.topic_id),
            state(),
            state(topic_id=kept.topic_id),
            state(topic_id=kept.topic_id),
        ]
    )
    response = await ask(server, delete_topics, request, 6)
    assert [one.error_code for one in response.responses] == [
        0,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_REQUEST,
    ]
    assert response.responses[0].name == "orders"
    assert response.responses[1].name is None
    assert list(server.topics.by_name) == ["kept"]


async def test_what_may_not_be_deleted(tmp_path: Path) -> None:
    """The server's own topics stay, and all do where delete.topic.enable is false."""
    server = Server(tmp_path)
    await server.topics.create("__consumer_offsets", 1, {})
    await server.topics.create("orders", 1, {})
    request = delete_topics.DeleteTopicsRequest(topic_names=["__consumer_offsets"])
    response = await ask(server, delete_topics, request, 5)
    assert response.responses[0].error_code == ErrorCode.INVALID_TOPIC
    await server.topics.alter_server({"delete.topic.enable": "false"})
    request = delete_topics.DeleteTopicsRequest(topic_names=["orders"])
    response = await ask(server, delete_topics, request, 5)
    assert response.responses[0].error_code == ErrorCode.TOPIC_DELETION_DISABLED
    assert len(server.topics.by_name) == 2


# --- CreatePartitions ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", versions_of(create_partitions))
async def test_create_partitions(server: Server, version: int) -> None:
    """Exactly one result a topic; each topic succeeds or fails by itself."""
    for name in ("a", "b", "c", "d"):
        await server.topics.create(name, 2, {})
    one = create_partitions.CreatePartitionsTopic
    to_me = create_partitions.CreatePartitionsAssignment(broker_ids=[1])
    to_two = create_partitions.CreatePartitionsAssignment(broker_ids=[2])
    request = create_partitions.CreatePartitionsRequest(
        topics=[
            one(name="a", count=3, assignments=None),
            one(name="b", count=2, assignments=None),
            one(name="c", count=3, assignments=[to_me, to_me]),
            one(name="d", count=3, assignments=[to_two]),
            one(name="none", count=3, assignments=None),
        ]
    )
    response = await ask(server, create_partitions, request, version)
    assert [(result.name, result.error_code) for result in response.results] == [
        ("a", 0),
        ("b", ErrorCode.INVALID_PARTITIONS),
        ("c", ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ("d", ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ("none", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]
    assert [len(topic.partitions) for topic in server.topics.by_name.values()] == [3, 2, 2, 2]


async def test_create_partitions_dry_and_twice(server: Server) -> None:
    """validate_only changes nothing; a name given twice is refused once."""
    await server.topics.create("a", 1, {})
    one = create_partitions.CreatePartitionsTopic(name="a", count=2, assignments=None)
    dry = create_partitions.CreatePartitionsRequest(topics=[one], validate_only=True)
    response = await ask(server, create_partitions, dry, 3)
    assert response.results[0].error_code == 0
    twice = create_partitions.CreatePartitionsRequest(topics=[one, one])
    response = await ask(server, create_partitions, twice, 3)
    assert [result.error_code for result in response.results] == [ErrorCode.INVALID_REQUEST]
    assert len(server.topics.by_name["a"].partitions) == 1


# --- DeleteRecords -------------------------------------------------------------------------------


async def delete(server: Server, *asked: tuple[str, int, int], version: int = 2) -> list[object]:
    topics = [
        delete_records.DeleteRecordsTopic(
            name=name,
            partitions=[
                delete_records.DeleteRecordsPartition(partition_index=index, offset=offset)
            ],
        )
        for name, index, offset in asked
    ]
    request = delete_records.DeleteRecordsRequest(topics=topics)
    response = await ask(server, delete_records, request, version)
    return [
        (part.error_code, part.low_watermark)
        for topic in response.topics
        for part in topic.partitions
    ]


@pytest.mark.parametrize("version", versions_of(delete_records))
async def test_delete_records(server: Server, version: int) -> None:
    """The log start moves up to an offset, or with -1 to the high watermark; never down."""
    await server.topics.create("a", 1, {})
    server.partition("a").hold(100)
    assert await delete(server, ("a", 0, 40), version=version) == [(0, 40)]
    assert await delete(server, ("a", 0, 10), version=version) == [(0, 40)]
    assert await delete(server, ("a", 0, -1), version=version) == [(0, 100)]


async def test_records_whose_sync_is_under_way_can_be_deleted(server: Server) -> None:
    """They were acknowledged, with acks=1; the deletion waits for their sync."""
    await server.topics.create("a", 1, {})
    server.partition("a").hold(10)
    server.partition("a").hold_unsynced(5)
    assert await delete(server, ("a", 0, 14)) == [(0, 14)]
    server.partition("a").hold_unsynced(5)
    assert await delete(server, ("a", 0, -1)) == [(0, 20)]


async def test_records_are_deleted_by_hand_where_nothing_else_deletes(server: Server) -> None:
    """cleanup.policy may be empty: neither retention nor compaction, but DeleteRecords."""
    await server.topics.create("a", 1, {"cleanup.policy": ""})
    server.partition("a").hold(10)
    assert await delete(server, ("a", 0, 4)) == [(0, 4)]


async def test_refused_deletions_of_records(server: Server) -> None:
    """Beyond the end, negative, unknown, twice, internal, or only compacted."""
    for name, overrides in (
        ("a", {}),
        ("compacted", {"cleanup.policy": "compact"}),
        ("__consumer_offsets", {}),
    ):
        await server.topics.create(name, 1, overrides)
        server.partition(name).hold(10)
    out_of_range = (ErrorCode.OFFSET_OUT_OF_RANGE, -1)
    assert await delete(server, ("a", 0, 11)) == [out_of_range]
    assert await delete(server, ("a", 0, -2)) == [out_of_range]
    assert await delete(server, ("a", 1, 5)) == [(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)]
    assert await delete(server, ("b", 0, 5)) == [(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)]
    twice = (ErrorCode.INVALID_REQUEST, -1)
    assert await delete(server, ("a", 0, 5), ("a", 0, 6)) == [twice, twice]
    assert await delete(server, ("compacted", 0, 5)) == [(ErrorCode.POLICY_VIOLATION, -1)]
    assert await delete(server, ("__consumer_offsets", 0, 5)) == [(ErrorCode.INVALID_TOPIC, -1)]
    assert server.partition("a").log_start_offset == 0
