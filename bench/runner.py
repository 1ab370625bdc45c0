"""How a row is measured: windows of ours and of the ceiling in turn, on a primed page cache.

A `Run` owns what a benchmark needs: the directory on the disk to be measured, how long and how
often, and where to report progress. A suite (`bench.suites`) is a function from a Run to its rows.

Rows that are points of one curve take turns too: A a B b A a B b, where small letters are ceilings.
A slow minute of the machine is then in all points, and not a dent in the curve.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.bare_disk import prime_page_cache
from bench.histogram import Histogram
from bench.machine import conditions_of
from bench.marks import with_marks
from bench.measurement import Measurement, Window, summarize
from bench.place import own_directory
from bench.process import Child, Server, memory_bytes, run_job
from bench.processor_time import SYSTEM_S, USER_S

NOTES: Final = (
    "checked_bytes", "from_schedule_us", "late_p99_us", "grown_mib", "stored_ratio",
    USER_S, SYSTEM_S,
)  # fmt: skip
GIB: Final = 1024 * 1024 * 1024
JOB_TIMEOUT_S: Final = 120.0
TOPIC: Final = "bench"


def _silent(_: str) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much to measure.

    seconds: of one window, after a warm-up of a fifth of it.
    repetitions: windows of each side in a row.
    curves: also how figures scale, with sizes, numbers and depths: some minutes more.
    prime_bytes: how much page cache is touched before windows that write a lot; 0 for none.
    fill_bytes, fill_partitions, fill_commits: what the start-up rows find in the data directory.
    idle_groups: how many groups send heartbeats.
    under: a command that servers are started with, and that looks on (`bench.profiler.callgrind`).
    """

    seconds: float = 0.5
    repetitions: int = 5
    curves: bool = False
    prime_bytes: int = GIB
    fill_bytes: int = 10 * GIB
    fill_partitions: int = 1000
    fill_commits: int = 1_000_000
    idle_groups: int = 1000
    under: tuple[str, ...] = ()
    progress: Callable[[str], None] = _silent


@dataclass(frozen=True, slots=True)
class Plan:
    """A row that is to be measured.

    `ceiling` is given our window of the same turn: "the same bytes per sync" depends on it.
    """

    name: str
    unit: str
    ours: Callable[[], Window]
    ceiling: Callable[[Window], Window] | None = None
    ceiling_name: str | None = None
    prime: bool = False
    conditions: Mapping[str, Any] = field(default_factory=dict)


class Run:
    """One benchmark run in a directory of its own, which is removed at the end.

    skipped: what could not be measured here, and why.
    """

    def __init__(self, directory: Path, options: Options) -> None:
        self.directory = directory
        self.options = options
        self.conditions: dict[str, Any] = conditions_of(directory)
        self.skipped: dict[str, str] = {}
        self.topics = 0

    def prime(self) -> None:
        """Touch as much page cache as the options say."""
        if self.options.prime_bytes:
            prime_page_cache(self.directory, size_bytes=self.options.prime_bytes)

    def job(self, name: str, **spec: Any) -> Window:
        """Run a client or a bare disk loop in a process of its own; return its window."""
        spec.setdefault("seconds", self.options.seconds)
        return window_of(run_job(name, spec, timeout_s=JOB_TIMEOUT_S))

    @contextmanager
    def server(
        self, name: str = "data", *, settings: Mapping[str, str] | None = None
    ) -> Iterator[Server]:
        """A server of ours on an empty directory, which is removed afterwards."""
        data = self.directory / name
        pairs = [("--set", f"{key}={value}") for key, value in (settings or {}).items()]
        try:
            arguments = [word for pair in pairs for word in pair]
            with Server(data, arguments=arguments, under=self.options.under) as server:
                yield server
        finally:
            shutil.rmtree(data, ignore_errors=True)

    @contextmanager
    def topic(self, server: Server, *, partitions: int = 1, **configs: str) -> Iterator[str]:
        """A topic of its own for one row; deleted afterwards, so that the disk does not fill."""
        self.topics += 1
        name = f"{TOPIC}-{self.topics:04d}"
        server.create_topic(name, partitions=partitions, **configs)
        yield name
        server.delete_topic(name)

    @contextmanager
    def bare(self, job: str, **spec: Any) -> Iterator[tuple[tuple[str, int], int]]:
        """One of the bare servers: its address and its process id."""
        with Child(job, spec) as child:
            port = child.answer(JOB_TIMEOUT_S)["port"]
            yield ("127.0.0.1", port), child.process.pid

    def row(
        self,
        name: str,
        unit: str,
        ours: Callable[[], Window],
        *,
        ceiling: Callable[[Window], Window] | None = None,
        ceiling_name: str | None = None,
        prime: bool = False,
        repetitions: int | None = None,
        conditions: Mapping[str, Any] | None = None,
    ) -> Measurement:
        """Measure one row: windows of both sides in turn; medians, and the ratio of neighbours."""
        plan = Plan(name, unit, ours, ceiling, ceiling_name, prime, conditions or {})
        return self.rows([plan], repetitions=repetitions)[0]

    def rows(self, plans: Sequence[Plan], *, repetitions: int | None = None) -> list[Measurement]:
        """Measure several rows in turn, window by window."""
        windows: list[list[Window]] = [[] for _ in plans]
        ceilings: list[list[Window]] = [[] for _ in plans]
        turns = repetitions or self.options.repetitions
        for turn in range(turns):
            for index, plan in enumerate(plans):
                self.options.progress(f"{plan.name}, {turn + 1} of {turns}")
                windows[index].append(self._window(plan, plan.ours))
                if plan.ceiling is not None:
                    bare = partial(plan.ceiling, windows[index][-1])
                    ceilings[index].append(self._window(plan, bare))
        return [self._summary(*found) for found in zip(plans, windows, ceilings, strict=True)]

    def _window(self, plan: Plan, measure: Callable[[], Window]) -> Window:
        if plan.prime:
            self.prime()
        return measure()

    def _summary(
        self, plan: Plan, windows: Sequence[Window], ceilings: Sequence[Window]
    ) -> Measurement:
        # What a suite says of its own rows stands; the cache is warm unless it says otherwise.
        cache = "primed" if plan.prime else "warm"
        row = summarize(
            plan.name, plan.unit, windows, ceilings=ceilings, ceiling_name=plan.ceiling_name,
            conditions={**self.conditions, "cache": cache, **plan.conditions},
        )  # fmt: skip
        return with_marks(row)


