"""The gate to processes: what a worker is, and every way in which it can end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from logd.broker import worker
from logd.broker.worker import WorkerError, WorkerNotStartedError, run_worker
from logd.offload import ThreadOffload

PROGRAM = "tests.unit.worker_program"


@pytest.fixture
def offload() -> Iterator[ThreadOffload]:
    threads = ThreadOffload()
    yield threads
    threads.close()


async def run(offload: ThreadOffload, do: str, **arguments: Any) -> list[Any]:
    """Return the documents that the program wrote."""
    lines: list[Any] = []
    order = json.dumps({"do": do, **arguments}).encode()
    await run_worker(offload, PROGRAM, order, lambda line: lines.append(json.loads(line)))
    return lines


def exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


async def test_a_worker_is_a_fresh_isolated_interpreter(offload: ThreadOffload) -> None:
    """Our child, in a session of its own, with three descriptors and without trio or site."""
    inheritable = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inheritable, True)
    (said,) = await run(offload, "describe")
    os.close(inheritable)
    assert said["parent"] == os.getpid()
    assert said["session"] == said["pid"]
    assert said["descriptors"] == [0, 1, 2]
    assert said["isolated"] == 1
    assert said["modules"] == []
    assert not exists(said["pid"])


async def test_all_lines_arrive_in_order(offload: ThreadOffload) -> None:
    """Ten thousand lines come as they were written."""
    assert await run(offload, "count", to=10_000) == list(range(10_000))


async def test_a_failure_is_told_with_the_last_words(offload: ThreadOffload) -> None:
    """The exit code and the last line of stderr are in the error."""
    with pytest.raises(WorkerError, match="exit code 7: the last words"):
        await run(offload, "fail")
    with pytest.raises(WorkerError, match="ValueError: planted"):
        await run(offload, "crash")


async def test_a_killed_worker_is_told_apart(offload: ThreadOffload) -> None:
    """The signal that ended it is named."""
    with pytest.raises(WorkerError, match="killed by signal 9"):
        await run(offload, "die")


async def test_half_a_line_is_an_error(offload: ThreadOffload) -> None:
    """A line without end was cut off, whatever the exit code says."""
    with pytest.raises(WorkerError, match="middle of a line"):
        await run(offload, "half")


async def test_a_flood_is_bounded(offload: ThreadOffload, monkeypatch: pytest.MonkeyPatch) -> None:
    """More on stderr than a pipe holds blocks nobody; a line beyond the limit ends the worker."""
    monkeypatch.setattr(worker, "LINE_BYTES_MAX", 300_000)
    with pytest.raises(ValueError, match="Expecting value"):
        await run(offload, "much", bytes=250_000)
    with pytest.raises(WorkerError, match="line of more than"):
        await run(offload, "much", bytes=5_000_000)


async def test_an_error_of_the_listener_ends_the_worker(offload: ThreadOffload) -> None:
    """What `on_line` raises comes out as it is, and the process is gone."""
    pids: list[int] = []

    def refuse(line: bytes) -> None:
        pids.append(json.loads(line))
        raise KeyError("planted")

    with pytest.raises(KeyError):
        await run_worker(offload, PROGRAM, b'{"do": "hang"}', refuse)
    assert not exists(pids[0])


async def test_cancelling_waits_for_the_end(offload: ThreadOffload) -> None:
    """When the cancelled call returns, the process is gone."""
    pids: list[int] = []
    async with trio.open_nursery() as nursery:

        def hear(line: bytes) -> None:
            pids.append(json.loads(line))
            nursery.cancel_scope.cancel()

        nursery.start_soon(run_worker, offload, PROGRAM, b'{"do": "hang"}', hear)
    assert len(pids) == 1
    assert not exists(pids[0])


async def test_cancelled_before_it_speaks(
    offload: ThreadOffload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation that comes at once leaves no process either."""
    spawned: list[subprocess.Popen[bytes]] = []
    real = worker._spawn

    def spawn(module: str) -> subprocess.Popen[bytes]:
        spawned.append(real(module))
        return spawned[-1]

    monkeypatch.setattr(worker, "_spawn", spawn)
    with trio.move_on_after(0) as scope:
        await run_worker(offload, PROGRAM, b'{"do": "hang"}', lambda _: None)
    assert scope.cancelled_caught
    # Its stdin is closed before it is killed: a quick one has ended by then, for want of an order.
    assert [process.returncode in (-signal.SIGKILL, 1) for process in spawned] == [True]


async def test_a_silent_worker_is_taken_for_hung(
    offload: ThreadOffload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a word for SILENCE_S it is killed, and that is said."""
    monkeypatch.setattr(worker, "SILENCE_S", 0.05)
    with pytest.raises(WorkerError, match="no sign of life"):
        await run_worker(offload, PROGRAM, b'{"do": "hang"}', lambda _: None)


async def test_no_interpreter_is_not_the_work_s_fault(
    offload: ThreadOffload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the process cannot be made, the error is of a kind of its own."""
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    with pytest.raises(WorkerNotStartedError, match="could not be started"):
        await run(offload, "count", to=1)


async def test_an_order_that_nobody_reads_is_no_error_of_ours(offload: ThreadOffload) -> None:
    """A program that does not exist is told by its own last words, not by a broken pipe."""
    with pytest.raises(WorkerError, match="ModuleNotFoundError"):
        await run_worker(offload, "tests.unit.nothing", b" " * 5_000_000, lambda _: None)
