"""`logd node`: storage nodes."""

from __future__ import annotations

import click

from cli.node_commands import add, list_nodes, remove
from cli.node_moves import drain, rebalance, replace
from cli.node_serve import serve
from cli.options import common_options


@click.group()
@common_options("admin", "json")
def node() -> None:
    """Storage nodes: where the chunks of coded segments lie.

    \b
    Example:
      logd node add a /mnt/disk1/logd
      logd node list
    """


node.add_command(serve)
node.add_command(add)
node.add_command(list_nodes)
node.add_command(drain)
node.add_command(remove)
node.add_command(replace)
node.add_command(rebalance)
