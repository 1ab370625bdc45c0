"""Answers far larger than their requests are not made ahead of their being read.

A receive buffer holds tens of thousands of small requests. What of their answers is in memory is
bounded for each connection, whatever is asked; all are sent, in order, to a client that reads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from confluent_kafka import Producer

from logd.wire.messages import (
    describe_configs,
    describe_groups,
    fetch,
    list_groups,
    offset_commit,
    offset_fetch,
)
from tests.interop.group_server import TIMEOUT_S, group_server, new_name, new_topic, quiet
from tests.interop.raw_group import (
    Line,
    RawMember,
    assert_goes_on,
    find_the_coordinator,
    flood,
    frame,
)
from tests.server_process import ServerProcess, read_frame

pytestmark = pytest.mark.interop

MIB = 1024 * 1024
RESIDENT_GROWTH_MAX = 32 * MIB
METADATA_BYTES = 4096
"""Of a commit, the most that there may be (offset.metadata.max.bytes)."""

Question = tuple[ModuleType, Any, int]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with group_server(tmp_path_factory.mktemp("ahead") / "data") as process:
        find_the_coordinator(process)
        yield process
        assert "Traceback" not in process.log()


@pytest.fixture(scope="module")
def topic(server: ServerProcess) -> str:
    return new_topic(server, partitions=16)


@pytest.fixture(scope="module")
def member(server: ServerProcess, topic: str) -> Iterator[RawMember]:
    """Of a group that much is known about: some 100 KB of metadata, 64 KB of commits."""
    protocols = (("range", b"x" * 100_000),)
    with RawMember(server, new_name("group"), protocols=protocols) as member:
        member.join()
        for partition in range(16):
            asked = member.commit_request(
                topic, 1, partition=partition, metadata="m" * METADATA_BYTES
            )
            answer = member.line.ask(offset_commit, asked, 9)
            assert answer.topics[0].partitions[0].error_code == 0
        yield member


def described(member: RawMember) -> Question:
    return describe_groups, describe_groups.DescribeGroupsRequest(groups=[member.group]), 6


def fetched(member: RawMember) -> Question:
    asked = offset_fetch.OffsetFetchRequestGroup(group_id=member.group, topics=None)
    return offset_fetch, offset_fetch.OffsetFetchRequest(groups=[asked]), 8


def fetched_stable(member: RawMember) -> Question:
    module, asked, version = fetched(member)
    asked.require_stable = True
    return module, asked, version


def listed(_member: RawMember) -> Question:
    return list_groups, list_groups.ListGroupsRequest(), 4


def settings(_member: RawMember) -> Question:
    resource = describe_configs.DescribeConfigsResource(resource_type=4, resource_name="1")
    resource.configuration_keys = None
    asked = describe_configs.DescribeConfigsRequest(
        resources=[resource], include_synonyms=True, include_documentation=True
    )
    return describe_configs, asked, 4


QUESTIONS = [described, fetched, fetched_stable, listed, settings]


@pytest.mark.parametrize("question", QUESTIONS)
def test_asking_without_end_and_without_reading(
    server: ServerProcess, member: RawMember, topic: str, question: Callable[..., Question]
) -> None:
    """The server stops reading; its memory grows by no more than a bound, and others are served."""
    resident = server.resident_bytes()
    with Line(server) as line:
        flood(line, frame(*question(member)) * 2000, member)
        assert server.resident_bytes() - resident < RESIDENT_GROWTH_MAX
        assert_goes_on(member, topic)


def test_asking_behind_a_request_that_waits(
    server: ServerProcess, member: RawMember, topic: str
) -> None:
    """Answers that are ready but not due yet count as well."""
    resident = server.resident_bytes()
    with Line(server) as line:
        line.send(*waiting_fetch(topic))
        flood(line, frame(*described(member)) * 2000, member)
        assert server.resident_bytes() - resident < RESIDENT_GROWTH_MAX
        assert_goes_on(member, topic)


def waiting_fetch(topic: str) -> Question:
    """Of a partition without records, for ten minutes."""
    wanted = fetch.FetchPartition(partition=15, fetch_offset=0, partition_max_bytes=MIB)
    asked = fetch.FetchRequest(
        max_wait_ms=600_000,
        min_bytes=1,
        max_bytes=MIB,
        topics=[fetch.FetchTopic(topic=topic, partitions=[wanted])],
    )
    return fetch, asked, 11


@pytest.mark.parametrize("question", QUESTIONS)
def test_all_are_answered_in_order(
    server: ServerProcess, member: RawMember, question: Callable[..., Question]
) -> None:
    """However many were asked at once: a client that reads gets every answer, in its order."""
    count = 500
    one = bytearray(frame(*question(member)))
    frames = bytearray()
    for number in range(count):
        one[8:12] = struct.pack(">i", number)
        frames += one
    with Line(server) as line:
        line.socket.sendall(frames)
        for number in range(count):
            answer = read_frame(line.socket)
            assert answer[:4] == struct.pack(">i", number)


def test_a_large_answer_leaves_an_idle_server_whole(server: ServerProcess) -> None:
    """More than the share of a turn follows without anybody's help, also where a time-out rather
    than a client brought it about.
    """
    topic = new_topic(server, partitions=1)
    value = "v" * 100_000
    producer = Producer(quiet(server))
    for _ in range(40):
        producer.produce(topic, value)
    assert producer.flush(TIMEOUT_S) == 0
    del producer
    wanted = fetch.FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=8 * MIB)
    asked = fetch.FetchRequest(
        max_wait_ms=300,
        min_bytes=8 * MIB,
        max_bytes=8 * MIB,
        topics=[fetch.FetchTopic(topic=topic, partitions=[wanted])],
    )
    with Line(server) as line:
        answer = line.ask(fetch, asked, 11)
    assert len(answer.responses[0].partitions[0].records) > 4_000_000
