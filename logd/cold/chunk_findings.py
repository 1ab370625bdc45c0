"""What is known to be wrong with chunks: said by their nodes, at a check, a read or a scrub.

Only two things are findings: the node is there and has no such chunk, or it has one that is
damaged. A node that does not answer says nothing about its chunks. A finding stands until the chunk
is found right, or its place is another; over a restart `findings_book` keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import Enum

from ec.errors import ChunkDamagedError, ChunkMissingError, ChunkVersionError, EcError
from ec.geometry import BLOCK_BYTES
from logd.policy.cold.condition import ChunkPlace as Place
from logd.policy.cold.condition import ChunkState as PlainState
from logd.policy.cold.values import Generation


class ChunkState(Enum):
    """What is known of one chunk; the values are the words that listings use."""

    LIVE = "live"
    MISSING = "missing"
    CORRUPT = "corrupt"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, order=True)
class ChunkPlace:
    """One chunk of one encoding, on one node."""

    encoding: str
    index: int
    node: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a chunk: MISSING or CORRUPT, what was seen, and the block if it is one."""

    state: ChunkState
    reason: str
    block: int | None = None


class ChunkFindings:
    """All findings, by chunk. Lives on the event loop.

    Attributes:
        on_change: called when a finding is new or gone.
        on_corrupt: called with the encoding of a chunk that was found to be damaged.
    """

    def __init__(self) -> None:
        self._found: dict[ChunkPlace, Finding] = {}
        self.on_change: list[Callable[[], None]] = []
        self.on_corrupt: Callable[[str], None] = lambda _encoding: None

    def note(self, place: ChunkPlace, error: EcError) -> None:
        """Take note of what a node said of a chunk; of no answer nothing is noted."""
        if isinstance(error, ChunkMissingError):
            finding = Finding(ChunkState.MISSING, str(error))
        elif isinstance(error, ChunkDamagedError | ChunkVersionError):
            finding = Finding(ChunkState.CORRUPT, str(error), _block_of(error))
        else:
            return
        if self._found.get(place) != finding:
            self._found[place] = finding
            if finding.state is ChunkState.CORRUPT:
                self.on_corrupt(place.encoding)
            self._changed()

    def restore(self, place: Place, state: PlainState, reason: str, block: int | None) -> None:
        """Take note of what was known before a restart; what is known by now stays."""
        known = ChunkPlace(place.encoding, place.index, place.node)
        if known not in self._found:
            self._found[known] = Finding(ChunkState(state.value), reason, block)
            self._changed()

    def right(self, place: ChunkPlace) -> None:
        """All of the chunk was read, and it is right."""
        if self._found.pop(place, None) is not None:
            self._changed()

    def get(self, place: ChunkPlace) -> Finding | None:
        """Return what is wrong with a chunk; None: nothing that is known."""
        return self._found.get(place)

    def keep_only(self, generations: Collection[Generation]) -> None:
        """Forget what was found of chunks that are in no place of these any more."""
        places = {
            ChunkPlace(each.encoding, at.index, at.node)
            for each in generations
            for at in each.placements
        }
        self._found = {place: found for place, found in self._found.items() if place in places}

    def _changed(self) -> None:
        for call in self.on_change:
            call()

    def __iter__(self) -> Iterator[tuple[ChunkPlace, Finding]]:
        """Yield each finding with its chunk."""
        return iter(self._found.items())

    def __len__(self) -> int:
        return len(self._found)


def _block_of(error: EcError) -> int | None:
    """Return the block of a chunk's payload that an error is about."""
    if isinstance(error, ChunkDamagedError) and error.region == "payload":
        return error.position // BLOCK_BYTES
    return None
