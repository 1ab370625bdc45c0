"""Compaction beside Kafka: what is left is checked, and each side's own account is read right."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from bench.cleaning import write_log
from bench.measurement import Window
from bench.peers import compact_rows
from bench.peers.compacted import append_log, check_compacted
from bench.peers.contest import Session
from bench.peers.goals import GOALS
from bench.peers.kafka import told_seconds
from bench.peers.ours import Logd
from bench.process import BenchError, cpu_seconds, cpu_seconds_of_all
from bench.protocol import AnswerError
from bench.runner import Options, open_run
from logd.record.batch import read_header
from logd.record.records import iterate

MIB = 1024 * 1024
LINES = """[cleaner] INFO LogCleaner - [kafka-log-cleaner-thread-0]:
\tLog cleaner thread 0 cleaned log {}-0 (dirty section = [0, 1045000])
\t1,024.5 MB of log processed in 1.5 seconds (683.0 MB/sec).
\tIndexed 1,024.0 MB in 0.7 seconds (1,462.9 Mb/sec, 46.7% of total time)
"""


def log_spec(directory: str, **fields: object) -> dict[str, object]:
    return {"directory": f"{directory}/log", "total_bytes": MIB // 2, "record_bytes": 100,
            "keys": 300, "in_turn": False, **fields}  # fmt: skip


def test_kafkas_own_account_is_read_from_its_log() -> None:
    """Bytes by bytes a second, of the topic that was asked for; no line or two are an error."""
    log = LINES.format("bench-0001") + LINES.format("bench-0011").replace("683.0", "2.0")
    assert told_seconds(log, "bench-0001") == pytest.approx(1024.5 / 683)
    with pytest.raises(BenchError, match="told of 0 rounds"):
        told_seconds(log, "bench-0002")
    with pytest.raises(BenchError, match="told of 2 rounds"):
        told_seconds(log + LINES.format("bench-0001"), "bench-0001")


@pytest.mark.parametrize("in_turn", [True, False])
def test_the_log_says_what_must_stay(directory: str, in_turn: bool) -> None:
    """Keys and the sum of their last offsets are those of the records in the file."""
    log = write_log(log_spec(directory, in_turn=in_turn))
    last: dict[bytes | None, int] = {}
    data = Path(directory, "log", f"{0:020d}.log").read_bytes()
    at = 0
    while at < len(data):
        header = read_header(data, at)
        for record in iterate(data[at : at + header.size]):
            last[record.key] = record.offset
        at += header.size
    assert (log["keys"], log["last_offsets_sum"]) == (len(last), sum(last.values()))


@pytest.mark.parametrize("codec", [0, 4])
def test_what_is_left_is_checked(directory: str, codec: int) -> None:
    """A real round passes; a log that is not compacted, or lacks a record, does not."""
    spec = log_spec(directory, codec=codec)
    log = {**write_log(spec), "directory": spec["directory"]}
    with Logd(Path(directory, "data")) as server, server.topic(
        configs=compact_rows.CONFIGS
    ) as topic:  # fmt: skip
        job = {**log, "address": server.address, "topic": topic}
        append_log(job)
        with pytest.raises(AnswerError, match="records of 301 keys are left"):
            check_compacted(job)
        compacted = server.compact(topic, log["records"])
        assert 0 < compacted.own_seconds <= compacted.seconds
        assert check_compacted(job)["bytes"] > 0
        assert cpu_seconds_of_all(server.pid) > cpu_seconds(server.pid)  # a process of its own
        with pytest.raises(AnswerError, match="last record of some key"):
            check_compacted({**job, "last_offsets_sum": log["last_offsets_sum"] + 1})
        with pytest.raises(AnswerError, match="not of 299"):
            check_compacted({**job, "keys": 299})


def test_sides_take_turns_after_a_warm_up(tmp_path, monkeypatch) -> None:
    """Each compacts a part first; rows are of the whole log, ratios above 1 in our favour."""
    seen = []

    def window(_, server, log):
        seen.append((server, log["content_bytes"] > MIB // 2))
        own_seconds, seconds = {"ours": (1.0, 2.0), "theirs": (2.0, 3.0)}[server]
        return Window(own_seconds, bytes=10**6, seconds=seconds, server_cpu_s=seconds)

    monkeypatch.setattr(compact_rows, "_window", window)
    with open_run(tmp_path, Options(repetitions=2, fill_bytes=MIB)) as run:
        session = Session(run, only=("100-byte records,",))
        compact_rows.compactions(
            session, "Apache Kafka", lambda _: nullcontext("ours"), lambda _: nullcontext("theirs")
        )
        assert not list(run.directory.iterdir())
    assert not session.failed
    assert seen == [("ours", False), ("theirs", False), *[("ours", True), ("theirs", True)] * 2]
    name = "compact 1 MiB of 100-byte records, 100,000 keys"
    assert [(row.name, row.unit, row.ratio) for row in session.rows] == [
        (name, "MB/s", 2.0),
        (f"{name}, from outside", "MB/s", 1.5),
        (f"CPU, {name}", "s/GB", 1.5),
    ]
    (goal,) = [goal for goal in GOALS if goal.text == "compaction"]
    assert [row.unit for _, row in goal.rows(session.rows)] == ["MB/s", "MB/s"]
