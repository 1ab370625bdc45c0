"""Makes partitions: creates their logs, opens them after a clean stop, recovers them after a crash.

The storage work is done in threads, many partitions a job; the `Partition` objects are made on the
loop. A log that cannot be opened is an outcome, not an exception: the others come up without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from logd.broker.log_settings import log_settings
from logd.broker.partition import Partition
from logd.broker.partition_making import Outcome, PartitionSpec
from logd.broker.services import PartitionServices
from logd.errors import CorruptFileError
from logd.storage import layout
from logd.storage.clean_stop import CleanLog, CleanStop
from logd.storage.log import Log
from logd.storage.log_settings import LogSettings
from logd.storage.open_files import OpenFiles
from logd.storage.recovery import RecoveryReport
from logd.storage.released import ReleasedSegment
from logd.storage.swap_prepared import settle_prepared

_Opened = tuple[Log, RecoveryReport | None] | Exception
_OpenOne = Callable[[PartitionSpec], tuple[Log, RecoveryReport | None]]
_SYNCING: Final = "sync"
"""Creating and recovering wait for syncs: as many threads as those have."""

_READING: Final = "catalog"
"""Opening after a clean stop waits for nothing: threads would only fight for the interpreter."""


def _none_released(_topic_id: bytes, _partition: int) -> Sequence[ReleasedSegment]:
    return ()


def _none_coded(_encoding: str) -> bool:
    return False


class LogPartitionFactory:
    """The server's `PartitionFactory`.

    Args:
        clean: what the last clean stop noted of each log, None after a crash.
        released: tells, by topic id and partition, the segments whose .log may be absent: they
            are in chunks. Called in threads.
        boot_id: of the running kernel. What the same kernel was given it has not lost.
        last_boot_id: of the kernel that the last run of the server saw.

    Attributes:
        is_coded: tells whether an encoding is in force; what a crash left of a replacement of coded
            segments is settled by it. Set before anything is opened; called in threads.
    """

    def __init__(
        self,
        services: PartitionServices,
        open_files: OpenFiles,
        *,
        topics_path: str,
        clean: CleanStop | None,
        boot_id: str,
        last_boot_id: str | None,
        released: Callable[[bytes, int], Sequence[ReleasedSegment]] = _none_released,
    ) -> None:
        self.is_coded: Callable[[str], bool] = _none_coded
        self._released = released
        self._services = services
        self._open_files = open_files
        self._topics_path = topics_path
        self._clean = clean
        self._boot_id = boot_id
        self._last_boot_id = last_boot_id
        self.recovered: list[RecoveryReport] = []

    async def create(self, specs: Sequence[PartitionSpec]) -> list[Outcome]:
        """Make the directories, synced, and open them."""
        return await self._run(_SYNCING, self._create_one, specs)

    async def open(self, specs: Sequence[PartitionSpec]) -> list[Outcome]:
        """Open existing directories, recovering where the last stop was not clean."""
        kind = _SYNCING if self._clean is None else _READING
        return await self._run(kind, self._open_one, specs)

    async def retire(self, partition: Partition) -> None:
        """Let go of a partition whose directory is about to be renamed."""
        await partition.retire("the topic was deleted")
        self._services.journal.forget(partition.topic_id, partition.index)

    async def _run(
        self, kind: str, open_one: _OpenOne, specs: Sequence[PartitionSpec]
    ) -> list[Outcome]:
        opened = await self._services.offload.run(kind, _each, open_one, list(specs))
        return [self._outcome(spec, result) for spec, result in zip(specs, opened, strict=True)]

    def _outcome(self, spec: PartitionSpec, opened: _Opened) -> Outcome:
        if isinstance(opened, Exception):
            return opened
        log, report = opened
        if report is not None:
            self.recovered.append(report)
        return Partition(log, index=spec.index, settings=spec.settings, services=self._services)

    def _directory(self, spec: PartitionSpec) -> str:
        name = layout.partition_directory_name(spec.topic, spec.index)
        return f"{self._topics_path}/{name}"

    def _log_settings(self, spec: PartitionSpec) -> LogSettings:
        return log_settings(spec.settings, retention_check_ms=self._services.retention_check_ms)

    def _create_one(self, spec: PartitionSpec) -> tuple[Log, None]:
        log = Log.create(
            self._services.files,
            self._directory(spec),
            topic_id=spec.topic_id,
            topic=spec.topic,
            partition=spec.index,
            settings=self._log_settings(spec),
            open_files=self._open_files,
        )
        return log, None

    def _open_one(self, spec: PartitionSpec) -> tuple[Log, RecoveryReport | None]:
        key = (spec.topic_id, spec.index)
        settings = self._log_settings(spec)
        settle_prepared(self._services.files, self._directory(spec), self.is_coded)
        clean = self._clean.logs.get(key) if self._clean is not None else None
        if clean is not None:
            try:
                return self._open_clean(spec, clean, settings), None
            except CorruptFileError as error:
                # Somebody changed the directory meanwhile; recovery finds out what is there.
                self._services.events.warning("not as the clean stop left it", reason=str(error))
        return Log.recover(
            self._services.files,
            self._directory(spec),
            topic_id=spec.topic_id,
            topic=spec.topic,
            partition=spec.index,
            settings=settings,
            open_files=self._open_files,
            released=self._released(*key),
            from_begin=clean is not None,  # It was not as the stop had noted.
            sync_point=self._services.journal.points.get(key),
            same_boot=self._was_written_in_this_boot(key),
        )

    def _was_written_in_this_boot(self, key: tuple[bytes, int]) -> bool:
        """Whether the kernel that runs now is the one that took the log's last writes.

        The journal knows it for each log: one that could not be recovered after a reboot must not
        pass for one of this boot at the next try, only because others were written since.
        """
        noted = self._services.journal.boot_id_of(*key)
        return (noted or self._last_boot_id) == self._boot_id

    def _open_clean(self, spec: PartitionSpec, clean: CleanLog, settings: LogSettings) -> Log:
        return Log.open_clean(
            self._services.files,
            self._directory(spec),
            topic_id=spec.topic_id,
            topic=spec.topic,
            partition=spec.index,
            settings=settings,
            open_files=self._open_files,
            released=self._released(spec.topic_id, spec.index),
            clean=clean,
        )


def _each(open_one: _OpenOne, specs: list[PartitionSpec]) -> list[_Opened]:
    """Open them one by one; each has an outcome of its own."""
    opened: list[_Opened] = []
    for spec in specs:
        try:
            opened.append(open_one(spec))
        except Exception as error:  # Whatever it is, the other partitions come up.
            opened.append(error)
    return opened
