"""The commands on the admin port, against a small HTTP server that answers what it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from cli import main

STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "uptime_s": 61,
    "topics": 2,
    "partitions": 5,
    "hot_bytes": 1048576,
    "cold_source_bytes": 0,
    "cold_stored_bytes": 0,
    "nodes": {"total": 0, "live": 0},
    "segments_by_margin": {"lost": 0, "0": 0, "1": 0, "2": 0},
    "repair": {"queued": 0, "running": 0, "eta_s": None},
    "scrub": {},
    "problems": [],
}
SEGMENT = {
    "topic": "t",
    "partition": 0,
    "base_offset": 0,
    "next_offset": 10,
    "size_bytes": 2048,
    "state": "active",
    "hot": True,
    "first_timestamp_ms": 1_700_000_000_000,
    "last_timestamp_ms": None,
    "generation": None,
    "k": None,
    "m": None,
    "margin": None,
    "chunks": [],
}


class Fake:
    """What the fake server answers, and what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.document: Any = {}
        # These come first, each once; then the document, with its own status if one is set.
        self.documents: list[Any] = []
        self.later_status: int | None = None
        self.asked: list[tuple[str, str, Any]] = []
        self.address = ""

    def run(self, *arguments: str) -> int:
        """Run a command against this server."""
        return main.run([*arguments, "--admin", self.address])


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A server on a free port of this machine."""
    answers = Fake()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            answers.asked.append((self.command, self.path, body))
            is_first = bool(answers.documents)
            document = answers.documents.pop(0) if is_first else answers.document
            data = json.dumps(document).encode()
            later = answers.status if answers.later_status is None else answers.later_status
            self.send_response(answers.status if is_first else later)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        answers.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield answers
        server.shutdown()
        thread.join()


def test_status_passes_the_document_on(fake: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    """--json prints what the server said; without problems the exit code is 0."""
    fake.document = STATUS
    assert fake.run("status", "--json") == 0
    assert json.loads(capfd.readouterr().out) == STATUS
    assert fake.asked == [("GET", "/v1/status", None)]
    assert fake.run("status") == 0
    text = capfd.readouterr().out
    assert "1.2.3" in text
    assert "no problems" in text


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"problems": [{"severity": "warning", "message": "careful"}]}, 0),
        ({"problems": [{"severity": "damage", "message": "broken", "topic": "t"}]}, 4),
        ({"segments_by_margin": {"lost": 1, "0": 0}}, 4),
    ],
)
def test_status_exits_with_4_while_data_is_at_risk(
    fake: Fake, capfd: pytest.CaptureFixture[str], change: dict[str, Any], code: int
) -> None:
    """Damage and loss are exit code 4; warnings leave 0. Text and JSON agree."""
    fake.document = STATUS | change
    assert fake.run("status") == code
    text = capfd.readouterr().out
    assert all(problem["message"] in text for problem in fake.document["problems"])
    assert fake.run("status", "--json") == code
    assert json.loads(capfd.readouterr().out) == fake.document


def test_segments_are_listed(fake: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    """The topic and the partition are asked for; the table has a row a segment."""
    fake.document = [SEGMENT]
    assert fake.run("segments", "t", "--partition", "0") == 0
    assert fake.asked == [("GET", "/v1/segments?topic=t&partition=0", None)]
    _, row = capfd.readouterr().out.splitlines()
    assert row.split() == ["0", "0", "10", "2.0", "KiB", "active", "yes",
                           "2023-11-14T22:13:20Z", "-"]  # fmt: skip
    assert fake.run("segments", "t", "--json") == 0
    assert json.loads(capfd.readouterr().out) == [SEGMENT]


def test_coded_segments_are_listed_with_their_chunks(
    fake: Fake, capfd: pytest.CaptureFixture[str]
) -> None:
    """Generation, profile, margin, and the node of each chunk, with its state if it is not live."""
    chunks = [
        {"index": 2, "node": "c", "bytes": 8, "state": "corrupt"},
        {"index": 0, "node": "a", "bytes": 8, "state": "live"},
        {"index": 1, "node": None, "bytes": 8, "state": "missing"},
    ]
    coded = {"state": "coded", "hot": False, "generation": 3, "k": 2, "m": 1, "margin": -1}
    fake.document = [SEGMENT | coded | {"chunks": chunks}, SEGMENT]
    assert fake.run("segments", "t") == 0
    header, first, second = capfd.readouterr().out.splitlines()
    assert header.split()[-4:] == ["gen", "code", "margin", "chunks"]
    assert first.split()[-6:] == ["3", "2+1", "-1", "a", "-(missing)", "c(corrupt)"]
    assert second.split()[-4:] == ["-", "-", "-", "-"]


def test_nodes_on_one_device_are_named(fake: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    """Nodes that fail together are said to, by name; others are not."""
    node = {"address": "/d", "rack": None, "state": "live", "chunks": 0, "bytes": 0,
            "free_bytes": None, "breaker": "closed", "last_error": None}  # fmt: skip
    devices = {"a": "here:1", "b": "here:2", "c": "here:1", "d": None, "e": None}
    fake.document = [node | {"name": name, "device": at} for name, at in devices.items()]
    assert fake.run("node", "list") == 0
    *_, last = capfd.readouterr().out.splitlines()
    assert last == "warning: a, c are on one device: they fail together"


def test_status_says_which_kernel_codes(fake: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    """The kernel has a line of its own, where there is one."""
    fake.document = STATUS | {"kernel": "isal of /lib/libisal.so.2"}
    assert fake.run("status") == 0
    assert "isal of /lib/libisal.so.2" in capfd.readouterr().out


JOB: dict[str, Any] = {
    "id": 3,
    "topic": "t",
    "partitions": [0, 1],
    "done": True,
    "progress": 1.0,
    "rows": [
        {
            "topic": "t", "partition": index, "segments_before": 12, "segments_after": 2,
            "bytes_before": 4096, "bytes_after": 1024, "records_before": 900, "records_after": 7,
            "seconds": 0.25, "note": None, "error": None,
        }
        for index in (0, 1)
    ],
}  # fmt: skip


def test_compact_prints_before_and_after(fake: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    """A row a partition: segments, bytes and records, before and after; --json passes them on."""
    fake.document = JOB
    assert fake.run("compact", "t") == 0
    assert fake.asked == [("POST", "/v1/compact?topic=t", {})]
    rows = capfd.readouterr().out.splitlines()[1:]
    assert [row.split() for row in rows] == [
        [str(index), "12", "2", "4.0", "KiB", "1.0", "KiB", "900", "7", "0.25"] for index in (0, 1)
    ]
    assert fake.run("compact", "t", "--partition", "1", "--json") == 0
    assert fake.asked[1] == ("POST", "/v1/compact?topic=t&partition=1", {})
    assert json.loads(capfd.readouterr().out) == JOB["rows"]


def test_compact_waits_until_it_is_done(fake: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    """It looks again, and again, and prints nothing before the end."""
    fake.documents = [JOB | {"done": False, "progress": share, "rows": []} for share in (0, 0.5)]
    fake.document = JOB
    assert fake.run("compact", "t") == 0
    assert [asked[:2] for asked in fake.asked[1:]] == [("GET", "/v1/compact?id=3")] * 2
    assert len(capfd.readouterr().out.splitlines()) == 3


def test_compact_need_not_wait(fake: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    """--no-wait returns with the first answer, and says what was begun."""
    fake.document = JOB | {"done": False, "rows": []}
    assert fake.run("compact", "t", "--no-wait") == 0
    assert "2 partitions" in capfd.readouterr().out
    assert fake.run("compact", "t", "--no-wait", "--json") == 0
    assert json.loads(capfd.readouterr().out) == {"id": 3, "topic": "t", "partitions": [0, 1]}
    assert len(fake.asked) == 2


def test_compact_tells_of_partitions_that_failed(
    fake: Fake, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 with a line for each that failed; the others' rows are printed all the same."""
    failed = dict.fromkeys(JOB["rows"][0]) | {
        "topic": "t",
        "partition": 0,
        "error": "no\x1b[2Jspace",
    }
    fake.document = JOB | {"rows": [failed, JOB["rows"][1]]}
    assert fake.run("compact", "t") == 1
    said = capfd.readouterr()
    assert said.err == "logd: t partition 0: no\\x1b[2Jspace\n"
    assert len(said.out.splitlines()) == 2
    assert fake.run("compact", "t", "--json") == 1
    said = capfd.readouterr()
    assert json.loads(said.out) == fake.document["rows"]
    assert json.loads(said.err) == {
        "error": "t partition 0: no\\x1b[2Jspace",
        "exit_code": 1,
    }


