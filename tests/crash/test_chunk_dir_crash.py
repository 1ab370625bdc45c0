"""A node's directory stopped before every call, then opened again: a chunk that was acknowledged is
there and intact, one that was deleted stays away, and no name ever leads to half a chunk.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from ec.chunk_dir import ChunkDirectory
from ec.chunk_id import ChunkId
from ec.errors import EcError, NodeNotMountedError
from ec.node_dir import initialise, is_chunk_name
from ec.profile import Profile
from tests.contract.check_store import IDENTITY
from tests.crash.lying_disk import FastFiles, LyingDisk, Stop
from tests.ec_samples import encode, noise

SAMPLE = encode(noise(150_000), Profile(2, 2))
A, B, C, D = SAMPLE.ids
CRASHES = ("kill", "lost", "torn", "names lost", "content lost")


class History:
    """What was promised: chunks that must be there, and chunks that must not."""

    def __init__(self) -> None:
        self.there: set[ChunkId] = set()
        self.gone: set[ChunkId] = {A, B, C, D}
        self.damaged: set[ChunkId] = set()


def put(home: ChunkDirectory, history: History, chunk: ChunkId) -> None:
    history.gone.discard(chunk)
    data = SAMPLE.files[chunk.index]
    write = home.begin(chunk, len(data))
    for at in range(0, len(data), 40_000):
        write.write([data[at : at + 40_000]])
    write.finish()
    history.there.add(chunk)
    history.damaged.discard(chunk)


def delete(home: ChunkDirectory, history: History, chunk: ChunkId) -> None:
    history.there.discard(chunk)
    home.delete(chunk)
    history.gone.add(chunk)


def workload(disk: LyingDisk, history: History) -> None:
    """Make a node, write, write the same again, mend a damaged one, move, delete, write again."""
    path = f"{disk.root}/node"
    initialise(disk, path, IDENTITY)
    home = ChunkDirectory.open(disk, path)
    put(home, history, A)
    put(home, history, B)
    put(home, history, A)
    damage(disk, f"{path}/chunks/{B.name}")
    history.there.discard(B)
    history.damaged.add(B)
    put(home, history, B)
    home.note_catalog_sequence(7)
    delete(home, history, A)
    put(home, history, A)
    put(home, history, C)
    history.there.discard(C)
    home.quarantine(C.name)
    history.gone.add(C)
    put(home, history, D)
    home.close()


def damage(disk: LyingDisk, path: str) -> None:
    """Let a byte rot, on the device and in the cache."""
    with open(path, "r+b") as file:
        file.seek(9)
        file.write(b"\xff\xfe\xfd\xfc")
    inode = os.stat(path).st_ino
    disk._device[inode] = Path(path).read_bytes()


def run(disk: LyingDisk, history: History) -> bool:
    try:
        workload(disk, history)
    except Stop:
        return False
    return True


def count_calls(root: Path) -> int:
    root.mkdir()
    disk = LyingDisk(str(root))
    assert run(disk, History())
    disk.close()
    return len(disk.calls)


def check(path: str, history: History) -> None:
    """Open what a crash left and compare with what was promised."""
    node = f"{path}/node"
    try:
        home = ChunkDirectory.open(FastFiles(), node)
    except NodeNotMountedError:
        assert not history.there, "an acknowledged chunk's node is gone"
        initialise(FastFiles(), node, IDENTITY)
        home = ChunkDirectory.open(FastFiles(), node)
    found = set(home.list())
    assert history.there <= found
    assert not history.gone & found
    assert all(map(is_chunk_name, os.listdir(f"{node}/chunks")))
    for chunk in found - history.damaged:
        assert not home.verify(chunk), chunk
    for chunk in SAMPLE.ids:  # Whatever was left, every chunk can be written now.
        put(home, History(), chunk)
        assert not home.verify(chunk)
    home.close()


@pytest.mark.parametrize("mode", CRASHES)
@pytest.mark.parametrize("halves", [False, True], ids=["whole writes", "half writes"])
def test_stopped_before_every_call(
    tmp_path: Path, mode: str, halves: bool, rng: random.Random
) -> None:
    """After any crash: acknowledged chunks are intact, deleted ones gone, no half chunk named."""
    stop_everywhere(tmp_path, mode, halves, rng)


def stop_everywhere(tmp_path: Path, mode: str, halves: bool, rng: random.Random) -> None:
    calls = count_calls(tmp_path / "count")
    assert calls > 60
    for stop_at in range(calls):
        root = tmp_path / f"{stop_at}"
        root.mkdir()
        disk = LyingDisk(str(root), stop_at=stop_at, halves=halves)
        history = History()
        assert not run(disk, history)
        after = tmp_path / f"{stop_at}-after"
        disk.crash(mode, str(after), rng)
        disk.close()
        check(str(after), history)


Mutation = Callable[[pytest.MonkeyPatch], None]


def without_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LyingDisk, "sync", lambda self, file: None)


def without_directory_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LyingDisk, "sync_directory", lambda self, path: None)


@pytest.mark.parametrize("mutation", [without_sync, without_directory_sync])
def test_a_missing_sync_is_found(
    tmp_path: Path, mutation: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test can fail: without a sync, something that was acknowledged is lost."""
    mutation(monkeypatch)
    found = []
    for mode in ("lost", "content lost", "names lost"):
        (tmp_path / mode).mkdir()
        try:
            stop_everywhere(tmp_path / mode, mode, False, random.Random(1))
        except (AssertionError, EcError) as error:
            found.append(error)
    assert found
