"""`logd cold verify`: every chunk of a topic is read and must prove itself, over the admin port."""

from __future__ import annotations

from typing import Any, Final

import click

from cli.admin import post
from cli.errors import DataAtRisk, Refused
from cli.jobs import JobKind, watch
from cli.options import Target, common_options, pass_target
from cli.render import counted, escape, print_json
from logd.units import format_byte_count

_JOB: Final = JobKind(
    "/v1/cold/verify", "verification", "nothing was changed: run the command again"
)
_FIELDS: Final = (
    "segments", "chunks", "verified_bytes", "decoded_bytes", "findings", "findings_not_listed",
    "seconds",
)  # fmt: skip


@click.command(short_help="Read every chunk of a topic; compute each from the others.")
@click.argument("topic")
@click.option("--partition", type=click.IntRange(min=0), help="Only this one  [default: all]")
@common_options("admin", "json")
@pass_target
def verify(target: Target, topic: str, partition: int | None) -> None:
    """Read every chunk of a topic, and compute each one from the others.

    Every node reads its chunks from its device and checks all blocks; then all chunks of a segment
    are read, and each is left out once, computed and compared. Nothing is changed or repaired.

    Exits with 4 if a chunk is missing, damaged, or on a node that does not answer; each is named
    with its node and block. Ctrl-C ends the watching, not the work.

    \b
    Example:
      logd cold verify orders
    """
    job = post(target.admin, _JOB.path, {}, topic=topic, partition=partition)
    job = watch(target.admin, _JOB, job, f"verifying {topic}")
    if job["error"] is not None:
        raise Refused(f"the verification was not finished: {job['error']}")
    if target.json:
        print_json({name: job[name] for name in _FIELDS})
    else:
        _print(job)
    if job["findings"]:
        count = len(job["findings"]) + job["findings_not_listed"]
        raise DataAtRisk(f"{escape(topic)}: {counted(count, 'finding')}; `logd status` has margins")


def _print(job: dict[str, Any]) -> None:
    for finding in job["findings"]:
        click.secho(escape(_line(finding)), fg="red")
    if job["findings_not_listed"]:
        click.echo(f"and {job['findings_not_listed']} findings more")
    chunks = f"{counted(job['chunks'], 'chunk')} of {counted(job['segments'], 'coded segment')}"
    sizes = (
        f"{format_byte_count(job['verified_bytes'])} checked, "
        f"{format_byte_count(job['decoded_bytes'])} computed and compared in {job['seconds']:.1f} s"
    )
    count = len(job["findings"]) + job["findings_not_listed"]
    result = counted(count, "finding") if count else "all are right"
    click.echo(f"{escape(job['topic'])}: {chunks}; {sizes}: {result}")


def _line(finding: dict[str, Any]) -> str:
    node = "no node" if finding["node"] is None else f"node {finding['node']}"
    block = "" if finding["block"] is None else f", block {finding['block']}"
    return (
        f"{finding['state']}: {finding['topic']} partition {finding['partition']}, segment "
        f"{finding['base_offset']}, generation {finding['generation']}, chunk {finding['chunk']} "
        f"on {node}{block}: {finding['reason']}"
    )
