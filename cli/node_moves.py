"""`logd node drain`, `replace` and `rebalance`: chunks that move, over the admin port."""

from __future__ import annotations

import os.path
import time
from typing import Any, Final

import click

from cli.admin import get, post
from cli.errors import DataAtRisk, Interrupted, Refused
from cli.options import Target, common_options, pass_target
from cli.render import counted, escape, print_json, print_table, progress
from logd.units import format_byte_count

POLL_S: Final = 0.2
REASONS_SHOWN: Final = 3
STUCK_S: Final = 5.0
"""A drain of which nothing moves for so long waits for people."""


@click.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only say what it means.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the server has begun.")
@click.option("--stop", is_flag=True, help="Take a drain back; what was moved stays moved.")
@common_options("admin", "json")
@pass_target
def drain(target: Target, name: str, dry_run: bool, no_wait: bool, stop: bool) -> None:
    """Empty a storage node: copy its chunks to the others.

    Refused at once, with the sum, where it cannot end well: too few nodes, too many in a rack, or
    too little space. An empty node can be removed. Ctrl-C ends the watching, not the drain.

    \b
    Example:
      logd node drain a --dry-run
    """
    if stop:
        _print_progress(target, post(target.admin, "/v1/drain", {}, node=name, stop="true"))
        return
    asked = "true" if dry_run else None
    plan = post(target.admin, "/v1/drain", {}, node=name, dry_run=asked)
    if dry_run or no_wait:
        if target.json:
            print_json(plan)
        elif plan["refusal"] is None:
            click.echo(escape(plan["summary"]))
        if plan["refusal"] is not None:  # Without --dry-run the server refuses it itself.
            raise Refused(f"{plan['summary']}; add nodes first: `logd node add NAME DIR_OR_URL`")
        return
    try:
        document = _watch(target, name)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; the server goes on: the same command again watches it"
        ) from None
    _print_progress(target, document)
    if not document["done"]:
        reasons = document["stuck"] or ["see `logd repair --dry-run`"]
        raise DataAtRisk(
            f"{counted(document['chunks'], 'chunk')} cannot leave {escape(name)} now: "
            f"{escape(reasons[0])}"
        )


def _watch(target: Target, name: str) -> dict[str, Any]:
    """Return how far the drain is when it is done, or nothing moves any more."""
    document: dict[str, Any] = get(target.admin, "/v1/drain", node=name)
    total = document["chunks"] + document["to_remove"]
    stuck_since: float | None = None
    with progress(f"draining {escape(name)}", max(total, 1)) as show:
        while not document["done"]:
            now = time.monotonic()
            stuck_since = (stuck_since or now) if document["is_stuck"] else None
            if document["state"] != "draining":
                break
            if stuck_since is not None and now - stuck_since > STUCK_S:
                break
            time.sleep(POLL_S)
            document = get(target.admin, "/v1/drain", node=name)
            show(total - document["chunks"] - document["to_remove"])
    return document


def _print_progress(target: Target, document: dict[str, Any]) -> None:
    if target.json:
        print_json(document)
    elif document["done"] and document["state"] == "draining":
        click.echo(escape(f"node {document['node']} is empty; `logd node remove` forgets it"))
    else:
        left = counted(document["chunks"], "chunk")
        click.echo(escape(f"node {document['node']} is {document['state']}, {left} on it"))


@click.command()
@click.argument("name")
@click.argument("address", metavar="[DIR_OR_URL]", required=False)
@click.option("--dry-run", is_flag=True, help="Only say what it means.")
@common_options("admin", "json")
@pass_target
def replace(target: Target, name: str, address: str | None, dry_run: bool) -> None:
    """Let an empty directory or node take a lost one's place.

    Its chunks are made again there at once; the node need not be called dead first. Without an
    address it is the place where the node was. A node that answers, and is needed, is not replaced:
    drain it.

    \b
    Example:
      logd node replace a /mnt/disk9/logd
    """
    place = address
    if address is not None and "://" not in address:
        place = os.path.abspath(address)
    asked = "true" if dry_run else None
    plan = post(target.admin, "/v1/replace", {}, node=name, place=place, dry_run=asked)
    if target.json:
        print_json(plan)
    else:
        click.echo(escape(plan["summary"]))


@click.command(short_help="Fill the storage nodes alike; spread what racks have too much of.")
@click.option("--dry-run", is_flag=True, help="Only show the moves.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the server has begun.")
@common_options("admin", "json")
@pass_target
def rebalance(target: Target, dry_run: bool, no_wait: bool) -> None:
    """Fill the storage nodes alike, and spread what racks have too much of; parity moves first.

    Exit 1 if a move could not be made.

    \b
    Example:
      logd node rebalance --dry-run
    """
    asked = "true" if dry_run else None
    plan = post(target.admin, "/v1/rebalance", {}, dry_run=asked)
    done: dict[str, Any] | None = None
    if not dry_run and not no_wait:
        try:
            done = _wait_for_moves(target, plan["move_count"])
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the server goes on moving") from None
    if target.json:
        print_json(plan if done is None else plan | done)
    else:
        _show_rebalance(plan, dry_run=dry_run, done=done)
    if done is not None and done["given_up"]:
        raise Refused(
            f"{counted(done['given_up'], 'chunk')} could not be moved: "
            f"{'; '.join(done['reasons'][:REASONS_SHOWN])}; `logd node rebalance` tries again"
        )


def _show_rebalance(plan: dict[str, Any], *, dry_run: bool, done: dict[str, Any] | None) -> None:
    rows = [
        (
            each["node"],
            format_byte_count(each["before_bytes"]),
            f"{each['before_share']:.1%}",
            format_byte_count(each["after_bytes"]),
            f"{each['after_share']:.1%}",
        )
        for each in plan["nodes"]
    ]
    print_table(("node", "before", "share", "after", "share after"), rows)
    if done is not None:
        click.echo(f"{counted(done['made'], 'chunk')} moved")
        return
    moves = counted(plan["move_count"], "chunk")
    verb = "would move" if dry_run else "to move"
    click.echo(f"{moves} {verb}, {format_byte_count(plan['bytes'])}")


def _wait_for_moves(target: Target, count: int) -> dict[str, Any]:
    """Wait until no move is left; return what became of them."""
    with progress("moving chunks", max(count, 1)) as show:
        while (answer := get(target.admin, "/v1/rebalance"))["left"]:
            show(max(count - answer["left"], 0))
            time.sleep(POLL_S)
    assert isinstance(answer, dict)
    return answer
