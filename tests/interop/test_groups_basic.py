"""A consumer in a group reads, commits, and goes on where it was after the server's kill -9; and
what clients' libraries do not show: single requests over the wire.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiokafka
import confluent_kafka
import pytest

from logd.wire.error_codes import ErrorCode
from logd.wire.messages import (
    delete_topics,
    find_coordinator,
    heartbeat,
    join_group,
    offset_commit,
    offset_fetch,
    sync_group,
)
from tests.raw_client import RawClient
from tests.server_process import ServerProcess

with warnings.catch_warnings():
    # It reads its schemas at import by a way that Python will drop.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka

pytestmark = [
    pytest.mark.interop,
    # The same, for schemas that it reads when they are first used.
    pytest.mark.filterwarnings("ignore:read_text is deprecated:DeprecationWarning"),
]

RECORDS = 20
TIMEOUT_S = 60


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    settings = ("--set", "group.initial.rebalance.delay.ms=50", "--set", "num.partitions=1")
    with ServerProcess(tmp_path / "data", *settings) as process:
        producer = confluent_kafka.Producer({"bootstrap.servers": process.bootstrap})
        for number in range(RECORDS):
            producer.produce("t", b"%d" % number)
        assert producer.flush(TIMEOUT_S) == 0
        yield process
        assert "Traceback" not in process.log()
        assert " ERROR " not in process.log()


# --- clients -------------------------------------------------------------------------------------


def read_with_librdkafka(bootstrap: str, count: int) -> list[int]:
    """Read so many records as a member, commit, leave; return their numbers."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "g",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe(["t"])
    found: list[int] = []
    deadline = time.monotonic() + TIMEOUT_S
    while len(found) < count and time.monotonic() < deadline:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            found.append(int(message.value()))
    consumer.commit(
        offsets=[confluent_kafka.TopicPartition("t", 0, found[-1] + 1)], asynchronous=False
    )
    consumer.close()
    return found


def read_with_aiokafka(bootstrap: str, count: int) -> list[int]:
    """As above."""

    async def run() -> list[int]:
        consumer = aiokafka.AIOKafkaConsumer(
            "t",
            bootstrap_servers=bootstrap,
            group_id="g",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            found = [int((await consumer.getone()).value) for _ in range(count)]
            await consumer.commit()
        finally:
            await consumer.stop()
        return found

    return asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))


def read_with_kafka_python(bootstrap: str, count: int) -> list[int]:
    """As above."""
    consumer = kafka.KafkaConsumer(
        "t",
        bootstrap_servers=bootstrap,
        group_id="g",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=TIMEOUT_S * 1000,
        max_poll_records=1,
    )
    found = [int(message.value) for _, message in zip(range(count), consumer, strict=False)]
    consumer.commit()
    consumer.close()
    return found


@pytest.mark.parametrize("read", [read_with_librdkafka, read_with_aiokafka, read_with_kafka_python])
def test_a_member_goes_on_where_it_was(
    server: ServerProcess, read: Callable[[str, int], list[int]]
) -> None:
    """Join, read, commit, kill -9 of the server, join again: nothing twice, nothing left out."""
    first = read(server.bootstrap, 7)
    assert first == list(range(7))
    server.kill()
    server.start()
    assert read(server.bootstrap, RECORDS - 7) == list(range(7, RECORDS))


# --- single requests -----------------------------------------------------------------------------


def become_member(client: RawClient, group: str = "g") -> tuple[str, int]:
    """Join as the only member and take an assignment; return member id and generation."""
    protocol = join_group.JoinGroupRequestProtocol(name="range", metadata=b"\0\0\0\0\0\0")
    request = find_coordinator.FindCoordinatorRequest(coordinator_keys=[group])
    assert client.ask(find_coordinator, request, 4).coordinators[0].error_code == 0
    join = join_group.JoinGroupRequest(
        group_id=group,
        session_timeout_ms=10_000,
        rebalance_timeout_ms=10_000,
        protocol_type="consumer",
        protocols=[protocol],
    )
    joined = client.ask(join_group, join, 3)
    assignment = sync_group.SyncGroupRequestAssignment(
        member_id=joined.member_id, assignment=b"\0\0\0\0\0\1\0\1t\0\0\0\1\0\0\0\0\0\0\0\0"
    )
    sync = sync_group.SyncGroupRequest(
        group_id=group,
        generation_id=joined.generation_id,
        member_id=joined.member_id,
        assignments=[assignment],
    )
    assert client.ask(sync_group, sync, 3).error_code == 0
    return joined.member_id, joined.generation_id


def a_commit(offset: int, seat: tuple[str, int] | None = None, group: str = "g") -> Any:
    partition = offset_commit.OffsetCommitRequestPartition(
        partition_index=0, committed_offset=offset, committed_metadata="note"
    )
    request = offset_commit.OffsetCommitRequest(
        group_id=group,
        topics=[offset_commit.OffsetCommitRequestTopic(name="t", partitions=[partition])],
    )
    if seat is not None:
        request.member_id, request.generation_id_or_member_epoch = seat
    return request


def committed(client: RawClient, group: str = "g") -> list[tuple[int, str]]:
    asked = offset_fetch.OffsetFetchRequestGroup(group_id=group, topics=None)
    request = offset_fetch.OffsetFetchRequest(groups=[asked])
    (found,) = client.ask(offset_fetch, request, 8).groups
    assert found.error_code == 0
    return [
        (one.committed_offset, one.metadata) for topic in found.topics for one in topic.partitions
    ]


