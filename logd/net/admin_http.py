"""The admin port's routes: what operators, probes and the CLI ask for.

    GET  /healthz      the process lives
    GET  /readyz       it serves; 503 with the reason while it does not
    GET  /metrics      Prometheus text
    GET  /v1/status    the document of `logd status`
    GET  /v1/segments  ?topic=NAME[&partition=N]: the rows of `logd segments`
    POST /v1/retain    ?topic=NAME[&partition=N][&explain=true][&ignore_clock_guard=true]: deletes
                       what retention allows now, or says what goes, when and by which rule
    POST /v1/compact   ?topic=NAME[&partition=N]: begins to compact; the job, or the one under way
    GET  /v1/compact   [?id=N]: how far jobs are, or one of them, and what each partition came to
    POST /v1/adopt     {"directory", "name"?, "partition"?}: takes a partition directory in
    GET  /v1/groups    the consumer groups
    GET  /v1/groups/ID one of them, with members, assignment, offsets, lag; ID percent-encoded
    …    /v1/nodes     storage nodes: `admin_nodes`
    …    /v1/repair    likewise scrub, drain, replace, rebalance, durability, simulate:
                       `admin_upkeep`
    …    /v1/cold/…    coded segments: `admin_cold`

Nobody is authenticated here, so the port stays on a loopback address unless the operator says
otherwise; and a change that carries an Origin header is refused, because it comes from a web page
in a browser on this machine and not from the person at it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec

from logd.broker import group_status, retain, status
from logd.broker.adopt import adopt
from logd.broker.compaction_round import NotCompactedError
from logd.broker.context import Broker
from logd.errors import (
    DataDirectoryError,
    GroupNotFoundError,
    LogdError,
    NodeRefusedError,
    RequestError,
    UnknownNodeError,
    UnknownTopicOrPartitionError,
    UnsupportedFormatError,
)
from logd.net import admin_cold
from logd.net.admin_nodes import NODE_PREFIX, NODES_PATH, add_node, get_nodes, remove_node
from logd.net.admin_upkeep import UPKEEP_ROUTES
from logd.net.http import HttpError, Request, Response
from logd.units import KIB

BODY_BYTES_MAX: Final = 64 * KIB

_PROMETHEUS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_TEXT_TYPE: Final = "text/plain; charset=utf-8"

_GROUP_PREFIX: Final = "/v1/groups/"

Route = Callable[[Request], Awaitable[Response]]


class _AdoptRequest(msgspec.Struct, forbid_unknown_fields=True):
    directory: str
    name: str | None = None
    partition: int | None = None


class AdminHandler:
    """Answers the admin port's requests for one broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._routes: dict[str, dict[str, Route]] = {
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._metrics},
            "/v1/status": {"GET": self._status},
            "/v1/segments": {"GET": self._segments},
            "/v1/retain": {"POST": self._retain},
            "/v1/compact": {"POST": self._compact, "GET": self._compact_job},
            "/v1/adopt": {"POST": self._adopt},
            "/v1/groups": {"GET": self._groups},
            _GROUP_PREFIX: {"GET": self._group},
            admin_cold.ENCODE_PATH: {"POST": self._with(admin_cold.encode)},
            admin_cold.THAW_PATH: {"POST": self._with(admin_cold.thaw)},
            admin_cold.JOB_PATH: {"GET": self._with(admin_cold.get_job)},
            admin_cold.VERIFY_PATH: {
                "POST": self._with(admin_cold.verify),
                "GET": self._with(admin_cold.get_verify_job),
            },
            NODES_PATH: {"GET": self._with(get_nodes), "POST": self._with(add_node)},
            NODE_PREFIX: {"DELETE": self._with(remove_node)},
        }
        for path, methods in UPKEEP_ROUTES.items():
            self._routes[path] = {name: self._with(answer) for name, answer in methods.items()}

    async def handle(self, request: Request) -> Response:
        """Return the answer.

        Raises:
            HttpError: no such route or method, a bad argument, or the broker refused.
        """
        # An id may be anything, "/" included.
        prefixes = (_GROUP_PREFIX, NODE_PREFIX)
        prefix = next((each for each in prefixes if request.path.startswith(each)), None)
        methods = self._routes.get(prefix or request.path)
        if methods is None:
            raise HttpError(404, f"nothing is here; known are {', '.join(self._routes)}")
        route = methods.get(request.method)
        if route is None:
            raise HttpError(405, f"{request.path} takes {', '.join(methods)}")
        if request.method != "GET" and "origin" in request.headers:
            raise HttpError(403, "web pages may not change anything here")
        try:
            return await route(request)
        except LogdError as error:
            if isinstance(error, HttpError):
                raise
            raise HttpError(_status_of(error), str(error)) from error

    def _with(self, answer: Callable[[Broker, Request], Awaitable[Any]]) -> Route:
        """Return the route of a function in another module: it answers with a document."""

        async def route(request: Request) -> Response:
            return _as_json(await answer(self._broker, request))

        return route

    async def _healthz(self, _request: Request) -> Response:
        return Response(body=b"ok\n", content_type=_TEXT_TYPE)

    async def _readyz(self, _request: Request) -> Response:
        if self._broker.not_ready is not None:
            raise HttpError(503, f"not ready: {self._broker.not_ready}")
        return Response(body=b"ready\n", content_type=_TEXT_TYPE)

    async def _metrics(self, _request: Request) -> Response:
        body = self._broker.metrics.render().encode()
        return Response(body=body, content_type=_PROMETHEUS_TYPE)

    async def _status(self, _request: Request) -> Response:
        await self._broker.coded.settled()
        return _as_json(status.status(self._broker))

    async def _segments(self, request: Request) -> Response:
        name, index = _topic_and_partition(request)
        look = partial(status.segments, self._broker, name, index)
        rows = await self._broker.offload.run("admin", look)
        topic = self._broker.topics.by_name.get(name)
        if topic is not None:
            await self._broker.coded.fill_rows(rows, topic.topic_id)
        # Ten thousand segments make ten megabytes with their chunks: not on the loop.
        return await self._broker.offload.run("admin", _as_json, rows)

    async def _retain(self, request: Request) -> Response:
        name, index = _topic_and_partition(request)
        explain = _is_true(request, "explain")
        ignore_clock_guard = _is_true(request, "ignore_clock_guard")
        broker = self._broker
        answer = await (retain.explain if explain else retain.retain)(
            broker.retention, broker.topics, name, index, ignore_clock_guard=ignore_clock_guard
        )
        # Ten thousand segments make two megabytes: not on the loop.
        return await broker.offload.run("admin", _as_json, answer)

    async def _compact(self, request: Request) -> Response:
        name, index = _topic_and_partition(request)
        return _as_json(self._broker.compaction.request(name, index).as_document())

    async def _compact_job(self, request: Request) -> Response:
        number = _as_number(request.query.get("id"), "a compaction's id")
        if number is None:
            return _as_json([job.as_document() for job in self._broker.compaction.jobs()])
        job = self._broker.compaction.job(number)
        if job is None:
            raise HttpError(404, f"there is no compaction of id {number}")
        return _as_json(job.as_document())

    async def _groups(self, _request: Request) -> Response:
        return _as_json(group_status.list_groups(self._broker.groups))

    async def _group(self, request: Request) -> Response:
        group_id = request.path.removeprefix(_GROUP_PREFIX)
        return _as_json(group_status.describe_group(self._broker.groups, group_id))

    async def _adopt(self, request: Request) -> Response:
        body = await request.read_body(limit_bytes=BODY_BYTES_MAX)
        try:
            asked = msgspec.json.decode(body, type=_AdoptRequest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HttpError(400, f"the body is not what is expected: {error}") from error
        if not asked.directory.startswith("/") or "\0" in asked.directory:
            raise HttpError(400, "the directory must be an absolute path")
        adopted = await adopt(
            self._broker.topics,
            asked.directory,
            name=asked.name,
            partition=asked.partition,
            reserve_bytes=self._broker.disk.reserve_bytes,
        )
        return _as_json(dataclasses.asdict(adopted))


def _as_json(document: Any) -> Response:
    return Response(body=msgspec.json.encode(document) + b"\n")


def _topic_and_partition(request: Request) -> tuple[str, int | None]:
    name = request.query.get("topic")
    if not name:
        raise HttpError(400, f"say which topic: {request.path}?topic=NAME")
    return name, _as_number(request.query.get("partition"), "a partition")


def _is_true(request: Request, name: str) -> bool:
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise HttpError(400, f"{name} is true or false")
    return text == "true"


def _as_number(text: str | None, what: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HttpError(400, f"{what} is a number from 0 on")
    return int(text)


def _status_of(error: LogdError) -> int:
    if isinstance(error, UnknownTopicOrPartitionError | GroupNotFoundError | UnknownNodeError):
        return 404
    if isinstance(error, DataDirectoryError | UnsupportedFormatError | NodeRefusedError):
        return 409
    return 400 if isinstance(error, RequestError | NotCompactedError) else 503
