"""The life of coded segments, put together: what the server starts, stops, and asks.

Imported when the first storage node exists: this brings the coding library.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from logd.clock import Clock
from logd.cold.chunk_findings import ChunkFindings
from logd.cold.chunk_health import ChunkHealth
from logd.cold.encoding import Encoder
from logd.cold.figures import ColdFigures, ColdView
from logd.cold.inventory import Inventory
from logd.cold.jobs import ColdJobs
from logd.cold.life_metrics import LifeMetrics, register_life_gauges
from logd.cold.partition_view import Partitions
from logd.cold.recompressing import Recompression
from logd.cold.releasing import Releaser
from logd.cold.removal import Removal
from logd.cold.thawing import Thawer
from logd.cold.tier import ColdTier
from logd.cold.tiering import Tiering, has_hot_file
from logd.cold.upkeep import Upkeep, UpkeepServices
from logd.cold.verifying import Verifier
from logd.events import EventLog
from logd.metrics import Registry
from logd.offload import Offload
from logd.policy.cold.values import Generation

FIGURES_S: Final = 0.1
"""One answer to `logd status`, and one scrape, ask for them several times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeServices:
    """What the life of segments takes of the server.

    Attributes:
        partitions: yields the open partitions.
        random_bytes: gives so many random bytes.
        unlink_later: remove renamed files after so many seconds.
        room_bytes: returns how much may be written to the data directory.
        reserve_bytes: space on its device that is kept free.
        forget_topic: called when nothing coded is left of a topic that may be deleted.
        distrust: called with an encoding of which a chunk was found to be damaged.
        upkeep: what repair and scrub take besides; None: neither runs.
    """

    partitions: Partitions
    offload: Offload
    events: EventLog
    metrics: Registry
    cluster_id: str
    now_ms: Callable[[], int]
    random_bytes: Callable[[int], bytes]
    unlink_later: Callable[[Sequence[str], float], None]
    room_bytes: Callable[[], int]
    reserve_bytes: int = 0
    clock: Clock = field(default_factory=Clock)
    forget_topic: Callable[[bytes], Awaitable[None]]
    distrust: Callable[[str], None] = lambda _encoding: None
    upkeep: UpkeepServices | None = None


class ColdLife:
    """See the module. Lives on the event loop.

    Attributes:
        encoder, jobs: for whoever wants a segment coded.
        verifier: for whoever wants to know that all chunks are right.
        findings: what is known to be wrong with chunks; readers, repair and scrub note it here too.
        view: looks at segments for people.
    """

    def __init__(self, tier: ColdTier, services: LifeServices) -> None:
        self._tier = tier
        self._services = services
        offload, events, now_ms = services.offload, services.events, services.now_ms
        self.findings = ChunkFindings()
        self.findings.on_corrupt = services.distrust
        self.metrics = LifeMetrics(services.metrics)
        self.encoder = Encoder(
            tier,
            cluster_id=services.cluster_id,
            offload=offload,
            events=events,
            metrics=self.metrics,
            random_bytes=services.random_bytes,
            recompression=Recompression(
                offload, reserve_bytes=services.reserve_bytes, clock=services.clock
            ),
        )
        self.releaser = Releaser(
            tier,
            self.findings,
            offload=offload,
            now_ms=now_ms,
            unlink_later=services.unlink_later,
            events=events,
            metrics=self.metrics,
        )
        self.thawer = Thawer(
            tier,
            self.findings,
            offload=offload,
            room_bytes=services.room_bytes,
            events=events,
            metrics=self.metrics,
        )
        self.removal = Removal(
            tier,
            events,
            now_ms=now_ms,
            metrics=self.metrics,
            forget_topic=services.forget_topic,
        )
        self.inventory = Inventory(tier, events, metrics=self.metrics)
        self.tiering = Tiering(
            tier,
            services.partitions,
            self.encoder,
            self.releaser,
            offload=offload,
            now_ms=now_ms,
            events=events,
        )
        self.jobs = ColdJobs(tier, self.tiering, self.encoder, self.thawer, events=events)
        self.verifier = Verifier(tier, self.findings, events)
        self._figures: tuple[float, ColdFigures] | None = None
        register_life_gauges(
            services.metrics,
            self.figures,
            running=lambda: len(self.encoder.running),
            to_remove=lambda: self.removal.waiting,
        )
        self.upkeep = self._make_upkeep()
        self.view = self._make_view()
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        tier.on_change.append(self._changed)
        tier.nodes.on_change.append(self._node_changed)

    def _make_view(self) -> ColdView:
        """Make what looks at segments for people: with repair's eyes, where it runs."""
        if self.upkeep is not None:
            return ColdView(self._tier, self.findings, self.upkeep.health)
        health = ChunkHealth(
            self._tier, self.findings, wall_ms=self._services.now_ms, looks_through=False
        )
        return ColdView(self._tier, self.findings, health)

    def _make_upkeep(self) -> Upkeep | None:
        """Make what looks after coded segments."""
        services = self._services
        if services.upkeep is None:
            return None
        upkeep = Upkeep(
            self._tier, self.findings, services.upkeep, partitions=services.partitions,
            offload=services.offload, events=services.events, metrics=services.metrics,
            now_ms=services.now_ms, give_up_hot=self.releaser.give_up_hot, encoder=self.encoder,
        )  # fmt: skip
        # What a repair that was cut short left on its target is found there, not put aside.
        self.inventory.is_needed = upkeep.is_needed
        self.inventory.on_put_aside = upkeep.book.put_aside
        return upkeep

    async def run(self) -> None:
        """Work until cancelled, or stopped."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.jobs.run)
                    nursery.start_soon(self.verifier.run)
                    nursery.start_soon(self.removal.run)
                    nursery.start_soon(self.inventory.run)
                    nursery.start_soon(self.tiering.run)
                    if self.upkeep is not None:
                        nursery.start_soon(self.upkeep.run)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Give up what is under way, so that logs and catalog can be closed.

        Returns when nothing of a segment is read any more; what was begun is recorded as aborted.
        """
        self._scope.cancel()
        await self._ended.wait()

    def _changed(self, partitions: Collection[tuple[bytes, int]]) -> None:
        self._figures = None
        self.tiering.wake()
        self.removal.changed(topic_id for topic_id, _ in partitions)

    def _node_changed(self, _name: str) -> None:
        self._figures = None
        self.tiering.node_changed()
        self.removal.wake()

    # --- for people -------------------------------------------------------------------------------

    def figures(self) -> ColdFigures:
        """Return the counts over all coded segments, at most `FIGURES_S` old."""
        now_s = trio.current_time()
        if self._figures is None or now_s - self._figures[0] > FIGURES_S:
            self._figures = now_s, self._count()
        return self._figures[1]

    def _count(self) -> ColdFigures:
        hot = {(each.topic_id, each.index): each for each in self._services.partitions()}

        def is_hot(generation: Generation) -> bool:
            partition = hot.get((generation.key.topic_id, generation.key.partition))
            return partition is not None and has_hot_file(partition, generation)

        return self.view.figures(is_hot)
