"""One checker run: server, clients, kills, final readings, verdict."""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.checker.journal import JournalWriter, Killed, Ready, Stalled, read_journals
from bench.checker.reading import read_with_aiokafka, read_with_librdkafka
from bench.checker.verdict import Verdict, judge
from bench.process import ROOT, BenchError, Server

TOPIC: Final = "checked"
FINISH_S: Final = 150.0
# A server that is ready must serve within this time (clients need some of it to find back).
STALL_S: Final = 30.0
# The share of kills that wait until work goes on; the others may hit a server that just started.
NAMES: Final = {"follow": "tail", "reread": "tail-again-", "produce": "p"}
AFTER_PROGRESS: Final = 0.75
# Small segments, so that rolls happen between the kills and under them.
SEGMENT_BYTES: Final = 1024 * 1024


def _silent(_: str) -> None:
    """Report progress to nobody."""


class Pause(NamedTuple):
    """Before a kill: whether every producer must have been acknowledged something since the last
    start, and how long to wait after that."""

    for_progress: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does; the same seed waits as long before each kill.

    nodes: directories beside the server's that sealed segments are coded onto, as soon as they are
    sealed; then a client reads all of the log over and over while the border moves. 0: none.
    """

    data: Path
    kills: int
    seconds: float
    seed: int
    producers: int = 2
    partitions: int = 3
    acks_min: int = 100
    nodes: int = 0
    progress: Callable[[str], None] = _silent

    @property
    def journals(self) -> Path:
        """Where the clients write; beside the server's directory, never in it."""
        return self.data.with_name(self.data.name + ".journal")

    def node_arguments(self) -> list[str]:
        """Return what the server is told of the nodes."""
        place = self.data.with_name(self.data.name + ".nodes")
        pairs = [("--node", f"n{index}={place / str(index)}") for index in range(self.nodes)]
        return [word for pair in pairs for word in pair]

    def topic_configs(self) -> dict[str, str]:
        """Return the topic's settings."""
        configs = {"segment_bytes": str(SEGMENT_BYTES)}
        if self.nodes:
            place = self.data.with_name(self.data.name + ".nodes")
            place.mkdir(exist_ok=True)
            configs |= {"cold_enable": "true", "cold_grace_ms": "0"}
        return configs

    def pauses(self) -> list[Pause]:
        """Return what to wait for before each kill: `seconds` in all, on average."""
        source = random.Random(self.seed)
        longest_s = 2 * self.seconds / max(1, self.kills)
        # The first kill must meet work; later ones may come while clients are still finding back.
        return [
            Pause(number == 0 or source.random() < AFTER_PROGRESS, source.uniform(0, longest_s))
            for number in range(self.kills)
        ]


def check(plan: Plan) -> Verdict:
    """Run and judge. The data directory and the journals stay, for whoever wants to look.

    Raises:
        BenchError: the server did not start or stop, or a client died: nothing is proven.
        FileExistsError: there are journals of an earlier run beside the data directory.
    """
    plan.journals.mkdir(parents=True)
    server = Server(plan.data, arguments=plan.node_arguments())
    journal = JournalWriter(plan.journals / "nemesis.jsonl")
    try:
        configs = plan.topic_configs()
        server.start()
        server.create_topic(TOPIC, partitions=plan.partitions, **configs)
        _load_and_kill(plan, server, journal)
        _read_finished(plan, server, journal)
        if plan.nodes:
            _require_coded_reads(server)
        server.stop()
    finally:
        server.kill()  # nothing when it was stopped
        journal.close()
    events = read_journals(sorted(plan.journals.glob("*.jsonl")))
    return judge(events, acks_min=plan.acks_min, kills_min=plan.kills)


def _load_and_kill(plan: Plan, server: Server, journal: JournalWriter) -> None:
    spec = {
        "bootstrap": f"{server.kafka[0]}:{server.kafka[1]}",
        "topic": TOPIC,
        "partitions": plan.partitions,
        "run": f"{plan.seed:x}",
    }
    with (
        _clients(plan, "follow", spec, 1) as tails,
        _clients(plan, "reread", spec, 1 if plan.nodes else 0) as rereaders,
        _clients(plan, "produce", spec, plan.producers) as producers,
    ):
        for number, pause in enumerate(plan.pauses(), 1):
            if pause.for_progress:
                _await_progress(producers, journal)
            time.sleep(pause.seconds)
            _require_alive([*tails, *rereaders, *producers])
            _kill_and_restart(server, journal)
            plan.progress(f"kill {number} of {plan.kills}")
        _await_progress(producers, journal)
        plan.progress("waiting for the last acknowledgements")
        _finish(producers)
        _finish(rereaders)
        _finish(tails)


def _await_progress(producers: Sequence[subprocess.Popen[bytes]], journal: JournalWriter) -> None:
    """Wait until every producer has been acknowledged something from now on, within a bound."""
    deadline = time.monotonic() + STALL_S
    pipes = [process.stdout for process in producers if process.stdout is not None]
    for pipe in pipes:
        os.set_blocking(pipe.fileno(), False)
        while pipe.read(4096):
            continue  # progress of before
    for index, pipe in enumerate(pipes):
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            journal.write(Stalled(f"p{index}", STALL_S, time.monotonic_ns()))


def _kill_and_restart(server: Server, journal: JournalWriter) -> None:
    journal.write(Killed(time.monotonic_ns()))
    server.kill()
    journal.write(Ready(server.start(), time.monotonic_ns()))


def _read_finished(plan: Plan, server: Server, journal: JournalWriter) -> None:
    """Three readings: two clients, and once more after a clean restart."""
    place: dict[str, Any] = {
        "bootstrap": f"{server.kafka[0]}:{server.kafka[1]}",
        "topic": TOPIC,
        "partitions": plan.partitions,
    }
    plan.progress("reading the finished log")
    read_with_librdkafka(journal, "final-1", **place)
    read_with_aiokafka(journal, "final-2", **place)
    server.stop()
    server.start()
    read_with_librdkafka(journal, "final-3", **place)


def _require_coded_reads(server: Server) -> None:
    """Check that what was read did come from chunks: a run that never met any proves nothing."""
    with urllib.request.urlopen(f"http://{server.admin[0]}:{server.admin[1]}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith("logd_cold_read_bytes_total ")]
    if not found or float(found[0].split()[1]) == 0:
        raise BenchError("nothing was read from coded segments")


# --- Clients ------------------------------------------------------------------------------------


@contextmanager
def _clients(
    plan: Plan, role: str, spec: dict[str, Any], count: int
) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for index in range(count):
            name = f"{NAMES[role]}{index}"
            own = {**spec, "name": name, "index": index}
            own["journal"] = str(plan.journals / f"{role}-{index}.jsonl")
            with (plan.journals / f"{role}-{index}.log").open("wb") as log:
                command = [sys.executable, "-m", "bench.checker.workload", role, json.dumps(own)]
                processes.append(
                    subprocess.Popen(
                        command,
                        cwd=ROOT,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        bufsize=0,
                    )
                )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _require_alive(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is not None:
            raise BenchError(f"a client of the checker ended with {process.returncode}")


def _finish(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Tell the clients that the run is over; wait until they have written their journals."""
    _require_alive(processes)
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    for process in processes:
        try:
            code = process.wait(FINISH_S)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"a client of the checker did not end in {FINISH_S:g} s") from error
        if code != 0:
            raise BenchError(f"a client of the checker ended with {code}")
