"""`logd consume`: read partitions from a place on, by assignment, without a group.

Without --follow it reads to the high watermarks it saw at the start: it ends, however fast others
append meanwhile. A partition that gives nothing although its watermark says there is more is
reported as stalled, not waited for: a damaged range answers with errors that clients retry.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, cast

import click

from cli.errors import Refused
from cli.kafka import CALL_TIMEOUT_S, Connection, Watermarks, list_watermarks, no_partition
from cli.options import Target, common_options, pass_target
from cli.record_format import Consumed, Headers, compile_format
from cli.render import json_bytes, json_line

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

STALL_S: Final = 20.0
# Where librdkafka has told of trouble, the server is gone, not slow.
UNREACHABLE_S: Final = 4.0
WAKE_S: Final = 0.1
BATCH_RECORDS: Final = 2000


@dataclass(slots=True)
class Progress:
    """Where each partition stands: the next offset, and the one to stop before (None: never)."""

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

    def takes(self, partition: int, offset: int) -> bool:
        """Return whether the record is to be printed, and count it."""
        self.next_offset[partition] = offset + 1
        if self.left == 0:
            return False
        if self.stop_before is not None and offset >= self.stop_before[partition]:
            return False
        if self.left is not None:
            self.left -= 1
        return True


def _compiled(ctx: click.Context, param: click.Parameter, text: str | None) -> object:
    if text is None:
        return None
    try:
        return compile_format(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


@click.command()
@click.argument("topic")
@click.option("--partition", type=click.IntRange(min=0), help="Only this one  [default: all]")
@click.option(
    "--from",
    "start",
    default="earliest",
    show_default=True,
    metavar="earliest|latest|OFFSET|ISO-TIME",
    help="Where to begin; a time as 2026-01-31T12:00:00Z (without zone: local time).",
)
@click.option("--count", type=click.IntRange(min=0), help="Stop after so many records.")
@click.option("--follow", is_flag=True, help="Wait for more at the end, until Ctrl-C.")
@click.option(
    "--format",
    "formatter",
    metavar="F",
    callback=_compiled,
    help=r"As kcat's -f: %t topic %p partition %o offset %k key %v value %T time in ms %h headers.",
)
@common_options("bootstrap", "json")
@pass_target
def consume(
    target: Target,
    topic: str,
    partition: int | None,
    start: str,
    count: int | None,
    follow: bool,
    formatter: Callable[[Consumed], bytes] | None,
) -> None:
    """Print a topic's records, a value a line.

    \b
    Example:
      logd consume orders --from 2026-01-31T00:00:00Z --json
      logd consume orders --partition 0 --from 1000 --count 10 --format '%o %k %v\\n'
    """
    if formatter is not None and target.json:
        raise click.UsageError("--format and --json exclude each other")
    write = formatter or (_json_record if target.json else _value_line)
    place = parse_start(start)
    connection = Connection(target.bootstrap)
    consumer = _consumer(connection)
    partitions = _partitions(connection, consumer, topic, partition)
    marks = list_watermarks(connection, topic, partitions)
    begin = _begin(connection, consumer, topic, marks, place)
    stop = None if follow else {number: marks[number].high for number in partitions}
    progress = Progress(next_offset=dict(begin), stop_before=stop, left=count)
    try:
        _read(connection, consumer, topic, progress, write)
    finally:
        consumer.close()


def parse_start(text: str) -> str | int | datetime:
    """Return what --from says: "earliest", "latest", an offset, or a time.

    Raises:
        click.UsageError: none of these.
    """
    if text in ("earliest", "latest"):
        return text
    if text.isascii() and text.isdigit():  # 20260131 would be a date too: an offset is meant.
        return int(text)
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise click.UsageError(
            f"--from {text!r} is none of earliest, latest, an offset, or a time as "
            "2026-01-31T12:00:00Z"
        ) from error


def _consumer(connection: Connection) -> Consumer:
    from confluent_kafka import Consumer

    settings = connection.settings(
        group_id="logd-cli",  # The library wants one; by assignment it is never joined.
        enable_auto_commit=False,
        enable_auto_offset_store=False,
        enable_partition_eof=True,  # Tells of the end also where the last offsets are gaps.
        auto_offset_reset="error",
        fetch_wait_max_ms=100,
        queued_min_messages=1_000_000,  # The default pauses for a second at 100,000.
        queued_max_messages_kbytes=64 * 1024,
        check_crcs=True,
    )
    return Consumer(settings)


def _partitions(
    connection: Connection, consumer: Consumer, topic: str, partition: int | None
) -> list[int]:
    numbers = connection.partitions(consumer, topic)
    if partition is None:
        return numbers
    if partition not in numbers:
        raise no_partition(topic, partition, len(numbers))
    return [partition]


def _begin(
    connection: Connection,
    consumer: Consumer,
    topic: str,
    marks: Mapping[int, Watermarks],
    place: str | int | datetime,
) -> dict[int, int]:
    if place == "earliest":
        return {number: mark.low for number, mark in marks.items()}
    if place == "latest":
        return {number: mark.high for number, mark in marks.items()}
    if isinstance(place, datetime):
        return _offsets_at(connection, consumer, topic, marks, place)
    assert isinstance(place, int)
    for number, mark in marks.items():
        if not mark.low <= place <= mark.high:
            raise Refused(
                f"offset {place} is out of range: {topic} partition {number} holds offsets "
                f"from {mark.low} to before {mark.high}"
                + ("" if len(marks) == 1 else "; choose one with --partition")
            )
    return dict.fromkeys(marks, place)


def _offsets_at(
    connection: Connection,
    consumer: Consumer,
    topic: str,
    marks: Mapping[int, Watermarks],
    at: datetime,
) -> dict[int, int]:
    from confluent_kafka import TopicPartition

    at_ms = max(0, round(at.timestamp() * 1000))
    asked = [TopicPartition(topic, number, at_ms) for number in marks]
    found = connection.call(
        f"offsets of {topic} by time",
        lambda: consumer.offsets_for_times(asked, timeout=CALL_TIMEOUT_S),
    )
    for place in found:
        if place.error is not None:
            raise connection.translate(place.error, f"offsets of {topic} by time")
    # A negative offset: no record is that young. Begin at the end.
    return {p.partition: p.offset if p.offset >= 0 else marks[p.partition].high for p in found}


def _read(
    connection: Connection,
    consumer: Consumer,
    topic: str,
    progress: Progress,
    write: Callable[[Consumed], bytes],
) -> None:
    from confluent_kafka import TopicPartition

    consumer.assign([TopicPartition(topic, p, o) for p, o in progress.next_offset.items()])
    out = sys.stdout.buffer
    moved_at = time.monotonic()
    while not progress.finished():
        messages = consumer.consume(num_messages=BATCH_RECORDS, timeout=WAKE_S)
        now = time.monotonic()
        for message in messages:
            _take(connection, topic, message, progress, write, out.write)
        if messages:
            moved_at = now
            out.flush()
        elif progress.stop_before is not None and now - moved_at > (
            UNREACHABLE_S if connection.trouble else STALL_S
        ):
            raise _stalled(connection, topic, progress)


def _take(
    connection: Connection,
    topic: str,
    message: Message,
    progress: Progress,
    write: Callable[[Consumed], bytes],
    out: Callable[[bytes], object],
) -> None:
    from confluent_kafka import KafkaError

    partition, offset = message.partition(), message.offset()
    error = message.error()
    if error is not None:
        if error.code() != KafkaError._PARTITION_EOF:
            raise connection.translate(error, f"consume {topic}")
        if partition is not None and offset is not None:
            progress.next_offset[partition] = max(progress.next_offset[partition], offset)
        return
    assert partition is not None
    assert offset is not None
    if progress.takes(partition, offset):
        out(write(_consumed(topic, partition, offset, message)))


def _consumed(topic: str, partition: int, offset: int, message: Message) -> Consumed:
    # The library types headers as what may be sent; what was read is always name and bytes.
    headers = cast("Headers", message.headers() or [])
    timestamp_ms = message.timestamp()[1]
    return Consumed(topic, partition, offset, timestamp_ms, message.key(), message.value(), headers)


def _stalled(connection: Connection, topic: str, progress: Progress) -> click.ClickException:
    stops = progress.stop_before or {}
    behind = [p for p, stop in sorted(stops.items()) if progress.next_offset[p] < stop]
    if connection.trouble:
        return connection.unreachable(f"consume {topic}")
    places = ", ".join(f"partition {p} at offset {progress.next_offset[p]}" for p in behind)
    return Refused(
        f"{topic}: nothing came for {STALL_S:.0f} s from {places}; "
        "`logd status` says whether a range is damaged"
    )


def _value_line(record: Consumed) -> bytes:
    return (record.value or b"") + b"\n"


def _json_record(record: Consumed) -> bytes:
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
