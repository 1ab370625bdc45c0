"""`logd group` and `logd consume --group` against a running server, as a person and a script do."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest

from logd.wire.messages import join_group, sync_group
from tests.logd_command import START_LIMIT_S, Logd
from tests.raw_client import RawClient
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

RECORDS = 100
WAIT_S = 60


@pytest.fixture(scope="module")
def logd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logd]:
    """A server with topics `one` of one partition and `three` of three, 100 records in each."""
    data = tmp_path_factory.mktemp("groups") / "data"
    with ServerProcess(data, "--set", "group.initial.rebalance.delay.ms=0") as server:
        logd = Logd(server)
        for name, partitions in (("one", 1), ("three", 3)):
            logd.run("topic", "create", name, "--partitions", str(partitions))
            produce(logd, name, partitions)
        yield logd


@pytest.fixture(scope="module")
def busy(logd: Logd) -> Iterator[str]:
    """The id of a group that has a static member, which reads `three` and has committed of one."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": logd.server.bootstrap,
            "group.id": "busy/group ü",
            "client.id": "reader",
            "group.instance.id": "desk-1",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe(["three"])
    wait_until(lambda: consumer.poll(0.1) is not None)
    place = confluent_kafka.TopicPartition("three", 1, 40, metadata="half way")
    consumer.commit(offsets=[place], asynchronous=False)
    yield "busy/group ü"
    consumer.close()


