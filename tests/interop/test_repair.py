"""Chunks lost, rotten and moved, nodes lost and replaced: a server and its command line."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from ec.chunk_id import ChunkId
from tests.forked import run_logd
from tests.interop.test_cold_segments import (
    LIMIT_S,
    SMALL,
    ask,
    chunks,
    coded_rows,
    lines,
    lose,
    make_topic,
    until,
)
from tests.interop.test_cold_segments import server_with_nodes as cold_server
from tests.logd_command import Logd
from tests.server_process import ServerProcess

NODES = "abcdefg"
READS_MAX = 8


def server_with_nodes(directory: Path, *settings: str) -> ServerProcess:
    """Return a server with seven nodes."""
    more = [word for setting in settings for word in ("--set", setting)]
    return cold_server(directory, NODES, more=more)


def coded_topic(logd: Logd, data: bytes) -> int:
    """Make a topic all of whose sealed segments are in chunks; return how many there are."""
    make_topic(logd, SMALL)
    logd.json("produce", "t", stdin=data)
    logd.json("cold", "encode", "t")
    until(lambda: not any(row["hot"] for row in coded_rows(logd)), "all are released")
    return len(coded_rows(logd))


def is_whole(logd: Logd) -> bool:
    """Whether every segment has its full margin and nothing is queued or to be removed."""
    status = ask(logd, "status")
    margins = status["segments_by_margin"]
    rows = ask(logd, "nodes")
    held = sum(len(row["chunks"]) for row in coded_rows(logd))
    return (
        not margins["lost"] + margins["0"] + margins["1"]
        and not status["repair"]["queued"] + status["repair"]["running"]
        and sum(row["chunks"] for row in rows) == held
    )


def chunk_files(directory: Path, node: str) -> list[Path]:
    """Return a node's chunk files, by name."""
    return sorted((directory / node / "chunks").iterdir())


def contents(directory: Path) -> dict[str, bytes]:
    """Return every chunk file's bytes by its name, wherever it lies."""
    return {
        path.name: path.read_bytes()
        for node in NODES
        if (directory / node / "chunks").exists()
        for path in chunk_files(directory, node)
    }


