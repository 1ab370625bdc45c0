"""Real files through the log and back: each line a record, the file's name its key.

Records of one key stay in one partition and in order, so every file can be rebuilt from what a
consumer reads. Equal SHA-256 sums of all files show that nothing was lost, added, doubled, swapped
or changed. `logd demo` does it in front of the user, and a test does it with several clients.
"""

from __future__ import annotations

import hashlib
import io
import os
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cli.errors import Refused, Unreachable

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

# Not of the library, and bytecode that a running Python writes while we read.
_SKIPPED: Final = frozenset({"site-packages", "dist-packages", "__pycache__"})
_READ_STALL_S: Final = 30.0
_DELIVERY_TIMEOUT_MS: Final = 60_000
_BATCH_RECORDS: Final = 5000
# A call returns when it has as many records, or after this time with those that came.
_WAKE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Source:
    """A file to send: its path, and its name relative to the root that all are under."""

    path: str
    name: str


def standard_library() -> list[Source]:
    """Return every regular file of the running Python's standard library, in order of name."""
    root = sysconfig.get_path("stdlib")
    found: list[Source] = []
    for directory, names, files in os.walk(root):
        names[:] = sorted(set(names) - _SKIPPED)
        for name in files:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and os.access(path, os.R_OK):
                found.append(Source(path, os.path.relpath(path, root)))
    return sorted(found, key=lambda source: source.name)


def lines(data: bytes) -> Iterator[bytes]:
    """Yield the lines of a file with their ends; an empty file is one empty line."""
    if not data:
        yield b""
    yield from io.BytesIO(data)


@dataclass(slots=True)
class Sent:
    """What was sent so far, and what the server said of it."""

    files: int = 0
    records: int = 0
    payload_bytes: int = 0
    acknowledged: int = 0
    failed: KafkaError | None = None
    digests: dict[bytes, str] = field(default_factory=dict)

    def delivered(self, error: KafkaError | None, _: Message) -> None:
        """Count an acknowledgement; called by librdkafka within poll and flush."""
        if error is None:
            self.acknowledged += 1
        else:
            self.failed = self.failed or error


def append(
    client_settings: Mapping[str, Any],
    topic: str,
    sources: Sequence[Source],
    *,
    each: Callable[[Sent], None] = lambda _: None,
) -> Sent:
    """Append all files; return when every record is acknowledged as durable.

    Args:
        client_settings: librdkafka's, with bootstrap.servers.
        each: called after each file, from between two sends: records may be on their way.

    Raises:
        Refused: a record was refused, or not acknowledged in time.
    """
    from confluent_kafka import Producer

    sent = Sent()
    producer = Producer(
        dict(client_settings)
        | {
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 5,
            "message.timeout.ms": _DELIVERY_TIMEOUT_MS,
            "message.max.bytes": 64 * 1024 * 1024,
            "queue.buffering.max.messages": 200_000,
            "on_delivery": sent.delivered,
        }
    )
    try:
        for source in sources:
            _append_file(producer, topic, source, sent)
            each(sent)
        while sent.failed is None and producer.flush(0.2):
            pass  # Short waits, so that Ctrl-C is heard; message.timeout.ms ends it.
        _check_delivery(sent)
    finally:
        producer.purge()
    assert sent.acknowledged == sent.records
    return sent


def _append_file(producer: Producer, topic: str, source: Source, sent: Sent) -> None:
    with open(source.path, "rb") as file:
        data = file.read()
    key = os.fsencode(source.name)
    for line in lines(data):
        while True:
            try:
                producer.produce(topic, line, key)
                break
            except BufferError:  # The queue is full: let acknowledgements make room.
                producer.poll(0.1)
                _check_delivery(sent)
        sent.records += 1
    sent.files += 1
    sent.payload_bytes += len(data)
    sent.digests[key] = hashlib.sha256(data).hexdigest()
    producer.poll(0)
    _check_delivery(sent)


def _check_delivery(sent: Sent) -> None:
    if sent.failed is not None:
        raise Refused(f"a record was not acknowledged: {sent.failed.str()}")


class Rebuilder:
    """Rebuilds each file's digest from records as they come; keeps no file in memory."""

    def __init__(self) -> None:
        self.records = 0
        self._sums: dict[bytes, Any] = {}

    def add(self, key: bytes | None, value: bytes | None) -> None:
        """Take the next record of its partition."""
        assert key is not None
        assert value is not None
        found = self._sums.get(key)
        if found is None:
            found = self._sums[key] = hashlib.sha256()
        found.update(value)
        self.records += 1

    def digests(self) -> dict[bytes, str]:
        """Return the SHA-256 of each file by name."""
        return {key: found.hexdigest() for key, found in self._sums.items()}


def read_back(
    client_settings: Mapping[str, Any],
    topic: str,
    rebuilder: Rebuilder,
    *,
    each: Callable[[], None] = lambda: None,
) -> None:
    """Give all records that the topic has now to `rebuilder`, with a consumer of its own.

    Args:
        each: called after each handful of records.

    Raises:
        Refused: the server reports an error.
        Unreachable: nothing comes although there is more.
    """
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    consumer = Consumer(
        dict(client_settings)
        | {
            "group.id": "logd-roundtrip",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "queued.min.messages": 1_000_000,
            "fetch.wait.max.ms": 100,
            "check.crcs": True,
        }
    )
    try:
        partitions = sorted(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        places = [TopicPartition(topic, partition) for partition in partitions]
        marks = [consumer.get_watermark_offsets(place, timeout=10) for place in places]
        wanted = sum(high - low for low, high in marks)
        consumer.assign([TopicPartition(topic, p.partition, low)
                         for p, (low, _) in zip(places, marks, strict=True)])  # fmt: skip
        moved_at = time.monotonic()
        while rebuilder.records < wanted:
            messages = consumer.consume(_BATCH_RECORDS, timeout=_WAKE_S)
            if messages:
                moved_at = time.monotonic()
                _take(messages, rebuilder)
                each()
            elif time.monotonic() - moved_at > _READ_STALL_S:
                raise Unreachable(f"read {topic}: nothing came for {_READ_STALL_S:.0f} s")
    except KafkaException as error:
        raise Refused(f"read {topic}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _take(messages: list[Message], rebuilder: Rebuilder) -> None:
    for message in messages:
        error = message.error()
        if error is not None:
            raise Refused(f"a record could not be read: {error.str()}")
        rebuilder.add(message.key(), message.value())


def differing(sent: Mapping[bytes, str], rebuilt: Mapping[bytes, str]) -> list[str]:
    """Return the names of files that are missing, extra or changed."""
    names = sent.keys() | rebuilt.keys()
    return sorted(os.fsdecode(n) for n in names if sent.get(n) != rebuilt.get(n))
