"""The benchmark of consumer groups against a running server, small: what it counts has happened."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench
from bench.group_load import CommitLoad, FillLoad, commit, fill
from tests.logd_command import Logd
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop


def test_every_row_is_measured(tmp_path: Path) -> None:
    """Commits, rebalances, heartbeats and starts give figures, and ratios where there is a
    ceiling; nothing is left behind."""
    # A window in which a busy disk syncs something.
    options = bench.Options(seconds=0.2, repetitions=1, fill_commits=2000, idle_groups=5)
    rows = bench.run("commits", directory=tmp_path, options=options)
    assert [row.unit for row in rows] == [
        "commits/s", "commits/s", "ms", "ms", "% of a core", "s", "s",
    ]  # fmt: skip
    for row in rows:
        # Processor time is counted in ticks, and so short a window may have none.
        assert row.value > 0 or row.unit == "% of a core"
        assert (row.ceiling is None) == ("beyond the delay" in row.name)
    assert rows[1].conditions["requests_per_sync"] >= 1
    assert rows[1].conditions["bytes_per_commit"] > 50
    assert list(tmp_path.iterdir()) == []


def test_what_the_clients_count_is_committed(tmp_path: Path) -> None:
    """The groups of a window have committed, and a fill has committed every partition."""
    settings = ("--set", "group.initial.rebalance.delay.ms=0")
    with ServerProcess(tmp_path / "data", *settings) as server:
        logd = Logd(server)
        logd.run("topic", "create", "t", "--partitions", "3")
        logd.run("group", "reset", "first", "--topic", "t", "--to", "0", "--yes")
        done = commit(CommitLoad(server.kafka, "t", connections=4, depth=1, seconds=0.2))
        assert 0 < done["requests"] < done["requests_in_all"]
        assert 0 < done["p50_us"] <= done["p99_us"]
        groups = logd.json("group", "list")
        assert sum(row["group"].startswith("commits-") for row in groups) == 4
        filled = fill(FillLoad(server.kafka, "t", groups=2, partitions=3, commits=30))
        assert filled["commits"] == 30
        rows = logd.json("group", "describe", "filled-000001")["offsets"]
        assert [(row["partition"], row["committed_offset"]) for row in rows] == [
            (0, 4), (1, 4), (2, 4),
        ]  # fmt: skip
