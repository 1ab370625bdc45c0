"""The servers of Redis and of NATS, with what they ship with, but for how they sync."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.peers import nats_load, redis_load
from bench.peers.packages import Program, debian_program, go_program, say
from bench.peers.peer import NotYetError, Peer, free_ports
from bench.peers.raw_load import VALUE
from bench.protocol import AnswerError

FIRST: Final = "first"
NATS_MODULE: Final = "github.com/nats-io/nats-server/v2"
NATS_VERSION: Final = "2.15.2"


class RawServer(Peer, ABC):
    """A server of streams that have one value a record."""

    speech: str  # the name of its protocol among the jobs

    def __init__(self, program: Program, directory: Path, *, sync: str) -> None:
        super().__init__(directory)
        self.program = program
        self.sync = sync
        (port,) = free_ports(1)
        self.address = ("127.0.0.1", port)

    def environment(self) -> dict[str, str]:
        """Return where its shared libraries are."""
        return self.program.environment()

    @abstractmethod
    def make_stream(self, stream: str) -> None:
        """Make an empty stream, if streams are made."""

    @abstractmethod
    def drop_stream(self, stream: str) -> None:
        """Take a stream away."""

    @abstractmethod
    def fill(self, stream: str, total: int) -> None:
        """Append `total` records to an empty stream."""


class RedisServer(RawServer):
    """Redis with its append-only file on; it is off in what it ships with."""

    name = "Redis"
    speech = "redis"

    def command(self) -> Sequence[str]:
        """Return a server without snapshots, which would only disturb its append-only file."""
        host, port = self.address
        return [
            str(self.program.path), "--bind", host, "--port", str(port), "--daemonize", "no",
            "--dir", str(self.directory), "--save", "", "--appendonly", "yes",
            "--appendfsync", self.sync,
        ]  # fmt: skip

    def first_record(self) -> None:
        """Append one entry."""
        try:
            redis_load.ask_redis(self.address, b"XADD", FIRST, b"*", redis_load.FIELD, VALUE)
        except AnswerError as error:
            raise NotYetError(str(error)) from error

    def make_stream(self, stream: str) -> None:
        """Do nothing: the first entry makes a stream."""

    def drop_stream(self, stream: str) -> None:
        """Delete it in the foreground, so that nothing of it disturbs the next window."""
        redis_load.ask_redis(self.address, b"DEL", stream)

    def fill(self, stream: str, total: int) -> None:
        """Append entries with the ids 0-1 and on."""
        redis_load.fill_redis(self.address, stream, total)

    def conditions(self) -> dict[str, Any]:
        """Return version and settings."""
        said = say([str(self.program.path), "--version"], environment=self.environment())
        found = re.search(r"v=(\S+)", said)
        return {
            "version": found[1] if found else said[:40],
            "settings": {"appendonly": "yes", "save": "(none)"},
        }


class NatsServer(RawServer):
    """NATS with JetStream on, its streams in files."""

    name = "NATS JetStream"
    speech = "nats"

    def prepare(self) -> None:
        """Write its settings."""
        super().prepare()
        host, port = self.address
        settings = [f'host: "{host}"', f"port: {port}"]
        settings.append(f'jetstream {{ store_dir: "{self.directory}"')
        if self.sync:
            settings.append(f"sync_interval: {self.sync}")
        self._settings_path().write_text("\n".join(settings) + "\n}\n", encoding="utf-8")

    def _settings_path(self) -> Path:
        return self.directory.with_name(self.directory.name + ".conf")

    def command(self) -> Sequence[str]:
        """Return the server with its settings."""
        return [str(self.program.path), "--config", str(self._settings_path())]

    def first_record(self) -> None:
        """Append one message to a stream that is made for it unless it is there."""
        try:
            session = nats_load.Session(self.address)
            try:
                session.create_stream(FIRST)
                session.append(FIRST, VALUE)
            finally:
                session.close()
        except AnswerError as error:
            raise NotYetError(str(error)) from error

    def make_stream(self, stream: str) -> None:
        """Make a stream of one subject."""
        session = nats_load.Session(self.address)
        session.create_stream(stream)
        session.close()

    def drop_stream(self, stream: str) -> None:
        """Delete it."""
        session = nats_load.Session(self.address)
        session.delete_stream(stream)
        session.close()

    def fill(self, stream: str, total: int) -> None:
        """Append messages."""
        self.make_stream(stream)
        nats_load.fill_nats(self.address, stream, total)

    def conditions(self) -> dict[str, Any]:
        """Return its version."""
        said = say([str(self.program.path), "--version"])
        return {"version": said.rpartition("v")[2], "settings": {"storage": "file"}}


def find_redis() -> Program:
    """Return Redis. Raises UnavailableError."""
    return debian_program("redis-server", "redis-server")


def find_nats() -> Program:
    """Return the NATS server. Raises UnavailableError."""
    return go_program(NATS_MODULE, NATS_VERSION)
