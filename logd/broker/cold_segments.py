"""The life of coded segments as the rest of the broker sees it: begun with the first storage node.

A server without storage nodes imports nothing of the coding library. With the first node, or when
the catalog knows of coded segments, `logd.cold.life` is imported in a thread and runs from then on.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from logd.broker.problems import Problem
from logd.cold.partition_view import ColdPartition
from logd.cold.tier import ColdTier
from logd.errors import LogdError
from logd.offload import Offload
from logd.policy.cold.values import Generation, SegmentKey
from logd.units import format_byte_count

if TYPE_CHECKING:
    from logd.cold.jobs import Job
    from logd.cold.life import ColdLife, LifeServices

NAMED_MAX: Final = 100
"""Lost segments, and segments that cannot be coded, that are named one by one."""

ROWS_PER_TURN: Final = 100

BEGIN_S: Final = 5.0
"""How long a listing, or the status, waits for the life of segments to begin."""

NOT_LOOKED_AT: Final = (
    "the server has just started and has not looked at its coded segments yet; ask again"
)

NO_MARGINS: Final = {"lost": 0, "0": 0, "1": 0, "2": 0}


class NoStorageNodesError(LogdError):
    """There is no storage node to code onto."""


class ColdSegments:
    """See the module. Lives on the event loop.

    Attributes:
        life: None until there is a storage node.

    Args:
        services: made when the life begins.
        topic_name: returns the name of a topic, None where it is gone.
    """

    def __init__(
        self,
        tier: ColdTier,
        offload: Offload,
        services: Callable[[], LifeServices],
        *,
        topic_name: Callable[[bytes], str | None],
    ) -> None:
        self._tier = tier
        self._offload = offload
        self._services = services
        self._topic_name = topic_name
        self._wanted = trio.Event()
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._begun = trio.Event()
        self.life: ColdLife | None = None
        tier.nodes.on_change.append(lambda _: self._wanted.set())

    async def run(self) -> None:
        """Wait for the first node, then work until cancelled, or stopped."""
        try:
            with self._scope:
                if not self._tier.nodes.names() and not self._tier.generations():
                    await self._wanted.wait()
                await self._offload.run("admin", importlib.import_module, "logd.cold.life")
                from logd.cold.life import ColdLife

                self.life = ColdLife(self._tier, self._services())
                self._begun.set()
                await self.life.run()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Give up what is under way; returns when nothing of a segment is read any more."""
        if self.life is not None:
            await self.life.stop()
        self._scope.cancel()
        await self._ended.wait()

    # --- what is asked for ------------------------------------------------------------------------

    async def encode(
        self, topic: str, partitions: Sequence[ColdPartition], *, recode: bool
    ) -> dict[str, Any]:
        """Begin to code every sealed segment now; return the job as the admin port shows it.

        Args:
            recode: also those that are coded with another profile than would be chosen now.

        Raises:
            NoStorageNodesError: there is no node. ColdRefusedError: the server reads the topic
                itself, or is stopping.
        """
        jobs = (await self.ready()).jobs
        return jobs.as_document(jobs.begin_encode(topic, partitions, recode=recode))

    async def thaw(self, topic: str, partitions: Sequence[ColdPartition]) -> dict[str, Any]:
        """Begin to bring back every released segment; return the job likewise.

        Raises:
            NoStorageNodesError: there is no node.
        """
        jobs = (await self.ready()).jobs
        return jobs.as_document(jobs.begin_thaw(topic, partitions))

    def job(self, number: int) -> dict[str, Any] | None:
        """Return a job as the admin port shows it; None: it is not known."""
        if self.life is None:
            return None
        job: Job | None = self.life.jobs.job(number)
        return None if job is None else self.life.jobs.as_document(job)

    async def verify(self, topic: str, partitions: Sequence[ColdPartition]) -> dict[str, Any]:
        """Begin to verify all chunks of a topic; return the job as the admin port shows it.

        Raises:
            NoStorageNodesError: there is no node.
        """
        return (await self.ready()).verifier.begin(topic, partitions).as_document()

    def verify_job(self, number: int) -> dict[str, Any] | None:
        """Return a verification as the admin port shows it; None: it is not known."""
        job = None if self.life is None else self.life.verifier.job(number)
        return None if job is None else job.as_document()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is coded, nothing can be, and nobody has asked for a scrub."""
        is_alone = not self._tier.nodes.names() and not self._tier.generations()
        return is_alone and not self._wanted.is_set()

    async def ready(self, *, needs_nodes: bool = True) -> ColdLife:
        """Return the life of segments when it has begun; the first who asks begins it.

        Raises:
            NoStorageNodesError: there is no node, and one is needed.
        """
        if needs_nodes and not self._tier.nodes.names() and not self._tier.generations():
            raise NoStorageNodesError(
                "there are no storage nodes: add some with `logd node add NAME DIR_OR_URL`"
            )
        self._wanted.set()
        await self._begun.wait()
        assert self.life is not None
        return self.life

    def found(self, encoding: str, index: int, node: str, error: Exception) -> None:
        """Take note of a chunk that a read found damaged or missing."""
        if self.life is not None and self.life.upkeep is not None:
            self.life.upkeep.found(encoding, index, node, error)

    # --- what there is to tell --------------------------------------------------------------------

    def margins(self) -> dict[str, int]:
        """Return how many coded segments have which margin, as `logd status` shows it."""
        return dict(NO_MARGINS) if self.life is None else self.life.figures().margins()

    def unknown_chunks(self) -> int:
        """Return of how many chunks nothing is known now; margins count them as there."""
        return 0 if self.life is None else self.life.figures().unknown_chunks

    async def settled(self, topic_id: bytes | None = None) -> None:
        """Soon after a start, wait for the life of segments, which alone knows how coded ones are.

        Returns at once where there are none (of the topic), and after `BEGIN_S` in any case.
        """
        if self._tier.generations(topic_id):
            with trio.move_on_after(BEGIN_S):
                await self._begun.wait()

    async def fill_rows(self, rows: list[dict[str, Any]], topic_id: bytes) -> None:
        """Add to rows of `logd segments` what is known of the coded ones among them."""
        await self.settled(topic_id)
        life = self.life
        if life is None:
            return
        for number, row in enumerate(rows, 1):
            coverage = self._tier.coverage(topic_id, row["partition"])
            generation = coverage.find(row["base_offset"])
            if generation is not None and generation.key.base_offset == row["base_offset"]:
                row |= life.view.row(generation)
            if number % ROWS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with coded segments, and what keeps segments from being coded."""
        life = self.life
        if life is None:
            if self._tier.generations():
                yield Problem("segments_not_looked_at", "warning", NOT_LOOKED_AT)
            return
        figures = life.figures()
        for generation in figures.lost[:NAMED_MAX]:
            yield self._lost(generation)
        yield from self._below_margin(life, figures.below_target)
        yield from self._waiting(life)
        yield from self._chunks(life)

    def _lost(self, generation: Generation) -> Problem:
        key = generation.key
        name = self._name(key)
        last = generation.next_offset - 1
        return Problem(
            "segment_lost",
            "damage",
            f"offsets {key.base_offset} to {last} of {name}: fewer than {generation.profile.k} of "
            f"its {generation.profile.chunks} chunks can be reached; bring nodes back",
            topic=self._topic_name(key.topic_id),
            partition=key.partition,
        )

    def _below_margin(self, life: ColdLife, generations: Sequence[Generation]) -> Iterator[Problem]:
        by_topic: dict[bytes, list[Generation]] = defaultdict(list)
        for generation in generations:
            by_topic[generation.key.topic_id].append(generation)
        for topic_id, several in by_topic.items():
            worst = min(several, key=lambda each: (life.view.margin(each), each.key))
            left, profile = life.view.margin(worst), worst.profile
            how = f"has {left} of {profile.m}"
            if left < 0:
                how = f"has fewer than {profile.k} chunks that can be reached, and its hot copy"
            size = format_byte_count(sum(each.source_bytes for each in several))
            yield Problem(
                "segments_below_margin",
                "damage",
                f"{len(several)} coded segments of {self._topic_name(topic_id)} ({size}) are below "
                f"their target margin; the worst, {self._name(worst.key)} at offset "
                f"{worst.key.base_offset}, {how}",
                topic=self._topic_name(topic_id),
            )

    def _waiting(self, life: ColdLife) -> Iterator[Problem]:
        tiering = life.tiering
        if tiering.refused is not None:
            yield Problem("not_coded", "warning", f"nothing is coded now: {tiering.refused}")
        for key, failure in list(tiering.encodings)[:NAMED_MAX]:
            yield self._of_segment(
                "encode_failed", key, f"could not be coded ({failure.count} times): "
                f"{failure.reason.removeprefix(f'{key}: ')}",
            )  # fmt: skip
        for encoding, failure in list(tiering.releases)[:NAMED_MAX]:
            found = self._tier.generation(encoding)
            if found is not None:
                text = f"its hot copy stays ({failure.count} checks failed): {failure.reason}"
                yield self._of_segment("release_failed", found.key, text)
        if tiering.degraded:
            yield Problem(
                "release_waits",
                "warning",
                f"{len(tiering.degraded)} segments keep their hot copies until all their chunks "
                "are there and their nodes live",
            )
        for encoding in sorted(tiering.hot_missing)[:NAMED_MAX]:
            found = self._tier.generation(encoding)
            if found is not None:
                text = "its hot file should be here and is not; it is read from its chunks"
                yield self._of_segment("hot_file_missing", found.key, text)

    def _chunks(self, life: ColdLife) -> Iterator[Problem]:
        for generation, place, reason in list(life.view.findings())[:NAMED_MAX]:
            text = f"chunk {place.index} on node {place.node}: {reason}"
            yield self._of_segment("chunk_damaged", generation.key, text)
        inventory, removal = life.inventory, life.removal
        if inventory.quarantined_count:
            names = [
                f"{each.chunk.name} on {each.node}"
                for each in list(inventory.quarantined.values())[-3:]
            ]
            yield Problem(
                "chunks_quarantined",
                "warning",
                f"{inventory.quarantined_count} chunks that no record explains were put into "
                f"quarantine since the start, among them {', '.join(names)}",
            )
        for node, failure in removal.failures:
            yield Problem(
                "chunks_not_removed", "warning", f"node {node} keeps chunks that are to go: "
                f"{failure.reason}",
            )  # fmt: skip

    def _of_segment(self, kind: str, key: SegmentKey, text: str) -> Problem:
        return Problem(
            kind,
            "warning",
            f"segment {key.base_offset} of {self._name(key)}: {text}",
            topic=self._topic_name(key.topic_id),
            partition=key.partition,
        )

    def _name(self, key: SegmentKey) -> str:
        return f"{self._topic_name(key.topic_id) or key.topic_id.hex()}-{key.partition}"
