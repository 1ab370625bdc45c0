"""Coded segments on storage nodes in memory, and all that looks after them, for tests.

Time is Trio's: with a mock clock a quarter of an hour passes at once. The catalog is the real one.
"""

from __future__ import annotations

import io
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from ec.chunk_file import ChunkHead
from ec.chunk_id import ChunkId
from ec.chunk_write import Receipt
from ec.errors import ChunkDamagedError, StoreUnavailableError
from ec.manifest import encode_manifest
from ec.node_identity import NodeIdentity
from ec.profile import Profile as CodedProfile
from logd.clock import Clock
from logd.cold.chunk_findings import ChunkFindings, ChunkPlace
from logd.cold.chunk_health import ChunkHealth
from logd.cold.inventory import Inventory
from logd.cold.life_metrics import LifeMetrics
from logd.cold.missing import MissingChunks
from logd.cold.node_moving import NodeMoving
from logd.cold.nodes import NodeServices
from logd.cold.partition_view import ColdPartition
from logd.cold.removal import Removal
from logd.cold.repair_jobs import RepairJobs
from logd.cold.repair_metrics import RepairMetrics
from logd.cold.repairing import Repairer, RepairSettings
from logd.cold.scrubbing import Scrubber, ScrubServices, ScrubSettings
from logd.cold.tier import ColdTier
from logd.config import load_server_settings
from logd.errors import NodeRefusedError
from logd.events import EventLog
from logd.metrics import Registry
from logd.offload import InlineOffload
from logd.policy.cold.preflight import NodeFacts
from logd.policy.cold.proof import ChunkCheck, Proof, data_chunk_to_decode
from logd.policy.cold.removal import ChunkName, Fate, judge_chunk
from logd.policy.cold.values import Generation, NodeState, Profile, SegmentKey, StorageNode
from logd.policy.node_health import NodeHealth
from logd.storage.catalog import SqliteCatalog
from logd.storage.cold_catalog import Commit, EncodePlan
from logd.storage.scrub_note import ScrubNote
from logd.units import DAY_MS
from tests.contract.check_store import CLUSTER, MemoryStore, MemoryUpload
from tests.crash.lying_disk import FastFiles
from tests.ec_samples import TOPIC_ID, Encoded, encode, noise

START_MS = 1_700_000_000_000
MINUTE_S = 60
DELAY_MS = 15 * MINUTE_S * 1000


class SimClock(Clock):
    """Wall-clock time that passes with Trio's."""

    def now_ms(self) -> int:
        return START_MS + int(trio.current_time() * 1000)


class KilledError(Exception):
    """The server is killed here."""


class RigNode(MemoryStore):
    """A node that does what a test says.

    Attributes:
        health: what probes are taken to have found.
        answers: whether calls are carried out.
        kill_in: after so many calls more the server is killed; None: never.
    """

    def __init__(self, name: str) -> None:
        super().__init__(NodeIdentity(CLUSTER, name, name.encode().hex().rjust(32, "0")))
        self.health_now = NodeHealth.LIVE
        self.answers = True
        self.delay_s = 0.0
        self.read_bytes = 0
        self.written_bytes = 0
        self.before: Callable[[str], None] = lambda _call: None

    async def _answer(self, call: str) -> None:
        await trio.sleep(self.delay_s)
        self.before(call)
        if not self.answers:
            raise StoreUnavailableError(f"{self.node} does not answer")

    async def begin(self, chunk: ChunkId, file_bytes: int) -> RigUpload:
        await self._answer("begin")
        return RigUpload(self, await super().begin(chunk, file_bytes))

    async def head(self, chunk: ChunkId) -> ChunkHead:
        await self._answer("head")
        return await super().head(chunk)

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        await self._answer("read")
        self.read_bytes += end - start
        return await super().read(chunk, start, end)

    async def list(self, *, after: str = "", limit: int = 1000) -> tuple[ChunkId, ...]:
        await self._answer("list")
        return await super().list(after=after, limit=limit)

    async def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        await self._answer("verify")
        return await super().verify(chunk)

    async def delete(self, chunk: ChunkId) -> bool:
        await self._answer("delete")
        return await super().delete(chunk)


