"""`logd group reset`: set the committed offsets of a group that nobody is using.

It is what Kafka's own tool does with --reset-offsets: an offset that a partition does not hold is
moved to the nearest one that it does, which is said, and a group that does not exist comes into
being. The commit itself is that of a client without membership, which the server refuses while the
group has members: who joins between our look and our commit is not overruled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from cli.errors import Refused
from cli.group_facts import Committed, Place, committed_offsets, find_group
from cli.kafka import (
    CREATE_TIMEOUT_S,
    Connection,
    Watermarks,
    list_watermarks,
    no_partition,
    topic_partitions,
)
from cli.options import GROUP_ID, Target, common_options, pass_target, require_consent
from cli.places import METAVAR, clamp, locate, parse_where
from cli.render import counted, escape, print_json, print_table


@dataclass(frozen=True, slots=True)
class Move:
    """What becomes of one partition's committed offset (`before` None: there is none).

    `wanted` is where the user asked to go, `new` the nearest to it that the partition holds.
    """

    partition: int
    before: int | None
    wanted: int
    new: int

    @property
    def is_clamped(self) -> bool:
        """Whether the user does not get what was asked for."""
        return self.new != self.wanted


def plan(
    topic: str,
    marks: Mapping[int, Watermarks],
    wanted: Mapping[int, int],
    committed: Mapping[Place, Committed],
) -> list[Move]:
    """Return what is to be done, a move for each partition, in their order."""
    moves = []
    for partition, mark in sorted(marks.items()):
        before = committed.get((topic, partition))
        moves.append(
            Move(
                partition=partition,
                before=None if before is None else before.offset,
                wanted=wanted[partition],
                new=clamp(mark, wanted[partition]),
            )
        )
    return moves


@click.command()
@click.argument("group", type=GROUP_ID)
@click.option("--topic", required=True, help="Of this topic.")
@click.option("--partition", type=click.IntRange(min=0), help="Only this one  [default: all]")
@click.option(
    "--to",
    "to",
    required=True,
    metavar=METAVAR,
    help="Where it will go on; a time as 2026-01-31T12:00:00Z (without zone: local time) is that "
    "of the first record to be read again.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options("bootstrap", "json")
@pass_target
def reset(
    target: Target,
    group: str,
    topic: str,
    partition: int | None,
    to: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Set where a group goes on reading; its consumers must be stopped.

    An offset that a partition does not hold is moved to the nearest one that it does. A group that
    does not exist yet is created by this.

    \b
    Example:
      logd group reset billing --topic orders --to 2026-01-31T00:00:00Z --dry-run
      logd group reset billing --topic orders --partition 3 --to 1000 --yes
    """
    where = parse_where(to, "--to")
    connection = Connection(target.bootstrap)
    numbers = _partitions(connection, topic, partition)
    existing = find_group(connection, group)
    if existing is not None and existing.is_active:
        raise in_use(group, existing.state, len(existing.raw_members))
    marks = list_watermarks(connection, topic, numbers)
    wanted = locate(connection, topic, marks, where)
    moves = plan(topic, marks, wanted, committed_offsets(connection, group) if existing else {})
    if not target.json:
        _say_notes(topic, marks, moves)
    if not dry_run:
        what = f"{counted(len(moves), 'partition')} of {topic}"
        new = "" if existing else " (a new group)"
        question = f"set the offsets of group {group}{new} in {what} to {to}?"
        require_consent(escape(question), yes=yes)
        _commit(connection, group, topic, moves)
    _show(target, group, topic, moves, dry_run=dry_run, is_new=existing is None)


def in_use(group: str, state: str, members: int) -> Refused:
    """Return the error for a group whose consumers decide where it reads."""
    return Refused(
        f"group {group} is in use ({state}, {counted(members, 'member')}), nothing was changed; "
        "stop its consumers first, or wait until the sessions of those that crashed end"
    )


def _partitions(connection: Connection, topic: str, partition: int | None) -> list[int]:
    numbers = topic_partitions(connection, topic)
    if partition is None:
        return numbers
    if partition not in numbers:
        raise no_partition(topic, partition, len(numbers))
    return [partition]


def _say_notes(topic: str, marks: Mapping[int, Watermarks], moves: Sequence[Move]) -> None:
    for move in moves:
        if move.is_clamped:
            mark = marks[move.partition]
            click.echo(
                f"note: {topic} partition {move.partition} holds offsets from {mark.low} to before "
                f"{mark.high}: {move.new} instead of {move.wanted}",
                err=True,
            )


def _commit(connection: Connection, group: str, topic: str, moves: Sequence[Move]) -> None:
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

    places = [TopicPartition(topic, move.partition, move.new) for move in moves]
    admin = connection.admin()
    doing = f"reset group {group}"
    futures = connection.call(
        doing,
        lambda: admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, places)], request_timeout=CREATE_TIMEOUT_S
        ),
    )
    failed = [
        place
        for place in connection.result(doing, futures[group]).topic_partitions
        if place.error is not None
    ]
    if failed:
        raise _refusal(connection, group, topic, failed)


def _refusal(connection: Connection, group: str, topic: str, failed: Sequence[Any]) -> Exception:
    from confluent_kafka import KafkaError

    error = failed[0].error
    joined = (
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
    )
    if error.code() in joined:  # Somebody joined while we asked.
        found = find_group(connection, group)
        members = len(found.raw_members) if found else 0
        return in_use(group, found.state if found else "Empty", members)
    numbers = ", ".join(str(place.partition) for place in failed)
    return connection.translate(error, f"reset group {group}: {topic} partitions {numbers}")


def _show(
    target: Target, group: str, topic: str, moves: Sequence[Move], *, dry_run: bool, is_new: bool
) -> None:
    if target.json:
        print_json(_document(group, topic, moves, dry_run=dry_run, is_new=is_new))
        return
    print_table(
        ("topic", "partition", "committed offset", "new offset"),
        [(topic, move.partition, move.before, move.new) for move in moves],
    )
    verb = "would set" if dry_run else "set"
    new = ", a new group" if is_new else ""
    offsets = counted(len(moves), "offset")
    click.echo(f"{verb} {offsets} of group {escape(group)}{new}")


def _document(
    group: str, topic: str, moves: Sequence[Move], *, dry_run: bool, is_new: bool
) -> dict[str, Any]:
    return {
        "group": group,
        "dry_run": dry_run,
        "created": is_new and not dry_run,
        "offsets": [
            {
                "topic": topic,
                "partition": move.partition,
                "committed_offset": move.before,
                "new_offset": move.new,
                "clamped": move.is_clamped,
            }
            for move in moves
        ],
    }
