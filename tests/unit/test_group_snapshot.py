"""groups.snapshot: written and read whole, known to check, dump and the partition's listing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cli import main
from logd.errors import CorruptFileError, StorageError, UnsupportedFormatError
from logd.record.group_records import (
    GroupMember,
    GroupValue,
    encode_group_key,
    encode_group_value,
    encode_offset_key,
    encode_offset_value,
)
from logd.storage import adoption, group_snapshot
from logd.storage.check import check_directory
from logd.storage.check_report import CheckReport
from logd.storage.group_snapshot import (
    GroupSnapshot,
    Pair,
    group_snapshot_path,
    read_group_snapshot,
    write_group_snapshot,
)
from logd.storage.inspect import DAMAGE, Depth, inspect_file
from logd.storage.partition_listing import list_partition, remove_leftovers
from logd.storage.state_file import encode_state
from tests.unit.data_directories import FILES, TOPIC_ID, DirectoryMaker, flip

MEMBER = GroupMember("m-1", None, "client", "/127.0.0.1", 60_000, 45_000, b"\0\xff", b"")
GROUP = GroupValue("consumer", 3, "range", "m-1", 77, (MEMBER,))
PAIRS: list[Pair] = [
    (
        encode_offset_key("g", "orders", 2),
        encode_offset_value(41, 0, "note", commit_timestamp_ms=99),
    ),
    (encode_group_key("g"), encode_group_value(GROUP)),
]


def write(directory: str, pairs: list[Pair] = PAIRS, *, offset: int = 45) -> int:
    return write_group_snapshot(
        FILES, directory, pairs, topic_id=TOPIC_ID, partition=0, offset=offset
    )


def test_a_snapshot_comes_back_and_is_replaced(directory: str) -> None:
    """The newest one is what is read; there is never a second file."""
    path = group_snapshot_path(directory)
    with pytest.raises(FileNotFoundError):
        read_group_snapshot(FILES, path)
    write(directory, [])
    assert read_group_snapshot(FILES, path) == GroupSnapshot(TOPIC_ID, 0, 45, [])
    size = write(directory, offset=2**63 - 1)
    assert read_group_snapshot(FILES, path) == GroupSnapshot(TOPIC_ID, 0, 2**63 - 1, PAIRS)
    assert [item.name for item in Path(directory).iterdir()] == ["groups.snapshot"]
    assert Path(path).stat().st_size == size + 24


def test_a_snapshot_beyond_the_limit_is_refused(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before stays; and one that is too long to be ours is not read."""
    write(directory, offset=5)
    path = group_snapshot_path(directory)
    monkeypatch.setattr(group_snapshot, "GROUP_SNAPSHOT_BYTES_MAX", 100)
    with pytest.raises(StorageError, match="more than"):
        write(directory)
    with pytest.raises(CorruptFileError, match="longer"):
        read_group_snapshot(FILES, path)
    monkeypatch.undo()
    assert read_group_snapshot(FILES, path).offset == 5


def test_every_byte_is_covered(directory: str) -> None:
    """A flip of any byte is found, and so is any cut."""
    write(directory)
    path = Path(group_snapshot_path(directory))
    intact = path.read_bytes()
    for at in range(len(intact)):
        flip(path, at)
        with pytest.raises((CorruptFileError, UnsupportedFormatError)):
            read_group_snapshot(FILES, str(path))
        path.write_bytes(intact[:at])
        with pytest.raises(CorruptFileError):
            read_group_snapshot(FILES, str(path))
        path.write_bytes(intact)


def test_a_newer_version_is_refused_by_name(directory: str) -> None:
    """Its contents are not guessed."""
    path = Path(group_snapshot_path(directory))
    path.write_bytes(encode_state(b"anything", version=2))
    with pytest.raises(UnsupportedFormatError, match="version 2"):
        read_group_snapshot(FILES, str(path))


