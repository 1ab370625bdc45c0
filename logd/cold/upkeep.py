"""What looks after coded segments: repair, scrub and moves, put together.

A part of `logd.cold.life`, which starts and stops it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import trio

from ec.chunk_id import ChunkId
from ec.errors import EcError
from logd.cold.chunk_findings import ChunkFindings, ChunkPlace
from logd.cold.chunk_health import ChunkHealth, TopicName
from logd.cold.encoding import Encoder
from logd.cold.findings_book import FindingsBook
from logd.cold.health_metrics import register_health_metrics
from logd.cold.hot_copies import HotCopies
from logd.cold.missing import MissingChunks
from logd.cold.node_moving import NodeMoving
from logd.cold.outlook import Outlook
from logd.cold.partition_view import ColdPartition, Partitions
from logd.cold.repair_jobs import RepairJobs, item_document
from logd.cold.repair_metrics import RepairMetrics
from logd.cold.repairing import Repairer, RepairSettings
from logd.cold.scrubbing import Scrubber, ScrubServices, ScrubSettings
from logd.cold.tier import ColdTier
from logd.config import ServerSettings
from logd.events import EventLog
from logd.metrics import Registry
from logd.offload import Offload
from logd.policy.cold.values import LIVE, Generation
from logd.storage.data_directory import DataDirectory
from logd.storage.findings_note import FindingsNote
from logd.storage.scrub_note import ScrubNote


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepServices:
    """What upkeep takes of the server, beside what the life of segments has.

    Attributes:
        dead_ms: node.dead.ms.
        read_note, write_note: scrub's cursors; blocking.
        read_findings, write_findings: what was found of chunks; blocking.
    """

    repair: RepairSettings
    scrub: ScrubSettings
    dead_ms: int
    random: Random
    topic_name: TopicName
    read_note: Callable[[], ScrubNote]
    write_note: Callable[[ScrubNote], None]
    read_findings: Callable[[], FindingsNote]
    write_findings: Callable[[FindingsNote], None]


def repair_settings(settings: ServerSettings) -> RepairSettings:
    """Return what the repair settings say."""
    return RepairSettings(settings.repair_delay_ms, settings.repair_rate_bytes)


def scrub_settings(settings: ServerSettings) -> ScrubSettings:
    """Return what the scrub settings say."""
    return ScrubSettings(settings.scrub_cycle_ms, settings.scrub_rate_bytes)


def upkeep_services(
    settings: ServerSettings, directory: DataDirectory, random: Random, topic_name: TopicName
) -> UpkeepServices:
    """Return what a server gives to upkeep."""
    return UpkeepServices(
        repair=repair_settings(settings),
        scrub=scrub_settings(settings),
        dead_ms=settings.node_dead_ms,
        random=random,
        topic_name=topic_name,
        read_note=directory.read_scrub_note,
        write_note=directory.write_scrub_note,
        read_findings=directory.read_findings_note,
        write_findings=directory.write_findings_note,
    )


class Upkeep:
    """See the module. Lives on the event loop."""

    def __init__(
        self,
        tier: ColdTier,
        findings: ChunkFindings,
        services: UpkeepServices,
        *,
        partitions: Partitions,
        offload: Offload,
        events: EventLog,
        metrics: Registry,
        now_ms: Callable[[], int],
        give_up_hot: Callable[[ColdPartition, Generation], Awaitable[None]],
        encoder: Encoder,
    ) -> None:
        self._tier = tier
        self._findings = findings
        self._events = events
        self._topic_name = services.topic_name
        hot = HotCopies(partitions, encoder)
        self.health = ChunkHealth(tier, findings, wall_ms=now_ms, hot=hot.look)
        self.missing = MissingChunks(
            tier, findings, looked_through=self.health.looked_through, events=events
        )
        self.repairer = Repairer(
            tier, findings, self.health, services.repair, events=events,
            metrics=RepairMetrics(metrics), hot=hot,
        )  # fmt: skip
        self.jobs = RepairJobs(
            tier, self.health, self.missing, self.repairer, dead_ms=services.dead_ms,
            topic_name=services.topic_name, events=events,
        )  # fmt: skip
        self.book = FindingsBook(
            self.health, offload=offload, events=events, wall_ms=now_ms,
            read_note=services.read_findings, write_note=services.write_findings,
        )  # fmt: skip
        self.scrubber = Scrubber(
            tier,
            findings,
            self.health,
            services.scrub,
            ScrubServices(
                partitions=partitions,
                offload=offload,
                events=events,
                metrics=metrics,
                random=services.random,
                now_ms=now_ms,
                read_note=services.read_note,
                write_note=services.write_note,
                give_up_hot=give_up_hot,
                topic_name=services.topic_name,
                history=self.book.as_document,
            ),
        )
        self.moving = NodeMoving(tier, self.health, self.missing, self.repairer)
        self.outlook = Outlook(
            tier, self.health, self.repairer, services.repair, dead_ms=services.dead_ms,
            topic_name=services.topic_name,
        )  # fmt: skip
        register_health_metrics(metrics, self.health, self.repairer)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            await self.book.open()
        except OSError as error:
            self._events.warning("earlier findings not read", reason=str(error))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.book.run)
            nursery.start_soon(self.missing.run)
            nursery.start_soon(self.repairer.run)
            nursery.start_soon(self.jobs.run)
            nursery.start_soon(self.scrubber.run)

    def found(self, encoding: str, index: int, node: str, error: Exception) -> None:
        """A read met a chunk that is damaged or missing."""
        if isinstance(error, EcError):
            self._findings.note(ChunkPlace(encoding, index, node), error)

    def is_needed(self, chunk: ChunkId) -> bool:
        """Return whether repair may find a use for a chunk that has no place on record."""
        generation = self._tier.generation(chunk.encoding)
        if generation is None or generation.state not in LIVE:
            return False
        if chunk.index >= generation.profile.chunks:
            return False
        return not self.health.is_live(chunk.encoding, chunk.index)

    # --- for people -------------------------------------------------------------------------------

    def repair_summary(self) -> dict[str, Any]:
        """Return what `logd status` says of repair."""
        plan = self.repairer.plan()
        eta = self.repairer.eta(plan)
        return {
            "queued": sum(not item.is_running for item in plan.items),
            "running": len(self.repairer.running),
            "states": dict(Counter(item.state for item in plan.items)),
            "eta_s": None if eta.total_s is None else round(eta.total_s, 1),
            "stuck": eta.stuck,
            "bytes_s": self.repairer.rate.bytes_s,
        }

    def repair_queue(self, *, ignores_delays: bool = False) -> dict[str, Any]:
        """Return every item of the queue with its state and reason."""
        plan = self.repairer.plan(ignores_delays=ignores_delays or None)
        eta = self.repairer.eta(plan)
        return {
            **self.repair_summary(),
            "items": [item_document(item, eta, self._topic_name) for item in plan.items],
            "moves": self.moving.moves_left(),
            "move_items": self.repairer.move_documents(self._topic_name),
        }
