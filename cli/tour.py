"""The steps of `logd demo`, one function each, on a server and storage nodes of its own.

Each step says what it does, does it as any user could (a Kafka client, the admin port, rm -rf), and
notes what it took in `Tour`. None knows of the others; `cli.demo` puts them in order.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cli.admin import get, post
from cli.errors import Refused
from cli.kafka import CREATE_TIMEOUT_S, Connection, admin_types
from cli.options import Address
from cli.render import counted, progress
from cli.roundtrip import Rebuilder, Sent, append, differing, read_back, standard_library
from logd.units import MIB

if TYPE_CHECKING:
    from bench.process import Server

TOPIC: Final = "library"
PARTITIONS: Final = 4
NODES: Final = "abcdef"
PROFILE: Final = "4+2"
LOST: Final = "be"
"""The nodes that are deleted: as many as the profile can do without."""
SETTINGS: Final = {"repair.rate.bytes": str(6 * MIB)}
"""Of the server: repair that takes some seconds, so that there is something to foretell."""

MEGABYTE: Final = 1_000_000
_CONFIG: Final = {
    "segment.bytes": str(4 * MIB),
    "cold.profile": PROFILE,
    # Not for a real topic: here the hot copies go as soon as the chunks are proven.
    "cold.grace.ms": "0",
    "file.delete.delay.ms": "0",
}
_STEPS: Final = 1000
_POLL_S: Final = 0.1
_SETTLE_S: Final = 30.0
_REPAIR_S: Final = 300.0
_FORETELL_S: Final = 2.0
_FORETELL_SHARE: Final = 5
"""After this time, and when one of so many segments is made, repair is asked when it will end."""


@dataclass(slots=True)
class Tour:
    """What the demo measured and found.

    Attributes:
        bytes: of the files.
        acknowledged_at_kill: records, of which none may be missing at the end.
        segments: that were coded; `source_bytes` of log became `stored_bytes` on nodes.
        hot_bytes: what is left of the log in the server's own directory.
        margins, margins_left: how many coded segments survive how many more losses, before nodes
            were deleted and after.
        nodes_lost: how many were deleted.
        margins_repaired: the margins when repair had ended.
        repaired_bytes: of chunks that were made again, onto the replacements.
        repair_seconds: from the replacement to full margin; of which the server foretold the last
            `repair_rest_seconds` as `repair_eta_seconds`, wrong by `repair_eta_error` of them.
        identical, different: files, by their SHA-256, with nodes lost; `…_repaired`: at the end.
    """

    files: int = 0
    records: int = 0
    bytes: int = 0
    ready_seconds: float = 0.0
    acknowledged_at_kill: int = 0
    restart_seconds: float = 0.0
    append_seconds: float = 0.0
    segments: int = 0
    source_bytes: int = 0
    stored_bytes: int = 0
    encode_seconds: float = 0.0
    release_seconds: float = 0.0
    hot_bytes: int = 0
    margins: dict[str, int] = field(default_factory=dict)
    nodes_lost: int = 0
    margins_left: dict[str, int] = field(default_factory=dict)
    read_seconds: float = 0.0
    identical: int = 0
    different: list[str] = field(default_factory=list)
    repair_eta_seconds: float = 0.0
    repair_rest_seconds: float = 0.0
    repair_eta_error: float = 0.0
    repair_seconds: float = 0.0
    repaired_bytes: int = 0
    margins_repaired: dict[str, int] = field(default_factory=dict)
    read_repaired_seconds: float = 0.0
    identical_repaired: int = 0
    different_repaired: list[str] = field(default_factory=list)


class Stage:
    """What the steps work with.

    Attributes:
        nodes: name -> directory of each storage node.
    """

    def __init__(self, server: Server, nodes: dict[str, Path], say: Callable[[str], None]) -> None:
        self.server = server
        self.nodes = nodes
        self.say = say
        self.tour = Tour()
        self.digests: dict[bytes, str] = {}

    @property
    def kafka(self) -> Connection:
        """A connection for Kafka clients."""
        return Connection(Address(*self.server.kafka))

    @property
    def admin(self) -> Address:
        """The admin port."""
        return Address(*self.server.admin)

    def status(self) -> dict[str, Any]:
        """Return what `logd status` shows."""
        found = get(self.admin, "/v1/status")
        assert isinstance(found, dict)
        return found


def megabytes(count: int) -> str:
    """Return bytes as people say them."""
    return f"{count / MEGABYTE:.1f} MB"


# --- The steps ------------------------------------------------------------------------------------


def start(stage: Stage) -> None:
    """Start a server with six directories as storage nodes; create the topic."""
    stage.say("1. A server starts, with six directories as storage nodes.")
    stage.tour.ready_seconds = stage.server.start()
    address = Address(*stage.server.kafka)
    stage.say(
        f"   Ready after {stage.tour.ready_seconds:.2f} s; Kafka clients connect to {address}."
    )
    connection = stage.kafka
    wanted = admin_types().NewTopic(
        TOPIC, num_partitions=PARTITIONS, replication_factor=1, config=dict(_CONFIG)
    )
    futures = connection.admin().create_topics([wanted], request_timeout=CREATE_TIMEOUT_S)
    connection.result(f"create topic {TOPIC}", futures[TOPIC])


def append_library(stage: Stage) -> None:
    """Append every file of the standard library, with a kill -9 in the middle."""
    tour = stage.tour
    stage.say(
        f"\n2. The topic {TOPIC!r} has {PARTITIONS} partitions. A client appends every file of"
    )
    stage.say("   Python's standard library: a record a line, the file's name as key, acks=all.")
    sources = standard_library()
    half = len(sources) // 2
    killed: list[str] = []  # Said behind the bar, not into it.
    with progress("appending", len(sources)) as show:

        def each(sent: Sent) -> None:
            show(sent.files)
            if sent.files == half:
                killed.extend(_kill_and_restart(stage, sent))

        started = time.monotonic()
        sent = append(stage.kafka.settings(), TOPIC, sources, each=each)
    tour.append_seconds = time.monotonic() - started
    tour.files, tour.records, tour.bytes = sent.files, sent.records, sent.payload_bytes
    stage.digests = sent.digests
    for line in killed:
        stage.say(line)
    stage.say(
        f"   {sent.files} files, {sent.records} records, {megabytes(sent.payload_bytes)}, all "
        f"acknowledged in {tour.append_seconds:.1f} s."
    )


def _kill_and_restart(stage: Stage, sent: Sent) -> list[str]:
    """Kill the server and start it again; return what there is to say."""
    tour = stage.tour
    stage.server.kill()
    tour.acknowledged_at_kill = sent.acknowledged
    tour.restart_seconds = stage.server.start()
    known, waiting = sent.acknowledged, sent.records - sent.acknowledged
    return [
        f"   kill -9 in the middle: {known} records were acknowledged, {waiting} on their way.",
        f"   Back after {tour.restart_seconds:.2f} s on the same port; the client went on.",
    ]


def encode(stage: Stage) -> None:
    """Code all sealed segments, and wait until their hot copies are gone."""
    tour = stage.tour
    stage.say(f"\n3. `logd cold encode {TOPIC}`: every sealed segment becomes four data and two")
    stage.say("   parity chunks on the six nodes; each is synced, read back and proven.")
    job = post(stage.admin, "/v1/cold/encode", {}, topic=TOPIC)
    with progress("coding", _STEPS) as show:
        while not job["done"]:
            time.sleep(_POLL_S)
            job = get(stage.admin, "/v1/cold/job", id=job["id"])
            show(int(job["progress"] * _STEPS))
    if job["failed"]:
        raise Refused(f"{job['failed']} segments were not coded: {job['errors'][0]['error']}")
    tour.encode_seconds = job["seconds"]
    tour.source_bytes, tour.stored_bytes = job["source_bytes"], job["stored_bytes"]
    _wait_for_release(stage)
    tour.margins = stage.status()["segments_by_margin"]
    stage.say(
        f"   {counted(tour.segments, 'segment')}: {megabytes(tour.source_bytes)} of log stored as "
        f"{megabytes(tour.stored_bytes)} in {tour.encode_seconds:.1f} s;"
    )
    stage.say(
        f"   the hot copies are gone after {tour.release_seconds:.1f} s more, when all chunks were "
        "checked\n   again."
    )


def _wait_for_release(stage: Stage) -> None:
    """Return when no coded segment has a hot copy any more."""
    started = time.monotonic()
    while True:
        rows = get(stage.admin, "/v1/segments", topic=TOPIC)
        coded = [row for row in rows if row["generation"] is not None]
        if not any(row["hot"] for row in coded):
            break
        if time.monotonic() - started > _SETTLE_S:
            raise Refused(
                f"hot copies are still there after {_SETTLE_S:.0f} s; see the server's log"
            )
        time.sleep(_POLL_S)
    stage.tour.release_seconds = time.monotonic() - started
    stage.tour.segments = len(coded)
    stage.tour.hot_bytes = sum(row["size_bytes"] for row in rows if row["hot"])


def lose_nodes(stage: Stage) -> None:
    """Delete two nodes' directories from under the server; wait until it has noticed."""
    lost = " and ".join(LOST)
    stage.say(f"\n4. rm -rf of the directories of nodes {lost}, under the running server.")
    for name in LOST:
        shutil.rmtree(stage.nodes[name])
    left = len(NODES) - len(LOST)
    started = time.monotonic()
    status = stage.status()
    while status["nodes"]["live"] > left:
        if time.monotonic() - started > _SETTLE_S:
            raise Refused(f"the loss was not noticed within {_SETTLE_S:.0f} s")
        time.sleep(_POLL_S)
        status = stage.status()
    stage.tour.nodes_lost = len(LOST)
    stage.tour.margins_left = status["segments_by_margin"]
    took = time.monotonic() - started
    stage.say(f"   `logd status` says so after {took:.1f} s: {left} nodes live of {len(NODES)};")
    stage.say("   the coded segments have used up their spare chunks, and have not lost a byte.")


