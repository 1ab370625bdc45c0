"""`logd node serve` as an operator starts it: ready line, token file, signals, a kill in a PUT."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ec.chunk_dir import ChunkDirectory
from ec.errors import StoreError, StoreUnavailableError, TokenRefusedError
from ec.store.remote import RemoteStore, parse_node_url
from logd.storage.files import Files
from tests.contract.check_store import IDENTITY, SAMPLE, put, send

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
def node_process(
    directory: str, *arguments: str
) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A node; its process, name and address."""
    process = subprocess.Popen(
        command(directory, "--listen", "127.0.0.1:0", *arguments),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0], "no ready line"
        word, name, address = process.stdout.readline().split()
        assert word == "ready"
        yield process, name.removeprefix("node="), address.removeprefix("http=")
    finally:
        process.kill()
        process.wait()
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
        assert process.wait(30) == 0
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
def test_a_token_file_that_is_none(directory: str, mode: int, text: str, said: str) -> None:
    """Readable by others, too short, or more than a word: refused before anything listens."""
    path = token_file(directory, text, mode)
    arguments = command(directory, "--listen", "127.0.0.1:0", "--token-file", path)
    found = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 2
    assert said in found.stderr


def test_other_addresses_need_a_token(directory: str) -> None:
    """Wrong usage, with the way out named; nothing is made."""
    arguments = command(f"{directory}/disk", "--listen", "0.0.0.0:0")
    found = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 2
    assert "--token-file" in found.stderr
    assert not Path(directory, "disk").exists()


def test_another_node_s_directory_is_refused(directory: str) -> None:
    """The name that was asked for is compared with the directory's."""
    from ec.node_dir import initialise

    initialise(Files(), f"{directory}/disk", IDENTITY)
    arguments = command(f"{directory}/disk", "--listen", "127.0.0.1:0", "--name", "b")
    found = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 1
    assert "expected b" in found.stderr
