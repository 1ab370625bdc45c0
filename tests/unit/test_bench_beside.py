"""What others notice of the cold tier's work, on small segments."""

from __future__ import annotations

import pytest

from bench import Options
from bench.runner import open_run
from bench.suites import beside

MIB = 2**20


@pytest.fixture
def run(tmp_path, monkeypatch):
    """One short window of each side."""
    monkeypatch.setattr(beside, "SEGMENT_BYTES", 16 * MIB)
    monkeypatch.setattr(beside, "SEGMENTS", 1)
    monkeypatch.setattr(beside, "WINDOW_S", 0.2)
    with open_run(tmp_path, Options(repetitions=1, prime_bytes=0)) as opened:
        yield opened


def test_appends_are_measured_while_segments_are_coded(run) -> None:
    """The row is a 99th percentile beside that of the same appends a moment before."""
    (row,) = beside.encode_beside_rows(run)
    assert row.name == "durable 16 KiB, 200/s, p99 during encoding"
    assert row.value > 0 < row.ceiling


def test_appends_and_fetches_are_measured_while_chunks_are_made_again(run) -> None:
    """The chunks of a node are taken away and come back for each window."""
    rows = beside.repair_beside_rows(run)
    assert [row.name for row in rows] == [
        "durable 16 KiB, 200/s, p99 during repair",
        "fetch 1 MiB of warm data, p99 during repair",
    ]
    assert all(row.value > 0 < row.ceiling for row in rows)
