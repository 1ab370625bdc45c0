"""A cold tier for tests: a real log and a real catalog, storage nodes in memory that misbehave.

Time is Trio's, also the wall clock's: with a mock clock an hour passes at once.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from ec.chunk_file import ChunkHead
from ec.chunk_id import ChunkId
from ec.chunk_write import Receipt
from ec.errors import ChunkDamagedError, StoreUnavailableError
from ec.node_identity import NodeIdentity
from ec.placement import Candidate
from ec.read import SegmentReader
from logd.clock import Clock
from logd.cold.life import ColdLife, LifeServices
from logd.cold.nodes import NodeServices
from logd.cold.partition_view import ColdPartition
from logd.cold.tier import ColdTier
from logd.config import TopicSettings, load_server_settings
from logd.events import EventLog
from logd.metrics import Registry
from logd.offload import InlineOffload
from logd.policy.cold.preflight import NodeFacts
from logd.policy.cold.values import Generation, NodeState, StorageNode
from logd.policy.node_health import NodeHealth
from logd.storage.catalog import SqliteCatalog
from logd.storage.log import Log, LogSettings
from logd.storage.swap_prepared import settle_prepared
from tests.contract.check_store import CLUSTER, MemoryStore, MemoryUpload
from tests.crash.lying_disk import FastFiles
from tests.unit.log_builder import TOPIC_ID, append, batch_of

SMALL = LogSettings(segment_bytes=60_000, index_interval_bytes=4096)
START_MS = 1_700_000_000_000


READ_S = 60.0
"""A read that takes longer waits for a node that hangs; the server would have given it up."""


class SimClock(Clock):
    """Wall-clock time that passes with Trio's."""

    def now_ms(self) -> int:
        return START_MS + int(trio.current_time() * 1000)


class JumpingClock(SimClock):
    """Wall-clock time that somebody sets.

    Attributes:
        ahead_ms: how far it is ahead of the true one.
    """

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


class SimNode(MemoryStore):
    """A node that does what a test says.

    Attributes:
        mode: "well", "dead", "hangs", "slow", "lies" (keeps other bytes than it says) or "full".
        is_live: what probes are taken to have found.
        delay_s: how long "slow" takes for each call.
    """

    def __init__(self, name: str) -> None:
        super().__init__(NodeIdentity(CLUSTER, name, f"{ord(name):032x}"))
        self.mode = "well"
        self.is_live = True
        self.delay_s = 2.0
        self.calls: list[str] = []
        self.before_call: Callable[[str], None] = lambda _: None

    async def answer(self, call: str) -> None:
        """Behave as told, before a call is carried out."""
        self.calls.append(call)
        self.before_call(call)
        if self.mode == "dead":
            raise StoreUnavailableError(f"{self.node} does not answer")
        if self.mode == "hangs":
            await trio.sleep_forever()
        await trio.sleep(self.delay_s if self.mode == "slow" else 0)

    async def begin(self, chunk: ChunkId, file_bytes: int) -> SimUpload:
        await self.answer("begin")
        if self.mode == "full":
            self.free_bytes = 0
        upload = await super().begin(chunk, file_bytes)
        return SimUpload(self, upload)

    async def head(self, chunk: ChunkId) -> ChunkHead:
        await self.answer("head")
        return await super().head(chunk)

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        await self.answer("read")
        return await super().read(chunk, start, end)

    async def list(self, *, after: str = "", limit: int = 1000) -> tuple[ChunkId, ...]:
        await self.answer("list")
        return await super().list(after=after, limit=limit)

    async def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        await self.answer("verify")
        return await super().verify(chunk)

    async def delete(self, chunk: ChunkId) -> bool:
        await self.answer("delete")
        return await super().delete(chunk)

    async def quarantine(self, chunk: ChunkId) -> None:
        await self.answer("quarantine")
        await super().quarantine(chunk)


class Crash(BaseException):
    """The process ends here; no code under test can catch it by mistake."""


