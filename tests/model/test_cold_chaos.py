"""All that happens to coded segments, at once and in any order, on a clock that jumps.

Appends, coding, releases, thaws, compaction in parts, deletion of records and of whole topics,
repair, drains, replacements, rebalancing and scrub go on side by side, while two nodes of eight
die, hang, fill up, lie, rot, lose chunks, or come back with old ones; others are renamed, given
racks, removed and added again; the catalog's disk is full, the catalog is made again from the
nodes, or from an old copy, the wall clock is set, the process ends before any step. Everything
follows from a seed, the order of tasks included.

At any moment each key's last record is there, and every segment of the other topics, byte for byte.
After each storm comes a quiet time. Behind it every segment has its full margin and no hot file,
every chunk is whole and where the catalog says, nothing else is on any node, nothing is leased, and
no file of a round is left. Nothing is in quarantine either: each chunk is one that was recorded.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from ec.chunk_id import ChunkId
from logd.cold.jobs import Job
from logd.errors import LogdError
from logd.policy.cold.values import LIVE, ColdState, NodeState
from logd.units import DAY_MS
from tests.unit.chaos_rig import ChaosRig, Topic
from tests.unit.fixed_order import run_in_order
from tests.unit.life_rig import Crash, SimNode
from tests.unit.log_builder import TOPIC_ID

NODES = "abcdefgh"
ROUNDS = 2
# Some of the hundreds that were run (docs/testing.md); about twelve seconds of CPU in all.
SEEDS = (200, 1040, 1066, 2015, 7022)
MODES = ("dead", "hangs", "slow", "full", "lies")
JUMPS_MS = (600_000, 600_000, 600_000, 400 * DAY_MS)
REBUILDS = 0.1
CALM_S = 20_000


class Chaos:
    """One simulation.

    Attributes:
        victims: the nodes that bad things happen to in this round: as many as may be lost.
        foreign: chunks that came back with an old copy of a disk.
    """

    def __init__(self, directory: str, seed: int) -> None:
        self.rng = random.Random(seed)
        self.rig = ChaosRig(directory, names=NODES, seed=seed)
        self.victims: list[SimNode] = []
        self.copies: dict[SimNode, dict[str, bytes]] = {}
        self.story: list[str] = []
        self.nursery: trio.Nursery
        self.is_compacting = False
        self.is_retiring = False
        self.was_rebuilt = False

    async def run(self) -> None:
        """All rounds."""
        await self.rig.begin(cold_grace_ms=self.rng.choice([0, 0, 5_000]))
        for _ in range(2):
            self.rig.make_topic()
        for _ in range(ROUNDS):
            self.victims = self.rng.sample([*self.rig.nodes.by_name.values()], 2)
            for _ in range(self.rng.randrange(3)):
                await self.life(is_cut_short=True)
            await self.life(is_cut_short=False)

    async def life(self, *, is_cut_short: bool) -> None:
        """The life of one process, to its quiet end, or cut short."""
        rig, rng = self.rig, self.rng
        rig.steps.clear()
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                nursery.start_soon(rig.life.run)
                nursery.start_soon(rig.reap)
                for _ in range(rng.randrange(5, 15)):
                    await self.act()
                    await trio.sleep(rng.choice([0, 0.02, 0.05, 0.3, 1, 3, 40, 200]))
                    await self.check()
                if is_cut_short:
                    self.story.append("the process dies")
                    rig.stop_at = len(rig.steps) + rng.randrange(60)
                    await self.compact()
                    await self.act()
                    await trio.sleep(100)
                    rig.stop_at = None
                else:
                    await self.calm()
                await rig.life.stop()
                nursery.cancel_scope.cancel()
        except* Crash:
            pass  # As it was meant to.
        self.is_compacting = self.is_retiring = False
        rig.empty_catalog_disk()
        if rng.random() < REBUILDS:
            rig.rebuild_how = rng.choice(["current", "old"])
            self.story.append(f"rebuild from the {rig.rebuild_how} catalog")
            self.was_rebuilt = True
        await rig.restart()

    async def act(self) -> None:
        """Something happens."""
        actions: list[Callable[[], Awaitable[None]]] = [
            *[self.break_a_node] * 3, *[self.mend_a_node] * 2, self.rot, self.lose,
            self.copy_disks, self.put_disks_back, self.replace, self.drain, self.rebalance,
            self.change_rack, self.rename, self.retire, self.drain_and_recode, self.back_up,
            *[self.append] * 2, *[self.compact] * 3, self.encode, self.thaw, self.delete_records,
            self.make_topic, self.delete_topic, self.repair, self.scrub, self.fill_disk,
            self.set_clock, self.change_settings,
        ]  # fmt: skip
        action = self.rng.choice(actions)
        self.story.append(action.__name__)
        with suppress(LogdError), trio.move_on_after(100):
            await action()

    # --- nodes ------------------------------------------------------------------------------------

    async def break_a_node(self) -> None:
        """A victim is not well, and that is seen or not."""
        node = self.rng.choice(self.victims)
        node.mode = self.rng.choice(MODES)
        if self.rng.random() < 0.5:
            self.rig.nodes.set_live(node.node, is_live=False)
        elif self.rng.random() < 0.5:
            self.rig.nodes.set_suspect(node.node)

    async def mend_a_node(self) -> None:
        """It is back, and is seen to be."""
        self.mend(self.rng.choice(self.victims))

    def mend(self, node: SimNode) -> None:
        node.mode, node.free_bytes = "well", 2**40
        self.rig.nodes.set_live(node.node, is_live=True)

    def some_files(self) -> tuple[SimNode, list[str]]:
        node = self.rng.choice(self.victims)
        names = sorted(node.files)
        return node, self.rng.sample(names, self.rng.randrange(len(names) + 1))

    async def rot(self) -> None:
        """Bits flip."""
        node, names = self.some_files()
        for name in names:
            data = bytearray(node.files[name])
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
            node.files[name] = bytes(data)

    async def lose(self) -> None:
        """Files go."""
        node, names = self.some_files()
        for name in names:
            del node.files[name]

    async def copy_disks(self) -> None:
        """Somebody makes copies."""
        self.copies = {node: dict(node.files) for node in self.victims}

    async def put_disks_back(self) -> None:
        """Chunks that were removed since are there again."""
        for node, files in self.copies.items():
            for chunk, data in files.items():
                node.files.setdefault(chunk, data)
        self.copies = {}

    async def replace(self) -> None:
        """An empty disk takes a victim's place."""
        node = self.rng.choice(self.victims)
        self.copies.pop(node, None)  # Another disk's.
        await self.rig.upkeep.moving.replace(node.node, None)
        self.mend(node)

    async def drain(self) -> None:
        """A node is to be emptied, or not any more."""
        name = self.rng.choice(self.rig.nodes.names())
        if self.rig.chaos_nodes.node(name).state is NodeState.DRAINING:
            await self.rig.upkeep.moving.stop_draining(name)
        else:
            await self.rig.upkeep.moving.drain(name)

    async def rebalance(self) -> None:
        """Chunks move, those of whole segments, wherever there is space."""
        moving = self.rig.upkeep.moving
        moving.rebalance()
        self.move_some()

    def move_some(self) -> None:
        """As a plan for very uneven nodes would have it."""
        from logd.policy.cold.moves import Move

        moves = []
        for each in self.rig.tier.generations():
            free = sorted(set(self.rig.nodes.names()) - set(each.held.values()))
            if each.state in LIVE and free and self.rng.random() < 0.5:
                index = self.rng.choice(sorted(each.held))
                moves.append(Move(each, index, each.held[index], self.rng.choice(free)))
        self.rig.upkeep.repairer.add_moves(moves)

    async def change_rack(self) -> None:
        """Somebody carries a node elsewhere."""
        record = self.rig.chaos_nodes.node(self.rng.choice(self.rig.nodes.names()))
        rack = self.rng.choice([None, "r1", "r2", "r3"])
        await self.rig.chaos_nodes.change(replace(record, rack=rack))

    async def rename(self) -> None:
        """A node is called otherwise, whatever is being done with its chunks."""
        name = self.rng.choice(self.rig.nodes.names())
        await self.rig.chaos_nodes.rename(name, name.swapcase())

    async def retire(self) -> None:
        """A node is emptied and removed; some day it is back, with all that it ever had."""
        victims = {node.node for node in self.victims}
        name = self.rng.choice(sorted({*self.rig.nodes.names()} - victims))
        if self.is_retiring or len(self.rig.nodes.names()) < len(NODES):
            return
        had = dict(self.rig.nodes[name].files)
        await self.rig.upkeep.moving.drain(name)
        self.is_retiring = True

        async def work() -> None:
            nodes = self.rig.chaos_nodes
            try:
                with trio.move_on_after(300):
                    while name in nodes.by_name:
                        await trio.sleep(5)
                        with suppress(LogdError):
                            await nodes.remove(name)
                    await trio.sleep(self.rng.choice([1, 100]))
                    if name not in nodes.removed:
                        return  # It has another name since.
                    for chunk, data in had.items():
                        nodes.removed[name][0].files.setdefault(chunk, data)
                    with suppress(LogdError):
                        await nodes.put_back(name)
            finally:
                self.is_retiring = False

        self.nursery.start_soon(work)

    async def drain_and_recode(self) -> None:
        """Chunks leave a node while their segments are coded anew."""
        await self.drain()
        await self.change_settings()
        self.begin_encode(recode=True)

    async def back_up(self) -> None:
        """Somebody keeps a copy of the catalog, or means to use it at the next start."""
        self.rig.back_up()

    # --- segments ---------------------------------------------------------------------------------

    async def append(self) -> None:
        """A segment more, here or there."""
        topic = self.some_topic()
        if topic is not None and self.rng.random() < 0.5:
            self.rig.fill_topic(topic)
        else:
            self.rig.put_segments(1, keys=20)

    async def compact(self) -> None:
        """A round, in parts of any size; it goes on while other things happen."""

        async def work() -> None:
            try:
                with suppress(LogdError), trio.move_on_after(2000):
                    await self.rig.compact()
            finally:
                self.is_compacting = False

        if not self.is_compacting:
            self.is_compacting = True
            self.rig.coded_bytes_max = self.rng.choice([1, 6_000, 15_000, 2**40])
            self.nursery.start_soon(work)

    async def encode(self) -> None:
        """Somebody wants all of it coded, perhaps with another profile."""
        recode = self.rng.random() < 0.5
        if recode:
            await self.change_settings()
        self.begin_encode(recode=recode)

    def begin_encode(self, *, recode: bool = False) -> list[Job]:
        jobs = self.rig.life.jobs
        return [
            jobs.begin_encode(each.topic_name, [each], recode=recode)
            for each in self.rig.partitions()
        ]

    async def thaw(self) -> None:
        """Somebody wants it hot."""
        for each in self.rig.partitions():
            if self.rng.random() < 0.5:
                self.rig.life.jobs.begin_thaw(each.topic_name, [each])

    async def delete_records(self) -> None:
        """Retention, or somebody, goes on."""
        log = self.rig.log
        if len(self.rig.bases) > 4:
            gone = log.delete_before(self.rig.bases[1] + self.rng.randrange(5))
            self.rig.unlink(gone.unlink_paths, 0)

    async def change_settings(self) -> None:
        """Of the compacted topic, while all goes on."""
        self.rig.partition.settings = self.rig.settings(
            cleanup_policy=("compact",), delete_retention_ms=1000,
            cold_profile=self.rng.choice(["4+2", "3+2", "2+2"]),
            cold_grace_ms=self.rng.choice([0, 5_000, 60_000]),
            cold_enable=self.rng.random() < 0.8,
        )  # fmt: skip

    # --- topics and people ------------------------------------------------------------------------

    def some_topic(self) -> Topic | None:
        topics = [*self.rig.topics.values()]
        return self.rng.choice(topics) if topics else None

    async def make_topic(self) -> None:
        """Another one."""
        if len(self.rig.topics) < 4:
            self.rig.make_topic()

    async def delete_topic(self) -> None:
        """One goes, whatever is being done with it."""
        topic = self.some_topic()
        if topic is not None:
            await self.rig.delete_topic(topic)

    async def repair(self) -> None:
        """Somebody does not want to wait."""
        await self.rig.upkeep.jobs.begin()

    async def scrub(self) -> None:
        """Somebody wants to know, or to have rest."""
        scrubber = self.rig.upkeep.scrubber
        self.rng.choice([scrubber.start, scrubber.pause, scrubber.resume])()

    async def fill_disk(self) -> None:
        """The catalog's disk is full, or not any more."""
        if self.rng.random() < 0.5:
            self.rig.fill_catalog_disk()
        else:
            self.rig.empty_catalog_disk()

    async def set_clock(self) -> None:
        """Somebody sets the wall clock."""
        jump_ms = self.rng.choice(JUMPS_MS)
        self.rig.jumping.ahead_ms = self.rng.randrange(-jump_ms, jump_ms)

    # --- what must hold ---------------------------------------------------------------------------

    async def check(self) -> None:
        """Nobody misses anything: what must hold at any moment."""
        modes = {node.node: node.mode for node in self.victims}
        for node in self.victims:  # A reader would wait; who checks must not change what happens.
            node.mode = "dead" if node.mode in ("hangs", "slow") else node.mode
        try:
            await self.rig.check()
            await self.rig.check_topics()
        finally:
            for node in self.victims:
                if node.mode == "dead":
                    node.mode = modes[node.node]

    async def calm(self) -> None:
        """All is well, and stays so: everything comes to rest."""
        rig = self.rig
        self.story.append("calm")
        rig.empty_catalog_disk()
        rig.jumping.ahead_ms = 0
        for node in self.victims:
            self.mend(node)
        while self.is_retiring:  # noqa: ASYNC110  it tells nobody of its end
            await trio.sleep(1)
        for name in sorted(rig.chaos_nodes.removed):
            await rig.chaos_nodes.put_back(name)
        for name in rig.nodes.names():
            await rig.upkeep.moving.stop_draining(name)
            await rig.chaos_nodes.change(replace(rig.chaos_nodes.node(name), rack=None))
        rig.upkeep.scrubber.resume()
        rig.partition.settings = rig.settings(cleanup_policy=("compact",), delete_retention_ms=1000)
        try:
            with trio.fail_after(CALM_S):
                await self.come_to_rest()
        except trio.TooSlowError:
            pytest.fail(await self.what_is_left())
        await self.check()
        assert await self.what_is_left() == ""
        if not self.was_rebuilt:  # It puts aside whatever has no part in what it makes.
            assert not any(node.quarantined for node in rig.nodes.by_name.values())

    async def come_to_rest(self) -> None:
        rig = self.rig
        while self.is_compacting:  # noqa: ASYNC110  it tells nobody of its end
            await trio.sleep(1)
        jobs = self.begin_encode()
        while not all(job.seconds is not None for job in jobs):  # noqa: ASYNC110
            await trio.sleep(1)
        for name in rig.nodes.names():
            await rig.upkeep.missing.look(name)
        rig.upkeep.scrubber.start()
        while rig.upkeep.scrubber.is_hurrying or await self.what_is_left():
            await trio.sleep(10)
            if rig.hot_everywhere():  # A thaw that was under way, or its queue.
                self.begin_encode()

    async def what_is_left(self) -> str:
        """Return what is not as it should be in the end; empty: all is."""
        rig = self.rig
        states = {each.state for each in rig.tier.generations()}
        found = {
            "states": states - {ColdState.RELEASED},
            "leases": list(rig.tier.leases),
            "hot": rig.hot_everywhere(),
            "margins": [] if rig.upkeep.health.counts().is_well else rig.upkeep.repairer.plan(),
            "unmended": rig.upkeep.health.unmended(),
            "running": [*rig.life.encoder.running, *rig.upkeep.repairer.running],
            "strays": rig.strays(),
            "writing": [node.node for node in rig.nodes.by_name.values() if node.writing],
            "deleted": [
                row.name for row in rig.catalog.topics() if row.state == "deleting"
            ],
            "files": [
                name
                for name in os.listdir(f"{rig.directory}/t-0")
                if any(word in name for word in ("cleaned", "replacement", ".tmp", ".deleted"))
            ],
        }  # fmt: skip
        left = "; ".join(f"{name}: {what}" for name, what in found.items() if what)
        return left or "; ".join(await rig.bad_chunks())


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_at_once_all_is_well_in_the_end(directory: str, seed: int) -> None:
    """Readable at any moment; full margins, equal bytes, no orphan, no leak behind each storm."""
    live(directory, seed)


def test_a_seed_is_one_simulation(directory: str) -> None:
    """Another process, whose hashes are other ones, does and says the same in the same order."""
    digest = live(directory, SEEDS[0])
    code = f"from {__name__} import live; print(live({f'{directory}/again'!r}, {SEEDS[0]}))"
    os.mkdir(f"{directory}/again")
    again = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "1"},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    assert again.stdout.split() == [digest]


def live(directory: str, seed: int) -> str:
    """One simulation; return its digest. Where it fails it is told what happened."""
    chaos = Chaos(directory, seed)
    try:
        run_in_order(chaos.run, seed=seed)
    except BaseException:  # Whatever it was, it must be possible to see it again.
        print(f"chaos of seed {seed}: {', '.join(chaos.story)}")
        print(chaos.rig.said.getvalue()[-3000:])
        raise
    assert {TOPIC_ID, *chaos.rig.topics} >= {
        bytes.fromhex(ChunkId.parse(name).topic_id) for name in chaos.rig.chunk_names()
    }
    return chaos.rig.digest()
