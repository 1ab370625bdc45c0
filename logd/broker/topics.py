"""All topics: found by name and by id, created, changed and deleted.

The catalog is the truth; what is here is its image, read at start and changed only after the
catalog's transaction returned. One lock lets one change run at a time. A change, once begun, is not
cancelled: its steps must all happen, or be undone, whether or not the client still waits.

* create: directories made and synced, then one transaction, then the topic is visible. A crash
  before the transaction leaves directories without a record in them; the next creation of that name
  makes room. A directory that holds records and that the catalog does not know is never touched.
* delete: one transaction marks the topic, then it is invisible; its directories are renamed, so
  that the name is free at once; `run_reaper` unlinks them later, and goes on with that after a
  crash.
* a partition that cannot be opened is offline with its reason; the others, and the ports, come up.

Everything here runs on the event loop; blocking work goes through the offload.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from logd.broker import topic_names
from logd.broker.dynamic_config import DynamicConfig
from logd.broker.partition import Partition
from logd.broker.partition_making import (
    Outcome,
    PartitionFactory,
    PartitionSpec,
    in_chunks,
)
from logd.broker.topic import Topic
from logd.broker.unlinker import pause_s
from logd.config import TopicSettings
from logd.errors import (
    DataDirectoryError,
    InvalidConfigError,
    InvalidPartitionsError,
    LogdError,
    StorageError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from logd.events import EventLog
from logd.offload import Offload
from logd.storage import layout, topic_directories
from logd.storage.catalog import Catalog, TopicRow
from logd.storage.files import Files
from logd.storage.slow_removal import SlowRemoval

REAP_RETRY_S: Final = 60.0
"""How long the reaper waits after it could not remove a deleted topic's files."""


@dataclass(slots=True)
class TopicServices:
    """What `Topics` works with.

    Attributes:
        config: the server's settings, which may change, and topics' settings from overrides.
        new_topic_id: returns 16 random bytes, see `random_topic_id`.
    """

    catalog: Catalog
    offload: Offload
    files: Files
    topics_path: str
    factory: PartitionFactory
    events: EventLog
    config: DynamicConfig
    new_topic_id: Callable[[], bytes]


