"""`python -m bench.peers run` measures; `python -m bench.peers page` writes the page of results.

Exit code of `run` 0: every row was measured that was wanted; 1: some row failed, or nothing was
measured. A peer that cannot be had is skipped, visibly, and is no failure.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.machine import machine_of
from bench.peers import coding, kafka, kafka_rows, raw_rows, raw_servers
from bench.peers.contest import Session
from bench.peers.kafka_rows import ACKS_1, ACKS_ALL
from bench.peers.ours import Logd
from bench.peers.packages import UnavailableError
from bench.peers.page import page
from bench.peers.results import Results, read, today, write
from bench.process import BenchError
from bench.protocol import AnswerError
from bench.runner import GIB, Options, open_run

PRIME_BYTES: Final = 3 * GIB // 4  # more than a window writes
EXIT_FAILED: Final = 1


def main(arguments: list[str]) -> int:
    """Run one of the two commands; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="measure logd and its peers in turn")
    run.set_defaults(command=_run)
    run.add_argument("--dir", help="on the disk to be measured; default: here")
    run.add_argument("--seconds", type=float, default=0.4, help="length of one window")
    run.add_argument("--repetitions", type=int, default=5, help="windows of each side")
    run.add_argument("--warm", type=float, default=60.0, help="seconds of load before, at most")
    run.add_argument("--fill", type=int, default=8 * GIB, help="bytes for the recovery rows")
    run.add_argument("--minutes", type=float, default=15.0, help="no row begins after this")
    run.add_argument("--only", action="append", default=[], choices=tuple(PEERS), metavar="PEER",
                     help=f"one of {', '.join(PEERS)}; may be repeated")  # fmt: skip
    run.add_argument("--row", action="append", default=[], help="rows whose name contains this")
    run.add_argument("--kafka-version", default=kafka.VERSION, help="from Maven Central")
    run.add_argument("--out", type=Path, default=Path("build/peers.json"), help="JSON of the run")
    show = commands.add_parser("page", help="write the page of results")
    show.set_defaults(command=_page)
    show.add_argument("results", type=Path, nargs="*")
    show.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"))
    chosen = parser.parse_args(arguments)
    # What was started is ended, and what was written is removed, also when we are told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    command: Callable[[argparse.Namespace], int] = chosen.command
    return command(chosen)


# --- Peers: each measures itself in a session, and returns the conditions of its server ---------


def _kafka(session: Session, chosen: argparse.Namespace) -> dict[str, Any]:
    found = kafka.find(chosen.kafka_version)
    contender = kafka_rows.Contender(
        kafka.KafkaBroker.name, partial(kafka.KafkaBroker, found), {}, {"flush.messages": "1"},
        partial(kafka.KafkaBroker, found, settings=kafka.COMPACTING),
    )  # fmt: skip
    kafka_rows.measure(session, contender, Logd)
    place = session.run.directory / "conditions"
    return kafka.KafkaBroker(found, place).conditions()


def _redis(session: Session, _: argparse.Namespace) -> dict[str, Any]:
    program = raw_servers.find_redis()
    make = partial(raw_servers.RedisServer, program)
    variants = [
        raw_rows.Variant(raw_rows.SYNCED_LATER, partial(make, sync="everysec"), {}, ACKS_1),
        raw_rows.Variant(raw_rows.SYNCED, partial(make, sync="always"), {}, ACKS_ALL),
    ]
    raw_rows.measure(session, raw_servers.RedisServer.name, variants, Logd)
    return make(session.run.directory / "conditions", sync="").conditions()


def _nats(session: Session, _: argparse.Namespace) -> dict[str, Any]:
    program = raw_servers.find_nats()
    make = partial(raw_servers.NatsServer, program)
    unsynced = {"flush.mode": "os"}
    variants = [
        raw_rows.Variant(raw_rows.CACHE, partial(make, sync=""), unsynced, ACKS_1),
        # It syncs record by record: 5,000 a second are more than the disk has syncs.
        raw_rows.Variant(raw_rows.SYNCED, partial(make, sync="always"), {}, ACKS_ALL, (500,)),
    ]
    raw_rows.measure(session, raw_servers.NatsServer.name, variants, Logd)
    return make(session.run.directory / "conditions", sync="").conditions()


def _logd(session: Session, _: argparse.Namespace) -> dict[str, Any]:
    """Our server against itself: what the ratios are when there is no difference."""
    contender = kafka_rows.Contender("logd again", Logd, {"flush.mode": "os"}, {})
    kafka_rows.measure(session, contender, Logd)
    return {"note": "the same program: how far its ratios are from 1 is the noise"}


def _coding(session: Session, _: argparse.Namespace) -> dict[str, Any]:
    """Libraries, each a peer of its own; those that cannot be had are named."""
    skipped: dict[str, str] = {}
    found = coding.measure(session, skipped)
    session.notes += [f"{name} was skipped: {reason}" for name, reason in skipped.items()]
    return {name: ", ".join(map(str, told.values())) for name, told in found.items()}


PEERS: Final[dict[str, Callable[[Session, argparse.Namespace], dict[str, Any]]]] = {
    "kafka": _kafka,
    "redis": _redis,
    "nats": _nats,
    "coding": _coding,
    "logd": _logd,
}
# Measuring ourselves against ourselves is for those who ask for it.
DEFAULT: Final = tuple(name for name in PEERS if name != "logd")


def _run(chosen: argparse.Namespace) -> int:
    begin = time.monotonic()
    options = Options(
        seconds=chosen.seconds, repetitions=chosen.repetitions, prime_bytes=PRIME_BYTES,
        fill_bytes=chosen.fill, progress=_say,
    )  # fmt: skip
    servers: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    with open_run(chosen.dir, options) as run:
        machine = machine_of(run.directory)
        session = Session(
            run, warm_seconds=chosen.warm, only=tuple(chosen.row),
            deadline=begin + 60 * chosen.minutes,
        )  # fmt: skip
        servers["logd"] = Logd(run.directory / "conditions").conditions()
        for name in chosen.only or DEFAULT:
            try:
                servers[name] = PEERS[name](session, chosen)
            except UnavailableError as error:
                skipped[name] = str(error)
                _say(f"SKIPPED: {name}: {error}")
            except (BenchError, AnswerError, OSError) as error:
                session.failed[name] = str(error)
                _say(f"FAILED: {name}: {error}")
    results = Results(
        date=today(), machine=machine, servers=servers, rows=session.rows, skipped=skipped,
        failed=session.failed, left_out=session.left_out, notes=session.notes,
        seconds=time.monotonic() - begin,
        options={"seconds": chosen.seconds, "repetitions": chosen.repetitions,
                 "warm_seconds": chosen.warm, "fill_bytes": chosen.fill},
    )  # fmt: skip
    write(results, chosen.out)
    print(page([results]))
    _say(f"{len(results.rows)} rows in {results.seconds:.0f} s, written to {chosen.out}")
    return EXIT_FAILED if session.failed or not session.rows else 0


def _page(chosen: argparse.Namespace) -> int:
    runs = [read(path) for path in chosen.results]
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(page(runs), encoding="utf-8")
    _say(f"written to {chosen.out}")
    return 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
