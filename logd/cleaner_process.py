"""What runs in the cleaner's process: sets its own limits, reads an order, cleans, tells.

    stdin    one JSON document: ProcessOrder
    stdout   JSON lines: ProcessLine, first some with progress, then one with result or failure

The process is made by `broker/worker`. Before it reads a byte of the log it sees to it that

* it dies when the server does, even of kill -9 (and has not missed that already);
* it is the first that the kernel ends when memory is short, and cannot take more than its limit;
* where nobody waits for it, it gets the processor when nobody else wants it, and the disk after
  everybody else: with nice 19 goes the lowest best-effort priority for input and output. A session
  of its own may be a scheduling group of its own (autogroup), and nice counts only inside of one:
  the group gets 19, too. On a machine that is always busy such a round might never end, so one that
  somebody asked for has the server's own priority, and what bounds it is the I/O budget;
* in both cases its turns are short: whoever runs keeps the processor for some milliseconds, whoever
  wakes up, unless it asked for less.

What it writes are files that end in `.cleaned`, and nothing else; only the server gives them a
place in the log. So it can be killed at any time.

What it imports is paid for by every round, so it reads and writes JSON with the standard library;
the server, which believes nothing of what it hears, checks types as well (`broker/cleaner_lines`).

Source: prctl(2), ioprio_set(2) (the priority that follows from nice), proc(5) (oom_score_adj),
sched(7) (autogroups), sched_setattr(2) (sched_runtime, for ordinary tasks since Linux 6.12).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final, Literal

from logd.clock import Clock
from logd.errors import CorruptFileError, CorruptRecordsError, DiskFullError, LogdError
from logd.storage.clean_order import CleanOrder, Progress
from logd.storage.cleaner import clean
from logd.storage.files import DISK_FULL_ERRNOS, Files

TELL_INTERVAL_S: Final = 0.2
"""How often progress is told, at the most."""

ALIVE_INTERVAL_S: Final = 10.0
"""How often at least, while the I/O budget makes it wait."""

NICE: Final = 19
OOM_SCORE_ADJ: Final = b"800"

_PR_SET_PDEATHSIG: Final = 1
_SIGKILL: Final = 9
_OOM_PATH: Final = "/proc/self/oom_score_adj"
_AUTOGROUP_PATH: Final = "/proc/self/autogroup"
_TURN_NS: Final = 100_000
"""The shortest one that the kernel gives."""

# sched_setattr(2); where the number is not known there is nice alone.
_SYS_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
# size, policy (SCHED_OTHER), flags, nice, priority, runtime, deadline, period
_SCHED_ATTR: Final = struct.Struct("=IIQiIQQQ")

FailureKind = Literal["space", "gone", "memory", "damaged", "failed"]
"""No space; a file that was there is not; …; a batch of the log is damaged; anything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOrder:
    """What the process is told.

    Attributes:
        parent_pid: of the server; without it there is nothing to do.
        memory_bytes: what the process may take.
        is_asked_for: somebody waits for it: it has the priority that the server has.
        order: a CleanOrder, as JSON.
    """

    parent_pid: int
    memory_bytes: int
    is_asked_for: bool
    order: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no result.

    Attributes:
        kind: for the server to decide by.
        reason: for people.
    """

    kind: FailureKind
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLine:
    """What the process tells; one of the three.

    Attributes:
        result: a CleanResult, as JSON.
    """

    progress: Progress | None = None
    result: str | None = None
    failure: Failure | None = None


class IoBudget:
    """Spreads bytes over time: `pace` sleeps until they are within the budget.

    What was not used in a second is lost, so a wait on the disk is not followed by a burst.

    Args:
        bytes_per_s: 0: no limit.
        on_wait: called now and then while it sleeps.
    """

    def __init__(self, bytes_per_s: int, clock: Clock, on_wait: Callable[[], None]) -> None:
        assert bytes_per_s >= 0
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._on_wait = on_wait
        self._paid_until_s = clock.monotonic()

    def pace(self, size: int) -> None:
        """Take note of `size` bytes that were read or written; sleep if they were too many."""
        if self._bytes_per_s == 0:
            return
        now = self._clock.monotonic()
        self._paid_until_s = max(self._paid_until_s, now - 1.0) + size / self._bytes_per_s
        while (wait_s := self._paid_until_s - self._clock.monotonic()) > 0:
            self._on_wait()
            self._clock.sleep(min(wait_s, ALIVE_INTERVAL_S))


class Teller:
    """Writes lines to the server, progress not too often."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._progress = Progress("starting", 0, 0)
        self._told_at = clock.monotonic()

    def progress(self, progress: Progress) -> None:
        """Tell how far it is, unless that was told just now."""
        is_new_phase = progress.phase != self._progress.phase
        self._progress = progress
        if is_new_phase or self._clock.monotonic() - self._told_at >= TELL_INTERVAL_S:
            self.alive()

    def alive(self) -> None:
        """Tell the last progress again."""
        self._told_at = self._clock.monotonic()
        self.tell(ProcessLine(progress=self._progress))

    def tell(self, line: ProcessLine) -> None:
        """Write one line at once."""
        sys.stdout.buffer.write(json.dumps(asdict(line)).encode() + b"\n")
        sys.stdout.buffer.flush()


