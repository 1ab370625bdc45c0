"""storage.log_times: offsets by time, exact to the record."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from logd.record.batch import set_log_append_time
from logd.record.records import encode_batch
from logd.storage.log import Log, LogSettings
from tests.unit.log_builder import append, batch_of, make_log, recover_log, reopen

SETTINGS = LogSettings(segment_bytes=600, index_interval_bytes=150)


def append_times(log: Log, batches: list[list[int]]) -> list[int]:
    """Append batches whose records have these timestamps; return them all, by offset."""
    for times in batches:
        append(log, encode_batch([(None, b"v" * 10, [], time) for time in times]))
    return [time for times in batches for time in times]


def first_at(times: list[int], timestamp_ms: int, start: int, below: int) -> tuple[int, int] | None:
    """What the answer has to be."""
    for offset in range(start, min(below, len(times))):
        if times[offset] >= timestamp_ms:
            return offset, times[offset]
    return None


_TIMES = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=4), min_size=1, max_size=25)


@settings(max_examples=40)
@given(batches=_TIMES, start=st.integers(0, 10), gap=st.integers(0, 10))
def test_answers_equal_those_of_a_list(batches: list[list[int]], start: int, gap: int) -> None:
    """For times in any order, any log start and high watermark, as for a plain list."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        log = make_log(directory, settings=SETTINGS)
        times = append_times(log, batches)
        start = min(start, log.end_offset)
        log.delete_before(start)
        below = max(start, log.end_offset - gap)
        # The high watermark always lies between two batches.
        ends = [0]
        for batch in batches:
            ends.append(ends[-1] + len(batch))
        below = max((end for end in ends if end <= below), default=0)
        log = reopen(directory, log.close(), settings=SETTINGS)
        for timestamp_ms in range(42):
            found = log.offset_for_timestamp(timestamp_ms, below=below)
            expected = first_at(times, timestamp_ms, start, below)
            assert (None if found is None else found[:2]) == expected
        latest = max(times[start:below], default=None)
        answer = log.max_timestamp(below=below)
        if latest is None:
            assert answer is None
        else:
            assert answer == (times.index(latest, start), latest)


def test_log_append_time_counts_for_the_whole_batch(directory: str) -> None:
    """With LogAppendTime every record has the server's time."""
    log = make_log(directory)
    batch = batch_of([b"a", b"b"], timestamp_ms=7)
    set_log_append_time(batch, 0, len(batch), now_ms=9000)
    append(log, batch)
    assert log.offset_for_timestamp(8, below=2) == (0, 9000, 0)
    assert log.max_timestamp(below=2) == (0, 9000)


def test_a_batch_that_cannot_be_parsed_answers_with_its_start(directory: str) -> None:
    """Stored as it came: whoever starts at its first record misses nothing."""
    log = make_log(directory)
    append(log, batch_of(timestamp_ms=10))
    broken = batch_of([b"abc", b"def"], timestamp_ms=20)
    broken[61:] = bytes([255]) * (len(broken) - 61)
    set_log_append_time(broken, 0, len(broken), now_ms=20)  # Makes the CRC right.
    append(log, broken)
    assert log.offset_for_timestamp(15, below=3) == (1, 20, 0)


def test_an_empty_log_has_no_times(directory: str) -> None:
    """There is no record at or after any time, and no latest one."""
    log = make_log(directory)
    assert log.offset_for_timestamp(0, below=0) is None
    assert log.max_timestamp(below=0) is None


def test_times_are_found_after_a_recovery_and_a_clean_stop(directory: str) -> None:
    """Too little log for an index entry, recovered, stopped cleanly: its times still count.

    The index files were there, made by the roll, and said nothing: the segment's greatest time was
    taken for unknown, and what came later for the first.
    """
    settings = LogSettings(segment_bytes=600)
    log = make_log(directory, settings=settings)
    append_times(log, [[1, 2]])
    log.roll_now()
    append_times(log, [[50, 51]])
    recovered, _ = recover_log(directory, settings=settings)
    again = reopen(directory, recovered.close(), settings=settings)
    append_times(again, [[8]])
    again.roll_now()
    assert again.offset_for_timestamp(20, below=5) == (2, 50, 0)
    assert again.max_timestamp(below=5) == (3, 51)
