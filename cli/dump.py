"""`logd dump`: what is in a file, item by item."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from cli.errors import DataAtRisk
from cli.options import Target, common_options, pass_target
from cli.render import escape, escape_bytes, json_bytes, json_line

if TYPE_CHECKING:
    from logd.storage.inspect import Depth, Item


@click.command(short_help="Show what is in files: .log, .index, .chunk, and all others.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--records", is_flag=True, help="Also the records of each batch.")
@click.option("--verify", is_flag=True, help="Also check the records of each batch.")
@common_options("json")
@pass_target
def dump(target: Target, files: tuple[str, ...], records: bool, verify: bool) -> None:
    """Show what is in files of a data directory or a storage node: .log, .index, .chunk, …

    Checksums of batches, chunks and state files are always verified; damage is named with its
    position, and the exit code is then 4. No server is needed, and nothing is changed. Of a chunk
    that holds a part of the log, --records and --verify look at the batches that begin in it.

    \b
    Example:
      logd dump logd-data/topics/orders-0/00000000000000000000.log --records
    """
    from logd.storage.inspect import Depth

    write = _json_item if target.json else _text_item
    first_damage = ""
    for path in files:
        if len(files) > 1 and not target.json:
            sys.stdout.buffer.write(f"{escape(path)}:\n".encode(errors="backslashreplace"))
        with tempfile.TemporaryDirectory(prefix="logd-dump-") as scratch:
            found = _dump(path, Depth(records=records, verify=verify, scratch=scratch), write)
        first_damage = first_damage or found
    sys.stdout.buffer.flush()
    if first_damage:
        raise DataAtRisk(first_damage)


def _dump(path: str, depth: Depth, write: Callable[[str, Item], bytes]) -> str:
    """Print one file; return the first damage found in it, as a line."""
    from cli.chunk_items import is_of_node, node_items
    from logd.storage.files import Files
    from logd.storage.inspect import DAMAGE, inspect_file

    files = Files()
    items = node_items(files, path, depth) if is_of_node(path) else inspect_file(files, path, depth)
    first_damage = ""
    for item in items:
        sys.stdout.buffer.write(write(path, item))
        if item.kind == DAMAGE and not first_damage:
            reason = item.fields["reason"]
            first_damage = f"{path}: damaged at position {item.position}: {reason}"
    return first_damage


def _json_item(path: str, item: Item) -> bytes:
    document = {"file": path, "kind": item.kind, "position": item.position}
    return json_line(document | {name: _jsonable(value) for name, value in item.fields.items()})


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return json_bytes(value)
    if isinstance(value, list | tuple):
        return [_jsonable(entry) for entry in value]
    return value


def _text_item(_: str, item: Item) -> bytes:
    words = " ".join(f"{name}={_shown(value)}" for name, value in item.fields.items())
    indent = "  " if item.kind == "record" else ""
    text = f"{indent}{item.kind} position={item.position} {words}"
    return f"{text.rstrip()}\n".encode(errors="backslashreplace")


def _shown(value: Any) -> str:
    return escape_bytes(value) if isinstance(value, bytes) else escape(str(value))
