"""inspect: what `logd dump` finds in each kind of file."""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.errors import UnsupportedFormatError
from logd.storage.inspect import DAMAGE, Depth, Item, inspect_file
from tests.unit.data_directories import FILES, START_MS, TOPIC_ID, DirectoryMaker, batches, flip


@pytest.fixture
def made(tmp_path: Path) -> DirectoryMaker:
    """A data directory after a clean stop."""
    return DirectoryMaker(tmp_path / "data").make()


def _items(path: Path, *, records: bool = False, scratch: Path | None = None) -> list[Item]:
    depth = Depth(records=records, scratch=None if scratch is None else str(scratch))
    return list(inspect_file(FILES, str(path), depth))


def test_a_log_shows_batches(made: DirectoryMaker) -> None:
    """Each batch is shown with position, offsets, count, codec and times."""
    items = _items(made.active_log)
    assert [item.kind for item in items] == ["batch"] * 5
    first = items[0].fields
    assert (first["base_offset"], first["last_offset"], first["count"]) == (30, 32, 3)
    assert first["codec"] == "gzip"
    assert first["max_timestamp_ms"] == START_MS + 30_000
    assert items[1].position == first["bytes"]


def test_a_copy_under_another_name_is_shown(tmp_path: Path) -> None:
    """A log that was saved under a name without offset begins where its first batch does."""
    copy = tmp_path / "copy.log"
    far = 2**40
    copy.write_bytes(b"".join(batches(far, 2)))
    assert [item.kind for item in _items(copy)] == ["batch", "batch"]
    copy.write_bytes(b"short")
    assert [item.kind for item in _items(copy)] == [DAMAGE]


def test_records_are_shown_when_asked_for(made: DirectoryMaker) -> None:
    """--records shows each record behind its batch, also of compressed ones."""
    items = _items(made.active_log, records=True)
    records = [item.fields for item in items if item.kind == "record"]
    assert [record["offset"] for record in records] == list(range(30, 45))
    assert records[0]["value"] == b"value 30"


def test_damage_in_a_log_is_an_item(made: DirectoryMaker) -> None:
    """A batch that fails its checksum is shown as damage with its position, the rest as usual."""
    at = len(made.sealed[0])
    flip(made.sealed_log, at + 70)
    items = _items(made.sealed_log)
    assert [item.kind for item in items] == ["batch", DAMAGE, *["batch"] * 8]
    assert items[1].position == at


def test_indexes_show_absolute_offsets(made: DirectoryMaker) -> None:
    """An entry of a sealed index is shown with the offset it stands for."""
    entries = _items(made.partition / "00000000000000000030.index")
    assert [item.fields["offset"] for item in entries] == [32, 35, 38, 41, 44]
    times = _items(made.partition / "00000000000000000030.timeindex")
    assert times[0].fields == {"offset": 32, "timestamp_ms": START_MS + 30_000}


def test_an_active_index_shows_its_unused_rest(tmp_path: Path) -> None:
    """The zeros behind the entries of an active index are no entries and no damage."""
    unclean = DirectoryMaker(tmp_path / "data", clean=False).make()
    items = _items(unclean.partition / "00000000000000000030.index")
    assert [item.kind for item in items] == ["entry"] * 5 + ["unused"]


def test_an_index_that_does_not_rise_is_damaged(made: DirectoryMaker) -> None:
    """Entries must rise; the one that does not is named."""
    path = made.partition / "00000000000000000000.index"
    data = path.read_bytes()
    path.write_bytes(data[8:16] + data[:8] + data[16:])
    assert [item.position for item in _items(path) if item.kind == DAMAGE] == [8]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("meta", "state"),
        ("clean-stop", "state"),
        ("lock", "line"),
        ("sync.journal", "journal"),
        ("topics/t-0/partition.metadata", "line"),
        ("topics/t-0/leader-epoch-checkpoint", "line"),
        ("topics/t-0/00000000000000000030.producers", "snapshot"),
        ("catalog.sqlite", "catalog"),
    ],
)
def test_every_kind_of_file_is_shown(
    made: DirectoryMaker, tmp_path: Path, name: str, kind: str
) -> None:
    """What the server writes, `dump` shows, and finds no damage in it."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    items = _items(made.root / name, scratch=scratch)
    assert items[0].kind == kind
    assert DAMAGE not in {item.kind for item in items}


@pytest.mark.parametrize("name", ["meta", "topics/t-0/00000000000000000030.producers"])
def test_a_damaged_state_file_is_named(made: DirectoryMaker, name: str) -> None:
    """A state file that fails its checksum is damage."""
    flip(made.root / name, 26)
    assert [item.kind for item in _items(made.root / name)] == [DAMAGE]


def test_the_journal_shows_its_points(made: DirectoryMaker) -> None:
    """A sync point is shown with what it says."""
    (point,) = (item for item in _items(made.root / "sync.journal") if item.kind == "point")
    assert point.fields["topic_id"] == TOPIC_ID.hex()
    assert point.fields["synced_offset"] == 39


def test_the_catalog_shows_topics_and_is_not_touched(made: DirectoryMaker, tmp_path: Path) -> None:
    """Topics are listed from a copy; the file itself keeps every byte, and gets no neighbours."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = (made.root / "catalog.sqlite").read_bytes()
    names = sorted(path.name for path in made.root.iterdir())
    items = _items(made.root / "catalog.sqlite", scratch=scratch)
    assert [item.fields["name"] for item in items if item.kind == "topic"] == ["t"]
    assert (made.root / "catalog.sqlite").read_bytes() == before
    assert sorted(path.name for path in made.root.iterdir()) == names


def test_a_strange_file_is_refused(tmp_path: Path) -> None:
    """A file that is none of ours is refused by name, not guessed at."""
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(UnsupportedFormatError, match=r"notes\.txt"):
        _items(path)
