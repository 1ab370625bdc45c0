"""What the operating system allows this process: descriptors, and so connections."""

from __future__ import annotations

import resource

from logd.config import ServerSettings
from logd.units import INT32_MAX

_SHARE_FOR_CONNECTIONS = 0.75
"""The rest of the descriptors is for segments, indexes, the catalog and threads."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit on open files to the hard one; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def connection_limits(descriptors: int, settings: ServerSettings) -> tuple[int, int]:
    """Return max.connections and max.connections.per.ip, as set or as the descriptors allow.

    A setting that nobody gave (2^31 - 1, Kafka's default for "no limit") becomes what can be kept.
    """
    possible = max(1, int(descriptors * _SHARE_FOR_CONNECTIONS) - 64)
    return (
        min(settings.max_connections, possible, INT32_MAX),
        min(settings.max_connections_per_ip, possible, INT32_MAX),
    )
