"""The last record of each key: what a round of compaction knows of the log, in bounded memory.

Keys are kept whole, so two keys are the same only if all their bytes are. (Kafka keeps an MD5 of 16
bytes; whoever finds a collision deletes data.) That costs memory: `size_bytes` counts what the
interpreter takes for a key and its place in the table, and the caller stops when the limit is
reached.

The log comes in from its end. Then a key that is in the set was met before, so the record in hand
is superseded, and nothing is to be done about it: a look into the table is all that most records
cost. From the begin, each record would replace what the one before it had put there, and touch four
times the memory. Which records of a batch stay is known for good once the batch was taken in.

Only calls that loop in C touch each record. Those that were met are filtered out in the order in
which they lie in the batch: keys that come in turn are neighbours in memory, too, which a set of
them would not be.

How far a tail reaches whose keys fit is asked from its begin: `meet` takes keys in and nothing
else; `forget` then makes room to take the same batches in from their end.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import filterfalse
from typing import Final, cast

Keys = list[bytes | None]
"""The keys of a batch's records, in order; None for one without a key, which counts not."""

_KEY_BYTES: Final = sys.getsizeof(b"") + 15  # Rounded up by the allocator.
_RECORD_BYTES: Final = 4
"""A record's number in the array of its batch."""

_BATCH_BYTES: Final = 32 + 100 + sys.getsizeof(array("I"))
"""A batch's number, its place in the table of batches, and its array."""


class KeyMap:
    """The keys that were met, and the last record of each, by batch."""

    __slots__ = ("_batches", "_kept", "_key_bytes", "_keys", "limit_bytes")

    def __init__(self, *, limit_bytes: int) -> None:
        assert limit_bytes > 0
        self.limit_bytes = limit_bytes
        self.forget()

    def forget(self) -> None:
        """Be empty."""
        self._keys: set[bytes | None] = set()
        self._kept: dict[int, Sequence[int]] = {}
        self._key_bytes = 0
        self._batches = 0

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._keys)

    @property
    def keys(self) -> AbstractSet[bytes | None]:
        """The keys that were met; None is not among them."""
        return self._keys

    @property
    def size_bytes(self) -> int:
        """About the memory that the map takes, and takes for a moment while it grows."""
        # The old table lives on until the new one, twice as large or more, is filled.
        table_bytes = sys.getsizeof(self._keys) * 3 // 2
        return self._key_bytes + table_bytes + min(self._batches, len(self)) * _BATCH_BYTES

    @property
    def is_full(self) -> bool:
        """Whether no further batch is to be added."""
        return self.size_bytes >= self.limit_bytes

    def meet(self, keys: Keys) -> None:
        """Take in the keys of a batch, and nothing of which records stay."""
        self._take(keys)

    def add(self, base_offset: int, keys: Keys) -> None:
        """Take in the records of a batch that lies before all others."""
        assert base_offset >= 0
        new = self._take(keys)
        if not new:
            return
        count = len(keys)
        if len(new) == count:
            self._kept[base_offset] = range(count)
            return
        places = dict(zip(keys, range(count), strict=True))
        self._kept[base_offset] = array("I", sorted([places[key] for key in new]))

    def _take(self, keys: Keys) -> set[bytes | None]:
        """Return the keys that were not met before."""
        new = set(filterfalse(self._keys.__contains__, keys))
        new.discard(None)
        if new:
            self._keys |= new
            new_bytes = sum(map(len, cast("set[bytes]", new)))
            self._key_bytes += new_bytes + len(new) * (_KEY_BYTES + _RECORD_BYTES)
        self._batches += 1
        return new

    def count_bytes(self, size: int) -> None:
        """Count what the caller keeps beside the map."""
        assert size >= 0
        self._key_bytes += size

    def kept(self, base_offset: int) -> Sequence[int]:
        """Return which records of a batch stay, by index, rising."""
        return self._kept.get(base_offset, ())
