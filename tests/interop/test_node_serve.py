"""`logd node serve` as an operator starts it: ready line, token file, signals, a kill in a PUT."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from cli.main import run
from cli.node_server import vacancy
from ec.chunk_dir import ChunkDirectory
from ec.errors import (
    NodeNotMountedError,
    NoSpaceError,
    StoreError,
    StoreUnavailableError,
    TokenRefusedError,
)
from ec.profile import Profile
from ec.store.remote import RemoteStore, parse_node_url
from logd.storage.data_directory import DataDirectory
from logd.storage.files import Files
from tests.contract.check_store import IDENTITY, SAMPLE, put, send
from tests.crash.test_full_disk import small_disk
from tests.ec_samples import encode, noise
from tests.forked import ForkedLogd
from tests.server_process import READY_TIMEOUT_S, STOP_TIMEOUT_S

TOKEN = "sixteen-letters-or-more"


def token_file(directory: str, text: str = f"{TOKEN}\n", mode: int = 0o600) -> str:
    """Return a file with a token in it."""
    path = Path(directory, "token")
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def command(directory: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "logd", "node", "serve", "--dir", directory, *arguments]


@contextmanager
def node_process(directory: str, *arguments: str) -> Iterator[tuple[ForkedLogd, str, str]]:
    """A node; its process, name and address."""
    process = ForkedLogd(
        "node", "serve", "--dir", directory, "--listen", "127.0.0.1:0", *arguments,
        stdout=subprocess.PIPE, stderr=2,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], READY_TIMEOUT_S)[0], "no ready line"
        word, name, address = process.stdout.readline().decode().split()
        assert word == "ready"
        yield process, name.removeprefix("node="), address.removeprefix("http=")
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def store_at(address: str, *, token: str | None) -> RemoteStore:
    host, port = parse_node_url(f"http://{address}")
    return RemoteStore(host, port, node="a", token=token)


async def test_a_node_from_start_to_stop(directory: str) -> None:
    """Empty, made into a node, filled, ended by SIGTERM; started again it knows its name."""
    path = f"{directory}/disk"
    with node_process(path, "--token-file", token_file(directory)) as (process, name, address):
        assert name == "-"
        store = store_at(address, token=TOKEN)
        await store.initialise(IDENTITY)
        await put(store, SAMPLE, 0)
        stranger = store_at(address, token=None)
        with pytest.raises(TokenRefusedError):
            await stranger.list()
        with pytest.raises(StoreError, match="another process"):
            ChunkDirectory.open(Files(), path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_TIMEOUT_S) == 0
        store.close()
        stranger.close()
    with node_process(path) as (_, name, address):
        assert name == "a"
        store = store_at(address, token=None)
        assert await store.list() == (SAMPLE.ids[0],)
        assert bytes(await store.read(SAMPLE.ids[0], 0, 9)) == SAMPLE.payloads[0][:9]
        store.close()


async def test_a_node_killed_in_the_middle_of_a_chunk(directory: str) -> None:
    """What was acknowledged is there, what was not leaves nothing once it runs again."""
    path = f"{directory}/disk"
    with node_process(path) as (process, _, address):
        store = store_at(address, token=None)
        await store.initialise(IDENTITY)
        await put(store, SAMPLE, 0)
        upload = await store.begin(SAMPLE.ids[1], len(SAMPLE.files[1]))
        await upload.write([SAMPLE.files[1][:-1]])
        process.kill()
        process.wait()
        with pytest.raises(StoreError):
            await send(upload, SAMPLE.files[1][-1:])
        with pytest.raises(StoreUnavailableError):
            await store.list()
        store.close()
    assert len(os.listdir(f"{path}/chunks")) == 2
    with node_process(path) as (_, _, address):
        store = store_at(address, token=None)
        assert await store.list() == (SAMPLE.ids[0],)
        assert os.listdir(f"{path}/chunks") == [SAMPLE.ids[0].name]
        assert await store.verify(SAMPLE.ids[0]) == ()
        store.close()


@pytest.mark.parametrize(
    ("mode", "text", "said"),
    [
        (0o644, TOKEN, "others can read"),
        (0o600, "short", "16 to 1024"),
        (0o600, "a b " * 8, "without spaces"),
    ],
)
def test_a_token_file_that_is_none(
    directory: str, mode: int, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Readable by others, too short, or more than a word: refused before anything listens."""
    path = token_file(directory, text, mode)
    code, complaint = usage(capsys, f"{directory}/x", "--token-file", path)
    assert code == 2
    assert said in complaint


