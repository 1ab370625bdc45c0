"""Status, segments and the admin port's routes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from logd.broker.problems import Problem
from logd.broker.status import PROBLEMS_MAX, find_problems, segments, status
from logd.errors import StorageError, UnknownTopicOrPartitionError
from logd.net.admin_http import AdminHandler
from logd.net.http import HttpError, Request, Response
from logd.record.build import encode_batch
from logd.storage.damage import DamagedRange
from logd.storage.segment import SegmentInfo
from tests.unit.broker_fakes import Server

# The contract of `logd status`: scripts rely on these.
STATUS_FIELDS = {
    "version",
    "uptime_s",
    "topics",
    "partitions",
    "hot_bytes",
    "cold_source_bytes",
    "cold_stored_bytes",
    "nodes",
    "segments_by_margin",
    "repair",
    "scrub",
    "problems",
}
SEGMENT_FIELDS = [
    "topic",
    "partition",
    "base_offset",
    "next_offset",
    "size_bytes",
    "state",
    "hot",
    "first_timestamp_ms",
    "last_timestamp_ms",
    "generation",
    "k",
    "m",
    "margin",
    "chunks",
]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def segment(base_offset: int, *, is_active: bool = False) -> SegmentInfo:
    return SegmentInfo(base_offset, base_offset + 10, 1000, is_active, 5, 6)


async def ask(
    server: Server, target: str, *, method: str = "GET", body: bytes = b"", **headers: str
) -> Response:
    path, _, query = target.partition("?")
    rest = [body]

    async def receive() -> bytes:
        return rest.pop() if rest else b""

    fields = dict(pair.split("=") for pair in query.split("&") if pair)
    return await AdminHandler(server.broker).handle(Request(method, path, fields, headers, receive))


async def test_the_status_document(server: Server) -> None:
    """All fields of the contract are there, those of later work empty."""
    await server.topics.create("a", 2, {})
    server.partition("a", 1).hold(5)
    document = status(server.broker)
    assert document.keys() >= STATUS_FIELDS
    assert (document["topics"], document["partitions"], document["hot_bytes"]) == (1, 2, 500)
    assert document["segments_by_margin"] == {"lost": 0, "0": 0, "1": 0, "2": 0}
    assert document["nodes"] == {"total": 0, "live": 0}
    assert document["kernel"] is None
    assert document["repair"] == {"queued": 0, "running": 0, "states": {}, "eta_s": None}
    assert document["problems"] == []


def kinds(server: Server) -> list[tuple[str, str, str | None, int | None]]:
    return [
        (problem.kind, problem.severity, problem.topic, problem.partition)
        for problem in find_problems(server.broker)
    ]


async def test_everything_that_is_wrong_is_listed(server: Server) -> None:
    """Damage first, then warnings; each names what it is about."""
    await server.topics.create("fast", 1, {"flush.mode": "os"})
    await server.topics.create("t", 3, {})
    server.partition("t", 0).offline = "sync failed"
    server.topics.by_name["t"].partitions[1] = None
    server.topics.by_name["t"].offline[1] = "no such directory"
    server.partition("t", 2).log.damaged = [
        DamagedRange(7, 9, 0, "00000000000000000000.log", 512, 700, "bad CRC")
    ]
    server.write_log("lost-0")
    await server.topics.look_for_unknown()
    server.broker.disk.found_full("no space")
    server.broker.problem_sources.append(lambda: [Problem("clock", "damage", "it jumped")])
    assert kinds(server) == [
        ("partition_offline", "damage", "t", 0),
        ("partition_offline", "damage", "t", 1),
        ("damaged_range", "damage", "t", 2),
        ("clock", "damage", None, None),
        ("flush_mode", "warning", "fast", None),
        ("disk_reserve", "warning", None, None),
        ("unknown_directory", "warning", None, None),
    ]
    messages = [problem.message for problem in find_problems(server.broker)]
    assert "sync failed" in messages[0]
    assert "no such directory" in messages[1]
    assert "offsets 7 to 8 of t-2" in messages[2]
    assert "topic adopt" in messages[6]


async def test_endless_problems_are_counted_not_listed(server: Server) -> None:
    """The document stays readable, and the number is right."""
    server.broker.problem_sources.append(
        lambda: [Problem("x", "warning", str(number)) for number in range(PROBLEMS_MAX + 5)]
    )
    document = status(server.broker)
    assert document["problem_count"] == PROBLEMS_MAX + 5
    assert len(document["problems"]) == PROBLEMS_MAX


async def test_segments(server: Server) -> None:
    """One row a segment, with all fields of the contract."""
    await server.topics.create("t", 2, {})
    server.partition("t", 0).log.described = [segment(0), segment(10, is_active=True)]
    server.partition("t", 1).log.described = [segment(0, is_active=True)]
    rows = segments(server.broker, "t", None)
    assert list(rows[0]) == SEGMENT_FIELDS
    assert [(row["partition"], row["base_offset"], row["state"]) for row in rows] == [
        (0, 0, "sealed"),
        (0, 10, "active"),
        (1, 0, "active"),
    ]
    assert segments(server.broker, "t", 1) == rows[2:]
    with pytest.raises(UnknownTopicOrPartitionError):
        segments(server.broker, "t", 2)
    with pytest.raises(UnknownTopicOrPartitionError):
        segments(server.broker, "u", None)
    server.topics.by_name["t"].partitions[1] = None
    assert len(segments(server.broker, "t", None)) == 2
    with pytest.raises(StorageError):
        segments(server.broker, "t", 1)


# --- routes --------------------------------------------------------------------------------------


async def test_health_readiness_and_metrics(server: Server) -> None:
    """Alive at once, ready when the server says so, metrics as Prometheus text."""
    assert (await ask(server, "/healthz")).status == 200
    with pytest.raises(HttpError, match="starting") as refused:
        await ask(server, "/readyz")
    assert refused.value.status == 503
    server.broker.not_ready = None
    assert (await ask(server, "/readyz")).status == 200
    server.broker.metrics.counter("logd_things_total", "Things.").add(3)
    metrics = await ask(server, "/metrics")
    assert b"logd_things_total 3" in metrics.body
    assert metrics.content_type.startswith("text/plain; version=0.0.4")


async def test_status_and_segments_as_json(server: Server) -> None:
    """The CLI's calls answer one JSON document."""
    await server.topics.create("t", 1, {})
    server.partition("t").log.described = [segment(0, is_active=True)]
    document = json.loads((await ask(server, "/v1/status")).body)
    assert document["topics"] == 1
    rows = json.loads((await ask(server, "/v1/segments?topic=t&partition=0")).body)
    assert [row["state"] for row in rows] == ["active"]


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/status/", 404),
        ("POST", "/v1/status", 405),
        ("DELETE", "/healthz", 405),
        ("GET", "/v1/adopt", 405),
        ("GET", "/v1/segments", 400),
        ("GET", "/v1/segments?topic=none", 404),
        ("GET", "/v1/segments?topic=t&partition=x", 400),
        ("GET", "/v1/segments?topic=t&partition=-1", 400),
        ("GET", "/v1/segments?topic=t&partition=9", 404),
    ],
)
async def test_wrong_requests(server: Server, method: str, target: str, code: int) -> None:
    """Each wrong request has its status, and a reason."""
    await server.topics.create("t", 1, {})
    with pytest.raises(HttpError) as refused:
        await ask(server, target, method=method)
    assert refused.value.status == code


