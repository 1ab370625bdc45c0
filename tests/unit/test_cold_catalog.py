"""The cold catalog's contract in SQLite, its crashes, and what the schema forbids."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from logd.errors import StorageError
from logd.policy.cold import values
from logd.policy.cold.coverage import Coverage
from logd.policy.cold.proof import HotCopy
from logd.policy.cold.values import Profile, SegmentKey, StorageNode
from logd.storage import cold_generation_rows
from logd.storage.catalog import SqliteCatalog
from logd.storage.cold_catalog import ColdCatalog
from logd.storage.layout import PARTITIONS_MAX, TOPIC_ID_BYTES
from tests.contract.check_cold_catalog import (
    NODES,
    OTHER,
    TOPIC,
    ColdCatalogContract,
    commit,
    encoding,
    plan_of,
    release,
)
from tests.cpu_time import least_cpu_s
from tests.unit.storage_faults import StoppedError


def open_catalog(directory: str, observer: Callable[[str], None] = lambda _: None) -> SqliteCatalog:
    return SqliteCatalog.open(f"{directory}/catalog.sqlite", "cluster", observer)


class TestSqliteColdCatalog(ColdCatalogContract):
    """The one on one machine."""

    def make(self, directory: str) -> SqliteCatalog:
        """In a database."""
        return open_catalog(directory)


def prepare(catalog: SqliteCatalog) -> None:
    """Fill a catalog: 1 committed, 2 planned, 3 released, 4 superseded by 5, 6 deleting."""
    cold = catalog.cold
    catalog.create_topic("topic", TOPIC, 1, {})
    catalog.create_topic("other", OTHER, 1, {})
    for node in NODES:
        cold.add_node(node)
    for number, base in ((1, 0), (2, 10), (3, 20), (4, 30), (6, 40)):
        cold.plan(plan_of(number, base=base, end=base + 10), now_ms=0)
        if number != 2:
            commit(cold, number)
    release(cold, 3)
    cold.plan(plan_of(5, base=30, end=40), now_ms=0)
    commit(cold, 5, superseded=(4,))
    cold.delete_segments([SegmentKey(TOPIC, 0, 40)], now_ms=0)


NEW_NODE = StorageNode(name="new", place="/new", identity="f" * 32)
CHANGES: list[tuple[str, Callable[[SqliteCatalog], object]]] = [
    ("add_node", lambda c: c.cold.add_node(NEW_NODE)),
    ("change_node", lambda c: c.cold.change_node(values.StorageNode(
        name="n0", place="/elsewhere", identity=NODES[0].identity))),
    ("remove_node", lambda c: c.cold.remove_node("n3")),
    ("plan", lambda c: c.cold.plan(plan_of(9, base=50, end=60), now_ms=1)),
    ("place_chunk", lambda c: c.cold.place_chunk(encoding(1), index=2, node="n3")),
    ("commit", lambda c: commit(c.cold, 2)),
    ("abort", lambda c: c.cold.abort(encoding(2), now_ms=1)),
    ("release", lambda c: release(c.cold, 1)),
    ("thaw", lambda c: c.cold.thaw(encoding(3), HotCopy(1000, True, True), now_ms=1)),
    ("drop_superseded",
     lambda c: c.cold.drop_superseded(encoding(4), has_hot_log=True, now_ms=1)),
    ("delete_segments",
     lambda c: c.cold.delete_segments([SegmentKey(TOPIC, 0, n) for n in (0, 20, 30)], now_ms=1)),
    ("chunk_removed", lambda c: c.cold.chunk_removed(encoding(6), index=0, node="n0")),
    ("mark_deleting", lambda c: c.mark_deleting(TOPIC)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
def test_stopped_around_a_commit_all_or_nothing_is_there(
    tmp_path: Path, name: str, change: Callable[[SqliteCatalog], object]
) -> None:
    """Stopped before the commit nothing of a move is on disk; after it, all of it."""
    found = {}
    for when in ("before", "after", "never"):
        directory = tmp_path / when
        directory.mkdir()
        catalog = open_catalog(str(directory))
        prepare(catalog)
        before = everything(catalog)
        catalog.close()

        def stop(event: str, when: str = when) -> None:
            if event == f"{when} {name}":
                raise StoppedError(event)

        catalog = open_catalog(str(directory), stop)
        if when == "never":
            change(catalog)
        else:
            with pytest.raises(StoppedError):
                change(catalog)
        # A copy is what another process would find after a kill.
        copy = tmp_path / f"{when}-copy"
        copy.mkdir()
        for file in os.listdir(directory):
            (copy / file).write_bytes((directory / file).read_bytes())
        found[when] = everything(open_catalog(str(copy)))
        catalog.close()
    assert found["before"] == before
    assert found["after"] == found["never"] != before


def everything(catalog: SqliteCatalog) -> tuple[object, ...]:
    """Return all that is in a catalog's tables."""
    connection = catalog._database.connection
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    return tuple(
        (name, connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall())
        for (name,) in tables.fetchall()
    )