class Topics:
    """The topics of one broker. Everybody reads; only methods here write.

    Attributes:
        by_name, by_id: the live topics.
        version: changes whenever a topic is created, altered or deleted; caches watch it.
        unknown_paths: what lies in the topics directory and the catalog does not explain.
        deleting: deleted topics whose files are still to be removed, by topic id.
        on_deleted: awaited while a topic is being deleted, when it is invisible already and its
            name not yet free.
    """

    def __init__(self, services: TopicServices) -> None:
        self.services: Final = services
        self._lock = trio.Lock()
        self._reaper_wanted = trio.Event()
        self.by_name: dict[str, Topic] = {}
        self.by_id: dict[bytes, Topic] = {}
        self.version = 0
        self.partition_count = 0
        self.unknown_paths: list[str] = []
        self.deleting: dict[bytes, TopicRow] = {}
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
        topic = self.by_name.get(name)
        if topic is None:
            raise UnknownTopicOrPartitionError(f"there is no topic {name!r}")
        return topic.partition(index)

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
                self.publish(self._from_row(row))
            else:
                self.deleting[row.topic_id] = row
        if self.deleting:
            self._reaper_wanted.set()

    def _from_row(self, row: TopicRow) -> Topic:
        overrides = dict(row.overrides)
        reason = None
        try:
            settings = self.services.config.topic_settings(overrides)
        except InvalidConfigError as error:
            # Written by another version, perhaps. Serving it by other settings might delete
            # records.
            reason = f"the topic's settings cannot be used: {error}"
            settings = self.services.config.topic_settings({})
        topic = Topic(
            row.name,
            row.topic_id,
            partition_count=row.partitions,
            overrides=overrides,
            settings=settings,
        )
        if reason is not None:
            topic.offline = dict.fromkeys(range(row.partitions), reason)
        return topic

    async def open_all(self) -> None:
        """Open all partitions that the catalog lists; those that fail are offline, with an event.

        Returns when each is one or the other: then the ports may open.
        """
        for row in self.deleting.values():
            await self._try_retire(row)
        topics = list(self.by_name.values())
        specs = [
            spec
            for topic in topics
            for spec in _specs(topic, range(len(topic.partitions)))
            if spec.index not in topic.offline
        ]
        outcomes = await in_chunks(self.services.factory.open, specs)
        for spec, outcome in zip(specs, outcomes, strict=True):
            self.place(self.by_name[spec.topic], spec.index, outcome)
        for topic in topics:
            for index, reason in topic.offline.items():
                self.services.events.error(
                    "partition offline", topic=topic.name, partition=index, reason=reason
                )
        await self.look_for_unknown()
        for path in self.unknown_paths:
            self.services.events.warning("unknown directory", path=path)

    def place(self, topic: Topic, index: int, outcome: Outcome) -> None:
        """Put an open partition, or the reason why it is offline, in its place."""
        if isinstance(outcome, Exception):
            topic.offline[index] = str(outcome) or type(outcome).__name__
        else:
            topic.partitions[index] = outcome
            topic.offline.pop(index, None)

    async def look_for_unknown(self) -> None:
        """List again what the catalog does not explain; nothing is changed on disk."""
        known = {
            layout.partition_directory_name(topic.name, index)
            for topic in self.by_name.values()
            for index in range(len(topic.partitions))
        }
        for row in self.deleting.values():
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
            await self.create_partitions(
                topic,
                range(partitions),
                lambda: self.in_catalog(
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
            await self.create_partitions(
                topic,
                range(before, count),
                lambda: self.in_catalog(
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
            await self.in_catalog(
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
            await self.in_catalog(lambda: services.catalog.set_broker_overrides(overrides))
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
            await self.in_catalog(lambda: self.services.catalog.mark_deleting(topic.topic_id))
            self._unpublish(topic)
            row = TopicRow(
                topic_id=topic.topic_id,
                name=topic.name,
                partitions=len(topic.partitions),
                overrides=topic.overrides,
                state="deleting",
            )
            self.deleting[topic.topic_id] = row
            for partition in topic.partitions:
                if partition is not None:
                    await self.services.factory.retire(partition)
            await self._try_retire(row)
            self._reaper_wanted.set()
            await self.on_deleted(topic)
        self.services.events.info(
            "topic deleted",
            topic=topic.name,
            topic_id=topic_directories.format_topic_id(topic.topic_id),
        )

    # --- the reaper ------------------------------------------------------------------------------

    async def run_reaper(self) -> None:
        """Unlink the files of deleted topics, for ever; what fails is tried again later."""
        while True:
            await self._reaper_wanted.wait()
            self._reaper_wanted = trio.Event()
            for row in list(self.deleting.values()):
                await self._reap(row)
            if self.deleting and not self._reaper_wanted.is_set():
                with trio.move_on_after(REAP_RETRY_S):
                    await self._reaper_wanted.wait()
                self._reaper_wanted.set()

    async def _reap(self, row: TopicRow) -> None:
        services = self.services
        async with self._lock:
            retired = await self._try_retire(row)
        if not retired:
            return
        try:
            await self._remove_retired(row)
            await self.in_catalog(lambda: services.catalog.forget_topic(row.topic_id))
        except (LogdError, OSError) as error:
            services.events.warning(
                "deleted topic's files remain", topic=row.name, reason=str(error)
            )
            return
        del self.deleting[row.topic_id]

    async def _remove_retired(self, row: TopicRow) -> None:
        """Remove a deleted topic's files little by little, then its directories."""
        offload, files = self.services.offload, self.services.files
        directories = topic_directories.retired_directories(
            self.services.topics_path, topic_id=row.topic_id, partitions=row.partitions
        )
        removal = SlowRemoval(
            files, await offload.run("admin", topic_directories.files_in, files, directories)
        )
        while not removal.is_done:
            began_s = trio.current_time()
            await offload.run("admin", removal.step)
            if not removal.is_done:
                await trio.sleep(pause_s(trio.current_time() - began_s))
        # What could not be removed is tried once more, and raises.
        await offload.run("admin", topic_directories.remove_retired, files, directories)

    async def _try_retire(self, row: TopicRow) -> bool:
        try:
            await self.services.offload.run("admin", self._retire, row)
        except (LogdError, OSError) as error:
            self.services.events.warning(
                "deleted topic's directory not renamed", topic=row.name, reason=str(error)
            )
            return False
        return True

    def _retire(self, row: TopicRow) -> None:
        topic_directories.retire(
            self.services.files,
            self.services.topics_path,
            topic=row.name,
            topic_id=row.topic_id,
            partitions=row.partitions,
        )

    # --- steps -----------------------------------------------------------------------------------

    async def create_partitions(
        self, topic: Topic, indexes: Sequence[int], commit: Callable[[], Awaitable[None]]
    ) -> None:
        """Make and open new partitions, and commit them to the catalog; undo where that fails.

        Raises:
            TopicExistsError: unknown records stand in the way. Whatever else the disk or `commit`
                say.
        """
        for row in list(self.deleting.values()):
            if row.name == topic.name:
                await self._try_retire(row)
        specs = _specs(topic, indexes)
        await self._make_room(specs)
        outcomes = await in_chunks(self.services.factory.create, specs)
        failed = next((one for one in outcomes if isinstance(one, Exception)), None)
        if failed is not None:
            await self._undo_creation(specs, outcomes)
            raise _as_storage_error(failed) from failed
        try:
            await commit()
        except (LogdError, OSError) as error:
            # After an I/O error the catalog may hold the topic all the same: then it must be there.
            if type(error) is not StorageError:
                await self._undo_creation(specs, outcomes)
            raise
        missing = max(indexes, default=-1) + 1 - len(topic.partitions)
        topic.partitions += [None] * max(missing, 0)
        for spec, outcome in zip(specs, outcomes, strict=True):
            self.place(topic, spec.index, outcome)

    async def _make_room(self, specs: Sequence[PartitionSpec]) -> None:
        """Remove empty directories of creations that were cut short; refuse where records lie.

        Raises:
            TopicExistsError: records that the catalog does not know; the text says what to do.
        """

        def make_room() -> None:
            services = self.services
            for spec in specs:
                name = layout.partition_directory_name(spec.topic, spec.index)
                topic_directories.make_room(services.files, f"{services.topics_path}/{name}")

        try:
            await self.services.offload.run("admin", make_room)
        except DataDirectoryError as error:
            raise TopicExistsError(str(error)) from error
        except OSError as error:
            raise _as_storage_error(error) from error

    async def _undo_creation(
        self, specs: Sequence[PartitionSpec], outcomes: Sequence[Outcome]
    ) -> None:
        for outcome in outcomes:
            if not isinstance(outcome, Exception):
                await self.services.factory.retire(outcome)
        try:
            await self._make_room(specs)
        except (LogdError, OSError) as error:
            # They hold no record: the next creation of the name removes them.
            self.services.events.warning(
                "empty directories remain", topic=specs[0].topic, reason=str(error)
            )

    async def in_catalog(self, transaction: Callable[[], None]) -> None:
        """Run one transaction in the catalog's thread; it is durable once this returns."""
        await self.services.offload.run("catalog", transaction)

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


def random_topic_id(random_bytes: Callable[[int], bytes]) -> bytes:
    """Return a random (version 4) UUID whose text does not look like an option to Kafka's tools."""
    while True:
        raw = bytearray(random_bytes(layout.TOPIC_ID_BYTES))
        raw[6] = raw[6] & 0x0F | 0x40
        raw[8] = raw[8] & 0x3F | 0x80
        topic_id = bytes(raw)
        if not topic_directories.format_topic_id(topic_id).startswith("-"):
            return topic_id


def _specs(topic: Topic, indexes: Sequence[int]) -> list[PartitionSpec]:
    return [PartitionSpec(topic.name, topic.topic_id, index, topic.settings) for index in indexes]


def _as_storage_error(error: Exception) -> LogdError:
    return error if isinstance(error, LogdError) else StorageError(str(error))
