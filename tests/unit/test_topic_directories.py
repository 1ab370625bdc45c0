"""Partition directories as wholes: only empty ones make room, only a topic's own are retired."""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.errors import CorruptFileError, DataDirectoryError
from logd.storage import topic_directories
from logd.storage.files import Files
from logd.storage.layout import deleted_directory_name
from logd.storage.partition_files import write_metadata

FILES = Files()
ID = bytes(range(16))
OTHER_ID = bytes(range(1, 17))


def make(path: Path, name: str, topic_id: bytes | None = None, data: bytes = b"") -> Path:
    directory = path / name
    directory.mkdir()
    (directory / "00000000000000000000.log").write_bytes(data)
    if topic_id is not None:
        write_metadata(FILES, str(directory), topic_id)
    return directory


def test_topic_ids_are_written_as_kafka_writes_them() -> None:
    """22 characters of base64url; anything else is no topic id."""
    assert topic_directories.format_topic_id(ID) == "AAECAwQFBgcICQoLDA0ODw"
    assert topic_directories.parse_topic_id("AAECAwQFBgcICQoLDA0ODw") == ID
    assert topic_directories.parse_topic_id("-_" * 11) == b"\xfb\xff\xbf" * 5 + b"\xfb"
    for text in ("", "AAECAwQFBgcICQoLDA0ODw==", "A" * 21, "A" * 23, "+/" * 11, "ä" * 22):
        with pytest.raises(ValueError, match="no topic id"):
            topic_directories.parse_topic_id(text)


def test_reading_whose_directory_it_is(tmp_path: Path) -> None:
    """The id as it was written; None where nothing is said; an error where it is nonsense."""
    directory = str(make(tmp_path, "a-0", ID))
    assert topic_directories.read_topic_id(FILES, directory) == ID
    assert topic_directories.read_topic_id(FILES, str(make(tmp_path, "b-0"))) is None
    metadata = Path(directory) / "partition.metadata"
    # Kafka ends the file without a newline or with one.
    for text in (
        "version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODw\n",
        "version:0\ntopic_id:" + "A" * 22,
    ):
        metadata.write_text(text)
        assert topic_directories.read_topic_id(FILES, directory) is not None
    for text in ("", "version: 1\ntopic_id: AAECAwQFBgcICQoLDA0ODw", "version: 0\n", "\0" * 2000):
        metadata.write_text(text)
        with pytest.raises(CorruptFileError, match=r"partition\.metadata"):
            topic_directories.read_topic_id(FILES, directory)


def test_only_what_holds_no_record_makes_room(tmp_path: Path) -> None:
    """An empty partition is removed; a byte of log, or a directory inside, is left alone."""
    empty = make(tmp_path, "a-0", ID)
    topic_directories.make_room(FILES, str(empty))
    assert not empty.exists()
    topic_directories.make_room(FILES, str(empty))  # Nothing there is room enough.
    full = make(tmp_path, "a-1", ID, b"x")
    nested = make(tmp_path, "a-2", ID)
    (nested / "inside").mkdir()
    link = tmp_path / "a-3"
    link.symlink_to(full)
    for directory in (full, nested, link):
        with pytest.raises(DataDirectoryError, match="logd topic adopt"):
            topic_directories.make_room(FILES, str(directory))
    assert (full / "00000000000000000000.log").read_bytes() == b"x"
    assert nested.exists()


def test_retiring_goes_by_the_topic_id(tmp_path: Path) -> None:
    """A topic's directories are renamed, a newer topic's of the name and unmarked ones are not."""
    mine = make(tmp_path, "a-0", ID, b"x")
    newer = make(tmp_path, "a-1", OTHER_ID, b"x")
    unmarked = make(tmp_path, "a-2", None, b"x")
    for _ in range(2):  # Again is harmless.
        topic_directories.retire(FILES, str(tmp_path), topic="a", topic_id=ID, partitions=5)
    assert not mine.exists()
    assert newer.exists()
    assert unmarked.exists()
    gone = tmp_path / deleted_directory_name(ID, 0)
    assert (gone / "00000000000000000000.log").read_bytes() == b"x"
    directories = topic_directories.retired_directories(str(tmp_path), topic_id=ID, partitions=5)
    paths = topic_directories.files_in(FILES, directories)
    assert {Path(path).parent for path in paths} == {gone}
    assert str(gone / "00000000000000000000.log") in paths
    for _ in range(2):
        topic_directories.remove_retired(FILES, directories)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1", "a-2"]


def test_removing_a_tree_follows_no_link(tmp_path: Path) -> None:
    """A link inside is removed, what it points to stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x")
    directory = make(tmp_path, "a-0")
    (directory / "link").symlink_to(outside)
    (directory / "inside").mkdir()
    (directory / "inside" / "file").write_bytes(b"y")
    topic_directories.remove_tree(FILES, str(directory))
    assert not directory.exists()
    assert (outside / "precious").exists()


def test_what_the_catalog_does_not_explain_is_listed(tmp_path: Path) -> None:
    """Everything in the topics directory is either known or reported."""
    make(tmp_path, "a-0")
    make(tmp_path, "b-0")
    (tmp_path / "file").touch()
    found = topic_directories.unknown_directories(FILES, str(tmp_path), ["a-0", "c-0"])
    assert found == [str(tmp_path / "b-0"), str(tmp_path / "file")]
