"""The SQLite database under the catalog: opening, growing, transactions, errors.

WAL, synchronous=FULL, application id 0x4C4F4744 "LOGD", user_version = format version. Each
transaction is durable when it ends; if it raises, nothing of it was done (after an I/O error:
nothing, or all of it, as the next open finds out).

Locking mode is exclusive: the data directory's lock allows one server anyway, and SQLite then keeps
the index of its log in its own memory instead of in a mapped file. One thread at a time uses it.

A catalog of an older format version is brought to the newest when it is opened, in one transaction:
a crash leaves the old one or the new one. The way back is closed; an older server refuses it.

Source: SQLite's documents on WAL, STRICT tables and the file format.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from logd.errors import (
    CorruptFileError,
    DataDirectoryError,
    DiskFullError,
    LogdError,
    StorageError,
    UnsupportedFormatError,
)
from logd.storage.catalog_schema import FORMAT_VERSION, statements_after

APPLICATION_ID: Final = 0x4C4F4744

Observer = Callable[[str], None]


class BrokenRuleError(LogdError):
    """A rule of the schema forbids a statement: a key twice, a reference to nothing, a range.

    For the modules of the catalog only, which turn it into an error that says what was asked.
    """


class CatalogDatabase:
    """One open database; `connection` is for tests."""

    def __init__(self, connection: sqlite3.Connection, path: str, observer: Observer) -> None:
        assert path
        self.connection = connection
        self.path = path
        self._observer = observer
        self._failure: str | None = None

    @classmethod
    def open(cls, path: str, cluster_id: str, observer: Observer) -> CatalogDatabase:
        """Open the database, or make an empty one; see `SqliteCatalog.open`."""
        assert cluster_id
        with _translated(path):
            # Any thread may open and close it; the broker then uses one thread only.
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with _translated(path):
                _prepare(connection, path, cluster_id, observer)
            return cls(connection, path, observer)
        except BaseException:  # Whatever it was: the connection must not stay open behind it.
            connection.close()
            raise

    def close(self) -> None:
        """Let go of the database; nothing that was done depends on it."""
        self._failure = self._failure or "it is closed"
        with _translated(self.path):
            self.connection.close()
        assert self._failure

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """Run a statement inside a transaction; return its rows.

        Raises:
            BrokenRuleError: the schema forbids it.
        """
        assert self.connection.in_transaction
        try:
            return self.connection.execute(statement, values).fetchall()
        except sqlite3.IntegrityError as error:
            raise BrokenRuleError(str(error)) from error

    def change(self, statement: str, values: Sequence[object] = ()) -> int:
        """Run a statement inside a transaction; return how many rows it changed.

        Raises:
            BrokenRuleError: the schema forbids it.
        """
        assert self.connection.in_transaction
        try:
            return self.connection.execute(statement, values).rowcount
        except sqlite3.IntegrityError as error:
            raise BrokenRuleError(str(error)) from error

    @contextlib.contextmanager
    def transaction(self, name: str) -> Iterator[None]:
        """Commit what the block does, or nothing of it.

        After an I/O error the catalog refuses everything until it is opened again: what the device
        has of the last transaction is only known then.
        """
        if self._failure is not None:
            raise StorageError(f"{self.path}: the catalog is out of use: {self._failure}")
        assert not self.connection.in_transaction
        try:
            with _translated(self.path):
                self.connection.execute("BEGIN IMMEDIATE")
                yield
                self._observer(f"before {name}")
                self.connection.execute("COMMIT")
            self._observer(f"after {name}")
        except BaseException as error:  # Also a cancelled or stopped caller: nothing half-done.
            if _is_fatal(error):
                self._failure = str(error)
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            try:
                self.connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                self._failure = f"{error} while a transaction was taken back"
        assert self._failure is not None or not self.connection.in_transaction


# --- opening --------------------------------------------------------------------------------------


def _prepare(
    connection: sqlite3.Connection, path: str, cluster_id: str, observer: Observer
) -> None:
    """Set the connection up, check the database, and make the tables that it lacks."""
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
    # Before anything is added: a damaged one is not written to.
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise CorruptFileError(path, 0, str(verdict))
    if is_new:
        _grow(connection, 0, lambda _: None, cluster_id)
    elif version < FORMAT_VERSION:
        _check_cluster(connection, path, cluster_id)
        _grow(connection, version, observer)
    _check_cluster(connection, path, cluster_id)


def _number(connection: sqlite3.Connection, statement: str) -> int:
    (value,) = connection.execute(statement).fetchone()
    assert isinstance(value, int)
    return value


def _grow(
    connection: sqlite3.Connection, version: int, observer: Observer, cluster_id: str | None = None
) -> None:
    """Add what a catalog of an older version lacks, in one transaction; version 0 has nothing."""
    assert version < FORMAT_VERSION
    assert (cluster_id is not None) == (version == 0)
    connection.execute("BEGIN IMMEDIATE")
    for statement in statements_after(version):
        connection.execute(statement)
    if cluster_id is not None:
        connection.execute("INSERT INTO cluster VALUES (1, ?, 0)", (cluster_id,))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    observer("before upgrade")
    connection.execute("COMMIT")
    observer("after upgrade")


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
