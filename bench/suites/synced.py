"""How many bytes the server put behind each sync: what a bare loop must write to be a ceiling."""

from __future__ import annotations

import json
import re
import urllib.request
from dataclasses import replace
from typing import Final

from bench.measurement import Window
from bench.process import Server

_SYNC_COUNT: Final = re.compile(r"^logd_\w*sync\w*_seconds_count(?:\{[^}]*\})? (\d+)", re.MULTILINE)


def syncs_of(server: Server) -> int | None:
    """Return how many syncs of logs the server has counted, or None if it does not say."""
    counts = _SYNC_COUNT.findall(_ask(server, "/metrics"))
    return sum(map(int, counts)) if counts else None


def log_bytes_of(server: Server, topic: str) -> int:
    """Return how many bytes the segments of a topic hold."""
    rows = json.loads(_ask(server, f"/v1/segments?topic={topic}"))
    return sum(int(row["size_bytes"]) for row in rows)


def _ask(server: Server, path: str) -> str:
    host, port = server.admin
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def with_bytes_per_sync(
    window: Window,
    request_bytes: float,
    syncs_after: int | None,
    syncs_before: int | None,
    in_flight: int,
) -> Window:
    """Note how many bytes each sync of the server carried on average.

    The server's own counter says how often it synced. Where it has none, half of what is in flight
    is assumed: one half is being synced while the other is on its way. The row says which it was.
    """
    if syncs_before is not None and syncs_after is not None and syncs_after > syncs_before:
        requests = window.notes["requests_in_all"] / (syncs_after - syncs_before)
        source = "the server's counter"
    else:
        requests = max(1, in_flight / 2)
        source = "assumed: half of what is in flight"
    notes = {
        **window.notes,
        "bytes_per_sync": round(request_bytes * requests),
        "requests_per_sync": round(requests, 2),
        "bytes_per_sync_from": source,
    }
    return replace(window, notes=notes)
