"""Storage nodes on the command line, with real processes: a server, directories, node servers."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.forked import run_logd
from tests.interop.test_node_serve import TOKEN, node_process, token_file
from tests.logd_command import Logd
from tests.server_process import ServerProcess

pytestmark = pytest.mark.interop

# A probe that a busy machine answers in half a second is no failed one.
QUICK = ("--set", "node.suspect.ms=1000", "--set", "node.dead.ms=2000")
WAIT_S = 60


@contextmanager
def serving(directory: str, *arguments: str) -> Iterator[Logd]:
    """A server on the data directory in here."""
    with ServerProcess(f"{directory}/data", *arguments) as server:
        yield Logd(server)
        assert server.stop() == 0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.05)


def rows_by_name(logd: Logd) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in logd.json("node", "list")}


def metrics(logd: Logd) -> str:
    host, port = logd.server.admin
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=WAIT_S) as answer:
        return str(answer.read().decode())


def test_nodes_by_flag_and_by_command(directory: str) -> None:
    """--node and `node add` register; repeating is harmless; a restart knows them without flags."""
    flags = ("--node", f"a={directory}/a", "--node", f"b={directory}/b")
    with serving(directory, *flags) as logd:
        logd.run("node", "add", "c", f"{directory}/c", "--rack", "r1")
        logd.run("node", "add", "a", f"{directory}/a")
        before = logd.json("node", "list")
        assert [row["name"] for row in before] == ["a", "b", "c"]
        assert {row["state"] for row in before} == {"live"}
        assert [row["rack"] for row in before] == [None, None, "r1"]
        for row in before:
            assert (row["chunks"], row["bytes"], row["breaker"]) == (0, 0, "closed")
            assert row["device"].startswith("here:")
            assert row["free_bytes"] > 0
            assert row["last_error"] is None
        assert logd.json("status")["nodes"] == {"total": 3, "live": 3}
    with serving(directory, *flags[:2]) as logd:
        strip = [{**row, "free_bytes": 0} for row in logd.json("node", "list")]
        assert strip == [{**row, "free_bytes": 0} for row in before]


def test_scrub_status_without_nodes_says_what_is(directory: str) -> None:
    """Asked, it begins nothing, and says that nothing is verified; begun, how much there is."""
    with serving(directory) as logd:
        shown = logd.run("scrub", "status").stdout.decode()
        assert shown.startswith("idle: without storage nodes nothing is verified by itself")
        assert "%" not in shown
        assert logd.json("scrub", "status")["progress"] == 0
        begun = logd.json("scrub", "start", "--wait")
        assert [place["bytes"] for place in begun["places"]] == [0]
        assert logd.run("scrub", "status").stdout.startswith(b"idle, there is nothing to verify\n")
        logd.run("topic", "create", "t", "--partitions", "1", "--config", "segment.offsets=10")
        for _ in range(3):
            logd.run("produce", "t", stdin=b"x\n" * 10)
        assert logd.json("scrub", "start", "--wait")["places"][0]["items"] >= 2
        assert logd.run("scrub", "status").stdout.startswith(b"idle, 100% of this round verified\n")


def test_what_is_refused(directory: str) -> None:
    """One line that says why, exit 1; nothing is registered by it. Wrong usage is 2."""
    Path(directory, "full").mkdir()
    Path(directory, "full", "letter").write_text("dear")
    with serving(directory, "--node", f"a={directory}/a") as logd:
        for arguments in (
            ("a", f"{directory}/new"), ("q", f"{directory}/full"), ("q", f"{directory}/no/such"),
            ("q", "http://127.0.0.1:1"), ("q", "https://127.0.0.1:1"), ("q/r", f"{directory}/q"),
        ):  # fmt: skip
            assert b"Errno" not in logd.run("node", "add", *arguments, code=1).stderr
        beside = ("q", f"{directory}/full/letter/q")  # What is above it is a file.
        assert b"give another directory" in logd.run("node", "add", *beside, code=1).stderr
        logd.run("node", "remove", "nobody", "--yes", code=1)
        logd.run("node", "remove", "a", code=2)  # No terminal, and no --yes.
        logd.run("node", "add", "q", code=2)
        assert list(rows_by_name(logd)) == ["a"]
        assert not Path(directory, "new").exists()
        logd.run("node", "remove", "a", "--yes")
        assert logd.json("node", "list") == []
        assert Path(directory, "a", "node.identity").exists()


def test_a_node_server_with_a_token(directory: str) -> None:
    """The server sends the token of its file; without it the node is refused, and says why."""
    token = token_file(directory)
    with node_process(f"{directory}/disk", "--token-file", token, "--rack", "r9") as node:
        _, name, address = node
        assert name == "-"
        with serving(directory) as logd:
            refused = logd.run("node", "add", "r", f"http://{address}", code=1)
            assert b"token" in refused.stderr
        with serving(directory, "--token-file", token, *QUICK) as logd:
            row = logd.json("node", "add", "r", f"http://{address}")
            assert (row["state"], row["rack"]) == ("live", "r9")
            again = logd.json("node", "add", "again", f"http://{address}")
            assert (again["name"], again["renamed_from"]) == ("again", "r")
            assert logd.json("node", "add", "r", f"http://{address}")["id"] == again["id"]
            node[0].send_signal(signal.SIGSTOP)
            wait_until(lambda: rows_by_name(logd)["r"]["state"] == "dead")
            status = logd.json("status")
            assert status["nodes"] == {"total": 1, "live": 0}
            assert [problem["kind"] for problem in status["problems"]] == ["node_dead"]
            assert 'logd_node_up{node="r"} 0' in metrics(logd)
            assert 'logd_node_state{node="r",state="dead"} 1' in metrics(logd)
            node[0].send_signal(signal.SIGCONT)
            wait_until(lambda: rows_by_name(logd)["r"]["state"] == "live")
            wait_until(lambda: logd.json("status")["problems"] == [])
            wait_until(lambda: 'logd_node_up{node="r"} 1' in metrics(logd))


def test_a_token_file_that_others_can_read(directory: str) -> None:
    """It ends the start with 2, and the token is nowhere in what is said."""
    token = token_file(directory, mode=0o644)
    done = run_logd("serve", "--data", f"{directory}/d", "--token-file", token)
    assert done.returncode == 2
    assert b"0644" in done.stderr
    assert TOKEN.encode() not in done.stderr + done.stdout


def test_a_directory_that_moved(directory: str) -> None:
    """Found under another path, by flag or command, its record follows; a copy is not made."""
    with serving(directory, "--node", f"a={directory}/a") as logd:
        identity = rows_by_name(logd)["a"]["id"]
    Path(directory, "a").rename(Path(directory, "b"))
    with serving(directory, "--node", f"a={directory}/b") as logd:
        row = rows_by_name(logd)["a"]
        assert (row["id"], row["address"], row["state"]) == (identity, f"{directory}/b", "live")
    Path(directory, "b").rename(Path(directory, "c"))
    with serving(directory) as logd:
        assert rows_by_name(logd)["a"]["state"] == "dead"
        assert "no node.identity" in rows_by_name(logd)["a"]["last_error"]
        logd.run("node", "add", "a", f"{directory}/c")
        assert rows_by_name(logd)["a"]["state"] == "live"


def test_a_catalog_from_an_old_copy_is_refused(directory: str) -> None:
    """A start with a catalog that a node has seen more of ends with 1, and names the way out."""
    with serving(directory, "--node", f"a={directory}/a"):
        pass
    copy = {path: path.read_bytes() for path in Path(directory, "data").glob("catalog.sqlite*")}
    with serving(directory, "--node", f"b={directory}/b") as logd:
        sequence = Path(directory, "a", "node.identity")
        wait_until(lambda: json.loads(sequence.read_bytes()[24:])["catalog_sequence"] == 2)
        assert logd.json("status")["nodes"] == {"total": 2, "live": 2}
    for path in Path(directory, "data").glob("catalog.sqlite*"):
        path.unlink()
    for path, data in copy.items():
        path.write_bytes(data)
    command = [
        "serve", "--data", f"{directory}/data",
        "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
    ]  # fmt: skip
    done = run_logd(*command)
    assert done.returncode == 1
    assert b"--rebuild-catalog" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_a_lost_catalog_is_made_again(directory: str) -> None:
    """Topics, records and nodes are there as before; the old catalog lies beside the new one."""
    nodes = ("--node", f"a={directory}/a", "--node", f"b={directory}/b")
    with serving(directory, *nodes) as logd:
        logd.run("topic", "create", "t", "--partitions", "2", "--config", "retention.ms=8d")
        logd.run("produce", "t", "--partition", "1", stdin=b"one\ntwo\n")
        ids = {row["name"]: row["id"] for row in logd.json("node", "list")}
        topics = logd.json("topic", "list")
        found = logd.json("topic", "describe", "t")["settings"]
        before = {row["name"]: row["value"] for row in found}
    catalog = Path(directory, "data", "catalog.sqlite")
    for is_lost in (False, True):
        if is_lost:
            catalog.unlink()
        with serving(directory, "--rebuild-catalog", *nodes) as logd:
            assert {row["name"]: row["id"] for row in logd.json("node", "list")} == ids
            assert [row for row in logd.json("topic", "list") if not row["internal"]] == topics
            values = [row["value"] for row in logd.rows("consume", "t", "--from", "earliest")]
            assert values == ["one", "two"]
            found = logd.json("topic", "describe", "t")["settings"]
            kept = {row["name"]: row["value"] for row in found}
            assert kept == ({"retention.ms": "-1", "retention.bytes": "-1"} if is_lost else before)
            assert logd.json("status")["problems"] == []
    assert Path(directory, "data", "catalog.sqlite.aside-1").exists()
    done = run_logd("check", f"{directory}/data")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rebuild_that_cannot_read_a_node(directory: str) -> None:
    """It is refused with the node's name, exit 1, and the catalog is as it was."""
    with serving(directory, "--node", f"a={directory}/a"):
        pass
    before = Path(directory, "data", "catalog.sqlite").read_bytes()
    command = [
        "serve", "--data", f"{directory}/data", "--rebuild-catalog",
        "--node", f"a={directory}/a", "--node", f"b={directory}/nothing",
        "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
    ]  # fmt: skip
    done = run_logd(*command)
    assert done.returncode == 1
    assert f"{directory}/nothing is no node" in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert Path(directory, "data", "catalog.sqlite").read_bytes() == before


