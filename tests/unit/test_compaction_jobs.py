"""`logd compact` in the server: what a job does, and what it says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from logd.broker.compaction_jobs import Job
from logd.broker.compaction_round import NotCompactedError
from logd.broker.context import Broker
from logd.broker.worker import WorkerError
from logd.errors import SegmentsChangedError, UnknownTopicOrPartitionError
from logd.net.admin_http import AdminHandler
from logd.net.http import HttpError, Request
from logd.storage.damage import DamagedRange
from tests.unit.scheduler_rig import CompactingLog, Rig, until

ROW = {
    "topic", "partition", "segments_before", "segments_after", "bytes_before", "bytes_after",
    "records_before", "records_after", "seconds",
}  # fmt: skip


async def done(rig: Rig, name: str, index: int | None = None) -> Job:
    """Return a job when it is done."""
    job = rig.compaction.request(name, index)
    await until(lambda: job.is_done)
    return job


async def test_each_partition_has_a_row(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Clean enough or not, each partition is compacted, and its row has what the contract says."""
    rig = Rig(tmp_path)
    for partition in rig.topic("t", 3):
        rig.dirty(partition, clean=90, dirty=10)
    async with rig.running():
        job = await done(rig, "t")
        document = job.as_document()
    assert sorted(rig.cleaner.names) == ["t-0", "t-1", "t-2"]
    assert [row["partition"] for row in document["rows"]] == [0, 1, 2]
    assert document["progress"] == 1.0
    for row in document["rows"]:
        assert set(row) - ROW == {"note", "error"}
        assert (row["records_before"], row["records_after"]) == (1000, 100)
        assert row["error"] is None


