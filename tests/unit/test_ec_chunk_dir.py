"""A node's directory: identity, lock, leftovers, disks that go away, syncs that fail."""

from __future__ import annotations

import errno
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ec import chunk_dir
from ec.chunk_dir import ChunkDirectory
from ec.chunk_id import ChunkId
from ec.errors import (
    ChunkDamagedError,
    ChunkMissingError,
    ChunkNameError,
    NodeIdentityError,
    NodeNotMountedError,
    NoSpaceError,
    StoreError,
)
from ec.geometry import BLOCK_BYTES
from ec.node_dir import initialise
from ec.node_identity import (
    FILE_NAME,
    NodeIdentity,
    decode_identity,
    encode_identity,
    read_identity,
)
from logd.storage.files import Files, OpenFile
from tests.contract.check_store import IDENTITY, SAMPLE
from tests.unit.storage_faults import is_memory


class Disk(Files):
    """A disk that refuses what it is told to refuse.

    Attributes:
        failing: names of methods, and the error that each gives.
    """

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.other_device = False
        self.has_direct = True
        self.on_sync: Callable[[], None] = lambda: None

    def _may_fail(self, name: str) -> None:
        if name in self.failing:
            raise OSError(self.failing[name], os.strerror(self.failing[name]))

    def open_direct(self, file: OpenFile, *, writable: bool) -> OpenFile | None:
        return super().open_direct(file, writable=writable) if self.has_direct else None

    def allocate(self, file: OpenFile, position: int, size: int) -> None:
        self._may_fail("allocate")
        super().allocate(file, position, size)

    def write_at(self, file, position, buffers):  # type: ignore[no-untyped-def]  # As in Files.
        self._may_fail("write_at")
        return super().write_at(file, position, buffers)

    def read_into(self, file: OpenFile, position: int, buffer: bytearray | memoryview) -> int:
        self._may_fail("read_into")
        return super().read_into(file, position, buffer)

    def sync(self, file: OpenFile) -> None:
        self._may_fail("sync")
        self.on_sync()

    def sync_directory(self, path: str) -> None:
        self._may_fail("sync_directory")

    def rename(self, old: str, new: str) -> None:
        self._may_fail("rename")
        super().rename(old, new)

    def device(self, path: str) -> int:
        return super().device(path) + self.other_device


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def path(directory: str, disk: Disk) -> str:
    node = f"{directory}/node"
    initialise(disk, node, IDENTITY)
    return node


def put(home: ChunkDirectory, index: int = 0) -> None:
    write = home.begin(SAMPLE.ids[index], len(SAMPLE.files[index]))
    write.write([SAMPLE.files[index]])
    write.finish()


def names(path: str) -> list[str]:
    return sorted(os.listdir(f"{path}/chunks"))


def test_initialising_again_is_harmless(path: str, disk: Disk) -> None:
    """A directory that has this identity keeps it, with its id and sequence."""
    before = read_identity(disk, path)
    initialise(disk, path, NodeIdentity(IDENTITY.cluster_id, IDENTITY.node, "2" * 32))
    assert read_identity(disk, path) == before == IDENTITY


@pytest.mark.parametrize("identity", [NodeIdentity("other", "a", "1" * 32),
                                      NodeIdentity("cluster-of-tests", "b", "2" * 32)])  # fmt: skip
def test_another_node_s_directory_is_refused(path: str, disk: Disk, identity: NodeIdentity) -> None:
    """Neither made over nor opened under another name."""
    with pytest.raises(NodeIdentityError):
        initialise(disk, path, identity)
    with pytest.raises(NodeIdentityError):
        ChunkDirectory.open(disk, path, cluster_id=identity.cluster_id, node=identity.node)


def test_a_directory_that_was_made_anew_is_another_node(path: str, disk: Disk) -> None:
    """Its name is the same, its id is not: what it lacks says nothing."""
    with pytest.raises(NodeIdentityError):
        ChunkDirectory.open(disk, path, node=IDENTITY.node, node_id="2" * 32)
    ChunkDirectory.open(disk, path, node=IDENTITY.node, node_id=IDENTITY.node_id)


def test_a_directory_with_something_in_it_is_refused(directory: str, disk: Disk) -> None:
    """Nobody's files are mixed with ours; chunks without an identity least of all."""
    Path(directory, "somebody's").write_text("file")
    with pytest.raises(NodeIdentityError, match="not empty"):
        initialise(disk, directory, IDENTITY)
    Path(directory, "somebody's").unlink()
    Path(directory, "chunks").mkdir()
    Path(directory, "chunks", SAMPLE.ids[0].name).write_bytes(b"")
    with pytest.raises(NodeIdentityError, match="not empty"):
        initialise(disk, directory, IDENTITY)


def test_a_new_file_system_is_empty_enough(directory: str, disk: Disk) -> None:
    """lost+found, and what an interrupted initialisation left, are no obstacle."""
    Path(directory, "lost+found").mkdir()
    Path(directory, "chunks").mkdir()
    initialise(disk, directory, IDENTITY)
    assert read_identity(disk, directory) == IDENTITY


