"""Verifies every block of every chunk, and every batch of this server's own sealed segments.

Each node is a place with a cursor of its own, and so is this server; they are scrubbed side by
side. What is verified next, how fast, and whether the cycle can be kept, is decided by
`policy.cold.scrub_plan`. A chunk is read from its device by its own node (`Store.verify`), then its
head is compared with the manifest that was committed: an intact chunk of another encoding is found
too. Where the allowed rate is low for the chunk's size, it is read here, window by window.

What is found is noted, and repair is told; a node that does not answer says nothing, and its cursor
stays. So it does at a segment that is being repaired: what is bad there is just being made. A
segment here that is damaged, and has all its chunks, is given up for them.

The cursors are kept in the data directory, every while: a crash costs that much reading again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import trio

from ec.errors import ChunkDamagedError, ChunkMissingError, ChunkVersionError, EcError
from ec.manifest import Manifest
from ec.segment import file_bytes
from logd.cold.chunk_findings import ChunkFindings, ChunkPlace
from logd.cold.chunk_health import ChunkHealth, TopicName
from logd.cold.damaged_segment import DamagedSegment
from logd.cold.limited_store import Budget, LimitedStore
from logd.cold.partition_view import ColdPartition, Partitions, key_of
from logd.cold.segment_errors import busy
from logd.cold.tier import ColdTier
from logd.errors import DamagedRangeError, LogdError, SegmentsChangedError
from logd.events import EventLog
from logd.metrics import Registry
from logd.offload import Offload
from logd.policy.cold.leases import Work
from logd.policy.cold.rates import MeasuredRate
from logd.policy.cold.scrub_plan import (
    ScrubCursor,
    ScrubItem,
    ScrubOrder,
    ScrubRate,
    ScrubRules,
    chunk_item_name,
    plan_scrub_rate,
    scrub_eta_s,
    segment_item_name,
)
from logd.policy.cold.targets import chunk_bytes_of
from logd.policy.cold.values import LIVE, ColdState, Generation, SegmentKey
from logd.storage.log_cold import SealedSegment
from logd.storage.scrub_note import ScrubNote
from logd.units import MIB, SECOND_MS

HERE: Final = ""
"""The place of this server's own sealed segments."""

NOTE_S: Final = 30.0
"""How often the cursors are written down, if they moved."""

AGAIN_S: Final = 5.0
"""How long after there was nothing to do, or a node did not answer, a place is looked at again."""

LIST_S: Final = 5.0
"""How often it is looked what there is to verify; what comes later has its turn in time."""

FIRST_LOOK_S: Final = 2.0
"""How long who asks right behind the start waits for that."""

AT_ONCE_S: Final = 10.0
"""A chunk that takes longer than this at the allowed rate is read window by window."""

WINDOW_BYTES: Final = MIB

DAMAGED_MAX: Final = 1000
"""Damaged segments here that are remembered."""


@dataclass(frozen=True, slots=True)
class ScrubSettings:
    """scrub.cycle.ms and scrub.rate.bytes."""

    cycle_ms: int
    rate_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubServices:
    """What scrub takes of the server.

    Attributes:
        now_ms: the wall clock.
        read_note: returns the cursors of the last run, and whether it was paused; blocking.
        write_note: keeps them; blocking.
        give_up_hot: lets a damaged hot copy go for its chunks; raises LogdError where it cannot.
        history: what is shown of findings beside the latest.
    """

    partitions: Partitions
    offload: Offload
    events: EventLog
    metrics: Registry
    random: Random
    now_ms: Callable[[], int]
    read_note: Callable[[], ScrubNote]
    write_note: Callable[[ScrubNote], None]
    give_up_hot: Callable[[ColdPartition, Generation], Awaitable[None]]
    topic_name: TopicName
    history: Callable[[], dict[str, Any]] = dict


@dataclass(slots=True, eq=False)
class _Place:
    """A node, or this server, as scrub sees it.

    Attributes:
        hurries: people wait for its round.
    """

    name: str
    cursor: ScrubCursor
    order: ScrubOrder = field(default_factory=lambda: ScrubOrder(()))
    rate: ScrubRate = field(default_factory=lambda: ScrubRate(None, 0.0))
    measured: MeasuredRate = field(default_factory=MeasuredRate)
    budget: Budget = field(default_factory=Budget)
    hurries: bool = False
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    what: dict[str, Any] = field(default_factory=dict)
    listed_s: float | None = None


