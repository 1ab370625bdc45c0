"""A disk that hangs in the middle of a call: the call is left to its thread, all others go on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from threading import Event

import pytest
import trio

from ec.breaker import BreakerSettings
from ec.errors import EcError, StoreTimeoutError
from ec.node_dir import initialise
from ec.node_identity import TEMP_SUFFIX, NodeIdentity
from ec.profile import Profile
from ec.store.patience import Timeouts
from logd.cold import work_gate
from logd.cold.local_node import LocalNode
from logd.cold.node_access import Access
from logd.cold.node_watch import NodeWatch
from logd.offload import ThreadOffload
from logd.policy.cold.values import StorageNode
from logd.policy.node_health import HealthLimits, NodeHealth
from logd.storage.files import Files, OpenFile
from tests.ec_samples import encode, noise
from tests.unit.cold_rig import CLUSTER
from tests.unit.test_ec_encode import Bytes, run

SAMPLE = encode(noise(50_000))
QUICK = Timeouts(durable_s=1.5, answer_s=1.5, scan_s=1.5, abort_s=1.5)
PATIENT = Timeouts(durable_s=60, answer_s=60, scan_s=60, abort_s=60)
"""For nodes that are well, on a machine that is busy."""


class HangingFiles(Files):
    """A file system of which one call hangs, where a path has a word in it, until it is let go.

    Attributes:
        hangs: the method's name; "" for none.
        reached: somebody hangs.
    """

    def __init__(self) -> None:
        self.hangs = ""
        self.reached = Event()
        self.let_go = Event()

    def _maybe_hang(self, call: str) -> None:
        if call == self.hangs:
            self.reached.set()
            assert self.let_go.wait(120)

    def open_direct(self, file: OpenFile, *, writable: bool) -> OpenFile | None:
        return None  # Or the few bytes of a sample would wait for the end to be written.

    def write_at(
        self, file: OpenFile, position: int, buffers: Sequence[bytes | bytearray | memoryview]
    ) -> int:
        self._maybe_hang("write")
        return super().write_at(file, position, buffers)

    def sync(self, file: OpenFile) -> None:
        self._maybe_hang("sync")
        super().sync(file)

    def allocate(self, file: OpenFile, position: int, size: int) -> None:
        self._maybe_hang("allocate")
        super().allocate(file, position, size)

    def unlink(self, path: str) -> None:
        self._maybe_hang("unlink")
        super().unlink(path)


class Rig:
    """Local nodes, each on a disk of its own that may hang, behind real threads."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.offload = ThreadOffload()
        self.disks: dict[str, HangingFiles] = {}

    async def node(self, name: str, timeouts: Timeouts = QUICK) -> NodeWatch:
        """Return a node that was asked how it is."""
        disk = self.disks[name] = HangingFiles()
        record = StorageNode(
            name=name, place=f"{self.directory}/{name}", identity=f"{ord(name):032x}"
        )
        initialise(disk, record.place, NodeIdentity(CLUSTER, name, record.identity))
        access = Access(
            files=disk, offload=self.offload, cluster_id=CLUSTER, token=None,
            rng=random.Random(1), breaker=BreakerSettings(), timeouts=timeouts, reserve_bytes=0,
            fence=lambda: None,
        )  # fmt: skip
        watch = NodeWatch.begin(record, access, HealthLimits(suspect_ms=20, dead_ms=60_000))
        await watch.probe(60)
        assert watch.is_live
        return watch

    def names(self, node: str) -> list[str]:
        """The names of files in a node's directory of chunks."""
        return Files().list_directory(f"{self.directory}/{node}/chunks")

    def temps(self, node: str) -> list[str]:
        """The names of chunks there that are not whole."""
        return [name for name in self.names(node) if name.endswith(TEMP_SUFFIX)]

    def close(self) -> None:
        for disk in self.disks.values():
            disk.let_go.set()
        self.offload.close()