async def test_the_active_segment_is_sealed_first(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """All that was appended lies in sealed segments, and is visible, before the round is planned;
    and who guards an offset is asked to move it on.
    """
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.append(partition)
    rig.dirty(partition)
    async with rig.running():
        job = await done(rig, "t")
    assert partition.log.segment_list.active.base_offset == 1
    assert partition.high_watermark == 1
    assert rig.prepared == [partition]
    assert (job.rows[0]["segments_before"], job.rows[0]["segments_after"]) == (1, 2)


async def test_one_partition_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    """With a partition's number the others are left as they are."""
    rig = Rig(tmp_path)
    for partition in rig.topic("t", 3):
        rig.dirty(partition, clean=90, dirty=10)
    async with rig.running():
        await done(rig, "t", 1)
    assert rig.cleaner.names == ["t-1"]


async def test_only_a_round_that_was_asked_for_does_not_stand_behind_all_else(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The budget of reading and writing is the same for both."""
    rig = Rig(tmp_path, log_cleaner_io_max_bytes_per_second="3000000")
    rig.dirty(*rig.topic("due"))
    rig.dirty(*rig.topic("asked"), clean=90, dirty=10)
    async with rig.running():
        await done(rig, "asked")
        await trio.sleep(1)
    asked_for = dict(zip(rig.cleaner.names, rig.cleaner.asked_for, strict=True))
    assert asked_for == {"due-0": False, "asked-0": True}
    assert {order.limits.io_bytes_per_s for order, _ in rig.cleaner.orders} == {3_000_000}


async def test_who_cannot_be_compacted_is_refused(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An unknown topic or partition, and one whose policy is another, begin no job."""
    rig = Rig(tmp_path)
    rig.topic("t", 2)
    rig.topic("u", cleanup_policy="delete")
    with pytest.raises(UnknownTopicOrPartitionError, match="no topic 'nope'; `logd topic list`"):
        rig.compaction.request("nope", None)
    with pytest.raises(UnknownTopicOrPartitionError, match="no partition 2"):
        rig.compaction.request("t", 2)
    with pytest.raises(NotCompactedError, match=r"delete; `logd topic alter u"):
        rig.compaction.request("u", None)
    assert rig.compaction.jobs() == []


async def test_asking_again_watches_the_same_job(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Until it is done there is one job; then a new one. Progress rises meanwhile."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition)
    rig.cleaner.hold["t-0"] = trio.Event()
    async with rig.running():
        job = rig.compaction.request("t", None)
        assert rig.compaction.request("t", None) is job
        assert job.as_document()["progress"] == 0
        await until(lambda: job.as_document()["progress"] == 0.5)
        rig.cleaner.hold["t-0"].set()
        await until(lambda: job.is_done)
        assert rig.compaction.request("t", None) is not job
        assert rig.compaction.job(job.id) is job
        assert rig.compaction.job(99) is None


async def test_who_asks_does_not_wait_for_what_is_due(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """While a long round takes the only slot, one that is asked for has a slot of its own."""
    rig = Rig(tmp_path)
    rig.dirty(*rig.topic("long"))
    rig.cleaner.hold["long-0"] = trio.Event()
    async with rig.running():
        await until(lambda: rig.cleaner.running == ["long-0"])
        rig.dirty(*rig.topic("t"))
        await done(rig, "t")
        assert rig.cleaner.running == ["long-0"]
        # The same partition has one round at a time.
        job = rig.compaction.request("long", None)
        await trio.sleep(1)
        assert not job.is_done
        rig.cleaner.hold.pop("long-0").set()
        await until(lambda: job.is_done)


async def test_rounds_go_on_until_all_keys_fitted(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What the rounds removed is summed up; what is left is the last one's."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition)
    rig.cleaner.fitted["t-0"] = iter([(False, 30), (False, 60), (True, 100)])
    async with rig.running():
        job = await done(rig, "t")
    assert len(rig.cleaner.orders) == 3
    assert (job.rows[0]["records_before"], job.rows[0]["records_after"]) == (2800, 100)


async def test_rounds_that_do_not_get_on_end(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Keys that never fit are an error that names the setting, not a loop."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition)
    rig.cleaner.fitted["t-0"] = iter([(False, 30), (False, 30)])
    async with rig.running():
        job = await done(rig, "t")
    assert "log.cleaner.dedupe.buffer.size" in job.rows[0]["error"]


async def test_nothing_to_do_is_said(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A clean partition's row says why there was no round, and invents no count."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition, clean=100, dirty=0)
    async with rig.running():
        job = await done(rig, "t")
    assert job.rows[0]["records_before"] is None
    assert "dirty" in job.rows[0]["note"]
    assert job.rows[0]["error"] is None


async def test_what_is_left_out_is_said(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Where segments are too young to be touched, the row says up to where it counts."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    for _ in range(150):
        rig.append(partition)
    rig.dirty(partition, dirty=100)
    async with rig.running():
        job = await done(rig, "t")
    assert "up to offset 100" in job.rows[0]["note"]


async def test_a_damaged_log_is_an_error(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A quarantined range keeps compaction off; who asks is told so."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    log = rig.dirty(partition)
    log.damage.ranges = (DamagedRange(0, 5, 0, "x.log", 0, 10, "planted"),)
    log.facts = dataclasses.replace(log.facts, is_damaged=True)
    async with rig.running():
        job = await done(rig, "t")
    assert "quarantined" in job.rows[0]["error"]


async def test_deletions_meanwhile_are_tried_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A round in vain is repeated; who asked hears nothing of it."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition).fail_replace = SegmentsChangedError("planted")
    async with rig.running():
        job = await done(rig, "t")
    assert job.rows[0]["error"] is None
    assert len(rig.cleaner.orders) == 2
    assert len(cast("CompactingLog", partition.log).replaced) == 1


async def test_a_failure_is_told_and_kept(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The row has the reason, and `status` has it too; the job's other partitions are done. Asking
    again does not wait until the scheduler would try.
    """
    rig = Rig(tmp_path)
    for partition in rig.topic("t", 2):
        rig.dirty(partition, clean=90, dirty=10)
    rig.cleaner.fail["t-0"] = WorkerError("it was killed by signal 9")
    async with rig.running():
        job = await done(rig, "t")
        assert "signal 9" in job.rows[0]["error"]
        assert set(job.rows[0]) >= ROW
        assert job.rows[1]["error"] is None
        assert rig.kinds() == ["compaction_failed"]
        assert (await done(rig, "t", 0)).rows[0]["error"] is None
        assert rig.kinds() == []


async def test_a_topic_deleted_meanwhile(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The job ends with an error for what is gone."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition)
    rig.cleaner.hold["t-0"] = trio.Event()
    async with rig.running():
        job = rig.compaction.request("t", None)
        await until(lambda: rig.cleaner.running == ["t-0"])
        await partition.retire("the topic was deleted")
        await until(lambda: job.is_done)
    assert "deleted" in job.rows[0]["error"]
    assert rig.kinds() == []


async def test_old_jobs_are_forgotten(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A hundred jobs that are over can be asked for, no more."""
    rig = Rig(tmp_path)
    rig.topic("t")
    async with rig.running():
        for _ in range(120):
            await done(rig, "t")
    assert len(rig.compaction.jobs()) <= 101


async def ask(rig: Rig, method: str, **query: str) -> Any:
    """Return the JSON answer of the admin port's route."""

    async def no_body() -> bytes:
        return b""

    handler = AdminHandler(cast("Broker", SimpleNamespace(compaction=rig.compaction)))
    answer = await handler.handle(Request(method, "/v1/compact", query, {}, no_body))
    return json.loads(answer.body)


async def test_the_admin_port_begins_and_shows_jobs(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """POST begins a job, GET shows it, or all of them."""
    rig = Rig(tmp_path)
    rig.dirty(*rig.topic("t"))
    async with rig.running():
        begun = await ask(rig, "POST", topic="t")
        assert (begun["topic"], begun["partitions"], begun["done"]) == ("t", [0], False)
        job = rig.compaction.job(begun["id"])
        assert job is not None
        await until(lambda: job.is_done)
        shown = await ask(rig, "GET", id=str(begun["id"]))
        assert shown["rows"][0]["records_after"] == 100
        assert await ask(rig, "GET") == [shown]


@pytest.mark.parametrize(
    ("method", "query", "status"),
    [
        ("POST", {}, 400),
        ("POST", {"topic": "none"}, 404),
        ("POST", {"topic": "t", "partition": "9"}, 404),
        ("POST", {"topic": "t", "partition": "x"}, 400),
        ("POST", {"topic": "plain"}, 400),
        ("GET", {"id": "7"}, 404),
        ("GET", {"id": "-1"}, 400),
    ],
)
async def test_wrong_requests(
    tmp_path: Path, method: str, query: dict[str, str], status: int
) -> None:
    """Each wrong request has its status."""
    rig = Rig(tmp_path)
    rig.topic("t")
    rig.topic("plain", cleanup_policy="delete")
    with pytest.raises(HttpError) as refused:
        await ask(rig, method, **query)
    assert refused.value.status == status
