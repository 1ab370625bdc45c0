"""`logd node`: storage nodes."""

from __future__ import annotations

import click

from cli.node_serve import serve
from cli.options import common_options


@click.group()
@common_options("admin", "json")
def node() -> None:
    """Storage nodes: where the chunks of coded segments lie.

    \b
    Example:
      logd node serve /mnt/disk1 --listen 127.0.0.1:9701 --name a
    """


node.add_command(serve)
