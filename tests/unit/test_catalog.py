"""The catalog's contract on both implementations, and what is particular to SQLite."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from logd.errors import (
    CorruptFileError,
    DataDirectoryError,
    DiskFullError,
    StorageError,
    UnsupportedFormatError,
)
from logd.storage.catalog import Catalog, SqliteCatalog
from tests.contract.check_catalog import CatalogContract, MemoryCatalog
from tests.unit.storage_faults import StoppedError

A = b"a" * 16
B = b"b" * 16


def path_in(directory: str) -> str:
    return f"{directory}/catalog.sqlite"


def open_catalog(directory: str, observer: Callable[[str], None] = lambda _: None) -> SqliteCatalog:
    return SqliteCatalog.open(path_in(directory), "cluster", observer)


class TestMemoryCatalog(CatalogContract):
    """The fake keeps the contract too, or tests on it prove nothing."""

    def make(self, directory: str) -> Catalog:
        """In memory."""
        return MemoryCatalog("cluster")


class TestSqliteCatalog(CatalogContract):
    """The real one."""

    def make(self, directory: str) -> Catalog:
        """In a database."""
        return open_catalog(directory)


def test_everything_survives_a_restart(directory: str) -> None:
    """Topics, overrides and the producer ids given out are there after opening again."""
    catalog = open_catalog(directory)
    catalog.create_topic("topic", A, 3, {"retention.ms": "1"})
    catalog.create_topic("gone", B, 1, {})
    catalog.mark_deleting(B)
    catalog.set_broker_overrides({"log.retention.ms": "2"})
    first = catalog.next_producer_id_block()
    rows = catalog.topics()
    catalog.close()
    assert os.listdir(directory) == ["catalog.sqlite"]
    again = open_catalog(directory)
    assert again.topics() == rows
    assert again.broker_overrides() == {"log.retention.ms": "2"}
    assert again.next_producer_id_block() == first + 1000


CHANGES: list[tuple[str, Callable[[Catalog], object]]] = [
    ("create_topic", lambda c: c.create_topic("new", B, 2, {"retention.ms": "1", "a": "b"})),
    ("mark_deleting", lambda c: c.mark_deleting(A)),
    ("forget_topic", lambda c: (c.mark_deleting(A), c.forget_topic(A))),
    ("set_partitions", lambda c: c.set_partitions(A, 9)),
    ("set_topic_overrides", lambda c: c.set_topic_overrides(A, {"x": "y"})),
    ("set_broker_overrides", lambda c: c.set_broker_overrides({"x": "y"})),
    ("next_producer_id_block", lambda c: c.next_producer_id_block()),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_stopped_around_a_commit_all_or_nothing_is_there(
    tmp_path: Path, name: str, change: Callable[[Catalog], object], when: str
) -> None:
    """Stopped before the commit nothing of the change is on disk; after it, all of it."""
    results: list[tuple[object, ...]] = []
    for stop_at in (f"{when} {name}", None):
        directory = str(tmp_path / f"{stop_at is None}")
        os.mkdir(directory)
        catalog = open_catalog(directory)
        catalog.create_topic("old", A, 1, {"retention.ms": "5"})
        if name == "forget_topic":
            catalog.mark_deleting(A)
        before = _all(catalog)
        catalog.close()
        catalog = open_catalog(directory, _stopping_at(stop_at))
        if stop_at is None:
            change(catalog)
        else:
            with pytest.raises(StoppedError):
                change(catalog)
        # A copy is what another process would find after a kill.
        copy = tmp_path / f"copy-{stop_at is None}"
        copy.mkdir()
        for file in os.listdir(directory):
            (copy / file).write_bytes(Path(directory, file).read_bytes())
        results.append(_all(open_catalog(str(copy))))
        catalog.close()
    assert results[0] == (before if when == "before" else results[1])
    assert results[1] != before


def _stopping_at(stop_at: str | None) -> Callable[[str], None]:
    def observer(event: str) -> None:
        if event == stop_at:
            raise StoppedError(event)

    return observer


def _all(catalog: SqliteCatalog) -> tuple[object, ...]:
    (next_id,) = catalog._database.connection.execute(
        "SELECT next_producer_id FROM cluster"
    ).fetchone()
    return (catalog.topics(), catalog.broker_overrides(), next_id)


def test_commits_are_synced(directory: str) -> None:
    """The settings on which durability rests are the ones in force."""
    connection = open_catalog(directory)._database.connection
    for name, value in (
        ("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1),
        ("locking_mode", "exclusive"), ("application_id", 0x4C4F4744), ("user_version", 3),
    ):  # fmt: skip
        assert connection.execute(f"PRAGMA {name}").fetchone() == (value,)


def test_another_clusters_catalog_is_refused(directory: str) -> None:
    """The catalog names its cluster."""
    open_catalog(directory).close()
    with pytest.raises(DataDirectoryError, match="cluster"):
        SqliteCatalog.open(path_in(directory), "other")


def test_a_newer_format_is_refused_and_left_alone(directory: str) -> None:
    """user_version above ours: nothing is changed."""
    catalog = open_catalog(directory)
    catalog._database.connection.execute("PRAGMA user_version = 4")
    catalog.close()
    before = Path(path_in(directory)).read_bytes()
    with pytest.raises(UnsupportedFormatError, match="version 4"):
        open_catalog(directory)
    assert Path(path_in(directory)).read_bytes() == before


def test_a_foreign_database_is_refused(directory: str) -> None:
    """Somebody else's SQLite file is not made into a catalog."""
    connection = sqlite3.connect(path_in(directory))
    connection.execute("CREATE TABLE cluster (x)")
    connection.close()
    with pytest.raises(CorruptFileError, match="no catalog"):
        open_catalog(directory)


