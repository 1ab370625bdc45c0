"""`logd cold`: coded segments, over the admin port."""

from __future__ import annotations

from typing import Any, Final

import click

from cli.admin import post
from cli.cold_outlook import durability, simulate
from cli.cold_verify import verify
from cli.errors import Refused
from cli.jobs import JobKind, watch
from cli.options import Target, common_options, pass_target
from cli.render import print_json
from logd.units import format_byte_count

_JOB: Final = JobKind(
    "/v1/cold/job",
    "job",
    "what it had not finished is given up, and nothing is lost: run the command again",
)

_ENCODED: Final = ("encoded", "skipped", "failed", "source_bytes", "stored_bytes", "seconds")
_THAWED: Final = ("thawed", "skipped", "failed", "source_bytes", "seconds")


@click.group()
@common_options("admin", "json")
def cold() -> None:
    """Coded segments: data and parity chunks on storage nodes.

    \b
    Example:
      logd cold encode orders
    """


@cold.command()
@click.argument("topic")
@click.option("--partition", type=click.IntRange(min=0), help="Only this one  [default: all]")
@click.option("--recode", is_flag=True, help="Also those that have another profile.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the server has begun.")
@common_options("admin", "json")
@pass_target
def encode(target: Target, topic: str, partition: int | None, recode: bool, no_wait: bool) -> None:
    """Code every sealed segment of a topic now.

    cold.enable, cold.after.ms and cold.after.bytes do not count; the active segment stays as it is.
    Segments that are being coded already are waited for. The hot copies go after cold.grace.ms,
    when all chunks were checked once more.

    With --recode, what is coded with another profile than cold.profile says now is coded anew: its
    old chunks go when the new ones are proved. It needs room for the hot copies meanwhile.

    Ctrl-C ends the watching, not the work.

    \b
    Example:
      logd cold encode orders --partition 0
    """
    job = post(
        target.admin, "/v1/cold/encode", {}, topic=topic, partition=partition,
        recode="true" if recode else None,
    )  # fmt: skip
    _finish(target, job, no_wait=no_wait, verb="coding", fields=_ENCODED)


@cold.command()
@click.argument("topic")
@click.option("--partition", type=click.IntRange(min=0), help="Only this one  [default: all]")
@click.option("--no-wait", is_flag=True, help="Return as soon as the server has begun.")
@common_options("admin", "json")
@pass_target
def thaw(target: Target, topic: str, partition: int | None, no_wait: bool) -> None:
    """Bring the coded segments of a topic back as hot ones.

    Their chunks stay, and so does the hot copy, until `logd cold encode` is asked for, or until
    cold.hot.retention.ms has passed where that is not 0.

    \b
    Example:
      logd cold thaw orders
    """
    job = post(target.admin, "/v1/cold/thaw", {}, topic=topic, partition=partition)
    _finish(target, job, no_wait=no_wait, verb="thawing", fields=_THAWED)


cold.add_command(durability)
cold.add_command(simulate)
cold.add_command(verify)


def _finish(
    target: Target, job: dict[str, Any], *, no_wait: bool, verb: str, fields: tuple[str, ...]
) -> None:
    """Watch a job to its end, unless nobody waits; print what it came to."""
    if no_wait:
        if target.json:
            print_json({name: job[name] for name in ("id", "topic", "partitions")})
        else:
            click.echo(f"{job['topic']}: begun; the same command again watches it")
        return
    job = watch(target.admin, _JOB, job, f"{verb} {job['topic']}")
    if target.json:
        print_json({name: job[name] for name in fields})
    else:
        _print(job, fields[0])
    _complain(job)


def _print(job: dict[str, Any], word: str) -> None:
    line = f"{job['topic']}: {job[word]} segments {word}, {job['skipped']} skipped"
    if job["failed"]:
        line += f", {job['failed']} failed"
    size = format_byte_count(job["source_bytes"])
    if job["stored_bytes"]:
        size += f" stored as {format_byte_count(job['stored_bytes'])}"
    click.echo(f"{line}; {size} in {job['seconds']:.1f} s")
    if word == "encoded" and not any(job[each] for each in ("encoded", "skipped", "failed")):
        click.echo("nothing is sealed yet: the active segment is, by segment.bytes or segment.ms")


def _complain(job: dict[str, Any]) -> None:
    """Say why segments failed; one line, exit 1."""
    if not job["failed"]:
        return
    reasons = [each["error"] for each in job["errors"]]
    more = f" (and {job['failed'] - 1} more)" if job["failed"] > 1 else ""
    raise Refused(f"{job['failed']} segments failed: {reasons[0] if reasons else 'unknown'}{more}")
