"""New partitions of a topic: on disk and in the catalog, or neither.

Directories are made and synced, then one transaction commits them. A crash before the transaction
leaves directories without a record in them; the next creation of that name makes room. A directory
that holds records and that the catalog does not know is never touched.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from logd.broker.deleted_topics import DeletedTopics
from logd.broker.partition_making import Outcome, PartitionSpec, in_chunks
from logd.broker.topic import Topic
from logd.broker.topic_services import TopicServices
from logd.errors import DataDirectoryError, LogdError, StorageError, TopicExistsError
from logd.storage import layout, topic_directories


class PartitionCreation:
    """See the module. Its caller holds the lock of changes.

    Args:
        deleted: deleted topics of the same name, whose directories must go out of the way.
    """

    def __init__(self, services: TopicServices, deleted: DeletedTopics) -> None:
        self._services = services
        self._deleted = deleted

    async def create(
        self, topic: Topic, indexes: Sequence[int], commit: Callable[[], Awaitable[None]]
    ) -> None:
        """Make and open new partitions, and commit them to the catalog; undo where that fails.

        Raises:
            TopicExistsError: unknown records stand in the way. Whatever else the disk or `commit`
                say.
        """
        await self._deleted.retire_all(topic.name)
        specs = topic.specs(indexes)
        await self._make_room(specs)
        outcomes = await in_chunks(self._services.factory.create, specs)
        failed = next((one for one in outcomes if isinstance(one, Exception)), None)
        if failed is not None:
            await self._undo(specs, outcomes)
            raise _as_logd_error(failed) from failed
        try:
            await commit()
        except (LogdError, OSError) as error:
            # After an I/O error the catalog may hold the topic all the same: then it must be there.
            if type(error) is not StorageError:
                await self._undo(specs, outcomes)
            raise
        for spec, outcome in zip(specs, outcomes, strict=True):
            topic.place(spec.index, outcome)

    async def _make_room(self, specs: Sequence[PartitionSpec]) -> None:
        """Remove empty directories of creations that were cut short; refuse where records lie.

        Raises:
            TopicExistsError: records that the catalog does not know; the text says what to do.
        """

        def make_room() -> None:
            services = self._services
            for spec in specs:
                name = layout.partition_directory_name(spec.topic, spec.index)
                topic_directories.make_room(services.files, f"{services.topics_path}/{name}")

        try:
            await self._services.offload.run("admin", make_room)
        except DataDirectoryError as error:
            raise TopicExistsError(str(error)) from error
        except OSError as error:
            raise _as_logd_error(error) from error

    async def _undo(self, specs: Sequence[PartitionSpec], outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if not isinstance(outcome, Exception):
                await self._services.factory.retire(outcome)
        try:
            await self._make_room(specs)
        except (LogdError, OSError) as error:
            # They hold no record: the next creation of the name removes them.
            self._services.events.warning(
                "empty directories remain", topic=specs[0].topic, reason=str(error)
            )


def _as_logd_error(error: Exception) -> LogdError:
    return error if isinstance(error, LogdError) else StorageError(str(error))