def read_degraded(stage: Stage) -> None:
    """Read everything back with a Kafka client and compare every file, nodes lost."""
    tour = stage.tour
    stage.say("\n5. Another client reads everything back, from hot and coded segments alike, and")
    stage.say("   rebuilds each file. What was on the lost nodes is computed from the others.")
    tour.read_seconds, tour.identical, tour.different = _read_all(stage)


def read_repaired(stage: Stage) -> None:
    """Read everything back once more, from the chunks that were made again too."""
    tour = stage.tour
    stage.say("\n7. Everything is read back once more, the chunks that were made again included.")
    tour.read_repaired_seconds, tour.identical_repaired, tour.different_repaired = _read_all(stage)


def _read_all(stage: Stage) -> tuple[float, int, list[str]]:
    """Read and rebuild all files; return the seconds, how many are identical, which differ."""
    rebuilder = Rebuilder()
    started = time.monotonic()
    with progress("reading", stage.tour.records) as show:
        read_back(stage.kafka.settings(), TOPIC, rebuilder, each=lambda: show(rebuilder.records))
    seconds = time.monotonic() - started
    rebuilt = rebuilder.digests()
    identical = sum(rebuilt.get(name) == digest for name, digest in stage.digests.items())
    stage.say(
        f"   {rebuilder.records} records in {seconds:.1f} s; by SHA-256 {identical} of "
        f"{stage.tour.files} files are identical."
    )
    return seconds, identical, differing(stage.digests, rebuilt)


