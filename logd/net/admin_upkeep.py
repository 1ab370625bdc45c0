"""The admin port's routes for repair, scrub, moves and what-if.

GET  /v1/repair         the queue: every item with its state, reason and end; [?id=N]: a job;
                        [?dry_run=true]: as if no delay counted
POST /v1/repair         begins to repair everything that can be; the job, or the one under way
GET  /v1/scrub          how far scrub is
POST /v1/scrub          ?action=start|pause|resume; how far scrub is then
GET  /v1/drain          ?node=NAME: how far the draining of a node is
POST /v1/drain          ?node=NAME[&dry_run=true][&stop=true]: begins to empty a node; the plan
POST /v1/replace        ?node=NAME[&place=PLACE][&dry_run=true]: an empty place takes a node's
GET  /v1/rebalance      how many moves are left, were made, and were given up, and why
POST /v1/rebalance      [?dry_run=true]: begins to move chunks; the plan
GET  /v1/durability     [?afr=F][&repair_hours=H]: margins, and what a model says
GET  /v1/simulate       ?fail=NODE,NODE: what their failure would mean
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from logd.broker.context import Broker
from logd.broker.upkeep_status import scrub_of_nobody, upkeep_of
from logd.net.http import HttpError, Request

if TYPE_CHECKING:
    from logd.cold.scrubbing import Scrubber

AFR_MAX: Final = 100.0
HOURS_MAX: Final = 1e6
Answer = Callable[[Broker, Request], Awaitable[Any]]


async def get_repair(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer GET /v1/repair."""
    upkeep = await upkeep_of(broker.coded)
    number = request.query.get("id")
    if number is None:
        return upkeep.repair_queue(ignores_delays=_is_true(request, "dry_run"))
    is_number = number.isascii() and number.isdigit() and len(number) < 10
    job = upkeep.jobs.job(int(number)) if is_number else None
    if job is None:
        raise HttpError(404, "there is no such job")
    return job.as_document()


async def begin_repair(broker: Broker, _request: Request) -> dict[str, Any]:
    """Answer POST /v1/repair."""
    job = await (await upkeep_of(broker.coded)).jobs.begin()
    if job is None:
        raise HttpError(503, "the server is starting or stopping")
    return job.as_document()


async def get_scrub(broker: Broker, _request: Request) -> dict[str, Any]:
    """Answer GET /v1/scrub; to ask begins nothing."""
    if broker.coded.is_idle:
        return scrub_of_nobody(broker.config.settings.scrub_cycle_ms)
    return (await _scrubber(broker)).status()


async def control_scrub(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer POST /v1/scrub."""
    scrubber = await _scrubber(broker)
    actions = {"start": scrubber.start, "pause": scrubber.pause, "resume": scrubber.resume}
    action = actions.get(request.query.get("action", ""))
    if action is None:
        raise HttpError(400, f"action is one of {', '.join(actions)}")
    action()
    return scrubber.status()


async def _scrubber(broker: Broker) -> Scrubber:
    """Return what verifies; without a storage node it verifies the sealed segments here."""
    scrubber = (await upkeep_of(broker.coded, needs_nodes=False)).scrubber
    await scrubber.begun()
    return scrubber


async def get_drain(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer GET /v1/drain."""
    return (await upkeep_of(broker.coded)).moving.progress(_node(request))


async def begin_drain(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer POST /v1/drain."""
    from logd.cold.node_moving import drain_document

    moving, name = (await upkeep_of(broker.coded)).moving, _node(request)
    if _is_true(request, "stop"):
        await moving.stop_draining(name)
        return moving.progress(name)
    if _is_true(request, "dry_run"):
        return drain_document(moving.plan_drain(name))
    return drain_document(await moving.drain(name))


async def replace_node(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer POST /v1/replace."""
    from logd.cold.node_moving import replace_document

    moving, name = (await upkeep_of(broker.coded)).moving, _node(request)
    place = request.query.get("place")
    if place is not None and "://" not in place and not place.startswith("/"):
        raise HttpError(400, "the place must be an absolute path, or http://HOST:PORT")
    if _is_true(request, "dry_run"):
        return replace_document(moving.plan_replace(name))
    return replace_document(await moving.replace(name, place))


async def get_rebalance(broker: Broker, _request: Request) -> dict[str, Any]:
    """Answer GET /v1/rebalance."""
    return (await upkeep_of(broker.coded)).moving.moves_document()


async def rebalance(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer POST /v1/rebalance."""
    from logd.cold.node_moving import rebalance_document

    moving = (await upkeep_of(broker.coded)).moving
    if _is_true(request, "dry_run"):
        return rebalance_document(moving.plan_rebalance())
    return rebalance_document(moving.rebalance())


async def get_durability(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer GET /v1/durability."""
    afr = _as_float(request, "afr", high=AFR_MAX)
    hours = _as_float(request, "repair_hours", high=HOURS_MAX)
    outlook = (await upkeep_of(broker.coded)).outlook
    return outlook.durability(afr=0.02 if afr is None else afr, repair_hours=hours)


async def get_simulation(broker: Broker, request: Request) -> dict[str, Any]:
    """Answer GET /v1/simulate."""
    names = [name for name in request.query.get("fail", "").split(",") if name]
    if not names:
        raise HttpError(400, "say which nodes: /v1/simulate?fail=NODE,NODE")
    return (await upkeep_of(broker.coded)).outlook.simulate(frozenset(names))


UPKEEP_ROUTES: Final[dict[str, dict[str, Answer]]] = {
    "/v1/repair": {"GET": get_repair, "POST": begin_repair},
    "/v1/scrub": {"GET": get_scrub, "POST": control_scrub},
    "/v1/drain": {"GET": get_drain, "POST": begin_drain},
    "/v1/replace": {"POST": replace_node},
    "/v1/rebalance": {"GET": get_rebalance, "POST": rebalance},
    "/v1/durability": {"GET": get_durability},
    "/v1/simulate": {"GET": get_simulation},
}
"""Path and method to what answers."""


def _node(request: Request) -> str:
    name = request.query.get("node")
    if not name:
        raise HttpError(400, f"say which node: {request.path}?node=NAME")
    return name


def _is_true(request: Request, name: str) -> bool:
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise HttpError(400, f"{name} is true or false")
    return text == "true"


def _as_float(request: Request, name: str, *, high: float) -> float | None:
    text = request.query.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= high:
        raise HttpError(400, f"{name} is a number above 0, at most {high:g}")
    return value
