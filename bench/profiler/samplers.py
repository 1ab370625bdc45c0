"""py-spy and perf on a process under load: started with a window, ended with it, read as text."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.measurement import Window
from bench.process import BenchError, Child
from bench.profiler.budget import perf_stages
from bench.runner import JOB_TIMEOUT_S, window_of

RATE_HZ: Final = 250
PERF_HZ: Final = 1999
SAMPLER_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a case does while it is looked at: a job, and the process that is looked at.

    pid: of the server; None for the process of the job itself, which says when it begins.
    """

    job: str
    spec: Mapping[str, Any]
    unit: str
    pid: int | None = None


def observe(
    load: Load, seconds: float, command: Callable[[int], Sequence[str]] | None = None
) -> tuple[Window, str]:
    """Run one window with a sampler attached to the process; return it, and what that one said.

    Raises:
        BenchError: the sampler ended with another exit code than when it is interrupted.
    """
    with Child(load.job, {**load.spec, "seconds": seconds}) as child:
        if load.pid is None:
            child.answer(JOB_TIMEOUT_S)
        if command is None:
            return window_of(child.answer(JOB_TIMEOUT_S)), ""
        sampler = subprocess.Popen(
            command(load.pid or child.process.pid), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            window = window_of(child.answer(JOB_TIMEOUT_S))
            if sampler.poll() is None:
                sampler.send_signal(signal.SIGINT)
            said, _ = sampler.communicate(timeout=SAMPLER_TIMEOUT_S)
        except BaseException:  # an interrupt too must not leave a sampler behind
            sampler.kill()
            sampler.communicate()
            raise
    if sampler.returncode not in (0, 130, -signal.SIGINT):
        raise BenchError(said.strip().splitlines()[-1] if said.strip() else "the sampler failed")
    return window, said


def python_stacks(load: Load, seconds: float, place: Path) -> tuple[str, str]:
    """Return the stacks of all threads that run, and of those that hold the interpreter's lock."""
    found = []
    for name, extra in (("running", []), ("holding", ["--gil"])):
        path = place / f"{name}.raw"
        observe(
            load, seconds,
            lambda pid, path=path, extra=extra: [  # type: ignore[misc]  # bound in the loop
                "py-spy", "record", "--pid", str(pid), "--format", "raw", "--output", str(path),
                "--rate", str(RATE_HZ), "--duration", str(max(1, round(seconds))), *extra,
            ],
        )  # fmt: skip
        found.append(path.read_text(encoding="utf-8") if path.exists() else "")
    return found[0], found[1]


def processor_samples(load: Load, seconds: float, place: Path) -> Counter[str]:
    """Return how many samples of the processor fell into each stage."""
    path = place / "perf.data"
    observe(load, seconds, lambda pid: [
        "perf", "record", "--quiet", "--call-graph", "fp", "--event", "cpu-clock", "--freq",
        str(PERF_HZ), "--pid", str(pid), "--output", str(path),
    ])  # fmt: skip
    script = subprocess.run(
        # perf is whichever stands in PATH.
        ["perf", "script", "--input", str(path), "--fields", "comm,tid,ip,sym,dso"],  # noqa: S607
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return perf_stages(script.stdout)


def instructions_of(load: Load, seconds: float) -> float:
    """Return the instructions of user space for each request.

    Raises:
        BenchError: this machine does not count them, as many virtual machines do not.
    """
    window, said = observe(load, seconds, lambda pid: [
        "perf", "stat", "--field-separator", ",", "--event", "instructions:u", "--pid", str(pid),
    ])  # fmt: skip
    requests: int = window.notes["requests_in_all"]
    return read_count(said) / max(1, requests)


def read_count(said: str) -> int:
    """Return the count in the output of `perf stat --field-separator ,`.

    Raises:
        BenchError: it has none.
    """
    for line in said.splitlines():
        fields = line.split(",")
        if len(fields) > 2 and fields[2].startswith("instructions"):
            if fields[0].isdigit():
                return int(fields[0])
            raise BenchError(f"this machine does not count instructions ({fields[0].strip('<>')})")
    raise BenchError("perf stat gave no count of instructions")
