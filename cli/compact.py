"""`logd compact`: compact a topic now, over the admin port, and show what it came to."""

from __future__ import annotations

from typing import Any, Final

import click

from cli.admin import post
from cli.errors import refuse_partitions
from cli.jobs import JobKind, watch
from cli.options import Target, common_options, pass_target
from cli.render import Cell, counted, print_json, print_table
from logd.units import format_byte_count

_JOB: Final = JobKind(
    "/v1/compact", "compaction", "nothing is left half done: run the command again"
)


@click.command(short_help="Compact a topic now: of each key the last record stays.")
@click.argument("topic")
@click.option("--partition", type=click.IntRange(min=0), help="Only this one  [default: all]")
@click.option("--no-wait", is_flag=True, help="Return as soon as the server has begun.")
@common_options("admin", "json")
@pass_target
def compact(target: Target, topic: str, partition: int | None, no_wait: bool) -> None:
    """Compact a topic now: of each key the last record stays, offsets and order too.

    The topic's cleanup.policy has compact in it. The active segment is sealed first, so that all
    records are looked at. min.cleanable.dirty.ratio does not count; min.compaction.lag.ms and
    delete.retention.ms do, so young records and young tombstones stay.

    Ctrl-C ends the watching, not the work.

    \b
    Example:
      logd compact accounts
    """
    job = post(target.admin, _JOB.path, {}, topic=topic, partition=partition)
    if no_wait:
        _say_begun(target, job)
        return
    job = watch(target.admin, _JOB, job, f"compacting {topic}")
    rows = job["rows"]
    if target.json:
        print_json(rows)
    else:
        _print_rows([row for row in rows if not row["error"]])
        _print_notes(rows)
    failed = [row for row in rows if row["error"]]
    refuse_partitions(
        ((row["topic"], row["partition"], row["error"]) for row in failed), as_json=target.json
    )


def _say_begun(target: Target, job: dict[str, Any]) -> None:
    if target.json:
        print_json({name: job[name] for name in ("id", "topic", "partitions")})
    else:
        number = counted(len(job["partitions"]), "partition")
        click.echo(f"{job['topic']}: the server compacts {number}; `logd compact "
                   f"{job['topic']}` watches it")  # fmt: skip


def _print_rows(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    headers = (
        *("partition", "segments before", "after", "bytes before", "after"),
        *("records before", "after", "seconds"),
    )
    print_table(headers, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> tuple[Cell, ...]:
    return (
        row["partition"],
        row["segments_before"],
        row["segments_after"],
        format_byte_count(row["bytes_before"]),
        format_byte_count(row["bytes_after"]),
        row["records_before"],
        row["records_after"],
        row["seconds"],
    )


def _print_notes(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["note"]:
            click.echo(f"partition {row['partition']}: {row['note']}")
