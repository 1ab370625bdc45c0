"""`logd demo`: a tour with real input, a kill -9 in the middle, and a proof at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cli.errors import Refused
from cli.kafka import CREATE_TIMEOUT_S, Connection, admin_types
from cli.options import Address, Target, common_options, pass_target
from cli.render import print_json, progress
from cli.roundtrip import Rebuilder, Sent, append, differing, read_back, standard_library

if TYPE_CHECKING:
    from bench.process import Server

TOPIC: Final = "library"
PARTITIONS: Final = 4
MEGABYTE: Final = 1_000_000


@dataclass(slots=True)
class Tour:
    """What the demo measured and found."""

    files: int = 0
    records: int = 0
    bytes: int = 0
    ready_seconds: float = 0.0
    acknowledged_at_kill: int = 0
    restart_seconds: float = 0.0
    append_seconds: float = 0.0
    read_seconds: float = 0.0
    identical: int = 0
    different: list[str] = field(default_factory=list)


@click.command()
@click.option(
    "--keep",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Keep the data directory as DIR, which must be empty or absent.",
)
@common_options("json")
@pass_target
def demo(target: Target, keep: str | None) -> None:
    """Show what it does: a server, real files in, kill -9, the same files out.

    It starts a server of its own on free ports, appends every file of Python's standard library
    line by line, kills the server in the middle, reads everything back and compares. It needs about
    half a gigabyte of disk for a minute, and leaves nothing behind.

    \b
    Example:
      logd demo
    """
    if keep is not None and os.path.isdir(keep) and os.listdir(keep):
        raise Refused(f"{keep} is not empty; name a directory that is empty or absent")
    say: Callable[[str], None] = (lambda _: None) if target.json else click.echo
    scratch = Path(tempfile.mkdtemp(prefix="logd-demo-"))
    try:
        tour = _run(Path(keep).absolute() if keep else scratch / "data", scratch, say)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if target.json:
        print_json(asdict(tour))
    if tour.different:
        raise Refused(f"{len(tour.different)} files differ, the first is {tour.different[0]}")
    say("   All identical: nothing was lost, doubled or changed.\n")
    if keep is not None:
        say(f"The data is in {keep}; look at it with `logd check {keep}`, or serve it again with")
        say(f"`logd serve --data {keep}` and `logd consume {TOPIC}`.")


def _run(data: Path, scratch: Path, say: Callable[[str], None]) -> Tour:
    """Take the tour on a server of its own, which is gone afterwards whatever happens."""
    from bench.process import BenchError, Server

    server = Server(data)
    server.log_path = scratch / "server.log"
    try:
        tour = _tour(server, say)
        server.stop()
    except BenchError as error:
        raise Refused(str(error)) from error
    finally:
        server.kill()
    return tour


def _tour(server: Server, say: Callable[[str], None]) -> Tour:
    tour = Tour()
    say("1. A server starts.")
    tour.ready_seconds = server.start()
    address = Address(*server.kafka)
    say(f"   Ready after {tour.ready_seconds:.2f} s; Kafka clients connect to {address}.\n")
    connection = Connection(address)
    _create_topic(connection)
    say(f"2. The topic {TOPIC!r} has {PARTITIONS} partitions. A client appends every file of")
    say("   Python's standard library: a record a line, the file's name as key, acks=all.")
    sent = _append_with_a_kill(server, connection, tour, say)
    rate = sent.payload_bytes / MEGABYTE / tour.append_seconds
    say(
        f"   {sent.files} files, {sent.records} records, {sent.payload_bytes / MEGABYTE:.1f} MB,"
        f" all acknowledged in {tour.append_seconds:.1f} s ({rate:.0f} MB/s).\n"
    )
    say("4. Another client reads everything back and rebuilds each file.")
    started = time.monotonic()
    rebuilder = Rebuilder()
    read_back(connection.settings(), TOPIC, rebuilder)
    tour.read_seconds = time.monotonic() - started
    say(f"   {rebuilder.records} records in {tour.read_seconds:.1f} s.\n")
    rebuilt = rebuilder.digests()
    tour.different = differing(sent.digests, rebuilt)
    tour.identical = sum(rebuilt.get(name) == digest for name, digest in sent.digests.items())
    say("5. The SHA-256 of each file, before and after:")
    say(f"   {tour.identical} of {sent.files} files are identical.")
    return tour


def _create_topic(connection: Connection) -> None:
    wanted = admin_types().NewTopic(TOPIC, num_partitions=PARTITIONS, replication_factor=1)
    futures = connection.admin().create_topics([wanted], request_timeout=CREATE_TIMEOUT_S)
    connection.result(f"create topic {TOPIC}", futures[TOPIC])


def _append_with_a_kill(
    server: Server, connection: Connection, tour: Tour, say: Callable[[str], None]
) -> Sent:
    sources = standard_library()
    half = len(sources) // 2
    with progress("appending", len(sources)) as show:

        def each(sent: Sent) -> None:
            show(sent.files)
            if sent.files == half:
                _kill_and_restart(server, sent, tour, say)

        started = time.monotonic()
        sent = append(connection.settings(), TOPIC, sources, each=each)
    tour.append_seconds = time.monotonic() - started
    tour.files, tour.records, tour.bytes = sent.files, sent.records, sent.payload_bytes
    return sent


def _kill_and_restart(server: Server, sent: Sent, tour: Tour, say: Callable[[str], None]) -> None:
    server.kill()
    tour.acknowledged_at_kill = sent.acknowledged
    waiting = sent.records - sent.acknowledged
    say(f"\n3. kill -9, with {sent.acknowledged} records acknowledged and {waiting} on their way.")
    tour.restart_seconds = server.start()
    say(f"   It is back after {tour.restart_seconds:.2f} s on the same port; the client goes on.")
