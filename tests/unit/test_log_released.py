"""Released segments of a log: opening, reading, looking up, deleting, and coming back."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest

from logd.errors import (
    CorruptFileError,
    SegmentsChangedError,
)
from logd.storage.file_slice import FileSlice
from logd.storage.released import ReleasedRange
from tests.unit.log_builder import (
    SMALL,
    append,
    batch_of,
    overwrite,
    segment_path,
)
from tests.unit.released_rig import (
    Chunks,
    NoLogFiles,
    filled,
    hot_bytes,
    log_bytes,
    open_again,
    recompressed,
    recover_again,
    released,
    sealed_bases,
    split,
)

FIRST, MIDDLE, LAST = 0, 2, -1


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_bytes", [1, 400, 100_000])
@pytest.mark.parametrize("which", [[0], [2], [-1], [1, 2], [0, 1, 2, 3], "all"], ids=str)
def test_a_reader_gets_the_same_batches(
    directory: str, which: list[int] | str, max_bytes: int
) -> None:
    """Hot, released, and across each border: the same bytes, at every start of the log."""
    chunks = Chunks()
    log = filled(directory)
    expected = chunks.read_all(log, max_bytes=max_bytes)
    for base in sealed_bases(log) if which == "all" else [sealed_bases(log)[at] for at in which]:
        chunks.release(log, base)
    assert chunks.read_all(log, max_bytes=max_bytes) == expected
    recovered, report = recover_again(directory, chunks)
    assert report.lines() == []
    assert chunks.read_all(recovered, max_bytes=max_bytes) == expected
    opened = open_again(directory, recovered.close(), chunks)
    assert chunks.read_all(opened, max_bytes=max_bytes) == expected
    append(opened, batch_of())
    assert chunks.read_all(opened, max_bytes=max_bytes)[:-1] == expected


def test_every_offset_is_found_in_a_released_segment(directory: str) -> None:
    """Each offset is answered by the batch that holds it, from a position that the index gives."""
    chunks = Chunks()
    log = filled(directory)
    base = sealed_bases(log)[MIDDLE]
    headers = split(hot_bytes(directory, base))
    chunks.release(log, base)
    positions = set()
    for offset in range(base, headers[-1].next_offset):
        found = log.read(offset, max_bytes=1, below=log.written_offset)
        assert isinstance(found, ReleasedRange)
        assert found == log.try_read(offset, max_bytes=1, below=log.written_offset)
        data, cut = chunks.cut(found, below=log.written_offset, max_bytes=1)
        (header,) = split(data)
        assert header.base_offset <= offset < header.next_offset == cut.next_offset
        positions.add(found.position)
    assert len(positions) > 3


def test_below_holds_in_a_released_segment(directory: str) -> None:
    """No batch at or above `below` is given, and at `below` there is nothing."""
    chunks = Chunks()
    log = released(directory, [MIDDLE], chunks)
    base = sealed_bases(log)[MIDDLE]
    headers = split(chunks.sources[base])
    below = headers[2].base_offset
    found = log.read(base, max_bytes=1, below=below)
    assert isinstance(found, ReleasedRange)
    data, cut = chunks.cut(found, below=below, max_bytes=100_000, window=100_000)
    assert [header.base_offset for header in split(data)] == [
        header.base_offset for header in headers[:2]
    ]
    assert cut.next_offset == below
    assert chunks.read(log, below, below=below) == (b"", below)
    assert isinstance(log.read(base, max_bytes=1, below=base), FileSlice)


def test_no_log_is_opened_for_a_released_segment(directory: str) -> None:
    """Reading and looking up opens indexes, and never a .log of what is released."""
    chunks = Chunks()
    log = released(directory, [FIRST, MIDDLE], chunks)
    files = NoLogFiles()
    log = open_again(directory, log.close(), chunks, files=files)
    for base in (sealed_bases(log)[at] for at in (FIRST, MIDDLE)):
        assert log.try_read(base, max_bytes=1, below=log.written_offset) is None
        assert isinstance(log.read(base, max_bytes=1, below=log.written_offset), ReleasedRange)
        assert log.try_read(base, max_bytes=1, below=log.written_offset) is not None
    log.oldest_segments()
    log.segments()
    log.sealed_segments()
    for base in (sealed_bases(log)[at] for at in (FIRST, MIDDLE)):
        assert segment_path(directory, base) not in files.opened
        assert segment_path(directory, base, ".index") in files.opened


def test_a_reader_in_the_middle_finishes(directory: str) -> None:
    """A slice that was given out reads on after the release; the next read says chunks."""
    chunks = Chunks()
    log = filled(directory)
    base = sealed_bases(log)[MIDDLE]
    piece = log.read(base, max_bytes=500, below=log.written_offset)
    assert isinstance(piece, FileSlice)
    before = log.files.read_at(piece.file, piece.position, piece.size)
    chunks.release(log, base)
    assert log.files.read_at(piece.file, piece.position, piece.size) == before
    assert isinstance(log.read(base, max_bytes=1, below=log.written_offset), ReleasedRange)


def test_a_reader_that_comes_too_late_is_told_of_chunks(directory: str) -> None:
    """Who took the list of segments before the release, and opens behind it, looks anew."""
    chunks = Chunks()
    log = filled(directory)
    base = sealed_bases(log)[MIDDLE]
    chunks.released[base] = chunks.encode(log, base)
    old = log.segment_list.find(base)
    log.release(base, size_bytes=len(chunks.sources[base]), next_offset=old.end_bound)
    with pytest.raises(SegmentsChangedError):
        log.open_segment(old)


def test_a_segment_with_another_end_is_not_released(directory: str) -> None:
    """What was coded ended before or behind it, so it was compacted since: all stays hot."""
    chunks = Chunks()
    log = filled(directory)
    base = sealed_bases(log)[MIDDLE]
    chunks.encode(log, base)
    end = log.segment_list.find(base).end_bound
    for other in (end - 1, end + 1, base + 1):
        with pytest.raises(SegmentsChangedError, match=f"coded before {other}"):
            log.release(base, size_bytes=len(chunks.sources[base]), next_offset=other)
    assert hot_bytes(directory, base) == chunks.sources[base]
    assert isinstance(log.read(base, max_bytes=1, below=log.written_offset), FileSlice)


def test_readers_and_releases_at_the_same_time(directory: str) -> None:
    """Readers in threads get the same batches while all segments go and come back."""
    chunks = Chunks()
    log = filled(directory, settings=replace(SMALL, segment_bytes=1200))
    expected = chunks.read_all(log)
    for base in sealed_bases(log):
        chunks.encode(log, base)
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                if chunks.read_all(log) != expected:
                    wrong.append("other batches")
            except Exception as error:  # Whatever it is, the test names it.
                wrong.append(repr(error))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        for base in sealed_bases(log):
            chunks.release(log, base)
        for base in sealed_bases(log):
            chunks.thaw(log, base)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- indexes --------------------------------------------------------------------------------------


def test_lost_indexes_are_reported_and_put_back(directory: str) -> None:
    """Without its indexes a released segment is read from its first byte; then from the entry."""
    chunks = Chunks()
    log = released(directory, [MIDDLE], chunks)
    base = sealed_bases(log)[MIDDLE]
    expected = chunks.read_all(log)
    os.unlink(segment_path(directory, base, ".index"))
    os.unlink(segment_path(directory, base, ".timeindex"))
    log, _ = recover_again(directory, chunks)
    assert log.released_without_indexes() == (base,)
    last = split(chunks.sources[base])[-1].base_offset
    found = log.read(last, max_bytes=1, below=log.written_offset)
    assert isinstance(found, ReleasedRange)
    assert found.position == 0
    assert chunks.read_all(log) == expected
    log.put_indexes(base, *chunks.indexes[base])
    assert log.released_without_indexes() == ()
    found = log.read(last, max_bytes=1, below=log.written_offset)
    assert isinstance(found, ReleasedRange)
    assert found.position > 0
    log, _ = recover_again(directory, chunks)
    assert log.released_without_indexes() == ()


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
def test_a_damaged_index_of_a_released_segment_is_not_believed(directory: str, suffix: str) -> None:
    """Entries that do not rise make it a missing index: noticed when it is opened."""
    chunks = Chunks()
    log = released(directory, [MIDDLE], chunks)
    base = sealed_bases(log)[MIDDLE]
    overwrite(segment_path(directory, base, suffix), 0, b"\x7f\xff\xff\xff")
    log, _ = recover_again(directory, chunks)
    assert log.released_without_indexes() == ()
    found = log.read(base, max_bytes=1, below=log.written_offset)
    assert isinstance(found, ReleasedRange)
    assert log.released_without_indexes() == (base,)


def test_indexes_of_another_segment_are_refused(directory: str) -> None:
    """What does not fit the segment is not put; what was there stays."""
    chunks = Chunks()
    log = released(directory, [MIDDLE], chunks)
    base = sealed_bases(log)[MIDDLE]
    index, times = chunks.indexes[base]
    with pytest.raises(CorruptFileError):
        log.put_indexes(base, index + (10**6).to_bytes(4, "big") * 2, times)
    with pytest.raises(CorruptFileError):
        log.put_indexes(base, index[:-1], times)
    with pytest.raises(SegmentsChangedError):
        log.put_indexes(sealed_bases(log)[0], index, times)
    with open(segment_path(directory, base, ".index"), "rb") as file:
        assert file.read() == index
    assert log.released_without_indexes() == ()


def test_an_index_that_led_nowhere_is_not_asked_again(directory: str) -> None:
    """After `distrust_indexes` reads begin at the first byte, until indexes are put."""
    chunks = Chunks()
    log = released(directory, [MIDDLE], chunks)
    base = sealed_bases(log)[MIDDLE]
    last = split(chunks.sources[base])[-1].base_offset
    log.distrust_indexes(base)
    log.distrust_indexes(base + 1)
    assert log.released_without_indexes() == (base,)
    found = log.read(last, max_bytes=1, below=log.written_offset)
    assert isinstance(found, ReleasedRange)
    assert found.position == 0
    log.put_indexes(base, *chunks.indexes[base])
    found = log.read(last, max_bytes=1, below=log.written_offset)
    assert isinstance(found, ReleasedRange)
    assert found.position > 0


def test_release_takes_the_indexes_of_a_recompressed_form(directory: str) -> None:
    """Where another form was coded, its indexes take the old ones' place; thaw brings that form."""
    chunks = Chunks()
    log = filled(directory)
    base = sealed_bases(log)[MIDDLE]
    known = chunks.encode(log, base)
    headers = split(chunks.sources[base])
    source, indexes = recompressed(chunks.sources[base], base)
    last = len(source) - split(source)[-1].size
    chunks.sources[base] = source
    chunks.released[base] = replace(known, size_bytes=len(source))
    log.release(base, size_bytes=len(source), next_offset=known.next_offset, indexes=indexes)
    assert log.released_without_indexes() == ()
    found = log.read(headers[-1].last_offset, max_bytes=1, below=log.written_offset)
    assert isinstance(found, ReleasedRange)
    assert found.position == last
    expected = chunks.read_all(log)
    chunks.thaw(log, base)
    assert chunks.read_all(log) == expected
    assert hot_bytes(directory, base) == source
    assert log.size_bytes == log_bytes(directory)


