"""Reading the finished log, with two clients of different authors: librdkafka and aiokafka.

Each reading goes from the beginning to the high watermark that the client is told; a client that
gets no further within a bound stops there, and the judge finds what is missing.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as AioTopicPartition
from confluent_kafka import TopicPartition

from bench.checker.journal import JournalWriter, Seen, Watermark
from bench.checker.payload import digest_of
from bench.checker.workload import journal_message, new_consumer

READ_TIMEOUT_S: Final = 60.0


def read_with_librdkafka(
    journal: JournalWriter, reader: str, *, bootstrap: str, topic: str, partitions: int
) -> None:
    """Read all partitions with librdkafka."""
    consumer = new_consumer(bootstrap)
    assigned = [TopicPartition(topic, partition, 0) for partition in range(partitions)]
    ends = {
        p.partition: consumer.get_watermark_offsets(p, timeout=READ_TIMEOUT_S)[1] for p in assigned
    }
    for partition, end in ends.items():
        journal.write(Watermark(reader, partition, end, time.monotonic_ns()))
    consumer.assign(assigned)
    reached = dict.fromkeys(ends, 0)
    deadline = time.monotonic() + READ_TIMEOUT_S
    while any(reached[p] < end for p, end in ends.items()) and time.monotonic() < deadline:
        for message in consumer.consume(1000, 0.2):
            if journal_message(journal, reader, message):
                reached[message.partition() or 0] = (message.offset() or 0) + 1
    consumer.close()


def read_with_aiokafka(
    journal: JournalWriter, reader: str, *, bootstrap: str, topic: str, partitions: int
) -> None:
    """Read all partitions with aiokafka."""
    asyncio.run(_read_with_aiokafka(journal, reader, bootstrap, topic, partitions))


async def _read_with_aiokafka(
    journal: JournalWriter, reader: str, bootstrap: str, topic: str, partitions: int
) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        check_crcs=True,
    )
    assigned = [AioTopicPartition(topic, partition) for partition in range(partitions)]
    consumer.assign(assigned)
    await consumer.start()
    try:
        ends = {p.partition: end for p, end in (await consumer.end_offsets(assigned)).items()}
        for partition in assigned:
            consumer.seek(partition, 0)
        reached = dict.fromkeys(ends, 0)
        deadline = time.monotonic() + READ_TIMEOUT_S
        while any(reached[p] < end for p, end in ends.items()) and time.monotonic() < deadline:
            for place, messages in (await consumer.getmany(timeout_ms=200)).items():
                for message in messages:
                    journal.write(_seen(reader, place.partition, message))
                    reached[place.partition] = message.offset + 1
    finally:
        await consumer.stop()


def _seen(reader: str, partition: int, message: Any) -> Seen:
    key, value = message.key or b"", message.value or b""
    name = key.decode(errors="replace")
    digest = digest_of(key, value)
    return Seen(reader, partition, message.offset, name, digest, time.monotonic_ns())
