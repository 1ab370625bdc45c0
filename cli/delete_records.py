"""`logd delete-records`: move a partition's log start offset, over the Kafka port."""

from __future__ import annotations

import click

from cli.errors import Refused
from cli.kafka import CREATE_TIMEOUT_S, Connection, list_watermarks, no_partition, topic_partitions
from cli.options import Target, common_options, pass_target, require_consent
from cli.render import print_json


@click.command("delete-records")
@click.argument("topic")
@click.option("--partition", type=click.IntRange(min=0), required=True, help="Of this partition.")
@click.option(
    "--before",
    type=click.IntRange(min=0),
    required=True,
    metavar="OFFSET",
    help="The first offset that stays.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@common_options("bootstrap", "json")
@pass_target
def delete_records(
    target: Target, topic: str, partition: int, before: int, yes: bool, dry_run: bool
) -> None:
    """Delete the records of a partition that lie before an offset.

    They cannot be read any more once this returns; whole segments are then removed from the disk.

    \b
    Example:
      logd delete-records orders --partition 0 --before 1000 --yes
    """
    connection = Connection(target.bootstrap)
    numbers = topic_partitions(connection, topic)
    if partition not in numbers:
        raise no_partition(topic, partition, len(numbers))
    marks = list_watermarks(connection, topic, [partition])[partition]
    if before > marks.high:
        raise Refused(
            f"offset {before} is beyond {topic} partition {partition}, which holds offsets "
            f"from {marks.low} to before {marks.high}; nothing was deleted"
        )
    going = max(0, before - marks.low)
    if not dry_run:
        require_consent(
            f"delete {going} offsets of {topic} partition {partition} before {before}?", yes=yes
        )
    start = max(before, marks.low) if dry_run else _delete(connection, topic, partition, before)
    if target.json:
        print_json(
            {
                "topic": topic,
                "partition": partition,
                "log_start_offset": start,
                "high_watermark": marks.high,
                "deleted_offsets": going,
                "dry_run": dry_run,
            }
        )
    else:
        verb = "would begin" if dry_run else "begins"
        click.echo(f"{topic} partition {partition} {verb} at offset {start}")


def _delete(connection: Connection, topic: str, partition: int, before: int) -> int:
    from confluent_kafka import TopicPartition

    place = TopicPartition(topic, partition, before)
    futures = connection.admin().delete_records([place], request_timeout=CREATE_TIMEOUT_S)
    result = connection.result(f"delete records of {topic}", futures[place])
    return int(result.low_watermark)
