"""Deleted topics of which something is left on disk, and the reaper that removes it.

A topic is deleted when the catalog says so. What follows can fail, and is done again until it is:
its directories are renamed, so that the name is free; their files are unlinked little by little, so
that appends of others sync in between; then the catalog forgets the topic. A crash on the way loses
nothing: the catalog still lists the topic, and the next start goes on.
"""

from __future__ import annotations

from typing import Final

import trio

from logd.broker.topic_services import TopicServices
from logd.broker.unlinker import pause_s
from logd.errors import LogdError
from logd.storage import topic_directories
from logd.storage.catalog import TopicRow
from logd.storage.slow_removal import SlowRemoval

REAP_RETRY_S: Final = 60.0
"""How long the reaper waits after it could not remove a deleted topic's files."""


class DeletedTopics:
    """See the module. On the event loop; blocking work goes through the offload.

    Attributes:
        rows: what the catalog says of them, by topic id.

    Args:
        lock: held where directories are renamed, made or removed by name.
    """

    def __init__(self, services: TopicServices, lock: trio.Lock) -> None:
        self._services = services
        self._lock = lock
        self._wanted = trio.Event()
        self.rows: dict[bytes, TopicRow] = {}

    def add(self, row: TopicRow) -> None:
        """Take over a topic that is marked in the catalog; the reaper will come for it."""
        assert row.state == "deleting"
        self.rows[row.topic_id] = row
        self._wanted.set()

    async def retire(self, row: TopicRow) -> bool:
        """Rename a topic's directories, so that its name is free; under the lock.

        Returns:
            Whether that is done; if not, there is an event that says why.
        """
        try:
            await self._services.offload.run("admin", self._rename, row)
        except (LogdError, OSError) as error:
            self._services.events.warning(
                "deleted topic's directory not renamed", topic=row.name, reason=str(error)
            )
            return False
        return True

    def _rename(self, row: TopicRow) -> None:
        topic_directories.retire(
            self._services.files,
            self._services.topics_path,
            topic=row.name,
            topic_id=row.topic_id,
            partitions=row.partitions,
        )

    async def retire_all(self, name: str | None = None) -> None:
        """Rename what is left of all of them, or of those that had a name; under the lock."""
        for row in list(self.rows.values()):
            if name is None or row.name == name:
                await self.retire(row)

    async def run_reaper(self) -> None:
        """Unlink the files of deleted topics, for ever; what fails is tried again later."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            for row in list(self.rows.values()):
                await self._reap(row)
            if self.rows and not self._wanted.is_set():
                with trio.move_on_after(REAP_RETRY_S):
                    await self._wanted.wait()
                self._wanted.set()

    async def _reap(self, row: TopicRow) -> None:
        services = self._services
        async with self._lock:
            retired = await self.retire(row)
        if not retired:
            return
        try:
            await self._remove_files(row)
            await services.in_catalog(lambda: services.catalog.forget_topic(row.topic_id))
        except (LogdError, OSError) as error:
            services.events.warning(
                "deleted topic's files remain", topic=row.name, reason=str(error)
            )
            return
        del self.rows[row.topic_id]

    async def _remove_files(self, row: TopicRow) -> None:
        """Remove a deleted topic's files little by little, then its directories."""
        offload, files = self._services.offload, self._services.files
        directories = topic_directories.retired_directories(
            self._services.topics_path, topic_id=row.topic_id, partitions=row.partitions
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
