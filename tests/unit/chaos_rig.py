"""Everything that looks after coded segments at once, over a compacted log and topics that go.

Real rounds, encoder, repair, scrub, moves, inventory and catalog; nodes in memory. Nodes can be
replaced and drained, the catalog's disk can be full, the wall clock can jump.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import trio

from ec.chunk_id import ChunkId
from logd.cold.life import LifeServices
from logd.cold.partition_view import ColdPartition
from logd.cold.repairing import RepairSettings
from logd.cold.scrubbing import ScrubSettings
from logd.cold.upkeep import Upkeep, UpkeepServices
from logd.errors import StorageError
from logd.policy.cold.removal import ChunkName, Fate, judge_chunk
from logd.policy.cold.values import Generation, SegmentKey
from logd.storage import topic_directories
from logd.storage.findings_note import FindingsNote
from logd.storage.log import Log
from logd.storage.scrub_note import ScrubNote
from logd.units import DAY_MS
from tests.unit.chaos_nodes import ChaosNode, ChaosNodes, ChaosOffload, SimRebuild
from tests.unit.coded_compaction_rig import CodedRig
from tests.unit.life_rig import SMALL, JumpingClock, SimNode, SimPartition
from tests.unit.log_builder import append, batch_of

REPAIR_DELAY_MS = 120_000
PAGES_MAX = 2**30
REAP_S = 60.0


@dataclass(slots=True, eq=False)
class Topic:
    """A topic beside the compacted one, of segments that never change.

    Attributes:
        originals: the bytes of each sealed segment, by base offset.
    """

    number: int
    topic_id: bytes
    partition: SimPartition
    originals: dict[int, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name."""
        return f"v{self.number}"