class RigUpload:
    """See `RigNode`."""

    def __init__(self, node: RigNode, inner: MemoryUpload) -> None:
        self._node = node
        self._inner = inner

    async def write(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        await self._node._answer("write")
        self._node.written_bytes += sum(len(buffer) for buffer in buffers)
        await self._inner.write(buffers)

    async def finish(self) -> Receipt:
        await self._node._answer("finish")
        return await self._inner.finish()

    async def abort(self) -> None:
        await self._inner.abort()


class RigNodes:
    """As `logd.cold.nodes.StorageNodes`; tests say how nodes are.

    Attributes:
        device: what all of them are on; None: nobody knows.
    """

    def __init__(self, names: str) -> None:
        self.by_name = {name: RigNode(name) for name in names}
        self.records = {
            name: StorageNode(name=name, place=f"/{name}", identity=node.identity.node_id)
            for name, node in self.by_name.items()
        }
        self.refused: set[str] = set()
        self.stale: str | None = None
        self.device: str | None = None
        self.on_change: list[Callable[[str], None]] = []
        self.tier: ColdTier | None = None

    def __getitem__(self, name: str) -> RigNode:
        return self.by_name[name]

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.by_name))

    def node(self, name: str) -> StorageNode:
        return self.records[name]

    async def change(self, record: StorageNode) -> None:
        assert self.tier is not None
        await self.tier.change_node(record)
        self.records[record.name] = record
        self.changed(record.name)

    def store(self, name: str, _purpose: str = "serve") -> RigNode:
        return self.by_name[name]

    def breaker(self, name: str, _purpose: str = "serve") -> str:
        return "open" if name in self.refused else "closed"

    def health(self, name: str) -> NodeHealth:
        return self.by_name[name].health_now

    def is_live(self, name: str) -> bool:
        return name in self.by_name and self.health(name) is NodeHealth.LIVE

    def facts(self) -> list[NodeFacts]:
        return [
            NodeFacts(
                name=name, rack=self.records[name].rack, state=self.records[name].state,
                health=self.health(name), free_bytes=self.by_name[name].free_bytes,
                device=self.device,
            )
            for name in self.names()
        ]  # fmt: skip

    def note_sequence(self) -> None:
        """Nobody is told here."""

    def set_health(self, name: str, health: NodeHealth, *, answers: bool | None = None) -> None:
        """Let probes find out how a node is."""
        self.by_name[name].health_now = health
        self.by_name[name].answers = health is NodeHealth.LIVE if answers is None else answers
        self.changed(name)

    def changed(self, name: str) -> None:
        for call in self.on_change:
            call(name)


