"""Releasing and thawing, stopped before every file-system call: each record is hot, or in chunks.

The catalog of these tests is durable at once, in the order of the protocol: RELEASED is in it
before a .log is let go, and goes out of it when the copy of a thaw is finished. So what a crash
leaves is compared with what the catalog says in that moment: every acknowledged record is readable,
from a .log that is whole, or from chunks; nothing is reported as damaged, and nothing is left over.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from logd.errors import LogFailedError, StorageError
from logd.record.batch import read_header
from logd.record.records import encode_batch, iterate
from logd.storage.check_partition import Expected, check_partition
from logd.storage.check_report import CheckReport
from logd.storage.log import Log, LogSettings
from logd.storage.sync_record import SyncPoint
from tests.crash.lying_disk import FastFiles, LyingDisk, Stop
from tests.unit.log_builder import NOW_MS, append, make_log
from tests.unit.released_rig import Chunks, recompressed, recover_again, sealed_bases, split

SETTINGS = LogSettings(segment_bytes=600, index_interval_bytes=100, segment_index_bytes=4096)
MODES = ("kill", "lost", "torn", "names lost", "content lost")
PRODUCER_ID = 9


class Session:
    """A log under a driver that encodes, releases and thaws.

    Attributes:
        chunks: chunks and catalog; the catalog is what a crash leaves of it.
        records: offset to value of what was acknowledged.
        tried: offset to value of what was sent.
        starts: the log starts that a crash may leave just now.
        hot: base offset to the forms that a sealed .log of this name may have.
        may_lack: base offsets of which the indexes may be lost just now.
        steps: the calls of each release and thaw, first and last.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.chunks = Chunks()
        self.records: dict[int, bytes] = {}
        self.tried: dict[int, bytes] = {}
        self.starts = {0}
        self.hot: dict[int, set[bytes]] = {}
        self.may_lack: set[int] = set()
        self.steps: list[tuple[int, int]] = []
        self.point: SyncPoint | None = None
        self.sequence = 0

    @property
    def disk(self) -> LyingDisk:
        """The disk that stops."""
        assert isinstance(self.log.files, LyingDisk)
        return self.log.files

    def append(self, count: int = 2) -> None:
        """Append one batch and acknowledge it."""
        # Incompressible: the recompressed form is longer, so that wrong indexes lie within it.
        offsets = range(self.log.end_offset, self.log.end_offset + count)
        values = [random.Random(offset).randbytes(60) for offset in offsets]
        self.tried |= {self.log.end_offset + at: value for at, value in enumerate(values)}
        batch = encode_batch(
            [(None, value, [], NOW_MS + self.sequence) for value in values],
            producer_id=PRODUCER_ID,
            producer_epoch=0,
            base_sequence=self.sequence,
        )
        assert self.log.producers.check(read_header(batch)) is None
        self.sequence += count
        self.point = append(self.log, batch, now_ms=NOW_MS)
        self.records = dict(self.tried)

    def release(self, base: int, *, recompress: bool = False) -> None:
        """Encode, record, release, unlink."""
        begun = len(self.disk.calls)
        known = self.chunks.encode(self.log, base)
        source = self.chunks.sources[base]
        self.hot.setdefault(base, set()).add(source)
        if recompress:
            form, self.chunks.indexes[base] = recompressed(source, base)
            self.chunks.sources[base] = form
            self.hot[base].add(form)
            known = replace(known, size_bytes=len(form))
        self.chunks.released[base] = known
        indexes = self.chunks.indexes[base] if recompress else None
        self.may_lack |= {base} if recompress else set()
        for path in self.log.release(
            base, size_bytes=known.size_bytes, next_offset=known.next_offset, indexes=indexes
        ):
            self.may_lack.discard(base)
            self.disk.unlink(path)
        self.steps.append((begun, len(self.disk.calls)))

    def thaw(self, base: int) -> None:
        """Bring a segment back, and record it."""
        begun = len(self.disk.calls)
        self.chunks.thaw(self.log, base, step=200)
        self.steps.append((begun, len(self.disk.calls)))

    def lose_indexes(self, base: int) -> None:
        """Let the indexes of a released segment be lost, and put them back."""
        begun = len(self.disk.calls)
        self.may_lack.add(base)
        self.log.distrust_indexes(base)
        self.log.put_indexes(base, *self.chunks.indexes[base])
        self.may_lack.discard(base)
        self.steps.append((begun, len(self.disk.calls)))

    def delete_before(self, offset: int) -> None:
        """Delete the oldest records; the catalog hears of it later."""
        self.starts.add(offset)
        paths = self.log.delete_before(offset).unlink_paths
        self.starts = {offset}
        for path in paths:
            self.disk.unlink(path)


