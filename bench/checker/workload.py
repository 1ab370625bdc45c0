"""The clients of a checker run, each a process of its own: `python -m bench.checker.workload ROLE
SPEC`.

They work until their stdin is closed, then finish what they can, close their journal and end with
0. Both are librdkafka: the client that most programs use, by other authors than the server.
"""

from __future__ import annotations

import json
import select
import sys
import time
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from bench.checker.journal import (
    UNKNOWN_OFFSET,
    JournalWriter,
    ReaderError,
    Seen,
    Sent,
    Settled,
    Watermark,
)
from bench.checker.payload import digest_of, key_of, value_of

OUTSTANDING_MAX: Final = 200
FLUSH_S: Final = 60.0
PASS_S: Final = 30.0
PROGRESS_S: Final = 0.02
# Long enough to outlive any restart of the server: an attempt is given up by the run, not by a
# clock.
MESSAGE_TIMEOUT_MS: Final = 300_000
CODECS: Final = ("none", "lz4", "zstd", "gzip", "snappy")
# What librdkafka reports while the server is away; it comes back by itself.
AWAY: Final = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError._PARTITION_EOF,
    }
)
RECONNECT: Final = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200}


def is_over() -> bool:
    """Return whether our parent has closed our stdin."""
    ready, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(ready)


# --- Producer -----------------------------------------------------------------------------------


class JournallingProducer:
    """An idempotent producer that writes down each attempt before it and each answer after it.

    librdkafka ends an idempotent producer by a fatal error when it cannot keep its promise; a new
    incarnation then takes its place, and what was in flight stays unknown.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.journal = JournalWriter(Path(spec["journal"]))
        self.sequences = [0] * spec["partitions"]
        self.outstanding = 0
        self.acknowledged = 0
        self.told_at = 0.0
        self.incarnation = 0
        self.fatal = False
        self.producer = self._new_producer()

    def _new_producer(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self.spec["bootstrap"],
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 2,
                "batch.num.messages": 40,
                "compression.type": CODECS[self.spec["index"] % len(CODECS)],
                "message.timeout.ms": MESSAGE_TIMEOUT_MS,
                "retry.backoff.ms": 20,
                "retry.backoff.max.ms": 200,
                "error_cb": self._note_error,
                **RECONNECT,
            }
        )

    def _note_error(self, error: KafkaError) -> None:
        self.fatal = self.fatal or error.fatal()

    def run(self) -> None:
        """Send until the run is over; then wait for what is in flight."""
        while not is_over():
            if self.fatal:
                self._reincarnate()
            if self.outstanding < OUTSTANDING_MAX:
                self._send_round()
            self.producer.poll(0.002)
            self._tell_progress()
        self.producer.flush(FLUSH_S)
        self.journal.close()

    def _tell_progress(self) -> None:
        """Write a byte to our parent when something was acknowledged since the last one."""
        now = time.monotonic()
        if self.acknowledged and now > self.told_at + PROGRESS_S:
            self.acknowledged = 0
            self.told_at = now
            sys.stdout.write(".")
            sys.stdout.flush()

    def _reincarnate(self) -> None:
        self.producer.purge()
        self.producer.flush(1.0)
        self.incarnation += 1
        self.outstanding = 0
        self.fatal = False
        self.producer = self._new_producer()

    def _send_round(self) -> None:
        for partition in range(len(self.sequences)):
            self._send(partition)

    def _send(self, partition: int) -> None:
        sequence = self.sequences[partition]
        self.sequences[partition] += 1
        who = f"{self.name}.{self.incarnation}"
        key = key_of(self.spec["run"], who, partition, sequence)
        value = value_of(key)
        digest = digest_of(key.encode(), value)
        self.journal.write(Sent(key, who, partition, sequence, digest, time.monotonic_ns()))
        try:
            self.producer.produce(
                self.spec["topic"], value, key, partition, on_delivery=self._settle
            )
        except KafkaException:
            self.fatal = True  # a fatal error that the callback has not told yet
        else:
            self.outstanding += 1

    def _settle(self, error: KafkaError | None, message: Message) -> None:
        key = (message.key() or b"").decode()
        self.outstanding -= 1
        if error is None:
            self.acknowledged += 1
            # librdkafka knows no offset when it was only told "you sent this before".
            offset = message.offset()
            offset = UNKNOWN_OFFSET if offset is None or offset < 0 else offset
            self.journal.write(Settled(key, "ok", offset, time.monotonic_ns()))
        else:
            self.journal.write(Settled(key, "info", UNKNOWN_OFFSET, time.monotonic_ns()))


# --- Tail ---------------------------------------------------------------------------------------


def new_consumer(bootstrap: str) -> Consumer:
    """Return a consumer that commits nothing, checks every CRC, and never jumps by itself."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "checker",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "check.crcs": True,
            "fetch.wait.max.ms": 100,
            "fetch.error.backoff.ms": 50,
            **RECONNECT,
        }
    )