ROW = "zeroblob(16), x'74747474747474747474747474747474', 0, 0, 2"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE cold SET sequence = -1",
        "INSERT INTO cold VALUES (2, 0)",
        "INSERT INTO node VALUES ('', '/x', zeroblob(16), NULL, 'active')",
        "INSERT INTO node VALUES ('x', '/x', zeroblob(15), NULL, 'active')",
        "INSERT INTO node VALUES ('x', '/x', zeroblob(16), '', 'active')",
        "INSERT INTO node VALUES ('x', '/x', zeroblob(16), NULL, 'gone')",
        "INSERT INTO coded_segment VALUES (zeroblob(16), 0, 0, 1)",
        f"INSERT INTO generation VALUES ({ROW}, 1, 1, 5, 5, 1, 2, 'aborted', 0, 0)",
        f"INSERT INTO generation VALUES ({ROW}, 2, 1, -1, 5, 1, 2, 'aborted', 0, 0)",
        f"INSERT INTO generation VALUES ({ROW}, 2, 1, 5, 5, 3, 2, 'aborted', 0, 0)",
        f"INSERT INTO generation VALUES ({ROW}, 2, 1, 5, 5, 1, 2, 'hot', 0, 0)",
        f"INSERT INTO generation VALUES ({ROW}, 2, 1, 5, 5, 1, 2, 'committed', 0, 0)",
        "INSERT INTO placement VALUES (zeroblob(16), 0, 'n0', 0)",
        "INSERT INTO placement SELECT encoding, 0, 'n3', 0 FROM generation",
        "INSERT INTO placement SELECT encoding, 1, 'n0', 0 FROM generation",
        "INSERT INTO placement SELECT encoding, 20, 'n3', 0 FROM generation",
        "INSERT INTO manifest SELECT encoding, zeroblob(65537) FROM generation",
        "DELETE FROM node WHERE name = 'n0'",
        "DELETE FROM topic",
    ],
)
def test_the_database_itself_refuses_what_cannot_be(directory: str, statement: str) -> None:
    """Types, ranges, references, and one live generation, one place, one chunk a node."""
    catalog = open_catalog(directory)
    prepare(catalog)
    with pytest.raises(sqlite3.IntegrityError):
        catalog._database.connection.execute(statement)


def test_the_schemas_numbers_are_todays(directory: str) -> None:
    """The limits that decisions keep to are those that the tables allow."""
    assert (values.DATA_CHUNKS_MIN, values.DATA_CHUNKS_MAX) == (2, 16)
    assert (values.PARITY_CHUNKS_MIN, values.PARITY_CHUNKS_MAX) == (1, 4)
    assert (values.GENERATION_MAX, values.ENCODING_BYTES) == (2**53 - 1, 16)
    assert (PARTITIONS_MAX, TOPIC_ID_BYTES) == (100_000, 16)
    catalog = open_catalog(directory)
    prepare(catalog)
    states = {state.value for state in values.ColdState} - {"hot", "gone"}
    for state in sorted(states - {"committed", "released", "planned"}):
        catalog._database.connection.execute("UPDATE generation SET state = ?", (state,))
    assert str(Profile.parse("16+4")) == "16+4"


