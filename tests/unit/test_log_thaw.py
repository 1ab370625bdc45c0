"""Segments released and thawed, also where the disk refuses; and as sources of coding."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from logd.errors import (
    CorruptFileError,
    DamagedRangeError,
    DiskFullError,
    SegmentsChangedError,
    StorageError,
)
from logd.record.batch import read_header
from logd.storage.files import Files, OpenFile
from logd.storage.released import ReleasedSegment
from tests.crash.lying_disk import FastFiles
from tests.unit.compaction_rig import COMPACTED, order_round, run_round
from tests.unit.log_builder import (
    append,
    bases,
    batch_of,
    fill,
    make_log,
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
    recover_again,
    released,
    sealed_bases,
    split,
)

FIRST, MIDDLE, LAST = 0, 2, -1


# --- release --------------------------------------------------------------------------------------


def test_release_is_refused_for_what_is_not_sealed(directory: str) -> None:
    """The active segment, and what is no segment (any more), stays; twice does no harm."""
    chunks = Chunks()
    log = filled(directory)
    with pytest.raises(SegmentsChangedError):
        log.release(log.active_base, size_bytes=1, next_offset=log.active_base + 1)
    with pytest.raises(SegmentsChangedError):
        log.release(1, size_bytes=1, next_offset=2)
    base = sealed_bases(log)[0]
    assert len(chunks.release(log, base)) == 1
    size, end = len(chunks.sources[base]), sealed_bases(log)[1]
    assert log.release(base, size_bytes=size, next_offset=end) == ()
    log.delete_before(sealed_bases(log)[1])
    with pytest.raises(SegmentsChangedError):
        log.release(base, size_bytes=1, next_offset=end)
    with pytest.raises(SegmentsChangedError):
        log.segment_source(base)


def test_what_is_missing_behind_a_segment_is_found(directory: str) -> None:
    """A sealed .log that is gone from before the checkpoint: the one before it is not coded as if
    it reached to the next, and from then on the gap is known."""
    log = filled(directory)
    before, gone, after = sealed_bases(log)[:3]
    log.checkpoint()
    for path in Path(log.directory).glob(f"*{gone}.*"):
        path.unlink()
    log, _ = recover_again(directory, Chunks())
    assert log.damaged == [], "recovery walks from the checkpoint on"
    with pytest.raises(DamagedRangeError, match="missing"):
        log.segment_source(before)
    (found,) = log.damaged
    assert (found.first_offset, found.next_offset) == (gone, after)
    log.segment_source(after).close()
    with pytest.raises(DamagedRangeError):
        log.read(gone, max_bytes=1, below=log.written_offset)
    log, _ = recover_again(directory, Chunks())
    assert log.damaged == [found]


def test_what_is_not_what_was_coded_stays(directory: str) -> None:
    """Another length, or another last record: it was compacted since. Nothing is changed."""
    log = filled(directory)
    base = sealed_bases(log)[1]
    size = os.path.getsize(segment_path(directory, base))
    end = log.segment_list.find(base).end_bound
    names = sorted(os.listdir(log.directory))
    with pytest.raises(SegmentsChangedError, match="bytes, what was coded"):
        log.release(base, size_bytes=size + 1, next_offset=end)
    with pytest.raises(SegmentsChangedError, match="what was coded before"):
        log.release(base, size_bytes=size, next_offset=end - 1)
    with pytest.raises(SegmentsChangedError, match="what was coded before"):
        log.release(base, size_bytes=size + 1, next_offset=end + 1, indexes=(b"", b""))
    assert [name for name in os.listdir(log.directory) if name not in names] == [
        f"{end:020d}.producers"
    ]
    assert len(log.release(base, size_bytes=size, next_offset=end)) == 1


def test_a_segment_that_was_released_meanwhile_is_not_compacted(directory: str) -> None:
    """A round that was ordered before is refused at its commit."""
    chunks = Chunks()
    log = filled(directory, settings=COMPACTED)
    order = order_round(log, attempt=1)
    assert order is not None
    result = run_round(order, log)
    expected = chunks.read_all(log)
    chunks.release(log, sealed_bases(log)[1])
    with pytest.raises(SegmentsChangedError):
        log.replace_segments(order, result)
    assert chunks.read_all(log) == expected


class FailingFiles(FastFiles):
    """Fails calls of one name with an errno, from the n-th on."""

    name = ""
    number = 5

    def sync_directory(self, path: str) -> None:
        self._look("sync_directory")

    def rename(self, old: str, new: str) -> None:
        self._look("rename")
        super().rename(old, new)

    def write_at(self, file: OpenFile, position: int, buffers: Any) -> int:
        self._look("write_at")
        return super().write_at(file, position, buffers)

    def _look(self, name: str) -> None:
        if name == self.name:
            raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("name", ["rename", "sync_directory"])
def test_a_release_that_the_disk_refuses_loses_nothing(directory: str, name: str) -> None:
    """The segment is hot or released, and says so; the log goes on, and a start is clean."""
    chunks = Chunks()
    filled(directory).let_go()
    files = FailingFiles()
    log, _ = recover_again(directory, chunks, files=files)
    expected = chunks.read_all(log)
    base = sealed_bases(log)[MIDDLE]
    files.name = name
    with pytest.raises(StorageError):
        chunks.release(log, base)
    files.name = ""
    assert chunks.read_all(log) == expected
    assert log.failed is None
    is_hot = os.path.exists(segment_path(directory, base))
    assert is_hot == (name == "rename")
    assert log.size_bytes == log_bytes(directory)
    assert log.total_bytes == log.size_bytes + log.released_bytes
    log = open_again(directory, log.close(), chunks)
    assert chunks.read_all(log) == expected


def test_a_full_disk_stops_no_release(directory: str) -> None:
    """Letting go of a .log is what makes space: new indexes may be missing, a snapshot too."""
    chunks = Chunks()
    filled(directory).let_go()
    files = FailingFiles()
    log, _ = recover_again(directory, chunks, files=files)
    base = sealed_bases(log)[MIDDLE]
    chunks.released[base] = chunks.encode(log, base)
    files.name, files.number = "write_at", 28
    end = chunks.released[base].next_offset
    size, indexes = len(chunks.sources[base]), chunks.indexes[base]
    log.release(base, size_bytes=size, next_offset=end, indexes=indexes)
    assert log.released_without_indexes() == (base,)
    with pytest.raises(DiskFullError):
        log.put_indexes(base, *chunks.indexes[base])
    files.name = ""
    log.put_indexes(base, *chunks.indexes[base])
    assert log.released_without_indexes() == ()


def test_damage_ends_with_the_release(directory: str) -> None:
    """What rots in a hot copy after it was coded is whole in chunks: reads go on there."""
    chunks = Chunks()
    log = filled(directory)
    expected = chunks.read_all(log)
    base = sealed_bases(log)[MIDDLE]
    chunks.released[base] = chunks.encode(log, base)
    log.let_go()
    overwrite(segment_path(directory, base), 100, b"\xff" * 8)
    log, _ = recover_again(directory, chunks)
    with pytest.raises(DamagedRangeError):
        log.read(base, max_bytes=1, below=log.written_offset)
    assert [each.is_damaged for each in log.sealed_segments()].count(True) == 1
    with pytest.raises(DamagedRangeError):
        log.segment_source(base)
    end = chunks.released[base].next_offset
    log.release(base, size_bytes=len(chunks.sources[base]), next_offset=end)
    assert log.damaged == []
    assert chunks.read_all(log) == expected
    log, _ = recover_again(directory, chunks)
    assert log.damaged == []
    assert chunks.read_all(log) == expected


def test_producers_outlive_the_segment_of_their_checkpoint(directory: str) -> None:
    """The last checkpoint lies in or before what is released: a crash forgets no sequence."""
    log = make_log(directory)
    chunks = Chunks()
    for number in range(3):
        for step in range(2):
            batch = batch_of(
                [b"v"] * 2, producer_id=5, producer_epoch=0, base_sequence=4 * number + 2 * step
            )
            append(log, batch)
        log.roll_now()
        if number == 0:
            log.checkpoint()
    for base in (sealed_bases(log)[1], sealed_bases(log)[0], sealed_bases(log)[2]):
        chunks.release(log, base)
    (expected,) = log.producers.entries()
    log, report = recover_again(directory, chunks)
    assert report.walked_bytes == 0
    (entry,) = log.producers.entries()
    assert (entry.last_sequence, entry.last_offset) == (expected.last_sequence, 11)
    assert log.producers.check(read_header(batch)) is not None


# --- thaw -----------------------------------------------------------------------------------------


def test_a_thawed_segment_is_hot_again(directory: str) -> None:
    """Its bytes, its indexes and its numbers are what they were."""
    chunks = Chunks()
    log = filled(directory)
    expected, described = chunks.read_all(log), log.segments()
    size_bytes = log.size_bytes
    base = sealed_bases(log)[MIDDLE]
    chunks.release(log, base)
    chunks.thaw(log, base)
    assert chunks.read_all(log) == expected
    assert log.segments() == described
    assert (log.size_bytes, log.released_bytes) == (size_bytes, 0)
    for suffix, data in zip((".index", ".timeindex"), chunks.indexes[base], strict=True):
        with open(segment_path(directory, base, suffix), "rb") as file:
            assert file.read() == data
    assert not [name for name in os.listdir(log.directory) if name.endswith(".tmp")]
    log = open_again(directory, log.close(), chunks)
    assert chunks.read_all(log) == expected


def test_what_is_not_the_segment_is_not_thawed(directory: str) -> None:
    """Too few bytes, a flipped bit, a check that refuses: nothing is left of it."""
    chunks = Chunks()
    log = released(directory, [MIDDLE], chunks)
    expected = chunks.read_all(log)
    base = sealed_bases(log)[MIDDLE]
    source = chunks.sources[base]
    flipped = source[:150] + bytes([source[150] ^ 1]) + source[151:]
    for data in (source[:-1], flipped, bytes(len(source))):
        writer = log.thaw(base)
        writer.write(data)
        with pytest.raises(CorruptFileError):
            writer.finish()

    def refuse(_: object) -> None:
        raise CorruptFileError("chunks", 0, "another digest")

    writer = log.thaw(base)
    writer.write(source)
    with pytest.raises(SegmentsChangedError, match="already"):
        log.thaw(base)
    with pytest.raises(CorruptFileError, match="another digest"):
        writer.finish(refuse)
    log.thaw(base).abort()
    assert not os.path.exists(segment_path(directory, base))
    assert not [name for name in os.listdir(log.directory) if name.endswith(".tmp")]
    assert chunks.read_all(log) == expected
    chunks.thaw(log, base)
    with pytest.raises(SegmentsChangedError, match="not released"):
        log.thaw(base)


def test_a_segment_that_is_deleted_meanwhile_is_not_thawed(directory: str) -> None:
    """The records are gone when the copy is whole: it goes as well."""
    chunks = Chunks()
    log = released(directory, [0], chunks)
    writer = log.thaw(0)
    writer.write(chunks.sources[0])
    log.delete_before(sealed_bases(log)[1])
    with pytest.raises(SegmentsChangedError):
        writer.finish()
    assert 0 not in bases(directory)
    assert not [name for name in os.listdir(log.directory) if name.endswith(".tmp")]


@pytest.mark.parametrize("name", ["rename", "sync_directory", "write_at"])
def test_a_thaw_that_the_disk_refuses_leaves_it_released(directory: str, name: str) -> None:
    """No half .log, no temporary file; it is read from chunks as before."""
    chunks = Chunks()
    log = released(directory, [MIDDLE], chunks)
    base = sealed_bases(log)[MIDDLE]
    log.let_go()
    files = FailingFiles()
    log, _ = recover_again(directory, chunks, files=files)
    expected = chunks.read_all(log)
    writer = log.thaw(base)
    if name != "write_at":
        writer.write(chunks.sources[base])
    files.name, files.number = name, 28
    with pytest.raises(DiskFullError):
        writer.finish() if name != "write_at" else writer.write(chunks.sources[base])
    writer.abort()
    files.name = ""
    assert not os.path.exists(segment_path(directory, base))
    assert not [each for each in os.listdir(log.directory) if each.endswith(".tmp")]
    assert chunks.read_all(log) == expected
    assert log.size_bytes == log_bytes(directory)
    chunks.thaw(log, base)
    assert chunks.read_all(log) == expected


# --- sources --------------------------------------------------------------------------------------


def test_a_source_tells_batches_and_times(directory: str) -> None:
    """Bytes, boundaries, times and indexes of a sealed segment; it reads on when that is gone."""
    chunks = Chunks()
    log = filled(directory)
    base = sealed_bases(log)[MIDDLE]
    data = hot_bytes(directory, base)
    headers = split(data)
    positions = [0]
    for header in headers:
        positions.append(positions[-1] + header.size)
    starts = list(zip(positions, (header.base_offset for header in headers), strict=False))
    source = log.segment_source(base)
    assert (source.size_bytes, source.next_offset) == (len(data), headers[-1].next_offset)
    assert source.min_timestamp_ms == headers[0].max_timestamp
    assert source.max_timestamp_ms == headers[-1].max_timestamp
    for start, end in ((0, len(data)), (1, positions[3] + 1), (positions[2], positions[2]), (5, 6)):
        inside = [each for each in starts if start <= each[0] < end]
        assert source.batches_near(start, end) == inside
        assert source.batches_near(start, end, limit=1) == inside[:1]
    chunks.release(log, base)
    buffer = bytearray(len(data) + 10)
    assert source.read_into(0, buffer) == len(data)
    assert buffer[: len(data)] == data
    assert source.read_into(7, buffer) == len(data) - 7


def test_indexes_that_are_only_in_memory_are_written_first(directory: str) -> None:
    """A roll without space leaves open indexes and no files: source and release see to these."""
    log = filled(directory)
    base, other = sealed_bases(log)[1:3]
    for each in (base, other):
        log.read(each, max_bytes=1, below=log.written_offset)
        os.unlink(segment_path(directory, each, ".index"))
        os.unlink(segment_path(directory, each, ".timeindex"))
    assert all(log.segment_source(base).indexes())
    size, end = os.path.getsize(segment_path(directory, other)), sealed_bases(log)[3]
    log.release(other, size_bytes=size, next_offset=end)
    assert log.released_without_indexes() == ()
    assert os.path.getsize(segment_path(directory, other, ".index")) > 0


def test_a_rotten_segment_is_no_source(directory: str) -> None:
    """A flipped bit is found before anything is coded, and quarantined."""
    log = filled(directory)
    base = sealed_bases(log)[MIDDLE]
    overwrite(segment_path(directory, base), 150, b"\xff")
    with pytest.raises(DamagedRangeError):
        log.segment_source(base)
    assert log.damaged
    fill(log, 1)


def test_sealed_segments_are_told_without_opening_them(directory: str) -> None:
    """Base, end, size and time of the hot, sealed ones; no file is opened."""
    chunks = Chunks()
    log = released(directory, [0], chunks)
    files = NoLogFiles()
    log = open_again(directory, log.close(), chunks, files=files)
    files.opened.clear()
    os.utime(segment_path(directory, sealed_bases(log)[1]), (50, 50))
    found = log.sealed_segments()
    assert [each.base_offset for each in found] == sealed_bases(log)[1:]
    assert [each.next_offset for each in found] == list(log.segment_list.bases[2:])
    assert [each.size_bytes for each in found] == [
        os.path.getsize(segment_path(directory, each.base_offset)) for each in found
    ]
    assert found[0].sealed_ms == 50_000
    assert files.opened == []


def test_a_released_segment_must_be_one() -> None:
    """Values that cannot be are refused."""
    with pytest.raises(AssertionError):
        ReleasedSegment(5, 5, 10, 0)
    assert isinstance(Files(), Files)
