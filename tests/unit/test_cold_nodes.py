"""Storage nodes of a server: adding, probing, telling, refusing; on a clock that tests move."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import trio
import trio.testing

from ec.errors import NodeNotMountedError, StoreError
from ec.node_dir import initialise
from ec.node_identity import NodeIdentity, read_identity
from ec.store.guarded import CircuitOpenError
from logd.errors import ColdStateError, DataDirectoryError, NodeRefusedError, UnknownNodeError
from logd.policy.cold.values import NodeState
from logd.policy.node_health import NodeHealth
from logd.storage.files import Files
from tests.contract.check_cold_catalog import plan_of
from tests.ec_samples import encode, noise
from tests.node_rig import NodeRig
from tests.unit.cold_rig import CLUSTER, ColdRig

SAMPLE = encode(noise(50_000))


@pytest.fixture
def rig(directory: str) -> ColdRig:
    """A tier without nodes."""
    return ColdRig(directory)


def identity_at(rig: ColdRig, place: str) -> NodeIdentity:
    return read_identity(rig.files, rig.place(place))


# --- adding ---------------------------------------------------------------------------------------


async def test_an_absent_directory_becomes_a_node(rig: ColdRig) -> None:
    """It is made, has an identity of this cluster and name, is live, and is in the catalog."""
    record = await rig.nodes.add("a", rig.place("a"))
    identity = identity_at(rig, "a")
    assert (identity.cluster_id, identity.node, identity.node_id) == (CLUSTER, "a", record.identity)
    assert rig.nodes.is_live("a")
    assert rig.catalog.cold.nodes() == [record]
    assert rig.nodes.names() == ("a",)


async def test_adding_again_changes_nothing(rig: ColdRig) -> None:
    """The same name and place once more: same identity, same sequence of the catalog."""
    first = await rig.nodes.add("a", rig.place("a"), "r1")
    sequence = rig.tier.sequence
    assert await rig.nodes.add("a", rig.place("./a/")) == first
    assert (await rig.nodes.add("a", rig.place("a"), "r1")) == first
    assert rig.tier.sequence == sequence


async def test_a_rack_is_changed_by_adding_again(rig: ColdRig) -> None:
    """A rack that was not said stays; another one is recorded, also while the disk is away."""
    await rig.nodes.add("a", rig.place("a"), "r1")
    rig.move("a/node.identity", "gone")
    assert (await rig.nodes.add("a", rig.place("a"), "r2")).rack == "r2"
    assert rig.catalog.cold.nodes()[0].rack == "r2"
    assert rig.nodes.rack("a") == "r2"


async def test_a_node_that_was_made_before_a_crash_is_taken(rig: ColdRig) -> None:
    """A directory with this cluster's identity of that name keeps it, and is not made anew."""
    identity = rig.make_node("a")
    assert (await rig.nodes.add("a", rig.place("a"))).identity == identity.node_id


async def test_a_known_name_is_never_initialised_again(rig: ColdRig) -> None:
    """An empty directory is refused for a known node, and stays empty."""
    await rig.add("a")
    rig.write("other/")
    with pytest.raises(NodeRefusedError, match="replace"):
        await rig.nodes.add("a", rig.place("other"))
    assert rig.files.list_directory(rig.place("other")) == []
    shutil.rmtree(rig.place("a"))
    await rig.nodes.add("a", rig.place("a"))
    assert not rig.exists("a")


@pytest.mark.parametrize("place", ["a", "moved"])
@pytest.mark.parametrize("name", ["a", "b"])
async def test_a_node_that_is_elsewhere_or_called_otherwise(
    rig: ColdRig, name: str, place: str
) -> None:
    """Its new place and name are recorded; its chunks stay, on its disk and on record."""
    rig.create_topic()
    old = await rig.nodes.add("a", rig.place("a"), "r1")
    await rig.add("n1", "n2")
    store = rig.nodes.store("a")
    upload = await store.begin(SAMPLE.ids[0], len(SAMPLE.files[0]))
    await upload.write([SAMPLE.files[0]])
    await upload.finish()
    planned = await rig.tier.plan(replace(plan_of(1), nodes=("a", "n1", "n2")))
    if place != "a":
        rig.move("a", place)
    moved = await rig.nodes.add(name, rig.place(place))
    assert moved == replace(old, name=name, place=rig.place(place))
    assert rig.catalog.cold.nodes() == [moved, *map(rig.nodes.node, ("n1", "n2"))]
    assert rig.nodes.names() == (name, "n1", "n2")
    assert await rig.nodes.store(name).list() == (SAMPLE.ids[0],)
    assert identity_at(rig, place).node == name
    for found in (rig.tier, (later := rig.again()).tier):
        if found is later.tier:
            await found.load()
        generation = found.generation(planned.encoding)
        assert generation is not None
        assert generation.held == {0: name, 1: "n1", 2: "n2"}
        assert found.nodes.is_live(name)


