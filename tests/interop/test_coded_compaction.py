"""A compacted topic of which segments are in chunks: a real client, a server, storage nodes.

What a consumer is to see comes from a dict that the client's own acknowledgements fill.
"""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

from confluent_kafka.admin import ResourceType

from ec.chunk_id import ChunkId
from ec.node_dir import is_chunk_name
from tests.interop.compacted import Model, alter, create, produce, random_pairs, read, survivors
from tests.interop.test_cold_segments import (
    ask,
    chunks,
    coded_rows,
    lose,
    problems,
    rows,
    server_with_nodes,
    until,
)
from tests.logd_command import Logd

SETTINGS = {
    "cold_profile": "4+2",
    "cold_grace_ms": "0",
    "cold_enable": "true",
    "file_delete_delay_ms": "0",
    "segment_bytes": "20000",
}

# Only what a test asks for is compacted.
QUIET = ("--set", "log.cleaner.enable=false")

ATTEMPTS_MAX = 8
"""A machine may be so busy that a round is over before anybody sees that it is half way."""

PART_BYTES = 50_000
"""Two or three segments: a round over all of them has many parts."""


def filled(
    logd: Logd, rng: random.Random, model: Model, *, count: int = 1500, keys: int = 200
) -> None:
    """Append records of random keys to the topic t."""
    pairs = random_pairs(rng, count, keys=keys)
    produce(logd.server, "t", pairs, model, **{"batch.num.messages": 50})


def check(logd: Logd, model: Model, *, is_clean: bool = True) -> None:
    """Read all from 0: of each key its last record, where it was; and nothing else, if clean."""
    messages = read(logd.server, "t")
    assert survivors(messages) == model
    if is_clean:
        assert len(messages) == len(model)


def all_released(logd: Logd) -> None:
    """Wait until all that is sealed is coded, and only in chunks."""

    def are() -> bool:
        sealed = [row for row in rows(logd) if row["state"] != "active"]
        return bool(sealed) and all(row["state"] == "coded" and not row["hot"] for row in sealed)

    until(are, "all sealed segments are released")


def check_no_orphans(logd: Logd, directory: Path, names: str) -> None:
    """Nodes come to hold the chunks of what is coded now, all of them, and no others."""

    def wanted() -> set[tuple[int, int, int]]:
        return {
            (row["base_offset"], row["generation"], index)
            for row in coded_rows(logd)
            for index in range(row["k"] + row["m"])
        }

    def found() -> list[tuple[int, int, int]]:
        ids = [ChunkId.parse(name) for name in chunks(directory, names) if is_chunk_name(name)]
        return [(each.base_offset, each.generation, each.index) for each in ids]

    until(lambda: sorted(found()) == sorted(wanted()), "old chunks are gone, new ones are there")
    # While it is written a chunk has another name.
    until(lambda: all(map(is_chunk_name, chunks(directory, names))), "no half of a chunk is left")


def test_released_segments_are_compacted(tmp_path: Path, rng: random.Random) -> None:
    """Accepted, coded, released, overwritten, compacted: from 0 exactly the last of each key."""
    model: Model = {}
    with server_with_nodes(tmp_path, more=QUIET) as server:
        logd = Logd(server)
        create(server, "t", **SETTINGS)
        filled(logd, rng, model)
        assert logd.json("cold", "encode", "t")["failed"] == 0
        all_released(logd)
        before = {row["base_offset"]: row["generation"] for row in coded_rows(logd)}
        check(logd, model, is_clean=False)
        filled(logd, rng, model)
        (row,) = logd.json("compact", "t")
        assert row["error"] is None
        assert row["records_after"] == len(model) < row["records_before"]
        assert row["bytes_after"] < row["bytes_before"]
        check(logd, model)
        all_released(logd)
        check(logd, model)
        after = {row["base_offset"]: row["generation"] for row in coded_rows(logd)}
        assert after[0] == before[0] + 1
        check_no_orphans(logd, tmp_path, "abcdef")
        assert problems(logd) == []
        assert logd.json("cold", "verify", "t")["findings"] == []
        alter(server, ResourceType.TOPIC, "t", cleanup_policy="compact,delete")
        assert server.stop() == 0
        server.start()
        check(Logd(server), model)


