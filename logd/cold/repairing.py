"""Carries out repair plans: makes lost chunks again, and moves chunks off nodes that leave.

Nothing of a repair is kept but what the catalog says. A plan is made from facts when anything
changed, or a delay ends; what may begin begins; what is under way and no longer wanted, because its
node came back, is cancelled. After a crash the same facts give the same plan.

One segment is repaired under its lease: all lost chunks in one pass (`ec.repair.Rebuild`), inputs
verified block by block, what comes out checked against the manifest before it has a name. Only then
the catalog gives the chunk its place; the old place is leaving, and whoever removes chunks removes
it once its node is there. A crash in between leaves a whole chunk without a place: before a chunk
is made again, the nodes that could have it are asked (`_found_elsewhere`). Where the topic was
deleted meanwhile no record will ever name it: it is taken back (`_take_back`).

What has too few chunks left, and is still here as a hot copy, is coded anew from that
(`hot_copies`), by the encoder and under its lease.

What a node says of its chunks while they are read is noted (`chunk_findings`); a node that does not
answer is no finding. A failure holds the one segment back for a while, and nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import trio

from ec.errors import ChunkDamagedError, ChunkMissingError, EcError
from ec.manifest import Manifest
from ec.repair import Rebuild, copy
from logd.cold.attempts import Attempts
from logd.cold.chunk_findings import ChunkFindings, ChunkPlace
from logd.cold.chunk_health import ChunkHealth, TopicName, now_ms
from logd.cold.hot_copies import HotCopies
from logd.cold.limited_store import Budget, LimitedStore
from logd.cold.move_queue import MoveQueue
from logd.cold.removal import chunk_id
from logd.cold.repair_metrics import RepairMetrics
from logd.cold.tier import ColdTier
from logd.errors import ColdStateError, LogdError
from logd.events import EventLog
from logd.policy.cold.leases import Lease, Work
from logd.policy.cold.moves import Move
from logd.policy.cold.queue_eta import QueueEta, estimate_queue
from logd.policy.cold.rates import MeasuredRate, repair_rate
from logd.policy.cold.removal import ChunkName
from logd.policy.cold.repair_plan import (
    Method,
    RepairFacts,
    RepairItem,
    RepairPlan,
    RepairRules,
    Step,
    plan_repairs,
)
from logd.policy.cold.values import LIVE, REMOVABLE, Generation, NodeState, Profile
from logd.units import MIB

RUNNING_MAX: Final = 2
"""Segments that are repaired at once: each holds a window of k chunks and of what is made."""

WINDOW_BYTES: Final = MIB
"""Of each chunk at a time. A disk that the logs use as well reads k of them before an append's sync
has its turn; longer ones would cost less CPU."""

IDLE_S: Final = 30.0
"""How often a plan is made though nothing seems to have changed: breakers close by time alone."""

REST_S: Final = 0.05
"""Between two plans, however much changes."""

MEASURE_S: Final = 0.05
"""The rate is measured over pieces of at least this length, or up to the end of a repair."""

TAKE_BACK_S: Final = 5.0
"""How long is tried to remove what was made of a segment that is deleted by now; what stays goes
when its node is looked through: the catalog remembers what is gone."""

LOOK_S: Final = 0.1
"""How often a node is asked that is still at the chunk."""

GAP_S: Final = 1.0
"""Shorter times between two repairs belong to the work, and to its rate."""

MOVES_SHOWN_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class RepairSettings:
    """repair.delay.ms and repair.rate.bytes."""

    delay_ms: int
    rate_bytes: int


@dataclass(slots=True, eq=False)
class Running:
    """A segment that is being repaired.

    Attributes:
        read_bytes, written_bytes: so far.
        is_wanted: it was in the last plan.
    """

    generation: Generation
    margin: int
    began_s: float
    read_bytes: int = 0
    written_bytes: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def done_bytes(self) -> int:
        """Read and written."""
        return self.read_bytes + self.written_bytes


@dataclass(slots=True)
class RepairCounts:
    """What was done since the start.

    Attributes:
        made: chunks that were made again; `moved`: that were copied.
        failed: attempts.
    """

    made: int = 0
    moved: int = 0
    failed: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


class Repairer:
    """See the module. Lives on the event loop.

    Attributes:
        counts: what was done since the start.
        running: what is under way, by encoding.
        rate: what was read and written a second, while anything was.
        failures: by encoding; the reasons are for people.
        hurried: how many people wait for a repair and want no delays.
        moves: chunks that people want elsewhere; made when nothing is to be repaired.
        moving: the one that is under way.
    """

    def __init__(
        self,
        tier: ColdTier,
        findings: ChunkFindings,
        health: ChunkHealth,
        settings: RepairSettings,
        *,
        events: EventLog,
        metrics: RepairMetrics,
        hot: HotCopies | None = None,
    ) -> None:
        self._tier = tier
        self._hot = hot
        self._findings = findings
        self._health = health
        self._settings = settings
        self._events = events
        self._metrics = metrics
        self._budgets: dict[str, Budget] = {}
        self._news = trio.Event()
        self._piece_began_s = 0.0
        self._piece_bytes = 0
        self.counts = RepairCounts()
        self.running: dict[str, Running] = {}
        self.rate = MeasuredRate()
        self.failures: Attempts[str] = Attempts(now_ms)
        self.hurried = 0
        self.moves: Final = MoveQueue()
        self.moving: Move | None = None
        health.on_change.append(self.wake)

    # --- plans ------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There may be something new to do."""
        self._news.set()

    def plan(self, *, ignores_delays: bool | None = None) -> RepairPlan:
        """Return what is to be repaired now, and why each item waits."""
        if ignores_delays is None:
            ignores_delays = self.hurried > 0
        leased = {
            key: lease.work
            for lease in self._tier.leases
            for key in lease.keys
            if lease.work is not Work.REPAIR
        }
        segments = self._health.look()
        facts = RepairFacts(
            nodes=self._health.nodes(),
            leased=leased,
            running=frozenset(self.running),
            retry_at_ms={key: failure.retry_at_ms for key, failure in self.failures},
            anew=self.anew(margin.generation for _, margin in segments if margin.has_hot_copy),
        )
        rules = RepairRules(
            delay_ms=self._settings.delay_ms, running_max=RUNNING_MAX,
            ignores_delays=ignores_delays,
        )  # fmt: skip
        return plan_repairs(segments, facts, rules, now_ms=now_ms())

    def anew(self, generations: Iterable[Generation]) -> dict[str, Profile]:
        """Return which of these are still here, and with which profile each would be coded."""
        return {} if self._hot is None else self._hot.profiles(generations)

    def eta(self, plan: RepairPlan) -> QueueEta:
        """Return when what is queued will be done, by the rate that was measured."""
        done = {encoding: self._done_bytes(running) for encoding, running in self.running.items()}
        return estimate_queue(plan, bytes_s=self.rate.bytes_s, done_bytes=done, now_ms=now_ms())

    def _done_bytes(self, running: Running) -> int:
        """Return what was read and written for a segment, by whoever does it."""
        coded = 0 if self._hot is None else self._hot.done_bytes(running.generation)
        return running.done_bytes + coded

    # --- the loop ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                wait_s = IDLE_S
                try:
                    wait_s = self._begin_due(nursery)
                except Exception as error:  # One bad plan must not be the last one.
                    self._events.error("repair plan failed", reason=repr(error))
                with trio.move_on_after(wait_s):
                    await self._news.wait()
                await trio.sleep(REST_S)

    def _begin_due(self, nursery: trio.Nursery) -> float:
        """Begin what may begin, cancel what is not wanted; return how long that holds."""
        plan = self.plan()
        wanted = {item.encoding for item in plan.items}
        for encoding, running in self.running.items():
            if encoding not in wanted:
                running.scope.cancel()  # Its node came back, or the segment is gone.
        self.failures.keep_only(wanted)
        if self._tier.nodes.stale is not None:
            return IDLE_S
        for item in plan.ready:
            self._begin(nursery, item)
        if not plan.ready and not self.running and self.moving is None:
            self._begin_move(nursery)
        if plan.next_ms is None:
            return IDLE_S
        return min(IDLE_S, max(0.0, (plan.next_ms - now_ms()) / 1000))

    def _begin(self, nursery: trio.Nursery, item: RepairItem) -> None:
        generation = item.condition.generation
        # What codes a segment anew takes the lease itself.
        keys = set() if item.is_coded_anew else {generation.key}
        lease = self._tier.leases.take(Work.REPAIR, keys) if keys else None
        if lease is None and keys:
            return
        running = Running(generation, item.margin.nodes, trio.current_time())
        self._begin_piece()
        self.running[item.encoding] = running

        async def work() -> None:
            try:
                with running.scope:
                    await self._repair(item, running)
                await self._take_back(generation, _targets(item.steps))
            finally:
                if lease is not None:
                    self._tier.leases.give_back(lease)
                del self.running[item.encoding]
                self._end_piece()
                self.wake()

        nursery.start_soon(work)

    async def _repair(self, item: RepairItem, running: Running) -> None:
        """Carry out an item's steps; a failure is noted, never raised."""
        try:
            for step in item.steps:
                await self._carry_out(step, item, running)
        except Exception as error:  # Whatever it is, it ends this one item.
            self.counts.failed += 1
            self._metrics.failures.add()
            self.failures.failed(item.encoding, _reason(error))
            self._events.warning(
                "repair failed", segment=str(running.generation), reason=_reason(error)
            )
        else:
            self.failures.succeeded(item.encoding)

    async def _carry_out(self, step: Step, item: RepairItem, running: Running) -> None:
        generation = running.generation
        if step.method is Method.HOT_COPY:
            await self._code_anew(running)
            return
        manifest = await self._tier.manifest(generation.encoding)
        if step.method is Method.COPY:
            ((index, target),) = step.targets
            await self._copy(manifest, generation.held[index], index, target, running)
            return
        targets = dict(step.targets)
        for index in list(targets):
            if await self._found_elsewhere(manifest, running.generation, index):
                del targets[index]
        if targets:
            await self._rebuild(manifest, item, targets, step.method, running)

    # --- steps ------------------------------------------------------------------------------------

    async def _rebuild(
        self,
        manifest: Manifest,
        item: RepairItem,
        targets: dict[int, str],
        method: Method,
        running: Running,
    ) -> None:
        """Compute chunks and give them their places."""
        generation = running.generation
        held = generation.held

        def trouble(index: int, error: EcError) -> None:
            self._findings.note(ChunkPlace(generation.encoding, index, held[index]), error)

        rebuild = Rebuild(
            manifest,
            {index: self._store(held[index], running) for index in item.condition.live},
            {index: self._store(node, running) for index, node in targets.items()},
            codec=self._tier.codec(generation.profile),
            offload=self._tier.offload,
            on_trouble=trouble,
            window_bytes=WINDOW_BYTES,
        )
        await rebuild.run()
        for index, node in targets.items():
            await self._publish(generation, index, node, method.value)
            self.counts.made += 1

    async def _code_anew(self, running: Running) -> None:
        """Code a segment from its hot copy; its next generation is committed then."""
        assert self._hot is not None
        made = await self._hot.code_anew(running.generation)
        self._moved(running, "read", made.source_bytes)
        self._moved(running, "written", sum(self._tier.holdings.lengths(made.encoding) or ()))
        for _ in made.held:
            self._metrics.made(Method.HOT_COPY.value)
        self.counts.made += len(made.held)
        self._events.info("segment coded anew from its hot copy", segment=str(made))

    async def _copy(
        self, manifest: Manifest, source: str, index: int, target: str, running: Running
    ) -> None:
        """Copy a chunk from its node to another and give it its place there."""
        generation = running.generation
        try:
            await copy(
                manifest.chunk_id(index),
                self._store(source, running),
                self._store(target, running),
            )
        except (ChunkDamagedError, ChunkMissingError) as error:
            self._findings.note(ChunkPlace(generation.encoding, index, source), error)
            raise
        await self._publish(generation, index, target, Method.COPY.value)
        self.counts.moved += 1

    async def _found_elsewhere(
        self, manifest: Manifest, generation: Generation, index: int
    ) -> bool:
        """Give a lost chunk its place on a node that has it, whole: what a crash left behind."""
        for node in self._spare_nodes(generation):
            try:
                store = self._tier.nodes.store(node, "repair")
                head = await store.head(manifest.chunk_id(index))
                if head.manifest != manifest or await store.verify(manifest.chunk_id(index)):
                    continue
            except (EcError, LogdError):
                continue  # Not there, as far as is known: it is made again.
            await self._publish(generation, index, node, "found")
            self.counts.made += 1
            return True
        return False

    def _spare_nodes(self, generation: Generation) -> list[str]:
        """Return the nodes that a chunk of a segment may be on besides its place."""
        used = {*generation.held.values(), *generation.leaving_nodes}
        facts = {each.name: each for each in self._tier.nodes.facts()}
        domains = [facts[name].failure_domain for name in used if name in facts]
        return [
            name
            for name, each in facts.items()
            if name not in used
            and each.state is NodeState.ACTIVE
            and self._tier.nodes.is_live(name)
            and domains.count(each.failure_domain) < generation.profile.m
        ]

    async def _publish(self, generation: Generation, index: int, node: str, method: str) -> None:
        """Record that a chunk is on a node, verified; cancelling waits for it."""
        encoding = generation.encoding
        with trio.CancelScope(shield=True):
            if generation.held.get(index) != node:
                try:
                    await self._tier.place_chunk(encoding, index=index, node=node)
                except ColdStateError:
                    await self._tier.look_again(encoding)  # It may be the first to tell.
                    raise
            self._findings.right(ChunkPlace(encoding, index, node))
            if len(self._findings):
                self._findings.keep_only(self._tier.generations())
        self._metrics.made(method)
        self._events.info(
            "chunk made again", segment=str(generation), chunk=index, node=node, method=method
        )
        self.wake()

    async def _take_back(self, generation: Generation, targets: Iterable[tuple[int, str]]) -> None:
        """Remove what was made of a segment that is deleted by now, and that no record names.

        A deletion waits for nobody: its records are of the places of that moment. While the segment
        is live, what has no place stays; repair finds it, or the node's inventory removes it.
        """
        now = self._tier.generation(generation.encoding)
        if now is not None and now.state not in REMOVABLE:
            return
        named = () if now is None else [(at.index, at.node) for at in now.placements]
        left = set(targets).difference(named)
        with trio.move_on_after(TAKE_BACK_S):
            while left:
                for index, node in sorted(left):
                    if await self._is_gone(generation, index, node):
                        left.discard((index, node))
                await trio.sleep(LOOK_S)

    async def _is_gone(self, generation: Generation, index: int, node: str) -> bool:
        """Remove a chunk; return whether its node said so."""
        key, number, encoding = generation.key, generation.number, generation.encoding
        try:
            store = self._tier.nodes.store(node, "repair")
            await store.delete(chunk_id(ChunkName(key, number, encoding, index, node)))
        except (EcError, LogdError):
            return False  # It is at it still, or away.
        return True

    def _store(self, node: str, running: Running) -> LimitedStore:
        """Return a node's store at repair's rate; the rate depends on the segment's margin."""
        setting, margin = self._settings.rate_bytes, running.margin
        budget = self._budget(node)

        def rate(device: MeasuredRate) -> float:
            return repair_rate(setting, measured_bytes_s=device.bytes_s, margin=margin)

        def moved(way: str, count: int) -> None:
            self._moved(running, way, count)

        store = self._tier.nodes.store(node, "repair")
        return LimitedStore(store, budget, rate=rate, moved=moved)

    def _budget(self, node: str) -> Budget:
        """Return what a node shares with the others on its device; a rate that is set is its own.

        What was measured is a device's: the half of it, taken by each of six nodes, would be all.
        """
        device = None
        if not self._settings.rate_bytes:
            device = next(
                (each.device for each in self._tier.nodes.facts() if each.name == node), None
            )
        place = f"node {node}" if device is None else f"device {device}"
        return self._budgets.setdefault(place, Budget())

    def _moved(self, running: Running, way: str, count: int) -> None:
        if way == "read":
            running.read_bytes += count
            self.counts.read_bytes += count
            self._metrics.read_bytes.add(count)
        else:
            running.written_bytes += count
            self.counts.written_bytes += count
            self._metrics.written_bytes.add(count)
        self._piece_bytes += count
        if trio.current_time() - self._piece_began_s >= MEASURE_S:
            self._end_piece()

    def _begin_piece(self) -> None:
        """Measure from now on, if nothing was done for a while."""
        is_idle = not self.running and self.moving is None
        if is_idle and trio.current_time() - self._piece_began_s > GAP_S:
            self._piece_began_s, self._piece_bytes = trio.current_time(), 0

    def _end_piece(self) -> None:
        """Take what was moved, and how long it took, into the rate."""
        now_s = trio.current_time()
        if now_s > self._piece_began_s:
            passed_s = now_s - self._piece_began_s
            self.rate = self.rate.with_piece(self._piece_bytes, seconds=passed_s)
            self._piece_began_s, self._piece_bytes = now_s, 0

    # --- moves ------------------------------------------------------------------------------------

    def add_moves(self, moves: Sequence[Move]) -> None:
        """Queue chunks that people want elsewhere; what is queued already is not doubled."""
        self.moves.add(moves, is_idle=self.moving is None)
        self.wake()

    def move_documents(self, topic_name: TopicName) -> list[dict[str, Any]]:
        """Return the first moves that are to be made, and why they wait, as the admin port does."""
        running = [] if self.moving is None else [(self.moving, "running", "")]
        why = "one chunk is moved at a time, and when nothing is to be repaired"
        queued = [(each, "queued", why) for each in islice(self.moves, MOVES_SHOWN_MAX)]
        return [
            {
                "topic": topic_name(move.generation.key.topic_id)
                or move.generation.key.topic_id.hex(),
                "partition": move.generation.key.partition,
                "base_offset": move.generation.key.base_offset,
                "chunk": move.index,
                "source": move.source,
                "target": move.target,
                "state": state,
                "reason": reason,
            }
            for move, state, reason in running + queued
        ]

    def _begin_move(self, nursery: trio.Nursery) -> None:
        """Begin the first move that can be made now."""
        for _ in range(len(self.moves)):
            move = self.moves.take()
            now = self._tier.generation(move.generation.encoding)
            if now is None or now.state not in LIVE or now.held.get(move.index) != move.source:
                continue  # There is nothing left to be moved.
            why = self._why_not(move, now)
            if why is not None:
                self.moves.give_up(move, why)
                continue
            lease = self._tier.leases.take(Work.MOVE, {now.key})
            if lease is None:
                self.moves.put_back(move)
                continue
            self._begin_piece()
            self.moving = move
            running = Running(now, now.profile.m, trio.current_time())
            nursery.start_soon(self._move, move, running, lease)
            return

    def _why_not(self, move: Move, now: Generation) -> str | None:
        """Return why a move cannot be made; None: it can."""
        if move.target in {*now.held.values(), *now.leaving_nodes}:
            return f"{move.target} has a chunk of the segment by now"
        return None if self._tier.nodes.is_live(move.target) else f"{move.target} is not live"

    async def _move(self, move: Move, running: Running, lease: Lease) -> None:
        try:
            manifest = await self._tier.manifest(move.generation.encoding)
            await self._copy(manifest, move.source, move.index, move.target, running)
            self.moves.made += 1
        except Exception as error:  # Whatever it is, it ends this one move.
            self.counts.failed += 1
            self.moves.give_up(move, _reason(error))
            self._events.warning("move failed", move=str(move), reason=_reason(error))
            await self._take_back(running.generation, [(move.index, move.target)])
        finally:
            self._tier.leases.give_back(lease)
            self.moving = None
            self._end_piece()
            self.wake()


def _targets(steps: Iterable[Step]) -> list[tuple[int, str]]:
    """Return the chunks that steps make, each with its node; an encoder's have their records."""
    return [
        target for step in steps if step.method is not Method.HOT_COPY for target in step.targets
    ]


def _reason(error: BaseException) -> str:
    """Return what went wrong in words; of several the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or repr(error)
