"""The catalog is lost, damaged or old, and is made again from real chunks and directories."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ec.chunk_id import ChunkId
from ec.manifest import Manifest
from ec.profile import Profile as CodedProfile
from logd.cold.nodes import NodeServices
from logd.cold.rebuild import Rebuild, Rebuilt
from logd.errors import DataDirectoryError, NodeRefusedError
from logd.policy.cold.proof import ReleaseTerms
from logd.policy.cold.values import ColdState, Generation, NodeState, Profile, SegmentKey
from logd.storage import layout
from logd.storage.catalog import SqliteCatalog
from logd.storage.catalog_rebuild import resume
from logd.storage.cold_catalog import EncodePlan
from logd.storage.partition_files import write_log_start, write_metadata
from tests.contract.check_cold_catalog import OTHER, TOPIC, encoding
from tests.ec_samples import encode, noise
from tests.unit.cold_rig import CLUSTER, ColdRig, check_of, commit_of
from tests.unit.data_directories import batches
from tests.unit.storage_faults import FaultyFiles, StoppedError

PROFILE = Profile(2, 1)
TERMS = ReleaseTerms(grace_ms=0, hot_retention_ms=0)
NODES = ("n0", "n1", "n2", "n3")
KEEP = {"retention.ms": "-1"}
PATHS = ("catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm")


@pytest.fixture
async def rig(directory: str) -> ColdRig:
    """Topics with directories, nodes with chunks, a catalog that knows all of it.

    Of topic's partition 0: offsets 0 to 9 are committed and hot, 10 to 19 released, 20 to 29
    released by a second generation; partition 1 has a released segment.
    """
    rig = ColdRig(directory)
    rig.catalog.create_topic("topic", TOPIC, 3, {"segment.bytes": "1048576"})
    rig.catalog.create_topic("other", OTHER, 1, {})
    rig.catalog.set_broker_overrides({"log.retention.ms": "1"})
    rig.write("topics/")
    for topic, topic_id, index in (
        ("topic", TOPIC, 0), ("topic", TOPIC, 1), ("topic", TOPIC, 2), ("other", OTHER, 0),
    ):  # fmt: skip
        make_partition(rig, topic, topic_id, index)
    write_hot(rig, 0)
    await rig.add(*NODES)
    await rig.nodes.change(replace(rig.nodes.node("n3"), rack="r3", state=NodeState.DRAINING))
    await code(rig, 1, base=0)
    await code(rig, 2, base=10, release=True)
    await rig.tier.plan(plan_of(3, base=20))
    await rig.tier.abort(encoding(3))
    await remove_chunks(rig, 3)
    await code(rig, 4, base=20, release=True, nodes=("n3", "n1", "n0"))
    await code(rig, 5, base=0, partition=1, release=True)
    return rig


def partition_path(rig: ColdRig, topic: str, index: int) -> str:
    return f"{rig.directory}/topics/{topic}-{index}"


def make_partition(rig: ColdRig, topic: str, topic_id: bytes, index: int) -> None:
    path = partition_path(rig, topic, index)
    Path(path).mkdir()
    write_metadata(rig.files, path, topic_id)


def write_hot(rig: ColdRig, base: int, *, partition: int = 0) -> None:
    """Write the hot file of ten offsets."""
    path = partition_path(rig, "topic", partition)
    data = b"".join(batches(base, 2, records=5))
    Path(path, layout.segment_file_name(base, ".log")).write_bytes(data)


def plan_of(
    number: int, *, base: int, partition: int = 0, nodes: tuple[str, ...] = NODES[:3]
) -> EncodePlan:
    return EncodePlan(
        key=SegmentKey(TOPIC, partition, base), encoding=encoding(number), profile=PROFILE,
        next_offset=base + 10, source_bytes=30_000, min_timestamp_ms=5, max_timestamp_ms=9,
        nodes=nodes,
    )  # fmt: skip


async def code(
    rig: ColdRig,
    number: int,
    *,
    base: int,
    partition: int = 0,
    release: bool = False,
    nodes: tuple[str, ...] = NODES[:3],
    cluster: str = CLUSTER,
) -> Generation:
    """Code a segment as the server does: real chunks on the nodes, then the catalog's moves."""
    planned = await rig.tier.plan(plan_of(number, base=base, partition=partition, nodes=nodes))
    manifest, files = chunks_of(planned, cluster)
    for index, store in rig.tier.stores(planned).items():
        upload = await store.begin(manifest.chunk_id(index), len(files[index]))
        await upload.write([files[index]])
        await upload.finish()
    await rig.tier.commit([commit_of(planned, msgspec.json.encode(manifest))])
    if release:
        check = check_of(planned, now_ms=rig.clock.wall_ms)
        await rig.tier.release(planned.encoding, check, TERMS)
    found = rig.tier.generation(planned.encoding)
    assert found is not None
    return found


