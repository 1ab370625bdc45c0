"""check: intact directories pass, each planted fault is found, nothing is changed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from logd.errors import DataDirectoryError
from logd.record import batch
from logd.storage.check import check_directory
from logd.storage.check_report import CheckReport
from logd.storage.damage import DamagedRange, DamageList
from tests.unit.data_directories import FILES, DirectoryMaker, batches, flip


def _check(made: DirectoryMaker) -> CheckReport:
    scratch = made.root.parent / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    return check_directory(FILES, str(made.root), scratch=str(scratch))


def _digest(root: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _made(tmp_path: Path, *, clean: bool = True) -> DirectoryMaker:
    return DirectoryMaker(tmp_path / "data", clean=clean).make()


@pytest.mark.parametrize("clean", [True, False])
def test_an_intact_directory_passes_and_is_not_touched(tmp_path: Path, clean: bool) -> None:
    """Nothing is found in an intact directory, everything is counted, no byte is changed."""
    made = _made(tmp_path, clean=clean)
    before = _digest(made.root)
    report = _check(made)
    assert report.damage == []
    assert (report.topics, report.partitions) == (1, 1)
    assert (report.batches, report.records) == (15, 45)
    assert report.clean_stop is clean
    assert [n.reason for n in report.notes] == (
        [] if clean else ["the last stop was not clean; the next start recovers"]
    )
    assert _digest(made.root) == before


Fault = Callable[[DirectoryMaker], None]


def _flip_batch(made: DirectoryMaker) -> None:
    flip(made.sealed_log, len(made.sealed[0]) + 70)


def _lie_about_count(made: DirectoryMaker) -> None:
    """A count that lies inside a batch with a right checksum."""
    data = bytearray(made.active_log.read_bytes())
    size = batch.read_header(data).size
    data[57:61] = (7).to_bytes(4, "big")
    data[23:27] = (6).to_bytes(4, "big")
    crc = batch.crc32c(memoryview(data)[21:size])
    data[17:21] = crc.to_bytes(4, "big")
    made.active_log.write_bytes(data[:size])


def _cut_sealed(made: DirectoryMaker) -> None:
    made.sealed_log.write_bytes(made.sealed_log.read_bytes()[:-1])


def _remove_sealed(made: DirectoryMaker) -> None:
    (made.partition / "00000000000000000015.log").write_bytes(b"".join(batches(15, 1)))


def _swap_index_entries(made: DirectoryMaker) -> None:
    flip(made.partition / "00000000000000000000.index", 7)


def _wrong_time(made: DirectoryMaker) -> None:
    flip(made.partition / "00000000000000000000.timeindex", 7)


def _cut_index(made: DirectoryMaker) -> None:
    path = made.partition / "00000000000000000000.index"
    path.write_bytes(path.read_bytes()[:-3])


def _flip_snapshot(made: DirectoryMaker) -> None:
    flip(made.partition / "00000000000000000030.producers", 30)


def _flip_catalog(made: DirectoryMaker) -> None:
    path = made.root / "catalog.sqlite"
    path.write_bytes(b"x" * path.stat().st_size)


def _empty_catalog(made: DirectoryMaker) -> None:
    (made.root / "catalog.sqlite").write_bytes(b"")


def _remove_partition(made: DirectoryMaker) -> None:
    shutil.rmtree(made.partition)


def _other_topic_id(made: DirectoryMaker) -> None:
    path = made.partition / "partition.metadata"
    path.write_text(path.read_text().replace("topic_id: A", "topic_id: B"))


def _bad_epochs(made: DirectoryMaker) -> None:
    (made.partition / "leader-epoch-checkpoint").write_text("0\n2\n0 0\n")


def _quarantine(made: DirectoryMaker) -> None:
    damage = DamageList(FILES, str(made.partition))
    damage.add(DamagedRange(3, 6, 0, made.sealed_log.name, 10, 20, "planted"))


def _flip_clean_stop(made: DirectoryMaker) -> None:
    flip(made.root / "clean-stop", 40)


def _flip_journal_header(made: DirectoryMaker) -> None:
    flip(made.root / "sync.journal", 9)


def _flip_meta(made: DirectoryMaker) -> None:
    flip(made.root / "meta", 30)


def _lose_tail(made: DirectoryMaker) -> None:
    """Whole batches are missing at the end: only the clean stop's marker knows."""
    made.active_log.write_bytes(b"".join(made.active[:-1]))