def produce(logd: Logd, topic: str, partitions: int = 1, *, count: int = RECORDS) -> None:
    """Append records to each partition; the values are their numbers."""
    producer = confluent_kafka.Producer({"bootstrap.servers": logd.server.bootstrap})
    for number in range(partitions * count):
        value = b"%d" % (number // partitions)
        producer.produce(topic, value, partition=number % partitions)
    assert producer.flush(WAIT_S) == 0


def wait_until(done: Callable[[], bool]) -> None:
    """Return when it is so."""
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline


def committed(logd: Logd, group: str) -> dict[tuple[str, int], int]:
    """Return the committed offsets that `group describe` shows."""
    rows = logd.json("group", "describe", group)["offsets"]
    return {(row["topic"], row["partition"]): row["committed_offset"] for row in rows}


@contextmanager
def following(logd: Logd, *arguments: str, out: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A `logd consume --follow` in the background; it is ended whatever happens."""
    command = subprocess.Popen(
        [*Logd.PROGRAM, "consume", *arguments, "--follow"],
        stdout=out,
        stderr=subprocess.PIPE,
        env=logd.environment,
    )
    try:
        yield command
    finally:
        command.kill()
        command.communicate()


# --- consume ---------------------------------------------------------------------------------


def test_a_group_goes_on_where_it_was(logd: Logd) -> None:
    """--count commits exactly what it printed; the next one prints what follows, then nothing."""
    first = logd.run("consume", "one", "--group", "steps", "--count", "7").stdout
    assert first == b"".join(b"%d\n" % number for number in range(7))
    described = logd.json("group", "describe", "steps")
    assert {"group", "state", "protocol", "members", "offsets"} <= described.keys()
    assert (described["group"], described["state"], described["members"]) == ("steps", "Empty", [])
    (row,) = described["offsets"]
    assert abs(row.pop("committed_at_ms") / 1000 - time.time()) < 60
    assert row == {
        "topic": "one", "partition": 0, "committed_offset": 7, "log_end_offset": RECORDS,
        "lag": RECORDS - 7, "metadata": "",
    }  # fmt: skip
    rest = [row["offset"] for row in logd.rows("consume", "one", "--group", "steps")]
    assert rest == list(range(7, RECORDS))
    assert committed(logd, "steps") == {("one", 0): RECORDS}
    assert logd.run("consume", "one", "--group", "steps").stdout == b""


def test_from_is_for_partitions_without_commit(logd: Logd) -> None:
    """--from says where a new group begins, and nothing once it has committed."""
    arguments = ("consume", "one", "--group", "starts", "--count", "1", "--format", "%o ")
    assert logd.run(*arguments, "--from", "50").stdout == b"50 "
    assert logd.run(*arguments, "--from", "earliest").stdout == b"51 "
    assert logd.run("consume", "one", "--group", "late", "--from", "latest").stdout == b""


def test_an_offset_that_is_gone_is_said_and_skipped(logd: Logd) -> None:
    """Where the committed offset was deleted, the group begins as --from says."""
    logd.run("topic", "create", "shrinking", "--partitions", "1")
    produce(logd, "shrinking")
    logd.run("consume", "shrinking", "--group", "slow", "--count", "5")
    logd.run("delete-records", "shrinking", "--partition", "0", "--before", "60", "--yes")
    done = logd.run("consume", "shrinking", "--group", "slow", "--count", "1", "--format", "%o")
    assert done.stdout == b"60"
    assert b"offset 5 " in done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_commits_and_leaves(
    logd: Logd, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """After a signal, also one that comes twice, what was printed is committed, and nothing else;
    the group has no member any more."""
    group = f"interrupted-{code}"
    path = tmp_path / "out"
    with path.open("wb") as out, following(logd, "one", "--group", group, out=out) as command:
        wait_until(lambda: path.stat().st_size > 0)
        command.send_signal(number)
        command.send_signal(number)
        assert command.wait(START_LIMIT_S) == code
    described = logd.json("group", "describe", group)
    assert described["state"] == "Empty"
    assert described["offsets"][0]["committed_offset"] == len(path.read_bytes().split())


def test_a_closed_pipe_commits_and_leaves(logd: Logd) -> None:
    """When the reader of stdout goes, the member leaves, with 0, even while nothing comes."""
    with following(logd, "one", "--group", "piped", out=subprocess.PIPE) as command:
        assert command.stdout is not None
        lines = [command.stdout.readline() for _ in range(RECORDS)]
        command.stdout.close()
        assert command.wait(START_LIMIT_S) == 0
        assert command.stderr is not None
        assert command.stderr.read() == b""
        assert lines[-1] == b"%d\n" % (RECORDS - 1)
    described = logd.json("group", "describe", "piped")
    assert described["state"] == "Empty"
    assert described["offsets"][0]["committed_offset"] == RECORDS


def test_members_share_without_printing_twice(logd: Logd, tmp_path: Path) -> None:
    """A member that joins takes over where the first one was: every record is printed once."""
    path = tmp_path / "first"
    shape = ("--group", "pair", "--format", r"%p %o\n")
    with path.open("wb") as out, following(logd, "three", *shape, out=out) as first:
        wait_until(lambda: path.read_bytes().count(b"\n") == 3 * RECORDS)
        assert logd.run("consume", "three", *shape).stdout == b""
        produce(logd, "three", 3, count=10)
        wait_until(lambda: path.read_bytes().count(b"\n") == 3 * RECORDS + 30)
        first.send_signal(signal.SIGINT)
        first.wait(START_LIMIT_S)
    lines = path.read_bytes().splitlines()
    assert len(set(lines)) == len(lines)
    assert set(committed(logd, "pair").values()) == {RECORDS + 10}


def test_a_group_that_assigns_otherwise_is_not_joined(logd: Logd) -> None:
    """A group whose members assign cooperatively refuses us, and says so in one line."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": logd.server.bootstrap,
            "group.id": "sticky",
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.partition.eof": True,
        }
    )
    try:
        consumer.subscribe(["one"])
        wait_until(lambda: consumer.poll(0.1) is not None)
        refused = logd.run("consume", "one", "--group", "sticky", code=1)
        assert b"another way" in refused.stderr
    finally:
        consumer.close()


# --- list and describe -----------------------------------------------------------------------


def test_members_are_described(logd: Logd, busy: str) -> None:
    """A group in use shows its members with client, host and partitions, and what is not committed;
    an id may hold any characters."""
    described = logd.json("group", "describe", busy)
    assert (described["state"], described["protocol"]) == ("Stable", "range")
    (member,) = described["members"]
    assert member.pop("member_id").startswith("desk-1-")
    assert member == {
        "instance_id": "desk-1",
        "client_id": "reader",
        "client_host": "/127.0.0.1",
        "assignment": [{"topic": "three", "partitions": [0, 1, 2]}],
    }
    (row,) = described["offsets"]
    assert (row["partition"], row["committed_offset"], row["metadata"]) == (1, 40, "half way")
    assert row["committed_at_ms"] is not None
    assert described["uncommitted"] == [{"topic": "three", "partitions": [0, 2]}]
    table = logd.run("group", "describe", busy).stdout.decode()
    for part in ("Stable", "range", "desk-1", "three 0-2", "40", "three 0,2"):
        assert part in table


