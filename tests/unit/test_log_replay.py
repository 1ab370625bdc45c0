"""Replaying a log: the last value of each key, whatever the log looks like inside."""

from __future__ import annotations

import random

import pytest

from logd.record.batch import read_header
from logd.record.build import BatchBuilder, set_crc
from logd.record.last_values import LastValues
from logd.storage import log_replay
from logd.storage.log import Log
from logd.storage.log_replay import LogReplay
from tests.unit.log_builder import append, make_log, overwrite, segment_path


def batch(rng: random.Random, number: int, *, codec: int = 0) -> bytearray:
    builder = BatchBuilder()
    for index in range(rng.randint(1, 5)):
        key = b"key %d" % rng.randrange(20)
        value = None if rng.random() < 0.2 else b"%d.%d " % (number, index) * rng.randint(0, 30)
        headers = [("h", b"1")] if rng.random() < 0.1 else []
        builder.append(key, value, headers, timestamp_ms=5000 + rng.randrange(3))
    return builder.build(codec=codec)


def filled(directory: str, rng: random.Random, count: int = 60) -> tuple[Log, LastValues]:
    """Return a log of several segments, and what it means, by the careful way."""
    from logd.record.records import iterate

    log = make_log(directory)
    expected: LastValues = {}
    for number in range(count):
        made = batch(rng, number, codec=rng.choice((0, 0, 0, 4)))
        for record in iterate(made):
            expected[record.key] = (record.value, record.timestamp_ms)
        append(log, made)
    assert len(log.segment_list.items) > 3
    return log, expected


def replay(log: Log, offset: int = 0) -> tuple[LogReplay, LastValues]:
    found = LogReplay(log, offset, below=log.synced_offset)
    last: LastValues = {}
    while found.step(last):
        pass
    return found, last


@pytest.mark.parametrize("window_bytes", [100, 700, 1 << 20])
def test_a_log_is_read_to_its_end(
    directory: str, rng: random.Random, window_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over segments, codecs and windows that end anywhere in a batch."""
    monkeypatch.setattr(log_replay, "WINDOW_BYTES", window_bytes)
    monkeypatch.setattr(log_replay, "STEP_BYTES", 3000)
    log, expected = filled(directory, rng)
    found, last = replay(log)
    assert last == expected
    assert (found.offset, found.records_read) == (log.end_offset, log.end_offset)
    assert found.bytes_read == log.size_bytes
    assert (found.problems, found.failed) == ([], None)


def test_nothing_beyond_the_bound_is_read(directory: str, rng: random.Random) -> None:
    """What is not synced is not there."""
    log, _ = filled(directory, rng)
    bound = log.segment_list.items[2].base_offset
    last: LastValues = {}
    found = LogReplay(log, 0, below=bound)
    while found.step(last):
        pass
    assert found.offset == bound
    assert found.records_read == bound


def test_damage_is_stepped_over_and_told(directory: str, rng: random.Random) -> None:
    """Of a damaged batch in the middle of what is plainly right, and the rest is still read."""
    log = make_log(directory)
    batches = [batch(rng, number) for number in range(12)]
    for made in batches:
        append(log, made)
    first = log.segment_list.items[0]
    victim = read_header(batches[3])
    position = sum(map(len, batches[:3]))
    assert position + victim.size < log.segment_list.items[0].size
    overwrite(segment_path(directory, first.base_offset), position + 62, b"\xff\xfe\xfd")
    found, _ = replay(log)
    start = sum(read_header(made).count for made in batches[:3])
    assert found.failed is None
    assert len(found.problems) == 1
    assert f"offsets {start} to {start + victim.count - 1} are lost" in found.problems[0]
    assert found.records_read == log.end_offset - victim.count
    assert found.offset == log.end_offset


def test_a_batch_that_contradicts_itself_is_told(directory: str, rng: random.Random) -> None:
    """A right checksum over records that make no sense: its neighbours count."""
    log = make_log(directory)
    append(log, batch(rng, 0))
    wrong = batch(rng, 1)
    wrong[61] ^= 0x7F
    set_crc(wrong)
    append(log, wrong)
    append(log, batch(rng, 2))
    found, last = replay(log)
    assert len(found.problems) == 1
    assert "cannot be read" in found.problems[0]
    assert found.offset == log.end_offset
    assert last


def test_many_problems_are_counted(
    directory: str, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that bad needs no longer list."""
    monkeypatch.setattr(log_replay, "PROBLEMS_MAX", 3)
    log = make_log(directory)
    for number in range(10):
        wrong = batch(rng, number)
        wrong[61] ^= 0x7F
        set_crc(wrong)
        append(log, wrong)
    found, last = replay(log)
    assert len(found.problems) == 4
    assert found.problems[3].startswith("7 more")
    assert last == {} or found.offset == log.end_offset