def chunks_of(generation: Generation, cluster: str = CLUSTER) -> tuple[Manifest, tuple[bytes, ...]]:
    """Return the manifest and the chunk files of a generation."""
    key = generation.key
    sample = encode(
        noise(generation.source_bytes, key.base_offset), CodedProfile(2, 1),
        generation=generation.number, encoding=generation.encoding, base_offset=key.base_offset,
        changes={
            "cluster_id": cluster, "topic": "topic", "topic_id": key.topic_id.hex(),
            "partition": key.partition, "next_offset": generation.next_offset,
            "min_timestamp_ms": 5, "max_timestamp_ms": 9,
        },
    )  # fmt: skip
    return sample.manifest, sample.files


async def remove_chunks(rig: ColdRig, number: int) -> None:
    generation = rig.tier.generation(encoding(number))
    assert generation is not None
    for at in generation.placements:
        await rig.tier.chunk_removed(generation.encoding, index=at.index, node=at.node)


def words(rig: ColdRig, *names: str) -> list[str]:
    return [f"{name}={rig.place(name)}" for name in names or NODES]


def unknown_settings(_topic: str) -> Mapping[str, str]:
    return KEEP


def rebuild_of(rig: ColdRig, **services: object) -> Rebuild:
    values = {name: getattr(rig.services, name) for name in NodeServices.__dataclass_fields__}
    return Rebuild(
        NodeServices(**(values | services)),
        rig.clock,
        data_path=rig.directory,
        topics_path=f"{rig.directory}/topics",
        unknown_settings=unknown_settings,
    )


def remembered(catalog: SqliteCatalog) -> tuple[object, ...]:
    """Return what a catalog says of nodes and coded segments; when states changed is not known."""
    cold = catalog.cold
    generations = [replace(each, changed_ms=0) for each in cold.generations()]
    return cold.nodes(), generations, [cold.manifest(each.encoding) for each in generations]


def lose_catalog(rig: ColdRig) -> None:
    for name in PATHS:
        Path(rig.directory, name).unlink(missing_ok=True)


def get(rig: ColdRig, name: str) -> bytes:
    return Path(rig.directory, name).read_bytes()


def put(rig: ColdRig, name: str, data: bytes) -> None:
    Path(rig.directory, name).write_bytes(data)


def aside(rig: ColdRig) -> list[str]:
    return sorted(path.name for path in Path(rig.directory).glob("catalog.sqlite.aside*"))


def quarantined(rig: ColdRig, *names: str) -> list[ChunkId]:
    return sorted(
        ChunkId.parse(path.name)
        for name in names or NODES
        for path in Path(rig.place(name), "quarantine").iterdir()
    )


async def rebuild(rig: ColdRig, *names: str) -> tuple[ColdRig, Rebuilt]:
    """Rebuild, and return the next server, loaded."""
    rebuilt = await rebuild_of(rig).run(words(rig, *names))
    later = ColdRig(rig.directory)
    await later.tier.load()
    return later, rebuilt


async def test_a_lost_catalog_comes_back(rig: ColdRig) -> None:
    """Nodes, generations, states, placements and manifests are the same; so are the topics."""
    topics = rig.catalog.topics()
    before = remembered(rig.catalog)
    sequence = rig.tier.sequence
    await rig.nodes.store("n2").note_catalog_sequence(sequence)
    rig.nodes.close()
    rig.catalog.close()
    lose_catalog(rig)
    later, rebuilt = await rebuild(rig)
    nodes, generations, manifests = remembered(later.catalog)
    old_nodes = [replace(node, rack=None, state=NodeState.ACTIVE) for node in rig_nodes(before)]
    assert (nodes, generations, manifests) == (old_nodes, *before[1:])
    assert rebuilt.aside is None
    assert [(row.name, row.topic_id, row.partitions) for row in later.catalog.topics()] == [
        (row.name, row.topic_id, row.partitions) for row in topics
    ]
    assert all(row.overrides == KEEP for row in later.catalog.topics())
    assert later.tier.sequence > sequence
    assert later.catalog.next_producer_id_block(1) > 10**9
    assert quarantined(rig) == []
    states = {each.encoding: each.state for each in later.tier.generations(TOPIC)}
    assert states[encoding(1)] is ColdState.COMMITTED
    assert states[encoding(2)] is ColdState.RELEASED


