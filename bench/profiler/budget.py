"""What each microsecond of a request is, from two samplers that see different halves of it.

`perf` samples the processor: it knows the system calls and the libraries, but to it all of our code
is one function, the interpreter. `py-spy` knows which line of our code runs, but not what a system
call costs. So perf divides the CPU time of a request into system calls, interrupts, libraries and
the interpreter; and the interpreter's part is divided by the modules whose code held the lock, as
py-spy saw them. The result is in microseconds because the CPU time of a request is measured.

Everything here is pure: text of the samplers in, shares out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.report import figure

INTERPRETER: Final = "interpreter"
# What a system call is for, by its name in the C library.
_CALLS: Final = (
    (("send", "sendto", "sendmsg", "writev"), "send answers"),
    (("recv", "recvfrom", "recvmsg"), "receive requests"),
    (("epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "select"), "wait for sockets"),
    (("epoll_ctl",), "register sockets"),
    (("pwritev", "pwritev2", "pwrite", "pwritev64v2", "pwrite64"), "write to the page cache"),
    (("fdatasync", "fsync"), "sync"),
    (("sendfile", "sendfile64"), "sendfile"),
    (("preadv", "pread", "pread64", "preadv64v2", "mmap", "munmap"), "read"),
    (("futex", "sem_wait", "sem_post", "pthread_cond_signal", "pthread_cond_timedwait",
      "pthread_mutex_lock", "pthread_mutex_unlock", "sem_clockwait", "do_futex_wait"),
     "hand work to threads"),
    (("write", "read", "eventfd_write", "eventfd_read"), "wake the loop"),
)  # fmt: skip
# Parts of the process that are no interpreter, by the names of their files.
_LIBRARIES: Final = (
    (re.compile(r"crc32c"), "CRC-32C"),
    (re.compile(r"isal|erasurecode|liberasure"), "coding (ISA-L)"),
    (re.compile(r"xxhash|zstd|cramjam"), "compression and hashes"),
)
_COPY: Final = re.compile(r"^_*mem(cpy|move|set)")
# Our modules by what they do, the first that fits.
_MODULES: Final = (
    ("logd/net/", "serving loop (net)"),
    ("logd/wire/", "parse and answer (wire)"),
    ("logd/record/", "check batches (record)"),
    ("logd/storage/", "offsets, indexes, segments (storage)"),
    ("logd/broker/", "partitions and acknowledgements (broker)"),
    ("logd/offload", "threads (offload)"),
    ("logd/", "rest of logd"),
    ("ec/", "coding (ec)"),
    ("trio/", "Trio"),
    ("outcome/", "Trio"),
    ("bench/", "the benchmark"),
)
# Where a thread stands while it waits: no cost, though a sampler of threads sees it.
_WAITING: Final = ("_work (logd/offload", "get_events (trio", "wait (threading", "_wait (threading")


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a request, and its microseconds."""

    name: str
    us: float
    share: float


def perf_stages(text: str) -> Counter[str]:
    """Return how many samples of `perf script` fell into each stage."""
    return Counter(_stage_of(frames) for frames in _perf_samples(text))


def _perf_samples(text: str) -> Iterator[list[tuple[str, str]]]:
    """The frames of each sample as (symbol, file), the innermost first."""
    frames: list[tuple[str, str]] = []
    for line in text.splitlines():
        if not line.strip():
            if frames:
                yield frames
            frames = []
        elif line[0] in "\t ":
            symbol, _, file = line.strip().partition(" ")[2].rpartition(" (")
            frames.append((symbol.partition("+")[0], file.rstrip(")")))
    if frames:
        yield frames


def _stage_of(frames: Sequence[tuple[str, str]]) -> str:
    symbol, file = frames[0]
    if "kernel" in file or file.startswith("["):
        outside = [name for name, place in frames if "kernel" not in place and "[" not in place]
        called = any("do_syscall" in name or "x64_sys" in name for name, _ in frames)
        if not called or not outside:
            return "interrupts and scheduling"
        return _call_name(outside[0])
    for pattern, name in _LIBRARIES:
        if pattern.search(file):
            return name
    if _COPY.match(symbol):
        return "copies in memory"
    called_by = _call_name(symbol)
    return called_by if "libc" in file and called_by != OTHER_CALLS else INTERPRETER


OTHER_CALLS: Final = "other system calls"


