"""check and dump know what is coded: what is no damage without its hot file, and what is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from logd.policy.cold.proof import HotCopy
from logd.policy.cold.values import SegmentKey, StorageNode
from logd.storage.catalog import SqliteCatalog
from logd.storage.check import check_directory
from logd.storage.check_partition import Expected
from logd.storage.check_report import CheckReport
from logd.storage.cold_catalog import ColdCatalog
from logd.storage.inspect import Depth, inspect_file
from tests.contract.check_cold_catalog import commit, encoding, plan_of, release
from tests.unit.data_directories import CLUSTER_ID, FILES, TOPIC_ID, DirectoryMaker


@pytest.fixture
def made(tmp_path: Path) -> DirectoryMaker:
    """A data directory: offsets 0 to 29 sealed, 30 to 44 active."""
    return DirectoryMaker(tmp_path / "data").make()


def change(made: DirectoryMaker, do: Callable[[ColdCatalog], None]) -> None:
    """Change the directory's catalog; there are four nodes."""
    catalog = SqliteCatalog.open(str(made.root / "catalog.sqlite"), CLUSTER_ID)
    for at in range(4):
        node = StorageNode(name=f"n{at}", place=f"/{at}", identity=f"{at:032x}")
        catalog.cold.add_node(node)
    do(catalog.cold)
    catalog.close()


def code(cold: ColdCatalog, number: int = 1, *, base: int = 0, end: int = 30) -> None:
    """Code the sealed segment, or another."""
    cold.plan(plan_of(number, base=base, end=end, topic=TOPIC_ID), now_ms=0)
    commit(cold, number)


def check(made: DirectoryMaker) -> CheckReport:
    """Check the directory."""
    scratch = made.root.parent / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    return check_directory(FILES, str(made.root), scratch=str(scratch))


def said(made: DirectoryMaker) -> tuple[list[str], list[str]]:
    """Return the reasons of damage and of notes."""
    report = check(made)
    return [each.reason for each in report.damage], [each.reason for each in report.notes]


def test_a_committed_segment_beside_its_hot_file_is_as_it_should_be(made: DirectoryMaker) -> None:
    """Nothing is said."""
    change(made, code)
    assert said(made) == ([], [])


def test_a_released_segment_needs_no_hot_file(made: DirectoryMaker) -> None:
    """Neither its offsets nor its indexes are missed; without the record they are."""

    def do(cold: ColdCatalog) -> None:
        code(cold)
        release(cold, 1)

    made.sealed_log.unlink()
    assert "an index without its log" in said(made)[1]
    change(made, do)
    assert said(made) == ([], [])


def test_a_gap_between_hot_segments_is_coded_or_damage(tmp_path: Path) -> None:
    """All the missing offsets must be in coded segments that follow each other."""
    expected = Expected(coded=((0, 10), (10, 20), (25, 30)))
    assert expected.is_coded(0, 20)
    assert expected.is_coded(5, 15)
    assert expected.is_coded(26, 30)
    for first, behind in ((0, 21), (20, 25), (19, 26), (30, 31)):
        assert not expected.is_coded(first, behind)
    assert not Expected().is_coded(0, 1)


@pytest.mark.parametrize(
    ("do", "removed", "words"),
    [
        (lambda c: c.plan(plan_of(1, end=30, topic=TOPIC_ID), now_ms=0), False,
         ["was being coded; the next start gives that up"]),
        (code, True, ["has no hot file, and is not released; it is read from chunks"]),
        (lambda c: (code(c), release(c, 1)), False,
         ["is released, and its hot file is still there; the next start checks its chunks"]),
        (lambda c: (code(c), c.place_chunk(encoding(1), index=0, node="n3")), False,
         ["1 chunks are still to be removed from n0"]),
        (lambda c: (code(c), c.delete_segments([SegmentKey(TOPIC_ID, 0, 0)], now_ms=0)), False,
         ["3 chunks are still to be removed from n0, n1, n2"]),
        (lambda c: (code(c), c.plan(plan_of(2, end=30, topic=TOPIC_ID), now_ms=0),
                    commit(c, 2, superseded=(1,))), False,
         ["was coded anew; its old chunks go when the new are proved again"]),
    ],
)  # fmt: skip
def test_what_a_start_puts_right_is_noted(
    made: DirectoryMaker, do: Callable[[ColdCatalog], None], removed: bool, words: list[str]
) -> None:
    """It is no damage, and the note says what happens to it."""
    change(made, do)
    if removed:
        made.sealed_log.unlink()
    damage, notes = said(made)
    assert damage == []
    assert len(notes) == len(words)
    for note, word in zip(notes, words, strict=True):
        assert word in note


