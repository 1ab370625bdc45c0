"""`logd demo`: the tour, with a part of the standard library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli import demo, main, tour
from cli.roundtrip import Source, standard_library
from cli.tour import Tour

FILES = 500


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of some files, and segments that fit it."""
    files = [each for each in standard_library() if each.name.endswith(".py")][:FILES]

    def library() -> list[Source]:
        return files

    monkeypatch.setattr(tour, "standard_library", library)
    monkeypatch.setitem(tour._CONFIG, "segment.bytes", str(2**20))
    monkeypatch.setitem(tour.SETTINGS, "repair.rate.bytes", "800000")


@pytest.mark.usefixtures("small")
def test_the_tour_ends_with_all_files_identical(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed, coded, two nodes gone and made again: every file is what it was; salvage has all."""
    kept = tmp_path / "kept"
    assert main.run(["demo", "--keep", str(kept), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["identical"] == found["files"] == FILES
    assert found["different"] == []
    assert found["segments"] >= 4
    assert found["margins"]["2"] == found["segments"]
    assert found["margins_left"]["0"] == found["segments"]
    assert 1.5 <= found["stored_bytes"] / found["source_bytes"] < 1.6
    assert not (kept / "nodes" / "b").exists()
    assert (kept / "nodes" / "b-new" / "chunks").is_dir()
    assert found["margins_repaired"]["2"] == found["segments"]
    assert (found["identical_repaired"], found["different_repaired"]) == (FILES, [])
    assert 0.32 < found["repaired_bytes"] / found["stored_bytes"] < 0.35
    rest, said = found["repair_rest_seconds"], found["repair_eta_seconds"]
    assert 0 < rest < found["repair_seconds"]
    # How far off it may be is no matter of this test: whoever else is at work here counts against
    # it. tests/unit/test_repairing.py has the bound, on a clock of its own.
    assert found["repair_eta_error"] == pytest.approx(abs(said - rest) / rest)
    assert said > 0
    out = tmp_path / "out"
    assert main.run(["salvage", str(out), "--from", str(kept / "nodes"), "--json"]) == 0
    salvaged = json.loads(capsys.readouterr().out)
    assert sum(each["size_bytes"] for each in salvaged["partitions"]) == found["source_bytes"]
    assert main.run(["demo", "--keep", str(kept)]) == 1


def test_the_table_says_what_was_stored_how_fast_and_how_safe() -> None:
    """A row for each step, margins in words."""
    made = Tour(
        files=7, bytes=10_000_000, append_seconds=2.0, segments=3, source_bytes=8_000_000,
        stored_bytes=12_000_000, encode_seconds=0.5, margins={"lost": 0, "2": 3},
        nodes_lost=2, margins_left={"lost": 1, "0": 2}, read_seconds=4.0,
        repaired_bytes=4_000_000, repair_seconds=5.0, repair_eta_seconds=3.3,
        repair_rest_seconds=3.0, repair_eta_error=0.1, margins_repaired={"lost": 0, "2": 3},
        read_repaired_seconds=2.0, identical_repaired=7,
    )  # fmt: skip
    rows = demo._rows(made)
    assert rows[0] == ("appended, acks=all", "10.0 MB", 2.0, 5.0, "7 files, kill -9")
    assert rows[1] == ("coded", "8.0 MB", 0.5, 16.0, "3 segments, 4+2")
    assert rows[2][-1] == "1.50 x; margin 2"
    assert rows[4][-1] == "2 of 6 nodes; 1 segments lost"
    assert rows[5] == ("made again", "4.0 MB", 5.0, 0.8, rows[5][-1])
    assert rows[5][-1] == "ETA 3.3 s, was 3.0 s (10% off); margin 2"
    assert rows[6] == ("read, repaired", "10.0 MB", 2.0, 5.0, "7 files identical")
