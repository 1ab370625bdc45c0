"""`logd produce`: a record a line, from a file or stdin, through librdkafka.

The acknowledgement of every record is counted. The first refusal stops the reading: what was sent
before it is waited for, what was not sent yet is dropped, and the message says how far it came.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from cli.kafka import CALL_TIMEOUT_S, Connection, no_partition
from cli.options import Target, common_options, pass_target
from cli.render import print_json

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

TOPIC_WAIT_S: Final = 3.0
# How long one record may wait for its acknowledgement. The first connection is known to work.
DELIVERY_TIMEOUT_MS: Final = 15_000
# librdkafka's own ceilings; what a topic really takes is for the server to say.
LINE_BYTES_MAX: Final = 1_000_000_000
QUEUED_KBYTES_MAX: Final = 256 * 1024
POLL_EVERY: Final = 1000
ANY_PARTITION: Final = -1


@dataclass(slots=True)
class Tally:
    """What became of the records; librdkafka calls `delivered` from within poll and flush."""

    records: int = 0
    payload_bytes: int = 0
    ends: dict[int, tuple[int, int]] = field(default_factory=dict)
    failed: KafkaError | None = None

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        """Count one acknowledgement; the first failure is kept."""
        if error is not None:
            self.failed = self.failed or error
            return
        self.records += 1
        self.payload_bytes += len(message.value() or b"") + len(message.key() or b"")
        offset, partition = message.offset(), message.partition()
        if offset is None or offset < 0 or partition is None:
            return  # acks=0: nobody said an offset.
        first, last = self.ends.get(partition, (offset, offset))
        self.ends[partition] = (min(first, offset), max(last, offset))

    def document(self, seconds: float) -> dict[str, Any]:
        """Return the result; first and last offset only where they belong to one partition."""
        only = next(iter(self.ends.values())) if len(self.ends) == 1 else (None, None)
        return {
            "records": self.records,
            "bytes": self.payload_bytes,
            "seconds": round(seconds, 6),
            "first_offset": only[0],
            "last_offset": only[1],
            "partitions": [
                {"partition": partition, "first_offset": first, "last_offset": last}
                for partition, (first, last) in sorted(self.ends.items())
            ],
        }


@click.command()
@click.argument("topic")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--partition", type=click.IntRange(min=0), help="Send all to this partition.")
@click.option(
    "--key-separator", metavar="S", help="What stands before the first S in a line is the key."
)
@click.option(
    "--acks",
    type=click.Choice(["0", "1", "all"]),
    default="all",
    show_default=True,
    help="all: acknowledged when it is on stable storage; 1: when written; 0: not at all.",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]),
    default="none",
    show_default=True,
    help="How the client compresses batches.",
)
@common_options("bootstrap", "json")
@pass_target
def produce(
    target: Target,
    topic: str,
    file: BinaryIO,
    partition: int | None,
    key_separator: str | None,
    acks: str,
    compression: str,
) -> None:
    """Append a record for each line of FILE, or of stdin.

    \b
    Example:
      seq 1000000 | logd produce numbers --partition 0
      logd produce orders orders.txt --key-separator : --compression zstd
    """
    if key_separator == "":
        raise click.UsageError("--key-separator is empty")
    connection = Connection(target.bootstrap)
    producer = _producer(connection, acks=acks, compression=compression)
    _check_topic(connection, producer, topic, partition)
    separator = None if key_separator is None else key_separator.encode()
    tally = Tally()
    started = time.monotonic()
    try:
        _send(producer, tally, topic, partition, _records(file, separator))
        _finish(connection, producer, tally, topic)
    finally:
        # Whatever ended it: what never left is dropped at once, not retried behind our back.
        producer.purge()
    _report(target, topic, tally.document(time.monotonic() - started))


def _producer(connection: Connection, *, acks: str, compression: str) -> Producer:
    from confluent_kafka import Producer

    settings = connection.settings(
        acks=acks,
        enable_idempotence=acks == "all",  # No line twice, none out of order, over reconnects.
        compression_type=compression,
        partitioner="murmur2_random",  # A key goes where the Java clients would send it.
        message_timeout_ms=DELIVERY_TIMEOUT_MS,
        message_max_bytes=LINE_BYTES_MAX,
        queue_buffering_max_kbytes=QUEUED_KBYTES_MAX,
        queue_buffering_max_messages=1_000_000,
        linger_ms=5,
    )
    return Producer(settings)


def _check_topic(
    connection: Connection, producer: Producer, topic: str, partition: int | None
) -> None:
    """Ask for the topic, which creates it where the server is set to; refuse what cannot work.

    Without this, an unknown topic or partition is a long wait and then a time-out.
    """
    deadline = time.monotonic() + TOPIC_WAIT_S
    while True:
        metadata = connection.call(
            f"produce to {topic}", lambda: producer.list_topics(topic, timeout=CALL_TIMEOUT_S)
        )
        entry = metadata.topics[topic]
        # A topic that is being created has no leaders for a moment.
        if entry.error is None or not entry.error.retriable() or time.monotonic() > deadline:
            break
        producer.poll(0.1)
    if entry.error is not None:
        raise connection.no_topic(topic, entry.error)
    if partition is not None and partition not in entry.partitions:
        raise no_partition(topic, partition, len(entry.partitions))


def _records(file: BinaryIO, separator: bytes | None) -> Iterator[tuple[bytes | None, bytes]]:
    for number, line in enumerate(file, start=1):
        value = line[:-1] if line.endswith(b"\n") else line
        if len(value) > LINE_BYTES_MAX:
            raise click.UsageError(f"line {number} has {len(value)} bytes, too long for a record")
        if separator is None:
            yield None, value
            continue
        key, found, rest = value.partition(separator)
        yield (key, rest) if found else (None, value)


def _send(
    producer: Producer,
    tally: Tally,
    topic: str,
    partition: int | None,
    records: Iterator[tuple[bytes | None, bytes]],
) -> None:
    place = ANY_PARTITION if partition is None else partition
    for number, (key, value) in enumerate(records):
        while True:
            try:
                producer.produce(topic, value, key, place, on_delivery=tally.delivered)
                break
            except BufferError:  # The queue is full: let acknowledgements make room.
                producer.poll(0.1)
            if tally.failed is not None:
                return
        if number % POLL_EVERY == 0:
            producer.poll(0)
            if tally.failed is not None:
                return


def _finish(connection: Connection, producer: Producer, tally: Tally, topic: str) -> None:
    while tally.failed is None and producer.flush(0.1):
        pass  # Short waits, so that Ctrl-C is heard; message.timeout.ms ends it.
    if tally.failed is None:
        return
    error = connection.translate(
        tally.failed, f"produce to {topic}: {tally.records} records were acknowledged, then"
    )
    raise error


def _report(target: Target, topic: str, document: dict[str, Any]) -> None:
    if target.json:
        print_json(document)
        return
    seconds = document["seconds"]
    places = ", ".join(
        f"partition {p['partition']} offsets {p['first_offset']} to {p['last_offset']}"
        for p in document["partitions"]
    )
    click.echo(
        f"{document['records']} records, {document['bytes']} bytes in {seconds:.3f} s"
        f" to {topic}{': ' if places else ''}{places}"
    )