def fill(session: Session) -> list[int]:
    """Make some sealed segments, the last checkpoint among the first of them."""
    for number in range(16):
        session.append()
        if number == 6:
            session.log.checkpoint()
    session.log.roll_now()
    assert len(sealed_bases(session.log)) > 5
    return sealed_bases(session.log)


def workload(session: Session) -> None:
    """A bit of everything that has to do with released segments."""
    bases = fill(session)
    session.release(bases[1])
    session.release(bases[-1])
    session.append()
    session.release(bases[2], recompress=True)
    session.release(bases[0])
    session.thaw(bases[1])
    session.thaw(bases[2])
    session.append()
    session.log.checkpoint()
    session.release(bases[3])
    session.lose_indexes(bases[3])
    session.release(bases[1])
    session.delete_before(bases[2] + 1)
    session.release(bases[2])
    session.log.roll_now()
    for each in session.log.sealed_segments():
        session.release(each.base_offset)
    session.thaw(bases[-1])
    session.append()
    session.log.close()


def run(disk: LyingDisk, work: Callable[[Session], None] = workload) -> tuple[Session | None, bool]:
    """Run the workload until it ends or the disk stops it; return the session, and which."""
    session = None
    try:
        session = Session(make_log(disk.root, settings=SETTINGS, files=disk))
        work(session)
    except Stop:
        return session, False
    return session, True


def check_left(target: Path, session: Session, *, same_boot: bool) -> None:
    """Recover what a crash left, twice, and hold it against what was promised."""
    root, chunks = str(target), session.chunks
    _check_offline(root, chunks)
    log, report = recover_again(
        root, chunks, settings=SETTINGS, point=session.point, same_boot=same_boot
    )
    assert not report.damaged, report.lines()
    found = _check_records(log, session)
    _check_files(log, session)
    _check_producers(log, session)
    _mend_indexes(log, session)
    again, second = recover_again(
        root, chunks, settings=SETTINGS, point=session.point, same_boot=same_boot
    )
    assert not second.damaged
    assert not second.cuts
    assert chunks.read_all(again) == found
    append(again, encode_batch([(None, b"more", [], NOW_MS)]), now_ms=NOW_MS)
    for base in list(chunks.released):
        segment = again.segment_list.with_base(base)
        if segment is not None and segment.released is not None:
            chunks.thaw(again, base)
    assert again.released_bytes == 0
    assert len(_values(chunks.read_all(again))) == len(_values(found)) + 1


def _check_offline(root: str, chunks: Chunks) -> None:
    """`logd check` finds all records in what a crash left; the next start mends indexes."""
    report = CheckReport(root)
    coded = tuple((each.base_offset, each.next_offset) for each in chunks.catalog)
    check_partition(FastFiles(), f"{root}/t-0", Expected(coded=coded), report)
    damage = [found for found in report.damage if "index" not in found.path]
    assert not damage, damage


def _values(batches: list[tuple[int, bytes]]) -> dict[int, bytes]:
    return {record.offset: record.value or b"" for _, batch in batches for record in iterate(batch)}


def _check_records(log: Log, session: Session) -> list[tuple[int, bytes]]:
    found = session.chunks.read_all(log)
    values = _values(found)
    assert log.log_start_offset in session.starts
    for offset, value in session.records.items():
        if offset >= log.log_start_offset:
            assert values.get(offset) == value, f"acknowledged offset {offset} is lost"
    assert all(session.tried[offset] == value for offset, value in values.items())
    return found


def _check_files(log: Log, session: Session) -> None:
    """What is named .log is whole, nothing is left over, and the numbers are right."""
    names = os.listdir(log.directory)
    assert not [name for name in names if name.endswith((".deleted", ".tmp"))]
    hot_bytes = 0
    for segment in log.segment_list.items:
        assert (segment.released is None) == os.path.exists(segment.paths.log)
        if segment.released is not None:
            assert segment.base_offset in session.chunks.released
            continue
        data = Path(segment.paths.log).read_bytes()
        hot_bytes += len(data)
        assert sum(header.size for header in split(data)) == len(data)
        if segment.base_offset in session.hot:
            assert data in session.hot[segment.base_offset]
    assert hot_bytes == log.size_bytes


