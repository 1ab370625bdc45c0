"""Runs `logd` in processes that need not import it first: a process that has is forked.

A `python -m logd` spends 0.2 to 0.5 s of CPU on imports, and the tests start it many hundred
times. So each process that runs tests starts one more, which imports all that any command needs
and then, for each request, forks: the child takes over the standard streams, arguments,
environment and directory of the request and goes on exactly as `python -m logd` would. It is a
process of its own, with its own memory, signals and end.

What it is not good for: what concerns the start of the interpreter itself (its options and PYTHON…
variables, what is imported when, how long that takes). Tests of that start their own.

Requests come over a socket, a packet each, with the descriptors of the three streams and of a pipe
to answer on: the child's PID, a line, and its exit code when it ended, another. The socket's end is
the end of the forking process; children that live then are not touched.
"""

from __future__ import annotations

import array
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import Any, Final, NoReturn

# All that commands import when they run; what is missing here is imported by each child again.
PRELOADED: Final = (
    "cli.main",
    "cli.consume_group",
    "cli.node_server",
    "confluent_kafka.admin",
    "logd.net.admin_http",
    "logd.server.program",
    "logd.storage.check",
    "logd.storage.inspect",
)
PACKET_BYTES_MAX: Final = 1 << 20
STREAMS: Final = (0, 1, 2)


class Requests:
    """The loop of the process that forks.

    Attributes:
        running: a PID's pidfd to its number and the pipe that its end is written to.
    """

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.running: dict[int, tuple[int, int]] = {}
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)

    def serve(self) -> dict[str, Any] | None:
        """Fork for each request; return the request in the child, and nothing at the end."""
        while True:
            for fd, _ in self.poll.poll():
                if fd != self.control.fileno():
                    self.reap(fd)
                    continue
                packet, fds = _receive(self.control)
                if not packet:
                    return None
                if self.fork(fds):
                    request: dict[str, Any] = json.loads(packet)
                    return request

    def fork(self, fds: list[int]) -> bool:
        """Start a child; return whether this is it, its streams in place."""
        *streams, answer = fds
        pid = os.fork()
        if pid == 0:
            for stream, fd in zip(STREAMS, streams, strict=True):
                os.dup2(fd, stream)
            own = [fd for pidfd, (_, pipe) in self.running.items() for fd in (pidfd, pipe)]
            for fd in (*fds, *own, self.control.detach()):
                os.close(fd)
            return True
        for fd in streams:
            os.close(fd)
        os.write(answer, b"%d\n" % pid)
        pidfd = os.pidfd_open(pid)
        self.running[pidfd] = (pid, answer)
        self.poll.register(pidfd, select.POLLIN)
        return False

    def reap(self, pidfd: int) -> None:
        """Tell how a child ended."""
        pid, answer = self.running.pop(pidfd)
        self.poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        try:
            os.write(answer, b"%d\n" % os.waitstatus_to_exitcode(status))
        except BrokenPipeError:
            pass  # Whoever started it has gone, or does not want to know.
        os.close(answer)


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    packet, fds, _, _ = socket.recv_fds(control, PACKET_BYTES_MAX, len(STREAMS) + 1)
    return packet, list(array.array("i", fds))


def _become(request: dict[str, Any]) -> NoReturn:
    """Go on as the process that was asked for."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["logd", *request["arguments"]]
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8"
    )
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w", closefd=False)),
        encoding="utf-8", errors="backslashreplace", line_buffering=True,
    )  # fmt: skip
    runpy.run_module("logd", run_name="__main__", alter_sys=False)
    sys.exit()


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Meant for the tests: they close the socket.
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # No collection in a child touches these pages: they stay shared.
    request = Requests(control).serve()
    if request is not None:
        _become(request)


if __name__ == "__main__":
    main()
