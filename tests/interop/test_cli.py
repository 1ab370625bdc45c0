"""The command line against a running server, as a person and a script use it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.forked import run_logd
from tests.logd_command import START_LIMIT_S, Logd
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def logd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logd]:
    """A server for all tests of this module; each uses topics of its own."""
    data = tmp_path_factory.mktemp("cli") / "data"
    with ServerProcess(data) as server:
        yield Logd(server)


def test_topics_are_created_listed_described_altered_deleted(logd: Logd) -> None:
    """A topic's life over the command line: each step is seen by the next."""
    made = logd.json("topic", "create", "life", "--partitions", "3", "--config", "retention.ms=7d")
    assert made["name"] == "life"
    assert made["partitions"] == 3
    assert made["internal"] is False
    assert len(made["id"]) == 22
    assert made in logd.json("topic", "list")
    described = logd.json("topic", "describe", "life")
    assert described["id"] == made["id"]
    assert [p["partition"] for p in described["partitions"]] == [0, 1, 2]
    assert described["settings"] == [
        {"name": "retention.ms", "value": "604800000", "source": "topic"}
    ]
    assert described["warnings"] == []
    altered = logd.json(
        "topic", "alter", "life", "--partitions", "4", "--unset", "retention.ms",
        "--config", "segment.bytes=64MiB",
    )  # fmt: skip
    assert altered["partitions"] == 4
    assert altered["settings"] == [
        {"name": "segment.bytes", "value": str(64 << 20), "source": "topic"}
    ]
    assert b"64.0 MiB" in logd.run("topic", "describe", "life").stdout
    logd.run("topic", "delete", "life", code=2)  # No terminal, and no --yes.
    logd.run("topic", "delete", "life", "--dry-run")
    assert "life" in {topic["name"] for topic in logd.json("topic", "list")}
    logd.run("topic", "delete", "life", "--yes")
    assert "life" not in {topic["name"] for topic in logd.json("topic", "list")}
    logd.run("topic", "create", "life")
    assert logd.json("topic", "describe", "life")["id"] != made["id"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("topic", "describe", "nowhere"), b"nowhere"),
        (("topic", "alter", "nowhere", "--partitions", "2"), b"nowhere"),
        (("topic", "delete", "nowhere", "--yes"), b"nowhere"),
        (("topic", "create", "bad/name"), b"bad/name"),
        (("topic", "create", "x", "--config", "no.such.setting=1"), b"no.such.setting"),
        (("consume", "nowhere"), b"nowhere"),
        (("segments", "nowhere"), b"nowhere"),
        (("delete-records", "nowhere", "--partition", "0", "--before", "1", "--yes"), b"nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_refused(logd: Logd, arguments: Any, said: bytes) -> None:
    """The server's refusal is exit code 1 and one line that names the thing."""
    assert said in logd.run(*arguments, code=1).stderr


def test_a_topic_is_not_created_twice(logd: Logd) -> None:
    """Creating a topic that is there is refused; fewer partitions are refused."""
    logd.run("topic", "create", "twice", "--partitions", "2")
    assert b"twice" in logd.run("topic", "create", "twice", code=1).stderr
    logd.run("topic", "alter", "twice", "--partitions", "1", code=1)


def test_a_wrong_value_is_wrong_usage(logd: Logd) -> None:
    """A value that no server takes is refused before anything is sent."""
    logd.run("topic", "create", "x", "--config", "segment.bytes=7d", code=2)
    logd.run("topic", "create", "x", "--config", "retention.ms=1", "--config", "retention.ms=2",
             code=2)  # fmt: skip


def test_weak_durability_is_said(logd: Logd) -> None:
    """A topic whose flush.mode is not commit says what that gives up."""
    logd.run("topic", "create", "weak", "--config", "flush.mode=os")
    (warning,) = logd.json("topic", "describe", "weak")["warnings"]
    assert "acknowledged records can be lost" in warning
    assert warning in logd.run("topic", "describe", "weak").stdout.decode()


@pytest.mark.parametrize(
    ("compression", "acks"),
    [("none", "all"), ("gzip", "1"), ("snappy", "0"), ("lz4", "all"), ("zstd", "1"), ("none", "0")],
)
def test_lines_in_are_lines_out(logd: Logd, compression: str, acks: str) -> None:
    """What `produce` got, `consume` prints, byte for byte, with every codec and every acks."""
    topic = f"lines-{compression}-{acks}"
    logd.run("topic", "create", topic, "--partitions", "1")
    text = b"".join(b"line %d \xff\x00\r\n" % number for number in range(5000)) + b"\nno end"
    sent = logd.json("produce", topic, "--acks", acks, "--compression", compression, stdin=text)
    assert sent["records"] == 5002
    if acks != "0":
        assert (sent["first_offset"], sent["last_offset"]) == (0, 5001)
    deadline = time.monotonic() + 10
    while logd.json("topic", "describe", topic)["partitions"][0]["high_watermark"] < 5002:
        assert time.monotonic() < deadline  # acks=0: nobody said when.
    assert logd.run("consume", topic).stdout == text + b"\n"


def test_keys_json_and_format(logd: Logd, tmp_path: Path) -> None:
    """Keys are split off; --json and --format show all of a record."""
    logd.run("topic", "create", "keyed", "--partitions", "1")
    source = tmp_path / "with space and naïve\nname"
    source.write_bytes(b"a:1:2\nnokey\nb:\xff\n")
    sent = logd.json("produce", "keyed", str(source), "--key-separator", ":", "--partition", "0")
    assert sent["partitions"] == [{"partition": 0, "first_offset": 0, "last_offset": 2}]
    rows = logd.rows("consume", "keyed")
    assert [(row["offset"], row["key"], row["value"]) for row in rows] == [
        (0, "a", "1:2"),
        (1, None, "nokey"),
        (2, "b", {"base64": "/w=="}),
    ]
    assert {row["partition"] for row in rows} == {0}
    assert all(row["headers"] == [] for row in rows)
    assert abs(rows[0]["timestamp_ms"] / 1000 - time.time()) < 3600
    done = logd.run("consume", "keyed", "--format", "%t %p %o %k %v %V\\n", "--count", "2")
    assert done.stdout == b"keyed 0 0 a 1:2 3\nkeyed 0 1  nokey 5\n"


def test_consume_begins_where_it_is_told(logd: Logd) -> None:
    """--from an offset, a time, the end; --count; an offset out of range is told its range."""
    logd.run("topic", "create", "places", "--partitions", "1")
    logd.run("produce", "places", stdin=b"0\n1\n2\n")
    time.sleep(0.01)  # Timestamps have milliseconds: the next record is to have a later one.
    between = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    time.sleep(0.01)
    logd.run("produce", "places", stdin=b"3\n4\n")
    assert logd.run("consume", "places", "--from", "3").stdout == b"3\n4\n"
    assert logd.run("consume", "places", "--from", "1", "--count", "2").stdout == b"1\n2\n"
    assert logd.run("consume", "places", "--from", "latest").stdout == b""
    assert logd.run("consume", "places", "--from", "5").stdout == b""
    assert logd.run("consume", "places", "--from", "2020-01-01T00:00:00Z").stdout.count(b"\n") == 5
    assert logd.run("consume", "places", "--from", "2999-01-01").stdout == b""
    assert logd.run("consume", "places", "--from", f"{between}Z").stdout == b"3\n4\n"
    refused = logd.run("consume", "places", "--from", "6", code=1)
    assert b"from 0 to before 5" in refused.stderr
    logd.run("consume", "places", "--partition", "1", code=1)
    logd.run("produce", "places", "--partition", "1", stdin=b"x", code=1)


def test_follow_prints_what_comes_later(logd: Logd) -> None:
    """--follow waits at the end and prints new records at once; Ctrl-C ends it with 130."""
    logd.run("topic", "create", "tail", "--partitions", "1")
    follower = subprocess.Popen(
        [sys.executable, "-m", "logd", "consume", "tail", "--follow"],
        env=logd.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert follower.stdout is not None
    try:
        for number in range(3):
            logd.run("produce", "tail", stdin=b"%d\n" % number)
            assert follower.stdout.readline() == b"%d\n" % number
        follower.send_signal(2)
        _, said = follower.communicate(timeout=START_LIMIT_S)
        assert (follower.returncode, said) == (130, b"logd: interrupted\n")
    finally:
        follower.kill()
        follower.wait()


def test_a_reader_that_leaves_is_no_error(logd: Logd) -> None:
    """`logd consume | head -1` ends silently."""
    logd.run("topic", "create", "piped", "--partitions", "1")
    logd.run("produce", "piped", stdin=b"x" * 99 + b"\n" + b"line\n" * 200_000)
    consumer = subprocess.Popen(
        [sys.executable, "-m", "logd", "consume", "piped"],
        env=logd.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert consumer.stdout is not None
    assert consumer.stderr is not None
    assert consumer.stdout.readline() == b"x" * 99 + b"\n"
    consumer.stdout.close()
    assert consumer.wait(START_LIMIT_S) == 0
    assert consumer.stderr.read() == b""
    consumer.stderr.close()


def test_a_full_disk_behind_stdout_is_an_error(logd: Logd) -> None:
    """Records that cannot be printed are exit code 1, not lost silently."""
    logd.run("topic", "create", "full", "--partitions", "1")
    logd.run("produce", "full", stdin=b"record\n")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "logd", "consume", "full"],
            env=logd.environment, stdout=full, stderr=subprocess.PIPE, check=False,
            timeout=START_LIMIT_S,
        )  # fmt: skip
    assert done.returncode == 1
    assert b"No space left" in done.stderr


def test_records_are_deleted(logd: Logd) -> None:
    """delete-records moves the start; what lies before it is gone; beyond the end is refused."""
    logd.run("topic", "create", "shorter", "--partitions", "1")
    logd.run("produce", "shorter", stdin=b"0\n1\n2\n3\n")
    place = ("delete-records", "shorter", "--partition", "0", "--before")
    logd.run(*place, "2", code=2)  # No terminal, and no --yes.
    planned = logd.json(*place, "2", "--dry-run")
    assert (planned["log_start_offset"], planned["deleted_offsets"]) == (2, 2)
    assert logd.run("consume", "shorter").stdout == b"0\n1\n2\n3\n"
    assert logd.json(*place, "2", "--yes")["log_start_offset"] == 2
    assert logd.run("consume", "shorter").stdout == b"2\n3\n"
    logd.run(*place, "5", "--yes", code=1)
    logd.run("consume", "shorter", "--from", "1", code=1)


def test_a_record_that_is_too_large_is_refused(logd: Logd) -> None:
    """A refusal of the server names the reason and how many records were acknowledged."""
    logd.run("topic", "create", "small", "--partitions", "1", "--config", "max.message.bytes=2000")
    said = logd.run("produce", "small", stdin=b"ok\n" + b"x" * 5000 + b"\n", code=1).stderr
    assert b"acknowledged" in said


def test_segments_and_status_are_shown(logd: Logd) -> None:
    """The admin port's documents have the fields that the contract lists."""
    logd.run("topic", "create", "parts", "--partitions", "1", "--config", "segment.offsets=10")
    for _ in range(3):
        logd.run("produce", "parts", stdin=b"x\n" * 10)
    rows = logd.json("segments", "parts", "--partition", "0")
    assert {"topic", "partition", "base_offset", "next_offset", "size_bytes", "state", "hot",
            "first_timestamp_ms", "last_timestamp_ms", "generation", "k", "m", "margin",
            "chunks"} <= rows[0].keys()  # fmt: skip
    assert rows[0]["base_offset"] == 0
    assert rows[-1]["state"] == "active"
    assert rows[-1]["next_offset"] == 30
    assert b"active" in logd.run("segments", "parts").stdout
    status = logd.json("status")
    assert {"version", "uptime_s", "topics", "partitions", "hot_bytes", "cold_source_bytes",
            "cold_stored_bytes", "nodes", "segments_by_margin", "repair", "scrub",
            "problems"} <= status.keys()  # fmt: skip
    assert status["topics"] == len(logd.json("topic", "list"))
    assert b"logd" in logd.run("status").stdout


def test_a_partition_from_elsewhere_is_adopted(logd: Logd, tmp_path: Path) -> None:
    """A copied partition directory becomes a topic, and its records are read."""
    logd.run("topic", "create", "origin", "--partitions", "1")
    logd.run("produce", "origin", stdin=b"a\nb\nc\n")
    copy = tmp_path / "foreign-0"
    shutil.copytree(Path(logd.server.data) / "topics" / "origin-0", copy)
    (copy / "partition.metadata").unlink()
    adopted = logd.json("topic", "adopt", str(copy))
    assert (adopted["topic"], adopted["partition"]) == ("foreign", 0)
    assert logd.run("consume", "foreign").stdout == b"a\nb\nc\n"
    logd.run("topic", "adopt", str(copy), code=1)  # It holds records already.


def test_serve_keeps_its_contract(tmp_path: Path) -> None:
    """One ready line; SIGTERM ends with 0; the directory then passes `check`; a used port and a
    used directory are refused in one line."""
    data = tmp_path / "data"
    with ServerProcess(data) as server:
        logd = Logd(server)
        logd.run("produce", "made-on-first-use", stdin=b"1\n2\n")
        for arguments in (
            ("--data", str(data), "--listen", "127.0.0.1:0"),
            ("--data", str(tmp_path / "other"), "--listen", server.bootstrap),
        ):
            command = ("serve", *arguments, "--admin", "127.0.0.1:0")
            refused = run_logd(*command)
            assert refused.returncode == 1
            assert refused.stdout == b""
            assert b"Traceback" not in refused.stderr
        logd.run("check", str(data), code=1)  # In use.
        assert server.stop() == 0
    report = Logd.json(logd, "check", str(data))
    assert report["damage"] == []
    assert report["clean_stop"] is True
    assert report["records"] == 2


def test_check_and_dump_understand_what_the_server_writes(tmp_path: Path) -> None:
    """After kill -9 and after a clean stop, every file in the directory is known and intact."""
    data = tmp_path / "data"
    with ServerProcess(data) as server:
        logd = Logd(server)
        settings = ("--config", "segment.bytes=1MiB")
        logd.run("topic", "create", "filled", "--partitions", "2", *settings)
        lines = b"".join(b"%d %s\n" % (n, b"x" * 100) for n in range(30_000))
        for codec in ("none", "zstd", "lz4"):
            logd.run("produce", "filled", "--compression", codec, stdin=lines)
        server.kill()
        after_kill = logd.json("check", str(data))
        assert after_kill["damage"] == []
        assert after_kill["records"] == 90_000
        server.start()
        assert server.stop() == 0
    after_stop = logd.json("check", str(data))
    assert (after_stop["damage"], after_stop["notes"]) == ([], [])
    assert after_stop["records"] == 90_000
    everything = [str(path) for path in sorted(data.rglob("*")) if path.is_file()]
    logd.run("dump", *everything, "--verify")
