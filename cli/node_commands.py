"""`logd node add`, `list` and `remove`: the server's storage nodes, over the admin port."""

from __future__ import annotations

import os.path
from typing import Any

import click

from cli.admin import delete, get, post
from cli.errors import Refused
from cli.options import Target, common_options, pass_target, require_consent
from cli.render import Cell, escape, print_json, print_table
from logd.units import format_byte_count


@click.command(short_help="Register a storage node: a directory, or http://HOST:PORT.")
@click.argument("name")
@click.argument("address", metavar="DIR_OR_URL")
@click.option("--rack", help="What the node shares its fate with  [default: nothing]")
@common_options("admin", "json")
@pass_target
def add(target: Target, name: str, address: str, rack: str | None) -> None:
    """Register a storage node: a directory on the server's machine, or http://HOST:PORT.

    A directory is made when absent. It must be empty, or this node's already; then it is taken as
    it is. A place that holds one of the server's nodes already gives that node this place and this
    name, and moves no chunk; so a disk may come back under another path. Racks: at most m chunks of
    a segment lie in one.

    \b
    Example:
      logd node add a /mnt/disk1/logd
      logd node add b http://10.0.0.7:9701 --rack r2
    """
    place = address if "://" in address else os.path.abspath(address)
    row = post(target.admin, "/v1/nodes", {"name": name, "address": place, "rack": rack})
    if target.json:
        print_json(row)
        return
    if row["renamed_from"] is not None:
        words = f"node {row['renamed_from']} is called {name} from now on; no chunk moves"
        click.echo(escape(words))
    click.echo(escape(f"node {row['name']} is at {row['address']}: {row['reason']}"))


@click.command(
    name="list", short_help="List the storage nodes: where and how they are, what they hold."
)
@common_options("admin", "json")
@pass_target
def list_nodes(target: Target) -> None:
    """List the storage nodes: where they are, how they are, and what they hold.

    A node is live, suspect, dead, or draining. Its breaker keeps calls back from a node that fails
    too often: open, it says that nothing is known of its chunks, not that they are lost.

    \b
    Example:
      logd node list
    """
    rows = get(target.admin, "/v1/nodes")
    if target.json:
        print_json(rows)
        return
    if not rows:
        click.echo("no storage nodes; `logd node add` registers one")
        return
    headers = (
        *("name", "address", "rack", "state", "chunks", "bytes", "free", "breaker", "last error"),
    )
    print_table(headers, [_cells(row) for row in rows])
    for names in _on_one_device(rows):
        click.secho(
            f"warning: {', '.join(names)} are on one device: they fail together", fg="yellow"
        )


def _on_one_device(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the names of nodes that share a device, device by device."""
    by_device: dict[str, list[str]] = {}
    for row in rows:
        if row.get("device") is not None:
            by_device.setdefault(row["device"], []).append(escape(row["name"]))
    return [names for names in by_device.values() if len(names) > 1]


def _cells(row: dict[str, Any]) -> tuple[Cell, ...]:
    free = row["free_bytes"]
    return (
        row["name"],
        row["address"],
        row["rack"] or "-",
        row["state"],
        row["chunks"],
        format_byte_count(row["bytes"]),
        "-" if free is None else format_byte_count(free),
        row["breaker"],
        row["last_error"] or "-",
    )


@click.command(short_help="Forget a storage node that holds nothing.")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options("admin", "json")
@pass_target
def remove(target: Target, name: str, yes: bool) -> None:
    """Forget a storage node that holds nothing; what is in its directory stays.

    Refused while chunks have their place there. What was still to be removed from it is given up.

    \b
    Example:
      logd node remove a
    """
    from urllib.parse import quote

    if not any(row["name"] == name for row in get(target.admin, "/v1/nodes")):
        raise Refused(f"there is no storage node {name!r}; `logd node list` shows those there are")
    require_consent(f"forget storage node {escape(name)}?", yes=yes)
    row = delete(target.admin, f"/v1/nodes/{quote(name, safe='')}")
    if target.json:
        print_json(row)
    else:
        click.echo(escape(f"node {row['name']} at {row['address']} is forgotten"))
