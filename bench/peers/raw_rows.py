"""All rows of a peer that speaks a protocol of its own: Redis Streams, NATS JetStream.

The same records of 100 bytes at the same durability, counted as values: a batch of ours is as many
commands of theirs, pipelined, and MB/s are of values on both sides. Their clients would do
likewise; what a protocol needs around a value is part of what it costs.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.load import append_batches, make_batch
from bench.measurement import Window
from bench.peers.contest import (
    Row,
    Session,
    Side,
    as_cpu_per_gb,
    as_cpu_per_request,
    compare,
    take_turns,
)
from bench.peers.kafka_rows import PACED_SECONDS_MIN, PACED_TURNS_MAX, fill
from bench.peers.kafka_speaker import KafkaSpeaker
from bench.peers.peer import Peer
from bench.peers.raw_servers import RawServer
from bench.peers.shapes import ONE_AT_A_TIME, RATES_PER_S, SMALL, Shape
from bench.peers.start_rows import SECTION as START_SECTION
from bench.peers.start_rows import empty_starts, recoveries
from bench.process import memory_bytes
from bench.protocol import RECORD_VALUE_BYTES
from bench.runner import as_megabytes, as_p50, as_p99, as_requests
from bench.suites.shapes import KIB, MIB, connections_name

# Fewer in flight than elsewhere: NATS refuses more than 10,000 records that it has not yet stored.
DEPTH: Final = 4
BATCH_BYTES: Final = 64 * KIB
SHAPES: Final = (*SMALL, Shape(BATCH_BYTES, 1, DEPTH), Shape(BATCH_BYTES, 4, DEPTH))
FETCH_RECORDS: Final = MIB // RECORD_VALUE_BYTES
FETCH_LOG_BYTES: Final = 128 * MIB
FETCH_CONNECTIONS: Final = (1, 4)
RECOVERY_BYTES_MAX: Final = 10**9  # of values: one of the peers keeps them in memory
CACHE: Final = "page cache on both sides"
SYNCED: Final = "synced before the answer on both sides"
SYNCED_LATER: Final = "ours synced right behind the answer, theirs once a second"
FETCH: Final = "fetch, 1 MiB of values"
WARM_WINDOWS: Final = 3


@dataclass(frozen=True, slots=True)
class Variant:
    """A section: how the peer syncs, and what of ours is compared with that.

    rates: of end-to-end rows, records a second; not those that the peer cannot keep up with.
    """

    section: str
    start: Callable[[Path], RawServer]
    configs: Mapping[str, str]
    acks: int
    rates: tuple[int, ...] = RATES_PER_S


class RawDuel:
    """Our server and one variant of a peer, both running, and the rows that they yield."""

    def __init__(
        self, session: Session, variant: Variant, ours: KafkaSpeaker, theirs: RawServer
    ) -> None:
        self.session = session
        self.run = session.run
        self.variant = variant
        self.ours = ours
        self.theirs = theirs
        self.streams = 0

    def _row(
        self, section: str, name: str, unit: str, value: Callable[[Window], Window],
        windows: Mapping[str, Sequence[Window]],
    ) -> Row:  # fmt: skip
        ours, theirs = ([value(each) for each in windows[side]] for side in ("ours", "theirs"))
        return compare(self.theirs.name, section, name, unit, ours, theirs)

    @contextmanager
    def _stream(self) -> Iterator[str]:
        """An empty stream of theirs, gone afterwards."""
        self.streams += 1
        name = f"bench{self.streams:05d}"
        self.theirs.make_stream(name)
        yield name
        self.theirs.drop_stream(name)

    def _their_window(self, job: str, **spec: Any) -> Window:
        with self._stream() as stream:
            return self.run.job(
                f"{job}-{self.theirs.speech}", address=self.theirs.address, stream=stream,
                server_pid=self.theirs.pid, **spec,
            )  # fmt: skip

    # --- Produce --------------------------------------------------------------------------------

    def produce(self, shape: Shape) -> list[Row]:
        """Rows of one shape."""
        with self.ours.topic(configs=self.variant.configs) as topic:
            sides = self._produce_sides(shape, topic)
            windows = take_turns(self.run, sides, prime=not shape.is_small)
        section, name = self.variant.section, f"produce {shape.name}"
        if not shape.is_small:
            return [
                self._row(section, name, "MB/s", as_megabytes, windows),
                self._row(section, f"CPU, {name}", "s/GB", as_cpu_per_gb, windows),
            ]
        rows = [
            self._row(section, name, "requests/s", as_requests, windows),
            self._row(section, f"CPU, {name}", "us/request", as_cpu_per_request, windows),
        ]
        if shape == ONE_AT_A_TIME:
            rows.append(self._row(section, "one at a time, p50", "us", as_p50, windows))
            rows.append(self._row(section, "one at a time, p99", "us", as_p99, windows))
        return rows

    def _produce_sides(self, shape: Shape, topic: str) -> list[Side]:
        _, records = make_batch(shape.batch_bytes, timestamp_ms=0)

        def ours() -> Window:
            window = self.run.job(
                "produce-checked", address=self.ours.address, server_pid=self.ours.pid,
                topic=topic, acks=self.variant.acks, **shape.load(),
            )  # fmt: skip
            return replace(window, bytes=window.requests * records * RECORD_VALUE_BYTES)

        theirs = partial(
            self._their_window, "produce", records=records, connections=shape.connections,
            depth=shape.depth,
        )  # fmt: skip
        return [Side("ours", ours), Side("theirs", theirs)]

    # --- End to end, fetch ----------------------------------------------------------------------

    def end_to_end(self, per_second: int) -> list[Row]:
        """Rows of one rate."""
        spec = {"per_second": per_second,
                "seconds": max(self.run.options.seconds, PACED_SECONDS_MIN)}  # fmt: skip
        with self.ours.topic(configs=self.variant.configs) as topic:
            ours = partial(
                self.run.job, "end-to-end-checked", address=self.ours.address, topic=topic,
                server_pid=self.ours.pid, acks=self.variant.acks, **spec,
            )  # fmt: skip
            sides = [Side("ours", ours),
                     Side("theirs", partial(self._their_window, "end-to-end", **spec))]  # fmt: skip
            turns = min(PACED_TURNS_MAX, self.run.options.repetitions)
            windows = take_turns(self.run, sides, repetitions=turns)
        section, name = self.variant.section, f"end to end, {per_second:,}/s"
        return [
            self._row(section, f"{name}, p50", "us", as_p50, windows),
            self._row(section, f"{name}, p99", "us", as_p99, windows),
        ]

    def fetch(self) -> list[Row]:
        """Rows of fetches, from logs of the same values."""
        total = FETCH_LOG_BYTES // RECORD_VALUE_BYTES
        rows = []
        with self.ours.topic(configs={}) as topic, self._filled(total) as stream:
            log = fill(self.ours, topic, FETCH_LOG_BYTES, BATCH_BYTES)
            for connections in FETCH_CONNECTIONS:
                sides = self._fetch_sides(topic, log, stream, total, connections)
                windows = take_turns(self.run, sides)
                name = f"fetch 1 MiB, {connections_name(connections)}"
                rows.append(self._row(FETCH, name, "MB/s", as_megabytes, windows))
                rows.append(self._row(FETCH, f"CPU, {name}", "s/GB", as_cpu_per_gb, windows))
        return rows

    @contextmanager
    def _filled(self, total: int) -> Iterator[str]:
        self.theirs.fill("filled", total)
        yield "filled"
        self.theirs.drop_stream("filled")

    def _fetch_sides(
        self, topic: str, log: Mapping[str, int], stream: str, total: int, connections: int
    ) -> list[Side]:
        share = log["batch_records"] * RECORD_VALUE_BYTES / log["batch_bytes"]

        def ours() -> Window:
            window = self.run.job(
                "fetch", address=self.ours.address, server_pid=self.ours.pid, topic=topic,
                max_bytes=int(MIB / share), connections=connections, check_offsets=True, **log,
            )  # fmt: skip
            return replace(window, bytes=round(window.bytes * share))

        theirs = partial(
            self.run.job, f"fetch-{self.theirs.speech}", address=self.theirs.address,
            server_pid=self.theirs.pid, stream=stream, total=total, connections=connections,
            records=FETCH_RECORDS,
        )  # fmt: skip
        return [Side("ours", ours), Side("theirs", theirs)]

    # --- All ------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Some windows of each side, unmeasured."""
        with self.ours.topic(configs=self.variant.configs) as topic:
            for side in self._produce_sides(Shape(0, 1, 100), topic):
                for _ in range(WARM_WINDOWS):
                    side.window()

    def rows(self, *, with_fetch: bool) -> None:
        """Measure all that is wanted of two running servers."""
        attempt = self.session.attempt
        self.warm_up()
        for shape in SHAPES:
            attempt(f"produce {shape.name}", partial(self.produce, shape))
        for rate in self.variant.rates:
            attempt(f"end to end, {rate:,}/s", partial(self.end_to_end, rate))
        if with_fetch:
            attempt("fetch 1 MiB", self.fetch)
            attempt("memory at its highest", self.memory)

    def memory(self) -> list[Row]:
        """How much each used at its highest, after all of the above."""
        windows = {
            side: [Window(memory_bytes(server.pid, "VmHWM") / 1e6)]
            for side, server in (("ours", self.ours), ("theirs", self.theirs))
        }
        return [self._row(START_SECTION, "memory at its highest", "MB", _same, windows)]


