"""Instructions a request, counted by a simulated processor, where the real one has no counters.

The server runs under valgrind's callgrind, 30 to 50 times slower, and counts nothing until a
window begins. String hashes are fixed, so that dicts have one order, and what other programs do is
not counted. But the clock goes on while the server is slow: timers of milliseconds come due within
one request, and more so on a busy machine. Counts of a quiet one differ by 5 to 10 % with one
request in flight and with 100; at a load of 5 the former came to 1.3 to 3 times as much. A count is
compared with counts of this kind alone. Only user space is in it.

A window is thrown away before the one that counts: the interpreter specialises code that it has run
some times, and the first request of a connection is not like the others.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from bench.process import BenchError
from bench.profiler.samplers import Load, observe

_OUT: Final = "callgrind.out"
CONTROL_TIMEOUT_S: Final = 60.0


def command(directory: Path) -> tuple[str, ...]:
    """Return what a server is started with: counts go into files of `directory`."""
    return (
        "env", "PYTHONHASHSEED=0",
        "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no",
        f"--callgrind-out-file={directory / _OUT}",
    )  # fmt: skip


def instructions_of(load: Load, seconds: float, directory: Path) -> float:
    """Return the instructions of user space for each request of a server that `command` started.

    Raises:
        BenchError: there is no valgrind, or the case has no server.
    """
    if load.pid is None:
        raise BenchError("only a server is counted this way, and this case has none")
    _control(load.pid, "--instr=on")
    observe(load, seconds)
    _control(load.pid, "--zero")
    window, _ = observe(load, seconds)
    _control(load.pid, "--dump")
    _control(load.pid, "--instr=off")
    requests: int = window.notes["requests_in_all"]
    return _newest_total(directory) / max(1, requests)


def _control(pid: int, word: str) -> None:
    done = subprocess.run(
        ["callgrind_control", word, str(pid)],  # noqa: S607  Found in PATH, as valgrind is.
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=CONTROL_TIMEOUT_S,
    )  # fmt: skip
    if done.returncode != 0 or "Error" in done.stdout + done.stderr:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise BenchError(f"callgrind_control {word}: {said[-1] if said else done.returncode}")


def _newest_total(directory: Path) -> int:
    parts = list(directory.glob(f"{_OUT}.*"))
    if not parts:
        raise BenchError("callgrind wrote no counts")
    newest = max(parts, key=lambda path: path.stat().st_mtime_ns)
    return read_total(newest.read_text(encoding="utf-8"))


def read_total(text: str) -> int:
    """Return the instructions in all that a file of callgrind tells.

    Raises:
        BenchError: it tells none.
    """
    for line in text.splitlines():
        word, _, count = line.partition(":")
        if word == "totals" and count.strip().isdigit():
            return int(count)
    raise BenchError("a file of callgrind tells no total")
