"""What a server is started with: the settings, and what the command line says beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from logd.config import ServerConfig


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line says beside the settings.

    Attributes:
        listen, admin: host and port; port 0 takes a free one.
        advertise: what clients are told to connect to; None: where the Kafka port listens.
        rebuild_catalog: make the catalog again, from nodes and directories, first.
        rebuild_without: nodes that are given up in that.
        node_token: what storage nodes that are servers are asked with; None: none.
    """

    data: str
    listen: tuple[str, int]
    admin: tuple[str, int]
    advertise: tuple[str, int] | None
    config: ServerConfig
    log_format: Literal["text", "json"] = "text"
    node_token: str | None = None
    rebuild_catalog: bool = False
    rebuild_without: tuple[str, ...] = ()
