"""The loop that moves segments through their life: which is coded, released, or forgotten now.

Each round looks at all that the catalog and the logs say, anew, and starts what is due; what it
starts runs beside it, a few at a time. So nothing hangs on an event that came at a bad moment: an
event (a change of the catalog or of a node) only makes the next round come at once.

    PLANNED that nobody works on   ─▶ ABORTED             (a crash, or an abort that failed)
    below the log start            ─▶ DELETING
    SUPERSEDED, successors proved  ─▶ DELETING
    RELEASED, .log still here      ─▶ checked, .log removed
    COMMITTED and due              ─▶ checked, RELEASED, .log removed
    sealed and due                 ─▶ coded

What fails is tried again later, longer each time, and is a problem on `status` meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from logd.cold.attempts import Attempts
from logd.cold.encoding import ENCODES_AT_ONCE, Encoder
from logd.cold.forgetting import forget_below_start
from logd.cold.partition_view import ColdPartition, Partitions
from logd.cold.releasing import Releaser
from logd.cold.segment_errors import AlreadyCodedError, NodesRefusedError, SegmentBusyError
from logd.cold.tier import ColdTier
from logd.errors import ColdStateError, LogdError
from logd.events import EventLog
from logd.offload import Offload
from logd.policy.cold.leases import Leases
from logd.policy.cold.proof import ReleaseTerms
from logd.policy.cold.states import StartAction, on_start
from logd.policy.cold.values import LIVE, ColdState, Generation, SegmentKey
from logd.policy.tiering import (
    Candidate,
    PartitionFacts,
    ReleasePlan,
    SegmentFacts,
    TieringRules,
    plan_releases,
    plan_tiering,
    release_terms,
    tiering_rules,
)
from logd.units import MINUTE_MS

ROUND_S: Final = 2.0
"""The longest time between two rounds: a roll, or the end of a grace time, is noticed by then."""

ROUND_SHARE: Final = 0.1
"""How much of the loop's time rounds may take, however often they are asked for."""

RELEASES_AT_ONCE: Final = 2
"""Segments whose chunks are checked at a time: each reads k+m whole chunks."""

PARTITIONS_PER_TURN: Final = 50
"""Partitions that are looked at before the loop has its turn."""

GENERATIONS_PER_TURN: Final = 200
"""… and generations."""

REFUSED_PAUSE_S: Final = 5.0
"""How soon nodes that could take no chunk are asked again, whatever is done to the wall clock."""

AHEAD_MAX_MS: Final = 5 * MINUTE_MS
"""How far a commit may seem to lie ahead: a time server may have corrected the clock since."""

DOUBT_S: Final = 3600.0
"""How long the wall clock must have stood behind a commit before it is believed: one that came up
wrong has time to be set right."""


@dataclass(slots=True)
class _Looked:
    """What was last learned of a partition's segments.

    Attributes:
        segment_list: what the facts are of; the log makes a new one with every change.
        cleaned_below: how far the log is compacted.
    """

    segment_list: object
    facts: list[SegmentFacts]
    cleaned_below: int = 0

    def put_back(self, now_ms: int) -> None:
        """Have nothing wait for the time of a clock that was put back, before or since the look."""
        if any(each.sealed_ms > now_ms for each in self.facts):
            self.facts = [
                replace(each, sealed_ms=min(each.sealed_ms, now_ms)) for each in self.facts
            ]


@dataclass(slots=True)
class _Slots:
    """What runs of one kind, so that only so many do."""

    limit: int
    keys: set[SegmentKey] = field(default_factory=set)

    def has_room(self) -> bool:
        """Whether another may begin."""
        return len(self.keys) < self.limit


