"""`logd repair`, as the server sees it: everything that can be repaired is, now.

A job looks through all nodes first, and waits until each has answered or is dead: what nobody can
see yet is neither lost nor there. Then repair goes on without its delays, at its rates, until
nothing is left that can be made; what is left says why. A job belongs to the server, not to the
connection that asked for it: who asked may leave and look again.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from ec.errors import EcError
from logd.cold.chunk_health import ChunkHealth, TopicName, now_ms
from logd.cold.missing import MissingChunks
from logd.cold.repairing import Repairer
from logd.cold.tier import ColdTier
from logd.errors import LogdError
from logd.events import EventLog
from logd.policy.cold.condition import ChunkState
from logd.policy.cold.queue_eta import QueueEta
from logd.policy.cold.repair_plan import Hold, Method, RepairItem, RepairPlan
from logd.policy.node_health import NodeHealth

JOBS_KEPT: Final = 50
LOOK_S: Final = 0.1
SETTLE_S: Final = 5.0
"""How long after node.dead.ms a job goes on waiting for a node that neither answers nor is dead."""
ATTEMPTS: Final = 2
"""A segment whose repair failed so often is counted as failed; it is tried again all the same."""
UNRECOVERABLE_MAX: Final = 1000

_GOES_ON: Final = frozenset((Hold.DELAY, Hold.RATE, Hold.LEASED, Hold.SOURCE_SLOW))


@dataclass(slots=True, eq=False)
class RepairJob:
    """What was asked for, and how far it is.

    Attributes:
        state: "looking", "repairing" or "done".
        missing, corrupt: chunks, when it began to repair.
        repaired: chunks made or moved since; `failed`: segments.
    """

    id: int
    began_s: float
    state: str = "looking"
    seconds: float | None = None
    missing: int = 0
    corrupt: int = 0
    repaired: int = 0
    failed: int = 0
    repaired_bytes: int = 0
    read_bytes: int = 0
    all_bytes: int = 0
    left: list[dict[str, Any]] = field(default_factory=list)
    unrecoverable: list[dict[str, Any]] = field(default_factory=list)
    below_target: int = 0
    eta_s: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self.seconds is not None

    def as_document(self) -> dict[str, Any]:
        """Return it as the admin port shows it."""
        seconds = trio.current_time() - self.began_s if self.seconds is None else self.seconds
        done_bytes = self.repaired_bytes + self.read_bytes
        share = min(1.0, done_bytes / self.all_bytes) if self.all_bytes else 0.0
        return {
            "id": self.id,
            "state": self.state,
            "done": self.is_done,
            "progress": 1.0 if self.is_done else round(share, 4),
            "missing": self.missing,
            "corrupt": self.corrupt,
            "repaired": self.repaired,
            "failed": self.failed,
            "repaired_bytes": self.repaired_bytes,
            "read_bytes": self.read_bytes,
            "seconds": round(seconds, 3),
            "unrecoverable": self.unrecoverable,
            "left": self.left,
            "below_target": self.below_target,
            "eta_s": self.eta_s,
        }


class RepairJobs:
    """All jobs of a server. Lives on the event loop; `run` must be running.

    Args:
        dead_ms: node.dead.ms.
    """

    def __init__(
        self,
        tier: ColdTier,
        health: ChunkHealth,
        missing: MissingChunks,
        repairer: Repairer,
        *,
        dead_ms: int,
        topic_name: TopicName,
        events: EventLog,
    ) -> None:
        self._tier = tier
        self._health = health
        self._missing = missing
        self._repairer = repairer
        self._dead_ms = dead_ms
        self._topic_name = topic_name
        self._events = events
        self._ids = itertools.count(1)
        self._jobs: dict[int, RepairJob] = {}
        self._nursery: trio.Nursery | None = None
        self._started = trio.Event()

    async def run(self) -> None:
        """Let jobs run until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._started.set()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def begin(self) -> RepairJob | None:
        """Begin to repair, or join the job that does; None: the server is stopping."""
        await self._started.wait()
        for job in self._jobs.values():
            if not job.is_done:
                return job
        if self._nursery is None:
            return None
        job = RepairJob(next(self._ids), trio.current_time())
        self._jobs[job.id] = job
        while len(self._jobs) > JOBS_KEPT:
            del self._jobs[min(self._jobs)]
        self._nursery.start_soon(self._work, job)
        return job

    def job(self, number: int) -> RepairJob | None:
        """Return a job, if it is known."""
        return self._jobs.get(number)

    # --- working ----------------------------------------------------------------------------------

    async def _work(self, job: RepairJob) -> None:
        try:
            await self._look_through()
            job.state = "repairing"
            self._repairer.hurried += 1
            try:
                self._repairer.wake()
                await self._wait(job)
            finally:
                self._repairer.hurried -= 1
                self._repairer.wake()
        except Exception as error:  # A bug of ours ends one job, not the server.
            job.failed += 1
            job.left.append({"state": "failed", "reason": str(error) or repr(error)})
            self._events.error("repair job failed", reason=repr(error))
        finally:
            job.state, job.seconds = "done", trio.current_time() - job.began_s

    async def _look_through(self) -> None:
        """Look through every node, all side by side; returns when each has answered or is dead."""
        until_s = trio.current_time() + self._dead_ms / 1000 + SETTLE_S
        async with trio.open_nursery() as nursery:
            for name in self._tier.nodes.names():
                nursery.start_soon(self._look_at, name, until_s)

    async def _look_at(self, name: str, until_s: float) -> None:
        while trio.current_time() < until_s:
            try:
                if self._tier.nodes.health(name) is NodeHealth.DEAD:
                    return
                await self._missing.look(name)
                return
            except (EcError, LogdError):
                await trio.sleep(LOOK_S)  # It answers soon, or it is dead soon.

    async def _wait(self, job: RepairJob) -> None:
        """Return when nothing is left that repair can do now."""
        counts = self._repairer.counts
        start = (counts.made + counts.moved, counts.read_bytes, counts.written_bytes)
        plan = self._repairer.plan(ignores_delays=True)
        lost = [chunk for item in plan.items for chunk in item.condition.lost]
        job.missing = sum(chunk.state is ChunkState.MISSING for chunk in lost)
        job.corrupt = len(lost) - job.missing
        job.all_bytes = sum(item.read_bytes + item.write_bytes for item in plan.items)
        until_s = trio.current_time() + self._dead_ms / 1000 + SETTLE_S
        while True:
            job.repaired = counts.made + counts.moved - start[0]
            job.read_bytes = counts.read_bytes - start[1]
            job.repaired_bytes = counts.written_bytes - start[2]
            job.eta_s = self._repairer.eta(plan).total_s
            if not any(self._goes_on(item, until_s) for item in plan.items):
                break
            await trio.sleep(LOOK_S)
            plan = self._repairer.plan(ignores_delays=True)
        self._tell(job, plan)

    def _goes_on(self, item: RepairItem, until_s: float) -> bool:
        """Return whether an item will change without anybody doing anything."""
        if item.is_running or item.hold is None:
            return True
        if item.hold is Hold.RETRY:
            return self._repairer.failures[item.encoding].count < ATTEMPTS
        if item.hold is Hold.SOURCE_SLOW:
            return trio.current_time() < until_s
        return item.hold in _GOES_ON

    def _tell(self, job: RepairJob, plan: RepairPlan) -> None:
        """Take note of what is left."""
        eta = self._repairer.eta(plan)
        job.left = [item_document(item, eta, self._topic_name) for item in plan.items]
        job.failed += sum(item.hold is Hold.RETRY for item in plan.items)
        job.below_target = self._health.counts().below_target
        for item in plan.unrecoverable[:UNRECOVERABLE_MAX]:
            generation = item.condition.generation
            job.unrecoverable.append(
                {
                    "topic": self._topic_name(generation.key.topic_id)
                    or generation.key.topic_id.hex(),
                    "partition": generation.key.partition,
                    "base_offset": generation.key.base_offset,
                    "survivors": len(item.condition.present),
                    "k": generation.profile.k,
                }
            )


