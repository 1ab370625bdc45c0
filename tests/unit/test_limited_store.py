"""The rate of a device: what was measured, who shares it, and how many calls it has at a time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from ec.chunk_id import ChunkId
from ec.errors import StoreUnavailableError
from logd.cold.limited_store import CALLS_AT_ONCE, Budget, LimitedStore
from logd.policy.cold.rates import MeasuredRate
from logd.units import MIB
from tests.unit.repair_rig import RigNode

DEVICE_BYTES_S = 100 * MIB
PIECE_BYTES = MIB


class Disk:
    """A device that gives its rate to whoever reads, one after the other.

    Attributes:
        most: how many reads were under way at once.
    """

    def __init__(self) -> None:
        self._head = trio.Lock()
        self._reading = 0
        self.most = 0

    async def read(self, count: int) -> None:
        """Take as long as the device does."""
        self._reading += 1
        self.most = max(self.most, self._reading)
        async with self._head:
            await trio.sleep(count / DEVICE_BYTES_S)
        self._reading -= 1


class DiskNode(RigNode):
    """A node on such a device."""

    def __init__(self, name: str, disk: Disk) -> None:
        super().__init__(name)
        self._disk = disk

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        await self._disk.read(end - start)
        return memoryview(bytes(end - start))


def half(device: MeasuredRate) -> float:
    """Return half of what was measured, or a little."""
    return (device.bytes_s or 2 * MIB) / 2


async def read_all(disk: Disk, budget: Budget, *, nodes: int, pieces: int) -> float:
    """Have each node read side by side at half of the rate; return how long it took."""
    chunk = ChunkId("ab" * 16, 0, 0, 1, "cd" * 16, 0)

    async def read(store: LimitedStore) -> None:
        for _ in range(pieces):
            await store.read(chunk, 0, PIECE_BYTES)

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(nodes):
            store = LimitedStore(DiskNode(f"n{number}", disk), budget, rate=half)
            nursery.start_soon(read, store)
    return trio.current_time() - began_s


async def test_a_device_that_nodes_share_was_measured_as_one(autojump_clock: MockClock) -> None:
    """However many read side by side, what they got in all is its rate."""
    budget = Budget()
    await read_all(Disk(), budget, nodes=5, pieces=20)
    assert budget.device.bytes_s == pytest.approx(DEVICE_BYTES_S, rel=0.02)


async def test_half_of_a_device_is_half_for_all_nodes_together(autojump_clock: MockClock) -> None:
    """Five nodes on it take twice as long as the device alone would for all of them."""
    disk, budget = Disk(), Budget()
    await read_all(disk, budget, nodes=5, pieces=5)
    took_s = await read_all(disk, budget, nodes=5, pieces=100)
    least_s = 500 * PIECE_BYTES / DEVICE_BYTES_S
    assert took_s == pytest.approx(2 * least_s, rel=0.1)


async def test_a_device_has_few_calls_at_a_time(autojump_clock: MockClock) -> None:
    """Whoever else waits for it has no more than those before it."""
    disk = Disk()
    await read_all(disk, Budget(), nodes=8, pieces=3)
    assert disk.most == CALLS_AT_ONCE


async def test_a_read_that_fails_counts_for_its_time(autojump_clock: MockClock) -> None:
    """A device that takes a second to say no gives nothing in it; the next reads count again."""
    budget = Budget()

    async def fail() -> None:
        with budget.reading(MIB):
            await trio.sleep(1)
            raise StoreUnavailableError("no")

    with pytest.raises(StoreUnavailableError):
        await fail()
    assert budget.device.bytes_s == 0
    with budget.reading(MIB):
        await trio.sleep(1)
    assert budget.device.bytes_s == pytest.approx(MIB / 2, rel=0.05)
