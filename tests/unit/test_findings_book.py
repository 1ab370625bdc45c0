"""What was found wrong with chunks outlives the process: findings, also mended, and quarantine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from logd.errors import CorruptFileError
from logd.policy.cold.condition import ChunkPlace, ChunkState
from logd.policy.cold.finding_record import REASON_MAX, FindingRecord, PutAside, shortened
from logd.policy.cold.values import SegmentKey
from logd.storage.data_directory import DataDirectory
from logd.storage.files import Files
from logd.storage.findings_note import (
    PUT_ASIDE_MAX,
    RECORDS_MAX,
    FindingsNote,
    read_findings_note,
    write_findings_note,
)
from logd.storage.state_file import write_state
from logd.units import HOUR_MS
from tests.unit.test_cold_life import until
from tests.unit.upkept_rig import UpkeptRig


def record(number: int = 0, **changes: Any) -> FindingRecord:
    """Return a finding with everything in it."""
    fields: dict[str, Any] = {
        "key": SegmentKey(b"t" * 16, 3, 70 + number), "generation": 2,
        "place": ChunkPlace("ab" * 16, 5, "n1"), "state": ChunkState.CORRUPT, "reason": "ä \n 'x'",
        "found_ms": 17, "mended_ms": None, "block": 4,
    }  # fmt: skip
    return FindingRecord(**(fields | changes))


def test_the_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Every field, whatever a node's name or reason has in it."""
    path = str(tmp_path / "findings")
    note = FindingsNote(
        (record(), record(1, state=ChunkState.MISSING, block=None, mended_ms=99)),
        {ChunkState.CORRUPT: 7, ChunkState.MISSING: 1},
        (PutAside("n2", "a.chunk", "no record \udc80", 5),), 12,
    )  # fmt: skip
    write_findings_note(Files(), path, note)
    assert read_findings_note(Files(), path) == note
    with pytest.raises(FileNotFoundError):
        read_findings_note(Files(), path + "x")


def test_the_longest_note_fits(tmp_path: Path) -> None:
    """A thousand records with the longest reasons there are."""
    path = str(tmp_path / "findings")
    reason = shortened("\U0001f980" * 1000)
    assert len(reason) == REASON_MAX
    note = FindingsNote(
        tuple(record(number, reason=reason) for number in range(RECORDS_MAX)), {},
        tuple(PutAside("n", "c" * 200, reason, 1) for _ in range(PUT_ASIDE_MAX)), 10**9,
    )  # fmt: skip
    write_findings_note(Files(), path, note)
    assert read_findings_note(Files(), path) == note


@pytest.mark.parametrize(
    "payload",
    [
        b"[]", b"{}", b"\xff",
        b'{"records": [{}], "found": {}, "put_aside": [], "put_aside_count": 0}',
        b'{"records": [], "found": {"live": 1}, "put_aside": [], "put_aside_count": 0}',
        b'{"records": [], "found": {}, "put_aside": [], "put_aside_count": -1}',
    ],
)  # fmt: skip
def test_what_is_no_note_is_an_error_and_no_guess(tmp_path: Path, payload: bytes) -> None:
    """And the data directory goes on as if there were none."""
    path = str(tmp_path / "data" / "findings")
    directory = DataDirectory.open(Files(), str(tmp_path / "data"), boot_id="b", pid=1)
    write_state(Files(), path, payload, version=1)
    with pytest.raises(CorruptFileError):
        read_findings_note(Files(), path)
    assert directory.read_findings_note() == FindingsNote()
    directory.write_findings_note(FindingsNote((record(),)))
    assert directory.read_findings_note().records == (record(),)
    directory.close()


# --- over a restart -------------------------------------------------------------------------------


