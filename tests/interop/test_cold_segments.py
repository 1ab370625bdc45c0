"""Segments coded, nodes lost under them, thawed and deleted: a server and its command line."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.logd_command import Logd
from tests.server_process import ServerProcess

NODES = "abcdef"
CONFIG = ("cold.profile=4+2", "cold.grace.ms=0", "file.delete.delay.ms=0")
SMALL = "segment.bytes=1048576"
LIMIT_S = 100  # Of a busy machine.


def server_with_nodes(
    directory: Path, names: str = NODES, *, more: Sequence[str] = ()
) -> ServerProcess:
    """Return a server with these nodes.

    One is dead at once when its directory is gone, and else never: a machine that is busy elsewhere
    for some seconds makes no node suspect.
    """
    words = [word for name in names for word in ("--node", f"{name}={directory}/{name}")]
    for setting in (
        "disk.reserve.bytes=0", "node.probe.interval.ms=200", "node.suspect.ms=120000",
        "node.dead.ms=240000",
    ):  # fmt: skip
        words += ["--set", setting]
    return ServerProcess(directory / "data", *words, *more)


def make_topic(logd: Logd, *more: str) -> None:
    settings = [word for setting in (*CONFIG, *more) for word in ("--config", setting)]
    logd.run("topic", "create", "t", "--partitions", "1", *settings)


def lines(rng: random.Random, count: int) -> bytes:
    return b"".join(rng.randbytes(250).hex().encode() + b"\n" for _ in range(count))


def chunks(directory: Path, names: str = NODES) -> list[str]:
    """Names of all chunk files on nodes that are there."""
    return [
        name
        for node in names
        if (directory / node / "chunks").exists()
        for name in os.listdir(directory / node / "chunks")
    ]


def lose(node: Path) -> None:
    """Take a node's directory away at once, whatever is being written there just then."""
    away = node.with_name(f"{node.name}.lost")
    node.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def ask(logd: Logd, path: str) -> Any:
    """Return a document of the admin port: quicker than a command, for looking again and again."""
    with urlopen("http://{}:{}/v1/{}".format(*logd.server.admin, path), timeout=LIMIT_S) as answer:
        return json.load(answer)


def rows(logd: Logd) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(logd, "segments?topic=t")
    return found


def problems(logd: Logd) -> list[dict[str, Any]]:
    """What is wrong, but that there is no node to spare."""
    found: list[dict[str, Any]] = ask(logd, "status")["problems"]
    return [problem for problem in found if problem["kind"] != "no_spare_node"]


def coded_rows(logd: Logd) -> list[dict[str, Any]]:
    return [row for row in rows(logd) if row["state"] == "coded"]


