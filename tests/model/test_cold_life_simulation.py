"""Months in the life of coded segments, in seconds: nodes go and come, the process dies, disks are
put back from old copies, people thaw, code and delete. The real drivers, log and catalog; nodes in
memory; a clock that jumps; everything follows from a seed, which is printed.

At any moment every segment is readable, hot or cold, byte for byte, as long as no more than m nodes
are bad. A chunk that no record explains is never deleted. When all is well again, all segments are
coded and released, and no chunk is left that no record names.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from ec.chunk_id import ChunkId
from logd.errors import LogdError
from logd.policy.cold.values import LIVE, ColdState
from tests.unit.life_rig import ColdRig, Crash, SimNode
from tests.unit.log_builder import TOPIC_ID
from tests.unit.test_cold_life import running, until

BAD_MAX = 2
ERAS = 4
MODES = ("dead", "hangs", "slow", "full")


class Months:
    """One simulation.

    Attributes:
        foreign: chunks that were planted, by node and name.
        copies: what disks were copied as, some time ago.
    """

    def __init__(self, directory: str, seed: int) -> None:
        self.rng = random.Random(seed)
        self.rig = ColdRig(directory, names="abcdefg", seed=seed)
        self.foreign: set[tuple[str, str]] = set()
        self.copies: dict[str, dict[str, bytes]] = {}
        self.story: list[str] = []

    async def run(self) -> None:
        """All eras, and the end."""
        grace_ms = self.rng.choice([0, 0, 5_000, 60_000])
        await self.rig.start(segments=2, cold_grace_ms=grace_ms)
        for _ in range(ERAS):
            await self.era()
            await self.check()
        await self.heal()

    async def era(self) -> None:
        """The life of one process, to its end or its death."""
        rig, rng = self.rig, self.rng
        rig.steps.clear()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.life.run)
                for _ in range(rng.randrange(4, 12)):
                    await self.act()
                    await trio.sleep(rng.choice([0.1, 1, 5, 40]))
                    await self.check()
                if rng.random() < 0.8:
                    rig.stop_at = len(rig.steps) + rng.randrange(40)
                    self.story.append("the process dies")
                    rig.fill(1)
                    await trio.sleep(60)
                    rig.stop_at = None
                await rig.life.stop()
        except* Crash:
            pass  # Where it was told to.
        await rig.restart()

    async def act(self) -> None:
        """Something happens."""
        actions: list[Callable[[], Awaitable[None]]] = [
            *[self.break_a_node] * 3,
            *[self.mend_a_node] * 3,
            *[self.roll] * 2,
            self.thaw,
            self.encode,
            self.delete,
            self.plant,
            self.copy_a_disk,
            self.put_a_disk_back,
        ]
        action = self.rng.choice(actions)
        self.story.append(action.__name__)
        with contextlib.suppress(LogdError):
            await action()

    def bad(self) -> list[SimNode]:
        """The nodes that are not well."""
        return [node for node in self.rig.nodes.by_name.values() if node.mode != "well"]

    async def break_a_node(self) -> None:
        """No more than m at a time."""
        if len(self.bad()) < BAD_MAX:
            node = self.rng.choice([*self.rig.nodes.by_name.values()])
            node.mode = self.rng.choice(MODES)
            self.rig.nodes.set_live(node.node, is_live=self.rng.random() < 0.4)

    async def mend_a_node(self) -> None:
        """It is back, and is seen to be."""
        for node in self.bad()[:1]:
            self.mend(node)

    def mend(self, node: SimNode) -> None:
        node.mode, node.free_bytes = "well", 2**40
        self.rig.nodes.set_live(node.node, is_live=True)

    async def roll(self) -> None:
        """A segment more."""
        self.rig.fill(1)

    async def thaw(self) -> None:
        """Somebody wants a segment hot."""
        released = [
            each
            for each in self.rig.tier.coverage(TOPIC_ID, 0).generations
            if each.state is ColdState.RELEASED
        ]
        if released:
            with trio.move_on_after(300):
                await self.rig.life.thawer.thaw(
                    self.rig.partition, self.rng.choice(released), lambda _: None
                )

    async def encode(self) -> None:
        """Somebody wants all of it coded."""
        self.rig.life.jobs.begin_encode("t", [self.rig.partition])

    async def delete(self) -> None:
        """Retention goes on."""
        if len(self.rig.bases) > 3:
            self.rig.log.delete_before(self.rig.bases[1])

    async def plant(self) -> None:
        """A chunk turns up that is nobody's."""
        node = self.rng.choice("abcdefg")
        chunk = ChunkId(TOPIC_ID.hex(), 0, 0, 1, self.rng.randbytes(16).hex(), 3)
        self.rig.nodes[node].files[chunk.name] = b"nobody's"
        self.foreign.add((node, chunk.name))

    async def copy_a_disk(self) -> None:
        """Somebody makes a copy."""
        node = self.rng.choice("abcdefg")
        self.copies[node] = dict(self.rig.nodes[node].files)

    async def put_a_disk_back(self) -> None:
        """Chunks that were removed since are there again; what was written since stays."""
        for node, files in self.copies.items():
            for name, data in files.items():
                self.rig.nodes[node].files.setdefault(name, data)
        self.copies.clear()

    async def check(self) -> None:
        """What must hold at any moment."""
        await self.rig.check_readable()
        for name, chunk in self.foreign:
            node = self.rig.nodes[name]
            assert chunk in node.files or chunk in node.quarantined

    async def heal(self) -> None:
        """All nodes are well; everything is coded and released in the end."""
        rig = self.rig
        for node in rig.nodes.by_name.values():
            self.mend(node)
        rig.partition.settings = rig.settings()
        async with running(rig):
            job = rig.life.jobs.begin_encode("t", [rig.partition])
            await until(lambda: job.seconds is not None, limit_s=4000)
            assert job.failed == 0, job.errors
            await until(lambda: rig.hot() == [] and self.is_settled(), limit_s=4000)
            # Every node is looked through once more.
            await trio.sleep(2000)
        await self.check()
        named = {each.encoding for each in rig.tier.generations()}
        left = [ChunkId.parse(name).encoding for name in rig.chunk_names()]
        assert set(left) == named
        assert len(left) == 6 * len(named)

    def is_settled(self) -> bool:
        """Nothing is left to be done."""
        return all(each.state in LIVE for each in self.rig.tier.generations())


@pytest.mark.parametrize("number", range(4))
async def test_months_go_by(
    directory: str, autojump_clock: MockClock, seed: int, number: int
) -> None:
    """Readable at any moment, nothing foreign deleted, nothing left over in the end."""
    months = Months(directory, seed + number)
    try:
        await months.run()
    except BaseException:  # Whatever it was, it must be possible to see it again.
        print(f"--seed {seed}, simulation {number}: {', '.join(months.story)}")
        print(months.rig.said.getvalue()[-3000:])
        raise
