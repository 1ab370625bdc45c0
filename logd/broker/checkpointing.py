"""Checkpoint S of one log: taken on the loop, written in a thread, one at a time.

After a crash recovery walks no more than the bytes since the last one. One that cannot be written
costs nothing but that: it is reported, and the next is taken when the log wants it. Only a sync of
the log's data that fails in it ends the log, as it does anywhere.

Source: DESIGN section 4 (recovery).
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from logd.broker.services import PartitionServices
from logd.errors import LogFailedError
from logd.storage.log import Log


class Checkpointing:
    """See the module. On the loop.

    Args:
        on_failed: called where the log has failed: a checkpoint syncs it as well, and may be the
            first to hear that the device refused something.
    """

    def __init__(
        self,
        log: Log,
        services: PartitionServices,
        *,
        on_failed: Callable[[LogFailedError], None],
    ) -> None:
        self._log = log
        self._services = services
        self._on_failed = on_failed
        self._ended: trio.Event | None = None

    def take(self) -> None:
        """Take a checkpoint now, unless one is being written."""
        if self._ended is not None:
            return
        ended = self._ended = trio.Event()
        checkpoint = self._log.begin_checkpoint()

        def deliver(_outcome: object, error: BaseException | None) -> None:
            self._ended = None
            ended.set()
            if isinstance(error, LogFailedError):
                self._on_failed(error)
            elif error is not None:
                self._services.events.warning(
                    "checkpoint failed",
                    topic=self._log.topic,
                    partition=self._log.partition,
                    reason=str(error),
                )

        self._services.offload.submit("admin", lambda: self._log.checkpoint(checkpoint), deliver)

    async def wait_idle(self) -> None:
        """Return when none is being written."""
        if self._ended is not None:
            await self._ended.wait()