def _check_producers(log: Log, session: Session) -> None:
    """The last batch is recognised, whichever segments can be walked."""
    if session.records and log.written_offset > max(session.records):
        entries = log.producers.entries()
        assert entries
        assert entries[0].last_offset >= max(session.records)


def _mend_indexes(log: Log, session: Session) -> None:
    """Both indexes of a released segment are those of the bytes in chunks, or known to be lost."""
    assert session.may_lack.issuperset(log.released_without_indexes())
    for base in log.released_without_indexes():
        log.put_indexes(base, *session.chunks.indexes[base])
    for segment in log.segment_list.items:
        if segment.released is not None:
            for header in split(session.chunks.sources[segment.base_offset]):
                offset = header.base_offset
                if offset >= log.log_start_offset:
                    data, _ = session.chunks.read(log, offset, below=log.written_offset)
                    assert split(data)[0].base_offset == offset
    assert log.released_without_indexes() == ()


def calls_of_steps(tmp_path: Path) -> list[int]:
    """Return the numbers of the calls that releases and thaws make, and the one behind each."""
    root = tmp_path / "whole"
    root.mkdir()
    disk = LyingDisk(str(root))
    session, ended = run(disk)
    assert ended
    assert session is not None
    disk.close()
    return sorted({call for begun, end in session.steps for call in range(begun, end + 2)})


@pytest.mark.parametrize("part", range(4))
def test_every_record_is_hot_or_in_chunks_at_every_call(
    tmp_path: Path, part: int, rng: random.Random
) -> None:
    """Whatever call the program is stopped before, whatever a power cut takes."""
    calls = calls_of_steps(tmp_path)
    assert len(calls) > 120
    for stop_at in calls[part::4]:
        root = tmp_path / f"run{stop_at}"
        root.mkdir()
        disk = LyingDisk(str(root), stop_at=stop_at, halves=rng.random() < 0.5)
        session, _ = run(disk)
        assert session is not None
        mode = rng.choice(MODES)
        disk.crash(mode, str(tmp_path / f"left{stop_at}"), rng)
        check_left(tmp_path / f"left{stop_at}", session, same_boot=mode == "kill")
        disk.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("step", ["release", "recompressed", "thaw"])
def test_a_call_that_fails_costs_nothing(
    tmp_path: Path, rng: random.Random, step: str, error: int
) -> None:
    """Each call of a step fails once: the log reads as before, and goes on unless it says not."""
    at, outcomes = 0, set()
    while True:
        root = tmp_path / f"run{at}"
        root.mkdir()
        disk = LyingDisk(str(root))
        session = Session(make_log(disk.root, settings=SETTINGS, files=disk))
        base = fill(session)[2]
        if step == "thaw":
            session.release(base)
        fail_at = len(disk.calls) + at
        _fail_once(disk, fail_at, error)
        try:
            if step == "thaw":
                session.thaw(base)
            else:
                session.release(base, recompress=step == "recompressed")
            outcomes.add("done")
        except LogFailedError:
            outcomes.add("failed")
        except StorageError:
            outcomes.add("refused")
        except OSError:  # The unlink that the driver does later.
            outcomes.add("left over")
        if len(disk.calls) <= fail_at:
            disk.close()
            break
        if session.log.failed is None:
            _check_records(session.log, session)
            session.append()
        left = tmp_path / f"left{at}"
        disk.crash("kill", str(left), rng)
        disk.close()
        session.may_lack = {base}
        check_left(left, session, same_boot=True)
        at += 1
    assert at > 5
    assert outcomes >= {"done", "refused"}


def _fail_once(disk: LyingDisk, fail_at: int, error: int) -> None:
    """Let one call fail, by its number."""
    count = disk._count

    def failing(name: str) -> None:
        if len(disk.calls) == fail_at:
            disk.calls.append(name)
            raise OSError(error, os.strerror(error))
        count(name)

    disk._count = failing  # type: ignore[method-assign]  # a planted fault
