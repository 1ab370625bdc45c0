"""Our codec beside other erasure-coding libraries: bare ISA-L, zfec, pyeclib, klauspost's in Go.

All code the same chunks in memory on one core, in turn. A figure is bytes of source for each second
of CPU: what other programs take of the machine meanwhile is not in it. They code differently
(matrices, headers), so chunks of one are no chunks of another, and each is compared with itself.
Ours computes no checksums here: none of the others does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from bench.measurement import Window
from bench.peers.contest import Row, Session, Side, compare, take_turns
from bench.peers.packages import Program, UnavailableError, go_directory, python_library
from bench.runner import Run
from bench.suites.shapes import MIB, size_name
from ec.errors import KernelError
from ec.kernels import isal

SECTION: Final = "coding in memory, one core"
PROFILES: Final = ((4, 2), (6, 3), (10, 4))
CHUNK_BYTES: Final = MIB
OPERATIONS: Final = {"encode": "encode {}+{}", "rebuild": "get {1} lost of {0}+{1} back"}
ZFEC_VERSION: Final = "1.6.0.0"
GO_SOURCE: Final = Path(__file__).with_name("coding_go")
GO_LIBRARY: Final = "github.com/klauspost/reedsolomon"

Job = Callable[[Run, str, int, int], Window]


def _library(library: str, path: str | None = None) -> Job:
    def window(run: Run, operation: str, k: int, m: int) -> Window:
        return run.job(
            "code-library", library=library, path=path, operation=operation, k=k, m=m,
            bytes=CHUNK_BYTES,
        )  # fmt: skip

    return window


def _program(program: Program) -> Job:
    def window(run: Run, operation: str, k: int, m: int) -> Window:
        return run.job(
            "code-program", program=str(program.path), operation=operation, k=k, m=m,
            bytes=CHUNK_BYTES,
        )  # fmt: skip

    return window


def _bare(run: Run, operation: str, k: int, m: int) -> Window:
    """ISA-L's call on the same amount of data; it knows only to encode here."""
    assert operation == "encode"
    return run.job("bare-code", profile=f"{k}+{m}")


def find(skipped: dict[str, str]) -> tuple[dict[str, Job], dict[str, dict[str, Any]]]:
    """Return the libraries that are to be had, and what to print about them.

    `skipped` gets the others, and why.
    """
    jobs: dict[str, Job] = {}
    conditions: dict[str, dict[str, Any]] = {}
    finders: Mapping[str, Callable[[], tuple[Job, dict[str, Any]]]] = {
        "ISA-L": _find_isal,
        "zfec": _find_zfec,
        "pyeclib": _find_pyeclib,
        "klauspost/reedsolomon": _find_klauspost,
    }
    for name, finder in finders.items():
        try:
            jobs[name], conditions[name] = finder()
        except (UnavailableError, KernelError) as error:
            skipped[name] = str(error)
    return jobs, conditions


def _find_isal() -> tuple[Job, dict[str, Any]]:
    isal.load()
    return _bare, {"version": f"in pyeclib {metadata.version('pyeclib')}", "call": "ec_encode_data"}


def _find_zfec() -> tuple[Job, dict[str, Any]]:
    path = python_library("zfec", ZFEC_VERSION)
    return _library("zfec", str(path)), {"version": ZFEC_VERSION}


def _find_pyeclib() -> tuple[Job, dict[str, Any]]:
    try:
        version = metadata.version("pyeclib")
    except metadata.PackageNotFoundError:
        raise UnavailableError("it is not installed: there is no wheel for this machine") from None
    return _library("pyeclib"), {"version": version, "type": "isa_l_rs_vand"}


def _find_klauspost() -> tuple[Job, dict[str, Any]]:
    if not GO_SOURCE.is_dir():
        raise UnavailableError("its program is in the source tree only; this is an installation")
    text = (GO_SOURCE / "go.mod").read_text(encoding="utf-8")
    version = next(line.split()[-1] for line in text.splitlines() if GO_LIBRARY in line)
    program = go_directory(GO_SOURCE, f"coding-{version}")
    return _program(program), {"version": version, "settings": "GOMAXPROCS=1"}


def measure(session: Session, skipped: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Measure all that is to be had; return the conditions of each library."""
    jobs, conditions = find(skipped)
    for operation, text in OPERATIONS.items():
        for k, m in PROFILES:
            name = f"{text.format(k, m)}, chunks of {size_name(CHUNK_BYTES)}"
            session.attempt(name, partial(_rows, session, jobs, operation, k, m, name))
    return conditions


def _rows(
    session: Session, jobs: Mapping[str, Job], operation: str, k: int, m: int, name: str
) -> list[Row]:
    """All libraries take turns; each is a row against ours."""
    chosen = {peer: job for peer, job in jobs.items() if operation == "encode" or job is not _bare}
    sides = [Side("logd", partial(_library("logd"), session.run, operation, k, m))]
    sides += [
        Side(peer, partial(job, session.run, operation, k, m)) for peer, job in chosen.items()
    ]
    windows = take_turns(session.run, sides)
    speeds = {side: [_of_cpu(window) for window in found] for side, found in windows.items()}
    return [
        compare(peer, SECTION, name, "MB/s of CPU", speeds["logd"], speeds[peer]) for peer in chosen
    ]


def _of_cpu(window: Window) -> Window:
    """Bytes for each second of CPU, whoever's account the loop put it on."""
    used = window.server_cpu_s if window.server_cpu_s is not None else window.client_cpu_s
    assert used, "a window without CPU time"
    return replace(window, value=window.bytes / used / 1e6, client_cpu_s=None, server_cpu_s=used)