def journal_message(journal: JournalWriter, reader: str, message: Message) -> bool:
    """Write down one message or error; return whether it was a record."""
    error = message.error()
    if error is not None:
        if error.code() not in AWAY:
            journal.write(ReaderError(reader, str(error), time.monotonic_ns()))
        return False
    key, value = message.key() or b"", message.value() or b""
    journal.write(
        Seen(
            reader,
            message.partition() or 0,
            message.offset() or 0,
            key.decode(errors="replace"),
            digest_of(key, value),
            time.monotonic_ns(),
        )
    )
    return True


def follow(spec: dict[str, Any]) -> None:
    """Follow all partitions from their beginning until the run is over and all was seen.

    When stdin is closed, the finished log's end is asked for, and followed up to within a bound.
    """
    journal = JournalWriter(Path(spec["journal"]))
    consumer = new_consumer(spec["bootstrap"])
    partitions = [TopicPartition(spec["topic"], p, 0) for p in range(spec["partitions"])]
    consumer.assign(partitions)
    next_offsets = dict.fromkeys(range(spec["partitions"]), 0)
    ends: dict[int, int] | None = None
    deadline = 0.0
    while ends is None or any(next_offsets[p] < end for p, end in ends.items()):
        for message in consumer.consume(500, 0.1):
            if journal_message(journal, spec["name"], message):
                next_offsets[message.partition() or 0] = (message.offset() or 0) + 1
        if ends is None:
            _note_watermarks(journal, spec["name"], consumer, partitions)
            if is_over():
                ends = {
                    p.partition: consumer.get_watermark_offsets(p, timeout=FLUSH_S)[1]
                    for p in partitions
                }
                deadline = time.monotonic() + FLUSH_S
        elif time.monotonic() > deadline:
            break  # the judge finds what was never shown
    consumer.close()
    journal.close()


def reread(spec: dict[str, Any]) -> None:
    """Read all partitions from the beginning to where they end now, over and over.

    Each pass is a reader of its own; one that a restart holds up is given up after a bound, and
    what it was shown counts.
    """
    journal = JournalWriter(Path(spec["journal"]))
    passes = 0
    while not is_over():
        consumer = new_consumer(spec["bootstrap"])
        try:
            _read_once(spec, consumer, journal, f"{spec['name']}.{passes}")
        except KafkaException:
            time.sleep(0.1)  # The server is away.
        finally:
            consumer.close()
        passes += 1
    journal.close()


def _read_once(
    spec: dict[str, Any], consumer: Consumer, journal: JournalWriter, reader: str
) -> None:
    partitions = [TopicPartition(spec["topic"], p, 0) for p in range(spec["partitions"])]
    ends = {p.partition: consumer.get_watermark_offsets(p, timeout=PASS_S)[1] for p in partitions}
    consumer.assign(partitions)
    next_offsets = dict.fromkeys(ends, 0)
    deadline = time.monotonic() + PASS_S
    while any(next_offsets[p] < end for p, end in ends.items()) and time.monotonic() < deadline:
        for message in consumer.consume(500, 0.1):
            if journal_message(journal, reader, message):
                next_offsets[message.partition() or 0] = (message.offset() or 0) + 1


def _note_watermarks(
    journal: JournalWriter, name: str, consumer: Consumer, partitions: list[TopicPartition]
) -> None:
    for partition in partitions:
        try:
            _, high = consumer.get_watermark_offsets(partition, cached=True)
        except KafkaException:
            continue  # nothing is known yet, or the server is away
        if high >= 0:
            journal.write(Watermark(name, partition.partition, high, time.monotonic_ns()))


def main(arguments: list[str]) -> int:
    """Run one client."""
    role, text = arguments
    spec = json.loads(text)
    if role == "produce":
        JournallingProducer(spec).run()
    elif role == "reread":
        reread(spec)
    else:
        follow(spec)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
