"""Topics with their partitions, and what all partitions share: timers, the turn, the disk.

Made when the catalog is open; `Topics.open_all` then opens the logs, and recovers those that were
not closed cleanly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from logd.broker.disk_space import DiskSpace
from logd.broker.maintenance import look_at_disk
from logd.broker.partition_factory import LogPartitionFactory
from logd.broker.services import PartitionServices, partition_metrics
from logd.broker.timers import Timers
from logd.broker.topic import random_topic_id
from logd.broker.topic_services import TopicServices
from logd.broker.topics import Topics
from logd.broker.turn import Turn
from logd.broker.unlinker import Unlinker
from logd.offload import Offload
from logd.server.ground import Ground
from logd.server.opening import Opened
from logd.storage.open_files import OpenFiles


class PartitionParts:
    """See the module.

    Attributes:
        topics: empty until they are loaded and opened.

    Args:
        end_turn: as in `PartitionServices`; called only once the ports are open.
    """

    def __init__(
        self, ground: Ground, opened: Opened, offload: Offload, *, end_turn: Callable[[], None]
    ) -> None:
        self._ground = ground
        self._opened = opened
        self.timers: Final = Timers()
        self.disk: Final = self._measured_disk()
        self.unlinker: Final = Unlinker(ground.files, offload, self.timers, ground.events)
        self.services: Final = self._services(offload, end_turn)
        self.factory: Final = self._factory()
        self.topics: Final = self._topics()

    def report_recovery(self) -> None:
        """Tell what was found, and done, where the last stop was not clean."""
        for report in self.factory.recovered:
            for line in report.lines():
                self._ground.events.warning("recovered", finding=line)

    def report_relaxed_topics(self) -> None:
        """Tell which topics may lose what was acknowledged."""
        for topic in self.topics.by_name.values():
            mode = topic.settings.flush_mode
            if mode != "commit":
                self._ground.events.warning(
                    "topic may lose acknowledged records when the machine stops",
                    topic=topic.name,
                    flush_mode=mode,
                )

    def _measured_disk(self) -> DiskSpace:
        ground = self._ground
        disk = DiskSpace(
            reserve_bytes=ground.directory.reserve_bytes(ground.settings.disk_reserve_bytes)
        )
        look_at_disk(disk, ground.directory)
        disk.on_change = self._disk_changed
        return disk

    def _disk_changed(self, full: bool) -> None:
        events = self._ground.events
        if full:
            events.error("disk full: appends are refused", reason=self.disk.reason)
        else:
            events.info("disk has space again: appends are accepted")

    def _services(self, offload: Offload, end_turn: Callable[[], None]) -> PartitionServices:
        ground = self._ground
        turn = Turn()
        turn.now_ms = ground.clock.now_ms()
        return PartitionServices(
            clock=ground.clock,
            offload=offload,
            timers=self.timers,
            turn=turn,
            files=ground.files,
            journal=self._opened.journal,
            disk=self.disk,
            events=ground.events,
            metrics=partition_metrics(ground.metrics),
            unsynced_max_bytes=ground.settings.flush_unsynced_max_bytes,
            end_turn=end_turn,
            unlink_later=self.unlinker.unlink_later,
            lend_ballast=ground.directory.ballast.lent,
            retention_check_ms=ground.settings.log_retention_check_interval_ms,
        )

    def _factory(self) -> LogPartitionFactory:
        ground = self._ground
        directory = ground.directory
        factory = LogPartitionFactory(
            self.services,
            OpenFiles(ground.files, limit=ground.settings.open_files_max),
            topics_path=directory.topics_path,
            clean=directory.clean_stop,
            boot_id=ground.boot_id,
            last_boot_id=directory.last_boot_id,
            released=self._opened.cold.released,
        )
        factory.is_coded = self._opened.cold.is_live
        return factory

    def _topics(self) -> Topics:
        ground = self._ground
        return Topics(
            TopicServices(
                catalog=self._opened.catalog,
                offload=self.services.offload,
                files=ground.files,
                topics_path=ground.directory.topics_path,
                factory=self.factory,
                events=ground.events,
                config=self._opened.config,
                new_topic_id=partial(random_topic_id, ground.random.randbytes),
            )
        )