def rig_nodes(before: tuple[object, ...]) -> list[object]:
    nodes = before[0]
    assert isinstance(nodes, list)
    return nodes


async def test_what_an_old_catalog_still_says_is_kept(rig: ColdRig) -> None:
    """Settings, server settings, racks and states come from it; it is put aside, never removed."""
    topics = rig.catalog.topics()
    before = remembered(rig.catalog)
    later, rebuilt = await rebuild(rig.again())
    assert remembered(later.catalog) == before
    assert later.catalog.topics() == topics
    assert later.catalog.broker_overrides() == {"log.retention.ms": "1"}
    assert rebuilt.aside == f"{rig.directory}/catalog.sqlite.aside-1"
    assert "catalog.sqlite.aside-1" in aside(rig)
    assert rebuilt.topics.unsettled == ()
    again, _ = await rebuild(later.again())
    assert remembered(again.catalog) == before
    assert "catalog.sqlite.aside-2" in aside(rig)


@pytest.mark.parametrize("damage", ["noise", "empty", "other cluster"])
async def test_a_damaged_catalog_is_put_aside(rig: ColdRig, damage: str) -> None:
    """What cannot be read is said, kept as it is, and not believed."""
    generations = remembered(rig.catalog)[1]
    rig.nodes.close()
    rig.catalog.close()
    lose_catalog(rig)
    if damage == "other cluster":
        SqliteCatalog.open(f"{rig.directory}/catalog.sqlite", "another").close()
    else:
        put(rig, "catalog.sqlite", noise(10_000) if damage == "noise" else b"")
    kept = get(rig, "catalog.sqlite")
    later, rebuilt = await rebuild(rig)
    assert remembered(later.catalog)[1] == generations
    assert rebuilt.aside == f"{rig.directory}/catalog.sqlite.aside-1"
    assert get(rig, "catalog.sqlite.aside-1") == kept


async def test_an_old_copy_is_not_believed(rig: ColdRig) -> None:
    """What was coded since comes back too, with a sequence that no node has seen."""
    rig.nodes.close()
    rig.catalog.close()
    copy = get(rig, "catalog.sqlite")
    rig = ColdRig(rig.directory)
    await rig.tier.load()
    await code(rig, 6, base=30, release=True)
    for name in NODES:
        await rig.nodes.store(name).note_catalog_sequence(rig.tier.sequence)
    generations = remembered(rig.catalog)[1]
    rig.nodes.close()
    rig.catalog.close()
    lose_catalog(rig)
    put(rig, "catalog.sqlite", copy)
    stale = ColdRig(rig.directory)
    with pytest.raises(DataDirectoryError, match="--rebuild-catalog"):
        await stale.tier.load()
    later, _ = await rebuild(stale.again())
    assert remembered(later.catalog)[1] == generations
    assert later.nodes.stale is None


async def test_what_is_put_into_quarantine(rig: ColdRig) -> None:
    """Of unknown topics, below the log start, incomplete, of another cluster: all of it, no more.

    Nothing is removed, and what is put aside once stays there.
    """
    await code(rig, 7, base=40, cluster="others")
    await code(rig, 8, base=50)
    for index in (0, 1):
        assert await rig.nodes.store(f"n{index}").delete(chunk_id(rig, 8, index))
    write_log_start(rig.files, partition_path(rig, "topic", 0), 15)
    shutil.rmtree(partition_path(rig, "other", 0))
    expected = {(encoding(number), index) for number in (1, 7) for index in range(3)}
    expected.add((encoding(8), 2))
    later, rebuilt = await rebuild(rig.again())
    assert {(chunk.encoding, chunk.index) for chunk in quarantined(rig)} == expected
    assert len(rebuilt.plan.quarantine) == len(expected)
    assert {each.encoding for each in later.tier.generations()} == {
        encoding(number) for number in (2, 4, 5)
    }
    assert [row.name for row in later.catalog.topics()] == ["topic"]


def chunk_id(rig: ColdRig, number: int, index: int) -> ChunkId:
    generation = rig.tier.generation(encoding(number))
    assert generation is not None
    return chunks_of(generation)[0].chunk_id(index)


async def test_a_damaged_chunk_keeps_its_place(rig: ColdRig) -> None:
    """Repair is to find it where it was; with a damaged one too many nothing is believed."""
    generations = remembered(rig.catalog)[1]
    spoil(rig, chunk_id(rig, 2, 0), "n0")
    later, _ = await rebuild(rig.again())
    assert remembered(later.catalog)[1] == generations
    spoil(later, chunk_id(later, 2, 1), "n1")
    last, _ = await rebuild(later.again())
    assert last.tier.generation(encoding(2)) is None
    assert len(quarantined(last)) == 3


