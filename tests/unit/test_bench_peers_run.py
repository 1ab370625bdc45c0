"""The comparison with peers: turns, failures, the page; and a whole run of logd against itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.machine import machine_of
from bench.measurement import Window
from bench.peers import packages
from bench.peers.contest import Session, Side, compare, take_turns
from bench.peers.kafka_rows import is_level
from bench.peers.page import page
from bench.peers.results import Results, read, write
from bench.process import ROOT, BenchError
from bench.runner import Options, open_run


def windows(*values: float, client_cpu_s: float = 0.1) -> list[Window]:
    return [
        Window(value, p50_us=10.0, p99_us=20.0, client_cpu_s=client_cpu_s, server_cpu_s=0.2,
               requests=100, seconds=1.0)
        for value in values
    ]  # fmt: skip


def results_of(*rows, **fields) -> Results:
    servers = {"logd": {"version": "1", "settings": {}}, "kafka": {"settings": {"a": "b"}}}
    options = {"seconds": 0.4, "repetitions": 2}
    return Results(
        date="2026-01-02", machine=machine_of(Path.cwd()), rows=list(rows), options=options,
        servers=servers, **fields,
    )  # fmt: skip


WON = compare("Peer", "page cache on both sides", "fast", "MB/s", windows(30, 20), windows(10, 10))
LOST = compare(
    "Peer",
    "page cache on both sides",
    "slow",
    "us",
    windows(30, 30),
    windows(10, 20),
)


@pytest.fixture
def session(tmp_path):
    with open_run(tmp_path, Options(repetitions=2, prime_bytes=0)) as run:
        yield Session(run)


def test_sides_take_turns(session) -> None:
    """A B A B: each window of one side has a neighbour of the other."""
    order = []
    sides = [Side(name, lambda name=name: order.append(name) or Window(1.0)) for name in "AB"]
    taken = take_turns(session.run, sides)
    assert order == ["A", "B", "A", "B"]
    assert {name: len(found) for name, found in taken.items()} == {"A": 2, "B": 2}


def test_a_ratio_above_one_is_in_our_favour() -> None:
    """Whether more or less is better, and from neighbours rather than from medians."""
    assert WON.ratio == 2.5
    assert LOST.ratio == 0.5


def test_an_error_fails_its_row_alone(session) -> None:
    """A row that meets an error is named with its reason; the next is measured."""

    def broken() -> list:
        raise BenchError("it died")

    session.attempt("one", broken)
    session.attempt("two", lambda: [WON])
    assert session.failed == {"one": "it died"}
    assert session.rows == [WON]


def test_rows_are_left_out_visibly(session) -> None:
    """A row that is not wanted is not measured; one for which time is up is named."""
    session.only = ("fast",)
    session.deadline = time.monotonic() - 1
    session.attempt("slow", lambda: [LOST])
    session.attempt("fast", lambda: [WON])
    assert not session.rows
    assert session.left_out == ["fast"]


def test_the_page_has_losses_and_failures() -> None:
    """What was lost, skipped, failed or left out stands in the page."""
    text = page(
        [
            results_of(
                WON, LOST, skipped={"redis": "no apt-get"}, failed={"start": "x"}, left_out=["z"]
            )
        ]
    )
    assert "| page cache on both sides | 2 | 1 | 1.5 |" in text
    assert "| page cache on both sides | slow | 0.5 |" in text
    assert "**redis was skipped**: no apt-get" in text
    assert "not in the tables**: start" in text
    assert "for time was up: z" in text
    assert "25 (20 to 30)" in text


def test_the_page_says_where_the_client_was_the_limit() -> None:
    """A figure of a client that had no time left is marked."""
    row = compare(
        "Peer", "s", "n", "MB/s", windows(3, client_cpu_s=0.95), windows(1, client_cpu_s=0.5)
    )
    assert "| n | MB/s | 3* | 1 | 3 |" in page([results_of(row)])


def test_a_goal_is_met_by_its_worst_row() -> None:
    """One row below the least ratio is enough to miss a goal, and it is named."""
    rows = [
        compare("Apache Kafka", "synced before the answer on both sides", f"produce {name}", "MB/s",
                windows(ours), windows(1))
        for name, ours in (("much", 9), ("little", 4))
    ]  # fmt: skip
    goal = "produce, synced before the answer on both sides"
    assert f"| {goal} | 5 | 1 | 1 | produce much: 9 | yes |" in page([results_of(rows[0])])
    assert f"| {goal} | 5 | 2 | 1 | produce little: 4 | **no** |" in page([results_of(*rows)])


def test_results_survive_their_file(tmp_path) -> None:
    """What is read is what was written; anything else is refused."""
    before = results_of(WON, LOST, failed={"a": "b"})
    write(before, tmp_path / "new" / "r.json")
    assert read(tmp_path / "new" / "r.json") == before
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="no result"):
        read(tmp_path / "other.json")


def test_a_machine_without_the_tools_has_no_peers(monkeypatch, tmp_path) -> None:
    """What cannot be had is unavailable, with the tool that is missing."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(packages.UnavailableError, match="no mvn on this machine"):
        packages.maven_jars("x", [packages.Artifact("g", "n", "1")])
    with pytest.raises(packages.UnavailableError, match="no go on this machine"):
        packages.go_program("example/thing/v2", "1.0.0")
    with pytest.raises(packages.UnavailableError, match="no apt-get on this machine"):
        packages.debian_program("thing", "thing")
    assert list((tmp_path / "logd-bench").iterdir()) == []  # no half of anything is kept


@pytest.mark.slow
def test_a_whole_run_against_ourselves(tmp_path) -> None:
    """Two servers, all configurations of one shape, and the result as JSON; nothing is left."""
    place, out = tmp_path / "disk", tmp_path / "out.json"
    options = ["--dir", str(place), "--seconds", "0.2", "--repetitions", "1", "--warm", "0.1"]
    command = [sys.executable, "-m", "bench.peers", "run", *options, "--only", "logd"]
    done = subprocess.run(
        [*command, "--row", "50 connections", "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = read(out)
    assert len(results.rows) == 12
    assert not results.failed
    for row in results.rows:
        assert row.ours.conditions["checked_bytes"] > 0
        assert row.theirs.conditions["checked_bytes"] > 0
    assert str(tmp_path) not in json.dumps(results.servers)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("costs", "level"),
    [
        ([], False),
        ([9.0, 9.0], False),
        ([9.0, 9.0, 9.0], True),
        ([9.0, 5.0, 4.0], False),
        ([9.0, 5.0, 4.0, 4.1, 3.9], True),
        ([9.0, 4.0, 4.1, 3.0], False),
    ],
)
def test_a_server_is_warm_when_it_gets_no_cheaper(costs, level) -> None:
    """Warming up ends when two rounds in a row brought no gain of a twentieth, and not before."""
    assert is_level(costs) == level
