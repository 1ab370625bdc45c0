"""What a partition's world is made of: files that fail, held-back threads and timers, clients."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import trio

from logd.broker.partition import Partition
from logd.errors import DuplicateSequenceError, LogdError, OutOfOrderSequenceError, StorageError
from logd.offload import Delivery, Job
from logd.storage.files import Files, OpenFile

T = TypeVar("T")


class Fate(Protocol):
    """Decides what happens when."""

    random: random.Random

    def before(self, call: str) -> None:
        """A file-system call is about to be made; may raise what it fails with."""
        ...

    def in_thread(self) -> AbstractContextManager[None]:
        """What is done inside is done by a thread."""
        ...


class WorldFiles(Files):
    """The real files, of which the world decides what fails, and what happens meanwhile."""

    def __init__(self, world: Fate) -> None:
        self._world = world

    def open_write(self, path: str) -> OpenFile:
        self._world.before("open_write")
        return super().open_write(path)

    def create(self, path: str) -> OpenFile:
        self._world.before("create")
        return super().create(path)

    def write_at(self, file: OpenFile, position: int, buffers: Sequence[Any]) -> int:
        try:
            self._world.before("write_at")
        except OSError:
            whole = b"".join(bytes(each) for each in buffers)
            super().write_at(file, position, [whole[: self._world.random.randint(0, len(whole))]])
            raise
        return super().write_at(file, position, buffers)

    def allocate(self, file: OpenFile, position: int, size: int) -> None:
        self._world.before("allocate")
        super().allocate(file, position, size)

    def truncate(self, file: OpenFile, size: int) -> None:
        self._world.before("truncate")
        super().truncate(file, size)

    def map(self, file: OpenFile, size: int, *, writable: bool) -> Any:
        self._world.before("map")
        return super().map(file, size, writable=writable)

    def sync_data(self, file: OpenFile) -> None:
        self._world.before("sync_data")

    def sync(self, file: OpenFile) -> None:
        self._world.before("sync")

    def sync_directory(self, path: str) -> None:
        self._world.before("sync_directory")

    def rename(self, old: str, new: str) -> None:
        self._world.before("rename")
        super().rename(old, new)

    def unlink(self, path: str) -> None:
        self._world.before("unlink")
        super().unlink(path)


class ConnectionGoneError(StorageError):
    """Nothing is on its way any more."""


class HeldOffload:
    """Jobs wait until the world runs them, and their ends until it delivers them."""

    def __init__(self, world: Fate) -> None:
        self._world = world
        self._jobs: list[Callable[[], None]] = []
        self._ended: deque[Callable[[], None]] = deque()
        self._shields: list[trio.CancelScope] = []

    def kill(self) -> None:
        """Who waits for a job waits no more when cancelled: the process is gone."""
        for scope in self._shields:
            scope.shield = False

    @property
    def is_idle(self) -> bool:
        return not self._jobs and not self._ended

    def submit(self, kind: str, job: Job, delivery: Delivery) -> None:
        def work() -> None:
            result: object = None
            error: BaseException | None = None
            try:
                result = job()
            except Exception as raised:  # The loop hears of it.
                error = raised
            self._ended.append(lambda: delivery(result, error))

        self._jobs.append(work)

    def post(self, delivery: Delivery, result: object) -> None:
        self._ended.append(lambda: delivery(result, None))

    async def run(self, kind: str, function: Callable[..., T], *args: object) -> T:
        outcome: list[T] = []
        errors: list[BaseException] = []
        finished = trio.Event()

        def work() -> None:
            try:
                outcome.append(function(*args))
            except Exception as raised:  # The caller hears of it.
                errors.append(raised)
            finished.set()

        self._jobs.append(work)
        scope = trio.CancelScope(shield=True)
        self._shields.append(scope)
        with scope:
            await finished.wait()
        if errors:
            raise errors[0]
        return outcome[0]

    async def ask(self, kind: str, function: Callable[..., T], *args: object) -> T:
        return await self.run(kind, function, *args)

    def add_kind(self, kind: str, threads: int) -> None:
        pass

    def work(self) -> None:
        """Run one of the jobs, with the loop going on beside it."""
        if self._jobs:
            job = self._jobs.pop(self._world.random.randrange(len(self._jobs)))
            with self._world.in_thread():
                job()

    def deliver(self, *, limit: int) -> None:
        while self._ended and limit:
            limit -= 1
            self._ended.popleft()()


class Batch:
    """One batch of a client, and what it was told of it; told once for each time it is sent."""

    def __init__(self, payload: bytes, producer: Producer | None, sequence: int) -> None:
        self.payload = payload
        self.producer = producer
        self.sequence = sequence
        self.append_time_ms = -1
        self.in_flight = False
        self.acked = False
        self.wants_sync = True
        self.offset: int | None = None
        self.errors: list[LogdError] = []

    def __repr__(self) -> str:
        return (
            f"<{self.payload[:6].decode()} acked={self.acked} at {self.offset} {self.errors[-2:]}>"
        )

    def appended(self, base_offset: int) -> None:
        assert self.in_flight, "told twice"
        self.in_flight = False
        self.acked = True
        self.offset = base_offset

    def refused(self, error: LogdError) -> None:
        assert self.in_flight, "told twice"
        self.in_flight = False
        self.errors.append(error)
        if isinstance(error, DuplicateSequenceError):
            self.acked = True  # So clients take it: it is in the log, nobody knows where.
        elif self.producer is not None:
            assert isinstance(error, StorageError | OutOfOrderSequenceError), error


class Producer:
    """An idempotent producer: five batches in flight, refused ones are sent again, in order."""

    def __init__(self, producer_id: int) -> None:
        self.producer_id = producer_id
        self.batches: list[Batch] = []


class Fetch:
    """A waiting fetch."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.high_watermark = partition.high_watermark
        self.is_woken = False

    def wake(self) -> None:
        self.is_woken = True
