"""The repair suite on small segments: chunks come back, and nothing of it stays."""

from __future__ import annotations

import pytest

import bench
from bench import repairing
from bench.process import run_job
from bench.suites import loss, repair

MIB = 2**20


@pytest.mark.parametrize("lost", [1, 2])
def test_lost_chunks_are_made_and_taken_away_again(tmp_path, lost) -> None:
    """Bytes are those of the lost chunks, k bytes are read for the first; the nodes stay."""
    spec = {"directory": str(tmp_path), "profile": "4+2"}
    run_job("encode", {**spec, "bytes": 16 * MIB, "keep": True}, timeout_s=60)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    answer = run_job("rebuild-chunks", {**spec, "lost": lost}, timeout_s=60)
    size = repairing.chunk_path(tmp_path, 0).stat().st_size
    assert size > 4 * MIB
    assert lost * size * 0.9 < answer["bytes"] <= lost * (size + MIB)
    assert answer["read_per_byte"] == pytest.approx(4 / lost, rel=0.1)
    bare = run_job("bare-rebuild", {**spec, "lost": lost}, timeout_s=60)
    assert bare["bytes"] > 0
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


def test_the_suite_has_a_row_for_each_loss(tmp_path, monkeypatch) -> None:
    """One chunk, and as many as may be lost, each beside the bare decode; scrub beside hashing."""
    monkeypatch.setattr(repair, "SEGMENT_BYTES", 16 * MIB)
    monkeypatch.setattr(repair, "PROFILES", ("4+2",))
    options = bench.Options(repetitions=1, prime_bytes=0)
    monkeypatch.setattr(repair, "repair_beside_rows", lambda run: [])
    rows = bench.run("repair", directory=tmp_path, options=options)
    assert [row.name for row in rows] == [
        "repair 1 chunk of 4+2",
        "repair 2 chunks of 4+2",
        "scrub chunks of 4+2 from the device",
        "scrub chunks of 4+2 from the page cache",
    ]
    assert all(row.value > 0 and row.ratio for row in rows)
    assert rows[0].conditions["read_bytes_a_byte_made"] == pytest.approx(4, rel=0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_lost_node_s_chunks_are_elsewhere_in_time(tmp_path, monkeypatch) -> None:
    """The scenario at a hundredth: full margin within its promise, each lost chunk made once."""
    monkeypatch.setattr(repair, "PROFILES", ())
    monkeypatch.setattr(repair, "repair_beside_rows", lambda run: [])
    monkeypatch.setattr(loss, "SEGMENTS", 12)
    monkeypatch.setattr(loss, "SEGMENT_BYTES", MIB)
    options = bench.Options(repetitions=1, prime_bytes=0, curves=True)
    [row] = bench.run("repair", directory=tmp_path, options=options)
    noted = row.conditions
    assert row.value < noted["promised_s"]
    assert noted["segments"] >= 12
    assert noted["margins"] == {"lost": 0, "0": 0, "1": 0, "2": noted["segments"]}
    assert 0 < noted["chunks"] <= noted["segments"]
    assert noted["read_bytes"] == pytest.approx(4 * noted["written_bytes"], rel=0.05)
    assert list(tmp_path.iterdir()) == []
