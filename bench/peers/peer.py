"""A peer's server as a child process: started, asked until it answers, stopped or killed by its id.

Start-up is counted from exec to the first record that it acknowledged, for every peer and for us:
what a ready line or an open port means differs from one to the next, a kept record does not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bench.process import BenchError, die_with_parent, environment, stop

FIRST_RECORD_TIMEOUT_S: Final = 120.0
TRY_AGAIN_S: Final = 0.005
# Variables that would change a server's flags or settings behind the table's back.
UNSET: Final = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "LOGD_")


def _plain_environment() -> dict[str, str]:
    return {name: value for name, value in environment().items() if not name.startswith(UNSET)}


class NotYetError(Exception):  # A state to wait out, no error.
    """The server answered that it is not ready; asking again is right."""


class Peer(ABC):
    """One server of a peer on a data directory of its own."""

    name: str  # as the table has it
    working_directory: Path | None = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log_path = directory.with_name(directory.name + ".log")
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the command line that runs the server in the foreground."""

    @abstractmethod
    def first_record(self) -> None:
        """Have one record kept.

        Raises:
            NotYetError, OSError, BenchError: the server is not that far.
        """

    @abstractmethod
    def conditions(self) -> dict[str, Any]:
        """Return what to print about it: version, flags, settings that are not the default."""

    def environment(self) -> dict[str, str]:
        """Return what the server's environment has beyond ours."""
        return {}

    def prepare(self) -> None:
        """Make the data directory what the server expects of a new one. Not timed."""
        self.directory.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> float:
        """Start the server; return the seconds from exec to the first record it acknowledged.

        Raises:
            BenchError: it ended, or kept none in time; the text has the end of its log.
        """
        assert self.process is None
        begin = time.perf_counter()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                list(self.command()), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**_plain_environment(), **self.environment()}, cwd=self.working_directory,
                preexec_fn=die_with_parent,  # noqa: PLW1509  There is one thread here.
            )  # fmt: skip
        self._await_first_record(begin)
        return time.perf_counter() - begin

    def _await_first_record(self, begin: float) -> None:
        assert self.process is not None
        while True:
            try:
                self.first_record()
            except (NotYetError, OSError, BenchError) as error:
                if self.process.poll() is not None:
                    state = f"ended with exit code {self.process.returncode}"
                elif time.perf_counter() > begin + FIRST_RECORD_TIMEOUT_S:
                    state = f"kept no record in {FIRST_RECORD_TIMEOUT_S:g} s ({error})"
                else:
                    time.sleep(TRY_AGAIN_S)
                    continue
                raise BenchError(f"{self.name} {state}: {self.log_tail()}") from error
            return

    def log_tail(self) -> str:
        """Return the last lines that the server logged."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(lines[-5:]) or "(nothing)"

    def stop(self) -> None:
        """End the server by SIGTERM."""
        process, self.process = self.process, None
        if process is not None:
            stop(process)

    def kill(self) -> None:
        """End the server at once, by SIGKILL to its id."""
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self.start()
        except BaseException:  # an interrupt too must not leave a server behind
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        # Its data is thrown away: there is nothing that a slow clean stop would save.
        self.kill()


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nobody has at this moment."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