class RepairRig:
    """Segments of one partition on some nodes; what looks after them is made anew by `open`.

    Attributes:
        samples: each segment's encoding, by its uuid.
    """

    def __init__(self, directory: str, *, names: str = "abcdefg", seed: int = 1) -> None:
        self.directory = directory
        self.rng = random.Random(seed)
        self.nodes = RigNodes(names)
        self.clock = SimClock()
        self.samples: dict[str, Encoded] = {}
        self.said = io.StringIO()
        self.events = EventLog(self.said, "text", self.clock)
        self.settings = RepairSettings(delay_ms=DELAY_MS, rate_bytes=0)
        self.scrub_settings = ScrubSettings(cycle_ms=14 * DAY_MS, rate_bytes=0)
        self.note = ScrubNote()
        self.catalog = SqliteCatalog.open(f"{directory}/catalog.sqlite", CLUSTER, lambda _: None)
        self.catalog._database.connection.execute("PRAGMA synchronous = OFF")
        self.catalog.create_topic("sample", bytes.fromhex(TOPIC_ID), 4, {})
        for record in self.nodes.records.values():
            self.catalog.cold.add_node(record)
        self.open()

    def open(self) -> None:
        """Make everything that a start makes."""
        config = load_server_settings(file=None, environment={}, flags={})
        services = NodeServices(
            files=FastFiles(), offload=InlineOffload(), events=self.events, cluster_id=CLUSTER,
            settings=config.settings, random=self.rng,
        )  # fmt: skip
        self.tier = ColdTier(self.catalog.cold, services, self.clock)
        self.tier._take(self.catalog.cold.generations(), ())
        vars(self.tier)["nodes"] = self.nodes
        self.nodes.on_change.clear()
        self.nodes.tier = self.tier
        self.findings = ChunkFindings()
        self.registry = Registry()
        self.health = ChunkHealth(self.tier, self.findings, wall_ms=self.clock.now_ms)
        self.repairer = Repairer(
            self.tier, self.findings, self.health, self.settings, events=self.events,
            metrics=RepairMetrics(self.registry),
        )  # fmt: skip
        self.missing = MissingChunks(
            self.tier, self.findings, looked_through=self.health.looked_through,
            events=self.events,
        )  # fmt: skip
        self.inventory = Inventory(self.tier, self.events, metrics=LifeMetrics(self.registry))
        self.inventory.is_needed = self._is_needed
        self.scrubber = Scrubber(
            self.tier, self.findings, self.health, self.scrub_settings, self._scrub_services()
        )
        self.jobs = RepairJobs(
            self.tier, self.health, self.missing, self.repairer, dead_ms=60_000,
            topic_name=lambda _: "sample", events=self.events,
        )  # fmt: skip
        self.moving = NodeMoving(self.tier, self.health, self.missing, self.repairer)

        async def forget(_topic_id: bytes) -> None:
            """No topics are deleted here."""

        self.removal = Removal(
            self.tier, self.events, now_ms=self.clock.now_ms, metrics=LifeMetrics(self.registry),
            forget_topic=forget,
        )  # fmt: skip
        self.tier.on_change.append(lambda _: self.removal.wake())
        self.nodes.on_change.append(lambda _: self.removal.wake())

    def _is_needed(self, chunk: ChunkId) -> bool:
        generation = self.tier.generation(chunk.encoding)
        return generation is not None and not self.health.is_live(chunk.encoding, chunk.index)

    def _scrub_services(self) -> ScrubServices:
        async def give_up(_partition: ColdPartition, _generation: Generation) -> None:
            raise AssertionError("nothing hot is here")

        return ScrubServices(
            partitions=lambda: (), offload=InlineOffload(), events=self.events,
            metrics=self.registry, random=self.rng, now_ms=self.clock.now_ms,
            read_note=lambda: self.note, write_note=self._keep_note, give_up_hot=give_up,
            topic_name=lambda _: "sample",
        )  # fmt: skip

    def _keep_note(self, note: ScrubNote) -> None:
        self.note = note

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let everything run while in here."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.repairer.run)
            nursery.start_soon(self.missing.run)
            nursery.start_soon(self.removal.run)
            nursery.start_soon(self.jobs.run)
            nursery.start_soon(self.inventory.run)
            nursery.start_soon(self.scrubber.run)
            yield
            nursery.cancel_scope.cancel()

    # --- segments ---------------------------------------------------------------------------------

    def code(self, names: str, *, size: int = 300_000, profile: str = "4+2") -> Generation:
        """Put a coded segment onto nodes, chunk by chunk; return its committed generation."""
        number = len(self.samples)
        encoding = f"{self.rng.getrandbits(128):032x}"
        coded = CodedProfile.parse(profile)
        sample = encode(
            noise(size, seed=number), coded, batches=range(0, size, 7_001), encoding=encoding,
            base_offset=number * 1_000_000,
        )  # fmt: skip
        made = sample.manifest
        plan = EncodePlan(
            key=SegmentKey(bytes.fromhex(TOPIC_ID), made.partition, made.base_offset),
            encoding=encoding, profile=Profile(coded.k, coded.m), next_offset=made.next_offset,
            source_bytes=size, nodes=tuple(names),
        )  # fmt: skip
        cold = self.catalog.cold
        generation = cold.plan(plan, now_ms=0)
        for index, name in enumerate(names):
            self.nodes[name].files[sample.ids[index].name] = sample.files[index]
        checks = tuple(ChunkCheck(index, node, True) for index, node in generation.held.items())
        proof = Proof(checks, data_chunk_to_decode(generation), True)
        cold.commit([Commit(encoding, encode_manifest(made), proof)], now_ms=0)
        self.samples[encoding] = sample
        self.tier._take(cold.find([encoding]), [encoding] if self.tier.generation(encoding) else ())
        return self.now(encoding)

    def now(self, encoding: str) -> Generation:
        """Return a generation as the tier has it."""
        found = self.tier.generation(encoding)
        assert found is not None
        return found

    def place(self, generation: Generation, index: int) -> ChunkPlace:
        """Return a chunk's place on record."""
        now = self.now(generation.encoding)
        return ChunkPlace(now.encoding, index, now.held[index])

    def lose(self, generation: Generation, index: int) -> None:
        """Delete a chunk behind the node's back."""
        place = self.place(generation, index)
        name = self.samples[place.encoding].ids[index].name
        del self.nodes[place.node].files[name]

    def rot(self, generation: Generation, index: int, position: int = 5) -> None:
        """Flip a bit of a chunk where it lies."""
        place = self.place(generation, index)
        name = self.samples[place.encoding].ids[index].name
        data = bytearray(self.nodes[place.node].files[name])
        data[position % len(data)] ^= 1
        self.nodes[place.node].files[name] = bytes(data)

    async def wait_for(
        self, is_true: Callable[[], bool], *, seconds: float = 3600, every_s: float = 0.1
    ) -> float:
        """Wait for a condition; return how long it took."""
        began_s = trio.current_time()
        with trio.fail_after(seconds):
            while not is_true():  # noqa: ASYNC110 -- a condition over everything, on a mock clock
                await trio.sleep(every_s)
        return trio.current_time() - began_s

    def is_whole(self) -> bool:
        """Whether every segment has its full margin, and nothing is under way."""
        counts = self.health.counts()
        is_busy = self.repairer.running or self.removal.waiting
        return counts.is_well and not counts.uncertain and not is_busy

    # --- checking ---------------------------------------------------------------------------------

    def check_whole(self) -> None:
        """Every chunk is where the catalog says, byte for byte what it was; nothing else is."""
        expected: dict[str, set[str]] = {name: set() for name in self.nodes.names()}
        for encoding, sample in self.samples.items():
            held = self.now(encoding).held
            assert len(held) == len(sample.files)
            for index, node in held.items():
                name = sample.ids[index].name
                assert self.nodes[node].files.get(name) == sample.files[index], f"{name} on {node}"
                expected[node].add(name)
        for node, names in expected.items():
            assert set(self.nodes[node].files) == names, f"{node} has more than it should"
            assert not self.nodes[node].writing

    def strays(self) -> list[str]:
        """Return the chunks that no record names, where they are."""
        records = {each.encoding: each for each in self.tier.generations()}
        found = []
        for name in self.nodes.names():
            for chunk in map(ChunkId.parse, self.nodes[name].files):
                key = SegmentKey(bytes.fromhex(chunk.topic_id), chunk.partition, chunk.base_offset)
                judged = judge_chunk(
                    ChunkName(key, chunk.generation, chunk.encoding, chunk.index, name), records
                )
                if judged.fate is not Fate.KEEP:
                    found.append(f"{chunk.index} of {chunk.base_offset} on {name}: {judged}")
        return found

    async def drain(self, name: str, *, is_on: bool = True) -> None:
        """Say that a node is to be emptied, or is not any more."""
        state = NodeState.DRAINING if is_on else NodeState.ACTIVE
        await self.nodes.change(replace(self.nodes.node(name), state=state))

    async def remove(self, name: str) -> None:
        """Remove a node that is empty."""
        if any(name in each.held.values() for each in self.tier.generations()):
            raise NodeRefusedError(name)
        await self.tier.remove_node(name)
        del self.nodes.by_name[name], self.nodes.records[name]