def until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again, at most LIMIT_S."""
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"never: {what}"


def test_a_topic_goes_to_chunks_and_comes_back(tmp_path: Path, rng: random.Random) -> None:
    """Coded, released, read with two nodes gone, thawed, deleted; and the space comes back."""
    with server_with_nodes(tmp_path) as server:
        logd = Logd(server)
        make_topic(logd, SMALL)
        data = lines(rng, 7_000)
        logd.json("produce", "t", stdin=data)
        done = logd.json("cold", "encode", "t")
        count = len(rows(logd)) - 1
        assert count >= 2
        assert list(done) == [
            *("encoded", "skipped", "failed", "source_bytes", "stored_bytes", "seconds")
        ]
        assert (done["encoded"], done["skipped"], done["failed"]) == (count, 0, 0)
        # 1.5 times the source, and what checksums, indexes and manifests take.
        assert 1.5 <= done["stored_bytes"] / done["source_bytes"] < 1.7
        until(lambda: not any(row["hot"] for row in coded_rows(logd)), "all are released")

        status = logd.json("status")
        assert status["segments_by_margin"] == {"lost": 0, "0": 0, "1": 0, "2": count}
        assert status["cold_source_bytes"] == done["source_bytes"]
        assert status["cold_stored_bytes"] == done["stored_bytes"]
        assert problems(logd) == []
        [first, *_] = logd.json("segments", "t")
        assert (first["k"], first["m"], first["margin"], first["generation"]) == (4, 2, 2, 1)
        assert sorted(chunk["node"] for chunk in first["chunks"]) == list(NODES)
        assert {chunk["state"] for chunk in first["chunks"]} == {"live"}
        assert logd.run("consume", "t").stdout == data

        for name in "ab":
            lose(tmp_path / name)
        assert logd.run("consume", "t").stdout == data
        until(
            lambda: ask(logd, "status")["segments_by_margin"]["0"] == count,
            "two nodes are seen to be dead",
        )
        states = {chunk["node"]: chunk["state"] for chunk in coded_rows(logd)[0]["chunks"]}
        assert states == {**dict.fromkeys("ab", "missing"), **dict.fromkeys("cdef", "live")}

        thawed = logd.json("cold", "thaw", "t")
        assert (thawed["thawed"], thawed["failed"]) == (count, 0)
        assert all(row["hot"] for row in coded_rows(logd))
        assert logd.run("consume", "t").stdout == data

        logd.run("topic", "delete", "t", "--yes")
        until(lambda: chunks(tmp_path) == [], "the chunk files are gone")
        assert server.stop() == 0


def test_a_killed_encoder_leaves_nothing_behind(tmp_path: Path, rng: random.Random) -> None:
    """kill -9 in the middle: the next start removes the orphans, and coding goes on to its end."""
    with server_with_nodes(tmp_path) as server:
        logd = Logd(server)
        make_topic(logd, "segment.bytes=67108864")
        data = b"".join(rng.randbytes(50_000).hex().encode() + b"\n" for _ in range(250))
        logd.json("produce", "t", stdin=data)
        logd.run("topic", "alter", "t", "--config", "segment.bytes=16777216")
        logd.json("produce", "t", stdin=b"more\n")
        until(lambda: len(rows(logd)) > 1, "a segment is sealed")
        logd.run("cold", "encode", "t", "--no-wait")
        until(lambda: bool(chunks(tmp_path)), "a chunk is being written")
        server.kill()
        server.start()
        logd = Logd(server)
        done = logd.json("cold", "encode", "t")
        sealed = len(rows(logd)) - 1
        assert done["encoded"] + done["skipped"] == sealed
        assert done["failed"] == 0
        until(lambda: len(chunks(tmp_path)) == 6 * sealed, "only the chunks of one generation each")
        assert not any(name.endswith(".tmp") for name in chunks(tmp_path))
        until(lambda: not any(row["hot"] for row in coded_rows(logd)), "all are released")
        server.kill()
        server.start()
        logd = Logd(server)
        assert logd.run("consume", "t").stdout == data + b"more\n"
        assert problems(logd) == []


def test_what_is_deleted_leaves_the_nodes(tmp_path: Path, rng: random.Random) -> None:
    """delete-records and retention.bytes: chunks go, those of the rest stay, bytes count once."""
    with server_with_nodes(tmp_path) as server:
        logd = Logd(server)
        make_topic(logd, SMALL, "cold.enable=true")
        data = lines(rng, 12_000)
        logd.json("produce", "t", stdin=data)
        until(lambda: len(coded_rows(logd)) == len(rows(logd)) - 1, "all are coded by themselves")
        until(lambda: not any(row["hot"] for row in coded_rows(logd)), "all are released")
        before = coded_rows(logd)
        bound = before[2]["base_offset"]
        logd.run("delete-records", "t", "--partition", "0", "--before", str(bound), "--yes")
        until(lambda: len(chunks(tmp_path)) == 6 * (len(before) - 2), "two segments are gone")
        left = data.split(b"\n")[bound:]
        assert logd.run("consume", "t").stdout.split(b"\n") == left

        kept = sum(row["size_bytes"] for row in rows(logd)[-2:])
        logd.run("topic", "alter", "t", "--config", f"retention.bytes={kept}")
        logd.run("retain", "t")
        until(lambda: len(chunks(tmp_path)) == 6, "retention has gone to the chunks too")
        assert len(rows(logd)) == 2


@pytest.mark.parametrize("names", ["", "abc"])
def test_too_few_nodes_are_refused(tmp_path: Path, rng: random.Random, names: str) -> None:
    """Exit 1, one line, what to do or the sum; and nothing is written."""
    with server_with_nodes(tmp_path, names) as server:
        logd = Logd(server)
        make_topic(logd, SMALL)
        logd.json("produce", "t", stdin=lines(rng, 3_000))
        said = logd.run("cold", "encode", "t", code=1).stderr.decode()
        assert ("node add" if not names else "4+2 needs 6 nodes") in said
        assert chunks(tmp_path) == []
        assert not coded_rows(logd)
