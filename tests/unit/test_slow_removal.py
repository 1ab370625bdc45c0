"""Removing large files a little at a time."""

from __future__ import annotations

import io
import mmap
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from logd.broker.timers import Timers
from logd.broker.unlinker import PAUSE_S_MIN, Unlinker, pause_s
from logd.clock import Clock
from logd.events import EventLog
from logd.offload import InlineOffload
from logd.storage.files import Files
from logd.storage.slow_removal import STEP_BYTES, STEP_FILES, SlowRemoval
from logd.units import MIB

FILES = Files()


def make(directory: Path, name: str, size: int) -> str:
    """A file of so many zeros, without a block behind them."""
    path = directory / name
    path.touch()
    os.truncate(path, size)
    return str(path)


def test_a_large_file_goes_in_steps(tmp_path: Path) -> None:
    """No step frees more than STEP_BYTES, and the last one takes the name."""
    path = make(tmp_path, "large", 3 * STEP_BYTES + 1)
    removal = SlowRemoval(FILES, [path])
    sizes = []
    while not removal.is_done:
        removal.step()
        sizes.append(os.path.getsize(path) if os.path.exists(path) else None)
    assert sizes == [2 * STEP_BYTES + 1, STEP_BYTES + 1, 1, None]
    assert removal.failures == []


def test_small_files_go_together(tmp_path: Path) -> None:
    """A step takes up to STEP_FILES small files, and no more bytes than a large one's."""
    paths = [make(tmp_path, f"small-{number}", 10) for number in range(STEP_FILES + 1)]
    paths += [make(tmp_path, f"medium-{number}", 3 * MIB) for number in range(3)]
    removal = SlowRemoval(FILES, paths)
    left = []
    while not removal.is_done:
        before = sum(path.stat().st_size for path in tmp_path.iterdir())
        removal.step()
        assert before - sum(path.stat().st_size for path in tmp_path.iterdir()) <= STEP_BYTES
        left.append(len(list(tmp_path.iterdir())))
    assert left[0] == len(paths) - STEP_FILES
    assert left[-1] == 0


@pytest.mark.parametrize("how", ["read", "mapped"])
def test_who_reads_a_file_keeps_all_of_it(tmp_path: Path, how: str) -> None:
    """A file that somebody has open or mapped is not cut: it is unlinked, and stays readable."""
    path = make(tmp_path, "large", 3 * STEP_BYTES)
    held = FILES.open_read(path)
    mapped = None
    if how == "mapped":
        mapped = mmap.mmap(held.fd, 0, access=mmap.ACCESS_READ)
        del held
    removal = SlowRemoval(FILES, [path])
    removal.step()
    assert removal.is_done
    assert not os.path.exists(path)
    if mapped is not None:
        assert len(mapped[:]) == 3 * STEP_BYTES
        mapped.close()
    else:
        assert FILES.size(held) == 3 * STEP_BYTES


def test_another_processs_reader_counts(tmp_path: Path) -> None:
    """A child that has the file open keeps it from being cut."""
    path = make(tmp_path, "large", 3 * STEP_BYTES)
    file = FILES.open_write(path)
    assert FILES.has_alone(file)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        held = os.open(path, os.O_RDONLY)
        os.read(reading, 1)
        os.close(held)
        os._exit(0)
    os.close(reading)
    try:
        while FILES.has_alone(file):
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.close(writing)
        os.waitpid(child, 0)
    assert FILES.has_alone(file)


def test_what_cannot_be_removed_stops_nothing(tmp_path: Path) -> None:
    """A file that is gone is no failure; a directory in its place is one; the rest goes on."""
    (tmp_path / "directory").mkdir()
    last = make(tmp_path, "last", 10)
    paths = [str(tmp_path / "gone"), str(tmp_path / "directory"), last]
    removal = SlowRemoval(FILES, paths)
    removal.step()
    assert removal.is_done
    assert len(removal.failures) == 1
    assert "directory" in removal.failures[0]
    assert not os.path.exists(last)


async def test_the_unlinker_lets_time_pass_between_steps(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nothing goes before its delay; then a step, a pause, a step; what comes meanwhile waits."""
    steps = 5
    paths = [make(tmp_path, name, steps * STEP_BYTES) for name in ("first", "second")]
    offload, timers = InlineOffload(), Timers()
    timers.after = lambda: (offload.deliver(), None)[1]
    unlinker = Unlinker(FILES, offload, timers, EventLog(io.StringIO(), "text", Clock()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        for path in paths:
            unlinker.unlink_later([path], 60.0)
        left = []
        for wait_s in (59.9, 0.1 + (2 * steps - 2) * PAUSE_S_MIN, 1.0):
            await trio.sleep(wait_s)
            left.append(len(os.listdir(tmp_path)))
        assert left == [2, 1, 0]
        nursery.cancel_scope.cancel()


def test_slow_steps_have_long_pauses() -> None:
    """The device is somebody else's for four fifths of the time, and for 10 ms at least."""
    assert pause_s(0.0) == PAUSE_S_MIN
    assert pause_s(0.1) == pytest.approx(0.4)
