"""State files: whole or old after any stop, and every damaged byte is noticed."""

from __future__ import annotations

import os
import random

import pytest

from logd.errors import CorruptFileError, UnsupportedFormatError
from logd.storage import state_file
from logd.storage.files import Files
from tests.unit.storage_faults import IO_ERROR, NO_SPACE, FaultyFiles, StoppedError

LIMIT = 1000


@pytest.fixture
def path(directory: str) -> str:
    return f"{directory}/state"


def test_what_is_written_is_read(path: str) -> None:
    """Version and payload come back, also empty, also over an older one."""
    for payload, version in ((b"", 0), (b"x" * LIMIT, 7), (b"short", 2**31 - 1)):
        state_file.write_state(Files(), path, payload, version=version)
        assert state_file.read_state(Files(), path, limit_bytes=LIMIT) == (version, payload)
    assert os.listdir(os.path.dirname(path)) == ["state"]


def test_an_absent_file_is_no_damage(path: str) -> None:
    """The caller can tell "there is none" from "it is broken"."""
    with pytest.raises(FileNotFoundError):
        state_file.read_state(Files(), path, limit_bytes=LIMIT)


def test_every_prefix_is_refused(path: str) -> None:
    """A file cut anywhere is corrupt."""
    data = state_file.encode_state(b"payload", version=3)
    for size in range(len(data)):
        with pytest.raises(CorruptFileError):
            state_file.decode_state(data[:size], path=path)


def test_every_flipped_bit_is_refused(path: str) -> None:
    """No single bit can change without an error; the path is in it."""
    data = state_file.encode_state(b"payload", version=3)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptFileError, UnsupportedFormatError)) as caught:
            state_file.decode_state(bytes(damaged), path=path)
        assert caught.value.path == path


def test_bytes_behind_the_payload_are_refused(path: str) -> None:
    """The length is exact."""
    with pytest.raises(CorruptFileError):
        state_file.decode_state(state_file.encode_state(b"p", version=1) + b"\0", path=path)


def test_a_newer_version_is_told_from_damage(path: str) -> None:
    """An intact file of a later format is refused as such."""
    state_file.write_state(Files(), path, b"payload", version=3)
    with pytest.raises(UnsupportedFormatError):
        state_file.read_state(Files(), path, limit_bytes=LIMIT, newest_version=2)
    assert state_file.read_state(Files(), path, limit_bytes=LIMIT, newest_version=3).version == 3


def test_a_file_over_the_limit_is_not_read_whole(path: str) -> None:
    """A huge file costs the limit in memory, and is corrupt."""
    with open(path, "wb") as file:
        file.write(state_file.encode_state(b"", version=1))
        file.truncate(2**40)
    with pytest.raises(CorruptFileError, match="longer"):
        state_file.read_state(Files(), path, limit_bytes=LIMIT)


def test_a_link_is_not_followed(directory: str, path: str) -> None:
    """Nobody can make the server write or read elsewhere through a link."""
    os.symlink("/etc/hostname", path)
    with pytest.raises(OSError, match="symbolic"):
        state_file.read_state(Files(), path, limit_bytes=LIMIT)


@pytest.mark.parametrize("kind", ["kill", "lost", "torn"])
def test_stopped_at_any_call_it_is_the_old_or_the_new(
    directory: str, path: str, kind: str, rng: random.Random
) -> None:
    """Whole at every moment; and once the call returned, it is the new one."""
    for stop_before in range(20):
        state_file.write_state(Files(), path, b"old" * 200, version=1)
        files = FaultyFiles(stop_before=stop_before)
        is_done = False
        try:
            state_file.write_state(files, path, b"new" * 300, version=2)
            is_done = True
        except StoppedError:
            pass  # What this test is about.
        if kind != "kill":
            files.power_cut(directory, rng if kind == "torn" else None)
        state = state_file.read_state(Files(), path, limit_bytes=LIMIT)
        if is_done:
            assert state == (2, b"new" * 300)
            break
        assert state in ((1, b"old" * 200), (2, b"new" * 300))
    else:
        pytest.fail("it never ended")
    assert files.calls == ["create_or_truncate", "write_at", "sync", "rename", "sync_directory"]


@pytest.mark.parametrize("method", ["create_or_truncate", "write_at", "sync", "rename"])
@pytest.mark.parametrize("number", [NO_SPACE, IO_ERROR])
def test_a_refusing_disk_leaves_the_old_file_and_nothing_else(
    directory: str, path: str, method: str, number: int
) -> None:
    """The error comes through, the old state stays, and no space is held."""
    state_file.write_state(Files(), path, b"old", version=1)
    files = FaultyFiles()
    files.failing[method] = number
    with pytest.raises(OSError) as caught:
        state_file.write_state(files, path, b"new", version=1)
    assert caught.value.errno == number
    assert state_file.read_state(Files(), path, limit_bytes=LIMIT) == (1, b"old")
    assert os.listdir(directory) == ["state"]


def test_removing_is_durable_and_may_be_repeated(directory: str, path: str) -> None:
    """Gone is gone, also where it was gone already and only the directory's sync is missing."""
    state_file.write_state(Files(), path, b"old", version=1)
    for _ in range(2):
        files = FaultyFiles()
        state_file.remove_state(files, path)
        assert files.calls == ["unlink", "sync_directory"]
        assert os.listdir(directory) == []
