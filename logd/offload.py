"""The one gate to threads.

Blocking work leaves the event loop through here, in one of three ways:

* `submit`, from the serving loop: the job runs in a thread, its outcome is queued, and an eventfd
  wakes the loop, which calls `deliver`. No task, no Trio in between: handing a sync over costs some
  50 us this way and 160 us through `trio.to_thread` (measured; docs/adr/0006). Each change of the
  interpreter's owner costs as much as a system call or two, so the thread keeps it while it wakes
  the loop (a `PyDLL` call), and the loop never reads the eventfd: it is watched for edges.
* `run`, from any task: waits for the result. Cancelling waits too, because a write that its caller
  gave up on would still happen, later, behind everybody's back.

* `ask`, from any task: as `run`, for questions that change nothing; who is cancelled goes at once,
  and the answer is dropped. So a disk that hangs holds up nobody who looks at it.

Each kind of work has its own threads, so slow reads of old data never hold up a sync. Threads start
when they are first needed and are few (`KINDS`; `add_kind` for what is known only later, such as
the disks of storage nodes). A test or a simulation replaces the whole gate by `InlineOffload`,
which does the work at once.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Final, Protocol, TypeVar

import trio

T = TypeVar("T")

Job = Callable[[], object]
# Called on the loop with the job's result, or with the exception that it raised.
Delivery = Callable[[object, BaseException | None], None]

# Threads per kind of work. "sync" may be changed by the setting sync.threads.
KINDS: Final = {
    "sync": 16, "write": 4, "disk": 4, "delete": 4, "admin": 2, "catalog": 1, "cold": 2,
}  # fmt: skip


# Unlike os.eventfd_write it does not let go of the interpreter, which the woken loop would take at
# once, and the thread would have to get back only to find that it has nothing more to do.
_eventfd_write: Final = ctypes.PyDLL(None, use_errno=True).eventfd_write
_eventfd_write.argtypes = (ctypes.c_int, ctypes.c_uint64)


class Offload(Protocol):
    """What the drivers need of the gate."""

    def submit(self, kind: str, job: Job, delivery: Delivery) -> None:
        """Run `job` in a thread of its kind; `delivery` is called on the loop afterwards."""
        ...

    def post(self, delivery: Delivery, result: object) -> None:
        """Call `delivery` on the loop; for jobs that have something to say before they end."""
        ...

    async def run(self, kind: str, function: Callable[..., T], *args: object) -> T:
        """Return what `function(*args)` returns, or raise what it raises."""
        ...

    async def ask(self, kind: str, function: Callable[..., T], *args: object) -> T:
        """As `run`, but cancelling does not wait: what comes then is dropped."""
        ...

    def add_kind(self, kind: str, threads: int) -> None:
        """Make a further kind of work known; again is harmless.

        Its threads are not waited for by `close`: they may be in the hands of a disk that hangs.
        """
        ...


class _Workers:
    """Threads that take jobs from one queue; started one by one as jobs pile up."""

    def __init__(self, kind: str, limit: int) -> None:
        assert limit >= 1
        self._kind = kind
        self._limit = limit
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        # Only the loop writes `_given`, and only thread i writes `_finished[i]`: no count is lost.
        self._given = 0
        self._finished = [0] * limit

    def put(self, work: Callable[[], None]) -> None:
        self._given += 1
        started = len(self._threads)
        if started < self._limit and self._given - sum(self._finished) > started:
            name = f"logd-{self._kind}-{started}"
            thread = Thread(target=self._work, args=(started,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._queue.put(work)

    def _work(self, index: int) -> None:
        while (work := self._queue.get()) is not None:
            work()
            self._finished[index] += 1

    def close(self, *, wait: bool = True) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads if wait else ():
            thread.join()
        self._threads.clear()


class ThreadOffload:
    """The real gate: threads of our own, an eventfd for the serving loop."""

    def __init__(self, *, sync_threads: int = KINDS["sync"]) -> None:
        limits = {**KINDS, "sync": sync_threads}
        self._workers = {kind: _Workers(kind, limit) for kind, limit in limits.items()}
        self._added: set[str] = set()
        self._ended: deque[tuple[Delivery, object, BaseException | None]] = deque()
        self._posted: deque[tuple[Delivery, object]] = deque()
        self._woken = False
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.in_flight = 0

    def submit(self, kind: str, job: Job, delivery: Delivery) -> None:
        """Run `job` in a thread; the loop calls `delivery` from `deliver`."""
        self.in_flight += 1

        def work() -> None:
            result: object = None
            error: BaseException | None = None
            try:
                result = job()
            except BaseException as raised:  # Whatever it is, the loop must hear of it.
                error = raised
            self._ended.append((delivery, result, error))
            self._wake()

        self._workers[kind].put(work)

    def post(self, delivery: Delivery, result: object) -> None:
        """Call `delivery` on the loop; from a thread, in the middle of its job."""
        self._posted.append((delivery, result))
        self._wake()

    def _wake(self) -> None:
        """Wake the loop, unless it has yet to look.

        The loop takes `_woken` back before it looks, so what comes while it looks wakes it again.
        """
        if not self._woken:
            self._woken = True
            _eventfd_write(self.wake_fd, 1)

    def deliver(self) -> int:
        """Call the deliveries of all finished jobs; return how many there were.

        The loop calls it at each edge of `wake_fd` (EPOLLET).
        """
        self._woken = False
        count = 0
        # What a job posted comes before its end: it was appended before, and is looked at first.
        while self._posted or self._ended:
            while self._posted:
                delivery, result = self._posted.popleft()
                count += 1
                delivery(result, None)
            if self._ended:
                delivery, result, error = self._ended.popleft()
                self.in_flight -= 1
                count += 1
                delivery(result, error)
        return count

    async def run(self, kind: str, function: Callable[..., T], *args: object) -> T:
        """Return what `function(*args)` returns, or raise what it raises.

        Cancellation: not before the function returned; its result is then delivered.
        """
        return await self._run(kind, partial(function, *args), shield=True)

    async def ask(self, kind: str, function: Callable[..., T], *args: object) -> T:
        """See `Offload`."""
        return await self._run(kind, partial(function, *args), shield=False)

    def add_kind(self, kind: str, threads: int) -> None:
        """See `Offload`."""
        assert kind not in KINDS
        if kind not in self._workers:
            self._workers[kind] = _Workers(kind, threads)
            self._added.add(kind)

    async def _run(self, kind: str, function: Callable[[], T], *, shield: bool) -> T:
        token = trio.lowlevel.current_trio_token()
        finished = trio.Event()
        outcome: list[tuple[T | None, BaseException | None]] = []

        def work() -> None:
            try:
                outcome.append((function(), None))
            except BaseException as raised:  # Whatever it is, the caller must hear of it.
                outcome.append((None, raised))
            try:
                token.run_sync_soon(finished.set)
            except trio.RunFinishedError:
                return  # The loop ended first: nobody is left to tell.

        self._workers[kind].put(work)
        with trio.CancelScope(shield=shield):
            await finished.wait()
        result, error = outcome[0]
        if error is not None:
            try:
                raise error
            finally:
                del error, outcome  # The traceback would otherwise hold this frame in a cycle.
        return result  # type: ignore[return-value]  # None only where the function returned None.

    def close(self) -> None:
        """End the threads when their queues are empty, and wait for them."""
        for kind, workers in self._workers.items():
            workers.close(wait=kind not in self._added)
        if self.wake_fd >= 0:
            os.close(self.wake_fd)
            self.wake_fd = -1


class InlineOffload:
    """Does the work at once, on the loop: for simulation and for tests of the drivers."""

    def __init__(self) -> None:
        self._kinds = set(KINDS)
        self._done: deque[tuple[Delivery, object, BaseException | None]] = deque()
        self.in_flight = 0

    def submit(self, kind: str, job: Job, delivery: Delivery) -> None:
        """Do the job now; its delivery waits for `deliver`, as it would behind a thread."""
        assert kind in self._kinds
        self.in_flight += 1
        try:
            self._done.append((delivery, job(), None))
        except BaseException as raised:  # As in a thread: the delivery hears of it.
            self._done.append((delivery, None, raised))

    def post(self, delivery: Delivery, result: object) -> None:
        """Call `delivery` with the next `deliver`, before the end of the job that posts it."""
        self.in_flight += 1
        self._done.append((delivery, result, None))

    def deliver(self) -> int:
        """Call the deliveries of all jobs done so far; return how many there were."""
        count = 0
        while self._done:
            delivery, result, error = self._done.popleft()
            self.in_flight -= 1
            count += 1
            delivery(result, error)
        return count

    async def run(self, kind: str, function: Callable[..., T], *args: object) -> T:
        """Return what `function(*args)` returns, after a checkpoint."""
        assert kind in self._kinds
        await trio.lowlevel.checkpoint()
        return function(*args)

    async def ask(self, kind: str, function: Callable[..., T], *args: object) -> T:
        """See `Offload`."""
        return await self.run(kind, function, *args)

    def add_kind(self, kind: str, threads: int) -> None:
        """See `Offload`."""
        assert threads >= 1
        self._kinds.add(kind)
