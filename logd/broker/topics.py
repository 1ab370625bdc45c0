"""All topics: found by name and by id, created, changed and deleted.

The catalog is the truth; what is here is its image, read at start and changed only after the
catalog's transaction returned. One lock lets one change run at a time. A change, once begun, is not
cancelled: its steps must all happen, or be undone, whether or not the client still waits.

* create: directories made and synced, then one transaction (`partition_creation`), then the topic
  is visible.
* delete: one transaction marks the topic, then it is invisible; its directories are renamed, so
  that the name is free at once, and unlinked later (`deleted_topics`).
* a partition that cannot be opened is offline with its reason; the others, and the ports, come up.

Everything here runs on the event loop; blocking work goes through the offload.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

import trio

from logd.broker import topic_names
from logd.broker.deleted_topics import DeletedTopics
from logd.broker.dynamic_config import DynamicConfig
from logd.broker.partition import Partition
from logd.broker.partition_creation import PartitionCreation
from logd.broker.partition_making import in_chunks
from logd.broker.topic import Topic, topic_called
from logd.broker.topic_services import TopicServices
from logd.config import TopicSettings
from logd.errors import (
    InvalidConfigError,
    InvalidPartitionsError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from logd.storage import layout, topic_directories
from logd.storage.catalog import TopicRow


class Topics:
    """The topics of one broker. Everybody reads; only methods here write.

    Attributes:
        by_name, by_id: the live topics.
        version: changes whenever a topic is created, altered or deleted; caches watch it.
        unknown_paths: what lies in the topics directory and the catalog does not explain.
        deleted: deleted topics of which something is left on disk.
        creation: makes new partitions, for whoever is `changing` the topics.
        on_deleted: awaited while a topic is being deleted, when it is invisible already and its
            name not yet free.
    """

    def __init__(self, services: TopicServices) -> None:
        self.services: Final = services
        self._lock = trio.Lock()
        self.deleted: Final = DeletedTopics(services, self._lock)
        self.creation: Final = PartitionCreation(services, self.deleted)
        self.by_name: dict[str, Topic] = {}
        self.by_id: dict[bytes, Topic] = {}
        self.version = 0
        self.partition_count = 0
        self.unknown_paths: list[str] = []
        self.on_deleted: Callable[[Topic], Awaitable[None]] = _nobody_asked

    # --- finding ---------------------------------------------------------------------------------

    def find(self, name: str, topic_id: bytes = b"") -> Topic | None:
        """Return the topic of an id, or, where the id is empty or all zero, of a name."""
        return self.by_id.get(topic_id) if any(topic_id) else self.by_name.get(name)

    def partition(self, name: str, index: int) -> Partition:
        """Return an open partition.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic or partition.
            StorageError: the partition is not open.
        """
        return topic_called(self.by_name, name).partition(index)

    def open_partitions(self) -> Iterable[Partition]:
        """Yield every partition that is open."""
        for topic in self.by_name.values():
            for partition in topic.partitions:
                if partition is not None:
                    yield partition

    # --- start -----------------------------------------------------------------------------------

    def load(self, rows: Iterable[TopicRow]) -> None:
        """Take over what the catalog lists; no partition is open yet."""
        for row in rows:
            if row.state == "live":
                self.publish(Topic.of_row(row, self.services.config))
            else:
                self.deleted.add(row)

    async def open_all(self) -> None:
        """Open all partitions that the catalog lists; those that fail are offline, with an event.

        Returns when each is one or the other: then the ports may open.
        """
        await self.deleted.retire_all()
        topics = list(self.by_name.values())
        specs = [
            spec
            for topic in topics
            for spec in topic.specs(range(len(topic.partitions)))
            if spec.index not in topic.offline
        ]
        outcomes = await in_chunks(self.services.factory.open, specs)
        for spec, outcome in zip(specs, outcomes, strict=True):
            self.by_name[spec.topic].place(spec.index, outcome)
        for topic in topics:
            for index, reason in topic.offline.items():
                self.services.events.error(
                    "partition offline", topic=topic.name, partition=index, reason=reason
                )
        await self.look_for_unknown()
        for path in self.unknown_paths:
            self.services.events.warning("unknown directory", path=path)

    async def look_for_unknown(self) -> None:
        """List again what the catalog does not explain; nothing is changed on disk."""
        known = {
            layout.partition_directory_name(topic.name, index)
            for topic in self.by_name.values()
            for index in range(len(topic.partitions))
        }
        for row in self.deleted.rows.values():
            for index in range(row.partitions):
                known.add(layout.deleted_directory_name(row.topic_id, index))
                known.add(layout.partition_directory_name(row.name, index))
        services = self.services
        self.unknown_paths = await services.offload.run(
            "admin",
            topic_directories.unknown_directories,
            services.files,
            services.topics_path,
            known,
        )

    # --- changing --------------------------------------------------------------------------------

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """One change at a time, and to its end: cancellation waits until the change is complete.

        No deadline: each step is a blocking call that cannot be given up half way.
        """
        async with self._lock:
            with trio.CancelScope(shield=True):
                yield

    def check_creation(
        self, name: str, partitions: int, overrides: dict[str, str]
    ) -> TopicSettings:
        """Return the settings that a new topic would have; nothing is changed.

        Raises:
            RequestError: the name, the number of partitions or a setting is not allowed.
        """
        if name in self.by_name:
            raise TopicExistsError(f"topic {name!r} exists already")
        topic_names.check_new_topic_name(name, self.by_name)
        self._check_partition_count(partitions, others=self.partition_count)
        return self.services.config.topic_settings(overrides)

    async def create(self, name: str, partitions: int, overrides: dict[str, str]) -> Topic:
        """Create a topic; once this returns it survives a crash.

        Raises:
            RequestError: as `check_creation`, or unknown data stands in the way.
            StorageError: the disk refused; nothing is left of it but, perhaps, empty directories.
        """
        async with self.changing():
            settings = self.check_creation(name, partitions, overrides)
            topic = Topic(
                name,
                self.services.new_topic_id(),
                partition_count=partitions,
                overrides=dict(overrides),
                settings=settings,
            )
            catalog = self.services.catalog
            await self.creation.create(
                topic,
                range(partitions),
                lambda: self.services.in_catalog(
                    lambda: catalog.create_topic(name, topic.topic_id, partitions, topic.overrides)
                ),
            )
            self.publish(topic)
        self.services.events.info(
            "topic created",
            topic=name,
            topic_id=topic_directories.format_topic_id(topic.topic_id),
            partitions=partitions,
        )
        return topic

    async def add_partitions(self, topic: Topic, count: int) -> None:
        """Give a topic `count` partitions in all.

        Raises:
            RequestError: not more than it has, or too many.
            StorageError: the disk refused; the topic is as before.
        """
        async with self.changing():
            self._refuse_if_deleted(topic)
            self.check_partitions(topic, count)
            before = len(topic.partitions)
            await self.creation.create(
                topic,
                range(before, count),
                lambda: self.services.in_catalog(
                    lambda: self.services.catalog.set_partitions(topic.topic_id, count)
                ),
            )
            self.partition_count += count - before
            self.version += 1
        self.services.events.info("partitions added", topic=topic.name, partitions=count)

    def check_partitions(self, topic: Topic, count: int) -> None:
        """Accept a new number of partitions; nothing is changed.

        Raises:
            InvalidPartitionsError: not more than the topic has, or more than a topic may have.
            PolicyViolationError: more than the server may have.
        """
        have = len(topic.partitions)
        if count <= have:
            raise InvalidPartitionsError(
                f"topic {topic.name!r} has {have} partitions; it can only get more, not {count}"
            )
        self._check_partition_count(count, others=self.partition_count - have)

    def _check_partition_count(self, count: int, *, others: int) -> None:
        settings = self.services.config.settings
        topic_names.check_partition_count(
            count,
            others=others,
            topic_max=settings.max_partitions_per_topic,
            total_max=settings.max_partitions,
        )

    async def alter(self, topic: Topic, overrides: dict[str, str]) -> None:
        """Replace a topic's overrides; the settings take effect at once and survive a crash.

        Raises:
            InvalidConfigError: a setting is unknown or its value not allowed; nothing was changed.
        """
        async with self.changing():
            self._refuse_if_deleted(topic)
            settings = self.services.config.topic_settings(overrides)
            await self.services.in_catalog(
                lambda: self.services.catalog.set_topic_overrides(topic.topic_id, overrides)
            )
            topic.overrides = dict(overrides)
            self._apply(topic, settings)
        self.services.events.info("topic altered", topic=topic.name)

    async def alter_server(self, overrides: dict[str, str]) -> None:
        """Replace the server's overrides; they take effect at once, also as topics' defaults.

        Raises:
            InvalidConfigError: a setting cannot be changed so, or contradicts a topic's own
                settings; nothing was changed.
        """
        services = self.services
        async with self.changing():
            config = services.config.with_overrides(overrides)
            settings = self.check_server_change(config)
            await services.in_catalog(lambda: services.catalog.set_broker_overrides(overrides))
            services.config.replace(config)
            for topic in self.by_name.values():
                self._apply(topic, settings[topic.name])
        services.events.info("server settings altered", overrides=len(overrides))

    def check_server_change(self, config: DynamicConfig) -> dict[str, TopicSettings]:
        """Return what every topic's settings would become, by its name; nothing is changed.

        Raises:
            InvalidConfigError: a new default contradicts a topic's own settings.
        """
        settings = {}
        for topic in self.by_name.values():
            try:
                settings[topic.name] = config.topic_settings(topic.overrides)
            except InvalidConfigError as error:
                raise InvalidConfigError(f"topic {topic.name}: {error}") from error
        return settings

    def _apply(self, topic: Topic, settings: TopicSettings) -> None:
        topic.settings = settings
        for partition in topic.partitions:
            if partition is not None:
                partition.apply_settings(settings)
        self.version += 1

    async def delete(self, topic: Topic) -> None:
        """Delete a topic: gone, also after a crash, once this returns; its name is free.

        Raises:
            UnknownTopicOrPartitionError: somebody else deleted it meanwhile.
            StorageError: the catalog could not be written; the topic is as before.
        """
        async with self.changing():
            self._refuse_if_deleted(topic)
            catalog = self.services.catalog
            await self.services.in_catalog(lambda: catalog.mark_deleting(topic.topic_id))
            self._unpublish(topic)
            row = TopicRow(
                topic_id=topic.topic_id,
                name=topic.name,
                partitions=len(topic.partitions),
                overrides=topic.overrides,
                state="deleting",
            )
            self.deleted.add(row)  # The reaper waits for the lock.
            for partition in topic.partitions:
                if partition is not None:
                    await self.services.factory.retire(partition)
            await self.deleted.retire(row)
            await self.on_deleted(topic)
        self.services.events.info(
            "topic deleted",
            topic=topic.name,
            topic_id=topic_directories.format_topic_id(topic.topic_id),
        )

    # --- the image -------------------------------------------------------------------------------

    def publish(self, topic: Topic) -> None:
        """Make a topic visible that the catalog holds."""
        assert topic.name not in self.by_name
        assert topic.topic_id not in self.by_id
        self.by_name[topic.name] = topic
        self.by_id[topic.topic_id] = topic
        self.partition_count += len(topic.partitions)
        self.version += 1

    def _unpublish(self, topic: Topic) -> None:
        del self.by_name[topic.name]
        del self.by_id[topic.topic_id]
        self.partition_count -= len(topic.partitions)
        topic.deleted = True
        self.version += 1

    def _refuse_if_deleted(self, topic: Topic) -> None:
        if topic.deleted:
            raise UnknownTopicOrPartitionError(f"topic {topic.name!r} was deleted")


async def _nobody_asked(_topic: Topic) -> None:
    """Until somebody wants to hear of deleted topics."""
