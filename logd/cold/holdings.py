"""How many chunks each node holds, and how many bytes that is: kept up with the catalog's image.

A chunk file's length is in the manifest of its generation. Manifests of what is committed now are
at hand; those of a start are read in the background (`ColdTier.run`), so until that is done the
bytes are too few, and `is_complete` is false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from logd.policy.cold.values import LIVE, Generation


class Holdings:
    """See the module.

    Attributes:
        source_bytes: of all live generations.
        stored_bytes: of all chunks whose lengths are known.
        is_complete: lengths of all committed generations are known.
    """

    def __init__(self) -> None:
        self._chunks: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._lengths: dict[str, tuple[int, ...]] = {}
        self.source_bytes = 0
        self.stored_bytes = 0
        self.is_complete = False

    def of_node(self, name: str) -> tuple[int, int]:
        """Return how many chunks a node holds as far as is recorded, and their bytes."""
        return self._chunks[name], self._bytes[name]

    def lengths(self, encoding: str) -> tuple[int, ...] | None:
        """Return how long each chunk file of a generation is; None: not known (yet)."""
        return self._lengths.get(encoding)

    def unknown(self, generations: Iterable[Generation]) -> list[str]:
        """Return the encodings whose lengths are not known."""
        return [each.encoding for each in generations if each.encoding not in self._lengths]

    def learn(self, generation: Generation, lengths: Sequence[int]) -> None:
        """Take note of the chunk files' lengths of a generation that is counted."""
        assert len(lengths) == generation.profile.chunks
        if generation.encoding not in self._lengths:
            self._lengths[generation.encoding] = tuple(lengths)
            self._count_bytes(generation, 1)

    def follow(self, gone: Iterable[Generation], come: Iterable[Generation]) -> None:
        """Count generations as they are now instead of as they were."""
        gone, come = list(gone), list(come)
        for each in gone:
            self._count(each, -1)
        for each in come:
            self._count(each, 1)
        for encoding in {each.encoding for each in gone} - {each.encoding for each in come}:
            self._lengths.pop(encoding, None)

    def _count(self, generation: Generation, sign: int) -> None:
        if generation.state in LIVE:
            self.source_bytes += sign * generation.source_bytes
        for at in generation.placements:
            self._chunks[at.node] += sign
        if generation.encoding in self._lengths:
            self._count_bytes(generation, sign)

    def _count_bytes(self, generation: Generation, sign: int) -> None:
        lengths = self._lengths[generation.encoding]
        for at in generation.placements:
            self._bytes[at.node] += sign * lengths[at.index]
            self.stored_bytes += sign * lengths[at.index]
