"""The directory that a run works in: looked at first, with room to spare, and gone afterwards.

* A data directory of a server, or of a storage node, is refused, and so is what lies below one: a
  benchmark fills disks and makes files that nobody there knows.
* What a run will need must be free, and some more: a full disk stops the servers that are on it.
* The run's own directory is removed at the end, also after Ctrl-C, SIGTERM and a closed terminal.
  After kill -9 nobody is left to do it but another process: the *sweeper* waits for the end of a
  pipe that only the run holds open, and removes what is there then. The run's children are killed
  by the kernel (`bench.process`). What is left after a power cut begins with `PREFIX`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.process import BenchError

PREFIX: Final = "logd-bench-"
GIB: Final = 1024 * 1024 * 1024
# What stays free besides: a server's own reserve, `disk.reserve.bytes`.
KEEP_BYTES_MAX: Final = GIB
KEEP_FRACTION: Final = 20
# Names in a data directory, and in a storage node's, by which they are known.
MARKS: Final = (("lock", "meta"), ("node.lock",))
_SWEEP: Final = """
import os, shutil, sys, time
sys.stdin.read()
deadline = time.monotonic() + 30
while os.path.isdir(sys.argv[1]) and time.monotonic() < deadline:
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    time.sleep(0.05)
"""


class PlaceError(BenchError):
    """A benchmark must not, or cannot, work in the directory that it was given."""


def refuse_data_directory(directory: Path) -> None:
    """Do nothing, unless the directory is a server's or a node's, or lies in one.

    Raises:
        PlaceError: it is; the text says which, and what to give instead.
    """
    absolute = directory.resolve()
    for place in (absolute, *absolute.parents):
        if any(all((place / name).exists() for name in names) for names in MARKS):
            raise PlaceError(
                f"{place} is the data directory of a server or a storage node: benchmarks write "
                f"beside it, never in it; try --dir {place.parent}, if that is the same disk"
            )


def require_free(directory: Path, needed_bytes: int) -> None:
    """Do nothing, unless less is free than a run needs.

    Raises:
        PlaceError: the text says how much is needed, kept and free.
    """
    space = os.statvfs(directory)
    free = space.f_bavail * space.f_frsize
    keep = min(KEEP_BYTES_MAX, space.f_blocks * space.f_frsize // KEEP_FRACTION)
    if free < needed_bytes + keep:
        raise PlaceError(
            f"{directory} has {free / GIB:.1f} GiB free; this needs {needed_bytes / GIB:.1f} GiB "
            f"and leaves {keep / GIB:.1f} GiB alone: give another --dir, or make room"
        )


@contextmanager
def own_directory(parent: Path) -> Iterator[Path]:
    """Make a directory in `parent`, and remove it at the end, however the process ends.

    Signals that end a process become SystemExit in here, so that all that was started is stopped.
    """
    # Servers and clients are processes with another working directory than ours.
    parent = parent.absolute()
    refuse_data_directory(parent)
    parent.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    sweeper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _SWEEP, str(own)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C goes to the whole group of the terminal
    )  # fmt: skip
    try:
        with _ended_by_signals():
            yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        assert sweeper.stdin is not None
        sweeper.stdin.close()
        sweeper.wait()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do; its own handlers hold
        return
    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)
