"""A segment onto local directories and node processes, two of them lost, read back and repaired."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from random import Random

from ec.breaker import Breaker
from ec.chunk_dir import ChunkDirectory
from ec.codec import Codec
from ec.encode import encode
from ec.errors import EcError
from ec.geometry import choose_cuts
from ec.indexes import Indexes
from ec.kernels.choose import choose
from ec.manifest import Manifest
from ec.margin import margin
from ec.node_dir import initialise
from ec.node_identity import NodeIdentity
from ec.offload import ThreadOffload
from ec.placement import Candidate, place, place_again
from ec.profile import Profile
from ec.prove import prove
from ec.read import SegmentReader
from ec.repair import Rebuild
from ec.segment import Segment, draft
from ec.store.guarded import GuardedStore
from ec.store.local import LocalStore
from ec.store.patience import Timeouts
from ec.store.protocol import Store
from ec.store.remote import RemoteStore, parse_node_url
from logd.storage.files import Files
from tests.ec_samples import noise
from tests.forked import ForkedLogd
from tests.interop.test_node_serve import node_process
from tests.unit.test_ec_encode import Bytes

PROFILE = Profile(4, 2)
SIZE = 9 * 2**20 + 12_345
CLUSTER = "cluster-of-tests"


class Nodes:
    """Seven nodes, each a directory; those in `remote` are processes."""

    def __init__(self, directory: str, opened: ExitStack) -> None:
        self.directory = directory
        self.offload = ThreadOffload(4)
        self.stores: dict[str, Store] = {}
        self.processes: dict[str, ForkedLogd] = {}
        self._opened = opened

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def add_local(self, name: str) -> None:
        initialise(Files(), self.path(name), self.identity(name))
        self.stores[name] = LocalStore(ChunkDirectory.open(Files(), self.path(name)), self.offload)

    async def add_remote(self, name: str) -> None:
        process, _, address = self._opened.enter_context(node_process(self.path(name)))
        host, port = parse_node_url(f"http://{address}")
        remote = RemoteStore(host, port, node=name, timeouts=Timeouts(answer_s=10))
        self._opened.callback(remote.close)
        await remote.initialise(self.identity(name))
        self.stores[name] = GuardedStore(remote, breaker=Breaker(), rng=Random(1))
        self.processes[name] = process

    def identity(self, name: str) -> NodeIdentity:
        return NodeIdentity(CLUSTER, name, f"{ord(name):032x}")


async def test_a_segment_survives_two_of_six_nodes(directory: str) -> None:
    """Placed, coded, proven, two nodes lost, read back equal, repaired to where there is room."""
    with ExitStack() as opened:
        nodes = Nodes(directory, opened)
        for name in "abcd":
            nodes.add_local(name)
        for name in "ef":
            await nodes.add_remote(name)
        source = Bytes(noise(SIZE))
        codec = Codec(PROFILE, choose()[0])
        manifest, home = await coded(nodes, source, codec)
        stores = {index: nodes.stores[name] for index, name in enumerate(home)}
        assert await prove(source, manifest, stores, codec=codec, offload=nodes.offload) > 0

        lost = [index for index, name in enumerate(home) if name in "be"]
        shutil.rmtree(nodes.path("b"))
        nodes.processes["e"].kill()
        troubles: list[tuple[int, EcError]] = []
        reader = SegmentReader(
            manifest, stores, codec=codec, offload=nodes.offload,
            on_trouble=lambda index, error: troubles.append((index, error)),
        )  # fmt: skip
        assert (await reader.read(0, SIZE)).data == source.data
        assert {index for index, _ in troubles} <= set(lost)

        for name in "gh":
            nodes.add_local(name)
        survivors = {index: store for index, store in stores.items() if index not in lost}
        holders = [home[index] for index in survivors]
        room = [Candidate(name, 10**9) for name in "acdfgh"]
        new = place_again(PROFILE, room, holders, chunk_bytes=SIZE, lost=2, seed=3)
        assert set(new) == {"g", "h"}
        targets = {index: nodes.stores[name] for index, name in zip(lost, new, strict=True)}
        rebuild = Rebuild(
            manifest, survivors, targets, codec=codec, offload=nodes.offload,
            on_trouble=lambda index, error: troubles.append((index, error)),
        )  # fmt: skip
        await rebuild.run()
        stores |= targets
        found = {index: [store.node] for index, store in stores.items()}
        assert margin(PROFILE, found, {}).nodes == 2
        assert await prove(source, manifest, stores, codec=codec, offload=nodes.offload) > 0
        for index in range(6):
            assert not await stores[index].verify(manifest.chunk_id(index))


async def coded(nodes: Nodes, source: Bytes, codec: Codec) -> tuple[Manifest, tuple[str, ...]]:
    """Place and encode; every byte of the source is read once."""
    candidates = [Candidate(name, 10**9) for name in nodes.stores]
    home = place(PROFILE, candidates, chunk_bytes=SIZE, seed=7).nodes
    cuts = choose_cuts(SIZE, PROFILE.k, range(0, SIZE, 70_001))
    segment = Segment(
        CLUSTER, "t", "ab" * 16, 0, 0, 100, -1, -1, Indexes(), cuts, (None,) * PROFILE.k
    )
    manifest = draft(segment, PROFILE, generation=5, encoding="cd" * 16, writer="tests 1")
    encoded = await encode(
        source, manifest, Indexes(), [nodes.stores[name] for name in home],
        codec=codec, offload=nodes.offload,
    )  # fmt: skip
    assert source.read_bytes == SIZE
    assert [receipt.outcome for receipt in encoded.receipts] == ["stored"] * 6
    return encoded.manifest, home
