"""`logd cold verify`: every chunk of a topic is read and must prove itself, over the admin port."""

from __future__ import annotations

import time
from typing import Any, Final

import click

from cli.admin import get, post
from cli.compact import Interrupted
from cli.errors import DataAtRisk, Refused, Unreachable
from cli.options import Address, Target, common_options, pass_target
from cli.render import counted, escape, print_json, progress
from logd.units import format_byte_count

POLL_S_MIN: Final = 0.05
POLL_S_MAX: Final = 0.5
PROGRESS_STEPS: Final = 1000

_PATH: Final = "/v1/cold/verify"
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
    job = post(target.admin, _PATH, {}, topic=topic, partition=partition)
    try:
        job = _watch(target.admin, job)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; the server goes on verifying {escape(topic)}: the same command again "
            "watches it"
        ) from None
    if job["error"] is not None:
        raise Refused(f"the verification was not finished: {job['error']}")
    if target.json:
        print_json({name: job[name] for name in _FIELDS})
    else:
        _print(job)
    if job["findings"]:
        count = len(job["findings"]) + job["findings_not_listed"]
        raise DataAtRisk(f"{escape(topic)}: {counted(count, 'finding')}; `logd status` has margins")


def _watch(address: Address, job: dict[str, Any]) -> dict[str, Any]:
    """Return the job when it is done, with a bar on a terminal meanwhile."""
    pause_s = POLL_S_MIN
    with progress(f"verifying {job['topic']}", PROGRESS_STEPS) as show:
        while not job["done"]:
            time.sleep(pause_s)
            pause_s = min(POLL_S_MAX, pause_s * 1.3)
            job = _look(address, job["id"])
            show(int(job["progress"] * PROGRESS_STEPS))
    return job


def _look(address: Address, number: int) -> dict[str, Any]:
    try:
        answer = get(address, _PATH, id=number)
    except Unreachable as error:
        raise Unreachable(
            f"the server at {address} stopped answering; nothing was changed: run the command again"
        ) from error
    except Refused as error:
        raise Refused(
            f"the server was restarted and has forgotten this verification ({error.message}): "
            "run the command again"
        ) from error
    assert isinstance(answer, dict)
    return answer


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
