"""`logd cold verify`: every chunk of a topic's live generations is read and must prove itself.

Per generation, one after the other:

1. Each node reads its chunk from its device and verifies every block; the head of each is compared
   with the manifest that was committed (as a release does).
2. All chunks are read to here, and in every window each is computed from the others and compared
   (`ec.cross_check`).

Nothing is changed or repaired. What is found goes to the findings too, so that `logd segments` and
repair see it. A generation that was superseded or deleted meanwhile, or a chunk that moved, is not
held against anybody. A node that does not answer is a finding here: the question was whether all is
well, and that is not known.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from ec.cross_check import CrossCheck
from ec.errors import ChunkDamagedError, ChunkMissingError, ChunkVersionError, EcError
from ec.geometry import BLOCK_BYTES
from ec.manifest import Manifest
from ec.segment import file_bytes
from logd.cold.chunk_findings import ChunkFindings, ChunkPlace, ChunkState
from logd.cold.partition_view import ColdPartition
from logd.cold.segment_errors import ColdRefusedError
from logd.cold.tier import ColdTier
from logd.errors import LogdError
from logd.events import EventLog
from logd.policy.cold.values import LIVE, Generation

FINDINGS_MAX: Final = 1000
"""Findings of a job that are told one by one; more are only counted."""

JOBS_KEPT: Final = 20
"""Jobs that are over and can still be asked for."""

AT_ONCE: Final = 2
"""Jobs that read: each reads as fast as nodes give it, and compares in threads that others need."""

UNFINISHED_MAX: Final = 100
"""Jobs that read, or wait for their turn."""


@dataclass(frozen=True, slots=True)
class VerifyFinding:
    """What is wrong with one chunk, at one place.

    Attributes:
        node: None where the chunk has no place.
        block: of the payload; None where it is not about a block.
    """

    generation: Generation
    chunk: int
    node: str | None
    block: int | None
    state: str
    reason: str


@dataclass(slots=True, eq=False)
class VerifyJob:
    """What was asked for, and how far it is.

    Attributes:
        segments, chunks: that were gone through.
        verified_bytes: of chunk files that their nodes read and checked.
        decoded_bytes: that were computed and compared.
        more: findings that are not listed.
        error: why it was not finished; None where it was.
        over: set at the end.
    """

    id: int
    topic: str
    partitions: tuple[int, ...]
    began_s: float
    seconds: float | None = None
    segments: int = 0
    chunks: int = 0
    verified_bytes: int = 0
    decoded_bytes: int = 0
    all_bytes: int = 0
    seen_bytes: int = 0
    findings: list[VerifyFinding] = field(default_factory=list)
    more: int = 0
    error: str | None = None
    over: trio.Event = field(default_factory=trio.Event)

    def find(self, finding: VerifyFinding) -> None:
        """Note what is wrong."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)
        else:
            self.more += 1

    def as_document(self) -> dict[str, Any]:
        """Return the job as the admin port shows it."""
        is_done = self.seconds is not None
        share = min(1.0, self.seen_bytes / self.all_bytes) if self.all_bytes else float(is_done)
        seconds = trio.current_time() - self.began_s if self.seconds is None else self.seconds
        return {
            "id": self.id,
            "topic": self.topic,
            "partitions": self.partitions,
            "done": is_done,
            "progress": 1.0 if is_done else round(share, 4),
            "segments": self.segments,
            "chunks": self.chunks,
            "verified_bytes": self.verified_bytes,
            "decoded_bytes": self.decoded_bytes,
            "findings": [_as_document(self.topic, each) for each in self.findings],
            "findings_not_listed": self.more,
            "error": self.error,
            "seconds": round(seconds, 3),
        }


def _as_document(topic: str, finding: VerifyFinding) -> dict[str, Any]:
    return {
        "topic": topic,
        "partition": finding.generation.key.partition,
        "base_offset": finding.generation.key.base_offset,
        "generation": finding.generation.number,
        "chunk": finding.chunk,
        "node": finding.node,
        "block": finding.block,
        "state": finding.state,
        "reason": finding.reason,
    }


class Verifier:
    """All verifications of a server. Lives on the event loop; `run` must be running."""

    def __init__(self, tier: ColdTier, findings: ChunkFindings, events: EventLog) -> None:
        self._tier = tier
        self._findings = findings
        self._events = events
        self._ids = itertools.count(1)
        self._jobs: dict[int, VerifyJob] = {}
        self._turns = trio.Semaphore(AT_ONCE)
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Let jobs run until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def begin(self, topic: str, partitions: Sequence[ColdPartition]) -> VerifyJob:
        """Begin to verify all live generations of some partitions, or join the job that does.

        Raises:
            ColdRefusedError: too many are not over, or the server is stopping.
        """
        indexes = tuple(each.index for each in partitions)
        unfinished = [each for each in self._jobs.values() if each.seconds is None]
        for job in unfinished:
            if (job.topic, job.partitions) == (topic, indexes):
                return job
        if len(unfinished) >= UNFINISHED_MAX:
            raise ColdRefusedError(f"{len(unfinished)} verifications are not over; wait for some")
        if self._nursery is None:
            raise ColdRefusedError("the server is stopping")
        job = VerifyJob(next(self._ids), topic, indexes, trio.current_time())
        self._jobs[job.id] = job
        over = [each.id for each in self._jobs.values() if each.seconds is not None]
        for old in over[: max(0, len(self._jobs) - JOBS_KEPT)]:
            del self._jobs[old]
        self._nursery.start_soon(self._work, job, list(partitions))
        return job

    def job(self, number: int) -> VerifyJob | None:
        """Return a job, if it is known."""
        return self._jobs.get(number)

    async def _work(self, job: VerifyJob, partitions: Sequence[ColdPartition]) -> None:
        try:
            async with self._turns:
                await self._verify(job, partitions)
        except Exception as error:  # A bug of ours ends one job, not the server.
            job.error = str(error) or repr(error)
            self._events.error("verification failed", topic=job.topic, reason=repr(error))
        finally:
            job.seconds = trio.current_time() - job.began_s
            job.over.set()

    async def _verify(self, job: VerifyJob, partitions: Sequence[ColdPartition]) -> None:
        waiting = [
            generation
            for each in partitions
            for generation in self._tier.coverage(each.topic_id, each.index).generations
        ]
        # Each chunk is read twice: by its node, and to here.
        job.all_bytes = sum(2 * _stored_bytes(each) for each in waiting)
        for generation in waiting:
            await _OneCheck(self._tier, self._findings, job, generation).run()