def test_a_killed_server_has_one_or_the_other(tmp_path: Path, rng: random.Random) -> None:
    """kill -9 at any moment of a round, twice: each key's last record is there; then it goes on."""
    model: Model = {}
    with server_with_nodes(tmp_path) as server:
        logd = Logd(server)
        create(server, "t", **SETTINGS)
        filled(logd, rng, model)
        logd.json("cold", "encode", "t")
        all_released(logd)
        for _ in range(2):
            filled(logd, rng, model)
            logd.run("compact", "t", "--no-wait")
            time.sleep(rng.uniform(0.3, 2.0))
            server.kill()
            server.start()
            logd = Logd(server)
            check(logd, model, is_clean=False)
        filled(logd, rng, model, count=100)
        (row,) = logd.json("compact", "t")
        assert row["error"] is None
        check(logd, model)
        all_released(logd)
        check(logd, model)
        check_no_orphans(logd, tmp_path, "abcdef")
        check_no_leftovers(server.data)
        assert problems(logd) == []


def test_a_server_killed_between_the_parts_of_a_round(tmp_path: Path, rng: random.Random) -> None:
    """kill -9 with some parts of a round committed and others not, twice: each key's last record is
    there, and `logd compact` by hand brings the rest to its end, in parts as well.
    """
    model: Model = {}
    parts = ("--set", f"log.cleaner.coded.max.bytes={PART_BYTES}")
    with server_with_nodes(tmp_path, more=(*parts, *QUIET)) as server:
        logd = Logd(server)
        create(server, "t", **SETTINGS)
        filled(logd, rng, model, count=3000, keys=2000)
        logd.json("cold", "encode", "t")
        all_released(logd)
        between = attempts = 0
        while between < 2:
            attempts += 1
            assert attempts <= ATTEMPTS_MAX, "the rounds were killed behind their last parts"
            filled(logd, rng, model, count=300, keys=2000)
            logd.json("cold", "encode", "t")
            all_released(logd)
            before = encodings(logd)
            logd.run("compact", "t", "--no-wait")
            until(partial(has_begun, logd, before), "a part is done")
            server.kill()
            server.start()
            logd = Logd(server)
            check(logd, model, is_clean=False)
            between += bool(before & encodings(logd))
        (row,) = logd.json("compact", "t")
        assert row["error"] is None
        check(logd, model)
        all_released(logd)
        check(logd, model)
        check_no_orphans(logd, tmp_path, "abcdef")
        check_no_leftovers(server.data)
        assert problems(logd) == []
        assert logd.json("cold", "verify", "t")["findings"] == []


def has_begun(logd: Logd, before: set[tuple[int, int]]) -> bool:
    """Whether some of what was coded before a round is superseded."""
    return bool(before - encodings(logd))


def encodings(logd: Logd) -> set[tuple[int, int]]:
    """What is coded: each segment with the number of its generation."""
    return {(row["base_offset"], row["generation"]) for row in coded_rows(logd)}


def check_no_leftovers(data: Path) -> None:
    """No file of a round is left."""
    names = [path.name for path in Path(data, "topics", "t-0").iterdir()]
    assert not [name for name in names if "cleaned" in name or "replacement" in name]


def test_a_node_is_lost_meanwhile(tmp_path: Path, rng: random.Random) -> None:
    """The round reads and writes round it; later no chunk is missing, and none is too many."""
    model: Model = {}
    with server_with_nodes(tmp_path, "abcdefg", more=QUIET) as server:
        logd = Logd(server)
        create(server, "t", **SETTINGS)
        filled(logd, rng, model)
        logd.json("cold", "encode", "t")
        all_released(logd)
        filled(logd, rng, model)
        logd.run("compact", "t", "--no-wait")
        lose(tmp_path / "c")
        until(
            lambda: (
                {node["name"] for node in ask(logd, "nodes") if node["state"] != "live"} == {"c"}
            ),
            "the node is seen to be gone",
        )
        (row,) = logd.json("compact", "t")
        assert row["error"] is None
        check(logd, model)
        until(lambda: ask(logd, "status")["segments_by_margin"]["lost"] == 0, "nothing is lost")
        check(logd, model)
