"""The admin port's routes for storage nodes.

    GET    /v1/nodes       the rows of `logd node list`
    POST   /v1/nodes       {"name", "address", "rack"?}: registers a node, or the new place of one
    DELETE /v1/nodes/NAME  forgets a node that holds nothing

An address is an absolute directory on the server's machine, or http://HOST:PORT.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from logd.broker.context import Broker
from logd.broker.node_status import describe_node, list_nodes
from logd.net.http import HttpError, Request

NODES_PATH: Final = "/v1/nodes"
NODE_PREFIX: Final = "/v1/nodes/"
BODY_BYTES_MAX: Final = 16 * 1024


class _AddRequest(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    address: str
    rack: str | None = None


async def get_nodes(broker: Broker, _request: Request) -> list[dict[str, Any]]:
    """Answer GET /v1/nodes."""
    return list_nodes(broker.cold)


async def add_node(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer POST /v1/nodes with the node's row.

    Raises:
        HttpError: the body makes no sense. NodeRefusedError, StorageError: as `StorageNodes.add`.
    """
    body = await request.read_body(limit_bytes=BODY_BYTES_MAX)
    try:
        asked = msgspec.json.decode(body, type=_AddRequest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HttpError(400, f"the body is not what is expected: {error}") from error
    if "://" not in asked.address and not asked.address.startswith("/"):
        raise HttpError(400, "the address must be an absolute path, or http://HOST:PORT")
    nodes = broker.cold.nodes
    names = {nodes.node(name).identity: name for name in nodes.names()}
    record = await nodes.add(asked.name, asked.address, asked.rack)
    was = names.get(record.identity, record.name)
    return {
        **describe_node(broker.cold, record.name),
        "renamed_from": was if was != record.name else None,
    }


async def remove_node(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer DELETE /v1/nodes/NAME with the row that the node had.

    Raises:
        UnknownNodeError, NodeRefusedError, StorageError: as `StorageNodes.remove`.
    """
    name = request.path.removeprefix(NODE_PREFIX)
    row = describe_node(broker.cold, name)
    await broker.cold.nodes.remove(name)
    return row
