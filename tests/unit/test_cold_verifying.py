"""`logd cold verify`: what is wrong is named by node, chunk and block, and nothing else is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from msgspec import structs
from trio.testing import MockClock

from ec.chunk_file import ChunkHead
from ec.chunk_id import ChunkId
from logd.cold.segment_errors import ColdRefusedError
from logd.cold.verifying import AT_ONCE, UNFINISHED_MAX, VerifyJob
from tests.unit.life_rig import ColdRig
from tests.unit.log_builder import TOPIC_ID


@asynccontextmanager
async def coded(directory: str) -> AsyncIterator[ColdRig]:
    """A rig with three coded segments, and a verifier that runs."""
    rig = ColdRig(directory)
    await rig.start()
    for base in rig.bases:
        await rig.life.encoder.encode(rig.partition, base)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.life.verifier.run)
        await trio.testing.wait_all_tasks_blocked()
        yield rig
        nursery.cancel_scope.cancel()


async def verified(rig: ColdRig) -> dict[str, Any]:
    """Verify everything; return the document."""
    job = rig.life.verifier.begin("t", rig.partitions())
    return await ended(job)


async def ended(job: VerifyJob) -> dict[str, Any]:
    """Wait for a job."""
    await job.over.wait()
    document = job.as_document()
    assert document["error"] is None
    assert document["progress"] == 1.0
    return document


def chunk_name(rig: ColdRig, base: int, index: int) -> tuple[str, str]:
    """Return node and name of a chunk."""
    generation = rig.live(base)
    assert generation is not None
    node = generation.held[index]
    (name,) = [
        name
        for name in rig.nodes[node].files
        if generation.encoding in name and name.endswith(f"-{index:02d}.chunk")
    ]
    return node, name


async def test_all_that_is_right_is_read_and_computed(
    directory: str, autojump_clock: MockClock
) -> None:
    """Three segments, eighteen chunks, no finding; every byte was checked."""
    async with coded(directory) as rig:
        found = await verified(rig)
        assert (found["segments"], found["chunks"], found["findings"]) == (3, 18, [])
        stored = sum(len(data) for node in rig.nodes.by_name.values()
                     for data in node.files.values())  # fmt: skip
        assert found["verified_bytes"] == stored
        assert found["decoded_bytes"] >= 6 * sum(map(len, rig.originals.values())) // 4


@pytest.mark.parametrize("index", [0, 3, 4, 5])
async def test_a_flipped_bit_is_named_by_node_chunk_and_block(
    directory: str, index: int, autojump_clock: MockClock
) -> None:
    """Once, and the segments list shows the chunk as corrupt."""
    async with coded(directory) as rig:
        base = rig.bases[1]
        node, name = chunk_name(rig, base, index)
        data = bytearray(rig.nodes[node].files[name])
        data[100] ^= 1
        rig.nodes[node].files[name] = bytes(data)
        (finding,) = (await verified(rig))["findings"]
        assert (finding["node"], finding["chunk"], finding["block"]) == (node, index, 0)
        assert (finding["state"], finding["base_offset"]) == ("corrupt", base)
        assert "block 0" in finding["reason"]
        assert len(rig.life.findings) == 1


async def test_missing_chunks_and_silent_nodes_are_findings_of_their_own_kind(
    directory: str, autojump_clock: MockClock
) -> None:
    """Missing is known; what a node that does not answer has is not."""
    async with coded(directory) as rig:
        base = rig.bases[0]
        node, name = chunk_name(rig, base, 2)
        del rig.nodes[node].files[name]
        (finding,) = (await verified(rig))["findings"]
        assert (finding["state"], finding["node"], finding["chunk"]) == ("missing", node, 2)
        rig.nodes["f"].mode = "dead"
        found = (await verified(rig))["findings"]
        states = sorted(each["state"] for each in found)
        assert states.count("unknown") == 3
        assert all(each["node"] == "f" for each in found if each["state"] == "unknown")


async def test_a_chunk_of_another_encoding_is_known_from_then_on(
    directory: str, autojump_clock: MockClock
) -> None:
    """Intact, under the right name, with another manifest: repair and `logd status` hear of it."""
    async with coded(directory) as rig:
        node, name = chunk_name(rig, 0, 4)
        head = rig.nodes[node].head

        async def other(chunk: ChunkId) -> ChunkHead:
            found = await head(chunk)
            if chunk.name != name:
                return found
            return replace(found, manifest=structs.replace(found.manifest, writer="another"))

        vars(rig.nodes[node])["head"] = other
        (found,) = (await verified(rig))["findings"]
        assert (found["node"], found["chunk"], found["state"]) == (node, 4, "corrupt")
        (place,) = [place for place, _ in rig.life.findings]
        assert (place.node, place.index) == (node, 4)


async def test_what_is_deleted_meanwhile_is_no_finding(
    directory: str, autojump_clock: MockClock
) -> None:
    """Its chunks vanish while they are read, and nobody is to blame."""
    async with coded(directory) as rig:
        for node in rig.nodes.by_name.values():
            node.mode = "slow"
        job = rig.life.verifier.begin("t", rig.partitions())
        await trio.sleep(1)
        generation = rig.live(rig.bases[0])
        assert generation is not None
        await rig.tier.delete_segments([generation.key])
        for node in rig.nodes.by_name.values():
            node.files = {
                name: data for name, data in node.files.items() if generation.encoding not in name
            }
        document = await ended(job)
        assert document["findings"] == []
        assert document["segments"] == 3


async def test_asking_again_joins_and_a_verifier_that_does_not_run_refuses(
    directory: str, autojump_clock: MockClock
) -> None:
    """One verification of the same partitions at a time."""
    async with coded(directory) as rig:
        job = rig.life.verifier.begin("t", rig.partitions())
        assert rig.life.verifier.begin("t", rig.partitions()) is job
        assert rig.life.verifier.job(job.id) is job
        await ended(job)
        assert rig.life.verifier.begin("t", rig.partitions()) is not job
        assert rig.tier.coverage(TOPIC_ID, 0).generations
    await rig.open_tier()
    with pytest.raises(ColdRefusedError):
        rig.life.verifier.begin("t", rig.partitions())


async def test_a_few_are_verified_at_once_and_others_wait_for_their_turn(
    directory: str, autojump_clock: MockClock
) -> None:
    """However many are asked for; beyond a limit they are refused, and all end."""
    async with coded(directory) as rig:
        for node in rig.nodes.by_name.values():
            node.mode = "slow"
        topics = [f"t{number}" for number in range(UNFINISHED_MAX)]
        jobs = [rig.life.verifier.begin(topic, rig.partitions()) for topic in topics]
        with pytest.raises(ColdRefusedError, match="100 verifications"):
            rig.life.verifier.begin("one more", rig.partitions())
        assert rig.life.verifier.begin(topics[-1], rig.partitions()) is jobs[-1]
        await trio.sleep(0.1)
        assert sum(job.all_bytes > 0 for job in jobs) == AT_ONCE
        for node in rig.nodes.by_name.values():
            node.mode = "well"
        for job in jobs[: 2 * AT_ONCE]:
            assert (await ended(job))["segments"] == 3
