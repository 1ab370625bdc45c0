"""What every handler is given: the services of the one broker, and who is asking.

A handler is `async def handle_xxx(context, request, version) -> XxxResponse`. It holds no state of
its own: all state is in the services that `Broker` lists. `Broker` is put together once, by the
server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from logd.broker.cold_segments import ColdSegments
from logd.broker.compaction import Compaction
from logd.broker.disk_space import DiskSpace
from logd.broker.dynamic_config import DynamicConfig
from logd.broker.groups import Coordinator
from logd.broker.problems import Problem
from logd.broker.producer_ids import ProducerIds
from logd.broker.retention import Retention
from logd.broker.topics import Topics
from logd.clock import Clock
from logd.cold.reading import ColdReads
from logd.cold.tier import ColdTier
from logd.events import EventLog
from logd.metrics import Registry
from logd.offload import Offload
from logd.storage.files import Files

NODE_ID = 1
"""The number of the one broker of a cluster; also its controller."""


@dataclass(slots=True)
class Broker:
    """The services of a running broker. Written by the server at start, read by handlers.

    Attributes:
        config: server settings as given at start, with the dynamic ones on top (`config.settings`).
        advertised: where clients are told to connect, (host, port); known once the port is open.
        problem_sources: each yields what is wrong now, for `status`; the parts of the server add
            theirs.
        started_at: monotonic seconds.
        groups: the coordinator of all consumer groups; set once, before the first request.
        retention: what deletes old segments; set once, likewise.
        compaction: what compacts, by itself and on demand; set once, likewise.
        cold: what is coded, and the storage nodes; set once, likewise.
        cold_reads: reads of coded segments; set once, likewise.
        coded: what moves segments through their life as coded ones; set once, likewise.
        not_ready: why the broker does not serve yet, or None; the server clears it.
    """

    config: DynamicConfig
    topics: Topics
    producer_ids: ProducerIds
    clock: Clock
    offload: Offload
    metrics: Registry
    events: EventLog
    cluster_id: str
    advertised: Callable[[], tuple[str, int]]
    files: Files
    data_path: str
    started_at: float
    disk: DiskSpace
    groups: Coordinator = field(init=False)
    retention: Retention = field(init=False)
    compaction: Compaction = field(init=False)
    cold: ColdTier = field(init=False)
    cold_reads: ColdReads = field(init=False)
    coded: ColdSegments = field(init=False)
    node_id: int = NODE_ID
    not_ready: str | None = "starting"
    problem_sources: list[Callable[[], Iterable[Problem]]] = field(default_factory=list)


@dataclass(slots=True)
class RequestContext:
    """One request's surroundings; client-supplied text in it is untrusted."""

    broker: Broker
    client_id: str | None
    client_address: str
    api_key: int
    version: int
