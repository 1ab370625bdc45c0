"""Directories from elsewhere: looked through before anything is changed, copied, never moved."""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.errors import DataDirectoryError, UnsupportedFormatError
from logd.record.batch import CONTROL_BIT, TRANSACTIONAL_BIT
from logd.record.build import NewRecord, encode_batch
from logd.storage import adoption
from logd.storage.files import Files
from logd.storage.partition_files import write_log_start

FILES = Files()


class SmallDisk(Files):
    """A disk with little space left."""

    def free_bytes(self, path: str) -> int:
        return 1000


def batch(base_offset: int, attributes: int = 0) -> bytes:
    """A batch of three records, with extra attribute bits under a right CRC."""
    rows: list[NewRecord] = [(b"k", b"v", [], 1000 + index) for index in range(3)]
    return bytes(encode_batch(rows, base_offset=base_offset, attributes=attributes))


def make(path: Path, segments: dict[int, bytes]) -> str:
    path.mkdir()
    for base_offset, data in segments.items():
        (path / f"{base_offset:020d}.log").write_bytes(data)
    (path / "leader-epoch-checkpoint").write_text("0\n1\n0 0\n")
    (path / "partition.metadata").write_text("version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODw")
    (path / "00000000000000000000.index").write_bytes(b"\0" * 8)
    return str(path)


def test_ordinary_logs_are_adoptable(tmp_path: Path) -> None:
    """Several segments, offsets that begin late, a torn tail: all for recovery to open."""
    data = {100: batch(100) + batch(103), 106: batch(106) + batch(109)[:50]}
    directory = make(tmp_path / "a-0", data)
    assert adoption.check_adoptable(FILES, directory) == sum(map(len, data.values()))


@pytest.mark.parametrize(
    ("bits", "kind"),
    [(TRANSACTIONAL_BIT, "transactional"), (TRANSACTIONAL_BIT | CONTROL_BIT, "control")],
)
def test_transactions_are_refused_by_name_and_offset(tmp_path: Path, bits: int, kind: str) -> None:
    """The file and the offset of the first such batch are named; also behind a damaged one."""
    spoiled = bytearray(batch(6))
    spoiled[-1] ^= 1
    directory = make(
        tmp_path / "a-0", {0: batch(0) + batch(3), 6: bytes(spoiled) + batch(9, bits) + batch(12)}
    )
    with pytest.raises(UnsupportedFormatError) as caught:
        adoption.check_adoptable(FILES, directory)
    assert "00000000000000000006.log" in str(caught.value)
    assert f"offset 9 (position {len(spoiled)}) is a {kind} batch" in str(caught.value)


def test_what_is_no_partition_is_refused(tmp_path: Path) -> None:
    """A file, a link, nothing at all, a directory without segments."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    make(tmp_path / "real", {0: batch(0)})
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("file", "empty", "link", "none"):
        with pytest.raises(DataDirectoryError):
            adoption.check_adoptable(FILES, str(tmp_path / name))


def test_a_copy_has_the_log_its_start_and_its_epochs_only(tmp_path: Path) -> None:
    """Indexes are rebuilt and producers not continued, so neither is copied; the source stays."""
    data = {0: batch(0) + batch(3), 6: batch(6)}
    source = make(tmp_path / "elsewhere", data)
    write_log_start(FILES, source, 3)  # One of our own: deleted records must not come back.
    before = {path.name: path.read_bytes() for path in Path(source).iterdir()}
    (tmp_path / "topics").mkdir()
    target = tmp_path / "topics" / "a-0"
    (tmp_path / "topics" / "a-0-adopting").mkdir()  # Left over from a copy that was cut short.
    copy = adoption.copy_partition(FILES, source, str(target), reserve_bytes=0)
    assert not target.exists()
    adoption.move_into_place(FILES, copy, str(target))
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        "00000000000000000000.log": data[0],
        "00000000000000000006.log": data[6],
        "leader-epoch-checkpoint": b"0\n1\n0 0\n",
        "log-start-offset": before["log-start-offset"],
    }
    assert {path.name: path.read_bytes() for path in Path(source).iterdir()} == before
    assert [path.name for path in (tmp_path / "topics").iterdir()] == ["a-0"]


def test_a_copy_leaves_the_reserve(tmp_path: Path) -> None:
    """What does not fit beside the reserve is refused before a byte is copied."""
    source = make(tmp_path / "elsewhere", {0: batch(0)})
    (tmp_path / "topics").mkdir()
    target = str(tmp_path / "topics" / "a-0")
    with pytest.raises(DataDirectoryError, match="1000 are free"):
        adoption.copy_partition(SmallDisk(), source, target, reserve_bytes=990)
    assert list((tmp_path / "topics").iterdir()) == []


def test_what_is_in_chunks_is_not_left_behind_unsaid(tmp_path: Path) -> None:
    """A released segment of another server is refused, first or not; what was deleted is none."""
    source = make(tmp_path / "elsewhere", {3: batch(3), 9: batch(9)})
    (tmp_path / "topics").mkdir()
    target = str(tmp_path / "topics" / "a-0")
    between = Path(source) / f"{6:020d}.index"
    between.touch()
    with pytest.raises(DataDirectoryError, match="offset 6: it is in chunks"):
        adoption.copy_partition(FILES, source, target, reserve_bytes=0)
    between.unlink()
    (Path(source) / f"{0:020d}.index").touch()
    copy = adoption.copy_partition(FILES, source, target, reserve_bytes=0)  # Kafka's, deleted.
    assert f"{0:020d}.index" not in [path.name for path in Path(copy).iterdir()]
    (Path(source) / f"{12:020d}.producers").touch()
    with pytest.raises(DataDirectoryError, match="offset 0: it is in chunks"):
        adoption.copy_partition(FILES, source, target, reserve_bytes=0)
    write_log_start(FILES, source, 3)
    adoption.copy_partition(FILES, source, target, reserve_bytes=0)


def test_records_are_never_replaced(tmp_path: Path) -> None:
    """A place where records lie is refused before and at the move; an empty one makes room."""
    source = make(tmp_path / "new", {0: batch(0)})
    taken = make(tmp_path / "a-0", {0: batch(0)})
    empty = make(tmp_path / "b-0", {0: b""})
    with pytest.raises(DataDirectoryError):
        adoption.check_destination(FILES, source, taken)
    with pytest.raises(DataDirectoryError):
        adoption.move_into_place(FILES, source, taken)
    adoption.check_destination(FILES, taken, taken)
    adoption.check_destination(FILES, source, str(tmp_path / "free"))
    adoption.check_destination(FILES, source, empty)
    adoption.move_into_place(FILES, source, empty)
    assert (Path(empty) / "00000000000000000000.log").read_bytes() == batch(0)
