"""How long each chunk of a generation is: what listings and `cold_stored_bytes` show.

The catalog has the sizes only inside manifests. They are worked out once a generation, when it is
coded or at the first look behind a restart, and then remembered: a few integers each.
"""

from __future__ import annotations

from collections.abc import Collection

from ec.manifest import Manifest
from ec.segment import file_bytes
from logd.policy.cold.values import Generation


class ChunkSizes:
    """Lengths of chunk files, by encoding. Lives on the event loop."""

    def __init__(self) -> None:
        self._by_encoding: dict[str, tuple[int, ...]] = {}

    def learn(self, manifest: Manifest) -> None:
        """Take over what a manifest says."""
        self._by_encoding[manifest.encoding] = file_bytes(manifest)

    def of(self, generation: Generation) -> tuple[int, ...] | None:
        """Return the length of each chunk file by index; None: not known yet."""
        return self._by_encoding.get(generation.encoding)

    def stored_bytes(self, generation: Generation) -> int:
        """Return what the chunks that have a place take, as nearly as is known."""
        sizes, held = self.of(generation), generation.held
        if sizes is None:
            return generation.source_bytes * len(held) // generation.profile.k
        return sum(sizes[index] for index in held)

    def keep_only(self, encodings: Collection[str]) -> None:
        """Forget all others."""
        gone = self._by_encoding.keys() - set(encodings)
        for encoding in gone:
            del self._by_encoding[encoding]

    def __contains__(self, encoding: object) -> bool:
        return encoding in self._by_encoding
