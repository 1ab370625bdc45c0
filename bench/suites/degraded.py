"""Fetches from coded segments: beside the same log hot, and with a node gone beside a bare decode.

Sequential rows read a log over and over: of directories here the first pass verifies, the others
send verified ranges; what comes from node processes is read anew each time, for the log is larger
than cold.read.ahead.bytes. The rows of one fetch at a time ask each place once, in random order, of
a server that was started for it: nothing of it is in memory. What a start brings along is over by
then: it is waited for, and one fetch of a place that is not asked for again has loaded the coding
library and opened the connections.

A degraded fetch stands beside bare servers that decode and send: one reads k ranges from its own
files, another gets them from k processes, as we do; neither verifies anything. A third is the
second one with the checksums computed that the promise of verified bytes costs whoever keeps it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.load import append_batches, make_batch
from bench.measurement import Measurement, Window
from bench.process import (
    ROOT,
    BenchError,
    Server,
    cpu_seconds,
    die_with_parent,
    environment,
    read_line,
    stop,
)
from bench.runner import Run, as_megabytes, as_p50, as_p99
from bench.suites.shapes import KIB, MIB

PROFILE: Final = "4+2"
DATA_CHUNKS: Final = 4
NODES: Final = "abcdef"
SEGMENT_BYTES: Final = 256 * MIB
BATCH_BYTES: Final = 64 * KIB
RECORD_BYTES: Final = KIB
HOT, COLD = "hot", "cold"
P50_P99: Final = ("p50", "p99")
CODED_S: Final = 120.0
SETTLED_S: Final = 10.0
QUIET_S: Final = 0.25
READY_S: Final = 60.0


def degraded_rows(run: Run) -> list[Measurement]:
    """Healthy fetches from directories and from node processes; then one node is lost."""
    rows = []
    with _coded(run, "directories", {}) as (server, log):
        rows += [_sequential(run, server, log, size, "directories") for size in (MIB, 10 * MIB)]
    with ExitStack() as processes:
        nodes = {name: _node_process(run, processes, name) for name in NODES}
        places = {name: address for name, (address, _) in nodes.items()}
        with _coded(run, "processes", places) as (server, log):
            rows += [_sequential(run, server, log, size, "processes") for size in (MIB, 10 * MIB)]
            chunks = _chunks(run, server)
            rows += _one_by_one(run, server, log, chunks, is_lost=False)
            stop(nodes[chunks[0].node][1])
            rows += _one_by_one(run, server, log, chunks, is_lost=True)
    return rows


# --- What is measured against ---------------------------------------------------------------------


class _Chunk:
    """A chunk of the coded segment."""

    def __init__(self, node: str, path: Path) -> None:
        self.node = node
        self.path = path


def _chunks(run: Run, server: Server) -> list[_Chunk]:
    """Return where the chunks of the one coded segment are, by index."""
    rows = json.loads(run_logd(server, "segments", COLD, "--json"))
    coded = next(row for row in rows if row["chunks"])  # The first one: places are in it.
    found = []
    for chunk in sorted(coded["chunks"], key=lambda each: each["index"]):
        home = run.directory / "processes" / chunk["node"] / "chunks"
        (path,) = home.glob(f"*-{0:020d}-*-{chunk['index']:02d}.chunk")
        found.append(_Chunk(chunk["node"], path))
    return found


@contextmanager
def _coded(
    run: Run, name: str, places: Mapping[str, str]
) -> Iterator[tuple[Server, dict[str, int]]]:
    """A server with the same log twice, hot and in chunks; what a fetch client must know of it."""
    home = run.directory / name
    home.mkdir(exist_ok=True)
    nodes = [
        word for node in NODES for word in ("--node", f"{node}={places.get(node, home / node)}")
    ]
    server = Server(home / "data", arguments=nodes)
    with server:
        batch, records = make_batch(
            BATCH_BYTES, timestamp_ms=time.time_ns() // 1_000_000, record_bytes=RECORD_BYTES
        )
        count = SEGMENT_BYTES // len(batch) + 1
        for topic, is_cold in ((HOT, "false"), (COLD, "true")):
            server.create_topic(
                topic, segment_bytes=str(SEGMENT_BYTES), cold_enable=is_cold,
                cold_profile=PROFILE, cold_grace_ms="0",
            )  # fmt: skip
            append_batches(server.kafka, topic, [0], batch, count)
        end_offset = _await_released(server)
        yield server, {
            "batch_bytes": len(batch), "batch_records": records, "end_offset": end_offset,
        }  # fmt: skip


def _await_released(server: Server) -> int:
    """Wait until all but the active segment is in chunks only; return where that one begins."""
    deadline = time.monotonic() + CODED_S
    logs = server.directory / "topics" / f"{COLD}-0"
    while True:
        hot = sorted(int(path.name[:20]) for path in logs.glob("*.log"))
        if len(hot) == 1 and hot[0] > 0:
            return hot[0]
        if time.monotonic() > deadline:
            raise BenchError(f"not coded within {CODED_S:g} s; log: {server.log_tail()}")
        time.sleep(0.2)


def _node_process(run: Run, processes: ExitStack, name: str) -> tuple[str, subprocess.Popen[bytes]]:
    """Start `logd node serve`; return its address and its process."""
    home = run.directory / "processes"
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "logd", "node", "serve", str(home / name)]
    with (home / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", "--reserve", "1MiB"],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, bufsize=0,
            env=environment(),
            preexec_fn=die_with_parent,  # noqa: PLW1509  There is one thread here.
        )  # fmt: skip
    processes.callback(stop, process)
    line = read_line(process, READY_S, "logd node serve")
    address = line.partition("http=")[2].split()[0]
    return f"http://{address}", process


def run_logd(server: Server, *words: str) -> str:
    """Run a command against the server; return what it prints.

    Raises:
        BenchError: it fails.
    """
    host, port = server.admin
    command = [sys.executable, "-m", "logd", *words, "--admin", f"{host}:{port}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=CODED_S, check=False
    )
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


# --- The rows -------------------------------------------------------------------------------------


def _sequential(
    run: Run, server: Server, log: dict[str, int], size: int, where: str
) -> Measurement:
    load: dict[str, Any] = {
        "address": server.kafka, "server_pid": server.pid, "max_bytes": size, "connections": 1,
        **log,
    }  # fmt: skip
    return run.row(
        f"cold fetch {size // MIB} MiB, {where}",
        "MB/s",
        lambda: as_megabytes(run.job("fetch", topic=COLD, **load)),
        ceiling=lambda _: as_megabytes(run.job("fetch", topic=HOT, **load)),
        ceiling_name="the same log, hot",
        conditions={"max_bytes": size, "profile": PROFILE},
    )


def _one_by_one(
    run: Run, server: Server, log: dict[str, int], chunks: list[_Chunk], *, is_lost: bool
) -> list[Measurement]:
    """One MiB at a time from the first chunk, each place once; with its node there, or gone."""
    batches = MIB // log["batch_bytes"]
    step = batches * log["batch_records"]
    # Only what lies in that chunk: the others' nodes are there in any case.
    first_chunk = chunks[0].path.stat().st_size // log["batch_bytes"] * log["batch_records"]
    places = list(range(step, first_chunk - 2 * step, step))
    load: dict[str, Any] = {"max_bytes": MIB, "connections": 1, **log}

    def ours() -> Window:
        server.stop()
        server.start()
        _await_quiet(server)
        run.job("fetch-places", address=server.kafka, topic=COLD, places=[0], **load)
        random.Random(1).shuffle(places)
        return run.job(
            "fetch-places", address=server.kafka, server_pid=server.pid, topic=COLD,
            places=places, **load,
        )  # fmt: skip

    def bare(*, from_processes: bool, verifies: bool = False) -> Window:
        with _bare_decoder(run, log, chunks, from_processes=from_processes, verifies=verifies) as (
            address,
            pid,
        ):
            return run.job(
                "fetch-places", address=address, server_pid=pid, topic=COLD, places=places, **load
            )

    def hot() -> Window:
        return run.job(
            "fetch-places", address=server.kafka, server_pid=server.pid, topic=HOT,
            places=places, **load,
        )  # fmt: skip

    def row(name: str, ceiling: Callable[[], Window], beside: str) -> Measurement:
        of = as_p50 if "p50" in name else as_p99
        return run.row(
            name, "us",
            lambda: of(ours()),
            ceiling=lambda _: of(ceiling()),
            ceiling_name=beside,
            conditions={"profile": PROFILE, "places": len(places)},
        )  # fmt: skip

    if not is_lost:
        beside = "the same log, hot"
        return [row(f"healthy fetch 1 MiB, one at a time, {at}", hot, beside) for at in P50_P99]
    here, there = (partial(bare, from_processes=there) for there in (False, True))
    checked = partial(bare, from_processes=True, verifies=True)
    files, processes = (f"4 parallel reads {of}, decode, send" for of in ("here", "from processes"))
    name = "degraded fetch 1 MiB, beside processes"
    return [
        *(row(f"degraded fetch 1 MiB, one at a time, {at}", here, files) for at in P50_P99),
        row(f"{name}, p50", there, processes),
        *(row(f"{name} that verify, {at}", checked, f"{processes}, hashed") for at in P50_P99),
    ]


@contextmanager
def _bare_decoder(
    run: Run, log: dict[str, int], chunks: list[_Chunk], *, from_processes: bool, verifies: bool
) -> Iterator[tuple[tuple[str, int], int]]:
    """A bare server that decodes what it reads, or gets from bare processes: address and id."""
    size = MIB // log["batch_bytes"] * log["batch_bytes"]
    paths = [str(chunk.path) for chunk in chunks]
    spec: dict[str, Any] = {
        "topic": COLD,
        "records_bytes": size,
        "paths": paths,
        "verifies": verifies,
    }
    with ExitStack() as servers:
        if from_processes:
            spec["addresses"] = [
                servers.enter_context(run.bare("serve-ranges", path=path, range_bytes=size))[0]
                for path in paths[1 : 1 + DATA_CHUNKS]
            ]
        yield servers.enter_context(run.bare("serve-decoded", **spec))


def _await_quiet(server: Server) -> None:
    """Wait until a server that was just started has nothing to do any more."""
    deadline = time.monotonic() + SETTLED_S
    used = cpu_seconds(server.pid)
    while time.monotonic() < deadline:
        time.sleep(QUIET_S)
        before, used = used, cpu_seconds(server.pid)
        if used - before <= QUIET_S / 10:
            return