def _call_name(symbol: str) -> str:
    plain = re.sub(r"^(__libc_|__GI_|_+)+", "", symbol).partition("@")[0]
    for names, stage in _CALLS:
        if plain in names:
            return stage
    return OTHER_CALLS


# --- Stacks of py-spy -----------------------------------------------------------------------------


def read_stacks(text: str) -> list[tuple[tuple[str, ...], int]]:
    """Return (stack, samples) of py-spy's raw format, the outermost frame first; no waiting."""
    found = []
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = tuple(stack.split(";"))
        if stack and not any(mark in frames[-1] for mark in _WAITING):
            found.append((frames, int(count)))
    return found


def module_stages(stacks: Iterable[tuple[tuple[str, ...], int]]) -> Counter[str]:
    """Return how many samples fell into each part of our code, by the innermost frame of ours."""
    found: Counter[str] = Counter()
    for frames, count in stacks:
        found[_module_of(frames[-1])] += count
    return found


def _module_of(frame: str) -> str:
    for mark, name in _MODULES:
        if f"({mark}" in frame or f"/{mark}" in frame:
            return name
    return "standard library"


# --- Together -------------------------------------------------------------------------------------


def stages(
    us_per_request: float, processor: Mapping[str, int], modules: Mapping[str, int]
) -> list[Stage]:
    """Return the parts of a request, the largest first; their sum is `us_per_request`.

    Args:
        processor: samples by `perf_stages`; where there are none, all is taken for interpreter.
        modules: samples by `module_stages`; without any, the interpreter stays one part.
    """
    counts = dict(processor) or {INTERPRETER: 1}
    total = sum(counts.values())
    parts: dict[str, float] = {}
    for name, count in counts.items():
        share = count / total
        if name != INTERPRETER or not modules:
            parts[name] = share
            continue
        held = sum(modules.values())
        for module, samples in modules.items():
            parts[f"Python: {module}"] = share * samples / held
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return [Stage(name, us_per_request * share, share) for name, share in ordered]


# --- As a table ----------------------------------------------------------------------------------

# Smaller parts of a budget stand in one line of its table.
SHARE_MIN: Final = 0.015


@dataclass(frozen=True, slots=True)
class Profile:
    """What was found of a case. instructions is None where nothing here counts them."""

    case: str
    unit: str
    per_second: float
    us_per_request: float
    instructions: float | None
    stages: list[Stage]
    counted_by: str = "perf stat"


def table(found: Profile) -> str:
    """Return the budget of a case as a table in Markdown."""
    counted = ""
    if found.instructions is not None:
        counted = f", {found.instructions:,.0f} instructions ({found.counted_by})"
    lines = [
        f"### {found.case}: {found.us_per_request:.1f} us of CPU a {found.unit}{counted}\n",
        "| part | us | share |",
        "|---|---:|---:|",
        *(
            f"| {stage.name} | {figure(stage.us)} | {stage.share:.0%} |"
            for stage in found.stages
            if stage.share >= SHARE_MIN
        ),
    ]
    rest = [stage for stage in found.stages if stage.share < SHARE_MIN]
    if rest:
        us, share = sum(stage.us for stage in rest), sum(stage.share for stage in rest)
        lines.append(f"| {len(rest)} smaller ones | {figure(us)} | {share:.0%} |")
    return "\n".join(lines) + "\n"


def compared(found: Sequence[Profile], before: Sequence[Mapping[str, object]]) -> str:
    """Return how each case changed against an earlier budget.json, as a table in Markdown.

    Instructions are nearly the same in every run, so a few percent of them are a change; of CPU
    time, which other programs on the machine disturb, ten times as much may be noise.
    """
    earlier = {str(case["case"]): case for case in before}
    lines = ["| case | instructions a request | CPU us a request |", "|---|---:|---:|"]
    for one in found:
        old = earlier.get(one.case)
        if old is not None:
            same = old.get("counted_by", "perf stat") == one.counted_by
            lines.append(
                f"| {one.case} | {_moved(old['instructions'] if same else None, one.instructions)} "
                f"| {_moved(old['us_per_request'], one.us_per_request)} |"
            )
    return "\n".join(lines) + "\n"


def _moved(before: object, now: float | None) -> str:
    if now is None or not isinstance(before, int | float) or not before:
        return "not counted"
    return f"{before:,.0f} to {now:,.0f}, {now / before - 1:+.1%}"