def item_document(item: RepairItem, eta: QueueEta, topic_name: TopicName) -> dict[str, Any]:
    """Return an item of the queue as the admin port shows it."""
    generation = item.condition.generation
    key = generation.key
    end_ms = eta.end_ms.get(item.encoding)
    # Which nodes get what is coded anew is decided then.
    steps = [step for step in item.steps if step.method is not Method.HOT_COPY]
    targets = {index: node for step in steps for index, node in step.targets}
    return {
        "topic": topic_name(key.topic_id) or key.topic_id.hex(),
        "partition": key.partition,
        "base_offset": key.base_offset,
        "generation": generation.number,
        "state": item.state,
        "reason": item.reason,
        "margin": item.margin.nodes,
        "margin_chunks": item.margin.chunks,
        "margin_racks": item.margin.domains,
        "methods": [step.method.value for step in item.steps],
        "chunks": [
            {
                "index": chunk.index,
                "node": chunk.node,
                "state": chunk.state.value,
                "reason": chunk.reason,
                "target": targets.get(chunk.index),
            }
            for chunk in item.condition.chunks
            if chunk.is_lost or chunk.index in targets
        ],
        "read_bytes": item.read_bytes,
        "write_bytes": item.write_bytes,
        "due_in_s": None if item.due_ms is None else max(0.0, (item.due_ms - now_ms()) / 1000),
        "eta_s": None if end_ms is None else max(0.0, (end_ms - now_ms()) / 1000),
    }