class Scrubber:
    """See the module. Lives on the event loop.

    Attributes:
        is_paused: people said so; kept over restarts.
        verified_bytes: since the start.
    """

    def __init__(
        self,
        tier: ColdTier,
        findings: ChunkFindings,
        health: ChunkHealth,
        settings: ScrubSettings,
        services: ScrubServices,
    ) -> None:
        self._tier = tier
        self._findings = findings
        self._health = health
        self._settings = settings
        self._services = services
        self._places: dict[str, _Place] = {}
        self._kept: dict[str, ScrubCursor] = {}
        self._news = trio.Event()
        self._moved = False
        self._to_mend: dict[SegmentKey, ColdPartition] = {}
        self._damaged: dict[SegmentKey, DamagedSegment] = {}
        self.is_paused = False
        self.verified_bytes = 0
        self._nursery: trio.Nursery | None = None
        self._has_begun = trio.Event()
        self._verified = services.metrics.counter(
            "logd_scrub_verified_bytes_total", "Bytes that scrub has verified."
        )

    # --- what people ask for ----------------------------------------------------------------------

    async def begun(self) -> None:
        """Wait until it runs: what is asked before it knows its places would be for none."""
        await self._has_begun.wait()

    def start(self) -> None:
        """Verify everything once, now; a pause ends."""
        self.is_paused = False
        if self._nursery is not None:
            self._follow_places(self._nursery)
        for place in self._places.values():
            if not place.hurries:
                # What the round has done already counts for the cycle, not for this wish.
                place.cursor = ScrubCursor(
                    start=place.cursor.start, began_ms=self._services.now_ms(),
                    previous_ms=place.cursor.previous_ms, rounds=place.cursor.rounds,
                )  # fmt: skip
                place.hurries, place.listed_s = True, None
                place.measured = MeasuredRate()
        self._wake()

    def pause(self) -> None:
        """Stop, until `resume` or `start`, also over a restart."""
        self.is_paused, self._moved = True, True
        self._wake()

    def resume(self) -> None:
        """Go on."""
        self.is_paused, self._moved = False, True
        self._wake()

    @property
    def is_hurrying(self) -> bool:
        """Whether a round that people asked for is under way."""
        return any(
            place.hurries and (place.name == HERE or self._tier.nodes.is_live(place.name))
            for place in self._places.values()
        )

    @property
    def state(self) -> str:
        """One word: paused, running (people asked for it), scrubbing (the cycle), or idle."""
        if self.is_paused:
            return "paused"
        if self.is_hurrying:
            return "running"
        is_busy = any(
            place.listed_s is None or place.order.left_bytes(place.cursor)
            for place in self._places.values()
        )
        return "scrubbing" if is_busy else "idle"

    def warnings(self) -> list[str]:
        """Return, for each place that cannot keep the cycle, the sum in words."""
        found = (place.rate.warning for place in self._places.values())
        return [warning for warning in found if warning is not None]

    def status(self) -> dict[str, Any]:
        """Return the document of `logd scrub status`."""
        places = list(self._places.values())
        total = sum(place.order.total_bytes for place in places)
        left = sum(place.order.left_bytes(place.cursor) for place in places)
        now = self._services.now_ms()
        etas = [self._eta_s(place) for place in places if place.order.left_bytes(place.cursor)]
        oldest = [place.cursor.oldest_ms(now_ms=now) for place in places if len(place.order)]
        return {
            "state": self.state,
            "cycle_s": self._settings.cycle_ms // SECOND_MS,
            "progress": round(1 - left / total, 4) if total else 1.0,
            "eta_s": None if None in etas else max((eta or 0.0 for eta in etas), default=0.0),
            "verified_bytes": self.verified_bytes,
            "findings": [
                *(each.as_document() for each in self._damaged.values()),
                *(each.as_document(self._services.topic_name) for each in self._health.records()),
            ],
            **self._services.history(),
            "oldest_unverified_s": max(oldest) // SECOND_MS if oldest else None,
            "warnings": self.warnings(),
            "places": [self._describe(place) for place in places],
        }

    def _eta_s(self, place: _Place) -> float | None:
        left = place.order.left_bytes(place.cursor)
        return scrub_eta_s(left, rate=place.rate, measured_bytes_s=place.measured.bytes_s)

    def _describe(self, place: _Place) -> dict[str, Any]:
        return {
            "node": place.name or None,
            "items": len(place.order),
            "bytes": place.order.total_bytes,
            "left_bytes": place.order.left_bytes(place.cursor),
            "rounds": place.cursor.rounds,
            "rate_bytes_s": place.rate.bytes_s,
            "measured_bytes_s": place.measured.bytes_s,
            "eta_s": self._eta_s(place),
        }

    # --- running ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Scrub until cancelled."""
        note = await self._read_note()
        self.is_paused, self._kept = note.is_paused, dict(note.cursors)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_notes)
                self._nursery = nursery
                while True:
                    self._follow_places(nursery)
                    if not self._has_begun.is_set():
                        await self._look_first()
                    self._has_begun.set()
                    await trio.sleep(1)
        finally:
            self._nursery = None
            with trio.CancelScope(shield=True):
                await self._write_note()

    async def _read_note(self) -> ScrubNote:
        """Return the last run's cursors; a disk that does not give them must not end the server."""
        services = self._services
        try:
            return await services.offload.run("admin", services.read_note)
        except OSError as error:
            services.events.warning("scrub begins anew: its cursors not read", reason=str(error))
            return ScrubNote()

    def _follow_places(self, nursery: trio.Nursery) -> None:
        """Begin with places that are new, and leave those that are gone."""
        wanted = {HERE, *self._tier.nodes.names()}
        for name in sorted(wanted - self._places.keys()):
            place = self._places[name] = _Place(name, self._cursor_of(name))
            nursery.start_soon(self._scrub_for_ever, place)
        for name in sorted(self._places.keys() - wanted):
            self._places.pop(name).scope.cancel()

    async def _look_first(self) -> None:
        """Find out what there is to verify, before anybody is told how much of it is verified."""
        with trio.move_on_after(FIRST_LOOK_S):
            for place in list(self._places.values()):
                with suppress(LogdError, OSError):  # The place's own task says why.
                    await self._list(place)

    def _cursor_of(self, name: str) -> ScrubCursor:
        """Return where a place goes on; a new one begins where chance says."""
        kept = self._kept.get(name)
        if kept is not None:
            return kept
        start = f"{self._services.random.getrandbits(32):08x}"
        return ScrubCursor(start=start, began_ms=self._services.now_ms())

    async def _scrub_for_ever(self, place: _Place) -> None:
        with place.scope:
            while True:
                try:
                    went_on = not self.is_paused and await self._next(place)
                except (EcError, LogdError, OSError) as error:
                    went_on = False
                    self._services.events.info(
                        "scrub waits", place=place.name or "here", reason=str(error)
                    )
                except Exception as error:  # One bad item must not be the last one.
                    went_on = False
                    self._services.events.error("scrub failed", reason=repr(error))
                if not went_on:
                    news = self._news
                    with trio.move_on_after(AGAIN_S):
                        await news.wait()
                await trio.lowlevel.checkpoint()

    async def _next(self, place: _Place) -> bool:
        """Verify a place's next item; return whether there was one."""
        await self._list(place)
        now_ms = self._services.now_ms()
        place.rate = self._rate(place, now_ms)
        item = place.order.next(place.cursor)
        if item is None:
            self._end_round(place, now_ms)
            return False
        if place.name != HERE and not self._tier.nodes.is_live(place.name):
            return False
        began_s, before = trio.current_time(), place.cursor
        verified = await self._verify(place, item)
        await self._pace(place, verified, began_s)
        # In the unit of what is left: a chunk's size in the order is a bound, more than it has.
        done = item.size_bytes if verified else 0
        place.measured = place.measured.with_piece(done, seconds=trio.current_time() - began_s)
        if place.cursor is before:  # Not begun anew meanwhile.
            place.cursor = before.passed(item, verified_bytes=verified)
        self.verified_bytes += verified
        self._verified.add(verified)
        self._moved = True
        return True

    async def _list(self, place: _Place) -> None:
        """Look what there is to verify, if that is long ago."""
        now_s = trio.current_time()
        if place.listed_s is not None and now_s - place.listed_s < LIST_S:
            return
        if place.name == HERE:
            await self._mend_again()
            place.what = dict(await self._hot_items())
        else:
            place.what = self._chunk_items(place.name)
        place.order = ScrubOrder(item for item, _ in place.what.values())
        place.listed_s = now_s

    def _end_round(self, place: _Place, now_ms: int) -> None:
        """Begin the next round, where its time has come."""
        if place.hurries:
            place.hurries, place.measured = False, MeasuredRate()
        is_due = now_ms - place.cursor.began_ms >= self._settings.cycle_ms
        if is_due or place.cursor.began_ms > now_ms:
            place.cursor = place.cursor.next_round(now_ms=now_ms)
            self._moved = True
            place.listed_s = None

    def _rate(self, place: _Place, now_ms: int) -> ScrubRate:
        rules = ScrubRules(
            cycle_ms=self._settings.cycle_ms,
            rate_bytes=self._settings.rate_bytes,
            hurries=place.hurries,
        )
        name = place.name or "sealed segments here"
        return plan_scrub_rate(name, place.order, place.cursor, rules, now_ms=now_ms)

    async def _pace(self, place: _Place, verified: int, began_s: float) -> None:
        """Wait until the item took as long as its rate says; news end the wait."""
        if place.rate.bytes_s is None:
            return
        until_s = began_s + verified / place.rate.bytes_s
        while trio.current_time() < until_s and not place.hurries:
            news = self._news
            with trio.move_on_at(until_s):
                await news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    # --- chunks -----------------------------------------------------------------------------------

    def _chunk_items(self, node: str) -> dict[str, tuple[ScrubItem, tuple[Generation, int]]]:
        """Return what is to be verified on a node: the chunks that have their place there."""
        found = {}
        for generation in self._tier.generations():
            if generation.state not in LIVE:
                continue
            for index, holder in generation.held.items():
                if holder == node:
                    name = chunk_item_name(generation.encoding, index)
                    size = self._chunk_bytes(generation, index)
                    found[name] = (ScrubItem(name, size), (generation, index))
        return found

    def _chunk_bytes(self, generation: Generation, index: int) -> int:
        lengths = self._tier.holdings.lengths(generation.encoding)
        return chunk_bytes_of(generation) if lengths is None else lengths[index]

    async def _verify(self, place: _Place, item: ScrubItem) -> int:
        """Verify an item; return its bytes, 0 where it is gone.

        Raises:
            SegmentBusyError: it is being repaired. EcError, LogdError: it is not known how it is.
        """
        if place.name == HERE:
            return await self._verify_segment(place.what[item.name][1])
        generation, index = place.what[item.name][1]
        if self._tier.leases.work_on(generation.key) is Work.REPAIR:
            raise busy(self._tier.leases, generation.key)
        manifest = await self._tier.manifest(generation.encoding)
        at = ChunkPlace(generation.encoding, index, place.name)
        try:
            damage = await self._read_chunk(place, manifest, index, item.size_bytes)
        except (ChunkMissingError, ChunkDamagedError, ChunkVersionError) as error:
            damage = error
        now = self._tier.generation(generation.encoding)
        if now is None or now.state not in LIVE or now.held.get(index) != place.name:
            return 0
        if damage is None:
            self._findings.right(at)
        else:
            self._findings.note(at, damage)
            self._services.events.error(
                "scrub found a bad chunk", node=place.name, topic=manifest.topic,
                partition=manifest.partition, base_offset=manifest.base_offset,
                chunk=manifest.chunk_id(index).name, reason=str(damage),
            )  # fmt: skip
        return int(file_bytes(manifest)[index])

    async def _read_chunk(
        self, place: _Place, manifest: Manifest, index: int, size: int
    ) -> EcError | None:
        """Have all of a chunk read; return what is wrong with it."""
        store = self._tier.nodes.store(place.name, "scrub")
        chunk = manifest.chunk_id(index)
        rate = place.rate.bytes_s
        if rate is None or size <= rate * AT_ONCE_S:
            damage = await store.verify(chunk)
            if damage:
                return damage[0]
        else:
            slow = LimitedStore(store, place.budget, rate=lambda _: place.rate.bytes_s)
            end = manifest.chunks[index].payload_bytes
            for start in range(0, end, WINDOW_BYTES):
                await slow.read(chunk, start, min(start + WINDOW_BYTES, end))
        head = await store.head(chunk)
        if head.manifest == manifest:
            return None
        return ChunkDamagedError(
            chunk.name, region="manifest", position=head.trailer.manifest_at,
            reason="is not the manifest that was committed",
        )  # fmt: skip

    # --- segments here ----------------------------------------------------------------------------

    async def _hot_items(self) -> dict[str, tuple[ScrubItem, tuple[ColdPartition, int]]]:
        """Return this server's own sealed segments."""
        partitions = [each for each in self._services.partitions() if each.offline is None]

        def look() -> list[tuple[ColdPartition, SealedSegment]]:
            return [
                (each, segment) for each in partitions for segment in each.log.sealed_segments()
            ]

        found = {}
        sealed = await self._services.offload.run("disk", look)
        self._forget_gone({key_of(each, segment.base_offset) for each, segment in sealed})
        for each, segment in sealed:
            key = key_of(each, segment.base_offset)
            # What is known to be damaged is looked at again only where chunks can take its place.
            is_hopeless = segment.is_damaged and self._replacement(key) is None
            if segment.size_bytes and not is_hopeless:
                name = segment_item_name(key)
                found[name] = (ScrubItem(name, segment.size_bytes), (each, segment.base_offset))
        return found

    def _forget_gone(self, sealed: Collection[SegmentKey]) -> None:
        """Forget damage that was given up: its segment was deleted."""
        self._damaged = {
            key: each
            for key, each in self._damaged.items()
            if each.mended_ms is not None or key in sealed
        }

    def _replacement(self, key: SegmentKey) -> Generation | None:
        """Return the committed generation of a segment, whose chunks may take its place."""
        found = self._tier.coverage(key.topic_id, key.partition).find(key.base_offset)
        if found is None or found.key != key or found.state is not ColdState.COMMITTED:
            return None
        return found

    async def _verify_segment(self, what: tuple[ColdPartition, int]) -> int:
        """Check every batch of a sealed segment; what is damaged is given up for its chunks."""
        partition, base_offset = what

        def check() -> int:
            source = partition.log.segment_source(base_offset)
            try:
                return source.size_bytes
            finally:
                source.close()

        try:
            return await self._services.offload.run("cold", check)
        except SegmentsChangedError:
            return 0
        except DamagedRangeError as error:
            await self._mend_segment(partition, base_offset, str(error))
            return 0

    async def _mend_segment(self, partition: ColdPartition, base_offset: int, reason: str) -> None:
        key = key_of(partition, base_offset)
        self._services.events.error(
            "scrub found a damaged segment", topic=partition.topic_name,
            partition=partition.index, base_offset=base_offset, reason=reason,
        )  # fmt: skip
        while len(self._damaged) >= DAMAGED_MAX:
            del self._damaged[next(iter(self._damaged))]
        self._damaged[key] = DamagedSegment(key, reason, self._services.now_ms())
        self._to_mend[key] = partition
        await self._mend_again()

    async def _mend_again(self) -> None:
        """Give up damaged segments for their chunks, as soon as all of those are right."""
        for key, partition in list(self._to_mend.items()):
            generation = self._replacement(key)
            if generation is None:
                del self._to_mend[key]  # Not coded: the log says that it is damaged.
                continue
            try:
                await self._services.give_up_hot(partition, generation)
            except LogdError as error:
                self._services.events.info("damaged segment stays", reason=str(error))
                continue
            del self._to_mend[key]
            if key in self._damaged:
                self._damaged[key].mended_ms = self._services.now_ms()
            self._services.events.info(
                "damaged segment is read from its chunks", segment=str(generation)
            )

    # --- notes ------------------------------------------------------------------------------------

    async def _keep_notes(self) -> None:
        while True:
            await trio.sleep(NOTE_S)
            await self._write_note()

    async def _write_note(self) -> None:
        if not self._moved:
            return
        self._moved = False
        cursors = {name: place.cursor for name, place in self._places.items()}
        services = self._services
        try:
            await services.offload.run(
                "admin", services.write_note, ScrubNote(self.is_paused, cursors)
            )
        except OSError as error:
            self._moved = True
            services.events.warning("scrub's cursors not kept", reason=str(error))