def test_compact_says_why_nothing_was_done(fake: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    """A partition that was clean already is no error; the reason is printed."""
    row = JOB["rows"][0] | {"records_before": None, "records_after": None, "note": "all is clean"}
    fake.document = JOB | {"rows": [row]}
    assert fake.run("compact", "t") == 0
    assert capfd.readouterr().out.splitlines()[-1] == "partition 0: all is clean"


@pytest.mark.parametrize(
    "command", [("compact", "t"), ("cold", "encode", "t"), ("cold", "verify", "t"), ("repair",)]
)
def test_a_job_of_a_server_that_was_restarted(
    fake: Fake, capfd: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """A job that nobody knows any more ends with what to do next, and exit code 1."""
    fake.documents = [JOB | {"done": False, "rows": []}]
    fake.document, fake.later_status = {"error": "there is no job of id 3"}, 404
    assert fake.run(*command) == 1
    assert "run the command again" in capfd.readouterr().err


def test_adopt_sends_the_absolute_path(
    fake: Fake, tmp_path: object, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server is told the absolute path, and only what was given beside it."""
    fake.document = {"topic": "t", "partition": 3}
    assert fake.run("topic", "adopt", f"{tmp_path}/.", "--name", "t") == 0
    assert fake.asked == [("POST", "/v1/adopt", {"directory": str(tmp_path), "name": "t"})]
    assert "t partition 3" in capfd.readouterr().out


def test_a_refusal_of_the_server_is_passed_on(
    fake: Fake, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server's reason is the one line on stderr, with exit code 1."""
    fake.status, fake.document = 404, {"error": "there is no topic 't'"}
    assert fake.run("segments", "t") == 1
    assert capfd.readouterr().err == "logd: there is no topic 't'\n"


def test_an_answer_that_is_not_ours_exits_with_3(
    fake: Fake, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another web server on that port is not taken for logd."""
    fake.status, fake.document = 500, ["oops"]
    assert fake.run("status") == 3
    assert "not logd's admin port" in capfd.readouterr().err