def test_heartbeats_and_commits_in_any_mixture(server: ServerProcess) -> None:
    """Many of each on one connection, one by one and in a row: each is answered, in order."""
    with RawClient(server) as client:
        member_id, generation = become_member(client)
        beat = heartbeat.HeartbeatRequest(
            group_id="g", generation_id=generation, member_id=member_id
        )
        wrong = heartbeat.HeartbeatRequest(group_id="g", generation_id=9, member_id=member_id)
        for _ in range(5):
            assert client.ask(heartbeat, beat, 4).error_code == 0
        for offset in range(1, 6):
            commit = a_commit(offset, (member_id, generation))
            assert client.ask(offset_commit, commit, 8).topics[0].partitions[0].error_code == 0
            assert committed(client) == [(offset, "note")]
            assert client.ask(heartbeat, beat, 4).error_code == 0
        for _ in range(3):
            client.send(heartbeat, beat, 4)
            client.send(heartbeat, wrong, 3)
            client.send(offset_commit, a_commit(7, (member_id, generation)), 6)
            client.send(heartbeat, beat, 4)
        for _ in range(3):
            assert client.receive(heartbeat, 4).error_code == 0
            assert client.receive(heartbeat, 3).error_code == ErrorCode.ILLEGAL_GENERATION
            answer = client.receive(offset_commit, 6)
            assert answer.topics[0].partitions[0].error_code == 0
            assert client.receive(heartbeat, 4).error_code == 0
        assert committed(client) == [(7, "note")]


@pytest.mark.parametrize("end", [ServerProcess.kill, ServerProcess.stop])
def test_commits_of_many_connections_are_all_there(
    server: ServerProcess, end: Callable[[ServerProcess], int | None]
) -> None:
    """Each connection commits again as soon as it is answered; what was answered is there."""
    clients = [RawClient(server) for _ in range(20)]
    become_member(clients[0], "first")
    acknowledged = dict.fromkeys(range(len(clients)), 0)
    for offset in range(1, 40):
        for number, client in enumerate(clients):
            client.send(offset_commit, a_commit(offset, group=f"group-{number}"), 8)
        for number, client in enumerate(clients):
            answer = client.receive(offset_commit, 8)
            assert answer.topics[0].partitions[0].error_code == 0
            acknowledged[number] = offset
    for number, client in enumerate(clients[::2]):
        client.send(offset_commit, a_commit(1000, group=f"group-{2 * number}"), 8)
    assert not end(server)
    for client in clients:
        client.sock.close()
    server.start()
    with RawClient(server) as client:
        for number, offset in acknowledged.items():
            ((found, note),) = committed(client, f"group-{number}")
            assert note == "note"
            assert found in (offset, 1000)


def test_a_client_that_goes_away_while_it_joins(server: ServerProcess) -> None:
    """Its place is kept for its session; the server and the others go on."""
    with RawClient(server) as client:
        become_member(client)
    for _ in range(3):
        with RawClient(server) as client:
            protocol = join_group.JoinGroupRequestProtocol(name="range", metadata=b"x")
            request = join_group.JoinGroupRequest(
                group_id="g",
                session_timeout_ms=6_000,
                rebalance_timeout_ms=10_000,
                protocol_type="consumer",
                protocols=[protocol],
            )
            client.send(join_group, request, 3)
    with RawClient(server) as client:
        become_member(client, "other")


def test_groups_on_the_admin_port(server: ServerProcess) -> None:
    """A list, one group with lag, 404 for one that is not there; the lag is on /metrics."""
    group = "a/b ü?"

    def get(path: str) -> Any:
        url = f"http://{server.admin[0]}:{server.admin[1]}{path}"
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return response.read()

    with RawClient(server) as client:
        seat = become_member(client, group)
        client.ask(offset_commit, a_commit(3, seat, group), 8)
        (row,) = json.loads(get("/v1/groups"))
        assert (row["group"], row["state"], row["members"], row["offsets"]) == (
            group, "Stable", 1, 1,
        )  # fmt: skip
        document = json.loads(get("/v1/groups/" + urllib.parse.quote(group, safe="")))
        assert document["members"][0]["assignment"] == [{"topic": "t", "partitions": [0]}]
        assert (document["offsets"][0]["committed_offset"], document["offsets"][0]["lag"]) == (
            3,
            RECORDS - 3,
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            get("/v1/groups/none")
        refused.value.close()
        assert refused.value.code == 404
        lines = get("/metrics").decode().splitlines()
        series = f'logd_group_lag{{group="{group}",partition="0",topic="t"}} {RECORDS - 3}'
        assert series in lines
        assert 'logd_groups{state="Stable"} 1' in lines


def test_commits_go_with_their_topic(server: ServerProcess) -> None:
    """Deleted, they are gone at once and after kill -9."""
    with RawClient(server) as client:
        become_member(client, "other")
        client.ask(offset_commit, a_commit(5), 8)
        assert committed(client) == [(5, "note")]
        request = delete_topics.DeleteTopicsRequest(topic_names=["t"], timeout_ms=1000)
        assert client.ask(delete_topics, request, 4).responses[0].error_code == 0
        assert committed(client) == []
    server.kill()
    server.start()
    with RawClient(server) as client:
        assert committed(client) == []
