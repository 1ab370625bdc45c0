"""Chunks that people want elsewhere, in the order in which they are moved, and what became of them.

A move whose segment somebody works on waits for its turn behind the others. One that cannot be made
is given up, with the reason: who waits for the moves is told, and asks again. One that nobody needs
any more, because its segment is gone or its chunk is elsewhere by now, is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

from logd.policy.cold.moves import Move

MOVES_MAX: Final = 20_000
"""Two plans; who wants more asks again when some are made."""

REASONS_MAX: Final = 20
"""Moves that were given up and are told of one by one; more are only counted."""


class MoveQueue:
    """See the module. Lives on the event loop.

    Attributes:
        made, given_up: since moves were queued where none were; `reasons` of the latter.
    """

    def __init__(self) -> None:
        self._moves: deque[Move] = deque()
        self.made = 0
        self.given_up = 0
        self.reasons: list[str] = []

    def add(self, moves: Sequence[Move], *, is_idle: bool) -> None:
        """Queue moves; what is queued already is not doubled, what is too many is left out.

        Args:
            is_idle: none is under way.
        """
        if is_idle and not self._moves:
            self.made, self.given_up, self.reasons = 0, 0, []
        known = {(each.generation.encoding, each.index) for each in self._moves}
        new = [each for each in moves if (each.generation.encoding, each.index) not in known]
        self._moves.extend(new[: MOVES_MAX - len(self._moves)])
        assert len(self._moves) <= MOVES_MAX

    def take(self) -> Move:
        """Return the first move; it is not queued any more."""
        return self._moves.popleft()

    def put_back(self, move: Move) -> None:
        """Let a move wait behind the others."""
        self._moves.append(move)

    def give_up(self, move: Move, reason: str) -> None:
        """Note that a move is not made, and why."""
        self.given_up += 1
        if len(self.reasons) < REASONS_MAX:
            self.reasons.append(f"{move}: {reason}")

    def as_document(self) -> dict[str, Any]:
        """Return what became of the moves so far."""
        return {"made": self.made, "given_up": self.given_up, "reasons": list(self.reasons)}

    def __iter__(self) -> Iterator[Move]:
        """Yield what is queued, the next one first."""
        return iter(self._moves)

    def __len__(self) -> int:
        return len(self._moves)
