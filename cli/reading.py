"""What `consume` does with records, however it came by them: which to print, where it stands.

Without --follow a reader goes up to the high watermarks it saw at the start: it ends, however fast
others append meanwhile. A partition that gives nothing although its watermark says there is more is
reported as stalled, not waited for: a damaged range answers with errors that clients retry.
"""

from __future__ import annotations

import io
import select
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, cast

import click

from cli.errors import Refused
from cli.kafka import Connection
from cli.record_format import Consumed, Headers
from cli.render import json_bytes, json_line

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

STALL_S: Final = 20.0
# Where librdkafka has told of trouble, the server is gone, not slow.
UNREACHABLE_S: Final = 4.0
WAKE_S: Final = 0.1
BATCH_RECORDS: Final = 2000

Write = Callable[[Consumed], bytes]


@dataclass(slots=True)
class Progress:
    """Where each partition stands, and where to end.

    `next_offset`: everything before it that lies behind the beginning was printed, or is a gap.
    `stop_before` (None: never) names the partitions that are not at their end yet or are.
    `left` is how many records may still be printed (None: any number).
    """

    next_offset: dict[int, int]
    stop_before: dict[int, int] | None
    left: int | None

    def finished(self) -> bool:
        """Return whether there is nothing left to read."""
        if self.left == 0:
            return True
        return self.stop_before is not None and all(
            self.next_offset[partition] >= stop for partition, stop in self.stop_before.items()
        )

    def wants(self, partition: int, offset: int) -> bool:
        """Return whether the record is to be printed; `printed` must follow when it is."""
        if self.left == 0 or offset < self.next_offset.get(partition, offset + 1):
            return False
        if self.stop_before is not None and offset >= self.stop_before[partition]:
            self.next_offset[partition] = self.stop_before[partition]
            return False
        return True

    def printed(self, partition: int, offset: int) -> None:
        """Count a record that was written."""
        self.next_offset[partition] = offset + 1
        if self.left is not None:
            self.left -= 1

    def ended(self, partition: int, offset: int) -> None:
        """The partition has nothing more before `offset`: what is left of it there is a gap."""
        if self.left == 0 or partition not in self.next_offset:
            return  # Records that were not printed may lie before it.
        if self.stop_before is not None:
            offset = min(offset, self.stop_before[partition])
        self.next_offset[partition] = max(self.next_offset[partition], offset)


def take(
    topic: str, message: Message, progress: Progress, write: Write, out: Callable[[bytes], object]
) -> KafkaError | None:
    """Print a record if it is wanted; return the error if it is none."""
    from confluent_kafka import KafkaError

    partition, offset = message.partition(), message.offset()
    error = message.error()
    if error is not None:
        if error.code() != KafkaError._PARTITION_EOF:
            return error
        if partition is not None and offset is not None:
            progress.ended(partition, offset)
        return None
    assert partition is not None
    assert offset is not None
    if progress.wants(partition, offset):
        out(write(_consumed(topic, partition, offset, message)))
        progress.printed(partition, offset)
    return None


def _consumed(topic: str, partition: int, offset: int, message: Message) -> Consumed:
    # The library types headers as what may be sent; what was read is always name and bytes.
    headers = cast("Headers", message.headers() or [])
    timestamp_ms = message.timestamp()[1]
    return Consumed(topic, partition, offset, timestamp_ms, message.key(), message.value(), headers)


def stalled(connection: Connection, topic: str, progress: Progress) -> click.ClickException:
    """Return the error for partitions that give nothing although there is more."""
    stops = progress.stop_before or {}
    behind = [p for p, stop in sorted(stops.items()) if progress.next_offset[p] < stop]
    if connection.trouble:
        return connection.unreachable(f"consume {topic}")
    places = ", ".join(f"partition {p} at offset {progress.next_offset[p]}" for p in behind)
    return Refused(
        f"{topic}: nothing came for {STALL_S:.0f} s from {places}; "
        "`logd status` says whether a range is damaged"
    )


class Output:
    """Stdout as bytes, and whether anybody still reads it. Use it in a `with`: the end flushes.

    It has a buffer of its own: with PYTHONUNBUFFERED stdout has none, and a record a call is slow.
    """

    def __init__(self) -> None:
        sys.stdout.flush()
        self._file = io.BufferedWriter(io.FileIO(sys.stdout.fileno(), "wb", closefd=False))
        self.write = self._file.write
        self.flush = self._file.flush
        self._poll = select.poll()
        # No event is asked for: what remains are POLLERR and POLLHUP, which always come.
        self._poll.register(self._file, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def check_reader(self) -> None:
        """Return if stdout can be written to.

        Who waits for the next record would else find out only when it comes.

        Raises:
            BrokenPipeError: the other end of the pipe is closed.
        """
        if self._poll.poll(0):
            raise BrokenPipeError


def value_line(record: Consumed) -> bytes:
    """Return a record's value and a line's end."""
    return (record.value or b"") + b"\n"


def json_record(record: Consumed) -> bytes:
    """Return a record as a line of JSON."""
    return json_line(
        {
            "partition": record.partition,
            "offset": record.offset,
            "timestamp_ms": record.timestamp_ms,
            "key": json_bytes(record.key),
            "value": json_bytes(record.value),
            "headers": [[name, json_bytes(value)] for name, value in record.headers],
        }
    )
