"""The server's threads as the coding library wants them (`ec.offload.Offload`).

`Gate` is one kind of threads, and `LooseGate` the same for reads: who is cancelled goes at once.
`AskingGate` is for questions to disks that may hang: likewise, and while an old question is
unanswered no new one is asked.
`work_gate` has the one for what changes something on such a disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from logd.offload import Offload

T = TypeVar("T")


class Gate:
    """See `ec.offload.Offload`."""

    def __init__(self, offload: Offload, kind: str) -> None:
        self._offload = offload
        self._kind = kind

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """See `ec.offload.Offload`."""
        return await self._offload.run(self._kind, function, *args)


class LooseGate(Gate):
    """For what changes nothing: who is cancelled goes at once, and what comes then is dropped."""

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """See `ec.offload.Offload`; but cancelling does not wait."""
        return await self._offload.ask(self._kind, function, *args)


class AskingGate:
    """One question at a time; cancelling does not wait for its answer.

    Attributes:
        is_busy: a question is out, perhaps one that nobody waits for any more.
    """

    def __init__(self, offload: Offload, kind: str) -> None:
        self._offload = offload
        self._kind = kind
        self.is_busy = False

    async def run(self, function: Callable[[], T]) -> T:
        """Return what `function()` returns; it must change nothing that matters."""
        assert not self.is_busy
        self.is_busy = True
        return await self._offload.ask(self._kind, self._answer, function)

    def _answer(self, function: Callable[[], T]) -> T:
        try:
            return function()
        finally:
            self.is_busy = False