FAULTS: list[tuple[Fault, str]] = [
    (_flip_batch, "00000000000000000000.log"),
    (_lie_about_count, "00000000000000000030.log"),
    (_cut_sealed, "00000000000000000000.log"),
    (_remove_sealed, "00000000000000000015.log"),
    (_swap_index_entries, "00000000000000000000.index"),
    (_wrong_time, "00000000000000000000.timeindex"),
    (_cut_index, "00000000000000000000.index"),
    (_flip_snapshot, "00000000000000000030.producers"),
    (_flip_catalog, "catalog.sqlite"),
    (_empty_catalog, "catalog.sqlite"),
    (_remove_partition, "t-0"),
    (_other_topic_id, "t-0"),
    (_bad_epochs, "leader-epoch-checkpoint"),
    (_quarantine, "00000000000000000000.log"),
    (_flip_clean_stop, "clean-stop"),
    (_flip_journal_header, "sync.journal"),
    (_flip_meta, "meta"),
    (_lose_tail, "00000000000000000030.log"),
]


@pytest.mark.parametrize(
    ("fault", "name"), FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_each_planted_fault_is_found_and_named(tmp_path: Path, fault: Fault, name: str) -> None:
    """One fault in an intact directory is damage, and the finding names the file."""
    made = _made(tmp_path)
    fault(made)
    report = _check(made)
    assert report.is_damaged
    assert name in {Path(finding.path).name for finding in report.damage}


def test_every_byte_of_a_log_is_covered(tmp_path: Path) -> None:
    """Whichever byte of a batch is flipped, the check finds it; the leader epoch alone is not
    covered by a batch's checksum."""
    made = _made(tmp_path)
    size = len(made.sealed[0])
    for at in range(0, size, 5):
        flip(made.sealed_log, at)
        assert _check(made).is_damaged or 12 <= at < 16, at
        flip(made.sealed_log, at)


def test_a_torn_end_after_a_crash_is_a_note(tmp_path: Path) -> None:
    """Behind the recovery point, what a crash tore is not damage; before it, it is."""
    made = _made(tmp_path, clean=False)
    data = made.active_log.read_bytes()
    made.active_log.write_bytes(data[:-5])
    report = _check(made)
    assert report.damage == []
    assert any("torn" in note.reason for note in report.notes)
    made.active_log.write_bytes(data[: len(made.active[0]) + 5])
    report = _check(made)
    assert any("synced" in finding.reason for finding in report.damage)


def test_an_active_index_after_a_crash_may_hold_anything(tmp_path: Path) -> None:
    """After a crash a wrong entry of an active index is a note: the next start rebuilds it."""
    made = _made(tmp_path, clean=False)
    flip(made.partition / "00000000000000000030.index", 7)
    report = _check(made)
    assert report.damage == []
    assert any("rebuilt" in note.reason for note in report.notes)


def test_what_the_catalog_does_not_know_is_a_note(tmp_path: Path) -> None:
    """A partition directory without topic is checked and reported, and is no damage by itself."""
    made = _made(tmp_path)
    shutil.copytree(made.partition, made.root / "topics" / "stranger-3")
    report = _check(made)
    assert report.damage == []
    assert report.partitions == 2
    assert any("adopt" in note.reason for note in report.notes)


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    """While a server holds the lock there is no check."""
    made = _made(tmp_path)
    held = FILES.open_write(str(made.root / "lock"))
    assert FILES.lock(held)
    with pytest.raises(DataDirectoryError, match="in use"):
        _check(made)


def test_what_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    """A directory without `meta` is not checked as one."""
    (tmp_path / "data").mkdir()
    with pytest.raises(DataDirectoryError, match="no data directory"):
        check_directory(FILES, str(tmp_path / "data"), scratch=str(tmp_path))


def test_progress_adds_up_to_the_bytes_of_log(tmp_path: Path) -> None:
    """The progress reported is the size of all logs."""
    made = _made(tmp_path)
    steps: list[int] = []
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    check_directory(FILES, str(made.root), scratch=str(scratch), on_progress=steps.append)
    assert sum(steps) == made.sealed_log.stat().st_size + made.active_log.stat().st_size
