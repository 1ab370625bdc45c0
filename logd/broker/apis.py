"""The table of requests: which versions are served, by which codec and which handler.

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
from logd.broker.metadata import handle_metadata
from logd.broker.offsets import handle_list_offsets, handle_offset_for_leader_epoch
from logd.wire.api_keys import API_NAMES, API_VERSIONS, FETCH, PRODUCE
from logd.wire.frame import response_frame
from logd.wire.messages import (
    alter_configs,
    api_versions,
    create_partitions,
    create_topics,
    delete_records,
    delete_topics,
    describe_acls,
    describe_cluster,
    describe_configs,
    describe_log_dirs,
    describe_producers,
    fetch,
    find_coordinator,
    incremental_alter_configs,
    init_producer_id,
    list_offsets,
    list_partition_reassignments,
    metadata,
    offset_for_leader_epoch,
    produce,
)

# Each handler takes and returns its own API's classes; the table holds them all.
Handler = Callable[[RequestContext, Any, int], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Api:
    """One API.

    Attributes:
        low, high: the versions that are advertised.
        served_from: the lowest version that is served; below it the connection is closed.
        module: its codec, of logd.wire.messages.
        handler: None for Produce and Fetch, which the serving loop handles itself.
    """

    key: int
    low: int
    high: int
    module: ModuleType
    handler: Handler | None
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
        body = self.module.encode_response(response, version)
        # The response header of ApiVersions stays at version 0: clients read it before they know.
        first_flexible: int | None = self.module.FIRST_FLEXIBLE_VERSION
        flexible = (
            self.key != API_VERSIONS and first_flexible is not None and version >= first_flexible
        )
        return response_frame(correlation_id, body, flexible=flexible)


async def handle_api_versions(
    _context: RequestContext, request: api_versions.ApiVersionsRequest, version: int
) -> api_versions.ApiVersionsResponse:
    """List what this table serves."""
    return answer_api_versions(request, version, ADVERTISED)


def _api(
    low: int, high: int, module: ModuleType, handler: Handler | None, *, served_from: int = -1
) -> Api:
    key: int = module.API_KEY
    return Api(key, low, high, module, handler, low if served_from < 0 else served_from)


_ALL: Final = (
    _api(0, 11, produce, None, served_from=3),
    _api(4, 17, fetch, None),
    _api(1, 10, list_offsets, handle_list_offsets),
    _api(0, 13, metadata, handle_metadata),
    _api(0, 6, find_coordinator, handle_find_coordinator),
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
    _api(0, 1, incremental_alter_configs, handle_incremental_alter_configs),
    _api(0, 0, list_partition_reassignments, handle_list_partition_reassignments),
    _api(0, 2, describe_cluster, handle_describe_cluster),
    _api(0, 0, describe_producers, handle_describe_producers),
)

APIS: Final[dict[int, Api]] = {api.key: api for api in _ALL}

ADVERTISED: Final = [(api.key, api.low, api.high) for api in _ALL]

assert APIS[PRODUCE].handler is None
assert APIS[FETCH].handler is None
