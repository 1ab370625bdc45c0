"""A member of a consumer group as a program, with one of the Python clients: made to be killed.

    python -m tests.interop.group_member CLIENT BOOTSTRAP TOPIC GROUP SESSION_MS [INSTANCE_ID]

It prints its assignments as `tests.interop.group_server` describes and reads on until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from tests.interop.group_server import HEARTBEAT_MS


def tell(partitions: Iterable[Any]) -> None:
    """Print the event of an assignment; the clients' own kinds of partition are alike in this."""
    numbers = [partition.partition for partition in partitions]
    print(json.dumps({"name": "assigned", "partitions": numbers}), flush=True)


def confluent(bootstrap: str, topic: str, group: str, session_ms: int, instance: str) -> None:
    """librdkafka."""
    import confluent_kafka

    config: dict[str, Any] = {
        "bootstrap.servers": bootstrap, "group.id": group, "session.timeout.ms": session_ms,
        "heartbeat.interval.ms": HEARTBEAT_MS, "log_level": 0,
    }  # fmt: skip
    consumer = confluent_kafka.Consumer(
        {**config, "group.instance.id": instance} if instance else config
    )
    consumer.subscribe([topic], on_assign=lambda _, partitions: tell(partitions))
    while True:
        consumer.poll(1.0)


def kafka_python(bootstrap: str, topic: str, group: str, session_ms: int, instance: str) -> None:
    """kafka-python."""
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka

    consumer = kafka.KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, session_timeout_ms=session_ms,
        heartbeat_interval_ms=HEARTBEAT_MS, group_instance_id=instance or None,
    )  # fmt: skip

    class Listener(kafka.ConsumerRebalanceListener):
        def on_partitions_revoked(self, revoked: Any) -> None:
            """The next assignment tells all."""

        def on_partitions_assigned(self, assigned: Any) -> None:
            tell(assigned)

    consumer.subscribe([topic], listener=Listener())
    while not consumer.partitions_for_topic(topic):
        """What a join that news of the topic began was answered, a poll may forget."""
    while True:
        consumer.poll(1000)


def aio(bootstrap: str, topic: str, group: str, session_ms: int, instance: str) -> None:
    """aiokafka."""
    import aiokafka

    class Listener(aiokafka.ConsumerRebalanceListener):
        def on_partitions_revoked(self, revoked: Any) -> None:
            """The next assignment tells all."""

        def on_partitions_assigned(self, assigned: Any) -> None:
            tell(assigned)

    async def run() -> None:
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=bootstrap, group_id=group, session_timeout_ms=session_ms,
            heartbeat_interval_ms=HEARTBEAT_MS, group_instance_id=instance or None,
        )  # fmt: skip
        consumer.subscribe([topic], listener=Listener())
        await consumer.start()
        while True:
            await consumer.getmany(timeout_ms=1000)

    asyncio.run(run())


CLIENTS = {"confluent": confluent, "kafka-python": kafka_python, "aiokafka": aio}


def main() -> None:
    """Run the client that the arguments name."""
    client, bootstrap, topic, group, session_ms, *instance = sys.argv[1:]
    CLIENTS[client](bootstrap, topic, group, int(session_ms), *(instance or [""]))


if __name__ == "__main__":
    main()