def test_after_an_io_error_nothing_goes_on(directory: str) -> None:
    """Nobody knows what the device has of a move; only opening again tells."""

    def fail(event: str) -> None:
        if event == "before release":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

    catalog = open_catalog(directory, fail)
    prepare_without_release(catalog.cold, catalog)
    with pytest.raises(StorageError, match="I/O"):
        release(catalog.cold, 1)
    with pytest.raises(StorageError, match="out of use"):
        catalog.cold.generations()
    with pytest.raises(StorageError, match="out of use"):
        catalog.topics()
    catalog.close()
    assert [each.state.value for each in open_catalog(directory).cold.generations()] == [
        "committed"
    ]


def prepare_without_release(cold: ColdCatalog, catalog: SqliteCatalog) -> None:
    """One committed segment."""
    catalog.create_topic("topic", TOPIC, 1, {})
    for node in NODES:
        cold.add_node(node)
    cold.plan(plan_of(1), now_ms=0)
    commit(cold, 1)


def test_ten_thousand_segments_are_read_and_mapped_in_a_second(directory: str) -> None:
    """A start with 10,000 coded segments of 4 + 2 costs less than a second of CPU for them."""
    catalog = open_catalog(directory)
    catalog.create_topic("topic", TOPIC, 100, {})
    for at in range(6):
        catalog.cold.add_node(
            StorageNode(name=f"m{at}", place=f"/m{at}", identity=f"{at + 100:032x}")
        )
    connection = catalog._database.connection
    connection.execute("BEGIN")
    for at in range(10_000):
        key = (TOPIC, at % 100, at // 100 * 10)
        blob = at.to_bytes(16, "big")
        connection.execute("INSERT INTO coded_segment VALUES (?, ?, ?, 1)", key)
        connection.execute(
            "INSERT INTO generation VALUES (?, ?, ?, ?, 1, 4, 2, ?, 1000, 1, 2, 'released', 0, 0)",
            (blob, *key, key[2] + 10),
        )
        connection.executemany(
            "INSERT INTO placement VALUES (?, ?, ?, 0)",
            [(blob, index, f"m{(at + index) % 6}") for index in range(6)],
        )
    connection.execute("COMMIT")
    took_s = least_cpu_s(catalog.cold.generations, times=3)
    generations = catalog.cold.generations()
    assert len(generations) == 10_000
    found = Coverage(each for each in generations if each.key.partition == 7).find(995)
    assert found is not None
    assert found.key.base_offset == 990
    assert took_s < 1


def test_a_few_generations_are_read_without_the_places_of_all(directory: str) -> None:
    """Whichever way they are chosen: places are found by key, and no table is read through."""
    catalog = open_catalog(directory)
    prepare(catalog)
    cold = catalog.cold
    asked: list[str] = []
    connection = catalog._database.connection
    connection.set_trace_callback(asked.append)
    cold.find([encoding(1), encoding(3)])
    cold.plan(plan_of(9, base=50, end=60), now_ms=0)
    cold.drop_superseded(encoding(4), has_hot_log=True, now_ms=0)
    cold.delete_segments([SegmentKey(TOPIC, 0, 30), SegmentKey(TOPIC, 0, 50)], now_ms=0)
    connection.set_trace_callback(None)
    chosen = [each for each in asked if each.startswith("SELECT encoding")]
    assert len(chosen) >= 8
    assert any("partition" in each for each in chosen)
    for statement in chosen:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        scans = [step for step in plan if step.startswith("SCAN")]
        assert not scans, (statement, plan)
    catalog.close()


def test_only_the_latest_of_what_is_gone_is_remembered(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many, in the order in which they went."""
    monkeypatch.setattr(cold_generation_rows, "GONE_KEPT_MAX", 2)
    catalog = open_catalog(directory)
    catalog.create_topic("topic", TOPIC, 1, {})
    cold = catalog.cold
    for node in NODES:
        cold.add_node(node)
    for number in (3, 1, 4, 2):
        cold.plan(plan_of(number), now_ms=0)
        cold.abort(encoding(number), now_ms=0)
        for index in range(3):
            cold.chunk_removed(encoding(number), index=index, node=f"n{index}")
    assert [number for number in range(1, 5) if cold.gone(encoding(number))] == [2, 4]
