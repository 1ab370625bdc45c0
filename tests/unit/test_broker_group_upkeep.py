"""Expiry, commits of deleted topics, snapshots: what happens to groups without a request."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from logd.broker.group_loading import load_groups, snapshot_pairs
from logd.errors import DiskFullError
from logd.units import DAY_MS, MINUTE_MS
from logd.wire.error_codes import ErrorCode
from tests.unit.broker_fakes import Server
from tests.unit.group_client import (
    beat,
    commit,
    committed,
    leave,
    restarted,
    stable,
    started,
)

RETENTION_MS = 7 * DAY_MS
NOTE = (1, -1, "")


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return trio.run(started, Server(tmp_path))


async def after(server: Server, duration_ms: int) -> None:
    """Let time pass on the wall clock, then look for what has expired."""
    server.group_services.clock.ms += duration_ms
    await server.upkeep.expire()


# --- expiry --------------------------------------------------------------------------------------


async def test_offsets_without_a_group_expire_after_their_commit(server: Server) -> None:
    """Each by itself; the group goes with its last one, and nothing of it stays in the log."""
    commit(server, {("t", 0): NOTE})
    await after(server, 60_000)
    commit(server, {("t", 1): NOTE})
    await after(server, RETENTION_MS - 60_001)
    assert len(committed(server)) == 2
    await after(server, 1)
    assert list(committed(server)) == [("t", 1)]
    await after(server, 60_000)
    assert server.groups.entries == {}
    assert server.group_log.kept() == {}
    assert server.group_services.turns_ended > 0


async def test_offsets_of_a_group_count_from_when_it_became_empty(server: Server) -> None:
    """Also over a restart; while members read the topic, they stay for ever."""
    (seat,) = stable(server)
    commit(server, {("t", 0): NOTE}, seat)
    await after(server, 3 * RETENTION_MS)
    assert list(committed(server)) == [("t", 0)]
    leave(server, seat.member_id)
    await after(server, RETENTION_MS - 1)
    server = await restarted(server)
    await server.upkeep.expire()
    assert list(committed(server)) == [("t", 0)]
    await after(server, 1)
    assert server.groups.entries == {}
    assert server.group_log.kept() == {}


async def test_topics_that_members_do_not_read_expire(server: Server) -> None:
    """A consumer group in use loses the offsets of topics that it left."""
    await server.topics.create("left", 1, {})
    (seat,) = stable(server)
    commit(server, {("t", 0): NOTE, ("left", 0): NOTE}, seat)
    await after(server, RETENTION_MS)
    assert list(committed(server)) == [("t", 0)]
    assert beat(server, seat) == 0


async def test_retention_is_a_setting(tmp_path: Path) -> None:
    """offsets.retention.minutes."""
    flags = {"offsets.retention.minutes": "1"}
    server = await started(Server(tmp_path, flags=flags))
    commit(server, {("t", 0): NOTE})
    await after(server, MINUTE_MS - 1)
    assert committed(server) != {}
    await after(server, 1)
    assert committed(server) == {}


async def test_an_empty_group_without_offsets_goes_at_the_next_round(server: Server) -> None:
    """With its record; one with a member to come stays."""
    (seat,) = stable(server)
    leave(server, seat.member_id)
    assert server.group_log.kept() != {}
    await server.upkeep.expire()
    assert server.groups.entries == {}
    assert server.group_log.kept() == {}


async def test_what_is_being_written_does_not_expire(server: Server) -> None:
    """A commit on its way renews its offset: the next round looks again."""
    commit(server, {("t", 0): NOTE})
    server.group_services.clock.ms += RETENTION_MS
    server.group_log.holds = True
    commit(server, {("t", 0): (2, -1, "")})
    await server.upkeep.expire()
    server.group_log.sync()
    assert committed(server) == {("t", 0): (2, -1, "")}


async def test_expiry_that_cannot_be_written_is_tried_again(server: Server) -> None:
    """A full disk keeps the offsets, no more."""
    commit(server, {("t", 0): NOTE})
    server.group_log.refuse_with = DiskFullError("full")
    await after(server, RETENTION_MS)
    assert committed(server) == {("t", 0): NOTE}
    server.group_log.refuse_with = None
    await server.upkeep.expire()
    assert server.groups.entries == {}


# --- deleted topics ------------------------------------------------------------------------------


async def test_commits_of_a_deleted_topic_go_with_it(server: Server) -> None:
    """Those of all groups, durably, before the delete returns; a topic of that name is new."""
    (seat,) = stable(server)
    await server.topics.create("stays", 1, {})
    commit(server, {("t", 0): NOTE, ("t", 1): NOTE, ("stays", 0): NOTE}, seat)
    commit(server, {("t", 0): NOTE}, group="simple")
    await server.topics.delete(server.topics.by_name["t"])
    assert list(committed(server)) == [("stays", 0)]
    assert list(server.groups.entries) == ["g"]
    await server.topics.create("t", 2, {})
    server = await restarted(server)
    assert list(committed(server)) == [("stays", 0)]
    assert beat(server, seat) == 0


async def test_a_commit_on_its_way_goes_with_its_topic(server: Server) -> None:
    """The tombstone lies behind it in the log."""
    server.group_log.holds = True
    commit(server, {("t", 0): NOTE})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.topics.delete, server.topics.by_name["t"])
        while len(server.group_log.waiting) < 2:
            await trio.lowlevel.checkpoint()
        assert server.group_services.turns_ended > 0
        server.group_log.sync()
    assert server.group_log.kept() == {}
    assert server.groups.entries == {}


async def test_a_delete_that_the_offsets_log_did_not_hear_of(server: Server) -> None:
    """Nobody finds the commits, and the next start takes them out of the log."""
    commit(server, {("t", 0): NOTE})
    server.group_log.refuse_with = DiskFullError("full")
    await server.topics.delete(server.topics.by_name["t"])
    assert committed(server) == {}
    server = await restarted(server)
    assert committed(server) == {("t", 0): NOTE}
    await server.upkeep.forget_unknown_topics()
    assert committed(server) == {}
    assert server.group_log.kept() == {}


# --- snapshots -----------------------------------------------------------------------------------


async def test_a_snapshot_holds_what_a_replay_would(server: Server) -> None:
    """All that is durable, as it is in the log, and nothing that is on its way."""
    (seat,) = stable(server)
    commit(server, {("t", 0): (7, 3, "note")}, seat)
    commit(server, {("t", 1): NOTE}, group="simple", version=3, retention_time_ms=DAY_MS)
    server.group_log.holds = True
    commit(server, {("t", 1): NOTE}, seat)
    server.group_log.due = [0]
    await server.upkeep.write_due_snapshots()
    pairs, offset = server.group_log.snapshots[0]
    assert pairs == server.group_log.kept()
    assert offset == len(server.group_log.records[0])
    server.group_log.records[0] = list(pairs.items())
    server = await restarted(server)
    assert committed(server) == {("t", 0): (7, 3, "note")}
    assert beat(server, seat) == 0
    assert dict(snapshot_pairs(server.groups, 0)) == pairs


async def test_a_snapshot_is_of_one_partition(tmp_path: Path) -> None:
    """Groups of others are not in it; a restart finds each group where it was."""
    server = Server(tmp_path)
    server.group_log.partitions = 2
    await started(server)
    for group in ("a", "bb", "c"):
        commit(server, {("t", 0): NOTE}, group=group)
    assert [len(dict(snapshot_pairs(server.groups, index))) for index in (0, 1)] == [1, 2]
    assert [len(server.group_log.kept(index)) for index in (0, 1)] == [1, 2]


async def test_tombstones_are_loaded_too(server: Server) -> None:
    """What was deleted stays so; groups of which nothing is left are not there."""
    commit(server, {("t", 0): NOTE})
    records = server.group_log.records[0]
    records.append((records[0][0], None))
    server = await restarted(server)
    assert server.groups.entries == {}


async def test_rounds_go_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """One that fails is logged; the next one is had in its time."""
    flags = {"offsets.retention.check.interval.ms": "1000"}
    server = await started(Server(tmp_path, flags=flags))
    await load_groups(server.groups)
    calls: list[float] = []

    async def expire() -> None:
        calls.append(trio.current_time())
        raise ValueError("once more")

    monkeypatch.setattr(server.upkeep, "expire", expire)
    with trio.move_on_after(3.5):
        await server.upkeep.run()
    assert len(calls) == 3
    assert "upkeep failed" in server.log_lines.getvalue()


async def test_a_stop_ends_all_writes(server: Server, autojump_clock: object) -> None:
    """Logs can be closed behind it: no timer, request or round appends to them."""
    (seat,) = stable(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.upkeep.run)
        await server.upkeep.stop()
    before = len(server.group_log.records[0])
    refused = commit(server, {("t", 0): NOTE}, seat).response
    assert refused.topics[0].partitions[0].error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    server.group_services.timers.advance(DAY_MS)
    await server.upkeep.expire()
    assert len(server.group_log.records[0]) == before
    assert list(server.groups.entries["g"].group.members) == [seat.member_id]
