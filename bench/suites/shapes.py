"""Sizes that several suites share, and how they are written in the names of rows."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
# What clients keep in flight by default (max.in.flight.requests.per.connection).
CLIENT_DEPTH: Final = 5
# The durable rows of many partitions: how many, and how many threads the server syncs with.
ROUND_ROBIN_PARTITIONS: Final = 100
SYNC_THREADS: Final = 16


def size_name(size_bytes: int) -> str:
    """Return a batch size as rows name it; 0 is one record."""
    if not size_bytes:
        return "one record"
    return f"{size_bytes // MIB} MiB" if size_bytes >= MIB else f"{size_bytes // KIB} KiB"


def connections_name(connections: int) -> str:
    """Return `1 connection` or `4 connections`."""
    return counted(connections, "connection")


def counted(number: int, thing: str) -> str:
    """Return `1 thing` or `1,000 things`."""
    return f"{number:,} {thing}{'s' if number > 1 else ''}"


def shape_name(*, connections: int, depth: int) -> str:
    """Return how one-record requests were in flight, as rows name it."""
    return connections_name(connections) + (f", depth {depth}" if connections == 1 else "")
