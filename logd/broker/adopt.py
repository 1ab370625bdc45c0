"""`topic adopt`: a partition directory that the catalog does not know becomes a partition.

It may lie in the data directory (reported at start as unknown) or come from elsewhere, a copy from
a Kafka broker for example; then it is copied in, and the original is never touched. What may be
taken in is decided by `storage.adoption`; here it gets its place:

* no topic of the name: one is made, with as many partitions as the number needs, the others empty;
* the topic has no such partition: it gets more, the new ones below it empty;
* it has the partition, and no record was ever in it: the directory takes the empty one's place.

A partition that holds records is never replaced. A crash on the way leaves at worst a directory
that is unknown again, or a partition that is offline because its directory is missing: adopt it
again.

The producers that wrote the log are not continued: their ids may be those of other producers here,
and a new batch taken for an old one would be lost. So their sequences are forgotten.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Final

from logd.broker.partition import Partition
from logd.broker.topic import Topic
from logd.broker.topic_names import check_new_topic_name, check_not_internal
from logd.broker.topics import Topics
from logd.errors import (
    DataDirectoryError,
    InvalidRequestError,
    LogdError,
    StorageError,
    TopicExistsError,
)
from logd.storage import adoption, layout, partition_files
from logd.storage.log import Log
from logd.units import INT64_MAX

_KIND: Final = "admin"


@dataclass(frozen=True, slots=True)
class Adopted:
    """What became of the directory."""

    topic: str
    partition: int
    directory: str
    log_start_offset: int
    log_end_offset: int
    size_bytes: int


async def adopt(
    topics: Topics,
    directory: str,
    *,
    name: str | None,
    partition: int | None,
    reserve_bytes: int,
) -> Adopted:
    """Make the directory a partition; once this returns it is one, also after a crash.

    Args:
        directory: an absolute path.
        name, partition: where the directory's own name does not say, or says something else.
        reserve_bytes: free space that a copy must leave.

    Raises:
        LogdError: it cannot be taken in; the text says why, and the original is as it was.
    """
    directory, name, index = _resolve(directory, name=name, partition=partition)
    async with topics.changing():
        adopted = await _Adoption(topics, directory, name, index).run(reserve_bytes)
        await topics.look_for_unknown()
    topics.services.events.info("partition adopted", topic=name, partition=index, path=directory)
    return adopted


def _resolve(directory: str, *, name: str | None, partition: int | None) -> tuple[str, str, int]:
    directory = os.path.normpath(directory)
    parsed = layout.parse_partition_directory_name(os.path.basename(directory))
    if name is None or partition is None:
        if parsed is None:
            raise InvalidRequestError(
                f"{directory} is not named <topic>-<partition>; give the topic's name by --name "
                "and the partition's number by --partition"
            )
        name = parsed[0] if name is None else name
        partition = parsed[1] if partition is None else partition
    if not 0 <= partition < layout.PARTITIONS_MAX:
        raise InvalidRequestError(f"there can be no partition {partition}")
    check_not_internal(name)
    return directory, name, partition


class _Adoption:
    """One adoption, under the lock of `Topics.changing`."""

    def __init__(self, topics: Topics, directory: str, name: str, index: int) -> None:
        self._topics = topics
        self._services = topics.services
        self._directory = directory
        self._index = index
        self._is_new = name not in topics.by_name
        self._topic = topics.by_name.get(name) or self._new_topic(name)
        self._topics_path = os.path.abspath(self._services.topics_path)
        target = layout.partition_directory_name(name, index)
        self._target = f"{self._topics_path}/{target}"

    def _new_topic(self, name: str) -> Topic:
        check_new_topic_name(name, self._topics.by_name)
        return Topic(
            name,
            self._services.new_topic_id(),
            partition_count=0,
            overrides={},
            settings=self._services.config.topic_settings({}),
        )

    async def run(self, reserve_bytes: int) -> Adopted:
        """Check, copy where needed, put in place, commit, publish."""
        topic = self._topic
        before = len(topic.partitions)
        if self._index >= before:
            self._topics.check_partitions(topic, self._index + 1)
        self._refuse_if_in_use()
        offload, files = self._services.offload, self._services.files
        source = self._directory
        try:
            await offload.run(_KIND, adoption.check_adoptable, files, source)
            await offload.run(_KIND, adoption.check_destination, files, source, self._target)
            if os.path.dirname(source) != self._topics_path:
                copy = partial(
                    adoption.copy_partition,
                    files,
                    source,
                    self._target,
                    reserve_bytes=reserve_bytes,
                )
                source = await offload.run(_KIND, copy)
            new_ones = range(before, self._index)
            await self._topics.creation.create(topic, new_ones, partial(self._commit, source))
        except OSError as error:
            raise StorageError(str(error)) from error
        if self._is_new:
            self._topics.publish(topic)
        else:
            self._topics.partition_count += len(topic.partitions) - before
            self._topics.version += 1
        return self._describe(topic.partition(self._index))

    def _refuse_if_in_use(self) -> None:
        known = {
            f"{self._topics_path}/{layout.partition_directory_name(topic.name, index)}"
            for topic in self._topics.by_name.values()
            for index in range(len(topic.partitions))
        }
        if self._directory in known:
            raise DataDirectoryError(f"{self._directory} is a partition of this server already")
        if self._index < len(self._topic.partitions):
            self._refuse_if_not_empty(self._topic.partitions[self._index])

    def _refuse_if_not_empty(self, partition: Partition | None) -> None:
        if partition is not None and partition.log.end_offset > 0:
            raise TopicExistsError(
                f"partition {self._index} of topic {self._topic.name} holds records already"
            )

    async def _commit(self, source: str) -> None:
        """Replace what is there, open the directory as the partition, and tell the catalog."""
        topic, index = self._topic, self._index
        await self._retire_empty()
        offload, files = self._services.offload, self._services.files
        if source != self._target:
            await offload.run(_KIND, adoption.move_into_place, files, source, self._target)
        await offload.run(
            _KIND, partition_files.write_metadata, files, self._target, topic.topic_id
        )
        partition = await self._open()
        try:
            await offload.run(_KIND, forget_producers, partition.log)
            await self._tell_catalog()
        except (LogdError, OSError):
            await self._services.factory.retire(partition)
            raise
        topic.place(index, partition)

    async def _retire_empty(self) -> None:
        topic, index = self._topic, self._index
        if index >= len(topic.partitions):
            return
        partition = topic.partitions[index]
        if partition is None:
            return
        # Somebody may have appended while we copied. From here to the retirement nothing waits.
        self._refuse_if_not_empty(partition)
        topic.partitions[index] = None
        topic.offline[index] = "a directory is being adopted in its place"
        self._topics.version += 1
        await self._services.factory.retire(partition)

    async def _open(self) -> Partition:
        topic = self._topic
        (outcome,) = await self._services.factory.open(topic.specs([self._index]))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _tell_catalog(self) -> None:
        topic, count = self._topic, self._index + 1
        catalog = self._services.catalog
        if self._is_new:
            await self._services.in_catalog(
                lambda: catalog.create_topic(topic.name, topic.topic_id, count, {})
            )
        elif count > len(topic.partitions):
            await self._services.in_catalog(lambda: catalog.set_partitions(topic.topic_id, count))

    def _describe(self, partition: Partition) -> Adopted:
        return Adopted(
            topic=self._topic.name,
            partition=self._index,
            directory=self._target,
            log_start_offset=partition.log_start_offset,
            log_end_offset=partition.log.end_offset,
            size_bytes=partition.log.size_bytes,
        )


def forget_producers(log: Log) -> None:
    """Make the log know no producer, durably: the newest checkpoint says so. In a thread."""
    log.producers.expire(INT64_MAX, 0)
    log.checkpoint()
