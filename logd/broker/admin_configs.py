"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs: of topics and of the broker.

What is altered takes effect before the answer leaves, and survives a restart: it is in the catalog.
The broker's settings are addressed as broker "1" or, as cluster-wide default, as broker ""; with
one broker the two are the same set.

AlterConfigs replaces all overrides at once: what the request does not name returns to its default.
Older clients know nothing better.

Source: Kafka protocol; KIP-133, KIP-226, KIP-339, KIP-569.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from logd.broker.context import Broker, RequestContext
from logd.broker.topic import Topic
from logd.config import ConfigEntry, ConfigOp, apply_config_ops
from logd.errors import (
    InvalidConfigError,
    InvalidRequestError,
    LogdError,
    UnknownTopicOrPartitionError,
)
from logd.wire.error_codes import code_for
from logd.wire.messages import alter_configs, incremental_alter_configs
from logd.wire.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)

TOPIC: Final = 2
BROKER: Final = 4

_SOURCE_DYNAMIC_BROKER: Final = 2
_OPERATIONS: Final[tuple[Literal["SET", "DELETE", "APPEND", "SUBTRACT"], ...]] = (
    "SET",
    "DELETE",
    "APPEND",
    "SUBTRACT",
)


# --- describe ------------------------------------------------------------------------------------


async def handle_describe_configs(
    context: RequestContext, request: DescribeConfigsRequest, _version: int
) -> DescribeConfigsResponse:
    """List the settings of each resource, with value, source, and where they could come from.

    What is asked again in the same request is answered once: it is a hundred times as long as the
    question.
    """
    results = [
        _describe(
            context.broker,
            resource,
            with_synonyms=request.include_synonyms,
            with_documentation=request.include_documentation,
        )
        for resource in _without_repetitions(request.resources)
    ]
    return DescribeConfigsResponse(results=results)


def _without_repetitions(asked: list[DescribeConfigsResource]) -> list[DescribeConfigsResource]:
    unlike = {
        (one.resource_type, one.resource_name, tuple(one.configuration_keys or ())): one
        for one in asked
    }
    return list(unlike.values())


def _describe(
    broker: Broker,
    asked: DescribeConfigsResource,
    *,
    with_synonyms: bool,
    with_documentation: bool,
) -> DescribeConfigsResult:
    result = DescribeConfigsResult(
        resource_type=asked.resource_type, resource_name=asked.resource_name, error_message=None
    )
    try:
        entries = _entries(broker, asked.resource_type, asked.resource_name)
    except LogdError as error:
        result.error_code = code_for(error)
        result.error_message = str(error)
        return result
    wanted = asked.configuration_keys
    result.configs = [
        _as_result(entry, with_synonyms=with_synonyms, with_documentation=with_documentation)
        for entry in entries
        if not wanted or entry.name in wanted
    ]
    return result


def _entries(broker: Broker, resource_type: int, name: str) -> list[ConfigEntry]:
    if resource_type == TOPIC:
        return broker.config.describe_topic(_find_topic(broker, name).overrides)
    _check_broker(broker, resource_type, name)
    entries = broker.config.describe_server()
    if name == "":
        # The cluster-wide default has only what was set as such.
        return [entry for entry in entries if entry.source == _SOURCE_DYNAMIC_BROKER]
    return entries


def _as_result(
    entry: ConfigEntry, *, with_synonyms: bool, with_documentation: bool
) -> DescribeConfigsResourceResult:
    synonyms = entry.synonyms if with_synonyms else []
    return DescribeConfigsResourceResult(
        name=entry.name,
        value=entry.value,
        read_only=entry.read_only,
        config_source=entry.source,
        is_sensitive=entry.sensitive,
        synonyms=[
            DescribeConfigsSynonym(name=name, value=value, source=source)
            for name, value, source in synonyms
        ],
        config_type=entry.type,
        documentation=entry.documentation if with_documentation else None,
    )


def _find_topic(broker: Broker, name: str) -> Topic:
    topic = broker.topics.by_name.get(name)
    if topic is None:
        raise UnknownTopicOrPartitionError("there is no such topic")
    return topic