async def test_a_node_behind_a_server_is_renamed(rig: ColdRig) -> None:
    """By its address, also at a new one; a server that was told its name refuses, and says how."""
    with trio.fail_after(60):
        served = NodeRig(Files(), rig.place("disk"), token=None)
        async with served.serving():
            await rig.nodes.add("a", f"http://127.0.0.1:{served.port}")
            before = rig.nodes.node("a")
            moved = await rig.nodes.add("b", f"http://localhost:{served.port}")
            assert moved == replace(before, name="b", place=f"http://localhost:{served.port}")
            assert rig.nodes.is_live("b")
            assert (await rig.nodes.store("b").health()).identity.node == "b"
        strict = NodeRig(Files(), rig.place("disk"), token=None, node="b")
        async with strict.serving():
            with pytest.raises(NodeRefusedError, match="start it with another --name"):
                await rig.nodes.add("c", f"http://127.0.0.1:{strict.port}")
            assert rig.nodes.names() == ("b",)
            await rig.nodes.add("b", f"http://127.0.0.1:{strict.port}")
            assert rig.nodes.is_live("b")
        rig.nodes.close()


async def test_a_renaming_that_was_cut_short_goes_on(rig: ColdRig) -> None:
    """The disk has the new name, the catalog the old one: it is said what to do, and that works."""
    await rig.add("a")
    identity = identity_at(rig, "a")
    later = rig.again()
    initialise(rig.files, rig.place("a"), replace_name(identity, "b"))
    await later.tier.load()
    assert not later.nodes.is_live("a")
    assert "logd node add b" in (later.nodes.last_error("a") or "")
    await later.nodes.add("b", later.place("a"))
    assert later.nodes.names() == ("b",)
    assert later.nodes.is_live("b")


async def test_a_name_that_is_taken_is_not_given(rig: ColdRig) -> None:
    """Nor does the setting `nodes` rename: only people do."""
    await rig.add("a", "b")
    with pytest.raises(NodeRefusedError, match="node b is another one"):
        await rig.nodes.add("b", rig.place("a"))
    await rig.nodes.register([f"c={rig.place('a')}"])
    assert rig.nodes.names() == ("a", "b")
    assert identity_at(rig, "a").node == "a"
    assert "keeps its name" in rig.log.getvalue()
    with pytest.raises(NodeRefusedError, match="said to be two nodes, a and c"):
        await rig.nodes.register([f"a={rig.place('a')}", f"c={rig.place('a')}"])


async def test_another_clusters_node_is_refused_in_words(rig: ColdRig) -> None:
    """Under a new name as under a known one; the place stays as it is."""
    await rig.add("a")
    theirs = NodeIdentity("others", "a", "0" * 32)
    initialise(rig.files, rig.place("theirs"), theirs)
    for attempt in (rig.nodes.add("a", rig.place("theirs")),
                    rig.nodes.add("b", rig.place("theirs")),
                    rig.nodes.replace("a", rig.place("theirs"))):  # fmt: skip
        with pytest.raises(NodeRefusedError, match=r"another cluster: .* Take an empty place"):
            await attempt
    assert identity_at(rig, "theirs") == theirs
    assert rig.nodes.node("a").place == rig.place("a")


async def test_strangers_are_refused(rig: ColdRig) -> None:
    """Another cluster's node, another name's, and a directory with anything in it."""
    rig.make_node("b", at="of-b")
    initialise(rig.files, rig.place("of-others"), NodeIdentity("others", "a", "0" * 32))
    rig.write("full/")
    rig.write("full/letter", "dear")
    rig.write("file", "no directory")
    for place, reason in (
        ("of-b", "is node b, not a"), ("of-others", "another cluster"), ("full", "not empty"),
        ("file", "cannot be node a"), ("no/such/parent", "directory above it"),
    ):  # fmt: skip
        with pytest.raises(NodeRefusedError, match=reason):
            await rig.nodes.add("a", rig.place(place))
    assert rig.nodes.names() == ()
    assert rig.tier.sequence == 0


