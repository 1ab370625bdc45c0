"""Compacted topics for tests with real clients: filled, modelled by a dict, read back."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from tests.server_process import ServerProcess

TIMEOUT_S = 60  # Of a busy machine.
NO_LIMIT = str(2**62)

Model = dict[bytes, tuple[int, bytes | None]]
"""Key to offset and value of its last record, of one partition."""


def create(server: ServerProcess, topic: str, partitions: int = 1, **config: str) -> None:
    """Make a compacted topic with small segments."""
    settings = {
        "cleanup.policy": "compact",
        "segment.bytes": "100000",
        **{name.replace("_", "."): value for name, value in config.items()},
    }
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1, config=settings)])[topic].result(TIMEOUT_S)


def produce(
    server: ServerProcess,
    topic: str,
    pairs: Iterable[tuple[bytes, bytes | None]],
    model: Model,
    *,
    partition: int = 0,
    **config: Any,
) -> None:
    """Append pairs, acknowledged by the sync; note in the model where each key's last one is.

    At most 500 go into a batch: all 8000 in one would be one segment, which is no log to compact.
    """
    failures: list[object] = []

    def delivered(error: object, message: Any) -> None:
        if error is not None:
            failures.append(error)
        elif model.get(message.key(), (-1, b""))[0] < message.offset():
            model[message.key()] = message.offset(), message.value()

    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": server.bootstrap,
            "acks": "all",
            "linger.ms": 5,
            "batch.num.messages": 500,
            **config,
        }
    )
    for number, (key, value) in enumerate(pairs):
        producer.produce(topic, key=key, value=value, partition=partition, on_delivery=delivered)
        if number % 1000 == 0:
            producer.poll(0)
    assert producer.flush(TIMEOUT_S) == 0
    assert not failures


def random_pairs(
    chance: random.Random, count: int, *, keys: int, tombstones: float = 0.05
) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield records of so many keys, some of them tombstones."""
    for number in range(count):
        key = b"key-%d" % chance.randrange(keys)
        yield key, None if chance.random() < tombstones else b"value %d " % number * 3


def read(server: ServerProcess, topic: str, *, partition: int = 0, start: int = 0) -> list[Any]:
    """Return all messages of a partition from an offset on, with librdkafka."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": server.bootstrap,
            "group.id": "unused",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,  # The end is told when a fetch has waited in vain.
        }
    )
    consumer.assign([TopicPartition(topic, partition, start)])
    messages = []
    while True:
        for message in consumer.consume(1000, 0.1):
            if message.error() is None:
                messages.append(message)
            else:
                assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF
                consumer.close()
                return messages


def survivors(messages: Iterable[Any]) -> Model:
    """Return what is left of each key; offsets must rise."""
    found: Model = {}
    last_offset = -1
    for message in messages:
        assert message.offset() > last_offset
        last_offset = message.offset()
        found[message.key()] = message.offset(), message.value()
    return found


def alter(
    server: ServerProcess,
    kind: ResourceType,
    name: str,
    *,
    timeout_s: float = TIMEOUT_S,
    **config: str,
) -> None:
    """Change settings of a topic or of the server while it runs."""
    changes = [
        ConfigEntry(key.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for key, value in config.items()
    ]
    resource = ConfigResource(kind, name, incremental_configs=changes)
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    changed = admin.incremental_alter_configs([resource], request_timeout=timeout_s)
    for future in changed.values():
        future.result(timeout_s)


def slow_down(server: ServerProcess, bytes_per_s: int | None) -> None:
    """Give the cleaner a budget, so that a test finds it at work; None: none again."""
    budget = NO_LIMIT if bytes_per_s is None else str(bytes_per_s)
    alter(server, ResourceType.BROKER, "1", log_cleaner_io_max_bytes_per_second=budget)


def cleaner_pids(server: ServerProcess) -> list[int]:
    """Return the processes that the server started and that are still there."""
    pids: list[int] = []
    for task in _tasks(server.pid):
        try:
            with open(f"/proc/{server.pid}/task/{task}/children") as file:
                pids += map(int, file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # A thread that has just ended.
    return pids


@contextmanager
def held(server: ServerProcess) -> Iterator[int]:
    """Wait for a round's process, which stands still inside, however long that takes; its PID."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (pids := [pid for pid in cleaner_pids(server) if _is_at_work(pid)]):
        assert time.monotonic() < deadline, "no round began"
        time.sleep(0.01)
    os.kill(pids[0], signal.SIGSTOP)
    try:
        yield pids[0]
    finally:
        with suppress(ProcessLookupError):  # It may have been ended meanwhile.
            os.kill(pids[0], signal.SIGCONT)


def _is_at_work(pid: int) -> bool:
    """Whether it is the program: stopped before that, it would hold up who starts it."""
    try:
        return b"cleaner_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _tasks(pid: int) -> list[str]:
    return os.listdir(f"/proc/{pid}/task")
