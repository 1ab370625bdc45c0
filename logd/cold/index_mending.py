"""Indexes of released segments that are lost or wrong: got from a chunk, and put back.

Without its index a segment is read from its first byte on; that works, slowly. Parity chunks carry
the whole indexes, data chunks a part each, so there is a copy as long as the segment can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

import trio

from logd.errors import LogdError, SegmentsChangedError
from logd.events import EventLog
from logd.offload import Offload
from logd.policy.cold.coverage import Coverage
from logd.policy.cold.values import Generation
from logd.storage.log import Log

if TYPE_CHECKING:
    from ec.indexes import Indexes
    from ec.manifest import Manifest
    from ec.store.protocol import Store

INTERVAL_S: Final = 60.0


class IndexedPartition(Protocol):
    """What is needed of an open partition."""

    @property
    def topic_id(self) -> bytes:
        """The topic's id."""
        ...

    @property
    def topic_name(self) -> str:
        """The topic's name."""
        ...

    @property
    def index(self) -> int:
        """The partition's number."""
        ...

    @property
    def log(self) -> Log:
        """The storage."""
        ...


class Tier(Protocol):
    """What is needed of `logd.cold.tier.ColdTier`."""

    def coverage(self, topic_id: bytes, partition: int) -> Coverage:
        """Return the live generations of a partition."""
        ...

    async def manifest(self, encoding: str) -> Manifest:
        """Return a generation's manifest."""
        ...

    def stores(self, generation: Generation) -> Mapping[int, Store]:
        """Return the store of each chunk that has a place, by index."""
        ...


class IndexMending:
    """Looks for released segments that lack indexes, once a minute and when it is told of one."""

    def __init__(
        self,
        tier: Tier,
        partitions: Callable[[], Iterable[IndexedPartition]],
        offload: Offload,
        events: EventLog,
    ) -> None:
        self._tier = tier
        self._partitions = partitions
        self._offload = offload
        self._events = events
        self._told: list[tuple[bytes, int, int]] = []
        self._news = trio.Event()

    def distrust(self, topic_id: bytes, partition: int, base_offset: int) -> None:
        """Have a segment's index believed no more, and made anew."""
        self._told.append((topic_id, partition, base_offset))
        self._news.set()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            with trio.move_on_after(INTERVAL_S):
                await self._news.wait()
            self._news = trio.Event()

    async def look(self) -> None:
        """Mend what can be mended now; the rest is tried again later."""
        told, self._told = self._told, []
        for partition in tuple(self._partitions()):
            key = (partition.topic_id, partition.index)
            try:
                await self._look_at(partition, [at for *where, at in told if tuple(where) == key])
            except Exception as error:  # One partition must not keep the others, nor the server.
                self._events.error(
                    "index mending failed",
                    topic=partition.topic_name,
                    partition=partition.index,
                    reason=repr(error),
                )

    async def _look_at(self, partition: IndexedPartition, told: Iterable[int]) -> None:
        coverage = self._tier.coverage(partition.topic_id, partition.index)
        if not coverage.generations:
            return
        log = partition.log
        for base_offset in told:
            await self._offload.run("disk", log.distrust_indexes, base_offset)
        for base_offset in log.released_without_indexes():
            generation = coverage.find(base_offset)
            if generation is not None:
                await self._mend(partition, generation)

    async def _mend(self, partition: IndexedPartition, generation: Generation) -> None:
        base_offset = generation.key.base_offset
        where: dict[str, str | int] = {
            "topic": partition.topic_name,
            "partition": partition.index,
            "base_offset": base_offset,
        }
        try:
            found = await self._find(generation)
            if found is None:
                self._events.warning("no chunk gives the index", **where)
                return
            job = (partition.log.put_indexes, base_offset, found.offsets, found.times)
            await self._offload.run("disk", *job)
        except SegmentsChangedError:
            return  # It was thawed or deleted meanwhile.
        except LogdError as error:
            self._events.warning("index not mended", reason=str(error), **where)
            return
        self._events.info("index mended from a chunk", **where)

    async def _find(self, generation: Generation) -> Indexes | None:
        """Return the whole indexes, from a parity chunk or from all data chunks."""
        from ec.indexes import join

        manifest = await self._tier.manifest(generation.encoding)
        stores = self._tier.stores(generation)
        for index in range(manifest.k, manifest.k + manifest.m):
            whole = await _indexes_of(manifest, stores, index)
            if whole is not None:
                return whole
        parts = [await _indexes_of(manifest, stores, index) for index in range(manifest.k)]
        known = [part for part in parts if part is not None]
        return join(known) if len(known) == manifest.k else None


async def _indexes_of(
    manifest: Manifest, stores: Mapping[int, Store], index: int
) -> Indexes | None:
    """Return what a chunk carries of the indexes; None: it cannot be had now."""
    from ec.errors import EcError

    store = stores.get(index)
    if store is None:
        return None
    try:
        head = await store.head(manifest.chunk_id(index))
    except EcError:
        return None
    return head.indexes if head.manifest == manifest else None