def test_the_listing_of_a_partition_knows_it(directory: str) -> None:
    """It is not strange, and what a crash left of writing it is removed."""
    write(directory)
    Path(f"{directory}/groups.snapshot.tmp").write_bytes(b"half")
    listing = list_partition(FILES, directory)
    assert listing.unknown == []
    assert remove_leftovers(FILES, directory, listing) == ["groups.snapshot.tmp"]
    assert Path(f"{directory}/groups.snapshot").exists()


# --- check, dump, adoption ------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> DirectoryMaker:
    """A data directory whose partition has a snapshot of all its 45 records."""
    made = DirectoryMaker(tmp_path / "data").make()
    write(str(made.partition))
    return made


def check(made: DirectoryMaker) -> CheckReport:
    scratch = made.root.parent / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    return check_directory(FILES, str(made.root), scratch=str(scratch))


def test_check_passes_an_intact_snapshot(made: DirectoryMaker) -> None:
    """It is a file of ours like the others, and is counted."""
    with_it = check(made)
    assert (with_it.damage, with_it.notes) == ([], [])
    Path(group_snapshot_path(str(made.partition))).unlink()
    assert check(made).files == with_it.files - 1


@pytest.mark.parametrize("fault", ["flipped", "beyond the end", "no value", "newer", "strange key"])
def test_check_finds_what_is_wrong(made: DirectoryMaker, fault: str) -> None:
    """A snapshot that cannot be used, or contradicts the log, is damage that names the file."""
    directory = str(made.partition)
    path = Path(group_snapshot_path(directory))
    if fault == "flipped":
        flip(path, 90)
    elif fault == "beyond the end":
        write(directory, offset=46)
    elif fault == "no value":
        write(directory, [*PAIRS, (encode_group_key("h"), b"\0\3")])
    elif fault == "newer":
        path.write_bytes(encode_state(b"anything", version=2))
    else:
        write(directory, [(b"\0\x09", b"?")])
    report = check(made)
    assert [Path(finding.path).name for finding in report.damage] == ["groups.snapshot"]


def test_dump_shows_groups_and_offsets(
    made: DirectoryMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    """Decoded, each with the position of its key in the file."""
    path = group_snapshot_path(str(made.partition))
    data = Path(path).read_bytes()
    assert main.run(["dump", path, "--json"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["kind"] for row in rows] == ["snapshot", "offset", "group"]
    assert (rows[0]["offset"], rows[0]["partition"], rows[0]["keys"]) == (45, 0, 2)
    assert (rows[1]["group"], rows[1]["topic"], rows[1]["partition"]) == ("g", "orders", 2)
    assert (rows[1]["offset"], rows[1]["metadata"]) == (41, "note")
    assert rows[2]["members"][0]["member_id"] == "m-1"
    assert rows[2]["members"][0]["subscription_bytes"] == 2
    for row, (key, _) in zip(rows[1:], PAIRS, strict=True):
        assert data[row["position"] :].startswith(key)
    assert main.run(["dump", path]) == 0
    assert "topic=orders" in capfd.readouterr().out


def test_dump_goes_on_behind_a_value_that_cannot_be_read(directory: str) -> None:
    """The others are shown; the one is damage at its position."""
    write(directory, [(encode_group_key("h"), b"\0\3"), *PAIRS])
    kinds = [item.kind for item in inspect_file(FILES, group_snapshot_path(directory), Depth())]
    assert kinds == ["snapshot", DAMAGE, "offset", "group"]


def test_adoption_leaves_a_snapshot_behind(made: DirectoryMaker, tmp_path: Path) -> None:
    """It is of another topic's id, and of a log that others may have changed since."""
    (tmp_path / "topics").mkdir()
    copy = adoption.copy_partition(
        FILES, str(made.partition), str(tmp_path / "topics" / "a-0"), reserve_bytes=0
    )
    assert "groups.snapshot" not in {path.name for path in Path(copy).iterdir()}