def _check_broker(broker: Broker, resource_type: int, name: str) -> None:
    if resource_type != BROKER:
        raise InvalidRequestError(
            f"resource type {resource_type} has no settings here; topics (2) and brokers (4) have"
        )
    if name not in ("", str(broker.node_id)):
        raise InvalidRequestError(
            f"the one broker is {str(broker.node_id)!r}, or '' for the default of all"
        )


# --- alter ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Change:
    """What one resource's settings are to become: changes to what is there, or to nothing."""

    resource_type: int
    name: str
    ops: list[ConfigOp]
    replaces: bool


async def handle_alter_configs(
    context: RequestContext, request: alter_configs.AlterConfigsRequest, _version: int
) -> alter_configs.AlterConfigsResponse:
    """Replace all overrides of each resource."""
    times = Counter((one.resource_type, one.resource_name) for one in request.resources)
    responses = []
    for resource in request.resources:
        response = alter_configs.AlterConfigsResourceResponse(
            resource_type=resource.resource_type,
            resource_name=resource.resource_name,
            error_message=None,
        )
        try:
            _refuse_repeated(times[resource.resource_type, resource.resource_name])
            ops: list[ConfigOp] = [(one.name, "SET", one.value) for one in resource.configs]
            change = _Change(resource.resource_type, resource.resource_name, ops, replaces=True)
            await _alter(context.broker, change, validate_only=request.validate_only)
        except LogdError as error:
            response.error_code = code_for(error)
            response.error_message = str(error)
        responses.append(response)
    return alter_configs.AlterConfigsResponse(responses=responses)


async def handle_incremental_alter_configs(
    context: RequestContext,
    request: incremental_alter_configs.IncrementalAlterConfigsRequest,
    _version: int,
) -> incremental_alter_configs.IncrementalAlterConfigsResponse:
    """Set, delete, append to or subtract from single settings; all of a resource's, or none."""
    times = Counter((one.resource_type, one.resource_name) for one in request.resources)
    responses = []
    for resource in request.resources:
        response = incremental_alter_configs.AlterConfigsResourceResponse(
            resource_type=resource.resource_type,
            resource_name=resource.resource_name,
            error_message=None,
        )
        try:
            _refuse_repeated(times[resource.resource_type, resource.resource_name])
            ops = [_as_op(one) for one in resource.configs]
            change = _Change(resource.resource_type, resource.resource_name, ops, replaces=False)
            await _alter(context.broker, change, validate_only=request.validate_only)
        except LogdError as error:
            response.error_code = code_for(error)
            response.error_message = str(error)
        responses.append(response)
    return incremental_alter_configs.IncrementalAlterConfigsResponse(responses=responses)


def _refuse_repeated(times: int) -> None:
    if times > 1:
        raise InvalidRequestError("the resource is named twice")


def _as_op(asked: incremental_alter_configs.AlterableConfig) -> ConfigOp:
    if not 0 <= asked.config_operation < len(_OPERATIONS):
        raise InvalidRequestError(f"unknown operation {asked.config_operation}")
    operation = _OPERATIONS[asked.config_operation]
    if asked.value is None and operation != "DELETE":
        raise InvalidRequestError(f"{asked.name[:100]} needs a value, not null")
    return asked.name, operation, asked.value


async def _alter(broker: Broker, change: _Change, *, validate_only: bool) -> None:
    names = Counter(name for name, _, _ in change.ops)
    if any(count > 1 for count in names.values()):
        raise InvalidRequestError("a setting is named twice")
    if change.resource_type == TOPIC:
        await _alter_topic(broker, change, validate_only=validate_only)
        return
    _check_broker(broker, change.resource_type, change.name)
    current = {} if change.replaces else broker.config.overrides
    overrides = apply_config_ops("broker", current, change.ops)
    if validate_only:
        broker.topics.check_server_change(broker.config.with_overrides(overrides))
    else:
        await broker.topics.alter_server(overrides)


async def _alter_topic(broker: Broker, change: _Change, *, validate_only: bool) -> None:
    topic = _find_topic(broker, change.name)
    if topic.internal:
        raise InvalidConfigError(f"topic {topic.name} belongs to the server")
    current = {} if change.replaces else topic.overrides
    overrides = apply_config_ops("topic", current, change.ops)
    if validate_only:
        broker.config.topic_settings(overrides)
    else:
        await broker.topics.alter(topic, overrides)
