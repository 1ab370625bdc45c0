"""What every catalog must do, and `MemoryCatalog`, the fake that other tests use.

A test module subclasses `CatalogContract` and says in `make` how its catalog comes to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from logd.errors import StorageError, TopicExistsError, UnknownTopicIdError
from logd.storage.catalog import PRODUCER_ID_BLOCK, Catalog, TopicRow
from logd.units import INT64_MAX

A = b"a" * 16
B = b"b" * 16
C = b"c" * 16


class MemoryCatalog:
    """A catalog that forgets everything with the process."""

    def __init__(self, cluster_id: str) -> None:
        self.cluster_id = cluster_id
        self._topics: dict[bytes, TopicRow] = {}
        self._broker_overrides: dict[str, str] = {}
        self._next_producer_id = 0

    def topics(self) -> list[TopicRow]:
        """See `Catalog`."""
        rows = sorted(self._topics.values(), key=lambda row: (row.name, row.topic_id))
        return [replace(row, overrides=dict(row.overrides)) for row in rows]

    def create_topic(
        self, name: str, topic_id: bytes, partitions: int, overrides: Mapping[str, str]
    ) -> None:
        """See `Catalog`."""
        is_taken = any(row.name == name and row.state == "live" for row in self._topics.values())
        if is_taken or topic_id in self._topics:
            raise TopicExistsError(f"topic {name!r} exists already")
        self._topics[topic_id] = TopicRow(topic_id, name, partitions, dict(overrides))

    def mark_deleting(self, topic_id: bytes) -> None:
        """See `Catalog`."""
        if topic_id not in self._topics:
            raise UnknownTopicIdError(f"no topic has the id {topic_id.hex()}")
        self._topics[topic_id] = replace(self._topics[topic_id], state="deleting")

    def forget_topic(self, topic_id: bytes) -> None:
        """See `Catalog`."""
        if topic_id in self._topics and self._topics[topic_id].state == "deleting":
            del self._topics[topic_id]

    def set_partitions(self, topic_id: bytes, partitions: int) -> None:
        """See `Catalog`."""
        self._topics[topic_id] = replace(self._live(topic_id), partitions=partitions)

    def set_topic_overrides(self, topic_id: bytes, overrides: Mapping[str, str]) -> None:
        """See `Catalog`."""
        self._topics[topic_id] = replace(self._live(topic_id), overrides=dict(overrides))

    def broker_overrides(self) -> dict[str, str]:
        """See `Catalog`."""
        return dict(self._broker_overrides)

    def set_broker_overrides(self, overrides: Mapping[str, str]) -> None:
        """See `Catalog`."""
        self._broker_overrides = dict(overrides)

    def next_producer_id_block(self, size: int = PRODUCER_ID_BLOCK) -> int:
        """See `Catalog`."""
        first = self._next_producer_id
        if first > INT64_MAX - size:
            raise StorageError("all producer ids have been given out")
        self._next_producer_id += size
        return first

    def close(self) -> None:
        """See `Catalog`."""

    def _live(self, topic_id: bytes) -> TopicRow:
        row = self._topics.get(topic_id)
        if row is None or row.state != "live":
            raise UnknownTopicIdError(f"no topic has the id {topic_id.hex()}")
        return row


class CatalogContract:
    """The tests; `catalog` is a new, empty one of cluster "cluster"."""

    def make(self, directory: str) -> Catalog:
        """Return a new, empty catalog of cluster "cluster"."""
        raise AssertionError("each implementation has its own")

    @pytest.fixture
    def catalog(self, directory: str) -> Catalog:
        """An empty catalog."""
        return self.make(directory)

    def test_a_new_catalog_is_empty(self, catalog: Catalog) -> None:
        """Only the cluster id is known."""
        assert catalog.cluster_id == "cluster"
        assert catalog.topics() == []
        assert catalog.broker_overrides() == {}

    def test_topics_come_back_as_they_were_made(self, catalog: Catalog) -> None:
        """By name; with id, partitions and overrides."""
        catalog.create_topic("zebra", A, 4, {"retention.ms": "5", "cleanup.policy": "delete"})
        catalog.create_topic("Ant", B, 100_000, {})
        assert catalog.topics() == [
            TopicRow(B, "Ant", 100_000, {}, "live"),
            TopicRow(A, "zebra", 4, {"cleanup.policy": "delete", "retention.ms": "5"}, "live"),
        ]

    def test_a_name_is_taken_once(self, catalog: Catalog) -> None:
        """The same name or id again is refused and changes nothing; case makes another name."""
        catalog.create_topic("topic", A, 1, {})
        for name, topic_id in (("topic", B), ("other", A)):
            with pytest.raises(TopicExistsError):
                catalog.create_topic(name, topic_id, 2, {"retention.ms": "1"})
        catalog.create_topic("TOPIC", C, 1, {})
        assert [(row.name, row.overrides) for row in catalog.topics()] == [
            ("TOPIC", {}),
            ("topic", {}),
        ]

    def test_a_deleted_topics_name_is_free_at_once(self, catalog: Catalog) -> None:
        """While the old one is still being removed, both are there; then only the new one."""
        catalog.create_topic("topic", A, 1, {"retention.ms": "1"})
        catalog.mark_deleting(A)
        catalog.create_topic("topic", B, 2, {})
        assert [(row.topic_id, row.state) for row in catalog.topics()] == [
            (A, "deleting"),
            (B, "live"),
        ]
        catalog.mark_deleting(B)
        catalog.create_topic("topic", C, 3, {})
        catalog.forget_topic(A)
        catalog.forget_topic(B)
        assert catalog.topics() == [TopicRow(C, "topic", 3)]

    def test_deleting_may_be_repeated(self, catalog: Catalog) -> None:
        """A start after a crash does each step again."""
        catalog.create_topic("topic", A, 1, {})
        catalog.mark_deleting(A)
        catalog.mark_deleting(A)
        catalog.forget_topic(A)
        catalog.forget_topic(A)
        assert catalog.topics() == []

    def test_a_live_topic_is_not_forgotten(self, catalog: Catalog) -> None:
        """Only what was marked goes."""
        catalog.create_topic("topic", A, 1, {})
        catalog.forget_topic(A)
        assert [row.topic_id for row in catalog.topics()] == [A]

    def test_changes_to_a_topic(self, catalog: Catalog) -> None:
        """Partitions are set; overrides are replaced, all of them, and of this topic only."""
        catalog.create_topic("topic", A, 1, {"retention.ms": "1", "segment.ms": "2"})
        catalog.create_topic("other", B, 1, {"segment.ms": "7"})
        catalog.set_partitions(A, 8)
        catalog.set_topic_overrides(A, {"retention.ms": "3", "x": ""})
        assert catalog.topics() == [
            TopicRow(B, "other", 1, {"segment.ms": "7"}),
            TopicRow(A, "topic", 8, {"retention.ms": "3", "x": ""}),
        ]
        catalog.set_topic_overrides(A, {})
        assert catalog.topics()[1].overrides == {}

    def test_what_is_not_live_is_not_changed(self, catalog: Catalog) -> None:
        """Unknown topics and those being deleted are refused."""
        catalog.create_topic("topic", A, 1, {"retention.ms": "1"})
        catalog.mark_deleting(A)
        before = catalog.topics()
        for topic_id in (A, B):
            with pytest.raises(UnknownTopicIdError):
                catalog.set_partitions(topic_id, 2)
            with pytest.raises(UnknownTopicIdError):
                catalog.set_topic_overrides(topic_id, {"retention.ms": "9"})
        with pytest.raises(UnknownTopicIdError):
            catalog.mark_deleting(B)
        assert catalog.topics() == before

    def test_broker_overrides_are_replaced(self, catalog: Catalog) -> None:
        """All of them each time."""
        catalog.set_broker_overrides({"log.retention.ms": "1", "a": "b"})
        catalog.set_broker_overrides({"log.retention.ms": "2"})
        assert catalog.broker_overrides() == {"log.retention.ms": "2"}

    def test_producer_ids_are_given_once(self, catalog: Catalog) -> None:
        """Blocks follow each other without overlap, whatever their sizes."""
        given: list[int] = []
        for size in (1000, 1, 7, 1000):
            first = catalog.next_producer_id_block(size)
            given.extend(range(first, first + size))
        assert len(set(given)) == len(given)
        assert min(given) >= 0

    def test_the_last_producer_ids(self, catalog: Catalog) -> None:
        """When all are given out that is an error, not a second round; other work goes on."""
        catalog.next_producer_id_block(INT64_MAX - 5)
        with pytest.raises(StorageError):
            catalog.next_producer_id_block(10)
        catalog.create_topic("topic", A, 1, {})
        assert len(catalog.topics()) == 1
