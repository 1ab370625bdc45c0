"""Bytes of coded segments, whatever nodes are left: which chunks are asked, and what is made of it.

Each read takes a picture of the nodes as they are now:

* a node whose breaker is open is not asked while others do; one that was overtaken by others is
  left alone for `SLOW_S`, and one that did not answer for `AWAY_S`: so a consumer pays for it by
  one hedge delay and not by one a window;
* other chunks are a better second attempt than the same node: a call is not repeated while they do.
  Where a read would fail, all nodes are asked again, past their breakers, after 0 to b and 0 to 2 b
  seconds (full jitter), before anything is called unreadable;
* how long a hedge waits follows what reads took lately: `HEDGE_FACTOR` times what 19 of 20 stay
  below, within `HEDGE_S_MIN` and `HEDGE_S_MAX`.

A chunk that is damaged or missing is read around, counted, said in the log, and told to whoever
repairs. Nothing is concluded from a node that does not answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol, cast

import trio

from ec.alarms import Alarms
from ec.breaker import BreakerState
from ec.chunk_id import ChunkId
from ec.chunk_reader import FileRange
from ec.codec import Codec
from ec.errors import ChunkDamagedError, ChunkMissingError, EcError, StoreUnavailableError
from ec.geometry import BLOCK_BYTES
from ec.manifest import Manifest
from ec.offload import Offload
from ec.plan import Gap
from ec.read import Piece, ReadResult, SegmentReader
from ec.store.guarded import GuardedStore
from ec.store.protocol import Store
from logd.events import EventLog
from logd.metrics import Counter, Registry
from logd.policy.cold.values import Generation, Profile

SLOW_S: Final = 10.0
AWAY_S: Final = 1.0
RETRY_S: Final = (0.1, 0.2)
"""The longest waits before the second and the third attempt of a read that would fail."""

HEDGE_S_MIN: Final = 0.02
HEDGE_S_MAX: Final = 0.25
HEDGE_FACTOR: Final = 3.0
SAMPLES: Final = 100
"""So many reads back the hedge delay looks; with fewer than a fifth of them it is the longest."""

REPORT_AGAIN_S: Final = 60.0
"""Damage that is met again and again is told this often."""

REPORTS_MAX: Final = 10_000

# Encoding, chunk index, node, what is wrong with the chunk there.
OnDamage = Callable[[str, int, str, EcError], None]


class Tier(Protocol):
    """What reading needs of `logd.cold.tier.ColdTier`."""

    @property
    def offload(self) -> Offload:
        """Threads for decoding."""
        ...

    def codec(self, profile: Profile) -> Codec:
        """Return what codes a profile."""
        ...

    async def manifest(self, encoding: str) -> Manifest:
        """Return a generation's manifest."""
        ...

    def stores(self, generation: Generation) -> Mapping[int, Store]:
        """Return the store of each chunk that has a place, by index."""
        ...


@dataclass(frozen=True, slots=True)
class Missing:
    """Bytes of a segment that cannot be had now.

    Attributes:
        start, end: where they lie in the source.
        reason: which chunks and nodes are to blame, for people.
    """

    start: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a read brought: pieces from the wanted position on, up to the first missing byte."""

    pieces: tuple[Piece, ...]
    missing: Missing | None

    @property
    def is_degraded(self) -> bool:
        """Whether something was computed."""
        return any(piece.is_decoded for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why a chunk could not be used; `is_unknown`: nothing is known of it, its node did not say."""

    reason: str
    is_unknown: bool


class _Once:
    """A guarded store whose reads are not repeated."""

    def __init__(self, guarded: GuardedStore) -> None:
        self._guarded = guarded

    @property
    def node(self) -> str:
        """The node's name."""
        return self._guarded.node

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        """See `Store`."""
        inner = self._guarded.inner
        return await self._guarded.guarded(lambda: inner.read(chunk, start, end))


