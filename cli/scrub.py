"""`logd scrub`: verify every block, over the admin port."""

from __future__ import annotations

import time
from typing import Any, Final

import click

from cli.admin import get, post
from cli.errors import DataAtRisk, Interrupted
from cli.options import Target, common_options, pass_target
from cli.render import escape, print_json, progress
from logd.units import format_byte_count, format_duration_ms

POLL_S: Final = 0.2
STEPS: Final = 1000


@click.group(short_help="Verify every block of every chunk, and sealed segments.")
@common_options("admin", "json")
def scrub() -> None:
    """Verify every block of every chunk, and the sealed segments here.

    It runs by itself, each block once in scrub.cycle.ms.

    \b
    Example:
      logd scrub start --wait
    """


@scrub.command(short_help="Verify everything once, now.")
@click.option("--wait", is_flag=True, help="Return when the pass is done; exit 4 on a finding.")
@common_options("admin", "json")
@pass_target
def start(target: Target, wait: bool) -> None:
    """Verify everything once, now: at scrub.rate.bytes, or as fast as it goes.

    \b
    Example:
      logd scrub start --wait
    """
    document = post(target.admin, "/v1/scrub", {}, action="start")
    if wait:
        try:
            document = _watch(target, document)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the server goes on: see `logd scrub status`") from None
    _show(target, document)
    _complain(document)


@scrub.command(short_help="Show how far scrub is, and what it found.")
@common_options("admin", "json")
@pass_target
def status(target: Target) -> None:
    """Show how far scrub is, and what it found; exit 4 while a finding is not mended.

    \b
    Example:
      logd scrub status
    """
    document = get(target.admin, "/v1/scrub")
    _show(target, document)
    _complain(document)


@scrub.command()
@common_options("admin", "json")
@pass_target
def pause(target: Target) -> None:
    """Stop, until `resume` or `start`; a restart changes nothing about it.

    \b
    Example:
      logd scrub pause
    """
    _show(target, post(target.admin, "/v1/scrub", {}, action="pause"))


@scrub.command()
@common_options("admin", "json")
@pass_target
def resume(target: Target) -> None:
    """Go on where it stopped.

    \b
    Example:
      logd scrub resume
    """
    _show(target, post(target.admin, "/v1/scrub", {}, action="resume"))


def _watch(target: Target, document: dict[str, Any]) -> dict[str, Any]:
    with progress("scrubbing", STEPS) as show:
        while document["state"] == "running":
            time.sleep(POLL_S)
            answer = get(target.admin, "/v1/scrub")
            assert isinstance(answer, dict)
            document = answer
            show(int(document["progress"] * STEPS))
    return document


def _show(target: Target, document: dict[str, Any]) -> None:
    if target.json:
        print_json(document)
        return
    click.echo(_how_far(document))
    click.echo(f"{format_byte_count(document['verified_bytes'])} verified since the start")
    _show_history(document)
    for warning in document["warnings"]:
        click.secho(escape(warning), fg="yellow")
    for found in document["findings"]:
        mended = "mended" if found["mended_ms"] is not None else "not mended"
        what = f"chunk {found['chunk']} on {found['node']}"
        if found["chunk"] is None:
            what = "the segment here"
        click.secho(
            escape(
                f"{mended}: {found['topic']}-{found['partition']} at {found['base_offset']}, "
                f"{what} {found['state']}: {found['reason']}"
                + ("" if found["block"] is None else f" (block {found['block']})")
            ),
            fg="yellow" if found["mended_ms"] is not None else "red",
        )


def _how_far(document: dict[str, Any]) -> str:
    """Return in a line what scrub does, and how much of its round is done."""
    state, places = document["state"], document["places"]
    if not places:
        return (
            f"{state}: without storage nodes nothing is verified by itself; `logd scrub start` "
            "verifies the sealed segments here"
        )
    if not any(place["bytes"] for place in places):
        return f"{state}, there is nothing to verify"
    line = f"{state}, {document['progress']:.0%} of this round verified"
    if document["eta_s"]:
        line += f", about {format_duration_ms(int(document['eta_s']) * 1000)} left"
    return line


def _show_history(document: dict[str, Any]) -> None:
    """Say how many bad chunks there ever were, and how many were put aside."""
    found = document.get("found_total", {})
    aside = document.get("quarantined", {}).get("total", 0)
    if any(found.values()) or aside:
        words = [f"{count} chunks found {state}" for state, count in sorted(found.items())]
        words += [f"{aside} put into quarantine"] if aside else []
        click.echo(f"{', '.join(words)}, ever")


def _complain(document: dict[str, Any]) -> None:
    left = [found for found in document["findings"] if found["mended_ms"] is None]
    chunks = sum(found["chunk"] is not None for found in left)
    reasons = []
    if chunks:
        reasons.append(f"{chunks} bad chunks are not mended yet: see `logd repair --dry-run`")
    if len(left) > chunks:
        reasons.append(
            f"{len(left) - chunks} damaged segments here are not mended: see `logd status`"
        )
    if reasons:
        raise DataAtRisk("; ".join(reasons))