def spoil(rig: ColdRig, chunk: ChunkId, node: str) -> None:
    path = Path(rig.place(node), "chunks", chunk.name)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


async def test_what_is_refused(rig: ColdRig) -> None:
    """A place that is no node, another one, or named twice: nothing has changed then."""
    rig.write("empty/")
    rig = rig.again()
    before = get(rig, "catalog.sqlite")
    for wrong in (
        [f"n0={rig.place('empty')}"], [f"n0={rig.place('n1')}"], [f"n0={rig.place('absent')}"],
        [f"n/0={rig.place('n0')}"], words(rig, "n0", "n0"), ["n0=http://127.0.0.1:1"],
    ):  # fmt: skip
        with pytest.raises(NodeRefusedError):
            await rebuild_of(rig).run(wrong)
    assert get(rig, "catalog.sqlite") == before
    assert aside(rig) == []
    assert rig.files.list_directory(rig.place("empty")) == []


async def test_a_node_that_is_left_out(rig: ColdRig) -> None:
    """One that the old catalog knows is given up by name only; what has k chunks comes back."""
    rig = rig.again()
    rig.move("n2", "gone")
    before = get(rig, "catalog.sqlite")
    with pytest.raises(NodeRefusedError, match="--rebuild-without n2"):
        await rebuild_of(rig).run([])
    with pytest.raises(NodeRefusedError, match="no node n9"):
        await rebuild_of(rig).run([], without=["n9"])
    assert get(rig, "catalog.sqlite") == before
    rebuilt = await rebuild_of(rig).run(words(rig, "n0"), without=["n2"])
    later = ColdRig(rig.directory)
    await later.tier.load()
    held = {each.encoding: len(each.held) for each in later.tier.generations()}
    assert held == {encoding(1): 2, encoding(2): 2, encoding(4): 3, encoding(5): 2}
    assert rebuilt.plan.quarantine == ()
    assert later.nodes.names() == ("n0", "n1", "n3")


async def test_a_topic_that_was_being_deleted_stays_deleted(rig: ColdRig) -> None:
    """Its directories are removed as before, and its chunks are put aside."""
    rig.catalog.mark_deleting(TOPIC)
    retired = layout.deleted_directory_name(TOPIC, 2)
    rig.move("topics/topic-2", f"topics/{retired}")
    later, _ = await rebuild(rig.again())
    rows = {row.topic_id: row.state for row in later.catalog.topics()}
    assert rows == {TOPIC: "deleting", OTHER: "live"}
    assert later.tier.generations() == ()
    assert len(quarantined(rig)) == 12


async def test_stopped_at_every_file_system_call(rig: ColdRig) -> None:
    """The old catalog is there, or the new one whole, which a start finishes; all is the same."""
    before = remembered(rig.catalog)
    rig = rig.again()
    rig.nodes.close()
    rig.catalog.close()
    stop_before, is_done = 0, False
    while not is_done:
        files = FaultyFiles(stop_before=stop_before)
        try:
            await rebuild_of(rig, files=files).run(words(rig))
            is_done = True
        except* StoppedError:
            stop_before += 1
        if rig.exists("catalog-rebuild") and not rig.exists("catalog.sqlite"):
            resume(rig.files, rig.directory)
        catalog = SqliteCatalog.open(f"{rig.directory}/catalog.sqlite", CLUSTER)
        assert remembered(catalog) == before
        catalog.close()
    assert stop_before > 10
    later, _ = await rebuild(rig)
    assert remembered(later.catalog) == before


async def test_stopped_without_an_old_catalog(rig: ColdRig) -> None:
    """Where the catalog was lost, a start is refused until the new one is whole."""
    generations = remembered(rig.catalog)[1]
    rig.nodes.close()
    rig.catalog.close()
    stop_before, refused, is_done = 0, 0, False
    while not is_done:
        lose_catalog(rig)
        shutil.rmtree(rig.place("catalog-rebuild"), ignore_errors=True)
        try:
            files = FaultyFiles(stop_before=stop_before)
            await rebuild_of(rig, files=files).run(words(rig))
            is_done = True
        except* StoppedError:
            stop_before += 1
        try:
            resume(rig.files, rig.directory)
        except DataDirectoryError:
            refused += 1
            continue
        if rig.exists("catalog.sqlite"):
            catalog = SqliteCatalog.open(f"{rig.directory}/catalog.sqlite", CLUSTER)
            assert remembered(catalog)[1] == generations
            catalog.close()
    assert 0 < refused < stop_before
