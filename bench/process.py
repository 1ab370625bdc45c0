"""Processes that a benchmark starts and watches: the server, the clients, the bare loops.

Every process is a child of ours, is known by its id, and is stopped by it; when we are killed, the
kernel kills it too. CPU seconds come from
/proc/<pid>/stat, which the kernel keeps in clock ticks (10 ms): a window must last some tenths of a
second for the figure to mean anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bench import group_protocol, protocol

ROOT: Final = Path(__file__).resolve().parent.parent
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)


class BenchError(Exception):
    """A benchmark cannot go on: a process died, said something else, or took too long."""


# --- What the kernel says about a process -------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """Return the user and system CPU seconds that all threads of `pid` have used so far."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    fields = text[text.rindex(")") + 2 :].split()  # the name may hold blanks and brackets
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def memory_bytes(pid: int, field: str = "VmRSS") -> int:
    """Return a size from /proc/<pid>/status: VmRSS is resident now, VmHWM the highest so far."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"/proc/{pid}/status has no {field}")


# --- Children -----------------------------------------------------------------------------------


def read_line(process: subprocess.Popen[bytes], timeout_s: float, what: str) -> str:
    """Return the next line that `process` writes to its unbuffered stdout.

    Raises:
        BenchError: the process ended first, or said nothing within `timeout_s`.
    """
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], timeout_s)
    line = process.stdout.readline().decode() if ready else ""
    if not line.endswith("\n"):
        state = f"exit code {process.wait(5)}" if ready else f"nothing in {timeout_s:g} s"
        raise BenchError(f"{what} did not answer: {state}")
    return line.rstrip("\n")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End `process` by SIGTERM, or by SIGKILL when it takes too long; returns when it is gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def die_with_parent() -> None:
    """In a child, before exec: be killed when the benchmark is, however that happens."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def environment() -> dict[str, str]:
    """Return our environment for a child: with Python's byte code kept, as on a user's machine.

    Where it is never written, every start compiles every module: half a second of the server's.
    """
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


class Child:
    """A process of our own (`bench.child`) that runs one named job and answers with JSON lines."""

    def __init__(self, job: str, spec: Mapping[str, Any]) -> None:
        self.job = job
        command = [sys.executable, "-m", "bench.child", job, json.dumps(spec)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, bufsize=0, stdin=subprocess.DEVNULL,
            env=environment(),
            preexec_fn=die_with_parent,  # noqa: PLW1509  There is one thread here.
        )  # fmt: skip

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Return the next JSON line that the job writes.

        Raises:
            BenchError: the job failed; the text says why.
        """
        answer = json.loads(read_line(self.process, timeout_s, f"the job {self.job}"))
        assert isinstance(answer, dict)
        if "error" in answer:
            raise BenchError(f"the job {self.job} failed with exit code 1: {answer['error']}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        stop(self.process)


def run_job(job: str, spec: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """Run one job in a process of its own to its end; return its one answer."""
    with Child(job, spec) as child:
        return child.answer(timeout_s)


# --- The server ---------------------------------------------------------------------------------


class Server:
    """`logd serve` as a child process, on free loopback ports, its log lines in a file.

    `start` after `kill` or `stop` comes back on the same ports and the same directory.

    Args:
        arguments: further ones of `logd serve`.
        under: a command that becomes the server in the end, and looks on.
    """

    def __init__(
        self, directory: Path, *, arguments: Sequence[str] = (), under: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.arguments = tuple(arguments)
        self.under = tuple(under)
        self.log_path = directory.with_name(directory.name + ".log")
        self.kafka = ("127.0.0.1", 0)
        self.admin = ("127.0.0.1", 0)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self.process is not None
        return self.process.pid

    def start(self, timeout_s: float = READY_TIMEOUT_S) -> float:
        """Start the server; return the seconds from exec to its ready line."""
        assert self.process is None
        command = [sys.executable, "-m", "logd", "serve", "--data", str(self.directory)]
        command += ["--listen", _joined(self.kafka), "--admin", _joined(self.admin)]
        begin = time.perf_counter()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.under, *command, *self.arguments],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, bufsize=0,
                env={**environment(), "LOGD_TRACEBACK": "1"},
                preexec_fn=die_with_parent,  # noqa: PLW1509  There is one thread here.
            )  # fmt: skip
        try:
            line = read_line(self.process, timeout_s, "logd serve")
        except BenchError as error:
            self.kill()
            raise BenchError(f"{error}; its log ends with: {self.log_tail()}") from error
        elapsed = time.perf_counter() - begin
        self._read_ready(line)
        return elapsed

    def _read_ready(self, line: str) -> None:
        word, *pairs = line.split()
        ports = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if word != "ready" or not {"kafka", "admin"} <= ports.keys():
            raise BenchError(f"logd serve printed {line!r}, expected its ready line")
        self.kafka = _split(ports["kafka"])
        self.admin = _split(ports["admin"])

    def log_tail(self) -> str:
        """Return the last lines that the server logged."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(lines[-5:]) or "(nothing)"

    def stop(self) -> None:
        """Stop the server cleanly, by SIGTERM.

        Raises:
            BenchError: it ended with another exit code than 0.
        """
        process, self.process = self.process, None
        if process is None:
            return
        stop(process)
        if process.returncode != 0:
            raise BenchError(
                f"logd serve ended with exit code {process.returncode}; "
                f"its log ends with: {self.log_tail()}"
            )

    def kill(self) -> None:
        """End the server at once, by SIGKILL to its id: what a crash of the process is."""
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def create_topic(self, topic: str, *, partitions: int = 1, **configs: str) -> None:
        """Create a topic; settings are named with _ for the dot (`flush_mode="os"`)."""
        settings = {name.replace("_", "."): value for name, value in configs.items()}
        request = protocol.create_topic_request(topic, partitions, settings)
        protocol.check_topics_answer(self.ask(request), f"create topic {topic}")

    def delete_topic(self, topic: str) -> None:
        """Delete a topic, so that its bytes do not fill the disk that the next row measures."""
        answer = self.ask(protocol.delete_topics_request([topic]))
        protocol.check_topics_answer(answer, f"delete topic {topic}")

    def find_coordinator(self) -> None:
        """Ask who coordinates groups, until it is known: the offsets topic exists then."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            answer = self.ask(group_protocol.find_coordinator_request("bench"))
            try:
                group_protocol.check_coordinator_answer(answer)
            except protocol.AnswerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def ask(self, request: bytes) -> bytes:
        """Send one framed request on a connection of its own; return the framed answer."""
        with socket.create_connection(self.kafka, timeout=READY_TIMEOUT_S) as connection:
            connection.sendall(request)
            return read_frame(connection)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is None:
            self.stop()
            return
        code = None if self.process is None else self.process.poll()
        self.kill()
        if isinstance(error, OSError | protocol.AnswerError | BenchError):
            state = "it was running" if code is None else f"it had ended with exit code {code}"
            raise BenchError(
                f"{error} ({state}; the server's log ends with: {self.log_tail()})"
            ) from error


def read_frame(connection: socket.socket) -> bytes:
    """Return the next whole frame of a blocking connection, its length prefix included."""
    frame = bytearray()
    needed = 4
    while len(frame) < needed:
        piece = connection.recv(needed - len(frame))
        if not piece:
            raise BenchError("the server closed the connection in the middle of an answer")
        frame += piece
        if len(frame) == 4:
            needed = 4 + int.from_bytes(frame, "big")
    return bytes(frame)


def _joined(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


def _split(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