@contextmanager
def open_run(directory: Path | str | None, options: Options) -> Iterator[Run]:
    """Make a directory of the run's own inside `directory`, and remove it afterwards.

    Without `directory` it is the current one: a benchmark in /tmp would often measure memory.

    Raises:
        PlaceError: it is a server's, or lies in one.
    """
    parent = Path(directory) if directory is not None else Path.cwd()
    with own_directory(parent) as own:
        yield Run(own, options)


def memory_row(run: Run, server: Server, name: str, field: str) -> Measurement:
    """Return a row of the server's memory, once: VmRSS is resident now, VmHWM the most so far."""
    size = memory_bytes(server.pid, field) / 1e6
    return with_marks(summarize(name, "MB", [Window(size)], conditions=run.conditions))


# --- Windows ------------------------------------------------------------------------------------


def window_of(answer: dict[str, Any]) -> Window:
    """Return a job's answer as a window; its value is requests a second until something else is."""
    requests, seconds = answer["requests"], answer["seconds"]
    return Window(
        value=requests / seconds,
        p50_us=answer["p50_us"],
        p99_us=answer["p99_us"],
        client_cpu_s=answer["client_cpu_s"],
        server_cpu_s=answer["server_cpu_s"],
        requests=requests,
        bytes=answer["bytes"],
        seconds=seconds,
        notes={
            "requests_in_all": answer.get("requests_in_all", requests),
            # Only of some: how many bytes were compared when read back; how late the client was.
            **{name: answer[name] for name in NOTES if name in answer},
        },
        histogram=Histogram.from_json(answer["histogram"]) if "histogram" in answer else None,
    )


def as_requests(window: Window) -> Window:
    """Requests a second."""
    return replace(window, value=window.requests / window.seconds)


def as_megabytes(window: Window) -> Window:
    """Megabytes (10^6) of batches a second."""
    return replace(window, value=window.bytes / window.seconds / 1e6)


def as_core_share(window: Window) -> Window:
    """How much of one core the server used, in percent."""
    assert window.server_cpu_s is not None
    return replace(window, value=window.server_cpu_s / window.seconds * 100)


def as_p99(window: Window) -> Window:
    """The 99th percentile of the latencies, in microseconds."""
    assert window.p99_us is not None
    return replace(window, value=window.p99_us)


def as_p50(window: Window) -> Window:
    """The median latency, in microseconds."""
    assert window.p50_us is not None
    return replace(window, value=window.p50_us)
