"""The command, its cases, and what is made of each: a flame graph and a budget."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Final

from bench.machine import conditions_of
from bench.process import BenchError
from bench.profiler import callgrind
from bench.profiler.budget import Profile, compared, module_stages, read_stacks, stages, table
from bench.profiler.flame import flame_graph
from bench.profiler.samplers import (
    Load,
    instructions_of,
    observe,
    processor_samples,
    python_stacks,
)
from bench.protocol import AnswerError
from bench.runner import Options, Run, open_run
from bench.suites.fetch import FETCH_LOG_BYTES, fill
from bench.suites.shapes import KIB, MIB

COUNTED_S_MIN: Final = 3.0
"""Of a window under callgrind, where a request takes 30 to 50 times as long."""

# --- Cases ----------------------------------------------------------------------------------------


@contextmanager
def _produce(run: Run, *, acks: int, size: int, connections: int, depth: int) -> Iterator[Load]:
    with run.server() as server, run.topic(server) as topic:
        spec = {"address": server.kafka, "server_pid": server.pid, "topic": topic, "acks": acks,
                "batch_bytes": size, "connections": connections, "depth": depth}  # fmt: skip
        yield Load("produce", spec, "request", server.pid)


@contextmanager
def _fetch(run: Run, *, size: int, connections: int) -> Iterator[Load]:
    with run.server() as server, run.topic(server) as topic:
        log = fill(run, server, topic, FETCH_LOG_BYTES)
        spec = {"address": server.kafka, "server_pid": server.pid, "topic": topic,
                "max_bytes": size, "connections": connections, **log}  # fmt: skip
        yield Load("fetch", spec, "fetch", server.pid)


@contextmanager
def _encode(_: Run, *, profile: str, kernel: str) -> Iterator[Load]:
    spec = {"profile": profile, "kernel": kernel, "announce": True}
    yield Load("code", spec, "segment of 64 MiB")


CASES: Final[dict[str, Callable[[Run], AbstractContextManager[Load]]]] = {
    "append-1": partial(_produce, acks=1, size=0, connections=1, depth=1),
    "append-100": partial(_produce, acks=1, size=0, connections=1, depth=100),
    "append-50-connections": partial(_produce, acks=1, size=0, connections=50, depth=1),
    "append-64KiB": partial(_produce, acks=1, size=64 * KIB, connections=1, depth=5),
    "durable-100": partial(_produce, acks=-1, size=0, connections=1, depth=100),
    "fetch-1MiB": partial(_fetch, size=MIB, connections=1),
    "encode-4+2": partial(_encode, profile="4+2", kernel="isal"),
}


# --- A case ---------------------------------------------------------------------------------------


def profile(case: str, load: Load, *, seconds: float, out: Path, skip: dict[str, str]) -> Profile:
    """Look at one case in all ways that this machine has; write its flame graph.

    `skip` gets what it has not, and why.
    """
    window, _ = observe(load, seconds)
    used = window.client_cpu_s if load.pid is None else window.server_cpu_s
    assert used is not None
    us = used / max(1, window.requests) * 1e6
    with tempfile.TemporaryDirectory() as work:
        running, holding = python_stacks(load, seconds, Path(work))
        samples: Counter[str] = Counter()
        with _or_skipped(skip, "system calls (perf record)"):
            samples = processor_samples(load, seconds, Path(work))
    instructions = None
    with _or_skipped(skip, "instructions a request (perf stat)"):
        instructions = instructions_of(load, seconds)
    rate = window.requests / window.seconds
    graph = flame_graph(
        read_stacks(running), title=case,
sub=f"{rate:,.0f} {load.unit}s a second, {us:.1f} us of CPU each; by the clock: system calls and "
        "the time while another program had the processor are in it, waiting for work is not",
    )  # fmt: skip
    (out / f"{case}.svg").write_text(graph, encoding="utf-8")
    modules = module_stages(read_stacks(holding))
    parts = stages(us, samples, modules)
    return Profile(case, load.unit, rate, us, instructions, parts)


def with_counts(found: Profile, chosen: argparse.Namespace, skip: dict[str, str]) -> Profile:
    """Return a profile with the instructions that callgrind counts, on a server of its own.

    Where there is no valgrind, or nothing to count, `skip` says so and the profile stays as it is.
    """
    try:
        with tempfile.TemporaryDirectory() as work:
            count = _count(found.case, chosen, Path(work))
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        skip[f"instructions of {found.case} (callgrind)"] = str(error)
        return found
    return replace(found, instructions=count, counted_by="callgrind")


def _count(case: str, chosen: argparse.Namespace, work: Path) -> float:
    if shutil.which("valgrind") is None:
        raise BenchError("there is no valgrind")
    options = Options(prime_bytes=0, under=callgrind.command(work))
    with open_run(chosen.dir, options) as run, CASES[case](run) as load:
        return callgrind.instructions_of(load, max(COUNTED_S_MIN, chosen.seconds), work)


@contextmanager
def _or_skipped(skip: dict[str, str], what: str) -> Iterator[None]:
    try:
        yield
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        skip[what] = str(error)


# --- The command ----------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Profile the cases that are named, or all; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.profiler", description=__doc__)
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--dir", help="on the disk to be measured; default: here")
    parser.add_argument("--out", type=Path, default=Path("build/profile"))
    parser.add_argument("--against", type=Path, help="an earlier budget.json, to compare with")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one window; a case has 5")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.case) - set(CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}")
    if shutil.which("py-spy", path=_path()) is None:
        _say("there is no py-spy: pip install py-spy, or make install")
        return 1
    os.environ["PATH"] = _path()
    chosen.out.mkdir(parents=True, exist_ok=True)
    return _run(chosen.case or list(CASES), chosen)


def _path() -> str:
    """Where programs are looked for: beside the interpreter first, as in a virtual environment."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def _run(cases: Sequence[str], chosen: argparse.Namespace) -> int:
    found: list[Profile] = []
    skip: dict[str, str] = {}
    options = Options(seconds=chosen.seconds, prime_bytes=0)
    try:
        with open_run(chosen.dir, options) as run:
            conditions = conditions_of(run.directory)
            for case in cases:
                _say(f"profiling {case}")
                with CASES[case](run) as load:
                    found.append(
                        profile(case, load, seconds=chosen.seconds, out=chosen.out, skip=skip)
                    )
                if found[-1].instructions is None:
                    found[-1] = with_counts(found[-1], chosen, skip)
                print(table(found[-1]))
    except (BenchError, AnswerError) as error:
        _say(str(error))
        return 1
    for what, reason in skip.items():
        _say(f"SKIPPED {what}: {reason}")
    if chosen.against is not None:
        print(compared(found, json.loads(chosen.against.read_text(encoding="utf-8"))["cases"]))
    document = {"conditions": conditions, "skipped": skip, "cases": [asdict(one) for one in found]}
    (chosen.out / "budget.json").write_text(json.dumps(document, indent=1) + "\n")
    _say(f"flame graphs and budget.json are in {chosen.out}")
    return 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