class SteppedFiles(FastFiles):
    """Counts the calls that change names."""

    def __init__(self, step: Callable[[str], None]) -> None:
        super().__init__()
        self._step = step

    def rename(self, source: str, target: str) -> None:
        self._step(f"rename {os.path.basename(target)}")
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self._step(f"unlink {os.path.basename(path)}")
        super().unlink(path)

    def create_or_truncate(self, path: str) -> Any:
        self._step(f"create {os.path.basename(path)}")
        return super().create_or_truncate(path)


class SimUpload:
    """See `SimNode`."""

    def __init__(self, node: SimNode, inner: MemoryUpload) -> None:
        self._node = node
        self._inner = inner

    async def write(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        await self._node.answer("write")
        await self._inner.write(buffers)

    async def finish(self) -> Receipt:
        await self._node.answer("finish")
        receipt = await self._inner.finish()
        if self._node.mode == "lies":
            data = bytearray(self._node.files[receipt.id.name])
            data[0] ^= 1
            self._node.files[receipt.id.name] = bytes(data)
        return receipt

    async def abort(self) -> None:
        await self._inner.abort()


class SimNodes:
    """As `logd.cold.nodes.StorageNodes`; tests say who is live."""

    def __init__(self, nodes: Sequence[SimNode]) -> None:
        self.by_name = {node.node: node for node in nodes}
        self.states = dict.fromkeys(self.by_name, NodeState.ACTIVE)
        self.suspects: set[str] = set()
        self.breakers: dict[str, str] = {}
        self.stale: str | None = None
        self.on_change: list[Callable[[str], None]] = []

    def __getitem__(self, name: str) -> SimNode:
        return self.by_name[name]

    def set_live(self, name: str, is_live: bool) -> None:
        """Let probes find out how a node is."""
        self.suspects.discard(name)
        self.by_name[name].is_live = is_live
        for call in self.on_change:
            call(name)

    def set_suspect(self, name: str) -> None:
        """Let a node not answer probes for a while."""
        self.set_live(name, is_live=False)
        self.suspects.add(name)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.by_name))

    def store(self, name: str, _purpose: str = "serve") -> SimNode:
        return self.by_name[name]

    def is_live(self, name: str) -> bool:
        return self.by_name[name].is_live

    def health(self, name: str) -> NodeHealth:
        if name in self.suspects:
            return NodeHealth.SUSPECT
        return NodeHealth.LIVE if self.is_live(name) else NodeHealth.DEAD

    def facts(self) -> list[NodeFacts]:
        return [
            NodeFacts(
                name=name,
                state=self.states[name],
                health=self.health(name),
                free_bytes=self.by_name[name].free_bytes,
            )
            for name in self.names()
        ]

    def breaker(self, name: str, _purpose: str = "serve") -> str:
        return self.breakers.get(name, "closed")

    def candidates(self) -> list[Candidate]:
        return [
            Candidate(name, self.by_name[name].free_bytes, is_live=self.is_live(name))
            for name in self.names()
        ]

    def note_sequence(self) -> None:
        """Nobody is told here."""


class SimPartition:
    """A `ColdPartition` over a real log."""

    def __init__(self, log: Log, settings: TopicSettings) -> None:
        self.topic_id = log.topic_id
        self.topic_name = log.topic
        self.index = log.partition
        self.settings = settings
        self.log = log
        self.offline: str | None = None

    @property
    def high_watermark(self) -> int:
        return self.log.end_offset


