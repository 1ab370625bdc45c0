"""Coded segments under losses, rot, drains, failures and crashes, in any order, on a mock clock.

After each storm comes a quiet time in which all nodes answer. Behind it every segment has its full
margin, every chunk is byte for byte what was coded, and no node has a chunk that no record names.
Each segment loses at most m chunks at a time: the storms of a round hit two nodes.
"""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from logd.errors import NodeRefusedError, StorageError
from logd.policy.node_health import NodeHealth
from tests.unit.repair_rig import RepairRig

SEEDS = tuple(range(4))
ROUNDS = 4
NODES = "abcdefgh"
DEAD, LIVE, SUSPECT = NodeHealth.DEAD, NodeHealth.LIVE, NodeHealth.SUSPECT


class Storm:
    """What happens to a rig, drawn from a seed."""

    def __init__(self, rig: RepairRig, seed: int) -> None:
        self.rig = rig
        self.rng = random.Random(seed)
        self.drained: set[str] = set()

    async def blow(self, victims: list[str]) -> None:
        """Do a few bad things to the victims, and drain somebody at times."""
        for _ in range(self.rng.randrange(1, 6)):
            await self.do(self.rng.choice(victims))
            await trio.sleep(self.rng.choice((0.0, 0.3, 5.0, 70.0, 1000.0)))

    async def do(self, victim: str) -> None:
        """One bad thing."""
        rig, what = self.rig, self.rng.randrange(7)
        if what == 0:
            rig.nodes.set_health(victim, DEAD)
        elif what == 1:
            rig.nodes.set_health(victim, SUSPECT)
        elif what == 2:
            rig.nodes.set_health(victim, LIVE)
        elif what == 3:
            self.damage(victim, is_lost=True)
        elif what == 4:
            self.damage(victim, is_lost=False)
        elif what == 5:
            await self.drain(victim)
        else:
            rig.code("".join(self.rng.sample(sorted(self.well()), 6)), size=self.size())

    async def drain(self, victim: str) -> None:
        """Drain a node if that can end well, or take its drain back."""
        if victim in self.drained:
            await self.rig.moving.stop_draining(victim)
            self.drained.discard(victim)
            return
        try:
            await self.rig.moving.drain(victim)
        except NodeRefusedError:
            return  # With the sum; nothing was changed.
        self.drained.add(victim)

    def well(self) -> set[str]:
        """The nodes that an encoder would choose from."""
        live = {name for name in NODES if self.rig.nodes.is_live(name)} - self.drained
        return live if len(live) >= 6 else set(NODES)

    def size(self) -> int:
        """Of a segment."""
        return self.rng.choice((0, 1, 5_000, 70_000, 300_000))

    def damage(self, node: str, *, is_lost: bool) -> None:
        """Lose or spoil some chunks that a node has."""
        files = self.rig.nodes[node].files
        for name in self.rng.sample(sorted(files), self.rng.randrange(len(files) + 1)):
            if is_lost:
                del files[name]
            else:
                data = bytearray(files[name])
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
                files[name] = bytes(data)

    async def calm(self) -> None:
        """Let all nodes answer, and wait until everything is whole again."""
        rig = self.rig
        for name in sorted(self.drained):
            if self.rng.random() < 0.5:
                await rig.drain(name, is_on=False)
                self.drained.discard(name)
        for name in NODES:
            rig.nodes.set_health(name, LIVE)
        for name in NODES:
            await rig.missing.look(name)
        await rig.wait_for(lambda: set(NODES) <= rig.scrubber._places.keys())
        rig.scrubber.start()
        try:
            await rig.wait_for(lambda: not rig.scrubber.is_hurrying)
            await rig.wait_for(
                lambda: rig.is_whole() and not rig.health.unmended() and self.is_drained(),
                seconds=2000,
                every_s=1.0,
            )
            await rig.wait_for(lambda: not rig.strays(), seconds=2000, every_s=10.0)
        except trio.TooSlowError:
            found = (
                rig.health.counts(),
                rig.repairer.plan(),
                self.drained,
                rig.strays(),
                rig.health.unmended(),
                rig.removal.waiting,
                rig.repairer.running,
            )
            pytest.fail("; ".join(map(str, found)))

    def is_drained(self) -> bool:
        """Whether nothing is left on nodes that are being drained."""
        return not any(
            name in self.drained
            for each in self.rig.tier.generations()
            for name in each.held.values()
        )

    def break_catalog(self) -> None:
        """Let the next places fail to be recorded: chunks are on nodes, and no record says so."""
        tier, left = self.rig.tier, [self.rng.randrange(3)]
        place_chunk = tier.place_chunk

        async def fail(encoding: str, *, index: int, node: str) -> None:
            if left[0]:
                left[0] -= 1
                raise StorageError("cut short")
            await place_chunk(encoding, index=index, node=node)

        vars(tier)["place_chunk"] = fail


@pytest.mark.parametrize("seed", SEEDS)
async def test_after_every_storm_all_is_whole_again(
    seed: int, directory: str, autojump_clock: MockClock
) -> None:
    """Full margins, equal bytes, nothing left over; whatever was cut short."""
    print(f"seed {seed}")
    rig = RepairRig(directory, names=NODES, seed=seed)
    storm = Storm(rig, seed)
    for _ in range(4):
        rig.code("".join(storm.rng.sample(NODES, 6)), size=storm.size())
    for _ in range(ROUNDS):
        # A crash in the middle: everything but the catalog and the nodes is forgotten.
        victims = storm.rng.sample(NODES, 2)
        for _ in range(storm.rng.randrange(3)):
            async with rig.running():
                storm.break_catalog()
                await storm.blow(victims)
            rig.open()
        async with rig.running():
            await storm.blow(victims)
            await storm.calm()
            rig.check_whole()
        rig.open()