def main() -> int:
    """Do what stdin says; return the exit code: 0 also where cleaning failed for a told reason."""
    clock = Clock()
    teller = Teller(clock)
    asked = ProcessOrder(**json.loads(sys.stdin.buffer.read()))
    _limit_this_process(asked)
    teller.tell(_outcome(asked.order, teller, clock))
    return 0


def _outcome(order_json: str, teller: Teller, clock: Clock) -> ProcessLine:
    try:
        order = CleanOrder.from_json(order_json)
        budget = IoBudget(order.limits.io_bytes_per_s, clock, teller.alive)
        result = clean(Files(), order, on_progress=teller.progress, pace=budget.pace)
    except Exception as error:  # Whatever it is, the server is told, and shows it on status.
        return ProcessLine(failure=_failure(error))
    return ProcessLine(result=result.to_json())


def _failure(error: Exception) -> Failure:
    if isinstance(error, MemoryError):
        return Failure(kind="memory", reason="it needs more memory than it may take")
    if isinstance(error, DiskFullError) or getattr(error, "errno", None) in DISK_FULL_ERRNOS:
        return Failure(kind="space", reason=str(error))
    if isinstance(error, FileNotFoundError):
        return Failure(kind="gone", reason=str(error))
    if isinstance(error, (CorruptFileError, CorruptRecordsError)):
        return Failure(kind="damaged", reason=str(error))
    if isinstance(error, (LogdError, OSError)):
        return Failure(kind="failed", reason=str(error))
    return Failure(kind="failed", reason=f"a fault in logd itself: {error!r}")


def _limit_this_process(asked: ProcessOrder) -> None:
    """Die with the server; take no more memory than allowed, and the processor as one should."""
    _die_with(asked.parent_pid)
    resource.setrlimit(resource.RLIMIT_DATA, (asked.memory_bytes, asked.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _write_setting(_OOM_PATH, OOM_SCORE_ADJ)
    if not asked.is_asked_for:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        _write_setting(_AUTOGROUP_PATH, b"%d" % NICE)
    _ask_for_short_turns()


def _write_setting(path: str, value: bytes) -> None:
    """Change a setting of the process that is not to be had everywhere; it is a courtesy."""
    with contextlib.suppress(OSError):
        Files().write_setting(path, value)


def _ask_for_short_turns() -> None:
    """Have whoever wakes up wait for less; best effort: older kernels take no notice."""
    number = _SYS_SCHED_SETATTR.get(os.uname().machine)
    if number is not None:
        nice = os.getpriority(os.PRIO_PROCESS, 0)  # The call sets both: it stays as it is.
        wanted = _SCHED_ATTR.pack(_SCHED_ATTR.size, 0, 0, nice, 0, _TURN_NS, 0, 0)
        ctypes.CDLL(None).syscall(ctypes.c_long(number), 0, wanted, 0)


def _die_with(parent_pid: int) -> None:
    """Ask for SIGKILL when the parent is gone; end now if it is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        raise SystemExit("the server is gone")
