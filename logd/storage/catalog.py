"""The catalog: which topics there are, their settings, the cluster's id, producer ids given
out, and what is coded on which storage nodes.

An interface, `Catalog`, and its form on one machine, `SqliteCatalog`; tests hold every form to the
same contract. Each method is one transaction and durable when it returns; if it raises, nothing of
it was done (after an I/O error: nothing, or all of it, as the next open finds out).

    catalog           topics, settings, producer ids
    catalog.cold      storage nodes, coded segments, generations, placements (`cold_catalog`)
    catalog_database  connection, transactions, errors
    catalog_schema    the tables, and how older ones grow

A topic is deleted in two steps: `mark_deleting` frees its name and remembers what is still to be
removed, from disk and from storage nodes; `forget_topic` ends it. What a crash left between the two
is found by `topics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from logd.errors import CorruptFileError, StorageError, TopicExistsError, UnknownTopicIdError
from logd.storage.catalog_database import BrokenRuleError, CatalogDatabase, Observer
from logd.storage.cold_catalog_sqlite import SqliteColdCatalog, delete_topics_generations
from logd.storage.layout import PARTITIONS_MAX, TOPIC_ID_BYTES, is_topic_name
from logd.units import INT64_MAX

# Clients ask for ids one at a time; a block a transaction keeps the disk out of that.
PRODUCER_ID_BLOCK: Final = 1000

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

        What is coded of it is DELETING from then on, what was being coded ABORTED.

        Raises:
            UnknownTopicIdError: no topic has the id.
        """
        ...

    def forget_topic(self, topic_id: bytes) -> None:
        """Remove the last trace of a topic that is being deleted; again is harmless.

        Does nothing while storage nodes may have chunks of it: they would be unexplained.
        """
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
    """The catalog in one SQLite database.

    Attributes:
        cold: storage nodes and what is coded on them.
    """

    def __init__(self, database: CatalogDatabase, *, cluster_id: str) -> None:
        assert cluster_id
        self._database = database
        self.cluster_id = cluster_id
        self.cold = SqliteColdCatalog(database)

    @classmethod
    def open(cls, path: str, cluster_id: str, observer: Observer = lambda _: None) -> SqliteCatalog:
        """Open the catalog, or make an empty one; one of an older format version grows.

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
        return cls(CatalogDatabase.open(path, cluster_id, observer), cluster_id=cluster_id)

    # --- topics -----------------------------------------------------------------------------------

    def topics(self) -> list[TopicRow]:
        """See `Catalog`."""
        with self._database.transaction("topics"):
            overrides: dict[bytes, dict[str, str]] = {}
            for topic_id, name, value in self._database.rows(
                "SELECT topic_id, name, value FROM topic_override ORDER BY name"
            ):
                overrides.setdefault(topic_id, {})[name] = value
            rows = self._database.rows(
                "SELECT topic_id, name, partitions, state FROM topic ORDER BY name, topic_id"
            )
        for topic_id, name, _, _ in rows:
            if not is_topic_name(name):
                raise CorruptFileError(
                    self._database.path, 0, f"topic {topic_id.hex()} is named {name!r}"
                )
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
        with self._database.transaction("create_topic"):
            try:
                self._database.change(
                    "INSERT INTO topic VALUES (?, ?, ?, 'live')", (topic_id, name, partitions)
                )
            except BrokenRuleError as error:
                raise TopicExistsError(f"topic {name!r} exists already") from error
            self._insert_overrides(topic_id, overrides)

    def mark_deleting(self, topic_id: bytes) -> None:
        """See `Catalog`."""
        assert len(topic_id) == TOPIC_ID_BYTES
        with self._database.transaction("mark_deleting"):
            self._update_one("UPDATE topic SET state = 'deleting' WHERE topic_id = ?", topic_id)
            delete_topics_generations(self._database, topic_id)

    def forget_topic(self, topic_id: bytes) -> None:
        """See `Catalog`."""
        assert len(topic_id) == TOPIC_ID_BYTES
        with self._database.transaction("forget_topic"):
            self._database.change(
                "DELETE FROM topic WHERE topic_id = ?1 AND state = 'deleting' "
                "AND NOT EXISTS (SELECT 1 FROM generation WHERE topic_id = ?1)",
                (topic_id,),
            )

    def set_partitions(self, topic_id: bytes, partitions: int) -> None:
        """See `Catalog`."""
        assert 1 <= partitions <= PARTITIONS_MAX
        with self._database.transaction("set_partitions"):
            self._update_one(
                "UPDATE topic SET partitions = ?2 WHERE topic_id = ?1 AND state = 'live'",
                topic_id,
                partitions,
            )

    def set_topic_overrides(self, topic_id: bytes, overrides: Mapping[str, str]) -> None:
        """See `Catalog`."""
        assert len(topic_id) == TOPIC_ID_BYTES
        with self._database.transaction("set_topic_overrides"):
            # Changes nothing: it says whether there is such a topic.
            self._update_one(
                "UPDATE topic SET state = 'live' WHERE topic_id = ? AND state = 'live'", topic_id
            )
            self._database.change("DELETE FROM topic_override WHERE topic_id = ?", (topic_id,))
            self._insert_overrides(topic_id, overrides)

    def _insert_overrides(self, topic_id: bytes, overrides: Mapping[str, str]) -> None:
        assert len(topic_id) == TOPIC_ID_BYTES
        for name, value in overrides.items():
            self._database.change(
                "INSERT INTO topic_override VALUES (?, ?, ?)", (topic_id, name, value)
            )

    def _update_one(self, statement: str, topic_id: bytes, *values: object) -> None:
        changed = self._database.change(statement, (topic_id, *values))
        assert changed in (0, 1)
        if changed == 0:
            raise UnknownTopicIdError(f"no topic has the id {topic_id.hex()}")

    # --- the server -------------------------------------------------------------------------------

    def broker_overrides(self) -> dict[str, str]:
        """See `Catalog`."""
        with self._database.transaction("broker_overrides"):
            found = self._database.rows("SELECT name, value FROM broker_override ORDER BY name")
        assert all(name for name, _ in found)
        return dict(found)

    def set_broker_overrides(self, overrides: Mapping[str, str]) -> None:
        """See `Catalog`."""
        assert all(overrides)
        with self._database.transaction("set_broker_overrides"):
            self._database.change("DELETE FROM broker_override")
            for item in overrides.items():
                self._database.change("INSERT INTO broker_override VALUES (?, ?)", item)

    def next_producer_id_block(self, size: int = PRODUCER_ID_BLOCK) -> int:
        """See `Catalog`."""
        assert size >= 1
        with self._database.transaction("next_producer_id_block"):
            [(first,)] = self._database.rows("SELECT next_producer_id FROM cluster")
            if first > INT64_MAX - size:
                raise StorageError(f"{self._database.path}: all producer ids have been given out")
            self._database.change("UPDATE cluster SET next_producer_id = ?", (first + size,))
        assert 0 <= first <= INT64_MAX - size
        return int(first)

    def restore(
        self,
        topics: Sequence[TopicRow],
        *,
        broker_overrides: Mapping[str, str],
        next_producer_id: int,
    ) -> None:
        """Fill a new catalog with what was found without the old one; `cold.restore` comes next.

        Raises:
            TopicExistsError: it is not new, or a live name, or an id, comes twice.
        """
        assert 0 <= next_producer_id <= INT64_MAX
        with self._database.transaction("restore_topics"):
            try:
                for row in topics:
                    self._database.change(
                        "INSERT INTO topic VALUES (?, ?, ?, ?)",
                        (row.topic_id, row.name, row.partitions, row.state),
                    )
                    self._insert_overrides(row.topic_id, row.overrides)
                for item in broker_overrides.items():
                    self._database.change("INSERT INTO broker_override VALUES (?, ?)", item)
            except BrokenRuleError as error:
                raise TopicExistsError(f"the catalog cannot be filled: {error}") from error
            self._database.change("UPDATE cluster SET next_producer_id = ?", (next_producer_id,))

    def close(self) -> None:
        """See `Catalog`."""
        assert self.cluster_id
        self._database.close()
