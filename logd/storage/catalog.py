"""The catalog: which topics there are, their settings, the cluster's id, and producer ids given
out.

An interface, `Catalog`, and its form on one machine, `SqliteCatalog`; tests hold every form to the
same contract. Each method is one transaction and durable when it returns; if it raises, nothing of
it was done (after an I/O error: nothing, or all of it, as the next open finds out).

The database (SQLite, WAL, synchronous=FULL, application id 0x4C4F4744 "LOGD", user_version = format
version 1; strict tables):

    cluster          one row: cluster_id, next_producer_id
    topic            topic_id (16 bytes), name, partitions, state: "live" or "deleting"
                     of one name, at most one topic is live
    topic_override   topic_id, name, value: settings in which a topic differs from the server
    broker_override  name, value: server settings that clients changed

A topic is deleted in two steps: `mark_deleting` frees its name and remembers what is still to be
removed from disk, `forget_topic` ends it. What a crash left between the two is found by `topics`.

Locking mode is exclusive: the data directory's lock allows one server anyway, and SQLite then keeps
the index of its log in its own memory instead of in a mapped file. One thread at a time uses a
catalog.

Source: SQLite's documents on WAL, STRICT tables and the file format.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from logd.errors import (
    CorruptFileError,
    DataDirectoryError,
    DiskFullError,
    StorageError,
    TopicExistsError,
    UnknownTopicIdError,
    UnsupportedFormatError,
)
from logd.storage.layout import PARTITIONS_MAX, TOPIC_ID_BYTES, is_topic_name
from logd.units import INT64_MAX

FORMAT_VERSION: Final = 1
APPLICATION_ID: Final = 0x4C4F4744
# Clients ask for ids one at a time; a block a transaction keeps the disk out of that.
PRODUCER_ID_BLOCK: Final = 1000

_SCHEMA: Final = f"""
CREATE TABLE cluster (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    cluster_id TEXT NOT NULL CHECK (length(cluster_id) > 0),
    next_producer_id INTEGER NOT NULL CHECK (next_producer_id >= 0)
) STRICT;
CREATE TABLE topic (
    topic_id BLOB PRIMARY KEY CHECK (length(topic_id) = {TOPIC_ID_BYTES}),
    name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 249),
    partitions INTEGER NOT NULL CHECK (partitions BETWEEN 1 AND {PARTITIONS_MAX}),
    state TEXT NOT NULL CHECK (state IN ('live', 'deleting'))
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX live_topic_name ON topic (name) WHERE state = 'live';
CREATE TABLE topic_override (
    topic_id BLOB NOT NULL REFERENCES topic ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (topic_id, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE broker_override (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""

TopicState = Literal["live", "deleting"]


@dataclass(frozen=True, slots=True)
class TopicRow:
    """What the catalog knows of a topic."""

    topic_id: bytes
    name: str
    partitions: int
    overrides: dict[str, str] = field(default_factory=dict)
    state: TopicState = "live"


class Catalog(Protocol):
    """What the broker needs of a catalog. Every method may raise StorageError (DiskFullError)."""

    @property
    def cluster_id(self) -> str:
        """The id that this cluster was given when it was made."""
        ...

    def topics(self) -> list[TopicRow]:
        """Return all topics, those being deleted too, by name and then by id."""
        ...

    def create_topic(
        self, name: str, topic_id: bytes, partitions: int, overrides: Mapping[str, str]
    ) -> None:
        """Add a live topic.

        Raises:
            TopicExistsError: a live topic has the name, or any topic has the id.
        """
        ...

    def mark_deleting(self, topic_id: bytes) -> None:
        """Take a topic out of use and free its name; again is harmless.

        Raises:
            UnknownTopicIdError: no topic has the id.
        """
        ...

    def forget_topic(self, topic_id: bytes) -> None:
        """Remove the last trace of a topic that is being deleted; again is harmless."""
        ...

    def set_partitions(self, topic_id: bytes, partitions: int) -> None:
        """Set the number of a live topic's partitions.

        Raises:
            UnknownTopicIdError: no live topic has the id.
        """
        ...

    def set_topic_overrides(self, topic_id: bytes, overrides: Mapping[str, str]) -> None:
        """Replace all of a live topic's overrides.

        Raises:
            UnknownTopicIdError: no live topic has the id.
        """
        ...

    def broker_overrides(self) -> dict[str, str]:
        """Return the server settings that clients changed."""
        ...

    def set_broker_overrides(self, overrides: Mapping[str, str]) -> None:
        """Replace all server settings that clients changed."""
        ...

    def next_producer_id_block(self, size: int = PRODUCER_ID_BLOCK) -> int:
        """Return the first of `size` producer ids that nobody was ever given or will be again."""
        ...

    def close(self) -> None:
        """Let go of the catalog; nothing that was done depends on it."""
        ...


class SqliteCatalog:
    """The catalog in one SQLite database."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: str,
        *,
        cluster_id: str,
        observer: Callable[[str], None],
    ) -> None:
        assert cluster_id
        self._connection = connection
        self._path = path
        self._observer = observer
        self._failure: str | None = None
        self.cluster_id = cluster_id

    @classmethod
    def open(
        cls, path: str, cluster_id: str, observer: Callable[[str], None] = lambda _: None
    ) -> SqliteCatalog:
        """Open the catalog, or make an empty one.

        Args:
            cluster_id: the data directory's; a new catalog gets it, an old one must have it.
            observer: called with "before <method>" and "after <method>" around each commit; a test
                stops the program there by raising.

        Raises:
            DataDirectoryError: the catalog is another cluster's, or cannot be opened or written.
            CorruptFileError: no SQLite database, none of ours, or a damaged one.
            UnsupportedFormatError: of a newer version.
            DiskFullError, StorageError: it could not be made or checked.
        """
        assert cluster_id
        with _translated(path):
            # Any thread may open and close it; the broker then uses one thread only.
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with _translated(path):
                _prepare(connection, path, cluster_id)
            return cls(connection, path, cluster_id=cluster_id, observer=observer)
        except BaseException:  # Whatever it was: the connection must not stay open behind it.
            connection.close()
            raise

    # --- topics -----------------------------------------------------------------------------------

    def topics(self) -> list[TopicRow]:
        """See `Catalog`."""
        with self._transaction("topics"):
            overrides: dict[bytes, dict[str, str]] = {}
            for topic_id, name, value in self._connection.execute(
                "SELECT topic_id, name, value FROM topic_override ORDER BY name"
            ):
                overrides.setdefault(topic_id, {})[name] = value
            rows = self._connection.execute(
                "SELECT topic_id, name, partitions, state FROM topic ORDER BY name, topic_id"
            ).fetchall()
        for topic_id, name, _, _ in rows:
            if not is_topic_name(name):
                raise CorruptFileError(self._path, 0, f"topic {topic_id.hex()} is named {name!r}")
        return [
            TopicRow(topic_id, name, partitions, overrides.get(topic_id, {}), state)
            for topic_id, name, partitions, state in rows
        ]

    def create_topic(
        self, name: str, topic_id: bytes, partitions: int, overrides: Mapping[str, str]
    ) -> None:
        """See `Catalog`."""
        assert is_topic_name(name)
        assert len(topic_id) == TOPIC_ID_BYTES
        assert 1 <= partitions <= PARTITIONS_MAX
        with self._transaction("create_topic"):
            try:
                self._connection.execute(
                    "INSERT INTO topic VALUES (?, ?, ?, 'live')", (topic_id, name, partitions)
                )
            except sqlite3.IntegrityError as error:
                raise TopicExistsError(f"topic {name!r} exists already") from error
            self._insert_overrides(topic_id, overrides)

    def mark_deleting(self, topic_id: bytes) -> None:
        """See `Catalog`."""
        assert len(topic_id) == TOPIC_ID_BYTES
        with self._transaction("mark_deleting"):
            self._update_one("UPDATE topic SET state = 'deleting' WHERE topic_id = ?", topic_id)

    def forget_topic(self, topic_id: bytes) -> None:
        """See `Catalog`."""
        assert len(topic_id) == TOPIC_ID_BYTES
        with self._transaction("forget_topic"):
            self._connection.execute(
                "DELETE FROM topic WHERE topic_id = ? AND state = 'deleting'", (topic_id,)
            )

    def set_partitions(self, topic_id: bytes, partitions: int) -> None:
        """See `Catalog`."""
        assert 1 <= partitions <= PARTITIONS_MAX
        with self._transaction("set_partitions"):
            self._update_one(
                "UPDATE topic SET partitions = ?2 WHERE topic_id = ?1 AND state = 'live'",
                topic_id,
                partitions,
            )

    def set_topic_overrides(self, topic_id: bytes, overrides: Mapping[str, str]) -> None:
        """See `Catalog`."""
        assert len(topic_id) == TOPIC_ID_BYTES
        with self._transaction("set_topic_overrides"):
            # Changes nothing: it says whether there is such a topic.
            self._update_one(
                "UPDATE topic SET state = 'live' WHERE topic_id = ? AND state = 'live'", topic_id
            )
            self._connection.execute("DELETE FROM topic_override WHERE topic_id = ?", (topic_id,))
            self._insert_overrides(topic_id, overrides)

    def _insert_overrides(self, topic_id: bytes, overrides: Mapping[str, str]) -> None:
        assert len(topic_id) == TOPIC_ID_BYTES
        self._connection.executemany(
            "INSERT INTO topic_override VALUES (?, ?, ?)",
            [(topic_id, name, value) for name, value in overrides.items()],
        )

    def _update_one(self, statement: str, topic_id: bytes, *values: object) -> None:
        changed = self._connection.execute(statement, (topic_id, *values)).rowcount
        assert changed in (0, 1)
        if changed == 0:
            raise UnknownTopicIdError(f"no topic has the id {topic_id.hex()}")

    # --- the server -------------------------------------------------------------------------------

    def broker_overrides(self) -> dict[str, str]:
        """See `Catalog`."""
        assert self._connection.isolation_level is None
        with self._transaction("broker_overrides"):
            return dict(
                self._connection.execute("SELECT name, value FROM broker_override ORDER BY name")
            )

    def set_broker_overrides(self, overrides: Mapping[str, str]) -> None:
        """See `Catalog`."""
        assert all(overrides)
        with self._transaction("set_broker_overrides"):
            self._connection.execute("DELETE FROM broker_override")
            self._connection.executemany(
                "INSERT INTO broker_override VALUES (?, ?)", list(overrides.items())
            )

    def next_producer_id_block(self, size: int = PRODUCER_ID_BLOCK) -> int:
        """See `Catalog`."""
        assert size >= 1
        with self._transaction("next_producer_id_block"):
            (first,) = self._connection.execute("SELECT next_producer_id FROM cluster").fetchone()
            if first > INT64_MAX - size:
                raise StorageError(f"{self._path}: all producer ids have been given out")
            self._connection.execute("UPDATE cluster SET next_producer_id = ?", (first + size,))
        assert 0 <= first <= INT64_MAX - size
        return int(first)

    def close(self) -> None:
        """See `Catalog`."""
        self._failure = self._failure or "it is closed"
        with _translated(self._path):
            self._connection.close()
        assert self._failure

    # --- transactions -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self, name: str) -> Iterator[None]:
        """Commit what the block does, or nothing of it.

        After an I/O error the catalog refuses everything until it is opened again: what the device
        has of the last transaction is only known then.
        """
        if self._failure is not None:
            raise StorageError(f"{self._path}: the catalog is out of use: {self._failure}")
        assert not self._connection.in_transaction
        try:
            with _translated(self._path):
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._observer(f"before {name}")
                self._connection.execute("COMMIT")
            self._observer(f"after {name}")
        except BaseException as error:  # Also a cancelled or stopped caller: nothing half-done.
            if _is_fatal(error):
                self._failure = str(error)
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                self._failure = f"{error} while a transaction was taken back"
        assert self._failure is not None or not self._connection.in_transaction


# --- opening --------------------------------------------------------------------------------------


def _prepare(connection: sqlite3.Connection, path: str, cluster_id: str) -> None:
    """Set the connection up, check the database, and make the tables where there are none."""
    assert connection.isolation_level is None
    for pragma in (
        "locking_mode = EXCLUSIVE",
        "foreign_keys = ON",
        "trusted_schema = OFF",
        "synchronous = FULL",
    ):
        connection.execute(f"PRAGMA {pragma}")
    application_id = _number(connection, "PRAGMA application_id")
    version = _number(connection, "PRAGMA user_version")
    is_new = _number(connection, "SELECT count(*) FROM sqlite_schema") == 0
    if not is_new and application_id != APPLICATION_ID:
        raise CorruptFileError(path, 68, "is a database, but no catalog of logd")
    if version > FORMAT_VERSION:
        reason = f"has format version {version}, this server knows {FORMAT_VERSION} and older"
        raise UnsupportedFormatError(path, reason)
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise StorageError(f"{path}: the file system cannot hold a write-ahead log")
    if is_new:
        _make_tables(connection, cluster_id)
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise CorruptFileError(path, 0, str(verdict))
    _check_cluster(connection, path, cluster_id)


def _number(connection: sqlite3.Connection, statement: str) -> int:
    (value,) = connection.execute(statement).fetchone()
    assert isinstance(value, int)
    return value


def _make_tables(connection: sqlite3.Connection, cluster_id: str) -> None:
    assert ";" in _SCHEMA
    connection.execute("BEGIN IMMEDIATE")
    for statement in filter(str.strip, _SCHEMA.split(";")):
        connection.execute(statement)
    connection.execute("INSERT INTO cluster VALUES (1, ?, 0)", (cluster_id,))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    connection.execute("COMMIT")


def _check_cluster(connection: sqlite3.Connection, path: str, cluster_id: str) -> None:
    assert cluster_id
    row = connection.execute("SELECT cluster_id FROM cluster").fetchone()
    if row is None:
        raise CorruptFileError(path, 0, "the catalog has no cluster id")
    if row[0] != cluster_id:
        raise DataDirectoryError(
            f"{path} belongs to cluster {row[0]}, the data directory to {cluster_id}; "
            "put the catalog of this cluster back"
        )


def _is_fatal(error: BaseException) -> bool:
    """Return whether SQLite met damage or a refusing device; a full disk is neither."""
    assert error is not None
    return (
        isinstance(error, CorruptFileError | StorageError | DataDirectoryError)
        and not isinstance(error, DiskFullError)
        and isinstance(error.__cause__, sqlite3.Error)
    )


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the primary code; errors of the Python module itself have none.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        assert isinstance(code, int)
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(f"{path}: {error}") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise CorruptFileError(path, 0, str(error)) from error
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise DataDirectoryError(f"{path} cannot be opened and written: {error}") from error
        if code == sqlite3.SQLITE_BUSY:
            raise DataDirectoryError(f"{path} is in use by another program") from error
        raise StorageError(f"{path}: {error}") from error
