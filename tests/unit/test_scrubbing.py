"""Scrub as it is carried out: every chunk, at its rate, from where it stopped; what it finds."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ec.chunk_id import ChunkId
from ec.errors import ChunkDamagedError, ChunkVersionError
from logd.cold.scrubbing import Scrubber, ScrubSettings
from logd.errors import CorruptFileError
from logd.metrics import Registry
from logd.policy.cold.condition import ChunkState
from logd.policy.cold.leases import Work
from logd.policy.cold.scrub_plan import ScrubCursor
from logd.policy.node_health import NodeHealth
from logd.storage.files import Files
from logd.storage.scrub_note import ScrubNote, read_scrub_note, write_scrub_note
from logd.units import DAY_MS, MIB
from tests.unit.repair_rig import RepairRig

BLOCK = 65_536


@pytest.fixture
def rig(directory: str) -> RepairRig:
    """Seven nodes."""
    return RepairRig(directory)


async def one_pass(rig: RepairRig) -> float:
    """Have everything verified once; return how long it took."""
    await rig.wait_for(lambda: "a" in rig.scrubber._places)
    rig.scrubber.start()
    return await rig.wait_for(lambda: not rig.scrubber.is_hurrying)


async def test_every_chunk_is_verified_parity_too(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """A rotten block in any chunk, or a rotten head, is found by one pass, named, and mended."""
    segments = [rig.code("abcdef", size=900_000) for _ in range(3)]
    rig.rot(segments[0], 0, BLOCK + 3)
    rig.rot(segments[1], 5, 10)
    rig.rot(segments[2], 3, -300)
    rig.lose(segments[2], 4)
    async with rig.running():
        rig.scrubber.start()
        await one_pass(rig)
        await rig.wait_for(lambda: not rig.health.unmended() and rig.is_whole())
        found = rig.scrubber.status()["findings"]
    rig.check_whole()
    assert sorted((each["base_offset"] // 1_000_000, each["chunk"]) for each in found) == [
        (0, 0), (1, 5), (2, 3), (2, 4),
    ]  # fmt: skip
    assert all(each["mended_ms"] >= each["found_ms"] for each in found)
    (first,) = (each for each in found if each["base_offset"] == 0)
    assert f"payload at byte {BLOCK}" in first["reason"]
    assert (first["topic"], first["node"], first["state"]) == ("sample", "a", "corrupt")


async def test_a_pass_that_is_asked_for_at_once_is_made(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Who asks as soon as the server runs is told that it runs, and all is verified."""
    rig.code("abcdef")
    async with rig.running():
        await rig.scrubber.begun()
        rig.scrubber.start()
        assert rig.scrubber.status()["state"] == "running"
        await rig.wait_for(lambda: not rig.scrubber.is_hurrying)
        assert rig.scrubber.status()["verified_bytes"] >= sum(
            len(data) for sample in rig.samples.values() for data in sample.files
        )