class ChaosRig(CodedRig):
    """See the module.

    Attributes:
        topics: those that come and go, by topic id.
        rebuild_how: the next start makes the catalog again: from the one there is, or an old copy.
        deleted: the names of those that are gone and have left something, by topic id.
        notes: scrub's, and of what was found: they outlive a process.
        trace: of all steps so far, in their order, each with its time.
    """

    def __init__(self, directory: str, *, names: str, seed: int) -> None:
        self.trace = hashlib.sha256()
        super().__init__(directory, names=names, seed=seed)
        self.clock = self.jumping = JumpingClock()
        nodes: list[SimNode] = [ChaosNode(name, self.rng) for name in names]
        for node in nodes:
            node.before_call = partial(self._step_of, node.node)
        self.nodes = self.chaos_nodes = ChaosNodes(nodes)
        self.offload = ChaosOffload(self.rng)
        self.topics: dict[bytes, Topic] = {}
        self.topics_made = 0
        self.backup_path = f"{directory}-backup"
        self.rebuild_how: Literal["current", "old"] | None = None
        self.deleted: dict[bytes, str] = {}
        self.scrub_note = ScrubNote()
        self.findings_note = FindingsNote()

    def step(self, name: str) -> None:
        """As the rig's; what was done is in the trace."""
        super().step(name)
        self.trace.update(f"{self.clock.now_ms()} {name}\n".encode())

    def digest(self) -> str:
        """Return what tells whether another run did and said the same."""
        said = self.said.getvalue().replace(self.directory, "")
        return hashlib.sha256(self.trace.digest() + said.encode()).hexdigest()

    # --- starts -----------------------------------------------------------------------------------

    async def open_tier(self) -> None:
        """As the rig's."""
        await super().open_tier()
        self.chaos_nodes.tier = self.tier
        self.chaos_nodes.follow(self.catalog.cold.nodes())

    def services(self) -> LifeServices:
        """As the rig's, with repair and scrub."""

        async def forget(topic_id: bytes) -> None:  # As the server.
            if topic_id not in self.topics and topic_id not in self.deleted:
                await self.offload.run("catalog", self.catalog.forget_topic, topic_id)

        upkeep = UpkeepServices(
            repair=RepairSettings(REPAIR_DELAY_MS, 0), scrub=ScrubSettings(14 * DAY_MS, 0),
            dead_ms=60_000, random=random.Random(self.rng.random()), topic_name=lambda _: None,
            read_note=lambda: self.scrub_note, write_note=self._keep_scrub,
            read_findings=lambda: self.findings_note, write_findings=self._keep_findings,
        )  # fmt: skip
        return replace(super().services(), forget_topic=forget, upkeep=upkeep)

    def _keep_scrub(self, note: ScrubNote) -> None:
        self.scrub_note = note

    def _keep_findings(self, note: FindingsNote) -> None:
        self.findings_note = note

    @property
    def upkeep(self) -> Upkeep:
        """Repair, scrub and moves."""
        assert self.life.upkeep is not None
        return self.life.upkeep

    def partitions(self) -> list[ColdPartition]:
        """All that are open."""
        return [self.partition, *(each.partition for each in self.topics.values())]

    # --- catalogs that are made again -------------------------------------------------------------

    def back_up(self) -> None:
        """Keep a copy of the catalog."""
        os.makedirs(self.backup_path, exist_ok=True)
        with closing(sqlite3.connect(f"{self.backup_path}/catalog.sqlite")) as copy:
            self.catalog._database.connection.backup(copy)

    def _put_backup_back(self) -> None:
        if os.path.exists(self.backup_path):
            for name in os.listdir(self.directory):
                if name.startswith("catalog.sqlite"):
                    os.unlink(f"{self.directory}/{name}")
            shutil.copy(f"{self.backup_path}/catalog.sqlite", self.directory)

    async def before_open(self) -> None:
        """Make the catalog again before a start, from the nodes; of an old copy, where one is put
        in its place.
        """
        how, self.rebuild_how = self.rebuild_how, None
        if how is None:
            return
        if how == "old":
            self._put_backup_back()
        nodes = self.chaos_nodes
        rebuild = SimRebuild(
            self.tier._services, self.clock, data_path=self.directory,
            topics_path=self.directory, unknown_settings=lambda _: {},
        )  # fmt: skip
        rebuild.nodes, rebuild.sequence = nodes, self.tier.sequence
        with closing(sqlite3.connect(f"{self.directory}/catalog.sqlite")) as old:
            known = {name for (name,) in old.execute("SELECT name FROM node")}
        here = {*nodes.by_name, *nodes.removed}
        for node in nodes.by_name.values():
            node.mode, node.free_bytes = "well", 2**40
        await rebuild.run([f"{name}=/{name}" for name in sorted(here)], without=known - here)

    async def restart(self) -> None:
        """As the rig's, with the other topics."""
        await super().restart()
        rows = self.catalog.topics()
        self.deleted = {row.topic_id: row.name for row in rows if row.state == "deleting"}
        for topic_id in self.deleted:  # The process may have died before anybody was told.
            self.topics.pop(topic_id, None)
        for topic in self.topics.values():
            log, _ = Log.recover(
                self.files, self._path(topic.name), topic_id=topic.topic_id, topic=topic.name,
                partition=0, settings=SMALL, sync_point=None, same_boot=True,
                released=self.tier.released(topic.topic_id, 0),
            )  # fmt: skip
            topic.partition = SimPartition(log, self.settings())
            self._note_topic(topic)  # The process may have died in the middle of a roll.

    # --- topics -----------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return f"{self.directory}/{name}-0"

    def make_topic(self) -> Topic:
        """Make a topic of some sealed segments."""
        self.topics_made += 1
        topic_id, name = self.rng.randbytes(16), f"v{self.topics_made}"
        self.catalog.create_topic(name, topic_id, 1, {})
        log = Log.create(
            self.files, self._path(name), topic_id=topic_id, topic=name, partition=0,
            settings=SMALL,
        )  # fmt: skip
        topic = Topic(self.topics_made, topic_id, SimPartition(log, self.settings()))
        self.topics[topic_id] = topic
        self.fill_topic(topic)
        return topic

    def fill_topic(self, topic: Topic) -> None:
        """Append to a topic until a segment more is sealed."""
        log = topic.partition.log
        before = len(log.segment_list.items)
        while len(log.segment_list.items) <= before:
            values = [self.rng.randbytes(700) for _ in range(8)]
            append(log, batch_of(values, timestamp_ms=self.clock.now_ms()))
        self._note_topic(topic)

    def _note_topic(self, topic: Topic) -> None:
        """Note the bytes of segments that were sealed since, before anybody can code them."""
        for segment in topic.partition.log.segment_list.items[:-1]:
            if segment.base_offset not in topic.originals:
                with open(segment.paths.log, "rb") as file:
                    topic.originals[segment.base_offset] = file.read()

    async def delete_topic(self, topic: Topic) -> None:
        """Delete a topic, as the broker does: it waits for nobody."""
        self.catalog.mark_deleting(topic.topic_id)
        del self.topics[topic.topic_id]
        self.deleted[topic.topic_id] = topic.name
        topic.partition.offline = "its topic was deleted"
        self._retire(topic.topic_id, topic.name)
        await self.tier.topic_deleted(topic.topic_id)

    def _retire(self, topic_id: bytes, name: str) -> None:
        topic_directories.retire(
            self.files, self.directory, topic=name, topic_id=topic_id, partitions=1
        )

    async def reap(self) -> None:
        """Remove what deleted topics leave, as the broker does; until cancelled."""
        while True:
            for topic_id, name in [*self.deleted.items()]:
                self._retire(topic_id, name)
                for path in topic_directories.retired_directories(
                    self.directory, topic_id=topic_id, partitions=1
                ):
                    shutil.rmtree(path, ignore_errors=True)
                with suppress(StorageError):  # The catalog's disk may be full.
                    await self.offload.run("catalog", self.catalog.forget_topic, topic_id)
                    del self.deleted[topic_id]
            await trio.sleep(REAP_S)

    # --- the catalog's disk -----------------------------------------------------------------------

    def fill_catalog_disk(self) -> None:
        """No page more is to be had: what needs one is refused by SQLite itself."""
        connection = self.catalog._database.connection
        connection.execute("PRAGMA max_page_count = 1")  # As many as there are.

    def empty_catalog_disk(self) -> None:
        """There is space again."""
        self.catalog._database.connection.execute(f"PRAGMA max_page_count = {PAGES_MAX}")

    # --- looking ----------------------------------------------------------------------------------

    async def check_topics(self) -> None:
        """Every sealed segment of the other topics is there, byte for byte, hot or cold."""
        for topic in [*self.topics.values()]:
            for base, original in topic.originals.items():
                if topic.topic_id not in self.topics:
                    break  # Deleted while it was read.
                found = self._hot_bytes(topic, base)
                if found is None:
                    generation = self.tier.coverage(topic.topic_id, 0).find(base)
                    assert generation is not None, f"{topic.name} at {base} is neither hot nor cold"
                    found = await self.cold_bytes(generation)
                assert found == original

    def _hot_bytes(self, topic: Topic, base: int) -> bytes | None:
        path = f"{self._path(topic.name)}/{base:020d}.log"
        if not os.path.exists(path):
            return None
        with open(path, "rb") as file:
            return file.read()

    def strays(self) -> list[str]:
        """Return the chunks that have no place on record where they are."""
        records = {each.encoding: each for each in self.tier.generations()}
        found = []
        for name, node in self.nodes.by_name.items():
            for chunk in map(ChunkId.parse, sorted(node.files)):
                key = SegmentKey(bytes.fromhex(chunk.topic_id), chunk.partition, chunk.base_offset)
                judged = judge_chunk(
                    ChunkName(key, chunk.generation, chunk.encoding, chunk.index, name), records,
                    self.catalog.cold.gone(chunk.encoding),
                )  # fmt: skip
                if judged.fate is not Fate.KEEP:
                    found.append(f"{chunk.name} on {name}: {judged}")
        return found

    async def bad_chunks(self) -> list[str]:
        """Return the chunks that are not whole where the catalog says they are."""
        found = []
        for generation in self.tier.generations():
            manifest = await self.tier.manifest(generation.encoding)
            for index in range(generation.profile.chunks):
                where = generation.held.get(index)
                chunk = manifest.chunk_id(index)
                data = None if where is None else self.nodes[where].files.get(chunk.name)
                if data is None or where is None or self.nodes[where].findings(data, chunk):
                    found.append(f"{chunk.name} on {where}")
        return found

    def hot_everywhere(self) -> list[Generation]:
        """Return what is coded and has its hot file all the same."""
        found = []
        for partition in self.partitions():
            for segment in partition.log.segment_list.items[:-1]:
                if segment.released is None:
                    where = self.tier.coverage(partition.topic_id, 0).find(segment.base_offset)
                    found += [] if where is None else [where]
        return found
