"""The batch with the last record of each key: what a round of compaction knows of the log, in
bounded memory.

Keys are kept whole, so two keys are the same only if all their bytes are. (Kafka keeps an MD5 of 16
bytes; whoever finds a collision deletes data.) That costs memory: `size_bytes` counts what the
interpreter takes for a key and its place in the table, and the caller stops before the next batch
when the limit is reached. Then the round ends there, and the next one goes on.

A key leads to its batch, not to its record: one number for all records of a batch, where a number
for each would have to be made and forgotten. How many keys lead to a batch is how many of its
records stay; which ones, only a batch of which some stay and some go is asked. Then the keys are
listed by their batches, once: looking up each record of such a batch in a map that no cache holds
would cost as much as the first pass did.

Only calls that loop in C touch each record: `dict.update`, `zip`, `sum`, `Counter`. The keys that a
batch brought are the last ones of the dict, which keeps the order of insertion.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice, repeat
from typing import Final, cast

_KEY_BYTES: Final = sys.getsizeof(b"") + 15  # Rounded up by the allocator.
_TABLE_BYTES_A_SLOT: Final = 20
"""A slot of 4 bytes, and for two thirds of them an entry of 24."""

_LISTED_BYTES: Final = 10
"""A key's place in the list of its batch, which grows by an eighth at a time."""

_BATCH_BYTES: Final = 32 + 6 * _TABLE_BYTES_A_SLOT + 120
"""A batch's number, its places in the tables of counts and of lists, and its list while small."""


class KeyMap:
    """Keys to the base offset of the batch with their last record."""

    __slots__ = ("_batches", "_key_bytes", "_listed", "_slots", "last_batches", "limit_bytes")

    def __init__(self, *, limit_bytes: int) -> None:
        assert limit_bytes > 0
        self.limit_bytes = limit_bytes
        self.last_batches: dict[bytes | None, int] = {}
        # The keys that lead to each batch, once somebody asked.
        self._listed: dict[int, list[bytes | None]] | None = None
        self._key_bytes = 0
        self._batches = 0
        self._slots = 8

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self.last_batches)

    @property
    def size_bytes(self) -> int:
        """About the memory that the map takes, and takes for a moment while it grows."""
        # The old table lives on until the new one, twice as large, is filled.
        table_bytes = self._slots * _TABLE_BYTES_A_SLOT * 3 // 2
        return self._key_bytes + table_bytes + min(self._batches, len(self)) * _BATCH_BYTES

    @property
    def is_full(self) -> bool:
        """Whether no further batch is to be added."""
        return self.size_bytes >= self.limit_bytes

    def add(self, keys: list[bytes | None], base_offset: int) -> None:
        """Take in the records of a batch that follows all others; one without a key counts not."""
        assert base_offset >= 0
        assert self._listed is None, "nothing is added once the map was asked"
        last = self.last_batches
        before = len(last)
        last.update(zip(keys, repeat(base_offset)))
        if None in last:
            del last[None]
        self._batches += 1
        added = len(last) - before
        if added > 0:
            new = cast("Iterator[bytes]", islice(reversed(last), added))
            self._key_bytes += sum(map(len, new)) + added * (_KEY_BYTES + _LISTED_BYTES)
            while self._slots * 2 // 3 < len(last):
                self._slots *= 2

    def count_bytes(self, size: int) -> None:
        """Count what the caller keeps beside the map."""
        assert size >= 0
        self._key_bytes += size

    def count_by_batch(self) -> dict[int, int]:
        """Return how many records of each batch stay, by its base offset; none: not in it."""
        return Counter(self.last_batches.values())

    def last_of(self, keys: list[bytes | None], base_offset: int) -> list[int]:
        """Return which records of a batch stay, by index, rising.

        Args:
            keys: as they were when the batch was added.
        """
        if self._listed is None:
            self._listed = self._by_batch()
        places = dict(zip(keys, range(len(keys)), strict=True))
        return sorted(map(places.__getitem__, self._listed.get(base_offset, ())))

    def _by_batch(self) -> dict[int, list[bytes | None]]:
        listed: defaultdict[int, list[bytes | None]] = defaultdict(list)
        for key, base_offset in self.last_batches.items():
            listed[base_offset].append(key)
        return listed