async def adopt(server: Server, body: Any, **headers: str) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await ask(server, "/v1/adopt", method="POST", body=data, **headers)
    return json.loads(answer.body)


async def test_adopt_over_http(server: Server) -> None:
    """The CLI's call takes a directory in and tells where it went."""
    server.write_log("orders-0", bytes(encode_batch([(b"k", b"v", [], 1)])))
    path = str(server.path / "topics" / "orders-0")
    answer = await adopt(server, {"directory": path, "partition": 0})
    assert (answer["topic"], answer["partition"], answer["log_start_offset"]) == ("orders", 0, 0)
    assert "orders" in server.topics.by_name


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        ([], 400),
        ({}, 400),
        ({"directory": 5}, 400),
        ({"directory": "/x", "unknown": 1}, 400),
        ({"directory": "relative-0"}, 400),
        ({"directory": "/x\0-0"}, 400),
        ({"directory": "/no/such-0"}, 409),
        ({"directory": "/tmp"}, 400),
        (b'{"directory": "/' + b"x" * 70000 + b'"}', 413),
    ],
)
async def test_adopt_refuses_bad_bodies(server: Server, body: Any, code: int) -> None:
    """What cannot be understood or found is refused; nothing is adopted."""
    with pytest.raises(HttpError) as refused:
        await adopt(server, body)
    assert refused.value.status == code
    assert server.topics.by_name == {}


async def test_web_pages_may_not_change_anything(server: Server) -> None:
    """A browser names the page's origin; such a POST is refused, a GET is harmless."""
    with pytest.raises(HttpError) as refused:
        await adopt(server, {"directory": "/x-0"}, origin="http://evil.example")
    assert refused.value.status == 403
    assert (await ask(server, "/healthz", origin="http://evil.example")).status == 200
