"""`logd retain`: what the admin port answers, and what the command prints."""

from __future__ import annotations

import errno
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from logd.broker.context import Broker
from logd.net.admin_http import AdminHandler
from logd.net.http import HttpError, Request
from logd.units import DAY_MS, HOUR_MS
from tests.unit.retention_rig import LIMIT_MS, START_MS, PickyFiles, RetentionRig
from tests.unit.test_cli_admin import Fake, fake

__all__ = ["fake"]  # A fixture.


async def post(rig: RetentionRig, query: str) -> dict[str, Any]:
    """Ask the admin port."""
    broker = SimpleNamespace(retention=rig.retention, topics=rig.as_topics, offload=rig.offload)

    async def receive() -> bytes:
        return b""

    fields = dict(pair.split("=") for pair in query.split("&") if pair)
    request = Request("POST", "/v1/retain", fields, {}, receive)
    response = await AdminHandler(cast("Broker", broker)).handle(request)
    document = json.loads(response.body)
    assert document.keys() == {"rows", "failed", "held_back"}
    return cast("dict[str, Any]", document)


@pytest.fixture
def rig(directory: str) -> RetentionRig:
    """A topic of two partitions: what is due, and what is not."""
    rig = RetentionRig(directory)
    partition = rig.opened(partitions=2)
    rig.fill(partition, 2, age_ms=LIMIT_MS)
    rig.fill(partition, 1, age_ms=1000)
    return rig


async def test_it_is_explained_segment_by_segment(rig: RetentionRig) -> None:
    """Exactly the fields of the contract; nothing is deleted."""
    document = await post(rig, "topic=t&explain=true")
    segment_bytes = rig.partition("t").log.size_bytes // 3
    due_ms = START_MS - 1000 + LIMIT_MS
    expected = [
        (0, 0, segment_bytes, "delete", "retention.ms", START_MS),
        (0, 4, segment_bytes, "delete", "retention.ms", START_MS),
        (0, 8, segment_bytes, "keep", None, due_ms),
        (1, 0, 0, "keep", None, None),
    ]
    names = ("partition", "base_offset", "size_bytes", "action", "rule", "due_ms")
    rows = [{"topic": "t", **dict(zip(names, row, strict=True))} for row in expected]
    assert document == {"rows": rows, "failed": [], "held_back": None}
    assert rig.partition("t").log_start_offset == 0


async def test_it_is_done_now(rig: RetentionRig) -> None:
    """What went from each partition, and where it begins."""
    size = rig.partition("t").log.size_bytes
    document = await post(rig, "topic=t")
    assert [
        (row["partition"], row["log_start_offset"], row["deleted_segments"], row["deleted_bytes"])
        for row in document["rows"]
    ] == [(0, 8, 2, 2 * size // 3), (1, 0, 0, 0)]
    assert (await post(rig, "topic=t&partition=1"))["rows"][0]["partition"] == 1


async def test_the_clock_guard_is_told_and_can_be_ignored(rig: RetentionRig) -> None:
    """While the wall clock does not count, that is said; who asks for it gets its way."""
    rig.alter(retention_ms=str(HOUR_MS))
    rig.clock.jump_ms(DAY_MS)
    held = await post(rig, "topic=t&partition=0&explain=true")
    assert "1d ahead" in held["held_back"]
    due = await post(rig, "topic=t&partition=0&explain=true&ignore_clock_guard=true")
    assert [row["action"] for row in due["rows"]] == ["delete"] * 3
    assert due["held_back"] is None
    assert (await post(rig, "topic=t&partition=0"))["rows"][0]["deleted_segments"] == 0
    done = await post(rig, "topic=t&partition=0&ignore_clock_guard=true")
    assert done["rows"][0]["log_start_offset"] == 12


@pytest.mark.parametrize("explain", ["true", "false"])
async def test_a_partition_that_fails_does_not_hide_the_others(
    directory: str, explain: str
) -> None:
    """One is offline, one cannot be read: the third is dealt with, and both are named with why."""
    files = PickyFiles()
    rig = RetentionRig(directory, files=files)
    rig.opened(partitions=3)
    for index in range(3):
        rig.fill(rig.partition("t", index), 2, age_ms=LIMIT_MS)
    rig.partition("t", 0).offline = "its disk is gone"
    rig.partition("t", 1).log.segment_list.items[0].max_timestamp = None
    files.failing["open_read", "/t-1/"] = errno.EIO
    document = await post(rig, f"topic=t&explain={explain}")
    assert {row["partition"] for row in document["rows"]} == {2}
    assert [(row["partition"], row["topic"]) for row in document["failed"]] == [(0, "t"), (1, "t")]
    assert document["failed"][0]["reason"] == "its disk is gone"
    assert "Input/output error" in document["failed"][1]["reason"]


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("topic=nosuch", 404), ("topic=t&partition=2", 404), ("topic=t&partition=x", 400),
     ("topic=t&explain=1", 400), ("topic=t&ignore_clock_guard=yes", 400)],
)  # fmt: skip
async def test_what_cannot_be_asked_is_refused(rig: RetentionRig, query: str, status: int) -> None:
    """Before anything is deleted."""
    with pytest.raises(HttpError) as refused:
        await post(rig, query)
    assert refused.value.status == status
    assert rig.partition("t").log_start_offset == 0


