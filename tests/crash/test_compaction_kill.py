"""kill -9 while everything happens at once: appends, compaction, deletion of records, retention,
changes of settings. A dict says what must be there.
"""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, ResourceType

from tests.interop.compacted import TIMEOUT_S, alter, create, read
from tests.server_process import ServerProcess

LIVES = 3
LIFE_S = 2.5
PARTITIONS = 2
KEYS = 60

SETTINGS = (
    *("--set", "log.cleaner.backoff.ms=100"),
    *("--set", "log.cleaner.threads=2"),
    *("--set", "log.retention.check.interval.ms=200"),
)

Version = tuple[int, bytes | None]
"""An offset and a value."""


class Sent:
    """What was sent to one partition.

    Attributes:
        acked: of each key, its acknowledged versions, the last one being the greatest offset.
        unsure: of each key, values that were sent, and perhaps stored.
        deleted_before: records below this offset may be gone; they must be if it was acknowledged.
    """

    def __init__(self) -> None:
        self.acked: dict[bytes, list[Version]] = {}
        self.unsure: dict[bytes, set[bytes | None]] = {}
        self.deleted_before = 0

    def check(self, messages: list[Any], log_start: int) -> None:
        """Hold what a consumer reads against it."""
        assert log_start <= self.deleted_before
        last: dict[bytes, Version] = {}
        offset = -1
        for message in messages:
            assert message.offset() > offset
            offset = message.offset()
            last[message.key()] = offset, message.value()
            versions = self.acked.get(message.key(), [])
            if (offset, message.value()) not in versions:
                assert message.value() in self.unsure.get(message.key(), set()), "never sent"
        for key, versions in self.acked.items():
            self._check_key(key, max(versions), last.get(key), log_start)

    def _check_key(
        self, key: bytes, newest: Version, found: Version | None, log_start: int
    ) -> None:
        offset, value = newest
        if found is not None:
            assert found[0] >= offset, f"{key!r}: {found} came back, {newest} was acknowledged"
        elif offset >= max(log_start, self.deleted_before):
            # Without any record: only a tombstone may be compacted away, sent last or perhaps sent.
            assert value is None or None in self.unsure.get(key, set()), f"{key!r}: {newest} lost"


class Chaos:
    """Producers and meddlers of one life of the server."""

    def __init__(self, server: ServerProcess, sent: list[Sent], seed: int) -> None:
        self.server = server
        self.sent = sent
        self.stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._produce, args=(random.Random(f"{seed} produce"),)),
            threading.Thread(target=self._meddle, args=(random.Random(f"{seed} meddle"),)),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()

    def _produce(self, chance: random.Random) -> None:
        producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": self.server.bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 1500,
                "linger.ms": 2,
            }
        )
        number = 0
        while not self.stopped.is_set():
            for _ in range(50):
                number += 1
                self._send(producer, chance, number)
            producer.poll(0.005)
        producer.purge()  # The server is gone: what was not answered stays unsure.
        producer.flush(TIMEOUT_S)

    def _send(self, producer: Any, chance: random.Random, number: int) -> None:
        index = chance.randrange(PARTITIONS)
        sent = self.sent[index]
        key = b"%d" % chance.randrange(KEYS)
        value = None if chance.random() < 0.1 else b"%d %d" % (id(self), number) + b"." * 50
        sent.unsure.setdefault(key, set()).add(value)

        def delivered(error: object, message: Any) -> None:
            if error is None:
                sent.acked.setdefault(key, []).append((message.offset(), value))

        producer.produce("t", key=key, value=value, partition=index, on_delivery=delivered)

    def _meddle(self, chance: random.Random) -> None:
        admin = AdminClient({"bootstrap.servers": self.server.bootstrap, "socket.timeout.ms": 2000})
        actions = (self._compact, self._delete_records, self._change_settings)
        while not self.stopped.wait(chance.uniform(0.02, 0.2)):
            try:
                chance.choice(actions)(admin, chance)
            except (OSError, confluent_kafka.KafkaException, ValueError):
                continue  # The server was killed just now.

    def _compact(self, _admin: Any, _chance: random.Random) -> None:
        url = "http://{}:{}/v1/compact?topic=t".format(*self.server.admin)
        request = urllib.request.Request(url, method="POST", data=b"")
        with urllib.request.urlopen(request, timeout=2) as answer:
            json.loads(answer.read())

    def _delete_records(self, admin: Any, chance: random.Random) -> None:
        index = chance.randrange(PARTITIONS)
        sent = self.sent[index]
        newest = max((versions[-1][0] for versions in list(sent.acked.values())), default=0)
        before = max(sent.deleted_before, newest - chance.randrange(200, 2000))
        sent.deleted_before = before
        places = [TopicPartition("t", index, before)]
        for future in admin.delete_records(places, request_timeout=2).values():
            future.result(2)

    def _change_settings(self, _admin: Any, chance: random.Random) -> None:
        changes = {
            "min_cleanable_dirty_ratio": chance.choice(("0.01", "0.5")),
            "delete_retention_ms": chance.choice(("0", "200", "86400000")),
            "segment_bytes": chance.choice(("10000", "40000")),
            "cleanup_policy": chance.choice(("compact,delete", "compact,delete", "delete")),
        }
        alter(self.server, ResourceType.TOPIC, "t", timeout_s=2, **changes)