# --- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 7, 33])
@pytest.mark.parametrize("which", [[0], [0, 1, 2, 3], [-1], [1, 3]], ids=str)
def test_times_are_found_as_in_a_hot_log(directory: str, which: list[int], start: int) -> None:
    """Each look-up by time, and the latest record, is what it was before the release."""
    chunks = Chunks()
    log = filled(directory)
    log.delete_before(start)
    below = log.written_offset
    times = [*range(4995, 5610, 5)]
    expected = [chunks.find_time(log, time, below=below) for time in times]
    ends = [base for base, _ in chunks.read_all(log) if base >= start]
    latest = {at: chunks.find_latest(log, below=at) for at in (*ends[::3], below)}
    assert None in expected
    everything = sealed_bases(log)
    for at in which:
        chunks.release(log, everything[at])
    assert [chunks.find_time(log, time, below=below) for time in times] == expected
    assert {at: chunks.find_latest(log, below=at) for at in latest} == latest
    for base in chunks.released:
        log.distrust_indexes(base)
    assert [chunks.find_time(log, time, below=below) for time in times] == expected
    assert {at: chunks.find_latest(log, below=at) for at in latest} == latest


def test_the_latest_record_is_looked_for_where_it_may_be(directory: str) -> None:
    """Of many released segments only those are named that may hold the latest record."""
    chunks = Chunks()
    log = filled(directory)
    for base in sealed_bases(log):
        chunks.release(log, base)
    below = log.written_offset
    assert isinstance(log.max_timestamp(below=below), tuple)  # The active segment's is the latest.
    log.delete_before(1)
    last = sealed_bases(log)[-1]
    log.roll_now()
    chunks.release(log, sealed_bases(log)[-1])
    found = log.max_timestamp(below=below)
    assert not isinstance(found, tuple)
    assert found is not None
    assert [where.base_offset for where in found.ranges] == [sealed_bases(log)[-1]]
    assert sealed_bases(log)[-1] != last