def test_no_identity_is_no_disk(directory: str, disk: Disk) -> None:
    """An absent directory, and one without the file, are not mounted."""
    for place in (directory, f"{directory}/absent"):
        with pytest.raises(NodeNotMountedError):
            ChunkDirectory.open(disk, place)


def test_every_bit_of_the_identity_counts(rng: random.Random) -> None:
    """A damaged identity is an error, never another identity."""
    data = encode_identity(IDENTITY)
    assert decode_identity(data, path="p") == IDENTITY
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << rng.randrange(8)
        with pytest.raises(NodeIdentityError):
            decode_identity(bytes(broken), path="p")
        with pytest.raises(NodeIdentityError):
            decode_identity(data[:at], path="p")


def test_a_directory_has_one_user(path: str, disk: Disk) -> None:
    """A second process is refused, until the first is gone."""
    first = ChunkDirectory.open(disk, path)
    with pytest.raises(StoreError, match="another process"):
        ChunkDirectory.open(disk, path)
    first.close()
    ChunkDirectory.open(disk, path)
    with pytest.raises(StoreError, match="closed"):
        first.begin(SAMPLE.ids[0], 1000)


def test_leftovers_go_and_strays_stay(path: str, disk: Disk) -> None:
    """Opening removes unfinished chunks of ours; what it does not know it leaves, and lists not."""
    for name in (f"{SAMPLE.ids[0].name}.tmp", "what.tmp", "core", SAMPLE.ids[1].name):
        Path(path, "chunks", name).write_bytes(b"half")
    home = ChunkDirectory.open(disk, path)
    assert names(path) == sorted(["what.tmp", "core", SAMPLE.ids[1].name])
    assert home.list() == (SAMPLE.ids[1],)
    home.quarantine("core")
    assert names(path) == sorted(["what.tmp", SAMPLE.ids[1].name])
    assert os.listdir(f"{path}/quarantine") == ["core"]


def test_a_write_in_progress_is_not_listed(path: str, disk: Disk) -> None:
    """It is no chunk yet."""
    home = ChunkDirectory.open(disk, path)
    write = home.begin(SAMPLE.ids[0], 1000)
    assert home.list() == ()
    write.abort()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../identity", "a\0b"])
def test_only_names_are_quarantined(path: str, disk: Disk, name: str) -> None:
    """No path reaches the file system."""
    home = ChunkDirectory.open(disk, path)
    with pytest.raises(ChunkNameError):
        home.quarantine(name)


