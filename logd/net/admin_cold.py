"""The admin port's routes for coded segments.

POST /v1/cold/encode  ?topic=NAME[&partition=N][&recode=true]: begins to code every sealed segment,
                      or also those of another profile; the job, or the one under way
POST /v1/cold/thaw    likewise: begins to bring back every released segment
GET  /v1/cold/job     ?id=N: how far a job is, and what it came to
POST /v1/cold/verify  ?topic=NAME[&partition=N]: begins to read and check every chunk; the job
GET  /v1/cold/verify  ?id=N: how far that is, and what was found
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from logd.broker.context import Broker
from logd.broker.partition import Partition
from logd.broker.topic import topic_called
from logd.net.http import HttpError, Request

ENCODE_PATH: Final = "/v1/cold/encode"
THAW_PATH: Final = "/v1/cold/thaw"
JOB_PATH: Final = "/v1/cold/job"
VERIFY_PATH: Final = "/v1/cold/verify"


async def encode(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer POST /v1/cold/encode with the job.

    Raises:
        UnknownTopicOrPartitionError, StorageError: there is none, or it is offline.
        NoStorageNodesError, ColdRefusedError: it cannot be done.
    """
    name, partitions = _partitions(broker, request)
    recode = request.query.get("recode", "false")
    if recode not in ("true", "false"):
        raise HttpError(400, "recode is true or false")
    return await broker.coded.encode(name, partitions, recode=recode == "true")


async def thaw(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer POST /v1/cold/thaw with the job.

    Raises:
        As `encode`.
    """
    name, partitions = _partitions(broker, request)
    return await broker.coded.thaw(name, partitions)


async def get_job(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer GET /v1/cold/job."""
    number = _number(request, "id")
    found = None if number is None else broker.coded.job(number)
    if found is None:
        raise HttpError(404, "there is no such job")
    return found


async def verify(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer POST /v1/cold/verify with the job.

    Raises:
        As `encode`.
    """
    name, partitions = _partitions(broker, request)
    return await broker.coded.verify(name, partitions)


async def get_verify_job(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer GET /v1/cold/verify."""
    number = _number(request, "id")
    found = None if number is None else broker.coded.verify_job(number)
    if found is None:
        raise HttpError(404, "there is no such job")
    return found


def _partitions(broker: Broker, request: Request) -> tuple[str, Sequence[Partition]]:
    """Return the partitions that are asked for; of a whole topic, those that are open."""
    name = request.query.get("topic")
    if not name:
        raise HttpError(400, f"say which topic: {request.path}?topic=NAME")
    index = _number(request, "partition")
    if index is not None:
        return name, [broker.topics.partition(name, index)]
    topic = topic_called(broker.topics.by_name, name)
    return name, [each for each in topic.partitions if each is not None]


def _number(request: Request, name: str) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HttpError(400, f"{name} is a number from 0 on")
    return int(text)
