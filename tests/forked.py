"""`logd` as a process, forked from one that has imported it; the other side of fork_server.py."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).parent.parent
START_TIMEOUT_S: Final = 120
_ANSWER_BYTES: Final = 64


class ForkedLogd:
    """A running `logd ARGUMENTS`, with what the tests use of subprocess.Popen's interface.

    Attributes:
        pid: its PID.
        stdout: what it writes, if that was to be a pipe.
        returncode: None until its end is known; negative for a signal.
    """

    def __init__(
        self,
        *arguments: str,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Start it; `subprocess.PIPE` is understood for stdout, DEVNULL is what stdin is."""
        self.arguments = arguments
        self.returncode: int | None = None
        self.stdout: IO[bytes] | None = None
        theirs: int | IO[bytes] = stdout
        if stdout == subprocess.PIPE:
            reading, theirs = os.pipe()
            self.stdout = os.fdopen(reading, "rb")
        self._answer, answer = os.pipe()
        with open(os.devnull, "rb") as null:
            fds = [_fileno(null if stdin is None else stdin), _fileno(theirs), _fileno(stderr)]
            _ask(arguments, environment, [*fds, answer])
        os.close(answer)
        if self.stdout is not None:
            os.close(_fileno(theirs))
        line = self._line(START_TIMEOUT_S)
        assert line is not None, "the process that forks does not answer"
        self.pid = int(line)

    def _line(self, timeout_s: float | None) -> str | None:
        """Return what is answered next, if something is within that time."""
        readable, _, _ = select.select([self._answer], [], [], timeout_s)
        if not readable:
            return None
        line = b""
        while not line.endswith(b"\n"):
            data = os.read(self._answer, 1)
            assert data, "the process that forks has ended"
            line += data
        return line.decode()

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code as soon as there is one.

        Raises:
            subprocess.TimeoutExpired: there is none within that time.
        """
        code = self._ended(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(["logd", *self.arguments], timeout)
        return code

    def _ended(self, timeout_s: float | None) -> int | None:
        if self.returncode is None:
            line = self._line(timeout_s)
            if line is not None:
                self.returncode = int(line)
                os.close(self._answer)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it is known to have ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)


def run_logd(
    *arguments: str,
    stdin: bytes = b"",
    environment: Mapping[str, str] = os.environ,
    timeout_s: float = START_TIMEOUT_S,
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end, as subprocess.run does; it is ended in any case."""
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        given.write(stdin)
        given.seek(0)
        process = ForkedLogd(
            *arguments, stdin=given, stdout=out, stderr=err, environment=environment
        )
        try:
            code = process.wait(timeout_s)
        finally:
            process.kill()
            process.wait(timeout_s)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(["logd", *arguments], code, out.read(), err.read())


def _fileno(stream: int | IO[bytes]) -> int:
    return stream if isinstance(stream, int) else stream.fileno()


def _ask(arguments: tuple[str, ...], environment: Mapping[str, str], fds: list[int]) -> None:
    request = {"arguments": arguments, "environment": dict(environment), "cwd": os.getcwd()}
    socket.send_fds(_control(), [json.dumps(request).encode()], fds)


@functools.cache
def _control() -> socket.socket:
    """Start the process that forks, once in a process of tests; it ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])

    def end() -> None:
        ours.close()
        process.wait(START_TIMEOUT_S)

    atexit.register(end)
    return ours