@pytest.mark.parametrize(
    ("name", "place", "rack"),
    [
        ("", "/x", None), ("a/b", "/x", None), ("..", "/x", None), ("a" * 65, "/x", None),
        ("a\n", "/x", None), ("a", "", None), ("a", "/x\0y", None), ("a", "https://h:1", None),
        ("a", "http://h", None), ("a", "http://u:p@h:1", None), ("a", "http://h:1/x", None),
        ("a", "/x", " "), ("a", "/x", "r" * 65), ("a", "/x", "r\n"),
    ],
)  # fmt: skip
async def test_names_places_and_racks_are_checked(
    rig: ColdRig, name: str, place: str, rack: str | None
) -> None:
    """What is no name, no place or no rack is refused before anything is touched."""
    with pytest.raises(NodeRefusedError):
        await rig.nodes.add(name, place, rack)
    assert rig.nodes.names() == ()


async def test_two_nodes_in_one_place_are_refused(rig: ColdRig) -> None:
    """A place is one node's, also while that node's disk is not there."""
    await rig.add("a")
    rig.move("a/node.identity", "gone")
    with pytest.raises(NodeRefusedError, match="place of node a"):
        await rig.nodes.add("b", rig.place("a"))


async def test_the_setting_registers_nodes(rig: ColdRig) -> None:
    """New ones are added; a known one that is not where it is said to be is only complained of."""
    await rig.nodes.register([f"a={rig.place('a')}"])
    await rig.nodes.register([f"a={rig.place('new')}", f"b={rig.place('b')}"])
    assert rig.nodes.names() == ("a", "b")
    assert rig.nodes.node("a").place == rig.place("a")
    with pytest.raises(NodeRefusedError):
        await rig.nodes.register([f"c={rig.place('no/such')}"])


async def test_removing_a_node(rig: ColdRig) -> None:
    """Forgotten here and in the catalog; its directory stays as it is, and may be added again."""
    await rig.add("a")
    before = identity_at(rig, "a")
    await rig.nodes.remove("a")
    assert rig.nodes.names() == ()
    assert rig.catalog.cold.nodes() == []
    assert identity_at(rig, "a").node_id == before.node_id
    with pytest.raises(UnknownNodeError):
        await rig.nodes.remove("a")
    await rig.add("a")
    assert rig.nodes.is_live("a")


async def test_a_node_with_chunks_is_not_removed(rig: ColdRig) -> None:
    """While chunks have their place there it is refused, with their number; nothing changes."""
    rig.create_topic()
    await rig.add("n0", "n1", "n2", "n3")
    await rig.tier.plan(plan_of(1))
    with pytest.raises(NodeRefusedError, match="1 chunk"):
        await rig.nodes.remove("n0")
    assert rig.nodes.is_live("n0")
    await rig.nodes.remove("n3")
    assert rig.nodes.names() == ("n0", "n1", "n2")


async def test_a_change_of_state_is_recorded(rig: ColdRig) -> None:
    """A draining node takes no chunks, and is draining after a restart."""
    await rig.add("a")
    await rig.nodes.change(replace(rig.nodes.node("a"), state=NodeState.DRAINING))
    assert not rig.nodes.candidates()[0].is_live
    assert rig.nodes.facts()[0].state is NodeState.DRAINING
    later = rig.again()
    await later.tier.load()
    assert later.nodes.node("a").state is NodeState.DRAINING
    assert later.nodes.is_live("a")


# --- probing --------------------------------------------------------------------------------------


async def test_a_disk_that_goes_and_comes_back(
    rig: ColdRig, autojump_clock: trio.testing.MockClock
) -> None:
    """Unmounted: dead at once, nothing is written there. Mounted again: live, without a restart."""
    await rig.add("a", "b")
    async with rig.running():
        rig.move("a", "unmounted")
        await trio.sleep(3)
        assert rig.nodes.health("a") is NodeHealth.DEAD
        assert rig.nodes.is_live("b")
        with pytest.raises(NodeNotMountedError):
            await rig.nodes.store("a").list()
        assert not rig.exists("a")
        rig.move("unmounted", "a")
        await trio.sleep(3)
        assert rig.nodes.is_live("a")
        assert await rig.nodes.store("a").list() == ()
    assert rig.changes.count("a") >= 2