@pytest.mark.slow
def test_what_was_acknowledged_survives_compaction_and_kill_9(
    tmp_path: Path, rng: random.Random
) -> None:
    """Through several lives, of each key the last acknowledged record is there, or a later one;
    nothing that was superseded or deleted comes back; nothing of a round is left over.
    """
    sent = [Sent() for _ in range(PARTITIONS)]
    with ServerProcess(tmp_path / "data", *SETTINGS) as server:
        create(
            server, "t", PARTITIONS, cleanup_policy="compact,delete", segment_bytes="20000",
            retention_ms="-1", delete_retention_ms="100", file_delete_delay_ms="100",
        )  # fmt: skip
        rounds = 0
        for life in range(1, LIVES + 1):
            chaos = Chaos(server, sent, rng.randrange(2**32))
            chaos.start()
            time.sleep(LIFE_S * rng.uniform(0.5, 1.0))
            # On a busy machine a life may have to be longer to show anything.
            deadline = time.monotonic() + TIMEOUT_S
            while acked_count(sent) <= 1000 * life / LIVES or not rounds + rounds_done(server):
                assert time.monotonic() < deadline, "nothing is acknowledged, or compacted"
                time.sleep(0.1)
            rounds += rounds_done(server)
            server.kill()
            chaos.join()
            server.start()
            until(partial(has_no_replacement, server), "what was begun is neither done nor undone")
            check(server, sent)
        assert server.stop() == 0
        server.start()
        check(server, sent)
        assert acked_count(sent) > 1000
        assert rounds > 0
        assert "Traceback" not in server.log()


def has_no_replacement(server: ServerProcess) -> bool:
    """Whether no replacement is under way; the new life's first round may be quick to begin one."""
    return not list(Path(server.data, "topics").glob("*/replacement"))


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def acked_count(sent: list[Sent]) -> int:
    return sum(len(versions) for item in sent for versions in list(item.acked.values()))


def rounds_done(server: ServerProcess) -> int:
    with urllib.request.urlopen("http://{}:{}/metrics".format(*server.admin)) as answer:
        lines = answer.read().decode().splitlines()
    name = 'logd_compaction_rounds_total{outcome="done"} '
    return sum(int(line.removeprefix(name)) for line in lines if line.startswith(name))


def check(server: ServerProcess, sent: list[Sent]) -> None:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": server.bootstrap, "group.id": "unused"}
    )
    for index, item in enumerate(sent):
        low, _ = consumer.get_watermark_offsets(TopicPartition("t", index), TIMEOUT_S)
        messages = read(server, "t", partition=index, start=low)
        low, _ = consumer.get_watermark_offsets(TopicPartition("t", index), TIMEOUT_S)
        item.check(messages, low)
    consumer.close()
