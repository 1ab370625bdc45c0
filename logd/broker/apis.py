"""The table of requests: which versions are served, by which codec and which handler.

There are two kinds of handler. One is awaited, as a task of its own, while its connection is not
read. The other is begun on the serving loop and gives its answer by a call, at once or when a sync
or other members of a group have come so far: no task, no pause. Group requests are of that kind.

ApiVersions is answered from this table, so what is advertised and what is served cannot drift
apart. One entry differs on purpose: Produce is advertised from version 0, because librdkafka before
2.12 stops compressing where it is not, and served from version 3, as by Kafka 4. The other lowest
versions must not be raised either: that client switches features off if one exact version is
missing.

Source: KIP-896; KAFKA-18659.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from logd.broker.admin_configs import (
    handle_alter_configs,
    handle_describe_configs,
    handle_incremental_alter_configs,
)
from logd.broker.admin_topics import (
    handle_create_partitions,
    handle_create_topics,
    handle_delete_records,
    handle_delete_topics,
)
from logd.broker.api_versions import answer_api_versions, unsupported_version_body
from logd.broker.cluster import (
    handle_describe_acls,
    handle_describe_cluster,
    handle_describe_log_dirs,
    handle_describe_producers,
    handle_find_coordinator,
    handle_init_producer_id,
    handle_list_partition_reassignments,
)
from logd.broker.context import RequestContext
from logd.broker.group_admin import begin_delete_groups, begin_describe_groups, begin_list_groups
from logd.broker.group_requests import (
    begin_heartbeat,
    begin_join_group,
    begin_leave_group,
    begin_sync_group,
)
from logd.broker.metadata import handle_metadata
from logd.broker.offset_fetches import begin_offset_fetch
from logd.broker.offset_requests import begin_offset_commit, begin_offset_delete
from logd.broker.offsets import handle_list_offsets, handle_offset_for_leader_epoch
from logd.broker.reply import Answer, Reply, ReplyOwner
from logd.wire.api_keys import API_NAMES, API_VERSIONS, FETCH, PRODUCE
from logd.wire.frame import response_frame
from logd.wire.messages import (
    alter_configs,
    api_versions,
    create_partitions,
    create_topics,
    delete_groups,
    delete_records,
    delete_topics,
    describe_acls,
    describe_cluster,
    describe_configs,
    describe_groups,
    describe_log_dirs,
    describe_producers,
    fetch,
    find_coordinator,
    heartbeat,
    incremental_alter_configs,
    init_producer_id,
    join_group,
    leave_group,
    list_groups,
    list_offsets,
    list_partition_reassignments,
    metadata,
    offset_commit,
    offset_delete,
    offset_fetch,
    offset_for_leader_epoch,
    produce,
    sync_group,
)

# Each handler takes and returns its own API's classes; the table holds them all.
Handler = Callable[[RequestContext, Any, int], Awaitable[Any]]
Begin = Callable[[RequestContext, Any, int, Answer], None]


@dataclass(frozen=True, slots=True)
class Api:
    """One API.

    Attributes:
        low, high: the versions that are advertised.
        served_from: the lowest version that is served; below it the connection is closed.
        module: its codec, of logd.wire.messages.
        handler: awaited; None where `begin` is set, and for Produce and Fetch, which the serving
            loop handles itself.
        begin: called on the serving loop, answers by a call.
    """

    key: int
    low: int
    high: int
    module: ModuleType
    handler: Handler | None
    begin: Begin | None
    served_from: int

    @property
    def name(self) -> str:
        """The API's name in Kafka."""
        return API_NAMES[self.key]

    def serves(self, version: int) -> bool:
        """Return whether a request of this version can be decoded and answered."""
        return self.served_from <= version <= self.high

    async def answer(self, context: RequestContext, request: object, correlation_id: int) -> bytes:
        """Return the whole frame that answers a request.

        Only ApiVersions may be asked in a version that is not served; `request` is None then.
        """
        assert self.handler is not None
        version = context.version
        if not self.serves(version):
            assert self.key == API_VERSIONS
            body = unsupported_version_body((self.key, self.low, self.high))
            return response_frame(correlation_id, body, flexible=False)
        response = await self.handler(context, request, version)
        return self.frame(response, version, correlation_id)

    def frame(self, response: object, version: int, correlation_id: int) -> bytes:
        """Return the whole frame of a response."""
        body = self.module.encode_response(response, version)
        # The response header of ApiVersions stays at version 0: clients read it before they know.
        first_flexible: int | None = self.module.FIRST_FLEXIBLE_VERSION
        flexible = (
            self.key != API_VERSIONS and first_flexible is not None and version >= first_flexible
        )
        return response_frame(correlation_id, body, flexible=flexible)