async def test_a_pass_that_people_want_has_an_end(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Then it is idle until the cycle's next round; all bytes were verified."""
    for _ in range(3):
        rig.code("abcdef")
    async with rig.running():
        await one_pass(rig)
        status = rig.scrubber.status()
        assert (status["state"], status["progress"], status["eta_s"]) == ("idle", 1.0, 0.0)
        assert status["verified_bytes"] >= sum(
            len(data) for sample in rig.samples.values() for data in sample.files
        )
        assert status["oldest_unverified_s"] < 60


async def test_it_keeps_its_rate_and_tells_its_end(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """1 MiB a second at most, for each node: 4 MB a node take four seconds, as was told."""
    rig.scrub_settings = ScrubSettings(cycle_ms=14 * DAY_MS, rate_bytes=MIB)
    rig.open()
    for _ in range(8):
        rig.code("abcdef", size=2_000_000)
    async with rig.running():
        rig.scrubber.start()
        await rig.wait_for(lambda: rig.scrubber.verified_bytes > 6_000_000)
        eta_s = rig.scrubber.status()["eta_s"]
        left_s = await rig.wait_for(lambda: rig.scrubber.state == "idle")
    assert left_s == pytest.approx(eta_s, rel=0.2, abs=0.3)


async def test_the_end_of_a_pass_without_a_rate_is_that_of_the_slowest_node(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """As fast as devices go, one of them five times slower: wrong by less than a fifth.

    From the first eighth of a pass on, up to where less than an eighth is left.
    """
    for _ in range(40):
        rig.code("abcdef", size=400_000)
    for node in rig.nodes.by_name.values():
        node.delay_s = 0.2
    rig.nodes["c"].delay_s = 1.0
    told: list[tuple[float, float | None]] = []
    async with rig.running():
        await rig.scrubber.begun()
        rig.scrubber.start()
        began_s = trio.current_time()

        def is_over() -> bool:
            told.append((trio.current_time() - began_s, rig.scrubber.status()["eta_s"]))
            return rig.scrubber.state == "idle"

        await rig.wait_for(is_over)
    took_s = told[-1][0]
    assert took_s > 30
    checked = [each for each in told if took_s / 8 <= each[0] <= took_s * 7 / 8]
    assert len(checked) > 20
    for at_s, eta_s in checked:
        assert eta_s == pytest.approx(took_s - at_s, rel=0.2), f"at {at_s:.1f} of {took_s:.1f} s"


async def test_large_chunks_are_read_in_windows_at_a_low_rate(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """A chunk of 1.5 MB at 50 kB a second is not read at a stretch; rot in it is found as well."""
    rig.scrub_settings = ScrubSettings(cycle_ms=14 * DAY_MS, rate_bytes=50_000)
    rig.open()
    one = rig.code("abcdef", size=6_000_000)
    rig.rot(one, 2, 1_400_000)
    async with rig.running():
        began_s = trio.current_time()
        await rig.wait_for(lambda: bool(rig.health.records()))
        assert trio.current_time() - began_s > 10
    assert rig.health.records()[0].place.index == 2


async def test_a_cycle_that_cannot_be_kept_is_a_warning(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """With the sum, for each node."""
    rig.scrub_settings = ScrubSettings(cycle_ms=10_000, rate_bytes=1000)
    rig.open()
    rig.code("abcdef")
    async with rig.running():
        await rig.wait_for(lambda: len(rig.scrubber.warnings()) == 6)
        assert "scrub.rate.bytes allows 1000 B" in rig.scrubber.warnings()[0]
        assert rig.scrubber.status()["warnings"] == rig.scrubber.warnings()


async def test_it_goes_on_where_it_stopped(rig: RepairRig, autojump_clock: MockClock) -> None:
    """A restart in the middle of a round reads what is left, not what is done."""
    rig.scrub_settings = ScrubSettings(cycle_ms=14 * DAY_MS, rate_bytes=MIB)
    rig.open()
    for _ in range(12):
        rig.code("abcdef", size=1_000_000)
    total = sum(len(data) for sample in rig.samples.values() for data in sample.files)
    async with rig.running():
        await rig.wait_for(lambda: rig.scrubber.verified_bytes > total // 2)
        before = rig.scrubber.verified_bytes
    rig.open()
    async with rig.running():
        await rig.wait_for(lambda: "f" in rig.scrubber._places and rig.scrubber.state == "idle")
        assert before + rig.scrubber.verified_bytes == pytest.approx(total, rel=0.12)


async def test_a_pause_holds_over_a_restart(rig: RepairRig, autojump_clock: MockClock) -> None:
    """Until it is resumed."""
    rig.scrub_settings = ScrubSettings(cycle_ms=14 * DAY_MS, rate_bytes=100_000)
    rig.open()
    for _ in range(5):
        rig.code("abcdef")
    async with rig.running():
        await rig.wait_for(lambda: bool(rig.scrubber._places))
        rig.scrubber.pause()
        await trio.sleep(60)
    rig.open()
    async with rig.running():
        await trio.sleep(3600)
        assert (rig.scrubber.state, rig.scrubber.verified_bytes) == ("paused", 0)
        rig.scrubber.resume()
        await rig.wait_for(lambda: rig.scrubber.state == "idle" and rig.scrubber.verified_bytes > 0)


async def test_a_node_that_is_away_is_no_finding(rig: RepairRig, autojump_clock: MockClock) -> None:
    """Its cursor stays; the others' rounds end; when it is back its round ends too."""
    rig.code("abcdef")
    rig.nodes.set_health("c", NodeHealth.SUSPECT)
    async with rig.running():
        await one_pass(rig)
        assert rig.health.records() == []
        assert rig.scrubber._places["c"].order.left_bytes(rig.scrubber._places["c"].cursor) > 0
        rig.nodes.set_health("c", NodeHealth.LIVE)
        await rig.wait_for(lambda: rig.scrubber.state == "idle")


async def test_an_intact_chunk_of_another_encoding_is_found(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Every block has its checksum, and it is not the chunk that was committed."""
    one = rig.code("abcdef")
    name = rig.samples[one.encoding].ids[3].name
    sample = rig.samples[one.encoding]
    other = rig.code("abcdeg")
    rig.nodes["d"].files[name] = rig.samples[other.encoding].files[3]
    async with rig.running():
        await one_pass(rig)
        await rig.wait_for(lambda: not rig.health.unmended())
    assert rig.nodes["d"].files[name] == sample.files[3]
    assert [each.place.node for each in rig.health.records()] == ["d"]


async def test_a_chunk_of_a_newer_version_holds_up_no_round(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """It cannot be used here, and that is said; the others on its node have their turn."""
    one, two = rig.code("abcdef"), rig.code("abcdef")
    newer = rig.samples[one.encoding].ids[2]
    verify = rig.nodes["c"].verify

    async def verify_or_not(chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        if chunk == newer:
            raise ChunkVersionError(chunk.name, 2, 1)
        return await verify(chunk)

    vars(rig.nodes["c"])["verify"] = verify_or_not
    rig.rot(two, 2)
    async with rig.running():
        await one_pass(rig)
        found = {(each.place.encoding, each.state) for each in rig.health.records()}
        assert found == {(each.encoding, ChunkState.CORRUPT) for each in (one, two)}


async def test_what_others_work_on_is_verified_all_the_same(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """A pass leaves nothing out; only for a repair it waits."""
    one, two = rig.code("abcdef"), rig.code("abcdef")
    moved = rig.tier.leases.take(Work.MOVE, [one.key])
    repaired = rig.tier.leases.take(Work.REPAIR, [two.key])
    assert moved is not None
    assert repaired is not None
    async with rig.running():
        rig.rot(one, 1)
        await rig.wait_for(lambda: len(rig.scrubber._places) == 8)
        rig.scrubber.start()
        await rig.wait_for(lambda: len(rig.health.records()) == 1)
        await trio.sleep(60)
        assert rig.scrubber.is_hurrying
        rig.tier.leases.give_back(repaired)
        await rig.wait_for(lambda: not rig.scrubber.is_hurrying, seconds=30)
        rig.tier.leases.give_back(moved)


async def test_cursors_that_cannot_be_read_end_nothing(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """A bad sector under the note: the round begins anew, and the event log says why."""

    def refuse() -> ScrubNote:
        raise OSError(errno.EIO, "Input/output error")

    services = replace(rig._scrub_services(), read_note=refuse, metrics=Registry())
    rig.scrubber = Scrubber(rig.tier, rig.findings, rig.health, rig.scrub_settings, services)
    one = rig.code("abcdef")
    rig.rot(one, 1)
    async with rig.running():
        await one_pass(rig)
        await rig.wait_for(rig.is_whole)
    rig.check_whole()


def test_the_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Cursors with and without a position; a damaged note is an error, not a guess."""
    path = str(tmp_path / "scrub")
    note = ScrubNote(
        True,
        {
            "": ScrubCursor(start="ab", began_ms=5),
            "n1": ScrubCursor(
                start="", began_ms=7, at="x", previous_ms=3, verified_bytes=9, rounds=2
            ),
        },
    )
    write_scrub_note(Files(), path, note)
    assert read_scrub_note(Files(), path) == note
    with pytest.raises(FileNotFoundError):
        read_scrub_note(Files(), path + "x")
    broken = replace(note, cursors={"n": ScrubCursor(start="a" * 300, began_ms=1)})
    write_scrub_note(Files(), path, broken)
    with pytest.raises(CorruptFileError):
        read_scrub_note(Files(), path)