def test_other_addresses_need_a_token(directory: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage, with the way out named; nothing is made."""
    code, complaint = usage(capsys, f"{directory}/disk", "--listen", "0.0.0.0:0")
    assert code == 2
    assert "--token-file" in complaint
    assert not Path(directory, "disk").exists()


def usage(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that does not come to serve, in this process: exit code and complaint."""
    code = run(["node", "serve", *arguments])
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    return code, said.err


def test_another_node_s_directory_is_refused(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name that was asked for is compared with the directory's."""
    from ec.node_dir import initialise

    initialise(Files(), f"{directory}/disk", IDENTITY)
    arguments = (f"{directory}/disk", "--listen", "127.0.0.1:0", "--name", "b")
    code, complaint = usage(capsys, *arguments)
    assert code == 1
    assert "expected b" in complaint


def test_a_server_s_directory_is_refused(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It never becomes a node: refused at once, with what to give instead."""
    data = DataDirectory.open(Files(), f"{directory}/data", boot_id="b" * 32, pid=1)
    data.close()
    code, complaint = usage(capsys, f"{directory}/data", "--listen", "127.0.0.1:0")
    assert code == 1
    assert "data directory of a server; give the node" in complaint


async def test_a_directory_that_cannot_be_made(directory: str) -> None:
    """Who registers the node is told what to make first, without an errno; then it works."""
    path = f"{directory}/no/such"
    reason = vacancy(Files(), path)
    assert reason is not None
    assert "the directory above it does not exist; make it" in reason
    with node_process(path) as (_, _, address):
        store = store_at(address, token=None)
        with pytest.raises(StoreError, match=r"directory above it .* make it") as refused:
            await store.initialise(IDENTITY)
        assert "Errno" not in str(refused.value)
        os.mkdir(f"{directory}/no")
        await store.initialise(IDENTITY)
        store.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "--dir", "b"], "once"),
        ([], "once"),
        (["a", "--name", "../a"], "--name"),
        (["a", "--reserve", "much"], "--reserve"),
        (["a", "--token-file", "/nowhere/token"], "/nowhere/token"),
        (["a", "--listen", "127.0.0.1:1x"], "--listen"),
    ],
)
def test_wrong_usage_is_told(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2."""
    code, complaint = usage(capsys, *arguments)
    assert code == 2
    assert said in complaint


def test_a_port_or_a_directory_in_use_ends_the_start(directory: str) -> None:
    """Exit code 1 and the reason; the node that was there is not disturbed."""
    from ec.node_dir import initialise

    for name in ("x", "y"):
        initialise(Files(), f"{directory}/{name}", IDENTITY)
    with node_process(f"{directory}/x") as (_, _, address):
        cases = (("x", "127.0.0.1:0", "another process"), ("y", address, "listen"))
        for name, listen, said in cases:
            found = subprocess.run(
                command(f"{directory}/{name}", "--listen", listen, "--log-format", "json"),
                capture_output=True, text=True, timeout=READY_TIMEOUT_S, check=False,
            )  # fmt: skip
            assert (found.returncode, found.stdout) == (1, "")
            assert said in json.loads(found.stderr)["reason"]


def test_ready_is_said_as_json(directory: str) -> None:
    """With --json there is one document on stdout, and the directory may be an argument."""
    process = subprocess.Popen(
        [sys.executable, "-m", "logd", "node", "serve", f"{directory}/x", "--name", "a",
         "--listen", "127.0.0.1:0", "--json"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        said = json.loads(process.stdout.readline())
        assert (said["ready"], said["node"]) == (True, "a")
        assert said["http"].startswith("127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_TIMEOUT_S) == 0
        assert process.stdout.read() == ""


BIG = encode(noise(24_000_000), Profile(2, 1))


async def test_sigterm_lets_a_chunk_end(directory: str) -> None:
    """What is on its way is stored and answered; then the node ends, with 0."""
    path = f"{directory}/disk"
    with node_process(path, "--reserve", "0") as (process, _, address):
        store = store_at(address, token=None)
        await store.initialise(IDENTITY)
        upload = await store.begin(BIG.ids[0], len(BIG.files[0]))
        await upload.write([BIG.files[0][:-1]])
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(STOP_TIMEOUT_S):
            while is_listening(address):
                await trio.lowlevel.checkpoint()
        await upload.write([BIG.files[0][-1:]])
        assert (await upload.finish()).outcome == "stored"
        store.close()
        assert process.wait(STOP_TIMEOUT_S) == 0
    assert os.listdir(f"{path}/chunks") == [BIG.ids[0].name]


def is_listening(address: str) -> bool:
    host, port = parse_node_url(f"http://{address}")
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


async def test_kills_leave_whole_chunks_or_none(directory: str, rng: random.Random) -> None:
    """kill -9 anywhere in a PUT, the sync and the read-back included; then started again."""
    path = f"{directory}/disk"
    stored: set[int] = set()
    for turn in range(3):
        with node_process(path, "--reserve", "0") as (process, _, address):
            store = store_at(address, token=None)
            await store.initialise(IDENTITY)
            for index in await present(store):
                assert await store.verify(BIG.ids[index]) == ()
            assert stored <= set(await present(store))
            assert set(os.listdir(f"{path}/chunks")) == {
                BIG.ids[index].name for index in await present(store)
            }
            index = turn % 3
            await store.delete(BIG.ids[index])
            stored.discard(index)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill_after, process, rng.uniform(0, 0.3))
                with contextlib.suppress(StoreError):
                    await put(store, BIG, index, step=1_000_000)
                    stored.add(index)
            store.close()


async def present(store: RemoteStore) -> list[int]:
    return [chunk.index for chunk in await store.list()]


async def kill_after(process: ForkedLogd, seconds: float) -> None:
    await trio.sleep(seconds)  # The moment of the kill: any is as good.
    process.kill()
    await trio.to_thread.run_sync(process.wait)


async def test_a_chunk_costs_little_memory(directory: str) -> None:
    """In and out: the node's memory does not grow with the chunk."""
    with node_process(f"{directory}/disk", "--reserve", "0") as (process, _, address):
        store = store_at(address, token=None)
        await store.initialise(IDENTITY)
        await put(store, SAMPLE, 0)
        await store.read(SAMPLE.ids[0], 0, 100)
        before = peak_memory_bytes(process.pid)
        huge = encode(noise(48_000_000), Profile(2, 1), generation=2)
        await put(store, huge, 0, step=1_000_000)
        found = await store.read(huge.ids[0], 0, len(huge.payloads[0]))
        assert found == huge.payloads[0]
        assert await store.verify(huge.ids[0]) == ()
        store.close()
        assert peak_memory_bytes(process.pid) - before < 16_000_000


def peak_memory_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


async def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """Refused with the arithmetic before a byte is sent; what is there stays; space comes back."""
    with small_disk(tmp_path, "tmpfs", size_bytes=32_000_000) as disk:
        path = f"{disk.path}/node"
        with node_process(path, "--reserve", "1MB") as (_, _, address):
            store = store_at(address, token=None)
            await store.initialise(IDENTITY)
            for index in (0, 1):
                await put(store, BIG, index, step=1_000_000)
            with pytest.raises(NoSpaceError, match=str(len(BIG.files[2]))):
                await store.begin(BIG.ids[2], len(BIG.files[2]))
            assert sorted(os.listdir(f"{path}/chunks")) == [chunk.name for chunk in BIG.ids[:2]]
            assert await store.verify(BIG.ids[1]) == ()
            health = await store.health()
            assert health.space.free_bytes < len(BIG.files[2])
            await store.delete(BIG.ids[0])
            assert (await put(store, BIG, 2, step=1_000_000)).outcome == "stored"
            store.close()


async def test_a_disk_that_is_unmounted_and_comes_back(tmp_path: Path) -> None:
    """Nothing is missing, nothing is written on what lies under it; and back, it is served."""
    with small_disk(tmp_path, "tmpfs", size_bytes=8_000_000) as disk:
        path = f"{disk.path}/node"
        with node_process(path, "--reserve", "0") as (_, _, address):
            store = store_at(address, token=None)
            await store.initialise(IDENTITY)
            await put(store, SAMPLE, 0)
            os.rename(path, f"{path}.away")
            os.mkdir(path)
            for call in (
                store.health(), store.head(SAMPLE.ids[0]), put(store, SAMPLE, 1),
                store.initialise(IDENTITY),
            ):  # fmt: skip
                with pytest.raises(NodeNotMountedError):
                    await call
            assert os.listdir(path) == []
            os.rmdir(path)
            os.rename(f"{path}.away", path)
            assert (await store.head(SAMPLE.ids[0])).id == SAMPLE.ids[0]
            store.close()
