"""Threads for what changes something on a disk that may hang: a call that hangs is abandoned.

Imported when the first node exists, as `node_access` is.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Final, Generic, TypeVar

import trio

from ec.errors import StoreTimeoutError
from logd.cold.gate import Gate
from logd.offload import Offload

T = TypeVar("T")

SEE_OUT_S: Final = 2.0
"""How long a call that nobody wants any more is waited for, before it counts as hanging."""

LOOK_S: Final = 0.01
"""How often it is looked at meanwhile."""


class WorkGate(Gate):
    """For what changes something on a disk that may hang: a call that hangs is abandoned.

    Who is cancelled waits `SEE_OUT_S` at most for what it began, and leaves it to its thread. While
    a call hangs nothing new is begun here, so no more threads hang than there were calls; what had
    not begun never does. What an abandoned call leaves is cleared up behind it, by its thread:
    so nothing happens behind anybody's back but what `undo` undoes.

    Args:
        place: what hangs, for people.
    """

    def __init__(self, offload: Offload, kind: str, *, place: str) -> None:
        super().__init__(offload, kind)
        self._place = place
        self._hanging: set[_Call[Any]] = set()

    @property
    def hanging(self) -> int:
        """How many calls hang, given up by whoever made them."""
        return len(self._hanging)

    def check(self) -> None:
        """Let a call pass unless others hang.

        Raises:
            StoreTimeoutError: they do.
        """
        if self._hanging:
            raise StoreTimeoutError(
                f"{self._place}: the disk hangs: {self.hanging} calls were given up on that have "
                "not returned; it is used again when they have"
            )

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """See `ec.offload.Offload`; but see the class about cancelling.

        Raises:
            StoreTimeoutError: the disk hangs; nothing was begun. Else what the function raises.
        """
        return await self.run_or_undo(lambda: function(*args), lambda _: None)

    async def run_or_undo(
        self, function: Callable[[], T], undo: Callable[[T | None], object], *, always: bool = False
    ) -> T:
        """Return what `function()` returns.

        Args:
            undo: called in a thread where the caller has gone: with what the function returned, or
                None where it raised, or was not begun.
            always: also while other calls hang.

        Raises:
            As `run`.
        """
        if not always:
            self.check()
        call = _Call(function, undo, self._hanging)
        try:
            return await self._offload.ask(self._kind, call.run)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                if call.give_up():
                    await _see_out(call)
                else:
                    with trio.move_on_after(SEE_OUT_S):
                        await self._offload.ask(self._kind, call.undo)
            raise


class _Call(Generic[T]):
    """One call; `run` in its thread, the rest on the loop."""

    def __init__(
        self,
        function: Callable[[], T],
        undo: Callable[[T | None], object],
        hanging: set[_Call[Any]],
    ) -> None:
        self._function = function
        self._undo = undo
        self._hanging = hanging
        self._guard = Lock()
        self._result: T | None = None
        self._is_running = False
        self._is_given_up = False
        self.is_over = False

    def run(self) -> T:
        """Do it, unless it was given up before; clear up where it was given up since."""
        if not self._begin():
            raise StoreTimeoutError("given up before it began")
        try:
            self._result = self._function()
            return self._result
        finally:
            with self._guard:
                self._is_running = False
                is_given_up = self._is_given_up
            try:
                if is_given_up:
                    self.undo()
            finally:
                with self._guard:
                    self.is_over = True
                    self._hanging.discard(self)

    def _begin(self) -> bool:
        with self._guard:
            self._is_running = not self._is_given_up
            return self._is_running

    def undo(self) -> None:
        """Clear up what it left."""
        self._undo(self._result)

    def give_up(self) -> bool:
        """Nobody waits for it any more; return whether its thread is at it, and clears up."""
        with self._guard:
            self._is_given_up = True
            return self._is_running

    def note_hanging(self) -> None:
        """It goes on and on."""
        with self._guard:
            if not self.is_over:
                self._hanging.add(self)


async def _see_out(call: _Call[Any]) -> None:
    """Wait for the end of a call that was given up; where it does not come, note that it hangs."""
    for _ in range(round(SEE_OUT_S / LOOK_S)):
        if call.is_over:
            return
        await trio.sleep(LOOK_S)
    call.note_hanging()