def replace_nodes(stage: Stage) -> None:
    """Put empty nodes in the places of the lost ones; wait until every chunk is made again."""
    tour, new = stage.tour, {name: f"{stage.nodes[name]}-new" for name in LOST}
    waiting = stage.status()["repair"]["stuck"]
    stage.say(f"\n6. {counted(waiting, 'segment')} wait for a node that may take what is lost.")
    stage.say("   `logd node replace`: empty directories take the places of both nodes.")
    begun = time.monotonic()
    for name, place in new.items():
        stage.nodes[name] = Path(place)
        post(stage.admin, "/v1/replace", {}, node=name, place=place)
    foretold, asked = _foretell(stage, begun)
    with progress("repairing", tour.segments) as show:
        status = _until_repaired(stage, begun, show)
    ended = time.monotonic()
    tour.repair_seconds = ended - begun
    tour.repair_eta_seconds, tour.repair_rest_seconds = foretold, ended - asked
    tour.repair_eta_error = abs(foretold - (ended - asked)) / max(ended - asked, 0.001)
    tour.margins_repaired = status["segments_by_margin"]
    tour.repaired_bytes = sum(row["bytes"] for row in _node_rows(stage) if row["name"] in new)
    stage.say(
        f"   It took {ended - asked:.1f} s, {tour.repair_eta_error:.0%} off; "
        f"{megabytes(tour.repaired_bytes)} were made again, byte for byte."
    )


def _foretell(stage: Stage, begun: float) -> tuple[float, float]:
    """Return when repair says that it will end, in seconds, and when it said so."""
    while True:
        status, asked = stage.status(), time.monotonic()
        repair, made = status["repair"], status["segments_by_margin"][_full()]
        has_begun = made * _FORETELL_SHARE >= stage.tour.segments
        if has_begun and asked - begun >= _FORETELL_S and repair["eta_s"] is not None:
            stage.say(
                f"   After {asked - begun:.1f} s repair says: done in {repair['eta_s']:.1f} s, at "
                f"{megabytes(int(repair['bytes_s'] or 0))} a second."
            )
            return repair["eta_s"], asked
        if asked - begun >= _SETTLE_S:
            raise Refused(f"repair did not begin within {_SETTLE_S:.0f} s: see the server's log")
        time.sleep(_POLL_S)


def _until_repaired(stage: Stage, begun: float, show: Callable[[int], None]) -> dict[str, Any]:
    """Return the status when every segment has its full margin, and nothing is queued."""
    while True:
        status = stage.status()
        made = status["segments_by_margin"][_full()]
        show(made)
        is_busy = status["repair"]["queued"] + status["repair"]["running"]
        if not is_busy and made >= stage.tour.segments:
            return status
        if time.monotonic() - begun > _REPAIR_S:
            raise Refused(f"repair did not end within {_REPAIR_S:.0f} s: see `logd repair`")
        time.sleep(_POLL_S)


def _full() -> str:
    """Return the margin of a segment that has all its chunks."""
    return PROFILE.partition("+")[2]


def _node_rows(stage: Stage) -> list[dict[str, Any]]:
    found = get(stage.admin, "/v1/nodes")
    assert isinstance(found, list)
    return found
