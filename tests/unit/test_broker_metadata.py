"""Metadata: which topics, who leads them, and which are made on first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from logd.wire.error_codes import ErrorCode
from logd.wire.messages import metadata
from tests.unit.broker_fakes import CLUSTER_ID, Server
from tests.unit.broker_requests import ask, versions_of

NO_ID = bytes(16)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


async def describe(
    server: Server, *names: str, version: int = 13, create: bool = True, **fields: Any
) -> metadata.MetadataResponse:
    topics: Any = [metadata.MetadataRequestTopic(name=name) for name in names]
    request = metadata.MetadataRequest(topics=topics, allow_auto_topic_creation=create)
    for field, value in fields.items():
        setattr(request, field, value)
    response: metadata.MetadataResponse = await ask(server, metadata, request, version)
    return response


@pytest.mark.parametrize("version", versions_of(metadata))
async def test_this_broker_is_all_there_is(server: Server, version: int) -> None:
    """One broker, which is the controller and leads each partition; every version says so."""
    topic = await server.topics.create("orders", 2, {})
    response = await describe(server, "orders", version=version)
    assert [(one.node_id, one.host, one.port) for one in response.brokers] == [
        (1, "127.0.0.1", 9092)
    ]
    (found,) = response.topics
    assert (found.error_code, found.name) == (0, "orders")
    assert [(part.partition_index, part.leader_id) for part in found.partitions] == [
        (0, 1),
        (1, 1),
    ]
    assert [(part.replica_nodes, part.isr_nodes) for part in found.partitions] == [
        ([1], [1]),
        ([1], [1]),
    ]
    assert found.topic_id == (topic.topic_id if version >= 10 else NO_ID)
    if version >= 1:
        assert response.controller_id == 1
    if version >= 2:
        assert response.cluster_id == CLUSTER_ID
    if version >= 7:
        assert found.partitions[0].leader_epoch == 0
    if version >= 8:
        assert found.topic_authorized_operations == -(2**31)


@pytest.mark.parametrize("version", versions_of(metadata))
async def test_all_topics_and_no_topics(server: Server, version: int) -> None:
    """Null asks for all; an empty list for none, but in version 0 for all."""
    await server.topics.create("a", 1, {})
    await server.topics.create("__consumer_offsets", 1, {})
    some = await describe(server, version=version)
    assert len(some.topics) == (2 if version == 0 else 0)
    if version >= 1:
        all_topics = await describe(server, version=version, topics=None)
        assert {(one.name, one.is_internal) for one in all_topics.topics} == {
            ("a", False),
            ("__consumer_offsets", True),
        }


@pytest.mark.parametrize("version", versions_of(metadata))
async def test_created_on_first_use(server: Server, version: int) -> None:
    """A name that nobody used becomes a topic of num.partitions, if the client lets it."""
    response = await describe(server, "new", "new", version=version)
    assert [(one.error_code, len(one.partitions)) for one in response.topics] == [(0, 4)]
    assert len(server.topics.by_name["new"].partitions) == 4
    if version >= 4:
        refused = await describe(server, "other", version=version, create=False)
        assert refused.topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert "other" not in server.topics.by_name


async def test_creation_on_first_use_can_be_switched_off(server: Server) -> None:
    """auto.create.topics.enable=false, set while running, stops it at once."""
    await server.topics.alter_server({"auto.create.topics.enable": "false"})
    response = await describe(server, "new")
    assert response.topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    await server.topics.alter_server({"num.partitions": "7"})
    response = await describe(server, "new")
    assert len(response.topics[0].partitions) == 7


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a/b", ErrorCode.INVALID_TOPIC),
        ("", ErrorCode.INVALID_TOPIC),
        ("x" * 250, ErrorCode.INVALID_TOPIC),
        ("__consumer_offsets", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ],
)
async def test_names_that_are_never_created(server: Server, name: str, code: ErrorCode) -> None:
    """A bad name is an error of that topic alone, and nothing is made."""
    response = await describe(server, name, "good")
    assert [(one.name, one.error_code) for one in response.topics] == [(name, code), ("good", 0)]
    assert list(server.topics.by_name) == ["good"]


async def test_by_topic_id(server: Server) -> None:
    """From version 12 on a topic is found by its id; an id that is gone is said to be unknown."""
    topic = await server.topics.create("orders", 1, {})
    asked = [
        metadata.MetadataRequestTopic(name=None, topic_id=topic.topic_id),
        metadata.MetadataRequestTopic(name=None, topic_id=b"\1" * 16),
        metadata.MetadataRequestTopic(name=None),
    ]
    response = await describe(server, version=12, topics=asked)
    assert [(one.name, one.error_code) for one in response.topics] == [
        ("orders", 0),
        (None, ErrorCode.UNKNOWN_TOPIC_ID),
        ("", ErrorCode.INVALID_REQUEST),
    ]
    early = await describe(server, version=11, topics=asked[:1])
    assert early.topics[0].error_code == ErrorCode.INVALID_REQUEST


async def test_an_offline_partition_is_led_by_us_and_listed_as_offline(server: Server) -> None:
    """Clients come here and hear why, instead of looking for a leader for ever."""
    await server.topics.create("orders", 2, {})
    server.partition("orders", 0).offline = "sync failed"
    server.topics.by_name["orders"].partitions[1] = None
    response = await describe(server, "orders")
    for part in response.topics[0].partitions:
        assert (part.error_code, part.leader_id) == (0, 1)
        assert (part.isr_nodes, part.offline_replicas) == ([], [1])


@pytest.mark.parametrize("version", [8, 10, 13])
async def test_what_may_be_done_is_told_to_who_asks(server: Server, version: int) -> None:
    """All that there is to do with a topic and with the cluster, as nobody is authorized."""
    await server.topics.create("orders", 1, {})
    response = await describe(
        server,
        "orders",
        "a/b",
        version=version,
        include_topic_authorized_operations=True,
        include_cluster_authorized_operations=version <= 10,
    )
    found, refused = response.topics
    assert found.topic_authorized_operations == 0b1101_1111_1000
    assert refused.topic_authorized_operations == -(2**31)
    cluster = 0b1_1111_1010_0000 if version <= 10 else -(2**31)
    assert response.cluster_authorized_operations == cluster
