"""`logd serve`: options and settings in, the server out."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import click

from cli.options import ADDRESS, KEY_VALUE, NODE_PLACE, Address, Target, pass_target

if TYPE_CHECKING:
    from logd.config import ServerConfig


def load_config(
    file: str | None, settings: Sequence[tuple[str, str]], options: Mapping[str, str] | None = None
) -> ServerConfig:
    """Return the server's settings from flags, environment and file, in this order of precedence.

    Args:
        settings: what --set says.
        options: settings that have options of their own, as far as those were given.

    Raises:
        click.UsageError: a setting is given twice on the command line.
        ConfigError: an unknown key or a value that is not allowed.
    """
    from logd.config import load_server_settings

    environment = {key: value for key, value in os.environ.items() if key != "LOGD_TRACEBACK"}
    flags: dict[str, str] = dict(options or {})
    for key, value in settings:
        if key in flags:
            raise click.UsageError(f"{key} is given more than once")
        flags[key] = value
    return load_server_settings(file=file, environment=environment, flags=flags)


def settings_options(command: click.Command) -> click.Command:
    """Add --config and --set to a command."""
    command.params.extend(
        (
            click.Option(
                ["--config", "config_file"],
                type=click.Path(exists=True, dir_okay=False),
                metavar="FILE.toml",
                help="Settings in a file.",
            ),
            click.Option(
                ["--set", "settings"],
                type=KEY_VALUE,
                multiple=True,
                help="One setting; may be repeated.",
            ),
        )
    )
    return command


@settings_options
@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False),
    help="The data directory; made when absent  [default: ./logd-data]",
)
@click.option(
    "--listen",
    type=ADDRESS,
    help="The Kafka port; port 0 takes a free one  [default: 127.0.0.1:9092]",
)
@click.option(
    "--advertise", type=ADDRESS, help="What clients are told to connect to  [default: --listen]"
)
@click.option(
    "--admin",
    type=ADDRESS,
    help="The admin port; port 0 takes a free one  [default: 127.0.0.1:9644]",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Of the log lines on stderr  [default: text]",
)
@click.option(
    "--node",
    "nodes",
    type=NODE_PLACE,
    multiple=True,
    help="A storage node: another disk's directory, or http://HOST:PORT; may be repeated.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Holds the token that storage nodes are asked with; mode 0600.",
)
@click.option(
    "--rebuild-catalog",
    is_flag=True,
    help="First make the catalog again, from the directories here and the chunks on all nodes.",
)
@click.option(
    "--rebuild-without",
    metavar="NAME",
    multiple=True,
    help="A node that is given up in --rebuild-catalog; may be repeated.",
)
@click.option("--insecure", is_flag=True, help="Allow addresses that other machines can reach.")
@pass_target
def serve(
    target: Target,
    data: str | None,
    listen: Address | None,
    advertise: Address | None,
    admin: Address | None,
    log_format: Literal["text", "json"] | None,
    nodes: Sequence[tuple[str, str]],
    token_file: str | None,
    rebuild_catalog: bool,
    rebuild_without: tuple[str, ...],
    insecure: bool,
    config_file: str | None,
    settings: Sequence[tuple[str, str]],
) -> None:
    """Run the server in the foreground until SIGTERM or SIGINT.

    It prints one line, `ready kafka=HOST:PORT admin=HOST:PORT`, when both ports answer. Settings
    come from --set, then LOGD_… variables (LOGD_NUM_PARTITIONS=8), then --config, then the defaults
    that `logd config` lists.

    A --node that the server does not know becomes one of its storage nodes for good: its directory
    is made when absent, and must be empty or this node's already.

    --rebuild-catalog is for a catalog that was lost, damaged, or put back from an old copy. All
    storage nodes are read, those that an old catalog knows and each --node; what is incomplete
    without the others is put aside. The old catalog stays under another name.

    \b
    Example:
      logd serve --data /srv/logd --set retention.ms=7d
      logd serve --data /srv/logd --node a=/mnt/disk1/logd --node b=http://10.0.0.7:9701
    """
    if rebuild_without and not rebuild_catalog:
        raise click.UsageError("--rebuild-without is for --rebuild-catalog")
    options = {
        "log.dirs": data,
        "listeners": _written(listen),
        "advertised.listeners": _written(advertise),
        # LOGD_ADMIN is for client commands; an --admin that stands before `serve` is meant for it.
        "admin.listen": _written(admin or target.admin_given),
        "insecure": "true" if insecure else None,
        "log.format": log_format,
        "nodes": _node_words(nodes),
        "node.token.file": token_file,
    }
    given = {name: value for name, value in options.items() if value is not None}
    config = load_config(config_file, settings, given)
    gc.disable()  # The imports below make many objects, too; `run` says when it is enabled again.
    from logd.config import split_address
    from logd.server.options import ServeOptions
    from logd.server.program import run

    in_force = config.settings
    serve_options = ServeOptions(
        data=in_force.log_dirs,
        listen=split_address(in_force.listeners),
        admin=split_address(in_force.admin_listen),
        advertise=split_address(in_force.advertised_listeners)
        if in_force.advertised_listeners
        else None,
        config=config,
        log_format="json" if in_force.log_format == "json" else "text",
        node_token=_token(in_force.node_token_file),
        rebuild_catalog=rebuild_catalog,
        rebuild_without=rebuild_without,
    )
    raise click.exceptions.Exit(run(serve_options, on_ready=_say_ready))


def _token(path: str) -> str | None:
    """Return the token in a file; None where no file is named."""
    if not path:
        return None
    from cli.token_file import read_token

    return read_token(path)


def _node_words(nodes: Sequence[tuple[str, str]]) -> str | None:
    """Return --node as the setting has it, a list with commas; None: not given.

    Raises:
        click.UsageError: a place that cannot stand in a list.
    """
    for name, place in nodes:
        if "," in place:
            raise click.UsageError(f"--node {name}={place}: a node's place has no comma in it")
    return ",".join(f"{name}={place}" for name, place in nodes) or None


def _written(address: Address | None) -> str | None:
    """Return an address as settings have it: without brackets."""
    return None if address is None else f"{address.host}:{address.port}"


def _say_ready(addresses: str) -> None:
    click.echo(f"ready {addresses}")
    sys.stdout.flush()