@pytest.fixture
def rig(directory: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Nobody waits long for what hangs; at the end all is let go."""
    monkeypatch.setattr(work_gate, "SEE_OUT_S", 0.05)
    made = Rig(directory)
    yield made
    made.close()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110  what is looked at tells nobody of its changes
            await trio.sleep(0.005)


async def put(watch: NodeWatch, index: int = 0) -> None:
    """Write a chunk as an encoding does."""
    upload = await watch.store.begin(SAMPLE.ids[index], len(SAMPLE.files[index]))
    try:
        await upload.write([SAMPLE.files[index]])
        await upload.finish()
    finally:
        with trio.CancelScope(shield=True):
            await upload.abort()


@pytest.mark.parametrize("call", ["allocate", "write", "sync", "unlink"])
async def test_a_write_that_hangs_is_given_up(rig: Rig, call: str) -> None:
    """In time, with the node suspect and others in use; when the disk is back nothing is left, but
    a chunk that was finished then: it is whole.
    """
    hung, well = await rig.node("a"), await rig.node("b", PATIENT)
    disk = rig.disks["a"]
    disk.hangs = call
    if call == "unlink":
        upload = await hung.store.begin(SAMPLE.ids[0], len(SAMPLE.files[0]))
        with trio.fail_after(60):
            await upload.abort()
    else:
        with trio.fail_after(60), pytest.raises(StoreTimeoutError, match="not within"):
            await put(hung)
    assert isinstance(hung.store, LocalNode)
    for refused in (hung.store.begin(SAMPLE.ids[1], 1000), hung.store.delete(SAMPLE.ids[0])):
        with pytest.raises(StoreTimeoutError, match="disk hangs: 1 call"):
            await refused
    await hung.probe(5)
    await trio.sleep(0.03)  # node.suspect.ms of this test.
    await hung.probe(5)
    assert hung.health is NodeHealth.SUSPECT
    assert "disk hangs" in hung.last_error
    await put(well)
    assert rig.names("b") == [SAMPLE.ids[0].name]
    disk.hangs = ""
    disk.let_go.set()
    store = hung.store
    await until(lambda: store._ways.work.hanging == 0)
    await hung.probe(5)
    assert hung.is_live
    assert rig.temps("a") == []
    await put(hung)
    assert rig.names("a") == [SAMPLE.ids[0].name]


async def test_who_is_cancelled_early_waits_for_what_it_began(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that ends soon hangs not, and leaves no half chunk behind."""
    monkeypatch.setattr(work_gate, "SEE_OUT_S", 60)  # "Soon" on any machine.
    watch = await rig.node("a")
    disk = rig.disks["a"]
    disk.hangs = "write"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, watch)
        await until(disk.reached.is_set)
        disk.let_go.set()
        nursery.cancel_scope.cancel()
    assert isinstance(watch.store, LocalNode)
    assert watch.store._ways.work.hanging == 0
    await until(lambda: not rig.temps("a"))


async def test_few_threads_hang(rig: Rig) -> None:
    """Of many writes at once each ends in time, and what had not begun never does."""
    watch = await rig.node("a")
    disk = rig.disks["a"]
    disk.hangs = "write"
    ended: list[str] = []

    async def one(index: int) -> None:
        try:
            await put(watch, index)
        except EcError as error:
            ended.append(str(error))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for index in range(len(SAMPLE.ids)):
                nursery.start_soon(one, index)
    assert len(ended) == len(SAMPLE.ids)
    assert isinstance(watch.store, LocalNode)
    assert 1 <= watch.store._ways.work.hanging <= 4
    disk.hangs = ""
    disk.let_go.set()
    await until(lambda: not rig.temps("a"))


async def test_an_encoding_ends_while_a_disk_hangs(rig: Rig) -> None:
    """Its slot is free for the next one, which succeeds on others while the thread still hangs."""
    expected = encode(noise(3_000_000), Profile(2, 1))
    watches = [await rig.node(name, QUICK if name == "b" else PATIENT) for name in "abcd"]
    disk = rig.disks["b"]
    disk.hangs = "write"
    with trio.fail_after(60):
        with pytest.raises(StoreTimeoutError, match="b: writing"):
            await run(expected, [watch.store for watch in watches[:3]], Bytes(expected.source))
        assert disk.reached.is_set()
        others = [watches[0].store, watches[2].store, watches[3].store]
        await run(expected, others, Bytes(expected.source))
    assert [rig.temps(name) for name in "acd"] == [[], [], []]
    assert [len(rig.names(name)) for name in "acd"] == [1, 1, 1]
    store = watches[1].store
    assert isinstance(store, LocalNode)
    assert store._ways.work.hanging == 1
