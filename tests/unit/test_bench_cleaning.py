"""bench.cleaning: the log that is compacted for the benchmark is one, and its ceiling is honest."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cleaning import compact_log, rebuild_log, write_log
from logd.record.batch import has_valid_crc, read_header
from logd.record.records import check_records, iterate

MIB = 1024 * 1024


@pytest.mark.parametrize("codec", [0, 4])
@pytest.mark.parametrize("record_bytes", [100, 1024])
def test_the_log_is_what_was_asked_for(directory: str, record_bytes: int, codec: int) -> None:
    """Batches that the record library takes, of records as long as said, keys in turn."""
    spec = {
        "directory": f"{directory}/log",
        "total_bytes": MIB,
        "record_bytes": record_bytes,
        "keys": 500,
        "codec": codec,
    }
    log = write_log(spec)
    (segment,) = log["segments"]
    data = Path(directory, "log", f"{0:020d}.log").read_bytes()
    assert segment == (0, log["records"], len(data))
    keys = []
    at = 0
    while at < len(data):
        header = read_header(data, at)
        batch = data[at : at + header.size]
        assert has_valid_crc(batch, 0, header)
        check_records(batch)
        assert header.base_offset == len(keys)
        keys += [record.key for record in iterate(batch)]
        at += header.size
    assert keys == [b"key-%012d" % (number % 500) for number in range(log["records"])]
    assert abs(log["content_bytes"] / log["records"] - record_bytes) < 4


def test_both_sides_do_all_of_the_log(directory: str) -> None:
    """The round keeps one record a key and leaves the log as it was; both count the same bytes."""
    spec = {
        "directory": f"{directory}/log",
        "total_bytes": MIB,
        "record_bytes": 100,
        "keys": 500,
        "in_turn": False,
    }
    job = {"directory": spec["directory"], "segments": write_log(spec)["segments"]}
    names = sorted(Path(directory, "log").iterdir())
    ours, ceiling = compact_log(job), rebuild_log(job)
    assert ours["bytes"] == ceiling["bytes"] == names[0].stat().st_size
    assert ours["cpu_s"] > 0 < ceiling["cpu_s"]
    assert sorted(Path(directory, "log").iterdir()) == names