# --- the command ----------------------------------------------------------------------------------

VERDICT = {
    "topic": "t",
    "partition": 0,
    "base_offset": 7,
    "size_bytes": 2048,
    "action": "delete",
    "rule": "retention.ms",
    "due_ms": START_MS,
}
KEPT = {**VERDICT, "base_offset": 9, "action": "keep", "rule": None, "due_ms": None}
DELETED = {
    "topic": "t",
    "partition": 3,
    "log_start_offset": 9,
    "deleted_segments": 1,
    "deleted_bytes": 2048,
}


def answer(*rows: dict[str, Any], held_back: str | None = None, **failed: str) -> dict[str, Any]:
    return {
        "rows": list(rows),
        "held_back": held_back,
        "failed": [
            {"topic": "t", "partition": int(index[1:]), "reason": reason}
            for index, reason in failed.items()
        ],
    }


def test_explained_as_a_table_and_as_json(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    """A row a segment for people; the contract's rows for scripts."""
    fake.document = answer(VERDICT, KEPT)
    assert fake.run("retain", "t", "--explain") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["partition", "base", "offset", "size", "action", "rule", "due"]
    assert lines[1] == ["0", "7", "2.0", "KiB", "delete", "retention.ms", "2023-11-14T22:13:20Z"]
    assert lines[2] == ["0", "9", "2.0", "KiB", "keep", "-", "-"]
    assert fake.run("retain", "t", "--explain", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [VERDICT, KEPT]
    assert fake.asked[0][:2] == ("POST", "/v1/retain?topic=t&explain=true")


def test_done_as_lines_and_as_json(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a partition says what went; all options reach the server."""
    fake.document = answer(DELETED)
    assert fake.run("retain", "t", "--partition", "3", "--ignore-clock-guard") == 0
    said = capsys.readouterr()
    assert said.out == "t partition 3: 1 segment deleted, 2.0 KiB; it begins at offset 9\n"
    assert said.err == ""
    assert fake.asked[0][1] == "/v1/retain?topic=t&partition=3&ignore_clock_guard=true"
    assert fake.run("retain", "t", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [DELETED]


def test_what_is_held_back_and_what_failed_goes_to_stderr(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held back alone is no failure; a partition that failed is exit code 1, after the others."""
    fake.document = answer(DELETED, held_back="the wall clock is 1d ahead")
    assert fake.run("retain", "t") == 0
    assert "the wall clock is 1d ahead; see --ignore-clock-guard" in capsys.readouterr().err
    fake.document = answer(DELETED, p4="no \x1b[2Jspace")
    assert fake.run("retain", "t") == 1
    said = capsys.readouterr()
    assert "begins at offset 9" in said.out
    assert said.err == "logd: t partition 4: no \\x1b[2Jspace\n"