@asynccontextmanager
async def running(rig: UpkeptRig) -> AsyncIterator[None]:
    """Let the life of segments run; then stop it as a server does."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.life.run)
        yield
        await rig.life.stop()


def flip(rig: UpkeptRig, index: int, position: int) -> str:
    """Flip a bit of a chunk of the first segment; return its node."""
    generation = rig.live(rig.bases[0])
    assert generation is not None
    node = rig.nodes[generation.held[index]]
    [name] = [name for name in node.files if generation.encoding in name]
    data = bytearray(node.files[name])
    data[position] ^= 1
    node.files[name] = bytes(data)
    return node.node


def shown(rig: UpkeptRig) -> dict[str, Any]:
    """What `logd scrub status` has."""
    return rig.upkeep.scrubber.status()


async def made(directory: str) -> UpkeptRig:
    """Two coded segments on seven nodes."""
    rig = UpkeptRig(directory, names="abcdefg")
    await rig.start(segments=2, cold_grace_ms=HOUR_MS)
    return rig


async def test_findings_stand_after_a_restart_and_are_history_when_mended(
    directory: str, autojump_clock: MockClock
) -> None:
    """Found, not mended, started anew: known at once; mended then, and still told of."""
    rig = await made(directory)
    async with running(rig):
        await until(lambda: rig.states() == ["committed"] * 2)
        rig.nodes.stale = "nothing is repaired for now"
        node = flip(rig, 1, 7)
        rig.upkeep.scrubber.start()
        await until(lambda: shown(rig)["findings"] != [])
        [found] = shown(rig)["findings"]
    assert (found["node"], found["chunk"], found["block"], found["mended_ms"]) == (node, 1, 0, None)
    await rig.restart()
    async with running(rig):
        await until(lambda: shown(rig)["findings"] == [found])
        assert shown(rig)["found_total"] == {"corrupt": 1}
        await until(lambda: [item["state"] for item in rig.queue()] == ["ready"])
        rig.nodes.stale = None
        rig.upkeep.repairer.wake()
        await until(lambda: rig.upkeep.health.counts().is_well and not rig.queue())
        [mended] = shown(rig)["findings"]
        assert mended["mended_ms"] >= mended["found_ms"] == found["found_ms"]
    await rig.restart()
    async with running(rig):
        await until(lambda: shown(rig)["findings"] == [mended])
        assert shown(rig)["found_total"] == {"corrupt": 1}
        assert rig.queue() == []
    await rig.check_readable()


async def test_a_chunk_that_was_put_right_meanwhile_is_not_made_again(
    directory: str, autojump_clock: MockClock
) -> None:
    """The finding stands until its node was looked through, and nothing is written."""
    rig = await made(directory)
    async with running(rig):
        await until(lambda: rig.states() == ["committed"] * 2)
        rig.nodes.stale = "nothing is repaired for now"
        flip(rig, 4, 7)
        rig.upkeep.scrubber.start()
        await until(lambda: shown(rig)["findings"] != [])
    flip(rig, 4, 7)
    rig.nodes.stale = None
    await rig.restart()
    for node in rig.nodes.by_name.values():
        node.calls.clear()
    async with running(rig):
        await until(lambda: [each["mended_ms"] for each in shown(rig)["findings"]] != [])
        await until(lambda: shown(rig)["findings"][0]["mended_ms"] is not None)
        assert rig.upkeep.repairer.counts.made == 0
    assert not any("begin" in node.calls for node in rig.nodes.by_name.values())


async def test_what_went_to_quarantine_is_counted_for_good(
    directory: str, autojump_clock: MockClock
) -> None:
    """A stray chunk is put aside once; the next run tells of it."""
    rig = await made(directory)
    async with running(rig):
        await until(lambda: rig.states() == ["committed"] * 2)
        generation = rig.live(rig.bases[0])
        assert generation is not None
        source = rig.nodes[generation.held[0]].files
        [name] = [name for name in source if generation.encoding in name]
        stray = name.replace(generation.encoding, "f" * 32)
        rig.nodes["a"].files[stray] = source[name]
    await rig.restart()
    async with running(rig):
        await until(lambda: shown(rig)["quarantined"]["total"] == 1)
        [aside] = shown(rig)["quarantined"]["latest"]
        assert (aside["node"], aside["chunk"]) == ("a", stray)
    await rig.restart()
    async with running(rig):
        await until(lambda: shown(rig)["quarantined"] == {"total": 1, "latest": [aside]})
