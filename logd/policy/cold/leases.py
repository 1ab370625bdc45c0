"""One lease a segment: whatever changes it excludes everything else that does.

Leases live as long as the server: after a crash nobody works, and what was begun is found in the
catalog (`policy.cold.states.on_start`). A segment with a lease is left alone by whoever looks for
work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import Enum

from logd.policy.cold.values import SegmentKey


class Work(Enum):
    """What a lease is taken for."""

    ENCODE = "encode"
    RELEASE = "release"
    COMPACT = "compact"
    THAW = "thaw"
    REPAIR = "repair"
    MOVE = "move"
    TRIM = "trim"
    DELETE = "delete"


class Lease:
    """The right to change some segments; hashable by identity."""

    __slots__ = ("keys", "work")

    def __init__(self, work: Work, keys: frozenset[SegmentKey]) -> None:
        self.work = work
        self.keys = keys

    def __repr__(self) -> str:
        """Return what a debugger should show."""
        return f"<Lease {self.work.value} {', '.join(map(str, sorted(self.keys)))}>"


class Leases:
    """All leases that are out."""

    def __init__(self) -> None:
        self._by_key: dict[SegmentKey, Lease] = {}

    def take(self, work: Work, keys: Collection[SegmentKey]) -> Lease | None:
        """Lease all of the segments, or none: None, somebody has one of them."""
        assert keys
        if any(key in self._by_key for key in keys):
            return None
        lease = Lease(work, frozenset(keys))
        self._by_key.update(dict.fromkeys(lease.keys, lease))
        return lease

    def give_back(self, lease: Lease) -> None:
        """End a lease.

        It must be out: who gives back twice might end another's.
        """
        for key in lease.keys:
            assert self._by_key[key] is lease
            del self._by_key[key]

    def work_on(self, key: SegmentKey) -> Work | None:
        """Return what is being done to a segment; None: nothing."""
        lease = self._by_key.get(key)
        return None if lease is None else lease.work

    def __contains__(self, key: SegmentKey) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[Lease]:
        """Yield each lease once."""
        return iter(dict.fromkeys(self._by_key.values()))

    def __len__(self) -> int:
        return len(set(self._by_key.values()))