@pytest.mark.parametrize("data", [b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_garbage_is_corrupt(directory: str, data: bytes) -> None:
    """A file that is no database is named, and is not overwritten."""
    Path(path_in(directory)).write_bytes(data)
    with pytest.raises(CorruptFileError) as caught:
        open_catalog(directory)
    assert caught.value.path == path_in(directory)
    assert Path(path_in(directory)).read_bytes() == data


def test_a_damaged_page_is_found_at_open(directory: str) -> None:
    """Not when the topic is needed, but before the server says that it is ready."""
    catalog = open_catalog(directory)
    for number in range(200):
        catalog.create_topic(f"topic-{number}", number.to_bytes(16, "big"), 1, {"a": "b"})
    catalog.close()
    data = bytearray(Path(path_in(directory)).read_bytes())
    assert len(data) > 5 * 4096
    data[2 * 4096 : -4096] = b"\xa5" * (len(data) - 3 * 4096)
    Path(path_in(directory)).write_bytes(data)
    with pytest.raises(CorruptFileError):
        open_catalog(directory)


def test_a_lost_cluster_row_is_corrupt(directory: str) -> None:
    """Producer ids would start again at 0."""
    catalog = open_catalog(directory)
    catalog._database.connection.execute("DELETE FROM cluster")
    catalog.close()
    with pytest.raises(CorruptFileError, match="cluster"):
        open_catalog(directory)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO topic VALUES (x'00', 'a', 1, 'live')",
        "INSERT INTO topic VALUES (zeroblob(16), '', 1, 'live')",
        "INSERT INTO topic VALUES (zeroblob(16), 'a', 0, 'live')",
        "INSERT INTO topic VALUES (zeroblob(16), 'a', 1, 'dead')",
        "INSERT INTO topic VALUES (zeroblob(16), 'a', 'many', 'live')",
        "INSERT INTO topic_override VALUES (zeroblob(16), 'a', 'b')",
        "INSERT INTO cluster VALUES (2, 'x', 0)",
        "UPDATE cluster SET next_producer_id = -1",
    ],
)
def test_the_database_itself_refuses_what_cannot_be(directory: str, statement: str) -> None:
    """Types, ranges, references and the single row hold against any writer with foreign keys on."""
    with pytest.raises(sqlite3.IntegrityError):
        open_catalog(directory)._database.connection.execute(statement)


def test_a_full_disk_changes_nothing_and_passes(directory: str) -> None:
    """DiskFullError, the old state, and work as before when there is space again."""
    catalog = open_catalog(directory)
    catalog.create_topic("topic", A, 1, {})
    connection = catalog._database.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    big = {f"key-{number}": "x" * 1000 for number in range(100)}
    with pytest.raises(DiskFullError):
        catalog.create_topic("big", B, 1, big)
    assert [row.name for row in catalog.topics()] == ["topic"]
    connection.execute("PRAGMA max_page_count = 100000")
    catalog.create_topic("big", B, 1, big)
    assert [row.overrides for row in catalog.topics() if row.name == "big"] == [big]


def test_after_an_io_error_the_catalog_is_out_of_use(directory: str) -> None:
    """Nobody knows what the device has; only opening again tells."""

    def observer(event: str) -> None:
        if event == "before mark_deleting":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

    catalog = open_catalog(directory, observer)
    catalog.create_topic("topic", A, 1, {})
    with pytest.raises(StorageError, match="I/O"):
        catalog.mark_deleting(A)
    with pytest.raises(StorageError, match="out of use"):
        catalog.topics()
    catalog.close()
    assert [row.state for row in open_catalog(directory).topics()] == ["live"]


def test_a_second_opener_is_refused(directory: str) -> None:
    """Two servers never share a catalog, even if the directory's lock were lost."""
    catalog = open_catalog(directory)
    catalog.create_topic("topic", A, 1, {})
    other = sqlite3.connect(path_in(directory), timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT * FROM topic")
    other.close()


def test_a_place_that_cannot_be_opened_is_said_in_one_line(directory: str) -> None:
    """A missing directory, or a directory in the file's place."""
    os.mkdir(path_in(directory))
    for path in (path_in(directory), f"{directory}/absent/catalog.sqlite"):
        with pytest.raises(DataDirectoryError) as caught:
            SqliteCatalog.open(path, "cluster")
        assert "\n" not in str(caught.value)


def test_it_may_be_opened_in_one_thread_and_used_in_another(directory: str) -> None:
    """The server opens it before its catalog thread runs."""
    catalog = open_catalog(directory)
    ids: list[int] = []
    thread = threading.Thread(target=lambda: ids.append(catalog.next_producer_id_block()))
    thread.start()
    thread.join()
    assert ids == [0]
