"""`logd consume`: read partitions from a place on, by assignment, or as a member of a group."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from cli.kafka import Connection, list_watermarks, no_partition
from cli.options import GROUP_ID, Target, common_options, pass_target
from cli.places import METAVAR, Where, check_in_range, locate, parse_where
from cli.reading import (
    BATCH_RECORDS,
    STALL_S,
    UNREACHABLE_S,
    WAKE_S,
    Output,
    Progress,
    Write,
    json_record,
    stalled,
    take,
    value_line,
)
from cli.record_format import Consumed, compile_format

if TYPE_CHECKING:
    from confluent_kafka import Consumer


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
    metavar=METAVAR,
    help="Where to begin; a time as 2026-01-31T12:00:00Z (without zone: local time). With --group "
    "only where nothing is committed.",
)
@click.option("--count", type=click.IntRange(min=0), help="Stop after so many records.")
@click.option("--follow", is_flag=True, help="Wait for more at the end, until Ctrl-C.")
@click.option(
    "--group",
    type=GROUP_ID,
    metavar="G",
    help="Join this consumer group: begin at its committed offsets, commit what was printed.",
)
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
    group: str | None,
    formatter: Callable[[Consumed], bytes] | None,
) -> None:
    """Print a topic's records, a value a line.

    With --group the partitions are shared with the group's other members. What was printed is
    committed every few seconds and at the end, with --count exactly so many records; after a crash
    the last of them are printed again.

    \b
    Example:
      logd consume orders --from 2026-01-31T00:00:00Z --json
      logd consume orders --partition 0 --from 1000 --count 10 --format '%o %k %v\\n'
      logd consume orders --group billing --count 100
    """
    if formatter is not None and target.json:
        raise click.UsageError("--format and --json exclude each other")
    if group is not None and partition is not None:
        raise click.UsageError("--partition and --group exclude each other: the group assigns them")
    write = formatter or (json_record if target.json else value_line)
    where = parse_where(start, "--from")
    connection = Connection(target.bootstrap)
    if group is not None:
        from cli.consume_group import consume_in_group

        consume_in_group(connection, group, topic, where, write, count=count, follow=follow)
        return
    consumer = _consumer(connection)
    try:
        progress = _begin(connection, consumer, topic, partition, where, count, follow=follow)
        _read(connection, consumer, topic, progress, write)
    finally:
        consumer.close()


def _consumer(connection: Connection) -> Consumer:
    from confluent_kafka import Consumer

    # The library wants a group's id; by assignment the group is never joined.
    return Consumer(connection.consumer_settings("logd-cli"))


def _begin(
    connection: Connection,
    consumer: Consumer,
    topic: str,
    partition: int | None,
    where: Where,
    count: int | None,
    *,
    follow: bool,
) -> Progress:
    numbers = connection.partitions(consumer, topic)
    if partition is not None:
        if partition not in numbers:
            raise no_partition(topic, partition, len(numbers))
        numbers = [partition]
    marks = list_watermarks(connection, topic, numbers)
    offsets = locate(connection, topic, marks, where)
    check_in_range(topic, marks, offsets)
    stop = None if follow else {number: marks[number].high for number in numbers}
    return Progress(next_offset=offsets, stop_before=stop, left=count)


def _read(
    connection: Connection, consumer: Consumer, topic: str, progress: Progress, write: Write
) -> None:
    from confluent_kafka import TopicPartition

    consumer.assign([TopicPartition(topic, p, o) for p, o in progress.next_offset.items()])
    moved_at = time.monotonic()
    with Output() as out:
        while not progress.finished():
            messages = consumer.consume(num_messages=BATCH_RECORDS, timeout=WAKE_S)
            now = time.monotonic()
            for message in messages:
                error = take(topic, message, progress, write, out.write)
                if error is not None:
                    raise connection.translate(error, f"consume {topic}")
            if messages:
                moved_at = now
                out.flush()
                continue
            out.check_reader()
            if progress.stop_before is not None and now - moved_at > (
                UNREACHABLE_S if connection.trouble else STALL_S
            ):
                raise stalled(connection, topic, progress)