@pytest.mark.parametrize("call", ["allocate", "write_at", "sync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_refusing_disk_leaves_nothing(path: str, disk: Disk, call: str, code: int) -> None:
    """The error says why, no file stays, and the next try succeeds."""
    home = ChunkDirectory.open(disk, path)
    disk.failing[call] = code
    with pytest.raises(NoSpaceError if code == errno.ENOSPC else StoreError):
        put(home)
    assert names(path) == []
    disk.failing.clear()
    put(home)
    assert names(path) == [SAMPLE.ids[0].name]


def test_a_failed_sync_of_names_is_final(path: str, disk: Disk) -> None:
    """Nothing is written until the directory is opened again; reading goes on."""
    home = ChunkDirectory.open(disk, path)
    put(home, 1)
    disk.failing["sync_directory"] = errno.EIO
    with pytest.raises(StoreError):
        put(home, 0)
    disk.failing.clear()
    for call in (lambda: put(home, 2), lambda: home.delete(SAMPLE.ids[1])):
        with pytest.raises(StoreError, match="nothing is written"):
            call()
    assert bytes(home.read(SAMPLE.ids[1], 0, 5)) == SAMPLE.payloads[1][:5]
    home.close()
    put(ChunkDirectory.open(disk, path), 0)


def test_an_unreadable_sector_is_damage(path: str, disk: Disk) -> None:
    """EIO from the device names the place, as a wrong checksum would."""
    home = ChunkDirectory.open(disk, path)
    put(home)
    disk.failing["read_into"] = errno.EIO
    with pytest.raises(ChunkDamagedError, match="device"):
        home.read(SAMPLE.ids[0], 0, 5)
    assert [finding.position for finding in home.verify(SAMPLE.ids[0])] == [0, 65536]
    disk.failing["read_into"] = errno.ENOMEM
    with pytest.raises(StoreError):
        home.read(SAMPLE.ids[0], 0, 5)


def test_what_the_device_lost_is_refused(path: str, disk: Disk) -> None:
    """Bytes that read back otherwise than they were written get no name."""

    class Forgetful(Disk):
        def drop_cache(self, file: OpenFile, position: int = 0, size: int = 0) -> None:
            os.pwrite(file.fd, b"\xff", 70_000)

    home = ChunkDirectory.open(Forgetful(), path)
    with pytest.raises(StoreError, match="no intact chunk"):
        put(home)
    assert names(path) == []


def test_another_disk_in_its_place_is_not_it(path: str, disk: Disk) -> None:
    """The device's number is compared: a disk swapped under us is not mounted."""
    home = ChunkDirectory.open(disk, path)
    put(home)
    disk.other_device = True
    with pytest.raises(NodeNotMountedError):
        home.reader(SAMPLE.ids[0])
    disk.other_device = False
    home.reader(SAMPLE.ids[0])


def test_a_lost_identity_is_noticed_at_once(path: str, disk: Disk) -> None:
    """Every call looks, so nothing is written to a disk that was unmounted."""
    home = ChunkDirectory.open(disk, path)
    Path(path, FILE_NAME).unlink()
    with pytest.raises(NodeNotMountedError):
        put(home)
    with pytest.raises(NodeNotMountedError):
        home.list()


def test_the_reserve_is_kept(path: str, disk: Disk) -> None:
    """A PUT that would eat into it is refused."""
    home = ChunkDirectory.open(disk, path, reserve_bytes=2**60)
    with pytest.raises(NoSpaceError, match="reserve"):
        home.begin(SAMPLE.ids[0], 1000)


def test_an_open_chunk_outlives_its_name(path: str, disk: Disk) -> None:
    """A range that is being sent is not disturbed by a deletion."""
    home = ChunkDirectory.open(disk, path)
    put(home)
    reader = home.reader(SAMPLE.ids[0])
    home.delete(SAMPLE.ids[0])
    assert bytes(reader.read(0, 5)) == SAMPLE.payloads[0][:5]
    with pytest.raises(ChunkMissingError):
        home.reader(SAMPLE.ids[0])


def test_few_chunks_are_open(path: str, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is closed when there are too many, and opened again when wanted."""
    monkeypatch.setattr(chunk_dir, "OPEN_MAX", 2)
    home = ChunkDirectory.open(disk, path)
    for index in range(4):
        put(home, index)
        home.reader(SAMPLE.ids[index])
    assert len(home._open) == 2
    assert home.reader(SAMPLE.ids[0]).head.id == SAMPLE.ids[0]


def test_chunk_ids_are_all_that_is_opened(path: str, disk: Disk) -> None:
    """A name that was not parsed is a bug, not a path."""
    home = ChunkDirectory.open(disk, path)
    with pytest.raises(AssertionError):
        home.reader("../node.identity")  # type: ignore[arg-type]  # what must not happen
    assert isinstance(SAMPLE.ids[0], ChunkId)


def test_syncs_on_the_way_bound_what_is_left(path: str, disk: Disk) -> None:
    """Where the page cache is in between, whoever shares the device asks for them: so much is
    unsynced behind a write, and no more."""
    disk.has_direct = False
    home = ChunkDirectory.open(disk, path)
    home._home.sync_every_bytes = 20_000
    synced: list[int] = []
    write = home.begin(SAMPLE.ids[0], len(SAMPLE.files[0]))
    disk.on_sync = lambda: synced.append(write.written_bytes)
    for at in range(0, len(SAMPLE.files[0]), 7_000):
        write.write([SAMPLE.files[0][at : at + 7_000]])
    write.finish()
    assert len(synced) == 1 + len(SAMPLE.files[0]) // 21_000


@pytest.mark.parametrize("refuses", ["when opened", "when used"])
def test_without_a_direct_way_chunks_are_written_all_the_same(
    path: str, disk: Disk, monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    """Memory file systems have none, and some say so only when it is used, to reads as well."""

    def open_direct(file: OpenFile, *, writable: bool) -> OpenFile | None:
        return None if refuses == "when opened" else Refusing(os.dup(file.fd), file.path)

    monkeypatch.setattr(disk, "open_direct", open_direct)
    home = ChunkDirectory.open(disk, path)
    put(home)
    for past_cache in (False, True):
        found = home.read(SAMPLE.ids[0], 0, 70_000, past_cache=past_cache)
        assert bytes(found) == SAMPLE.payloads[0][:70_000]


class Refusing(OpenFile):
    """A handle that a file system gives, and then refuses to use."""

    def __getattribute__(self, name: str) -> object:
        if name == "fd" and sys._getframe(1).f_code.co_name in ("read_into", "write_at"):
            raise OSError(errno.EINVAL, "no such way")
        return super().__getattribute__(name)


def test_what_was_written_is_not_left_in_the_cache(
    tmp_path_factory: pytest.TempPathFactory, disk: Disk
) -> None:
    """Nor does reading it back bring it there: it is for others, who come again."""
    path = str(tmp_path_factory.mktemp("disk") / "node")
    initialise(disk, path, IDENTITY)
    home = ChunkDirectory.open(disk, path)
    put(home)
    name = os.path.join(path, "chunks", SAMPLE.ids[0].name)
    file = disk.open_read(name)
    if disk.open_direct(file, writable=False) is None or is_memory(path):
        pytest.skip("this file system has no direct way")
    assert not disk.is_cached(file, 0, BLOCK_BYTES)
    home.read(SAMPLE.ids[0], 0, BLOCK_BYTES, past_cache=True)
    assert not disk.is_cached(file, 0, BLOCK_BYTES)
    home.read(SAMPLE.ids[0], 0, BLOCK_BYTES)
    assert disk.is_cached(file, 0, BLOCK_BYTES)
