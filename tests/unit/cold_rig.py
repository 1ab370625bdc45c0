"""A cold tier on a catalog and node directories of its own, without threads, for tests."""

from __future__ import annotations

import io
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from ec.node_dir import initialise
from ec.node_identity import NodeIdentity
from logd.clock import Clock
from logd.cold.nodes import NodeServices
from logd.cold.tier import ColdTier
from logd.config import load_server_settings
from logd.events import EventLog
from logd.offload import InlineOffload
from logd.policy.cold.proof import ChunkCheck, Proof, ReleaseCheck, data_chunk_to_decode
from logd.policy.cold.values import Generation
from logd.storage.catalog import SqliteCatalog
from logd.storage.cold_catalog import Commit
from logd.storage.files import Files
from tests.contract.check_cold_catalog import TOPIC

T = TypeVar("T")

CLUSTER = "cluster-of-tests"


class HangingOffload(InlineOffload):
    """Does the work at once, but for kinds that hang until they are let go.

    Attributes:
        hanging: kinds of which questions hang.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hanging: set[str] = set()
        self._waiting: list[Callable[[], object]] = []

    async def ask(self, kind: str, function: Callable[..., T], *args: object) -> T:
        """As the others; a question of a kind that hangs is answered when it is let go."""
        if kind in self.hanging:
            self._waiting.append(lambda: function(*args))
            await trio.sleep_forever()
        return await super().ask(kind, function, *args)

    def let_go(self) -> None:
        """Answer all that hangs, though nobody may wait for it any more."""
        self.hanging.clear()
        for answer in self._waiting:
            answer()
        self._waiting.clear()


class SteppingClock(Clock):
    """A wall clock that stands, until it is set."""

    def __init__(self) -> None:
        self.wall_ms = 1_000_000

    def now_ms(self) -> int:
        """See `Clock`."""
        return self.wall_ms


class ColdRig:
    """One server's cold tier; `again` is the next server on the same directory.

    Attributes:
        log: what it told its operator.
        changes: what `on_change` of tier and nodes was told.
    """

    def __init__(self, directory: str, **flags: str) -> None:
        self.directory = directory
        self.flags = flags
        self.files = Files()
        self.catalog = SqliteCatalog.open(f"{directory}/catalog.sqlite", CLUSTER)
        self.offload = HangingOffload()
        self.log = io.StringIO()
        self.clock = SteppingClock()
        settings = load_server_settings(
            file=None, environment={},
            flags={name.replace("_", "."): value for name, value in flags.items()},
        ).settings  # fmt: skip
        self.services = NodeServices(
            files=self.files,
            offload=self.offload,
            events=EventLog(self.log, "text", self.clock),
            cluster_id=CLUSTER,
            settings=settings,
            random=random.Random(7),
        )
        self.tier = ColdTier(self.catalog.cold, self.services, self.clock)
        self.nodes = self.tier.nodes
        self.changes: list[object] = []
        self.tier.on_change.append(self.changes.append)
        self.nodes.on_change.append(self.changes.append)

    def place(self, name: str) -> str:
        """Return the directory of a node of that name."""
        return f"{self.directory}/{name}"

    def move(self, old: str, new: str) -> None:
        """Rename a file or directory."""
        self.files.rename(self.place(old), self.place(new))

    def exists(self, name: str) -> bool:
        """Return whether there is such a file or directory."""
        return self.files.exists(self.place(name))

    def write(self, name: str, text: str = "") -> None:
        """Make a file, or with a slash at the end of its name a directory."""
        if name.endswith("/"):
            self.files.make_directory(self.place(name))
        else:
            self.files.write_at(self.files.create(self.place(name)), 0, [text.encode()])

    def make_node(self, name: str, *, at: str = "", sequence: int = 0) -> NodeIdentity:
        """Make a directory into a node of this cluster, that no catalog knows."""
        identity = NodeIdentity(CLUSTER, name, f"{len(name):032x}", sequence)
        initialise(self.files, self.place(at or name), identity)
        return identity

    async def add(self, *names: str) -> None:
        """Add nodes, each in a directory of its name."""
        for name in names:
            await self.nodes.add(name, self.place(name))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the tier's tasks."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.tier.run)
            yield
            nursery.cancel_scope.cancel()

    def again(self) -> ColdRig:
        """Close it, and return another one on the same directory, not loaded yet."""
        self.nodes.close()
        self.catalog.close()
        return ColdRig(self.directory, **self.flags)

    def create_topic(self, topic_id: bytes = TOPIC, name: str = "topic") -> None:
        """Let the catalog know a topic."""
        self.catalog.create_topic(name, topic_id, 3, {})


def proof_of(generation: Generation) -> Proof:
    """Return the proof that allows a commit."""
    checks = tuple(ChunkCheck(index, node, True) for index, node in generation.held.items())
    return Proof(checks, data_chunk_to_decode(generation), True)


def commit_of(generation: Generation, manifest: bytes) -> Commit:
    """Return the commit of a planned generation."""
    return Commit(generation.encoding, manifest, proof_of(generation))


def check_of(generation: Generation, *, now_ms: int) -> ReleaseCheck:
    """Return the check that allows a release now."""
    return ReleaseCheck(checks=proof_of(generation).checks, began_ms=now_ms, ended_ms=now_ms)
