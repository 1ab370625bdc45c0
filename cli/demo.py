"""`logd demo`: the tour. Real input, kill -9, coding, two nodes lost and made again, a proof."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from cli import tour as steps
from cli.errors import Refused
from cli.options import Target, common_options, pass_target
from cli.render import Cell, print_json, print_table
from cli.tour import NODES, PROFILE, TOPIC, Stage, Tour, megabytes


@click.command(short_help="The whole tour: kill -9, coding, lost nodes, repair, proof.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Keep the server's data and the nodes in DIR, which must be empty or absent.",
)
@common_options("json")
@pass_target
def demo(target: Target, keep: str | None) -> None:
    """Show what it does: real files in, kill -9, coding, two nodes lost and repaired, files out.

    It starts a server of its own on free ports, with six directories as storage nodes, appends
    every file of Python's standard library line by line and kills the server in the middle. Then it
    codes the segments 4+2, deletes two of the nodes, reads everything back with a Kafka client and
    compares. Then two empty nodes take the places of the lost ones; when repair has made their
    chunks again, at the time it foretold or not, all is read and compared once more. It needs about
    half a gigabyte of disk for a minute, and leaves nothing behind.

    \b
    Example:
      logd demo
    """
    if keep is not None and os.path.isdir(keep) and os.listdir(keep):
        raise Refused(f"{keep} is not empty; name a directory that is empty or absent")
    say: Callable[[str], None] = (lambda _: None) if target.json else click.echo
    scratch = Path(tempfile.mkdtemp(prefix="logd-demo-"))
    place = Path(keep).absolute() if keep else scratch / "kept"
    try:
        place.mkdir(parents=True, exist_ok=True)
        tour = _run(place, scratch, say)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if target.json:
        print_json(asdict(tour))
    else:
        click.echo()
        print_table(("what", "bytes", "seconds", "MB/s", "note"), _rows(tour))
    for different in (tour.different, tour.different_repaired):
        if different:
            raise Refused(f"{len(different)} files differ, the first is {different[0]}")
    say("\nAll identical: nothing was lost, doubled or changed.")
    if keep is not None:
        say(f"\nServe it again with `logd serve --data {place}/data`, and look at it with")
        say(f"`logd status`, `logd node list`, `logd segments {TOPIC}` and `logd consume {TOPIC}`;")
        say(f"or without a server: `logd salvage OUT --from {place}/nodes`.")


def _run(place: Path, scratch: Path, say: Callable[[str], None]) -> Tour:
    """Take the tour on a server of its own, which is gone afterwards whatever happens."""
    from bench.process import BenchError, Server

    nodes = {name: place / "nodes" / name for name in NODES}
    (place / "nodes").mkdir()
    flags = [word for name, path in nodes.items() for word in ("--node", f"{name}={path}")]
    flags += [
        word for name, value in steps.SETTINGS.items() for word in ("--set", f"{name}={value}")
    ]
    server = Server(place / "data", arguments=flags)
    server.log_path = scratch / "server.log"
    stage = Stage(server, nodes, say)
    try:
        steps.start(stage)
        steps.append_library(stage)
        steps.encode(stage)
        steps.lose_nodes(stage)
        steps.read_degraded(stage)
        steps.replace_nodes(stage)
        steps.read_repaired(stage)
        server.stop()
    except BenchError as error:
        raise Refused(str(error)) from error
    finally:
        server.kill()
    return stage.tour


def _rows(tour: Tour) -> list[tuple[Cell, ...]]:
    """Return the table at the end: stored bytes, rates, margins."""
    share = tour.stored_bytes / max(1, tour.source_bytes)
    before, after, end = map(_margins, (tour.margins, tour.margins_left, tour.margins_repaired))
    lost = f"{tour.nodes_lost} of {len(NODES)} nodes"
    return [
        _row("appended, acks=all", tour.bytes, tour.append_seconds, f"{tour.files} files, kill -9"),
        _row(
            "coded", tour.source_bytes, tour.encode_seconds, f"{tour.segments} segments, {PROFILE}"
        ),
        _row("stored on nodes", tour.stored_bytes, None, f"{share:.2f} x; {before}"),
        _row("left hot", tour.hot_bytes, None, "the active segments"),
        _row("read, nodes lost", tour.bytes, tour.read_seconds, f"{lost}; {after}"),
        _row("made again", tour.repaired_bytes, tour.repair_seconds, f"{_foretold(tour)}; {end}"),
        _row(
            "read, repaired",
            tour.bytes,
            tour.read_repaired_seconds,
            f"{tour.identical_repaired} files identical",
        ),
    ]


def _row(what: str, count: int, seconds: float | None, note: str) -> tuple[Cell, ...]:
    if seconds is None:
        return what, megabytes(count), None, None, note
    rate = count / steps.MEGABYTE / max(seconds, 0.001)
    return what, megabytes(count), round(seconds, 1), round(rate, 1), note


def _foretold(tour: Tour) -> str:
    """Return what repair said of its end, beside what came."""
    said, was = tour.repair_eta_seconds, tour.repair_rest_seconds
    return f"ETA {said:.1f} s, was {was:.1f} s ({tour.repair_eta_error:.0%} off)"


def _margins(by_margin: dict[str, int]) -> str:
    """Return how many more losses the coded segments survive, in words."""
    found = [name for name, count in by_margin.items() if count]
    if "lost" in found:
        return f"{by_margin['lost']} segments lost"
    return f"margin {min(found)}" if found else "no coded segment"