class ColdRig:
    """One partition, its catalog and its nodes; `restart` is what a kill and a start leave.

    Attributes:
        originals: the bytes of each sealed segment, by base offset.
        steps: what was done so far that a crash may come before: transactions, calls to nodes,
            changes of names.
        stop_at: the step before which the process ends, from then on for whatever is tried.
    """

    log_settings = SMALL

    def __init__(self, directory: str, *, names: str = "abcdef", seed: int = 1) -> None:
        self.directory = directory
        self.rng = random.Random(seed)
        self.nodes = SimNodes([SimNode(name) for name in names])
        self.clock: SimClock = SimClock()
        self.files = SteppedFiles(self.step)
        self.steps: list[str] = []
        self.stop_at: int | None = None
        for node in self.nodes.by_name.values():
            node.before_call = partial(self._step_of, node.node)
        self.offload = InlineOffload()
        self.said = io.StringIO()
        self.events = EventLog(self.said, "text", self.clock)
        self.originals: dict[int, bytes] = {}
        self.unlinked: list[str] = []
        self.forgotten: list[bytes] = []
        self.room_bytes = 2**40
        self.catalog: SqliteCatalog
        self.tier: ColdTier
        self.life: ColdLife
        self.partition: SimPartition

    def settings(self, **changes: Any) -> TopicSettings:
        """Return topic settings with the cold tier's quick ones."""
        config = load_server_settings(file=None, environment={}, flags={})
        values: dict[str, Any] = {
            "cold_enable": True,
            "cold_profile": "4+2",
            "cold_grace_ms": 0,
            "cold_hot_retention_ms": 0,
            "file_delete_delay_ms": 0,
        }
        return replace(config.settings.topic_defaults, **(values | changes))

    async def start(self, *, segments: int = 3, **changes: Any) -> None:
        """Make the topic, fill its log, open the tier."""
        self.open_catalog()
        self.catalog.create_topic("t", TOPIC_ID, 1, {})
        for name in self.nodes.names():
            record = StorageNode(name=name, place=f"/{name}", identity=f"{ord(name):032x}")
            self.catalog.cold.add_node(record)
        log = Log.create(
            self.files, f"{self.directory}/t-0", topic_id=TOPIC_ID, topic="t", partition=0,
            settings=self.log_settings,
        )  # fmt: skip
        self.partition = SimPartition(log, self.settings(**changes))
        self.fill(segments)
        await self.open_tier()

    def open_catalog(self) -> None:
        """Open the catalog as a start does."""
        self.catalog = SqliteCatalog.open(f"{self.directory}/catalog.sqlite", CLUSTER, self.step)
        self.catalog._database.connection.execute("PRAGMA synchronous = OFF")

    def _step_of(self, node: str, call: str) -> None:
        self.step(f"{call} {node}")

    def step(self, name: str) -> None:
        """Called before each step; raises Crash where the process ends, and ever after."""
        if self.stop_at is not None and len(self.steps) >= self.stop_at:
            raise Crash(name)
        self.steps.append(name)

    async def open_tier(self) -> None:
        """Make the tier and the life of segments; nothing runs yet."""
        config = load_server_settings(file=None, environment={}, flags={})
        services = NodeServices(
            files=self.files, offload=self.offload, events=self.events, cluster_id=CLUSTER,
            settings=config.settings, random=self.rng,
        )  # fmt: skip
        tier = ColdTier(self.catalog.cold, services, self.clock)
        # The image of the catalog is the real one; its nodes are not.
        tier._take(self.catalog.cold.generations(), ())
        vars(tier)["nodes"] = self.nodes
        self.nodes.on_change.clear()
        self.tier = tier
        self.life = ColdLife(tier, self.services())

    def services(self) -> LifeServices:
        async def forget(topic_id: bytes) -> None:
            self.forgotten.append(topic_id)

        return LifeServices(
            partitions=self.partitions,
            offload=self.offload,
            events=self.events,
            metrics=Registry(),
            cluster_id=CLUSTER,
            now_ms=self.clock.now_ms,
            random_bytes=self.rng.randbytes,
            unlink_later=self.unlink,
            room_bytes=lambda: self.room_bytes,
            forget_topic=forget,
        )

    def partitions(self) -> list[ColdPartition]:
        """The one there is."""
        return [self.partition]

    def unlink(self, paths: Sequence[str], _delay_s: float) -> None:
        """Unlink at once."""
        for path in paths:
            os.unlink(path)
            self.unlinked.append(os.path.basename(path))

    # --- the log ----------------------------------------------------------------------------------

    @property
    def log(self) -> Log:
        """The partition's log."""
        return self.partition.log

    def fill(self, segments: int) -> None:
        """Append until there are so many sealed segments more; note their bytes."""
        before = len(self.log.segment_list.items)
        while len(self.log.segment_list.items) < before + segments:
            values = [self.rng.randbytes(700) for _ in range(4)]
            append(self.log, batch_of(values, timestamp_ms=START_MS + self.log.end_offset))
        self.note_originals()

    def note_originals(self) -> None:
        """Note the bytes of segments that were sealed since."""
        for segment in self.log.segment_list.items[:-1]:
            if segment.base_offset not in self.originals:
                with open(segment.paths.log, "rb") as file:
                    self.originals[segment.base_offset] = file.read()

    @property
    def bases(self) -> list[int]:
        """Base offsets of all sealed segments."""
        return [segment.base_offset for segment in self.log.segment_list.items[:-1]]

    def hot(self) -> list[int]:
        """Base offsets of the sealed segments that have a .log, as the directory tells."""
        names = os.listdir(f"{self.directory}/t-0")
        found = sorted(int(name[:20]) for name in names if name.endswith(".log"))
        return [base for base in found if base in self.originals and base in self.bases]

    # --- looking ----------------------------------------------------------------------------------

    def live(self, base: int) -> Generation | None:
        """The live generation of a segment."""
        return self.tier.coverage(TOPIC_ID, 0).find(base)

    def states(self) -> list[str]:
        """The states of all generations, by segment and number, as the catalog has them."""
        return [each.state.value for each in self.catalog.cold.generations()]

    def chunk_names(self) -> list[str]:
        """The names of all chunks on all nodes."""
        return sorted(name for node in self.nodes.by_name.values() for name in node.files)

    async def cold_bytes(self, generation: Generation) -> bytes:
        """Read a segment from its chunks, as any reader would."""
        manifest = await self.tier.manifest(generation.encoding)
        # Nodes may have been renamed since.
        generation = self.tier.generation(generation.encoding) or generation
        reader = SegmentReader(
            manifest,
            {index: self.nodes[node] for index, node in generation.held.items()},
            codec=self.tier.codec(generation.profile),
            offload=self.tier.offload,
            on_trouble=lambda _index, _error: None,
        )
        return (await reader.read(0, generation.source_bytes)).data

    def hot_bytes(self, base: int) -> bytes:
        """Read a segment's .log."""
        with open(f"{self.directory}/t-0/{base:020d}.log", "rb") as file:
            return file.read()

    async def check_readable(self) -> None:
        """Every sealed segment is there, hot or cold, byte for byte."""
        for base in self.bases:
            while base not in self.hot():
                generation = self.live(base)
                assert generation is not None, f"segment {base} is neither hot nor cold"
                if await self._can_read(generation) or base not in self.bases:
                    break
                # Coded anew meanwhile, its chunks are removed, and one that hangs is waited for.
                assert self.live(base) is not generation, f"segment {base} cannot be read"
            else:
                assert self.hot_bytes(base) == self.originals[base]

    async def _can_read(self, generation: Generation) -> bool:
        """Read a segment from its chunks, if that comes to an end; what is read is right."""
        with trio.move_on_after(READ_S):
            found = await self.cold_bytes(generation)
            expected = self.originals[generation.key.base_offset]
            if len(found) == len(expected):
                assert found == expected
                return True
        return False

    # --- crashes ----------------------------------------------------------------------------------

    async def before_open(self) -> None:
        """Called between two processes."""

    async def restart(self) -> None:
        """Forget everything but what is on disk and on nodes; open it again."""
        self.stop_at = None
        settings = self.partition.settings
        for node in self.nodes.by_name.values():
            node.writing.clear()
        self.catalog.close()
        await self.before_open()
        self.open_catalog()
        await self.open_tier()
        settle_prepared(self.files, f"{self.directory}/t-0", self.tier.is_live)
        log, _ = Log.recover(
            self.files, f"{self.directory}/t-0", topic_id=TOPIC_ID, topic="t", partition=0,
            settings=self.log_settings, sync_point=None, same_boot=True,
            released=self.tier.released(TOPIC_ID, 0),
        )  # fmt: skip
        self.partition = SimPartition(log, settings)
        self.note_originals()  # The process may have died in the middle of a roll.
