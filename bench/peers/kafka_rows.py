"""All rows of a peer that speaks the Kafka protocol: what is compared with what.

Each shape of load has up to seven configurations, which take turns:

    ours     flush.mode=os or the default, acks=1 or acks=all
    theirs   unsynced (stock Kafka), acks=1 or acks=all; synced (Kafka's flush.messages=1)

and a section of the table is a pair of them. Pairs of equal durability say so. Kafka on one node
does the same for acks=1 and acks=all; this is measured for some shapes, not for all.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from bench.load import append_batches, make_batch
from bench.measurement import Window
from bench.peers.compact_rows import compactions
from bench.peers.contest import (
    Row,
    Session,
    Side,
    as_cpu_per_gb,
    as_cpu_per_request,
    compare,
    take_turns,
)
from bench.peers.kafka_speaker import KafkaSpeaker
from bench.peers.peer import Peer
from bench.peers.readback import await_records, read_back
from bench.peers.shapes import FETCHES, ONE_AT_A_TIME, RATES_PER_S, SHAPES, Shape
from bench.peers.start_rows import SECTION as START_SECTION
from bench.peers.start_rows import empty_starts, recoveries
from bench.process import memory_bytes
from bench.runner import as_megabytes, as_p50, as_p99, as_requests
from bench.suites.shapes import KIB, MIB, connections_name, size_name

Start = Callable[[Path], KafkaSpeaker]
ACKS_1: Final = 1
ACKS_ALL: Final = -1
FETCH_LOG_BYTES: Final = 512 * MIB
FETCH_BATCH_BYTES: Final = 64 * KIB
WARM_SHAPES: Final = (Shape(0, 1, 100), Shape(0, 50, 1), Shape(64 * KIB, 1, 5), ONE_AT_A_TIME)
WARM_WINDOW_SECONDS: Final = 0.5
WARM_REQUESTS_MIN: Final = 100_000  # a method is compiled for good after some 10,000 calls
WARM_LEVEL: Final = 0.95  # less than this of the best before is a gain
WARM_ROUNDS_LEVEL: Final = 2  # so often without a gain: warm
# A paced window must be long enough for a 99th percentile, so there are fewer of them.
PACED_SECONDS_MIN: Final = 1.0
PACED_TURNS_MAX: Final = 3
RECOVERY_PARTITIONS: Final = 8
BOTH_ACKS: Final = (ONE_AT_A_TIME, Shape(0, 50, 1), Shape(64 * KIB, 1, 5))


@dataclass(frozen=True, slots=True)
class Contender:
    """A server to compare with, and how its topics are told to sync, or not to.

    compacting: starts one for the rows of compaction, where other settings are needed for them.
    """

    name: str
    start: Start
    unsynced: Mapping[str, str]
    synced: Mapping[str, str]
    compacting: Start | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A section of the table: our configuration and theirs, by the names of their sides."""

    section: str
    ours: str
    theirs: str


SAME_CACHE: Final = "page cache on both sides"
SAME_CACHE_ALL: Final = "page cache on both sides, acks=all"
SAME_SYNCED: Final = "synced before the answer on both sides"
SYNCED_LATER: Final = "ours synced right behind the answer, theirs never"
SYNCED_HERE: Final = "ours synced before the answer, theirs never"
SYNCED_THERE: Final = "ours synced right behind the answer, theirs before it"
FETCH: Final = "fetch from the page cache"

PAIRS: Final = (
    Pair(SAME_CACHE, "os, acks=1", "unsynced, acks=1"),
    Pair(SAME_CACHE_ALL, "os, acks=all", "unsynced, acks=all"),
    Pair(SAME_SYNCED, "default, acks=all", "synced, acks=all"),
    Pair(SYNCED_LATER, "default, acks=1", "unsynced, acks=1"),
    Pair(SYNCED_HERE, "default, acks=all", "unsynced, acks=all"),
    Pair(SYNCED_THERE, "default, acks=1", "synced, acks=all"),
)


