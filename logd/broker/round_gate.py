"""What keeps a partition's files in place while another process reads them.

A round of compaction opens segments by name, in a process that knows nothing of what happens here.
Before the directory is renamed, and its name perhaps given to a new topic, the round must be over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from logd.errors import LogFailedError


class RoundGate:
    """Lets one round at a time work on a partition's files, and none once it is closed."""

    def __init__(self) -> None:
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._is_closed = False

    @contextmanager
    def entered(self) -> Iterator[trio.CancelScope]:
        """The round's block; `close` cancels it, and it shows in the scope.

        Raises:
            LogFailedError: the gate is closed.
        """
        assert self._scope is None, "one round at a time"
        if self._is_closed:
            raise LogFailedError("the partition is closed")
        self._ended = trio.Event()
        try:
            with trio.CancelScope() as self._scope:
                yield self._scope
        finally:
            self._scope = None
            self._ended.set()

    async def close(self) -> None:
        """Let no round begin any more; cancel the one that runs and return when it is over."""
        self._is_closed = True
        if self._scope is not None:
            self._scope.cancel()
            await self._ended.wait()
