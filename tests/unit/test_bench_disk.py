"""The disk suite on small files: its loops, its rows, and what is skipped."""

from __future__ import annotations

import os

import pytest

import bench
from bench import bare_disk, bare_reads
from bench.suites import disk

BLOCK = 4096


def test_a_cold_read_ends_when_all_was_read_once(tmp_path) -> None:
    """A block that was read is warm: a cold window reads none twice, however long it may take."""
    path = tmp_path / "file"
    bare_reads.make_file({"path": str(path), "bytes": 64 * BLOCK})
    spec = {"path": str(path), "bytes": BLOCK, "random": True, "seconds": 10}
    answer = bare_reads.read({**spec, "cold": True})
    assert answer["requests"] == 64
    warm = bare_reads.read({**spec, "cold": False, "seconds": 0.01})
    assert warm["requests"] > 64


def test_what_was_dropped_is_not_in_memory(tmp_path) -> None:
    """The share of the file that is in memory is seen, before and after it was dropped."""
    path = tmp_path / "file"
    bare_reads.make_file({"path": str(path), "bytes": 2**20})
    with path.open("rb") as file:
        file.read()
        before = bare_reads.cached_share(file.fileno(), 2**20)
        for _ in range(100):  # What another processor has on its lists stays, for a moment.
            bare_reads.drop(file.fileno())
            after = bare_reads.cached_share(file.fileno(), 2**20)
            if after < before:  # Not 1 and 0: the kernel drops pages of its own will.
                break
        assert after < before


def test_scratch_files_have_no_name(tmp_path) -> None:
    """Whatever ends the process, nothing of them stays."""
    with bare_disk.scratch(str(tmp_path), 3) as fds:
        assert len(fds) == 3
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("piece_bytes", [1000, BLOCK, 10 * BLOCK])
def test_a_group_commit_writes_all_its_pieces(tmp_path, monkeypatch, piece_bytes) -> None:
    """However it is cut, each sync is of all bytes."""
    written = []
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: written.append(sum(map(len, parts)))
                        or written[-1])  # fmt: skip
    spec = {"directory": str(tmp_path), "bytes": 5 * BLOCK, "piece_bytes": piece_bytes}
    answer = bare_disk.write_and_sync({**spec, "seconds": 0.001})
    assert set(written) == {5 * BLOCK}
    assert len(written) == answer["requests"]


@pytest.mark.slow
def test_the_suite_has_every_row_and_a_verdict(tmp_path, monkeypatch) -> None:
    """Writes, syncs, groups, reads, sendfile, many files; the last row says it in words."""
    monkeypatch.setattr(disk, "READ_FILE_BYTES", 2 * 2**20)
    monkeypatch.setattr(disk, "SYNC_SIZES", (4096, 2**20))
    monkeypatch.setattr(disk, "GROUPS", (1, 64))
    options = bench.Options(seconds=0.01, repetitions=1, prime_bytes=0)
    rows = bench.run("disk", directory=tmp_path, options=options)
    names = " ".join(row.name for row in rows)
    for words in ("to the page cache", "and fdatasync", "group commit", "cold", "warm",
                  "sendfile", "files in turn", "threads syncing"):  # fmt: skip
        assert words in names
    verdict = rows[-1].conditions
    assert len(verdict["verdict"]) == 3
    assert verdict["fdatasync"] in ("plausible", "suspicious", "not durable", "unknown")
    assert all(row.value > 0 for row in rows)
    assert all({"cpu", "cores", "kernel", "file_system", "versions"} <= row.conditions.keys()
               for row in rows)  # fmt: skip
    assert list(tmp_path.iterdir()) == []