class ChunkAccess:
    """See the module. One per server, for the event loop.

    Attributes:
        on_damage: told of each chunk that is damaged or missing, once in `REPORT_AGAIN_S`.
        alarms: what tells when a hedge delay is over; it is run by whoever owns the reads.
    """

    def __init__(self, tier: Tier, events: EventLog, metrics: Registry) -> None:
        self._tier = tier
        self._events = events
        self._codecs: dict[Profile, Codec] = {}
        self._took: deque[float] = deque(maxlen=SAMPLES)
        self._shunned_until: dict[str, float] = {}
        self._rng = Random()
        self._reported: dict[tuple[str, int], float] = {}
        self.on_damage: OnDamage | None = None
        self.alarms: Final = Alarms()
        self._hedges = metrics.counter(
            "logd_cold_hedges_total", "Chunks that were overtaken by others while they were read."
        )
        self._damage: Callable[[str], Counter] = lambda kind: metrics.counter(
            "logd_cold_read_findings_total", "Chunks that reads found damaged or missing.",
            kind=kind,
        )  # fmt: skip
        for kind in ("damaged", "missing"):
            self._damage(kind)

    @property
    def hedge_s(self) -> float:
        """How long a chunk may take now before others are asked as well."""
        if len(self._took) < SAMPLES // 5:
            return HEDGE_S_MAX
        high = sorted(self._took)[len(self._took) * 19 // 20]
        return min(max(HEDGE_FACTOR * high, HEDGE_S_MIN), HEDGE_S_MAX)

    async def manifest(self, generation: Generation) -> Manifest:
        """Return a generation's manifest.

        Raises:
            ColdStateError: there is none. StorageError: the catalog cannot be read.
        """
        return await self._tier.manifest(generation.encoding)

    async def read(
        self, generation: Generation, manifest: Manifest, start: int, end: int
    ) -> Fetched:
        """Read a range of a segment's source."""
        assert 0 <= start < end <= manifest.source_bytes
        if generation.profile not in self._codecs:
            # The first one tries out a kernel, which takes a tenth of a second.
            made = await self._tier.offload.run(self._tier.codec, generation.profile)
            self._codecs[generation.profile] = made
        troubles: dict[int, _Trouble] = {}
        began_s = trio.current_time()
        stores = dict(self._tier.stores(generation))
        result = await self._reader(generation, manifest, stores, troubles).read(start, end)
        for longest_s in RETRY_S:
            if not result.gaps or not any(trouble.is_unknown for trouble in troubles.values()):
                break
            await trio.sleep(self._rng.uniform(0, longest_s))
            everybody = {index: _unguarded(store) for index, store in stores.items()}
            again = self._reader(generation, manifest, everybody, troubles, is_last=True)
            result = await again.read(start, end)
        if not any(piece.is_decoded for piece in result.pieces):
            self._took.append(trio.current_time() - began_s)
        return _up_to_gap(result, lambda gap: _why(generation, gap, troubles))

    def _reader(
        self,
        generation: Generation,
        manifest: Manifest,
        stores: Mapping[int, Store],
        troubles: dict[int, _Trouble],
        *,
        is_last: bool = False,
    ) -> SegmentReader:
        """Return what reads a segment once, from the nodes as they are now.

        Args:
            is_last: nobody is left alone any more.
        """
        now_s = trio.current_time()
        first: dict[int, Store] = {}
        last: dict[int, Store] = {}
        for index, store in stores.items():
            if isinstance(store, GuardedStore) and store.state() is BreakerState.OPEN:
                reason = f"{store.node}: not asked, it failed too often of late"
                troubles[index] = _Trouble(reason, is_unknown=True)
            elif self._shunned_until.get(store.node, 0.0) > now_s and not is_last:
                last[index] = _once(store)
            else:
                first[index] = _once(store)

        def troubled(index: int, error: EcError) -> None:
            is_unknown = isinstance(error, StoreUnavailableError)
            troubles[index] = _Trouble(str(error), is_unknown)
            node = stores[index].node
            if is_unknown:
                self._shun(node, AWAY_S)
            self._report(generation, manifest, index, node, error)

        return SegmentReader(
            manifest, first,
            codec=self._codecs[generation.profile], offload=self._tier.offload,
            on_trouble=troubled, on_slow=lambda index: self._overtaken(stores[index].node),
            hedge_s=self.hedge_s, last_resort=last, alarms=self.alarms,
        )  # fmt: skip

    def _overtaken(self, node: str) -> None:
        self._hedges.value += 1
        self._shun(node, SLOW_S)

    def _shun(self, node: str, seconds: float) -> None:
        until_s = trio.current_time() + seconds
        self._shunned_until[node] = max(until_s, self._shunned_until.get(node, 0.0))

    def _report(
        self, generation: Generation, manifest: Manifest, index: int, node: str, error: EcError
    ) -> None:
        """Tell of what is known to be wrong with a chunk; a node that is away says nothing."""
        if not isinstance(error, ChunkDamagedError | ChunkMissingError):
            return
        kind = "damaged" if isinstance(error, ChunkDamagedError) else "missing"
        self._damage(kind).value += 1
        now_s, key = trio.current_time(), (generation.encoding, index)
        if now_s < self._reported.get(key, 0.0):
            return
        if len(self._reported) >= REPORTS_MAX:
            self._reported.clear()
        self._reported[key] = now_s + REPORT_AGAIN_S
        self._events.error(
            f"chunk {kind}",
            node=node,
            topic=manifest.topic,
            partition=manifest.partition,
            base_offset=manifest.base_offset,
            chunk=manifest.chunk_id(index).name,
            block=_block_of(error),
            reason=str(error),
        )
        if self.on_damage is not None:
            self.on_damage(generation.encoding, index, node, error)

    def local_range(
        self, generation: Generation, manifest: Manifest, piece: Piece
    ) -> FileRange | None:
        """Return the file here that has a piece's bytes, if they were verified there."""
        if piece.is_decoded or not piece.source.size:
            return None
        (part,) = manifest.geometry.locate(piece.source.start, piece.source.end)
        store = self._tier.stores(generation).get(part.chunk)
        if store is None:
            return None
        ranges = getattr(_unguarded(store), "verified_range", None)
        if ranges is None:
            return None
        found: FileRange | None = ranges(manifest.chunk_id(part.chunk), part.start, part.end)
        return found


def _once(store: Store) -> Store:
    # Reading is all that is done with it.
    return cast("Store", _Once(store)) if isinstance(store, GuardedStore) else store


def _unguarded(store: Store) -> Store:
    return store.inner if isinstance(store, GuardedStore) else store


def _block_of(error: EcError) -> int | None:
    """Return the number of the bad block, where a block of the payload is bad."""
    if isinstance(error, ChunkDamagedError) and error.region == "payload":
        return error.position // BLOCK_BYTES
    return None


def _up_to_gap(result: ReadResult, why: Callable[[Gap], str]) -> Fetched:
    if not result.gaps:
        return Fetched(result.pieces, None)
    gap = result.gaps[0]
    pieces = tuple(piece for piece in result.pieces if piece.source.end <= gap.source.start)
    return Fetched(pieces, Missing(gap.source.start, gap.source.end, why(gap)))


def _why(generation: Generation, gap: Gap, troubles: Mapping[int, _Trouble]) -> str:
    profile = generation.profile
    found = [f"chunk {index}: {troubles[index].reason}" for index in sorted(troubles)]
    found += [f"chunk {index} has no place" for index in generation.missing]
    counts = f"{gap.left} of {profile.chunks} chunks can be read, {profile.k} are needed"
    return "; ".join([counts, *found])
