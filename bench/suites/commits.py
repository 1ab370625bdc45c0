"""Consumer groups: durable commits, rebalances, what idle members cost, and starting with offsets.

Commits are measured against a bare loop that writes and syncs as many bytes at a time as the server
did in the same turn, by its own count of syncs and the growth of its offsets log.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from bench import group_protocol as protocol
from bench.measurement import Measurement, Window
from bench.process import Server, run_job
from bench.runner import JOB_TIMEOUT_S, Run, as_core_share, as_requests
from bench.suites.recover import start_empty
from bench.suites.shapes import connections_name
from bench.suites.synced import log_bytes_of, syncs_of, with_bytes_per_sync

OFFSETS_TOPIC: Final = "__consumer_offsets"
INITIAL_DELAY_MS: Final = 500
SETTINGS: Final = {"group.initial.rebalance.delay.ms": str(INITIAL_DELAY_MS)}
REBALANCE_MEMBERS: Final = 100
IDLE_MEMBERS: Final = 5
HEARTBEAT_S: Final = 3.0
# A window of heartbeats is as many times as long as others: each member is to send one at least.
IDLE_WINDOWS: Final = 8
FILL_PARTITIONS: Final = 100
FILL_GROUPS: Final = 100
FILL_TIMEOUT_S: Final = 600.0
# What is committed between two starts after a crash: less than makes a snapshot.
CRASH_COMMITS: Final = 20_000


def commit_rows(run: Run) -> list[Measurement]:
    """Commits a second, rebalances, idle members, and starts with many commits."""
    rows: list[Measurement] = []
    with run.server("groups", settings=SETTINGS) as server, run.topic(server) as topic:
        server.find_coordinator()
        rows += [_commits(run, server, topic, connections) for connections in (1, 50)]
        rows += _rebalances(run, server, topic)
        rows.append(_idle(run, server, topic))
    rows += _starts(run)
    return rows


# --- Commits ------------------------------------------------------------------------------------


def _commits(run: Run, server: Server, topic: str, connections: int) -> Measurement:
    load = {"connections": connections, "depth": 1}

    def ours() -> Window:
        syncs, size = syncs_of(server), log_bytes_of(server, OFFSETS_TOPIC)
        window = run.job("commit", address=server.kafka, server_pid=server.pid, topic=topic, **load)
        grown = log_bytes_of(server, OFFSETS_TOPIC) - size
        commit_bytes = grown / window.notes["requests_in_all"]
        noted = with_bytes_per_sync(window, commit_bytes, syncs_of(server), syncs, connections)
        notes = {**noted.notes, "bytes_per_commit": round(commit_bytes, 1)}
        return as_requests(replace(noted, notes=notes))

    def ceiling(ours: Window) -> Window:
        place = str(run.directory)
        bare = run.job("write-and-sync", directory=place, bytes=ours.notes["bytes_per_sync"])
        return as_requests(
            replace(bare, requests=round(bare.requests * ours.notes["requests_per_sync"]))
        )

    return run.row(
        f"durable commits, {connections_name(connections)}",
        "commits/s",
        ours,
        ceiling=ceiling,
        ceiling_name="bare write and fdatasync, the same bytes a sync",
        conditions=load,
    )


# --- Rebalances ---------------------------------------------------------------------------------


def _rebalances(run: Run, server: Server, topic: str) -> list[Measurement]:
    """Both rows are of the same windows: a group forms, and then its members join again."""
    measured: list[dict[str, Any]] = []
    load = {"members": REBALANCE_MEMBERS, "delay_ms": INITIAL_DELAY_MS}

    def window() -> Window:
        spec = {"address": server.kafka, "topic": topic, **load}
        measured.append(run_job("rebalance", spec, timeout_s=JOB_TIMEOUT_S))
        return Window(measured[-1]["again_ms"])

    again = run.row(
        f"rebalance of {REBALANCE_MEMBERS} members, from the last one's request",
        "ms",
        window,
        ceiling=lambda _: Window(measured[-1]["bare_ms"]),
        ceiling_name="as many of the smallest requests, answered by the same server",
        conditions=load,
    )
    seen = iter(list(measured))
    first = run.row(
        f"first rebalance of {REBALANCE_MEMBERS} members, beyond the delay",
        "ms",
        lambda: Window(next(seen)["first_ms"]),
        conditions=load,
    )
    return [first, again]


# --- Idle members -------------------------------------------------------------------------------


def _idle(run: Run, server: Server, topic: str) -> Measurement:
    """The server's CPU while members only say that they live."""
    spec: dict[str, Any] = {
        "topic": topic,
        "groups": run.options.idle_groups,
        "members": IDLE_MEMBERS,
        "interval_s": HEARTBEAT_S,
        "seconds": run.options.seconds * IDLE_WINDOWS,
    }

    def ceiling(_: Window) -> Window:
        with run.bare("serve-answers", answer=protocol.heartbeat_answer().hex()) as (address, pid):
            bare = run.job("heartbeats", address=address, server_pid=pid, is_bare=True, **spec)
        return as_core_share(bare)

    return run.row(
        f"{run.options.idle_groups:,} idle groups of {IDLE_MEMBERS} members",
        "% of a core",
        lambda: as_core_share(
            run.job("heartbeats", address=server.kafka, server_pid=server.pid, **spec)
        ),
        ceiling=ceiling,
        ceiling_name="a bare loop that answers the same heartbeats",
        conditions={"interval_s": HEARTBEAT_S},
    )


# --- Starts -------------------------------------------------------------------------------------


def _starts(run: Run) -> list[Measurement]:
    """From exec to ready, with many commits of few keys in the offsets log."""
    commits = run.options.fill_commits
    keys = FILL_GROUPS * FILL_PARTITIONS
    shape = {"groups": FILL_GROUPS, "partitions": FILL_PARTITIONS}
    name = f"{commits:,} commits of {keys:,} keys"
    with run.server("commits") as server:
        server.find_coordinator()
        server.create_topic("filled", partitions=FILL_PARTITIONS)

        def fill(count: int) -> dict[str, Any]:
            spec = {"address": server.kafka, "topic": "filled", "commits": count, **shape}
            return run_job("fill-commits", spec, timeout_s=FILL_TIMEOUT_S)

        run.options.progress(f"committing {name}")
        filled = fill(commits)
        conditions = {
            "commits_filled_per_s": round(filled["commits"] / filled["seconds"]),
            "offsets_log_bytes": log_bytes_of(server, OFFSETS_TOPIC),
        }

        def restart() -> Window:
            server.stop()
            return Window(server.start())

        def crash() -> Window:
            fill(min(CRASH_COMMITS, commits))
            server.kill()
            return Window(server.start())

        def empty(_: Window) -> Window:
            return Window(start_empty(run))

        return [
            run.row(f"start {after}, {name}", "s", ours, ceiling=empty,
                    ceiling_name="start, empty directory", conditions=conditions)
            for after, ours in (("after a clean stop", restart), ("after kill -9", crash))
        ]  # fmt: skip