class Duel:
    """Our server and one other, both running and warm, and the rows that they yield."""

    def __init__(
        self, session: Session, contender: Contender, ours: KafkaSpeaker, theirs: KafkaSpeaker
    ) -> None:
        self.session = session
        self.run = session.run
        self.peer = contender.name
        self.contender = contender
        self.ours = ours
        self.theirs = theirs

    def configurations(
        self, *, both_acks: bool
    ) -> dict[str, tuple[KafkaSpeaker, Mapping[str, str], int]]:
        """Return the sides of a shape: server, topic settings, acks."""
        unsynced, synced = self.contender.unsynced, self.contender.synced
        sides = {
            "os, acks=1": (self.ours, {"flush.mode": "os"}, ACKS_1),
            "unsynced, acks=1": (self.theirs, unsynced, ACKS_1),
            "default, acks=1": (self.ours, {}, ACKS_1),
            "synced, acks=all": (self.theirs, synced, ACKS_ALL),
            "default, acks=all": (self.ours, {}, ACKS_ALL),
        }
        if both_acks:
            sides["unsynced, acks=all"] = (self.theirs, unsynced, ACKS_ALL)
            sides["os, acks=all"] = (self.ours, {"flush.mode": "os"}, ACKS_ALL)
        return sides

    @contextmanager
    def sides(
        self,
        partitions: int,
        window: Callable[[KafkaSpeaker, str, int], Window],
        *,
        both_acks: bool = False,
    ) -> Iterator[list[Side]]:
        """Topics of their own for all sides, and a window of each as a function."""
        with ExitStack() as stack:
            sides = []
            for name, (server, configs, acks) in self.configurations(both_acks=both_acks).items():
                topic = stack.enter_context(server.topic(partitions=partitions, configs=configs))
                sides.append(Side(name, partial(window, server, topic, acks)))
            yield sides

    # --- Produce --------------------------------------------------------------------------------

    def produce(self, shape: Shape) -> list[Row]:
        """Rows of one shape, in all sections."""

        def window(server: KafkaSpeaker, topic: str, acks: int) -> Window:
            return self.run.job(
                "produce-checked", address=server.address, server_pid=server.pid, topic=topic,
                acks=acks, **shape.load(),
            )  # fmt: skip

        both_acks = shape in BOTH_ACKS
        with self.sides(shape.partitions, window, both_acks=both_acks) as sides:
            windows = take_turns(self.run, sides, prime=not shape.is_small)
        return [
            row for pair in _pairs_of(windows) for row in self._produce_rows(pair, shape, windows)
        ]

    def _produce_rows(
        self, pair: Pair, shape: Shape, windows: Mapping[str, Sequence[Window]]
    ) -> Iterator[Row]:
        pairs = (windows[pair.ours], windows[pair.theirs])
        name = f"produce {shape.name}"
        if shape.is_small:
            yield self._row(pair.section, name, "requests/s", as_requests, *pairs)
            yield self._row(pair.section, f"CPU, {name}", "us/request", as_cpu_per_request, *pairs)
        else:
            yield self._row(pair.section, name, "MB/s", as_megabytes, *pairs)
            yield self._row(pair.section, f"CPU, {name}", "s/GB", as_cpu_per_gb, *pairs)
        if shape == ONE_AT_A_TIME:
            yield self._row(pair.section, "one at a time, p50", "us", as_p50, *pairs)
            yield self._row(pair.section, "one at a time, p99", "us", as_p99, *pairs)

    def _row(
        self, section: str, name: str, unit: str, value: Callable[[Window], Window],
        ours: Sequence[Window], theirs: Sequence[Window],
    ) -> Row:  # fmt: skip
        return compare(
            self.peer, section, name, unit,
            [value(window) for window in ours], [value(window) for window in theirs],
        )  # fmt: skip

    # --- End to end -----------------------------------------------------------------------------

    def end_to_end(self, per_second: int) -> list[Row]:
        """Rows of one rate, in all sections."""
        seconds = max(self.run.options.seconds, PACED_SECONDS_MIN)

        def window(server: KafkaSpeaker, topic: str, acks: int) -> Window:
            return self.run.job(
                "end-to-end-checked", address=server.address, server_pid=server.pid, topic=topic,
                acks=acks, per_second=per_second, seconds=seconds,
            )  # fmt: skip

        rows = []
        with self.sides(1, window) as sides:
            turns = min(PACED_TURNS_MAX, self.run.options.repetitions)
            windows = take_turns(self.run, sides, repetitions=turns)
        for pair in _pairs_of(windows):
            pairs = (windows[pair.ours], windows[pair.theirs])
            name = f"end to end, {per_second:,}/s"
            rows.append(self._row(pair.section, f"{name}, p50", "us", as_p50, *pairs))
            rows.append(self._row(pair.section, f"{name}, p99", "us", as_p99, *pairs))
        return rows

    # --- Fetch ----------------------------------------------------------------------------------

    def fetch(self) -> None:
        """Rows of fetches from one log, filled and read back once on each side."""
        names = {
            f"fetch {size_name(size)}, {connections_name(c)}": (size, c) for size, c in FETCHES
        }
        if any(self.session.wants(name) for name in names):
            self.session.guard("filling for fetch", partial(self._fetch_all, names))

    def _fetch_all(self, names: Mapping[str, tuple[int, int]]) -> None:
        with ExitStack() as stack:
            logs = {}
            for server in (self.ours, self.theirs):
                topic = stack.enter_context(server.topic(configs={}))
                logs[server] = (topic, fill(server, topic, FETCH_LOG_BYTES, FETCH_BATCH_BYTES))
            for name, (size, connections) in names.items():
                self.session.attempt(name, partial(self._fetch, name, size, connections, logs))

    def _fetch(
        self, name: str, size: int, connections: int,
        logs: Mapping[KafkaSpeaker, tuple[str, Mapping[str, int]]],
    ) -> list[Row]:  # fmt: skip
        def side(server: KafkaSpeaker) -> Side:
            topic, log = logs[server]
            return Side(server.name, lambda: self.run.job(
                "fetch", address=server.address, server_pid=server.pid, topic=topic,
                max_bytes=size, connections=connections, check_offsets=True, **log,
            ))  # fmt: skip

        ours, theirs = side(self.ours), replace(side(self.theirs), name="theirs")
        windows = take_turns(self.run, [ours, theirs])
        pairs = (windows[ours.name], windows[theirs.name])
        return [
            self._row(FETCH, name, "MB/s", as_megabytes, *pairs),
            self._row(FETCH, f"CPU, {name}", "s/GB", as_cpu_per_gb, *pairs),
        ]

    # --- All ------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Load both sides, unmeasured, until they get no cheaper: a JVM compiles for a while."""
        self.run.options.progress("warming up")
        for server in (self.ours, self.theirs):
            self.session.notes.append(f"{server.name} {self._warm_up(server)}")
            self.run.options.progress(self.session.notes[-1])

    def _warm_up(self, server: KafkaSpeaker) -> str:
        """Say how long it took. CPU per request tells, for it does not depend on other programs."""
        begin = time.monotonic()
        costs: list[float] = []
        requests = 0
        with server.topic(configs={}) as topic:
            while requests < WARM_REQUESTS_MIN or not is_level(costs):
                if time.monotonic() > begin + self.session.warm_seconds:
                    return f"was still getting faster after {self.session.warm_seconds:g} s of load"
                windows = [self._warm_window(server, topic, shape) for shape in WARM_SHAPES]
                used = sum(window.server_cpu_s or 0.0 for window in windows)
                answered = sum(window.requests for window in windows)
                costs.append(used / answered)
                requests += answered
        seconds = time.monotonic() - begin
        return (
            f"was warm after {seconds:.0f} s and {requests:,} requests: from "
            f"{costs[0] * 1e6:.0f} to {min(costs) * 1e6:.0f} us of CPU a request"
        )

    def _warm_window(self, server: KafkaSpeaker, topic: str, shape: Shape) -> Window:
        return self.run.job(
            "produce-checked", address=server.address, topic=topic, acks=ACKS_ALL,
            server_pid=server.pid, seconds=WARM_WINDOW_SECONDS, **shape.load(),
        )  # fmt: skip

    def rows(self) -> None:
        """Measure all that is wanted of two running servers."""
        for shape in SHAPES:
            self.session.attempt(f"produce {shape.name}", partial(self.produce, shape))
        self.fetch()
        for rate in RATES_PER_S:
            self.session.attempt(f"end to end, {rate:,}/s", partial(self.end_to_end, rate))
        self.session.attempt("memory at its highest", self.memory)

    def memory(self) -> list[Row]:
        """How much each used at its highest, after all of the above."""
        ours, theirs = (
            [Window(memory_bytes(server.pid, "VmHWM") / 1e6)] for server in (self.ours, self.theirs)
        )
        return [compare(self.peer, START_SECTION, "memory at its highest", "MB", ours, theirs)]


