"""A server in a process of its own, on free loopback ports, for tests that come as clients do.

The process is a forked one (fork_server.py): what the tests ask for is a server, not its imports.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import IO, Self

from tests.forked import ForkedLogd

# They end what hangs, and are no claim: a busy machine may take its time.
READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 120
ANSWER_TIMEOUT_S = 60

# Tests append records of long ago, and read them: on a slow machine after the first look, perhaps.
ENVIRONMENT = {"LOGD_LOG_RETENTION_CHECK_INTERVAL_MS": str(24 * 3600 * 1000)}


class ServerProcess:
    """`logd serve` as a user starts it. Use as a context manager; the process is always ended.

    Attributes:
        interpreter: the program to run `-m logd` with, for servers that must not be forked.
    """

    interpreter: str | None = None

    def __init__(self, data: Path | str, *arguments: str, port: int = 0) -> None:
        self.data = str(data)
        self._arguments = arguments
        self._port = port
        self.process: ForkedLogd | subprocess.Popen[bytes] | None = None
        self.kafka = ("", 0)
        self.admin = ("", 0)
        self.log_path = f"{self.data}.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.kill()

    def start(self) -> None:
        """Start and wait for the ready line; the same port again after a kill."""
        command = [
            "serve", "--data", self.data,
            "--listen", f"127.0.0.1:{self._port}", "--admin", "127.0.0.1:0", *self._arguments,
        ]  # fmt: skip
        with open(self.log_path, "ab") as log:
            self.process = self._started(command, log)
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], READY_TIMEOUT_S)
        line = self.process.stdout.readline().decode() if readable else ""
        if not line.startswith("ready "):
            self.kill()
            raise AssertionError(f"no ready line but {line!r}; the server said:\n{self.log()}")
        fields = dict(part.split("=", 1) for part in line.split()[1:])
        self.kafka = _address(fields["kafka"])
        self.admin = _address(fields["admin"])
        self._port = self.kafka[1]

    def _started(self, command: list[str], log: IO[bytes]) -> ForkedLogd | subprocess.Popen[bytes]:
        environment = os.environ | ENVIRONMENT
        if self.interpreter is None:
            return ForkedLogd(*command, stdout=subprocess.PIPE, stderr=log, environment=environment)
        command = [self.interpreter, "-m", "logd", *command]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)

    @property
    def bootstrap(self) -> str:
        """The Kafka port as clients take it."""
        return f"{self.kafka[0]}:{self.kafka[1]}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        """What the server wrote to stderr so far, all runs."""
        return Path(self.log_path).read_text()

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        assert self.process is not None
        code = self.process.wait(STOP_TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def resident_bytes(self) -> int:
        """The process's resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def connect(self) -> socket.socket:
        """A raw connection to the Kafka port."""
        return socket.create_connection(self.kafka, timeout=ANSWER_TIMEOUT_S)


def _address(text: str) -> tuple[str, int]:
    host, port = text.rsplit(":", 1)
    return host, int(port)


def request(api_key: int, version: int, body: bytes = b"", *, correlation_id: int = 1) -> bytes:
    """Return a frame with request header version 1 (no flexible header)."""
    header = struct.pack(">hhih", api_key, version, correlation_id, 4) + b"test"
    return struct.pack(">i", len(header) + len(body)) + header + body


def read_frame(sock: socket.socket) -> bytes:
    """Return one whole answer without its length; b"" if the connection was closed instead."""
    data = b""
    while len(data) < 4:
        chunk = sock.recv(4 - len(data))
        if not chunk:
            return b""
        data += chunk
    (size,) = struct.unpack(">i", data)
    body = b""
    while len(body) < size:
        chunk = sock.recv(min(65536, size - len(body)))
        if not chunk:
            return b""
        body += chunk
    return body