def test_groups_are_listed(logd: Logd, busy: str) -> None:
    """The list has state, protocol type and number of members; in order, also as a table."""
    logd.run("group", "reset", "aside", "--topic", "one", "--to", "earliest", "--yes")
    rows = logd.json("group", "list")
    assert rows == sorted(rows, key=lambda row: row["group"])
    found = {row["group"]: row for row in rows}
    assert found[busy] == {
        "group": busy, "state": "Stable", "protocol_type": "consumer", "members": 1,
    }  # fmt: skip
    assert found["aside"]["state"] == "Empty"
    assert found["aside"]["members"] == 0
    lines = logd.run("group", "list").stdout.decode().splitlines()
    assert lines[0].split() == ["group", "state", "protocol", "type", "members"]
    assert len(lines) == len(rows) + 1


def test_without_the_admin_port_only_times_are_missing(logd: Logd, busy: str) -> None:
    """committed_at_ms is null, and stderr says why unless --json was given."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{held.getsockname()[1]}"
        done = logd.run("group", "describe", busy, "--admin", nowhere, "--json")
        assert done.stderr == b""
        (row,) = json.loads(done.stdout)["offsets"]
        assert (row["committed_offset"], row["committed_at_ms"]) == (40, None)
        done = logd.run("group", "describe", busy, "--admin", nowhere)
        assert nowhere.encode() in done.stderr
        assert b"40" in done.stdout


def test_groups_of_other_programs_are_shown(logd: Logd) -> None:
    """A group of another protocol type is listed and described; its assignments stay its own."""
    with RawClient(logd.server) as client:
        wanted = join_group.JoinGroupRequestProtocol(name="v1", metadata=b"\xff")
        join = join_group.JoinGroupRequest(
            group_id="workers", session_timeout_ms=30_000, rebalance_timeout_ms=30_000,
            member_id="", protocol_type="connect", protocols=[wanted],
        )  # fmt: skip
        joined = client.ask(join_group, join, 3)
        given = sync_group.SyncGroupRequestAssignment(
            member_id=joined.member_id, assignment=b"\xff\xff"
        )
        sync = sync_group.SyncGroupRequest(
            group_id="workers", generation_id=joined.generation_id, member_id=joined.member_id,
            assignments=[given],
        )  # fmt: skip
        assert client.ask(sync_group, sync, 2).error_code == 0
        found = {row["group"]: row for row in logd.json("group", "list")}
        assert found["workers"]["protocol_type"] == "connect"
        described = logd.json("group", "describe", "workers")
        assert (described["state"], described["protocol"]) == ("Stable", "v1")
        assert described["members"][0]["member_id"] == joined.member_id
        assert described["members"][0]["assignment"] == []


# --- reset and delete ------------------------------------------------------------------------


def reset(logd: Logd, group: str, *arguments: str) -> dict[int, tuple[int | None, int, bool]]:
    """Reset offsets of `one`; return what became of each partition."""
    document = logd.json("group", "reset", group, "--topic", "one", *arguments)
    assert document["group"] == group
    return {
        row["partition"]: (row["committed_offset"], row["new_offset"], row["clamped"])
        for row in document["offsets"]
    }


def test_offsets_are_set_to_where_they_should_be(logd: Logd) -> None:
    """Earliest, latest, an offset and a time; what is out of range is clamped, which is said; a
    dry run changes nothing; a group that did not exist comes into being."""
    assert reset(logd, "moved", "--to", "30", "--dry-run") == {0: (None, 30, False)}
    logd.run("group", "describe", "moved", code=1)
    assert reset(logd, "moved", "--to", "30", "--yes") == {0: (None, 30, False)}
    assert logd.json("group", "describe", "moved")["offsets"][0]["lag"] == RECORDS - 30
    assert reset(logd, "moved", "--to", "latest", "--yes") == {0: (30, RECORDS, False)}
    assert reset(logd, "moved", "--to", "1999-12-31", "--yes") == {0: (RECORDS, 0, False)}
    assert reset(logd, "moved", "--to", "2200-01-01T00:00:00Z", "--yes") == {0: (0, RECORDS, False)}
    assert reset(logd, "moved", "--to", "earliest", "--yes") == {0: (RECORDS, 0, False)}
    said = logd.run("group", "reset", "moved", "--topic", "one", "--to", "5000", "--yes")
    assert b"100 instead of 5000" in said.stderr
    assert committed(logd, "moved") == {("one", 0): RECORDS}
    assert reset(logd, "moved", "--to", "5000", "--dry-run") == {0: (RECORDS, RECORDS, True)}
    assert logd.run("consume", "one", "--group", "moved").stdout == b""


def test_one_partition_is_reset_alone(logd: Logd) -> None:
    """--partition leaves the others as they are; without it all partitions are set."""
    logd.run("group", "reset", "parts", "--topic", "three", "--to", "5", "--yes")
    logd.run("group", "reset", "parts", "--topic", "three", "--partition", "2", "--to", "9",
             "--yes")  # fmt: skip
    assert committed(logd, "parts") == {("three", 0): 5, ("three", 1): 5, ("three", 2): 9}


def test_a_group_in_use_is_left_alone(logd: Logd, busy: str) -> None:
    """Reset, also its dry run, and delete are refused while a member is there; nothing changes."""
    before = committed(logd, busy)
    place = ("group", "reset", busy, "--topic", "three", "--to", "earliest")
    for arguments in ((*place, "--yes"), (*place, "--dry-run"), ("group", "delete", busy, "--yes")):
        said = logd.run(*arguments, code=1).stderr
        assert b"in use (Stable, 1 member)" in said
        assert b"stop its consumers" in said
    assert committed(logd, busy) == before


def test_a_group_is_deleted(logd: Logd) -> None:
    """A group goes with its offsets: not without consent, not in a dry run, and not twice."""
    logd.run("group", "reset", "brief", "--topic", "three", "--to", "1", "--yes")
    logd.run("group", "delete", "brief", code=2)  # No terminal, and no --yes.
    logd.run("group", "reset", "brief", "--topic", "three", "--to", "2", code=2)
    planned = logd.json("group", "delete", "brief", "--dry-run")
    assert planned == {"group": "brief", "offsets": 3, "deleted": False}
    assert set(committed(logd, "brief").values()) == {1}
    assert logd.json("group", "delete", "brief", "--yes")["deleted"] is True
    assert b"no group 'brief'" in logd.run("group", "describe", "brief", code=1).stderr
    assert b"no group 'brief'" in logd.run("group", "delete", "brief", "--yes", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("group", "describe", "nobody"), b"logd group list"),
        (("group", "reset", "g", "--topic", "one", "--partition", "7", "--to", "1", "--yes"),
         b"no partition 7"),
        (("group", "reset", "x" * 5000, "--topic", "one", "--to", "1", "--yes"), b"INVALID_GROUP"),
        (("consume", "nowhere", "--group", "g"), b"nowhere"),
        (("consume", "one", "--group", "x" * 5000), b"INVALID_GROUP"),
    ],
    ids=["describe", "no partition", "long id", "consume nothing", "consume long id"],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(logd: Logd, arguments: Any, said: bytes) -> None:
    """A refusal is exit code 1 and one line that says why."""
    assert said in logd.run(*arguments, code=1).stderr


def test_asking_creates_no_topic(logd: Logd) -> None:
    """A topic that does not exist is not created by asking for it."""
    logd.run("group", "reset", "g", "--topic", "typo", "--to", "latest", "--yes", code=1)
    logd.run("delete-records", "typo", "--partition", "0", "--before", "0", "--yes", code=1)
    assert "typo" not in {topic["name"] for topic in logd.json("topic", "list")}
