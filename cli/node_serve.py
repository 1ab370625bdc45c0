"""`logd node serve`: options in, a storage node's server out."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import click

from cli.options import ADDRESS, Address, Target, common_options, pass_target

DEFAULT_LISTEN = "127.0.0.1:9701"


class ByteCountType(click.ParamType[int]):
    """A click option type for sizes such as 64MiB."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        if isinstance(value, int):
            return value
        from logd.units import parse_byte_count

        try:
            return parse_byte_count(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(short_help="Serve a directory as a storage node, in the foreground.")
@click.argument("directory", required=False, metavar="[DIR]", type=click.Path(file_okay=False))
@click.option(
    "--dir",
    "directory_option",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="The node's directory; the same as the argument.",
)
@click.option(
    "--listen",
    type=ADDRESS,
    default=DEFAULT_LISTEN,
    show_default=True,
    help="Where to answer; port 0 takes a free one.",
)
@click.option("--name", help="What the node must be called; another one is not served.")
@click.option("--rack", help="What this node shares its fate with; told with its health.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Holds the token that every request must carry; mode 0600.",
)
@click.option(
    "--reserve",
    type=ByteCountType(),
    help="Space that chunks leave free  [default: 1 GiB or 5 %, the smaller]",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Of the log lines on stderr.",
)
@click.option(
    "--insecure", is_flag=True, help="Allow addresses that other machines can reach, without token."
)
@common_options("json")
@pass_target
def serve(
    target: Target,
    directory: str | None,
    directory_option: str | None,
    listen: Address,
    name: str | None,
    rack: str | None,
    token_file: str | None,
    reserve: int | None,
    log_format: Literal["text", "json"],
    insecure: bool,
) -> None:
    """Serve a directory as a storage node, in the foreground until SIGTERM or SIGINT.

    It prints one line, `ready node=NAME http=HOST:PORT`, when the port answers; with --json the
    same as a JSON document. An empty or absent directory becomes a node when `logd node add NAME
    http://HOST:PORT` registers it at a server; until then, and while its disk is not mounted, all
    else is refused and nothing is written (NAME is then what --name says, or `-`). Whoever can
    reach the port can read and delete chunks, unless there is a token; what is sent is not
    encrypted.

    \b
    Example:
      logd node serve /mnt/disk1 --listen 127.0.0.1:9701 --name a
    """
    from cli.token_file import read_token
    from ec.node.home import is_node_name
    from logd.config import is_loopback

    if (directory is None) == (directory_option is None):
        raise click.UsageError("say the node's directory, once")
    if name is not None and not is_node_name(name):
        raise click.UsageError(
            f"--name {name!r}: a name is 1 to 64 letters, digits, '.', '_' and '-'"
        )
    if not (is_loopback(listen.host) or token_file or insecure):
        raise click.UsageError(
            f"{listen} can be reached from other machines, and nobody is authenticated; "
            "give a --token-file, or say --insecure if that is meant"
        )
    token = None if token_file is None else read_token(token_file)
    from cli.node_server import NodeOptions, run

    options = NodeOptions(
        directory=directory or directory_option or "",
        listen=(listen.host, listen.port),
        name=name,
        rack=rack,
        token=token,
        reserve_bytes=reserve,
        log_format=log_format,
    )
    say_ready = _say_ready_as_json if target.json else _say_ready
    raise click.exceptions.Exit(run(options, on_ready=say_ready))


def _say_ready(fields: str) -> None:
    click.echo(f"ready {fields}")
    sys.stdout.flush()


def _say_ready_as_json(fields: str) -> None:
    click.echo(
        json.dumps({"ready": True, **dict(part.split("=", 1) for part in fields.split(" "))})
    )
    sys.stdout.flush()
