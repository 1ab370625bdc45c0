"""cold.compression=zstd, in the server: what is coded of a segment where its topic asks for it.

One segment at a time, in a thread of its own kind: a gigabyte takes from ten seconds to more than a
minute, and neither coding nor reads may wait for that. The thread pauses a tenth of a millisecond
in each (`logd.storage.recompress` has the figures), and ends at the next batch when its caller is
cancelled: a stop never waits for a segment.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from logd.clock import Clock
from logd.cold.coding_source import CodingSource
from logd.config.topic import TopicSettings
from logd.errors import LogdError
from logd.offload import Offload
from logd.storage.log import Log
from logd.storage.recompress import RecompressedSource, RecompressOrder, recompress
from logd.storage.segment_source import SegmentSource

KIND: Final = "recompress"
SLICE_S: Final = 0.001
PAUSE_S: Final = 0.0001


class RecompressionStoppedError(LogdError):
    """Whoever wanted it wants it no more; nothing is left of it."""


class Recompression:
    """Gives what is to be coded of a segment.

    Args:
        reserve_bytes: free space on the data directory's device that a staging file leaves.
    """

    def __init__(self, offload: Offload, *, reserve_bytes: int, clock: Clock) -> None:
        offload.add_kind(KIND, 1)
        self._offload = offload
        self._reserve_bytes = reserve_bytes
        self._clock = clock

    async def apply(self, log: Log, source: SegmentSource, settings: TopicSettings) -> CodingSource:
        """Return the segment recompressed, its source closed; or the source as it is.

        It is as it is where the topic does not ask, or not one batch becomes smaller.

        Raises:
            DiskFullError: no space. CorruptFileError: a batch changed since it was checked. The
            source is open then, and stays the caller's.
        """
        if settings.cold_compression != "zstd":
            return source
        order = RecompressOrder(
            directory=log.directory,
            level=settings.compression_zstd_level,
            reserve_bytes=self._reserve_bytes,
            index_interval_bytes=log.settings.index_interval_bytes,
            index_bytes_max=log.settings.segment_index_bytes,
        )
        made = await self._run(log, source, order)
        if made is None:
            return source
        source.close()
        return made

    async def _run(
        self, log: Log, source: SegmentSource, order: RecompressOrder
    ) -> RecompressedSource | None:
        """Recompress in a thread that stops as soon as this task is cancelled."""
        pauses = _Pauses(self._clock)
        made: RecompressedSource | None = None
        failure: LogdError | OSError | None = None

        async def watch() -> None:
            try:
                await trio.sleep_forever()
            finally:
                pauses.is_stopped = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            work = partial(recompress, log.files, source, order, on_progress=pauses)
            try:
                made = await self._offload.run(KIND, work)
            except (LogdError, OSError) as error:  # Raised behind the nursery, not in a group.
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise failure
        return made


class _Pauses:
    """Lets other threads have the interpreter; called after each batch, in the thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_s = clock.monotonic()
        self.is_stopped = False

    def __call__(self, _size: int) -> None:
        if self.is_stopped:
            raise RecompressionStoppedError("stopped")
        if self._clock.monotonic() - self._began_s >= SLICE_S:
            self._clock.sleep(PAUSE_S)
            self._began_s = self._clock.monotonic()