def flip(path: Path, position: int) -> None:
    """Flip a bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_is_lost_comes_back_byte_for_byte(tmp_path: Path, rng: random.Random) -> None:
    """A missing chunk, a rotten one, a lost node, an empty one in its place, a drained one."""
    with server_with_nodes(tmp_path, "repair.delay.ms=3600000") as server:
        logd = Logd(server)
        data = lines(rng, 7_000)
        count = coded_topic(logd, data)
        before = contents(tmp_path)

        # Of two segments: what has no margin left is repaired at once, before scrub has ended.
        # Each leaves out one of the nodes, by chance: who has what is asked for.
        first, second, *_ = coded_rows(logd)
        empty, rotten, lost = (first["chunks"][0]["node"], second["chunks"][1]["node"],
                               first["chunks"][2]["node"])  # fmt: skip
        chunk_file(tmp_path, empty, first["base_offset"]).unlink()
        flip(chunk_file(tmp_path, rotten, second["base_offset"]), 1000)
        found = logd.json("scrub", "start", "--wait", code=4)["findings"]
        assert {(each["node"], each["base_offset"], each["state"]) for each in found} == {
            (empty, first["base_offset"], "missing"), (rotten, second["base_offset"], "corrupt"),
        }  # fmt: skip
        dry = logd.json("repair", "--dry-run")
        assert {item["state"] for item in dry["items"]} <= {"ready", "running"}
        done = logd.json("repair")
        assert (done["failed"], done["unrecoverable"]) == (0, [])
        assert contents(tmp_path) == before
        assert all(each["mended_ms"] for each in logd.json("scrub", "status")["findings"])

        lose(tmp_path / lost)
        until(lambda: states(logd)[lost] == "dead", "the node is seen to be dead")
        done = logd.json("repair")
        assert done["repaired"] == done["missing"] > 0
        assert contents(tmp_path) == before
        logd.json("node", "replace", lost)
        until(lambda: is_whole(logd), "the replaced node is empty and well")

        plan = logd.json("node", "drain", "a", "--dry-run")
        assert plan["refusal"] is None
        assert logd.json("node", "drain", "a")["done"]
        assert chunk_files(tmp_path, "a") == []
        assert contents(tmp_path) == before
        logd.run("node", "drain", "b", code=1)
        logd.run("node", "remove", "a", "--yes")
        assert logd.json("cold", "durability")["profiles"][0]["segments"] == count
        simulated = logd.json("cold", "simulate", "--fail", "b,c,d", code=4)
        assert simulated["lost_count"] > 0
        assert logd.run("consume", "t").stdout == data
        assert server.stop() == 0


def test_repair_begins_by_itself_and_scrub_pauses(tmp_path: Path, rng: random.Random) -> None:
    """After its delay, without a person; a rotten block that a read meets, without any.

    That block is named by node, chunk and number, and counted; no other chunk is blamed, or made.
    """
    with server_with_nodes(tmp_path, "repair.delay.ms=3600000") as server:
        logd = Logd(server)
        data = lines(rng, 5_000)
        coded_topic(logd, data)
        before = contents(tmp_path)
        node = next(each["node"] for each in coded_rows(logd)[0]["chunks"] if not each["index"])
        rotten = next(path for path in chunk_files(tmp_path, node) if data_index(path) is not None)
        assert logd.json("scrub", "pause")["state"] == "paused"
        flip(rotten, 70)
        logd = read_what_is_rotten(server, data)
        until(
            lambda: any(each["mended_ms"] for each in ask(logd, "scrub")["findings"]),
            "what the read met is mended",
        )
        [found] = ask(logd, "scrub")["findings"]
        where = (found["node"], found["chunk"], found["block"], found["state"])
        assert where == (node, data_index(rotten), 0, "corrupt")
        assert f"-{found['base_offset']:020d}-" in rotten.name
        assert contents(tmp_path) == before
        assert counted(server, "logd_cold_read_findings_total") >= 1
        assert counted(server, "logd_chunk_findings_total") == 1
        assert counted(server, "logd_repair_chunks_total") == 1
        assert server.stop() == 0
    with server_with_nodes(tmp_path, "repair.delay.ms=15000") as server:
        logd = Logd(server)
        until(lambda: ask(logd, "scrub")["findings"] == [found], "it is told of after a restart")
        lost = coded_rows(logd)[0]["chunks"][5]["node"]
        lose(tmp_path / lost)
        until(lambda: states(logd)[lost] == "dead", "the node is seen to be dead")
        until(lambda: is_whole_but(logd, lost), "its chunks are elsewhere")
        assert logd.json("scrub", "resume")["state"] != "paused"
        logd.json("scrub", "start", "--wait")
        assert {name: len(data) for name, data in contents(tmp_path).items()} == {
            name: len(data) for name, data in before.items()
        }
        assert contents(tmp_path) == before


def states(logd: Logd) -> dict[str, str]:
    """Return each node's state."""
    return {row["name"]: row["state"] for row in ask(logd, "nodes")}


def chunk_file(directory: Path, node: str, base_offset: int) -> Path:
    """Return a node's chunk file of one segment."""
    (path,) = (
        each
        for each in chunk_files(directory, node)
        if ChunkId.parse(each.name).base_offset == base_offset
    )
    return path


def data_index(path: Path) -> int | None:
    """Return the index of a data chunk by its file's name; None: a parity chunk."""
    index = int(path.stem.rpartition("-")[2])
    return index if index < 4 else None


def counted(server: ServerProcess, name: str) -> float:
    """Return the sum of a counter over its labels."""
    with urlopen("http://{}:{}/metrics".format(*server.admin), timeout=LIMIT_S) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == name)


def read_what_is_rotten(server: ServerProcess, data: bytes) -> Logd:
    """Read until a rotten chunk was met: where its node is slow to answer, a read does without,
    and the next one is answered from memory, unless the server is a new one.
    """
    for _ in range(READS_MAX):
        logd = Logd(server)
        assert logd.json("scrub", "pause")["state"] == "paused"
        assert logd.run("consume", "t").stdout == data
        if ask(logd, "scrub")["findings"]:
            return logd
        assert server.stop() == 0
        server.start()
    raise AssertionError("no read met what is rotten")


def is_whole_but(logd: Logd, dead: str) -> bool:
    """Whether every segment has its full margin without one node."""
    margins = ask(logd, "status")["segments_by_margin"]
    holders = {chunk["node"] for row in coded_rows(logd) for chunk in row["chunks"]}
    return not margins["lost"] + margins["0"] + margins["1"] and dead not in holders