def test_coded_segments_outlive_the_catalog(directory: str) -> None:
    """Records that are only in chunks are read after a rebuild; each node holds what it held."""
    nodes = [word for name in "abcd" for word in ("--node", f"{name}={directory}/{name}")]
    lines = b"".join(b"%06d %s\n" % (number, b"x" * 200) for number in range(5000))
    with serving(directory, *nodes) as logd:
        logd.run(
            "topic", "create", "t", "--partitions", "1", "--config", "segment.bytes=256KiB",
            "--config", "cold.grace.ms=0",
        )  # fmt: skip
        logd.run("produce", "t", stdin=lines)
        logd.run("cold", "encode", "t")
        wait_until(lambda: not any(row["hot"] for row in logd.json("segments", "t")[:-1]))
        segments = logd.json("segments", "t")
        assert len(segments) > 1
        held = {name: (row["chunks"], row["bytes"]) for name, row in rows_by_name(logd).items()}
        assert all(chunks == len(segments) - 1 and size > 0 for chunks, size in held.values())
        assert logd.json("status")["cold_stored_bytes"] == sum(size for _, size in held.values())
        logd.run("node", "remove", "a", "--yes", code=1)
    Path(directory, "data", "catalog.sqlite").unlink()
    with serving(directory, "--rebuild-catalog", *nodes) as logd:
        assert logd.run("consume", "t", "--from", "earliest").stdout == lines
        # Of a node that has just come nothing is known, until it was looked through.
        wait_until(lambda: logd.json("segments", "t") == segments)
        wait_until(lambda: {
            name: (row["chunks"], row["bytes"]) for name, row in rows_by_name(logd).items()
        } == held)  # fmt: skip
        assert {p["kind"] for p in logd.json("status")["problems"]} <= {"no_spare_node"}
