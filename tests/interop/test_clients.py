"""Real clients produce, consume and administer: librdkafka, aiokafka and kafka-python,
unchanged.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import warnings
from collections.abc import Iterator
from typing import Any

import aiokafka
import confluent_kafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
TIMEOUT_S = 60
_names = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("clients") / "data") as process:
        yield process
        assert "Traceback" not in process.log()


@pytest.fixture
def topic(server: ServerProcess) -> str:
    """A new topic with three partitions."""
    name = f"topic-{next(_names)}"
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    admin.create_topics([NewTopic(name, 3, 1)])[name].result(TIMEOUT_S)
    return name


def produce(server: ServerProcess, topic: str, count: int, **config: Any) -> None:
    failures: list[object] = []
    producer = confluent_kafka.Producer({"bootstrap.servers": server.bootstrap, **config})
    for number in range(count):
        producer.produce(
            topic,
            value=b"value %d" % number,
            key=b"key %d" % number,
            partition=0,
            timestamp=1_700_000_000_000 + number * 1000,
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
    assert producer.flush(TIMEOUT_S) == 0
    assert not failures


def consume(server: ServerProcess, topic: str, count: int, **config: Any) -> list[Any]:
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": server.bootstrap,
            "group.id": "unused",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            **config,
        }
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, confluent_kafka.OFFSET_BEGINNING)])
    messages: list[Any] = []
    deadline = time.monotonic() + TIMEOUT_S
    while len(messages) < count and time.monotonic() < deadline:
        for message in consumer.consume(count, 0.5):
            assert message.error() is None
            messages.append(message)
    consumer.close()
    return messages


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("idempotent", [False, True])
def test_librdkafka_reads_back_what_it_wrote(
    server: ServerProcess, topic: str, codec: str, idempotent: bool
) -> None:
    """Keys, values, timestamps and order survive, in each codec, with and without idempotence."""
    config = {"compression.type": codec, "enable.idempotence": idempotent, "linger.ms": 5}
    produce(server, topic, 2000, **config)
    messages = consume(server, topic, 2000)
    assert [m.offset() for m in messages] == list(range(2000))
    assert [m.value() for m in messages] == [b"value %d" % n for n in range(2000)]
    assert messages[7].key() == b"key 7"
    assert messages[7].timestamp()[1] == 1_700_000_000_000 + 7000


def test_librdkafka_checks_our_crcs(server: ServerProcess, topic: str) -> None:
    """With check.crcs on, nothing is refused: the server patches what the CRC does not cover."""
    produce(server, topic, 500)
    assert len(consume(server, topic, 500, **{"check.crcs": True})) == 500


@pytest.mark.parametrize("codec", CODECS)
def test_aiokafka_and_librdkafka_read_each_other(
    server: ServerProcess, topic: str, codec: str
) -> None:
    """What one client wrote another reads: record bytes pass through unchanged."""

    async def run() -> list[bytes | None]:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=server.bootstrap,
            compression_type=None if codec == "none" else codec,
            enable_idempotence=True,
        )
        await producer.start()
        try:
            for number in range(300):
                await producer.send(topic, b"value %d" % number, partition=0)
        finally:
            await producer.stop()
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=server.bootstrap, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            partition = aiokafka.TopicPartition(topic, 0)
            consumer.assign([partition])
            await consumer.seek_to_beginning(partition)
            values: list[bytes | None] = []
            while len(values) < 300:
                async with asyncio.timeout(TIMEOUT_S):
                    values.append((await consumer.getone()).value)
            return values
        finally:
            await consumer.stop()

    expected = [b"value %d" % n for n in range(300)]
    assert asyncio.run(run()) == expected
    assert [m.value() for m in consume(server, topic, 300)] == expected


def test_aiokafka_admin_creates_describes_and_deletes(server: ServerProcess) -> None:
    """The oldest protocol versions among the clients' admin calls work."""

    async def run() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=server.bootstrap)
        await admin.start()
        try:
            name = f"aio-{next(_names)}"
            await admin.create_topics([aiokafka.admin.NewTopic(name, 2, 1)])
            assert name in await admin.list_topics()
            described = await admin.describe_topics([name])
            assert len(described[0]["partitions"]) == 2
            await admin.delete_topics([name])
            assert name not in await admin.list_topics()
        finally:
            await admin.close()

    asyncio.run(run())