def is_level(costs: Sequence[float]) -> bool:
    """Return whether the last `WARM_ROUNDS_LEVEL` costs were no gain over the best before."""
    before = costs[:-WARM_ROUNDS_LEVEL]
    return bool(before) and min(costs[-WARM_ROUNDS_LEVEL:]) > WARM_LEVEL * min(before)


def _pairs_of(windows: Mapping[str, Sequence[Window]]) -> list[Pair]:
    return [pair for pair in PAIRS if pair.ours in windows and pair.theirs in windows]


def fill(server: KafkaSpeaker, topic: str, size: int, batch_bytes: int) -> dict[str, int]:
    """Append about `size` bytes to partition 0 and read them back; say what a fetch must know."""
    batch, records = make_batch(batch_bytes, timestamp_ms=time.time_ns() // 1_000_000)
    count = size // len(batch)
    append_batches(server.address, topic, [0], batch, count)
    end = count * records
    await_records(server.address, topic, before=[0], records=end)
    read_back(server.address, topic, 0, first=0, end=end, batch_bytes=batch_bytes)
    return {"batch_bytes": len(batch), "batch_records": records, "end_offset": end}


# --- The whole peer -----------------------------------------------------------------------------


def measure(session: Session, contender: Contender, start_ours: Start) -> None:
    """Measure everything against one contender, in servers that are gone afterwards."""
    place = session.run.directory
    session.attempt(
        "start, empty directory",
        partial(empty_starts, session, contender.name, start_ours, contender.start),
    )
    if any(session.wants(name) for name in names_of_rows()):
        with start_ours(place / "ours") as ours, contender.start(place / "theirs") as theirs:
            duel = Duel(session, contender, ours, theirs)
            duel.warm_up()
            duel.rows()
        for name in ("ours", "theirs"):
            shutil.rmtree(place / name, ignore_errors=True)
    session.attempt("start after kill -9", partial(_recovery, session, contender, start_ours))
    theirs_compacting = contender.compacting or contender.start
    session.guard(
        "compaction", partial(compactions, session, contender.name, start_ours, theirs_compacting)
    )


def names_of_rows() -> list[str]:
    """Return the names of what needs two running servers, as `only` is compared with."""
    return [
        *(f"produce {shape.name}" for shape in SHAPES),
        *(f"fetch {size_name(size)}, {connections_name(c)}" for size, c in FETCHES),
        *(f"end to end, {rate:,}/s" for rate in RATES_PER_S),
        "memory at its highest",
    ]


def _recovery(session: Session, contender: Contender, start_ours: Start) -> list[Row]:
    run = session.run
    free = os.statvfs(run.directory).f_bavail * os.statvfs(run.directory).f_frsize
    size = min(run.options.fill_bytes, free // 3)

    def fill_topic(server: Peer) -> None:
        assert isinstance(server, KafkaSpeaker)
        topic = server.create_topic(partitions=RECOVERY_PARTITIONS, configs={})
        batch, _ = make_batch(MIB, timestamp_ms=time.time_ns() // 1_000_000)
        partitions = list(range(RECOVERY_PARTITIONS))
        append_batches(server.address, topic, partitions, batch, size // len(batch))

    sides: list[tuple[Peer, Callable[[Peer], None]]] = [
        (start_ours(run.directory / "killed-ours"), fill_topic),
        (contender.start(run.directory / "killed-theirs"), fill_topic),
    ]
    return recoveries(session, contender.name, sides, size)