async def test_another_disk_under_a_nodes_path(
    rig: ColdRig, autojump_clock: trio.testing.MockClock
) -> None:
    """A directory that was made anew under the old name is another node: dead, and not read."""
    await rig.add("a")
    async with rig.running():
        rig.move("a", "old")
        rig.make_node("a")
        await trio.sleep(3)
        assert rig.nodes.health("a") is NodeHealth.DEAD
        assert "made anew" in (rig.nodes.last_error("a") or "")
        with pytest.raises(StoreError):
            await rig.nodes.store("a").list()


async def test_a_node_that_hangs_delays_no_other(
    rig: ColdRig, autojump_clock: trio.testing.MockClock
) -> None:
    """It is suspect after node.suspect.ms, dead after node.dead.ms, live when it answers again."""
    await rig.add("a", "b")
    async with rig.running():
        rig.offload.hanging.add(f"health {rig.nodes.node('a').identity}")
        hung_at = trio.current_time()
        for health, from_s, to_s in ((NodeHealth.SUSPECT, 10, 20), (NodeHealth.DEAD, 60, 75)):
            changed = trio.Event()
            rig.nodes.on_change[:] = [lambda _name, changed=changed: changed.set()]
            await changed.wait()
            assert rig.nodes.health("a") is health
            assert from_s <= trio.current_time() - hung_at <= to_s
            assert rig.nodes.is_live("b")
        rig.offload.let_go()
        await trio.sleep(6)
        assert rig.nodes.is_live("a")


async def test_a_start_does_not_wait_for_a_node_that_hangs(
    rig: ColdRig, autojump_clock: trio.testing.MockClock
) -> None:
    """Two seconds for all of them together; what did not answer is not live yet."""
    await rig.add("a", "b", "c")
    kinds = {f"health {rig.nodes.node(name).identity}" for name in "ab"}
    later = rig.again()
    later.offload.hanging |= kinds
    began = trio.current_time()
    await later.tier.load()
    assert trio.current_time() - began <= 2.5
    assert [later.nodes.is_live(name) for name in "abc"] == [False, False, True]
    assert later.nodes.health("a") is NodeHealth.SUSPECT


async def test_facts_for_placement(directory: str) -> None:
    """Free space less the reserve, rack, and device: two directories of one disk share one."""
    rig = ColdRig(directory, disk_reserve_bytes="1000")
    await rig.add("a", "b")
    a, b = rig.nodes.facts()
    assert a.device == b.device
    assert a.kept_bytes == 1000
    free = rig.nodes.free_bytes("a")
    assert free is not None
    assert rig.nodes.candidates()[0].free_bytes == free - 1000


async def test_breakers_of_purposes_are_apart(rig: ColdRig) -> None:
    """Repair that finds a node hanging opens its own breaker; readers go on asking."""
    await rig.add("a")
    repair, serve = rig.nodes.store("a", "repair"), rig.nodes.store("a")
    assert rig.nodes.store("a", "repair") is repair
    period = repair.breaker.admit(0)
    assert period is not None
    for _ in range(10):
        repair.breaker.record(period, trio.current_time(), seconds=1, failed=True)
    with pytest.raises(CircuitOpenError):
        await repair.list()
    assert await serve.list() == ()
    assert (rig.nodes.breaker("a", "repair"), rig.nodes.breaker("a")) == ("open", "closed")


async def test_a_node_that_is_back_is_used_at_the_next_probe(
    rig: ColdRig, autojump_clock: trio.testing.MockClock
) -> None:
    """Its breakers, open for 30 s, let calls through, and whoever waits for it is told."""
    await rig.add("a")
    async with rig.running():
        store = rig.nodes.store("a")
        rig.move("a", "away")
        period = store.breaker.admit(trio.current_time())
        assert period is not None
        for _ in range(10):
            store.breaker.record(period, trio.current_time(), seconds=1, failed=True)
        await trio.sleep(3)
        assert rig.nodes.breaker("a") == "open"
        rig.move("away", "a")
        rig.changes.clear()
        await trio.sleep(3)
        assert rig.nodes.breaker("a") == "half-open"
        assert "a" in rig.changes
        assert await store.list() == ()


# --- the catalog's sequence -----------------------------------------------------------------------


