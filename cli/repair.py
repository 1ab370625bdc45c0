"""`logd repair`: make lost chunks again now, over the admin port."""

from __future__ import annotations

from typing import Any, Final

import click

from cli.admin import get, post
from cli.errors import DataAtRisk, Refused
from cli.jobs import JobKind, watch
from cli.options import Target, common_options, pass_target
from cli.render import escape, print_json, print_table
from logd.units import format_byte_count, format_duration_ms

_JOB: Final = JobKind(
    "/v1/repair", "repair", "it goes on with what is missing by itself: run the command again"
)

_FIELDS: Final = (
    "missing", "corrupt", "repaired", "failed", "repaired_bytes", "read_bytes", "seconds",
    "unrecoverable", "left", "below_target",
)  # fmt: skip


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and what waits.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the server has begun.")
@common_options("admin", "json")
@pass_target
def repair(target: Target, dry_run: bool, no_wait: bool) -> None:
    """Make missing and damaged chunks again, now.

    The server looks through all storage nodes first and does not wait for repair.delay.ms. Its
    rates hold. Exits with 4 if a segment stays below the margin of its profile. Ctrl-C ends the
    watching, not the work.

    \b
    Example:
      logd repair --dry-run
    """
    if dry_run:
        _show_queue(target, get(target.admin, _JOB.path, dry_run="true"))
        return
    job = post(target.admin, _JOB.path, {})
    if no_wait:
        if target.json:
            print_json({"id": job["id"]})
        else:
            click.echo("begun; `logd repair` again watches it")
        return
    job = watch(target.admin, _JOB, job, "repairing")
    _finish(target, job)


def _finish(target: Target, job: dict[str, Any]) -> None:
    if target.json:
        print_json({name: job[name] for name in _FIELDS})
    else:
        size = format_byte_count(job["repaired_bytes"])
        click.echo(
            "nothing to repair"
            if not job["missing"] + job["corrupt"] + job["repaired"] + job["failed"]
            else f"{job['missing']} chunks were missing and {job['corrupt']} corrupt; "
            f"{job['repaired']} made again, {size} in {job['seconds']:.1f} s"
        )
        _print_items(job["left"])
    if job["unrecoverable"]:
        raise DataAtRisk(
            f"{len(job['unrecoverable'])} segments have too few chunks left; bring nodes back"
        )
    if job["below_target"]:
        reasons = [item["reason"] for item in job["left"] if item.get("reason")]
        raise DataAtRisk(
            f"{job['below_target']} segments stay below their target margin: "
            f"{escape(reasons[0]) if reasons else 'see `logd status`'}"
        )
    if job["failed"]:
        raise Refused(f"{job['failed']} repairs failed; they are tried again: see `logd status`")


def _show_queue(target: Target, queue: dict[str, Any]) -> None:
    if target.json:
        print_json(queue)
        return
    if not queue["items"]:
        click.echo("nothing to repair")
    _print_items(queue["items"])
    if queue["items"] and queue["eta_s"] is not None:
        click.echo(f"about {format_duration_ms(int(queue['eta_s']) * 1000)} at the measured rate")
    if queue["stuck"]:
        click.echo(f"{queue['stuck']} of {queue['queued']} have no end: see their reasons")


def _print_items(items: list[dict[str, Any]]) -> None:
    rows = [
        (
            f"{item['topic']}-{item['partition']}",
            item["base_offset"],
            item["margin"],
            item["state"],
            ", ".join(item["methods"]) or "-",
            ", ".join(
                f"{chunk['index']} {chunk['state']} on {chunk['node'] or 'no node'}"
                + (f" to {chunk['target']}" if chunk["target"] else "")
                for chunk in item["chunks"]
            ),
            item["reason"] or "-",
        )
        for item in items
        if "topic" in item
    ]
    if rows:
        print_table(("partition", "offset", "margin", "state", "method", "chunks", "reason"), rows)
