"""The one gate to processes: a module of ours in a fresh interpreter, for work that would take the
event loop's interpreter for itself.

    spawn (in a thread) ── order on stdin, then its end ──▶ lines on stdout ──▶ exit

What holds for every worker:

* It is a fresh interpreter (exec), isolated from environment and working directory. It inherits
  three descriptors and no more: neither the data directory's lock nor a client's connection.
* It does not outlive the server, not even one that was killed: it asks the kernel for SIGKILL at
  its parent's death. The kernel takes the *thread* that spawned for the parent, so that is one of
  the offload's, which live as long as the server. Ctrl-C in a terminal does not reach it: it has a
  session of its own.
* Whoever cancels `run_worker` waits until the process is gone, so that what it wrote can be removed
  behind it.
* One that says nothing for SILENCE_S is taken for hung, and killed.

Source: prctl(2), PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from logd.errors import LogdError
from logd.offload import Offload
from logd.units import KIB, MIB

SILENCE_S: Final = 600.0
"""A worker has something to say at least this often, or it hangs (on a dead disk, say)."""

LINE_BYTES_MAX: Final = 64 * MIB
"""The longest line that a worker may write."""

LAST_WORDS_BYTES: Final = 4 * KIB
"""What is kept of its stderr, for the message about its end."""

_RECEIVE_BYTES: Final = 64 * KIB

_BOOT: Final = (
    "import sys; from importlib import import_module; "
    "name, sys.path[:] = sys.argv[1], sys.argv[2:]; "
    "sys.exit(import_module(name).main())"
)
"""The modules are looked for where the server's own came from, whatever is installed."""

OnLine = Callable[[bytes], None]


class WorkerError(LogdError):
    """A worker could not be started, or ended without having done its work."""


class WorkerNotStartedError(WorkerError):
    """There is no worker: the fault is not in what it was to do."""


async def run_worker(offload: Offload, module: str, order: bytes, on_line: OnLine) -> None:
    """Run a module's `main()` in a process of its own until it ends well.

    Cancelled, it returns when the process is gone.

    Args:
        order: its whole stdin.
        on_line: told each line of its stdout, on the loop; an exception ends the worker.

    Raises:
        WorkerNotStartedError: the process could not be made.
        WorkerError: it crashed, was killed, hung, or wrote what it must not.
    """
    last_words = bytearray()
    failure: Exception | None = None
    async with _process(offload, module) as (process, stdin, stdout, stderr):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_feed, stdin, order)
            nursery.start_soon(_keep_last, stderr, last_words)
            try:
                await _read_lines(stdout, on_line)
            except Exception as error:  # Raised here, it would leave the nursery in a group.
                failure = error
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        code = await _exit_code(process)
    if code != 0:
        raise WorkerError(_describe_end(code, bytes(last_words)))


@asynccontextmanager
async def _process(
    offload: Offload, module: str
) -> AsyncIterator[
    tuple[
        subprocess.Popen[bytes],
        trio.lowlevel.FdStream,
        trio.lowlevel.FdStream,
        trio.lowlevel.FdStream,
    ]
]:
    """A process that is gone at the end of the block."""
    try:
        process = await offload.run("admin", _spawn, module)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WorkerNotStartedError(f"{sys.executable} could not be started: {reason}") from error
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    pipes = (process.stdin, process.stdout, process.stderr)
    streams = [trio.lowlevel.FdStream(os.dup(pipe.fileno())) for pipe in pipes]
    for pipe in pipes:
        pipe.close()
    try:
        yield process, streams[0], streams[1], streams[2]
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.kill()
                await _exit_code(process)
            for stream in streams:
                await trio.aclose_forcefully(stream)


def _spawn(module: str) -> subprocess.Popen[bytes]:
    """Start the interpreter. In a thread that lives as long as the server."""
    # -I: no environment, no working directory; -S: no site; -B: it writes what it is to, no caches.
    command = [sys.executable, "-I", "-S", "-B", "-c", _BOOT, module]
    return subprocess.Popen(
        [*command, *(path for path in sys.path if path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )


async def _feed(stdin: trio.lowlevel.FdStream, order: bytes) -> None:
    async with stdin:
        try:
            await stdin.send_all(order)
        except trio.BrokenResourceError:
            return  # It ended before it had read its order; its exit code says more.


async def _keep_last(stderr: trio.lowlevel.FdStream, last_words: bytearray) -> None:
    while chunk := await stderr.receive_some(_RECEIVE_BYTES):
        last_words += chunk
        del last_words[:-LAST_WORDS_BYTES]


async def _read_lines(stdout: trio.lowlevel.FdStream, on_line: OnLine) -> None:
    rest = bytearray()
    while True:
        with trio.move_on_after(SILENCE_S) as patience:
            chunk = await stdout.receive_some(_RECEIVE_BYTES)
        if patience.cancelled_caught:
            raise WorkerError(f"it gave no sign of life for {SILENCE_S:.0f} s, and was killed")
        if not chunk:
            break
        rest += chunk
        if b"\n" in chunk:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                on_line(bytes(line))
        if len(rest) > LINE_BYTES_MAX:
            raise WorkerError(f"it wrote a line of more than {LINE_BYTES_MAX} bytes")
    if rest:
        raise WorkerError(f"it ended in the middle of a line: {bytes(rest[:80])!r}")


async def _exit_code(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process that closed its pipes or was killed."""
    if process.poll() is None:
        ended = os.pidfd_open(process.pid)  # Its number cannot be another's: nobody else reaps it.
        try:
            await trio.lowlevel.wait_readable(ended)
        finally:
            os.close(ended)
    return process.wait()


def _describe_end(code: int, last_words: bytes) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    said = [line for line in last_words.decode(errors="replace").splitlines() if line.strip()]
    return f"it {how}" + (f": {said[-1].strip()}" if said else "")