@pytest.mark.parametrize("command", ["repair", "drain"])
def test_a_server_that_is_killed_goes_on(tmp_path: Path, rng: random.Random, command: str) -> None:
    """kill -9 in the middle, again and again: the same command then ends it, nothing is over."""
    with server_with_nodes(tmp_path, "repair.rate.bytes=2000000") as server:
        logd = Logd(server)
        data = lines(rng, 5_000)
        coded_topic(logd, data)
        before = contents(tmp_path)
        node = coded_rows(logd)[0]["chunks"][0]["node"]  # One that has chunks.
        arguments = ("repair",) if command == "repair" else ("node", "drain", node)
        if command == "repair":
            for path in chunk_files(tmp_path, node):
                path.unlink()
        for _ in range(2):
            moved = _begin(logd, *arguments)
            time.sleep(rng.uniform(0.05, 0.4))
            server.kill()
            server.start()
            logd = Logd(server)
            assert moved is not None
        document = logd.json(*arguments)
        assert document.get("failed", 0) == 0
        until(lambda: is_whole(logd), "everything is where it belongs")
        assert contents(tmp_path) == before
        assert sorted(chunks(tmp_path, NODES)) == sorted(before)
        assert not [name for node in NODES for name in os.listdir(tmp_path / node / "quarantine")]
        assert logd.run("consume", "t").stdout == data


def _begin(logd: Logd, *arguments: str) -> Any:
    return json.loads(logd.run(*arguments, "--no-wait", "--json").stdout)


def test_a_damaged_hot_segment_is_given_up_for_its_chunks(
    tmp_path: Path, rng: random.Random
) -> None:
    """Committed, its hot file still here and rotten: scrub finds it, and readers get the chunks.

    Before that the other way round: three nodes are lost, and what is here is coded anew.
    """
    with server_with_nodes(tmp_path, "cold.grace.ms=3600000") as server:
        logd = Logd(server)
        data = lines(rng, 5_000)
        logd.run("topic", "create", "t", "--partitions", "1", "--config", SMALL,
                 "--config", "cold.profile=4+2")  # fmt: skip
        logd.json("produce", "t", stdin=data)
        logd.json("cold", "encode", "t")
        # So that it is certain that a segment has too few chunks: each leaves out one of the nodes.
        lost = [each["node"] for each in coded_rows(logd)[0]["chunks"]][:3]
        assert server.stop() == 0  # It has no file open by which a lost chunk could be read.
        for node in lost:
            shutil.rmtree(tmp_path / node)
        server.start()
        logd = Logd(server)
        until(lambda: [*states(logd).values()].count("dead") == 3, "three nodes are dead")
        assert ask(logd, "status")["segments_by_margin"]["lost"] == 0
        until(  # While only two were known to be dead, there was a target for one chunk.
            lambda: (
                {item["state"] for item in ask(logd, "repair?dry_run=true")["items"]}
                == {"no-target"}
            ),
            "there are too few nodes",
        )
        items = ask(logd, "repair?dry_run=true")["items"]
        assert any("its hot copy is here" in item["reason"] for item in items)
        for node in lost:
            logd.json("node", "replace", node)
        until(  # An empty node counts for what it has until it was looked through.
            lambda: is_whole(logd) and {row["generation"] for row in coded_rows(logd)} >= {2},
            "what was lost is made again or coded anew",
        )
        first, second, *_ = sorted((tmp_path / "data" / "topics" / "t-0").glob("*.log"))
        flip(second, 5000)
        done = run_logd("scrub", "start", "--wait", environment=logd.environment)
        assert done.returncode in (0, 4), "it may be mended before scrub ends, or after"
        until(lambda: not second.exists(), "the damaged file is given up")
        findings = logd.json("scrub", "status")["findings"]
        (found,) = (each for each in findings if each["chunk"] is None)
        assert (found["state"], found["node"]) == ("corrupt", None)
        assert found["mended_ms"] >= found["found_ms"]
        assert first.exists()
        assert logd.run("consume", "t").stdout == data
        assert logd.json("status")["problems"] == []
        assert server.stop() == 0


def test_a_server_without_nodes_scrubs_its_segments(tmp_path: Path, rng: random.Random) -> None:
    """All sealed bytes are verified when asked for; what is damaged is named, with exit 4."""
    with ServerProcess(tmp_path / "data", "--set", "disk.reserve.bytes=0") as server:
        logd = Logd(server)
        logd.run("topic", "create", "t", "--partitions", "1", "--config", SMALL)
        logd.json("produce", "t", stdin=lines(rng, 5_000))
        sealed = [row for row in logd.json("segments", "t") if row["state"] == "sealed"]
        before = logd.json("scrub", "start", "--wait")
        assert before["verified_bytes"] >= sum(row["size_bytes"] for row in sealed) > 0
        assert before["findings"] == []
        flip(min((tmp_path / "data" / "topics" / "t-0").glob("*.log")), 5000)
        (found,) = logd.json("scrub", "start", "--wait", code=4)["findings"]
        assert (found["topic"], found["base_offset"], found["node"]) == ("t", 0, None)
        assert found["mended_ms"] is None
        assert server.stop() == 0