def test_kafka_python_produces_consumes_and_administers(server: ServerProcess) -> None:
    """kafka-python 3: idempotent by default, incremental fetch sessions, admin."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import kafka
        from kafka.admin import KafkaAdminClient
        from kafka.admin import NewTopic as KafkaPythonTopic

        name = f"kp-{next(_names)}"
        admin = KafkaAdminClient(bootstrap_servers=server.bootstrap)
        admin.create_topics([KafkaPythonTopic(name, 1, 1)])
        producer = kafka.KafkaProducer(bootstrap_servers=server.bootstrap, acks="all")
        futures = [producer.send(name, b"value %d" % n) for n in range(500)]
        assert [f.get(TIMEOUT_S).offset for f in futures] == list(range(500))
        producer.close()
        consumer = kafka.KafkaConsumer(
            bootstrap_servers=server.bootstrap,
            auto_offset_reset="earliest",
            consumer_timeout_ms=TIMEOUT_S * 1000,
            group_id=None,
        )
        consumer.assign([kafka.TopicPartition(name, 0)])
        values = [m.value for m in itertools.islice(consumer, 500)]
        consumer.close()
        admin.delete_topics([name])
        admin.close()
    assert values == [b"value %d" % n for n in range(500)]


def test_consumer_that_follows_gets_new_records_at_once(server: ServerProcess, topic: str) -> None:
    """A long poll is answered by the append, not by its time-out."""
    produce(server, topic, 1)
    wait_ms = 4 * TIMEOUT_S * 1000
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": server.bootstrap,
            "group.id": "x",
            "fetch.wait.max.ms": wait_ms,
            "socket.timeout.ms": wait_ms + 10_000,
        }
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 1)])
    assert consumer.poll(1.0) is None
    produce(server, topic, 1)
    message = consumer.poll(TIMEOUT_S)
    assert message is not None, "the poll under way goes on for far longer"
    assert message.offset() == 1
    consumer.close()


def test_offsets_by_time_are_exact(server: ServerProcess, topic: str) -> None:
    """The first record at or after a time, inside compressed batches too; -1 behind the last."""
    produce(server, topic, 1000, **{"compression.type": "lz4", "linger.ms": 50})
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": server.bootstrap, "group.id": "unused"}
    )
    for number in (0, 1, 499, 999):
        at = 1_700_000_000_000 + number * 1000
        (found,) = consumer.offsets_for_times(
            [confluent_kafka.TopicPartition(topic, 0, at - 500)], timeout=TIMEOUT_S
        )
        assert found.offset == number
    (behind,) = consumer.offsets_for_times(
        [confluent_kafka.TopicPartition(topic, 0, 1_800_000_000_000)], timeout=TIMEOUT_S
    )
    assert behind.offset == confluent_kafka.OFFSET_END
    assert consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, 0)) == (0, 1000)
    consumer.close()


def test_list_offsets_knows_earliest_latest_and_the_greatest_timestamp(
    server: ServerProcess, topic: str
) -> None:
    """-2, -1 and -3, through the admin client."""
    produce(server, topic, 10)
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    partition = confluent_kafka.TopicPartition(topic, 0)

    def ask(spec: OffsetSpec) -> int:
        futures = admin.list_offsets({partition: spec})
        return int(futures[partition].result(TIMEOUT_S).offset)

    assert ask(OffsetSpec.earliest()) == 0
    assert ask(OffsetSpec.latest()) == 10
    assert ask(OffsetSpec.max_timestamp()) == 9


def test_delete_records_moves_the_start(server: ServerProcess, topic: str) -> None:
    """What was deleted cannot be read; the rest keeps its offsets."""
    produce(server, topic, 100)
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    partition = confluent_kafka.TopicPartition(topic, 0, 40)
    result = admin.delete_records([partition])[confluent_kafka.TopicPartition(topic, 0)]
    assert result.result(TIMEOUT_S).low_watermark == 40
    assert [m.offset() for m in consume(server, topic, 60)] == list(range(40, 100))


def test_settings_change_without_a_restart_and_are_described(
    server: ServerProcess, topic: str
) -> None:
    """IncrementalAlterConfigs takes effect on the next batch; DescribeConfigs shows the source."""
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    resource = ConfigResource(
        ConfigResource.Type.TOPIC,
        topic,
        incremental_configs=[
            ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)
        ],
    )
    admin.incremental_alter_configs([resource])[resource].result(TIMEOUT_S)
    described = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)])
    entries = next(iter(described.values())).result(TIMEOUT_S)
    assert entries["max.message.bytes"].value == "2000"
    assert not entries["max.message.bytes"].is_default
    assert entries["retention.ms"].is_default
    errors: list[Any] = []
    producer = confluent_kafka.Producer({"bootstrap.servers": server.bootstrap})
    producer.produce(topic, b"x" * 5000, partition=0, on_delivery=lambda e, _: errors.append(e))
    producer.flush(TIMEOUT_S)
    assert errors[0].code() == confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE


def test_partitions_are_added_and_bad_settings_are_refused(
    server: ServerProcess, topic: str
) -> None:
    """CreatePartitions grows a topic; CreateTopics with nonsense says INVALID_CONFIG."""
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    admin.create_partitions([NewPartitions(topic, 5)])[topic].result(TIMEOUT_S)
    assert len(admin.list_topics(topic, TIMEOUT_S).topics[topic].partitions) == 5
    future = admin.create_topics([NewTopic("bad", 1, 1, config={"retention.ms": "soon"})])["bad"]
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        future.result(TIMEOUT_S)
    assert refused.value.args[0].code() == confluent_kafka.KafkaError.INVALID_CONFIG


def test_a_deleted_topics_name_is_free_at_once(server: ServerProcess, topic: str) -> None:
    """Delete and create again: empty, with another id."""
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    produce(server, topic, 10)
    before = admin.describe_topics(confluent_kafka.TopicCollection([topic]))[topic]
    admin.delete_topics([topic])[topic].result(TIMEOUT_S)
    admin.create_topics([NewTopic(topic, 3, 1)])[topic].result(TIMEOUT_S)
    after = admin.describe_topics(confluent_kafka.TopicCollection([topic]))[topic]
    assert str(before.result(TIMEOUT_S).topic_id) != str(after.result(TIMEOUT_S).topic_id)
    produce(server, topic, 3)
    assert len(consume(server, topic, 3)) == 3


def test_transactions_are_refused_with_a_fatal_error_and_no_hang(server: ServerProcess) -> None:
    """What this version does not have says so."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": server.bootstrap, "transactional.id": "t"}
    )
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        producer.init_transactions(TIMEOUT_S)
    error = refused.value.args[0]
    assert error.fatal() or not error.retriable()


def test_everything_survives_a_restart_and_a_kill(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Records, settings and topics are there after a clean stop and after kill -9."""
    server = ServerProcess(tmp_path_factory.mktemp("restart") / "data")
    with server:
        produce(server, "kept", 100)
        assert server.stop() == 0
        server.start()
        assert len(consume(server, "kept", 100)) == 100
        produce(server, "kept", 100, acks="all")
        server.kill()
        server.start()
        messages = consume(server, "kept", 200)
        assert [m.offset() for m in messages] == list(range(200))
        produce(server, "kept", 1)
        assert consume(server, "kept", 201)[-1].offset() == 200
