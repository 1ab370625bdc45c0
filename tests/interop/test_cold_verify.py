"""`logd cold verify`, and segments that were compressed again: a server and its commands."""

from __future__ import annotations

import random
from pathlib import Path

from tests.interop.test_cold_segments import (
    SMALL,
    ask,
    chunks,
    coded_rows,
    lines,
    make_topic,
    rows,
    server_with_nodes,
    until,
)
from tests.logd_command import Logd


def flip_a_byte(node: Path) -> Path:
    """Damage a chunk on a node; return its file."""
    path = next((node / "chunks").iterdir())
    data = bytearray(path.read_bytes())
    data[70_000] ^= 1
    path.write_bytes(data)
    return path


def test_every_chunk_is_verified_and_damage_is_named(tmp_path: Path, rng: random.Random) -> None:
    """All right: 0. A flipped byte, a lost file, a lost node: 4, with node, chunk and block."""
    with server_with_nodes(tmp_path) as server:
        logd = Logd(server)
        make_topic(logd, SMALL)
        logd.json("produce", "t", stdin=lines(rng, 5_000))
        encoded = logd.json("cold", "encode", "t")["encoded"]
        found = logd.json("cold", "verify", "t")
        assert (found["segments"], found["chunks"], found["findings"]) == (
            encoded, 6 * encoded, [],
        )  # fmt: skip
        assert b"all are right" in logd.run("cold", "verify", "t").stdout
        path = flip_a_byte(tmp_path / "c")
        next((tmp_path / "e" / "chunks").iterdir()).unlink()
        said = logd.run("cold", "verify", "t", code=4).stdout.decode()
        assert f"chunk {int(path.name[-8:-6])} on node c, block 1" in said
        assert "on node e: its node does not have it" in said
        assert "2 findings" in said
        flip_a_byte(tmp_path / "d")  # What was found is being mended by now.
        found = logd.json("cold", "verify", "t", code=4)
        seen = [(each["state"], each["node"], each["block"]) for each in found["findings"]]
        assert ("corrupt", "d", 1) in seen
        assert logd.run("cold", "verify", "nothing", code=1).stdout == b""
        assert logd.run("cold", "verify", "t", "--partition", "9", code=1).stdout == b""


def test_a_server_without_nodes_has_nothing_to_verify(tmp_path: Path) -> None:
    """It says so, and what to do."""
    with server_with_nodes(tmp_path, names="") as server:
        logd = Logd(server)
        make_topic(logd)
        assert b"node" in logd.run("cold", "verify", "t", code=1).stderr


def test_what_is_compressed_again_is_read_as_it_was(tmp_path: Path, rng: random.Random) -> None:
    """Smaller on the nodes, the same records for a consumer, coded and thawed."""
    with server_with_nodes(tmp_path) as server:
        logd = Logd(server)
        make_topic(logd, SMALL, "cold.compression=zstd")
        data = b"".join(b"line %d of a log that says the same again\n" % n for n in range(90_000))
        logd.json("produce", "t", "--compression", "lz4", stdin=data)
        logd.json("produce", "t", stdin=data)
        before = sum(row["size_bytes"] for row in rows(logd)[:-1])
        done = logd.json("cold", "encode", "t")
        assert done["failed"] == 0
        assert done["source_bytes"] < before / 2
        until(lambda: not any(row["hot"] for row in coded_rows(logd)), "the hot copies are gone")
        assert logd.run("consume", "t").stdout == data + data
        assert logd.json("cold", "verify", "t")["findings"] == []
        logd.json("cold", "thaw", "t")
        assert all(row["hot"] for row in coded_rows(logd))
        assert logd.run("consume", "t").stdout == data + data
        assert chunks(tmp_path)
        assert ask(logd, "status")["segments_by_margin"]["lost"] == 0
    assert not list(tmp_path.rglob("*.tmp"))