@pytest.mark.parametrize(
    ("places", "is_hot", "is_damage"),
    [(3, True, None), (2, True, False), (1, True, False), (2, False, False), (1, False, True)],
)
def test_chunks_without_a_place(
    made: DirectoryMaker, places: int, is_hot: bool, is_damage: bool | None
) -> None:
    """Fewer than k and no hot file is damage, named with its offsets; less is a note."""

    def do(cold: ColdCatalog) -> None:
        code(cold)
        release(cold, 1)
        cold.thaw(encoding(1), HotCopy(1000, True, True), now_ms=0)
        if not is_hot:
            cold.end_hold(encoding(1))
            release(cold, 1)

    change(made, do)
    catalog = SqliteCatalog.open(str(made.root / "catalog.sqlite"), CLUSTER_ID)
    catalog._database.connection.execute("DELETE FROM placement WHERE chunk >= ?", (places,))
    catalog.close()
    if not is_hot:
        made.sealed_log.unlink()
    report = check(made)
    found = report.damage if is_damage else report.notes
    assert len(report.damage) == bool(is_damage)
    if is_damage is not None:
        [finding] = found
        assert f"{places} of 3 chunks have a place, 2 are needed" in finding.reason
        assert (finding.first_offset, finding.next_offset) == (0, 30)
        assert finding.path.endswith("catalog.sqlite")


def test_a_partition_that_does_not_exist_is_damage(made: DirectoryMaker) -> None:
    """The catalog contradicts itself."""
    change(made, code)
    catalog = SqliteCatalog.open(str(made.root / "catalog.sqlite"), CLUSTER_ID)
    connection = catalog._database.connection
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("UPDATE generation SET partition = 7")
    connection.execute("UPDATE coded_segment SET partition = 7")
    catalog.close()
    [damage] = said(made)[0]
    assert "topic t has 1 partitions" in damage


def test_a_catalog_of_an_older_version_is_checked_and_left_alone(made: DirectoryMaker) -> None:
    """The copy grows, the file does not."""
    path = made.root / "catalog.sqlite"
    catalog = SqliteCatalog.open(str(path), CLUSTER_ID)
    newer = "gone_generation placement manifest generation coded_segment node cold"
    for table in newer.split():
        catalog._database.connection.execute(f"DROP TABLE {table}")
    catalog._database.connection.execute("PRAGMA user_version = 1")
    catalog.close()
    before = path.read_bytes()
    assert said(made) == ([], [])
    assert path.read_bytes() == before


def test_dump_shows_nodes_and_generations(made: DirectoryMaker, tmp_path: Path) -> None:
    """With states, places and copies that are leaving."""

    def do(cold: ColdCatalog) -> None:
        code(cold)
        cold.place_chunk(encoding(1), index=1, node="n3")

    change(made, do)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = str(made.root / "catalog.sqlite")
    items = list(inspect_file(FILES, path, Depth(scratch=str(scratch))))
    nodes = [item.fields for item in items if item.kind == "node"]
    assert [each["name"] for each in nodes] == ["n0", "n1", "n2", "n3"]
    assert nodes[0]["state"] == "active"
    [found] = [item.fields for item in items if item.kind == "generation"]
    assert found["state"] == "committed"
    assert found["profile"] == "2+1"
    assert found["chunks"] == ["0@n0", "1@n3", "2@n2"]
    assert found["leaving"] == ["1@n1"]
    [cold] = [item.fields for item in items if item.kind == "cold"]
    assert cold["sequence"] > 0