def _same(window: Window) -> Window:
    return window


def measure(
    session: Session, peer: str, variants: Sequence[Variant],
    start_ours: Callable[[Path], KafkaSpeaker],
) -> None:  # fmt: skip
    """Measure everything against one peer, in servers that are gone afterwards."""
    place = session.run.directory
    attempt = session.attempt
    start = variants[0].start
    attempt("start, empty directory", partial(empty_starts, session, peer, start_ours, start))
    for variant in variants:
        if not any(session.wants(name) for name in names_of_rows()):
            break
        session.run.options.progress(f"{peer}: {variant.section}")
        try:
            with start_ours(place / "ours") as ours, variant.start(place / "theirs") as theirs:
                duel = RawDuel(session, variant, ours, theirs)
                duel.rows(with_fetch=variant is variants[0])
        finally:
            for name in ("ours", "theirs"):
                shutil.rmtree(place / name, ignore_errors=True)
    attempt("start after kill -9", partial(_recovery, session, peer, start, start_ours))


def names_of_rows() -> list[str]:
    """Return the names of what needs two running servers, as `only` is compared with."""
    return [
        *(f"produce {shape.name}" for shape in SHAPES),
        *(f"end to end, {rate:,}/s" for rate in RATES_PER_S),
        "fetch 1 MiB",
        "memory at its highest",
    ]


def _recovery(
    session: Session, peer: str, start: Callable[[Path], RawServer],
    start_ours: Callable[[Path], KafkaSpeaker],
) -> list[Row]:  # fmt: skip
    size = min(session.run.options.fill_bytes, RECOVERY_BYTES_MAX)
    total = size // RECORD_VALUE_BYTES

    def fill_ours(server: Peer) -> None:
        assert isinstance(server, KafkaSpeaker)
        topic = server.create_topic(partitions=1, configs={})
        batch, records = make_batch(BATCH_BYTES, timestamp_ms=time.time_ns() // 1_000_000)
        append_batches(server.address, topic, [0], batch, total // records)

    def fill_theirs(server: Peer) -> None:
        assert isinstance(server, RawServer)
        server.fill("filled", total)

    place = session.run.directory
    sides: list[tuple[Peer, Callable[[Peer], None]]] = [
        (start_ours(place / "killed-ours"), fill_ours),
        (start(place / "killed-theirs"), fill_theirs),
    ]
    return recoveries(session, peer, sides, size)
