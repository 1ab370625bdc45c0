"""storage.partition_files and partition_listing: Kafka's small files, and what names tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.errors import CorruptFileError, UnsupportedFormatError
from logd.storage import partition_files
from logd.storage.files import Files
from logd.storage.partition_files import EpochStart, end_offset_for_epoch
from logd.storage.partition_listing import list_cuts, list_partition, remove_leftovers

FILES = Files()
TOPIC_ID = bytes(range(16))
EPOCHS = [EpochStart(0, 0), EpochStart(3, 120)]


def test_golden_bytes(tmp_path: Path) -> None:
    """Both files are what Kafka writes, byte for byte."""
    partition_files.write_metadata(FILES, str(tmp_path), TOPIC_ID)
    partition_files.write_epochs(FILES, str(tmp_path), EPOCHS)
    metadata = (tmp_path / "partition.metadata").read_bytes()
    assert metadata == b"version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODw"
    assert (tmp_path / "leader-epoch-checkpoint").read_bytes() == b"0\n2\n0 0\n3 120\n"
    assert partition_files.read_epochs(FILES, str(tmp_path)) == EPOCHS


def test_the_directory_of_another_topic_is_refused(tmp_path: Path) -> None:
    """A missing partition.metadata is written; another topic's is an error."""
    partition_files.check_metadata(FILES, str(tmp_path), TOPIC_ID)
    partition_files.check_metadata(FILES, str(tmp_path), TOPIC_ID)
    with pytest.raises(UnsupportedFormatError):
        partition_files.check_metadata(FILES, str(tmp_path), bytes(16))


@pytest.mark.parametrize(
    "text",
    ["", "x\n", "0\n", "0\n1\n", "0\n2\n0 0\n", "0\n1\n0 0\n1 1\n", "0\n2\n1 0\n0 5\n",
     "0\n1\n-1 0\n", "0\n1\n0 -1\n", "0\n1\n0 0 0\n", "0\nx\n", "0\n1\n\xff 0\n"],
)  # fmt: skip
def test_bad_epoch_files_are_named(tmp_path: Path, text: str) -> None:
    """Nothing is guessed from a damaged list of epochs."""
    (tmp_path / "leader-epoch-checkpoint").write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptFileError) as caught:
        partition_files.read_epochs(FILES, str(tmp_path))
    assert caught.value.path.endswith("leader-epoch-checkpoint")


def test_an_epoch_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """A version we do not know is not damage."""
    (tmp_path / "leader-epoch-checkpoint").write_text("1\n0\n")
    with pytest.raises(UnsupportedFormatError):
        partition_files.read_epochs(FILES, str(tmp_path))


@pytest.mark.parametrize(
    ("epoch", "answer"),
    [(0, (0, 120)), (1, (0, 120)), (2, (0, 120)), (3, (3, 500)), (4, (-1, -1))],
)
def test_end_offset_for_epoch(epoch: int, answer: tuple[int, int]) -> None:
    """An epoch ends where the next begins, the current one at the end; a newer one is unknown."""
    assert end_offset_for_epoch(EPOCHS, epoch, end_offset=500) == answer


def test_an_epoch_before_all_ends_where_the_first_begins() -> None:
    """Of a copied directory that begins with a later epoch."""
    assert end_offset_for_epoch([EpochStart(5, 70)], 2, end_offset=500) == (2, 70)


def test_log_start_round_trips_and_is_zero_when_never_set(tmp_path: Path) -> None:
    """A damaged one is an error, not zero: zero would bring deleted records back."""
    assert partition_files.read_log_start(FILES, str(tmp_path)) == 0
    partition_files.write_log_start(FILES, str(tmp_path), 1234)
    assert partition_files.read_log_start(FILES, str(tmp_path)) == 1234
    path = tmp_path / "log-start-offset"
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises((CorruptFileError, UnsupportedFormatError)):
            partition_files.read_log_start(FILES, str(tmp_path))


def test_names_are_sorted_out(tmp_path: Path) -> None:
    """Segments, snapshots, tails by offset; leftovers to remove; all else unknown, untouched."""
    digits = f"{7:020d}"
    leftovers = [
        f"{digits}.log.deleted", f"{digits}.index.deleted", f"{digits}.log.cleaned",
        f"{digits}.index.tmp", "log-start-offset.tmp", f"{digits}.9.cut.tmp",
    ]  # fmt: skip
    unknown = ["notes.txt", "x.tmp", "7.log", "9" * 20 + ".log"]
    kept = [
        f"{digits}.log", f"{digits}.index", f"{digits}.timeindex", f"{12:020d}.producers",
        f"{digits}.55.cut", f"{digits}.55-1.cut", f"{digits}.snapshot", f"{digits}.txnindex",
        "partition.metadata", "leader-epoch-checkpoint", "log-start-offset", "damaged",
    ]  # fmt: skip
    orphan = f"{9:020d}.index"
    for name in (*leftovers, *unknown, *kept, orphan):
        (tmp_path / name).touch()
    listing = list_partition(FILES, str(tmp_path))
    assert listing.bases == [7]
    assert listing.snapshots == [12]
    assert listing.cuts == [(7, f"{digits}.55-1.cut"), (7, f"{digits}.55.cut")]
    assert list_cuts(FILES, str(tmp_path)) == listing.cuts
    assert sorted(listing.unknown) == sorted(unknown)
    assert sorted(remove_leftovers(FILES, str(tmp_path), listing)) == sorted([*leftovers, orphan])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*unknown, *kept])


def test_an_interrupted_swap_of_kafka_is_refused(tmp_path: Path) -> None:
    """Only Kafka knows how to finish it."""
    (tmp_path / f"{7:020d}.log.swap").touch()
    with pytest.raises(UnsupportedFormatError):
        list_partition(FILES, str(tmp_path))


class ListedOnce(Files):
    """Files whose directories can be listed one time."""

    def __init__(self) -> None:
        self.listed: list[str] = []

    def list_directory(self, path: str, *, suffix: str = "") -> list[str]:
        assert path not in self.listed, "listed again"
        self.listed.append(path)
        return super().list_directory(path, suffix=suffix)


def test_where_nothing_is_left_over_a_directory_is_listed_once(tmp_path: Path) -> None:
    """A start does this for each log; a thousand listings more are a tenth of it."""
    (tmp_path / f"{7:020d}.log").touch()
    (tmp_path / f"{7:020d}.index").touch()
    files = ListedOnce()
    listing = list_partition(files, str(tmp_path))
    assert not listing.has_damage
    assert remove_leftovers(files, str(tmp_path), listing) == []
    (tmp_path / "damaged").touch()
    assert list_partition(FILES, str(tmp_path)).has_damage