async def test_nodes_are_told_how_far_the_catalog_has_come(
    rig: ColdRig, autojump_clock: trio.testing.MockClock
) -> None:
    """Soon after each change; one that was away is told when it is back."""
    rig.create_topic()
    await rig.add("n0", "n1", "n2")
    async with rig.running():
        rig.move("n0", "away")
        await trio.sleep(3)
        await rig.tier.plan(plan_of(1))
        await trio.sleep(1)
        assert identity_at(rig, "n1").catalog_sequence == rig.tier.sequence
        assert identity_at(rig, "away").catalog_sequence < rig.tier.sequence
        rig.move("away", "n0")
        await trio.sleep(3)
        assert identity_at(rig, "n0").catalog_sequence == rig.tier.sequence


async def test_an_older_catalog_is_refused_at_start(directory: str) -> None:
    """A node that saw a later sequence ends the start; the message says what to do."""
    rig = ColdRig(directory)
    await rig.add("a")
    store = rig.nodes.store("a")
    await store.note_catalog_sequence(rig.tier.sequence + 5)
    later = rig.again()
    with pytest.raises(DataDirectoryError, match="--rebuild-catalog"):
        await later.tier.load()


async def test_an_older_catalog_is_found_out_later(
    rig: ColdRig, autojump_clock: trio.testing.MockClock
) -> None:
    """A node that was away and has seen more stops every change on every node; reads go on."""
    rig.create_topic()
    await rig.add("n0", "n1", "n2", "n3")
    planned = await rig.tier.plan(plan_of(1))
    async with rig.running():
        initialise(Files(), rig.place("x"), replace_sequence(identity_at(rig, "n3"), 1000))
        shutil.rmtree(rig.place("n3"))
        rig.move("x", "n3")
        await trio.sleep(3)
        assert rig.nodes.stale is not None
        store = rig.nodes.store("n0")
        for change in (
            store.begin(SAMPLE.ids[0], 1000), store.delete(SAMPLE.ids[0]),
            store.quarantine(SAMPLE.ids[0]), store.note_catalog_sequence(9),
        ):  # fmt: skip
            with pytest.raises(StoreError, match="old copy"):
                await change
        assert await store.list() == ()
        with pytest.raises(ColdStateError, match="old copy"):
            await rig.tier.plan(plan_of(2, base=10, end=20))
        with pytest.raises(NodeRefusedError, match="old copy"):
            await rig.add("n9")
        await rig.tier.abort(planned.encoding)


def replace_name(identity: NodeIdentity, node: str) -> NodeIdentity:
    return NodeIdentity(identity.cluster_id, node, identity.node_id, identity.catalog_sequence)


def replace_sequence(identity: NodeIdentity, sequence: int) -> NodeIdentity:
    return NodeIdentity(identity.cluster_id, identity.node, identity.node_id, sequence)


async def test_a_place_that_has_seen_more_is_not_added(rig: ColdRig) -> None:
    """A node that the catalog has forgotten, and that knows a later one, is refused."""
    rig.make_node("a", sequence=77)
    with pytest.raises(NodeRefusedError, match="77"):
        await rig.nodes.add("a", rig.place("a"))


async def test_what_no_node_is_called(rig: ColdRig) -> None:
    """Questions about a node that there is not are refused by name."""
    for question in (rig.nodes.node, rig.nodes.store, rig.nodes.health, rig.nodes.last_error):
        with pytest.raises(UnknownNodeError, match="'x'"):
            question("x")
    assert not rig.nodes.is_live("x")


async def test_who_reads_once_shares_a_local_node_but_not_its_page_cache(rig: ColdRig) -> None:
    """Encoding, repair and scrub read past the cache, from the same open directory; encoding has
    the breaker of readers."""
    await rig.nodes.add("a", rig.place("a"))
    serve, encoding = rig.nodes.store("a"), rig.nodes.store("a", "encode")
    assert encoding.breaker is serve.breaker
    assert rig.nodes.store("a", "repair").breaker is not serve.breaker
    write = await encoding.begin(SAMPLE.ids[0], len(SAMPLE.files[0]))
    await write.write([SAMPLE.files[0]])
    await write.finish()
    name = rig.place(f"a/chunks/{SAMPLE.ids[0].name}")
    file = rig.files.open_read(name)
    if rig.files.open_direct(file, writable=False) is None:
        pytest.skip("this file system has no direct way")
    for store, is_cached in ((encoding, False), (serve, True)):
        found = await store.read(SAMPLE.ids[0], 0, 4096)
        assert bytes(found) == SAMPLE.payloads[0][:4096]
        assert rig.files.is_cached(file, 0, 4096) is is_cached
    rig.move("a", "gone")
    with pytest.raises(NodeNotMountedError):
        await encoding.read(SAMPLE.ids[0], 0, 4096)