class LateReply(Reply):
    """The reply to a request whose handler answers by a call, see `Answer`."""

    __slots__ = ("_api", "_correlation_id", "on_abandon", "version")

    def __init__(self, owner: ReplyOwner, api: Api, *, version: int, correlation_id: int) -> None:
        super().__init__(owner)
        self._api = api
        self._correlation_id = correlation_id
        self.version = version
        self.on_abandon: Callable[[], None] | None = None

    def answer(self, response: Any) -> None:
        """Send the response in its turn."""
        try:
            frame = self._api.frame(response, self.version, self._correlation_id)
        except Exception as error:  # A bug of ours must cost one connection, not the server.
            self.owner.close_for(f"an answer of {self._api.name} cannot be sent: {error!r}")
            return
        self.complete(frame)

    def abandon(self) -> None:
        """The connection is gone: tell the handler, if it wanted to know."""
        if self.data is None and self.on_abandon is not None:
            self.on_abandon()


async def handle_api_versions(
    _context: RequestContext, request: api_versions.ApiVersionsRequest, version: int
) -> api_versions.ApiVersionsResponse:
    """List what this table serves."""
    return answer_api_versions(request, version, ADVERTISED)


def _api(
    low: int,
    high: int,
    module: ModuleType,
    handler: Handler | None,
    *,
    begin: Begin | None = None,
    served_from: int = -1,
) -> Api:
    key: int = module.API_KEY
    return Api(key, low, high, module, handler, begin, low if served_from < 0 else served_from)


_ALL: Final = (
    _api(0, 11, produce, None, served_from=3),
    _api(4, 17, fetch, None),
    _api(1, 10, list_offsets, handle_list_offsets),
    _api(0, 13, metadata, handle_metadata),
    _api(2, 9, offset_commit, None, begin=begin_offset_commit),
    _api(1, 9, offset_fetch, None, begin=begin_offset_fetch),
    _api(0, 6, find_coordinator, handle_find_coordinator),
    _api(0, 9, join_group, None, begin=begin_join_group),
    _api(0, 4, heartbeat, None, begin=begin_heartbeat),
    _api(0, 5, leave_group, None, begin=begin_leave_group),
    _api(0, 5, sync_group, None, begin=begin_sync_group),
    _api(0, 6, describe_groups, None, begin=begin_describe_groups),
    _api(0, 5, list_groups, None, begin=begin_list_groups),
    _api(0, 4, api_versions, handle_api_versions),
    _api(2, 7, create_topics, handle_create_topics),
    _api(1, 6, delete_topics, handle_delete_topics),
    _api(0, 2, delete_records, handle_delete_records),
    _api(0, 5, init_producer_id, handle_init_producer_id),
    _api(2, 4, offset_for_leader_epoch, handle_offset_for_leader_epoch),
    _api(1, 3, describe_acls, handle_describe_acls),
    _api(1, 4, describe_configs, handle_describe_configs),
    _api(0, 2, alter_configs, handle_alter_configs),
    _api(1, 4, describe_log_dirs, handle_describe_log_dirs),
    _api(0, 3, create_partitions, handle_create_partitions),
    _api(0, 2, delete_groups, None, begin=begin_delete_groups),
    _api(0, 1, incremental_alter_configs, handle_incremental_alter_configs),
    _api(0, 0, list_partition_reassignments, handle_list_partition_reassignments),
    _api(0, 0, offset_delete, None, begin=begin_offset_delete),
    _api(0, 2, describe_cluster, handle_describe_cluster),
    _api(0, 0, describe_producers, handle_describe_producers),
)

APIS: Final[dict[int, Api]] = {api.key: api for api in _ALL}

ADVERTISED: Final = [(api.key, api.low, api.high) for api in _ALL]

assert APIS[PRODUCE].handler is None
assert APIS[FETCH].handler is None
