"""How long a store waits for its node, and what it says when that was too long, or went wrong.

Every wait for a node has an end, whether the node is behind a connection or a directory here. What
ends a wait is one of two: `StoreTimeoutError`, or `StoreUnavailableError` (not reached, broken off,
or no HTTP). What is cancelled from outside stays cancelled.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import h11
import trio

from ec.errors import StoreTimeoutError, StoreUnavailableError


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long what may take; a body of n bytes has n / `bytes_per_s_min` on top.

    Attributes:
        connect_s: for a connection, a free one of the limit included.
        answer_s: from a request to the head of its answer, and for a body.
        durable_s: as `answer_s`, at the end of a PUT: the node syncs and reads back.
        scan_s: as `answer_s`, where the node reads all of a chunk.
        abort_s: for a node to say that nothing of an aborted PUT is left.
    """

    connect_s: float = 5.0
    answer_s: float = 15.0
    durable_s: float = 60.0
    scan_s: float = 900.0
    abort_s: float = 5.0
    bytes_per_s_min: int = 1024 * 1024

    def body_s(self, size: int) -> float:
        """Return the patience with a body of that size."""
        assert size >= 0
        return self.answer_s + size / self.bytes_per_s_min


class Patience:
    """Do something with a node that must be done in time, in a `with`; its failures become ours.

    Raises:
        StoreTimeoutError, StoreUnavailableError.
    """

    __slots__ = ("_node", "_scope", "_seconds", "_what")

    def __init__(self, seconds: float, *, node: str, what: str) -> None:
        assert seconds > 0
        self._seconds = seconds
        self._node = node
        self._what = what
        self._scope = trio.CancelScope(deadline=trio.current_time() + seconds)

    def __enter__(self) -> Self:
        self._scope.__enter__()
        return self

    def renew(self, seconds: float, what: str) -> None:
        """Begin anew with the next thing to be done: cheaper than another `with`."""
        assert seconds > 0
        self._seconds = seconds
        self._what = what
        self._scope.deadline = trio.current_time() + seconds

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._scope.__exit__(kind, error, at)
        if self._scope.cancelled_caught:
            reason = f"{self._node}: {self._what}: not within {self._seconds:.3g} s"
            raise StoreTimeoutError(reason) from error
        if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError | OSError):
            broken = _first_reason(error.__cause__ or error) or "broken off"
            raise StoreUnavailableError(f"{self._node}: {self._what}: {broken}") from error
        if isinstance(error, h11.RemoteProtocolError | h11.LocalProtocolError):
            reason = f"{self._node}: {self._what}: answers no HTTP: {error}"
            raise StoreUnavailableError(reason) from error


def _first_reason(error: BaseException) -> str:
    """Return why it failed; of attempts at several addresses, why the first did."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)  # What Trio says around it names the address once more.
    return str(error)