class Tiering:
    """See the module. Lives on the event loop.

    Attributes:
        encodings, releases: what failed last, and when it is tried again.
        hot_missing: encodings whose hot file should be here and is not.
        degraded: encodings that are due for their release and wait for their repair.
        refused: why nothing can be coded now: nodes, space; None: nothing is in the way.
    """

    def __init__(
        self,
        tier: ColdTier,
        partitions: Partitions,
        encoder: Encoder,
        releaser: Releaser,
        *,
        offload: Offload,
        now_ms: Callable[[], int],
        events: EventLog,
    ) -> None:
        self._tier = tier
        self._partitions = partitions
        self._encoder = encoder
        self._releaser = releaser
        self._offload = offload
        self._now_ms = now_ms
        self._events = events
        self._looked: dict[tuple[bytes, int], _Looked] = {}
        self._encoding = _Slots(ENCODES_AT_ONCE)
        self._releasing = _Slots(RELEASES_AT_ONCE)
        self._wake = trio.Event()
        self.encodings: Attempts[SegmentKey] = Attempts(now_ms)
        self.releases: Attempts[str] = Attempts(now_ms)
        self.hot_missing: set[str] = set()
        self.degraded: tuple[str, ...] = ()
        self.refused: str | None = None
        self._refused_until_s = 0.0
        self._doubted_since_s: dict[str, float] = {}

    def wake(self) -> None:
        """Something changed: look again now."""
        self._wake.set()

    def node_changed(self) -> None:
        """A node came or went: what was refused for want of nodes may be possible."""
        self._refused_until_s = 0.0
        self.wake()

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                began_s = trio.current_time()
                try:
                    await self.run_round(nursery)
                except Exception as error:  # One bad round must not be the last one.
                    self._events.error("tiering: round failed", reason=repr(error))
                await trio.sleep((trio.current_time() - began_s) / ROUND_SHARE)
                with trio.move_on_after(ROUND_S):
                    await self._wake.wait()

    async def run_round(self, nursery: trio.Nursery) -> None:
        """Look at everything once; start what is due in the nursery."""
        partitions = {(each.topic_id, each.index): each for each in self._partitions()}
        generations = self._tier.generations()
        await self._settle(partitions, generations)
        await self._start_releases(nursery, partitions)
        await self._start_encodings(nursery, partitions)
        self._forget_old(partitions)

    # --- what needs no nodes ----------------------------------------------------------------------

    async def _settle(
        self,
        partitions: dict[tuple[bytes, int], ColdPartition],
        generations: Collection[Generation],
    ) -> None:
        """Bring records in line with what is: aborted, deleted, superseded; a missing hot file."""
        missing: set[str] = set()
        for number, generation in enumerate(generations, 1):
            key = generation.key
            partition = partitions.get((key.topic_id, key.partition))
            if key not in self._tier.leases:
                has_hot = partition is not None and has_hot_file(partition, generation)
                action = on_start(generation, has_hot_log=has_hot)
                if action is StartAction.ABORT:
                    await self._try(self._tier.abort(generation.encoding))
                elif partition is None:
                    continue
                elif action is StartAction.LOOK_AT_SUCCESSORS:
                    is_hot = is_all_hot(partition, generation)
                    await self._try(
                        self._tier.drop_superseded(generation.encoding, has_hot_log=is_hot)
                    )
                elif action is StartAction.SAY_HOT_IS_MISSING:
                    missing.add(generation.encoding)
                if generation.state is ColdState.COMMITTED:
                    await self._doubt(generation)
            if number % GENERATIONS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
        self.hot_missing = missing
        for partition in partitions.values():
            if self._tier.generations(partition.topic_id, partition.index):
                await self._try(forget_below_start(self._tier, partition, self._events))

    async def _doubt(self, generation: Generation) -> None:
        """Have the grace time begin now of what was committed by a clock that was far ahead.

        Its hot copy would stay until that time comes, which may be never.
        """
        encoding, now_s = generation.encoding, trio.current_time()
        if generation.changed_ms <= self._now_ms() + AHEAD_MAX_MS:
            self._doubted_since_s.pop(encoding, None)
        elif now_s - self._doubted_since_s.setdefault(encoding, now_s) >= DOUBT_S:
            await self._try(self._tier.begin_grace(encoding))
            if self._tier.generation(encoding) is not generation:
                self._events.warning(
                    "grace time begins now: the clock was ahead at the commit",
                    segment=str(generation),
                )

    async def _try(self, change: Awaitable[object]) -> None:
        """Await a change of the catalog; what it refuses now, a later round may do."""
        try:
            await change
        except ColdStateError:
            return  # It is not due yet, or somebody was faster.
        except LogdError as error:
            self._events.warning("tiering: catalog not changed", reason=str(error))

    def _forget_old(self, partitions: Collection[tuple[bytes, int]]) -> None:
        """Keep nothing of what is not there any more."""
        generations = self._tier.generations()
        encodings = {each.encoding for each in generations}
        self.releases.keep_only(encodings)
        for gone in self._doubted_since_s.keys() - encodings:
            del self._doubted_since_s[gone]
        coded = {each.key for each in generations if each.state in LIVE}
        self.encodings.keep_only(
            {
                key
                for key, _ in self.encodings
                if (key.topic_id, key.partition) in partitions and key not in coded
            }
        )
        self._looked = {key: value for key, value in self._looked.items() if key in partitions}

    # --- releases ---------------------------------------------------------------------------------

    async def _start_releases(
        self, nursery: trio.Nursery, partitions: dict[tuple[bytes, int], ColdPartition]
    ) -> None:
        left_over, committed = [], []
        for partition in partitions.values():
            terms = release_terms(partition.settings)
            coverage = self._tier.coverage(partition.topic_id, partition.index)
            live = coverage.generations if partition.offline is None else ()
            for number, each in enumerate(live, 1):
                if number % GENERATIONS_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
                if each.key in self._tier.leases or not self.releases.may_try(each.encoding):
                    continue
                if each.state is ColdState.COMMITTED:
                    committed.append((each, terms))
                elif has_hot_file(partition, each):
                    left_over.append(each)
        plan = self.plan_releases(committed)
        self.degraded = plan.degraded
        for generation in (*plan.check, *left_over):
            if not self._releasing.has_room():
                return
            key = generation.key
            self._releasing.keys.add(key)
            nursery.start_soon(self._release, partitions[key.topic_id, key.partition], generation)

    def plan_releases(self, committed: Collection[tuple[Generation, ReleaseTerms]]) -> ReleasePlan:
        """Return which of some committed generations are to be checked now."""
        nodes = self._tier.nodes
        return plan_releases(
            committed,
            live_nodes=frozenset(name for name in nodes.names() if nodes.is_live(name)),
            leased=[key for lease in self._tier.leases for key in lease.keys],
            now_ms=self._now_ms(),
        )

    async def _release(self, partition: ColdPartition, generation: Generation) -> None:
        encoding = generation.encoding
        try:
            if generation.state is ColdState.COMMITTED:
                await self._releaser.release(partition, generation)
            else:
                await self._releaser.remove_left_over(partition, generation)
            self.releases.succeeded(encoding)
        except (SegmentBusyError, ColdStateError):
            pass  # Somebody was faster, or it is not due any more: the next round sees.
        except Exception as error:  # One segment must not keep the others hot.
            self.releases.failed(encoding, str(error) or repr(error))
            self._events.warning("segment not released", reason=str(error) or repr(error))
        finally:
            self._releasing.keys.discard(generation.key)
            self.wake()

    # --- encodings --------------------------------------------------------------------------------

    async def _start_encodings(
        self, nursery: trio.Nursery, partitions: dict[tuple[bytes, int], ColdPartition]
    ) -> None:
        now_ms = self._now_ms()
        if not self._encoding.has_room() or trio.current_time() < self._refused_until_s:
            return
        facts: list[tuple[PartitionFacts, TieringRules]] = []
        for number, partition in enumerate(partitions.values(), 1):
            rules = tiering_rules(partition.settings, partition.topic_name)
            if rules.enabled and partition.offline is None:
                facts.append((await self.facts(partition), rules))
            if number % PARTITIONS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
        for candidate in plan_tiering(facts, now_ms=now_ms).encode:
            if not self._encoding.has_room():
                return
            key = candidate.key
            if key not in self._encoding.keys:
                self._encoding.keys.add(key)
                nursery.start_soon(self._encode, partitions[key.topic_id, key.partition], candidate)

    async def _encode(self, partition: ColdPartition, candidate: Candidate) -> None:
        key = candidate.key
        try:
            await self._encoder.encode(partition, key.base_offset)
            self.encodings.succeeded(key)
            self.refused = None
        except (SegmentBusyError, AlreadyCodedError):
            pass  # The next round sees what has become of it.
        except NodesRefusedError as error:
            self._note_refusal(str(error))
        except Exception as error:  # One segment must not keep the others from being coded.
            self.encodings.failed(key, str(error) or repr(error))
            self._events.warning("segment not coded", reason=str(error) or repr(error))
        finally:
            self._encoding.keys.discard(key)
            self.wake()

    def _note_refusal(self, reason: str) -> None:
        """The nodes cannot take it: others would be refused as well, so all wait a little."""
        if self.refused != reason:
            self._events.warning("nothing is coded", reason=reason)
        self.refused = reason
        self._refused_until_s = trio.current_time() + REFUSED_PAUSE_S

    async def facts(self, partition: ColdPartition) -> PartitionFacts:
        """Return what `plan_tiering` wants to know of a partition.

        Raises:
            StorageError, OSError: a file cannot be looked at.
        """
        segment_list = partition.log.segment_list
        place = (partition.topic_id, partition.index)
        looked = self._looked.get(place)
        if looked is None or looked.segment_list is not segment_list:
            sealed = await self._offload.run("cold", partition.log.sealed_segments)
            looked = self._looked[place] = _Looked(segment_list, [
                SegmentFacts(each.base_offset, each.next_offset, each.size_bytes, each.sealed_ms)
                for each in sealed
            ])  # fmt: skip
        looked.put_back(self._now_ms())
        is_compacted = partition.settings.compacted
        if is_compacted:  # A round that changed nothing leaves the list of segments as it was.
            looked.cleaned_below = await self._cleaned_below(partition)
        return PartitionFacts(
            topic_id=partition.topic_id,
            partition=partition.index,
            topic_name=partition.topic_name,
            segments=self._with_retries(place, looked.facts),
            visible_offset=min(partition.high_watermark, partition.log.synced_offset),
            coded=coded_bases(self._tier.generations(*place)),
            leased=leased_bases(self._tier.leases, place),
            cleaned_below=looked.cleaned_below if is_compacted else None,
        )

    async def _cleaned_below(self, partition: ColdPartition) -> int:
        """Return how far a log is compacted; once it is known that takes no thread."""
        log = partition.log
        if log.compaction is not None:
            return log.cleaned_below()
        return await self._offload.run("cold", log.cleaned_below)

    def _with_retries(
        self, place: tuple[bytes, int], segments: Sequence[SegmentFacts]
    ) -> Sequence[SegmentFacts]:
        """Return the facts with the pauses after what failed."""
        pauses = {
            key.base_offset: self.encodings.retry_at_ms(key)
            for key, _ in self.encodings
            if (key.topic_id, key.partition) == place
        }
        if not pauses:
            return segments
        return [replace(each, retry_at_ms=pauses.get(each.base_offset, 0)) for each in segments]


def coded_bases(generations: Iterable[Generation]) -> frozenset[int]:
    """Return the segments, by base offset, that have a planned or live generation."""
    wanted = LIVE | {ColdState.PLANNED}
    return frozenset(each.key.base_offset for each in generations if each.state in wanted)


def leased_bases(leases: Leases, place: tuple[bytes, int]) -> frozenset[int]:
    """Return the segments of a partition, by base offset, that somebody works on."""
    return frozenset(
        key.base_offset
        for lease in leases
        for key in lease.keys
        if (key.topic_id, key.partition) == place
    )


def has_hot_file(partition: ColdPartition, generation: Generation) -> bool:
    """Return whether the segment of a generation has its .log here."""
    segment = partition.log.segment_list.with_base(generation.key.base_offset)
    return segment is not None and segment.released is None


def is_all_hot(partition: ColdPartition, generation: Generation) -> bool:
    """Return whether all segments that have a generation's offsets now have their .log here.

    After a round of compaction these are others than the one that was coded.
    """
    found = [
        segment
        for segment in partition.log.segment_list.items
        if segment.base_offset < generation.next_offset
        and generation.key.base_offset < segment.end_bound
    ]
    return bool(found) and all(segment.released is None for segment in found)