def _stored_bytes(generation: Generation) -> int:
    """Return about what all chunks of a generation come to."""
    k, m = generation.profile.k, generation.profile.m
    return generation.source_bytes * (k + m) // k


class _OneCheck:
    """The verification of one generation."""

    def __init__(
        self, tier: ColdTier, findings: ChunkFindings, job: VerifyJob, generation: Generation
    ) -> None:
        self._tier = tier
        self._findings = findings
        self._job = job
        self._generation = generation
        self._found: list[VerifyFinding] = []
        self._seen: set[tuple[int, int | None]] = set()

    async def run(self) -> None:
        """Check it; tell the job what is wrong."""
        seen_before = self._job.seen_bytes
        try:
            manifest = await self._tier.manifest(self._generation.encoding)
        except LogdError as error:
            self._note(0, None, "unknown", f"its manifest cannot be read: {error}")
        else:
            await self._check(manifest)
        self._job.segments += 1
        self._job.seen_bytes = seen_before + 2 * _stored_bytes(self._generation)
        for finding in self._found:
            if self._still_holds(finding):
                self._job.find(finding)

    async def _check(self, manifest: Manifest) -> None:
        generation = self._generation
        for index in range(generation.profile.chunks):
            if index not in generation.held:
                self._note(index, None, ChunkState.MISSING.value, "it has no place")
        stores = self._tier.stores(generation, "scrub")
        readable: list[int] = []
        sizes = file_bytes(manifest)

        async def verify(index: int) -> None:
            if await self._verify(manifest, index):
                readable.append(index)
            self._job.chunks += 1
            self._job.seen_bytes += sizes[index]

        async with trio.open_nursery() as nursery:
            for index in stores:
                nursery.start_soon(verify, index)
        cross = CrossCheck(
            manifest,
            {index: stores[index] for index in sorted(readable)},
            codec=self._tier.codec(generation.profile),
            offload=self._tier.offload,
            on_trouble=self._trouble,
            on_read=self._read,
        )
        for each in await cross.run():
            reason = (
                f"is not what the other chunks give, from byte {each.position} of its payload on "
                f"(computed by {each.arithmetic})"
            )
            self._note(each.index, each.position // BLOCK_BYTES, ChunkState.CORRUPT.value, reason)
        self._job.decoded_bytes += cross.decoded_bytes

    async def _verify(self, manifest: Manifest, index: int) -> bool:
        """Have a chunk verified where it is; return whether its payload is worth reading."""
        place = ChunkPlace(self._generation.encoding, index, self._generation.held[index])
        store = self._tier.stores(self._generation, "scrub")[index]
        chunk = manifest.chunk_id(index)
        try:
            damage = await store.verify(chunk)
            for error in damage:
                self._trouble(index, error)
            if damage:
                self._findings.note(place, damage[0])
                return all(error.region == "payload" for error in damage)
            head = await store.head(chunk)
        except EcError as error:
            self._trouble(index, error)
            self._findings.note(place, error)
            return False
        if head.manifest != manifest:
            other = ChunkDamagedError(
                chunk.name, region="manifest", position=head.trailer.manifest_at,
                reason="is not the manifest that was committed",
            )  # fmt: skip
            self._trouble(index, other)
            self._findings.note(place, other)
            return False
        self._findings.right(place)
        self._job.verified_bytes += head.trailer.file_bytes
        return True

    def _read(self, count: int) -> None:
        self._job.seen_bytes += count

    # --- findings -----------------------------------------------------------------------------

    def _trouble(self, index: int, error: EcError) -> None:
        if isinstance(error, ChunkDamagedError):
            in_payload = error.region == "payload"
            block = error.position // BLOCK_BYTES if in_payload else None
            reason = f"{error.region} at byte {error.position}: {error.reason}"
            self._note(index, block, ChunkState.CORRUPT.value, reason)
        elif isinstance(error, ChunkMissingError):
            self._note(index, None, ChunkState.MISSING.value, "its node does not have it")
        elif isinstance(error, ChunkVersionError):
            self._note(index, None, ChunkState.CORRUPT.value, str(error))
        else:
            self._note(index, None, ChunkState.UNKNOWN.value, str(error))

    def _note(self, index: int, block: int | None, state: str, reason: str) -> None:
        """Note a finding; of one block, or of one chunk as a whole, the first."""
        if (index, block) not in self._seen:
            self._seen.add((index, block))
            node = self._generation.held.get(index)
            self._found.append(VerifyFinding(self._generation, index, node, block, state, reason))

    def _still_holds(self, finding: VerifyFinding) -> bool:
        """Whether the catalog says the same of generation and chunk as when it was checked."""
        now = self._tier.generation(self._generation.encoding)
        return now is not None and now.state in LIVE and now.held.get(finding.chunk) == finding.node
