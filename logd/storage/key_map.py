"""The last offset of each key: what a round of compaction knows of the log, in bounded memory.

Keys are kept whole, so two keys are the same only if all their bytes are. (Kafka keeps an MD5 of 16
bytes; whoever finds a collision deletes data.) That costs memory: `size_bytes` counts what the
interpreter takes for a key, its offset and their place in the table, and the caller stops before
the next batch when the limit is reached. Then the round ends there, and the next one goes on.

Only calls that loop in C touch each record: `dict.update`, `zip`, `sum`. The keys that a batch
brought are the last ones of the dict, which keeps the order of insertion.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, cast

_KEY_BYTES: Final = sys.getsizeof(b"") + 15  # Rounded up by the allocator.
_OFFSET_BYTES: Final = 32 + 8
"""The number itself, and its place in the sorted list of live offsets."""
_TABLE_BYTES_A_SLOT: Final = 20
"""A slot of 4 bytes, and for two thirds of them an entry of 24."""


class KeyMap:
    """Keys to the offset of their last record."""

    __slots__ = ("_key_bytes", "_slots", "last_offsets", "limit_bytes")

    def __init__(self, *, limit_bytes: int) -> None:
        assert limit_bytes > 0
        self.limit_bytes = limit_bytes
        self.last_offsets: dict[bytes | None, int] = {}
        self._key_bytes = 0
        self._slots = 8

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self.last_offsets)

    @property
    def size_bytes(self) -> int:
        """About the memory that the map takes, and takes for a moment while it grows."""
        # The old table lives on until the new one, twice as large, is filled.
        return self._key_bytes + self._slots * _TABLE_BYTES_A_SLOT * 3 // 2

    @property
    def is_full(self) -> bool:
        """Whether no further batch is to be added."""
        return self.size_bytes >= self.limit_bytes

    def add(self, keys: list[bytes | None], offsets: Sequence[int]) -> None:
        """Take in the records of a batch that follows all others; one without a key counts not."""
        assert len(keys) == len(offsets)
        last = self.last_offsets
        before = len(last)
        last.update(zip(keys, offsets, strict=True))
        if None in last:
            del last[None]
        added = len(last) - before
        if added > 0:
            new = cast("Iterator[bytes]", islice(reversed(last), added))
            self._key_bytes += sum(map(len, new)) + added * (_KEY_BYTES + _OFFSET_BYTES)
            while self._slots * 2 // 3 < len(last):
                self._slots *= 2

    def count_bytes(self, size: int) -> None:
        """Count what the caller keeps beside the map."""
        assert size >= 0
        self._key_bytes += size

    def live_offsets(self, *, start_offset: int) -> list[int]:
        """Return the offsets of the records that stay, rising, from `start_offset` on."""
        assert start_offset >= 0
        live = sorted(self.last_offsets.values())
        if live and live[0] < start_offset:
            live = [offset for offset in live if offset >= start_offset]
        return live
