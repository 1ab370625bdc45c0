"""Settings over the Kafka port: described with their sources, altered at once, kept for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from logd.config import SERVER_SETTINGS, TOPIC_SETTINGS
from logd.wire.error_codes import ErrorCode
from logd.wire.messages import alter_configs, describe_configs, incremental_alter_configs
from tests.unit.broker_fakes import Server
from tests.unit.broker_requests import ask, versions_of

TOPIC, BROKER = 2, 4
SET, DELETE, APPEND, SUBTRACT = 0, 1, 2, 3


@pytest.fixture
async def server(tmp_path: Path) -> Server:
    server = Server(tmp_path, flags={"log.retention.ms": "7d"})
    await server.topics.create("orders", 1, {"segment.bytes": "4096"})
    return server


async def describe(
    server: Server, kind: int, name: str, *, version: int = 4, keys: list[str] | None = None
) -> Any:
    resource = describe_configs.DescribeConfigsResource(
        resource_type=kind, resource_name=name, configuration_keys=keys
    )
    request = describe_configs.DescribeConfigsRequest(
        resources=[resource], include_synonyms=True, include_documentation=True
    )
    response = await ask(server, describe_configs, request, version)
    return response.results[0]


async def test_what_is_asked_twice_is_described_once(server: Server) -> None:
    """The same settings of the same resource; other settings of it are another question."""
    asked = [
        describe_configs.DescribeConfigsResource(
            resource_type=TOPIC, resource_name="orders", configuration_keys=keys
        )
        for keys in (None, ["segment.bytes"], None, [], ["segment.bytes"])
    ]
    request = describe_configs.DescribeConfigsRequest(resources=asked)
    results = (await ask(server, describe_configs, request, 4)).results
    assert [len(one.configs) for one in results] == [len(TOPIC_SETTINGS), 1]


@pytest.mark.parametrize("version", versions_of(describe_configs))
async def test_every_topic_setting_is_described(server: Server, version: int) -> None:
    """All settings, with value, source, type, synonyms and documentation where there is room."""
    result = await describe(server, TOPIC, "orders", version=version)
    found = {entry.name: entry for entry in result.configs}
    assert found.keys() == TOPIC_SETTINGS.keys()
    own = found["segment.bytes"]
    assert (own.value, own.config_source, own.read_only, own.is_sensitive) == (
        "4096",
        1,
        False,
        False,
    )
    assert [(one.value, one.source) for one in own.synonyms] == [("4096", 1), ("1073741824", 5)]
    from_flag = found["retention.ms"]
    assert (from_flag.value, from_flag.config_source) == ("604800000", 4)
    if version >= 3:
        assert own.config_type == 3
        assert own.documentation == TOPIC_SETTINGS["segment.bytes"].doc


async def test_synonyms_and_documentation_only_on_request(server: Server) -> None:
    """Who does not ask for them does not get them."""
    resource = describe_configs.DescribeConfigsResource(
        resource_type=TOPIC, resource_name="orders", configuration_keys=["segment.bytes"]
    )
    request = describe_configs.DescribeConfigsRequest(resources=[resource])
    response = await ask(server, describe_configs, request, 4)
    (entry,) = response.results[0].configs
    assert (entry.name, entry.synonyms, entry.documentation) == ("segment.bytes", [], None)


async def test_the_broker_is_described(server: Server) -> None:
    """Broker "1" has every server setting; "" has only what was set while running."""
    result = await describe(server, BROKER, "1")
    found = {entry.name: entry for entry in result.configs}
    assert found.keys() == SERVER_SETTINGS.keys()
    assert found["node.id"].read_only
    assert not found["num.partitions"].read_only
    assert (await describe(server, BROKER, "")).configs == []
    await server.topics.alter_server({"num.partitions": "9"})
    (entry,) = (await describe(server, BROKER, "")).configs
    assert (entry.name, entry.value, entry.config_source) == ("num.partitions", "9", 2)


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (TOPIC, "none", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (BROKER, "2", ErrorCode.INVALID_REQUEST),
        (BROKER, "one", ErrorCode.INVALID_REQUEST),
        (8, "1", ErrorCode.INVALID_REQUEST),
        (0, "", ErrorCode.INVALID_REQUEST),
        (32, "group", ErrorCode.INVALID_REQUEST),
    ],
)
async def test_what_has_no_settings(server: Server, kind: int, name: str, code: ErrorCode) -> None:
    """Unknown topics, other brokers and other kinds of things are refused with a reason."""
    result = await describe(server, kind, name)
    assert (result.error_code, result.configs) == (code, [])
    assert result.error_message
    assert (await alter(server, kind, name, ("retention.ms", SET, "1")))[0] == code


async def alter(
    server: Server,
    kind: int,
    name: str,
    *changes: tuple[str, int, str | None],
    version: int = 1,
    dry: bool = False,
) -> tuple[int, str | None]:
    wire = incremental_alter_configs
    resource = wire.AlterConfigsResource(
        resource_type=kind,
        resource_name=name,
        configs=[
            wire.AlterableConfig(name=key, config_operation=operation, value=value)
            for key, operation, value in changes
        ],
    )
    request = wire.IncrementalAlterConfigsRequest(resources=[resource], validate_only=dry)
    response = await ask(server, wire, request, version)
    (one,) = response.responses
    return one.error_code, one.error_message


@pytest.mark.parametrize("version", versions_of(incremental_alter_configs))
async def test_topic_settings_change_at_once_and_survive(server: Server, version: int) -> None:
    """SET, DELETE, APPEND and SUBTRACT, in force before the answer and after a restart."""
    changes = [
        ("retention.ms", SET, "1234"),
        ("segment.bytes", DELETE, None),
        ("cleanup.policy", APPEND, "compact"),
    ]
    assert await alter(server, TOPIC, "orders", *changes, version=version) == (0, None)
    for now in (server, await server.restarted()):
        settings = now.partition("orders").settings
        assert settings.retention_ms == 1234
        assert settings.segment_bytes == 2**30
        assert settings.cleanup_policy == ("delete", "compact")
    again = await now.restarted()
    assert (await alter(again, TOPIC, "orders", ("cleanup.policy", SUBTRACT, "delete")))[0] == 0
    assert again.partition("orders").settings.cleanup_policy == ("compact",)


async def test_broker_settings_change_at_once_and_survive(server: Server) -> None:
    """Also as defaults of topics, for broker "1" and for the default of all alike."""
    assert await alter(server, BROKER, "1", ("log.retention.ms", SET, "99")) == (0, None)
    assert await alter(server, BROKER, "", ("num.partitions", SET, "2")) == (0, None)
    for now in (server, await server.restarted()):
        assert now.config.settings.num_partitions == 2
        assert now.partition("orders").settings.retention_ms == 99
    assert await alter(now, BROKER, "1", ("log.retention.ms", DELETE, None)) == (0, None)
    assert now.partition("orders").settings.retention_ms == 7 * 86_400_000


@pytest.mark.parametrize(
    ("kind", "name", "change", "code"),
    [
        (TOPIC, "orders", ("no.such", SET, "1"), ErrorCode.INVALID_CONFIG),
        (TOPIC, "orders", ("no.such", DELETE, None), ErrorCode.INVALID_CONFIG),
        (TOPIC, "orders", ("retention.ms", SET, "soon"), ErrorCode.INVALID_CONFIG),
        (TOPIC, "orders", ("retention.ms", SET, "-5"), ErrorCode.INVALID_CONFIG),
        (TOPIC, "orders", ("retention.ms", APPEND, "5"), ErrorCode.INVALID_CONFIG),
        (TOPIC, "orders", ("min.compaction.lag.ms", SET, str(2**63)), ErrorCode.INVALID_CONFIG),
        (TOPIC, "orders", ("retention.ms", SET, None), ErrorCode.INVALID_REQUEST),
        (TOPIC, "orders", ("retention.ms", 4, "1"), ErrorCode.INVALID_REQUEST),
        (TOPIC, "orders", ("retention.ms", -1, "1"), ErrorCode.INVALID_REQUEST),
        (BROKER, "1", ("log.dirs", SET, "/elsewhere"), ErrorCode.INVALID_CONFIG),
        (BROKER, "1", ("num.partitions", SET, "0"), ErrorCode.INVALID_CONFIG),
    ],
)
async def test_bad_changes_are_refused_whole(
    server: Server, kind: int, name: str, change: tuple[str, int, str | None], code: ErrorCode
) -> None:
    """One bad change in a resource, and none of the resource's is made; the reason is told."""
    good = ("max.message.bytes" if kind == TOPIC else "num.partitions", SET, "5000")
    changes = [change] if change[0] == good[0] else [good, change]
    got, message = await alter(server, kind, name, *changes)
    assert got == code
    assert message
    assert server.topics.by_name["orders"].overrides == {"segment.bytes": "4096"}
    assert server.config.overrides == {}


async def test_a_dry_run_only_says(server: Server) -> None:
    """validate_only refuses what would be refused, and changes nothing."""
    change = ("retention.ms", SET, "5")
    assert (await alter(server, TOPIC, "orders", change, dry=True))[0] == 0
    assert (await alter(server, BROKER, "1", ("num.partitions", SET, "5"), dry=True))[0] == 0
    bad = ("retention.ms", SET, "x")
    assert (await alter(server, TOPIC, "orders", bad, dry=True))[0] == ErrorCode.INVALID_CONFIG
    assert server.topics.by_name["orders"].overrides == {"segment.bytes": "4096"}
    assert server.config.overrides == {}


async def test_twice_is_refused(server: Server) -> None:
    """A setting twice in a resource, or a resource twice in a request: which was meant?"""
    twice = (("retention.ms", SET, "1"), ("retention.ms", SET, "2"))
    assert (await alter(server, TOPIC, "orders", *twice))[0] == ErrorCode.INVALID_REQUEST
    wire = incremental_alter_configs
    resource = wire.AlterConfigsResource(
        resource_type=TOPIC,
        resource_name="orders",
        configs=[wire.AlterableConfig(name="retention.ms", config_operation=SET, value="1")],
    )
    request = wire.IncrementalAlterConfigsRequest(resources=[resource, resource])
    response = await ask(server, wire, request, 1)
    assert [one.error_code for one in response.responses] == [ErrorCode.INVALID_REQUEST] * 2


@pytest.mark.parametrize("version", versions_of(alter_configs))
async def test_the_older_request_replaces_everything(server: Server, version: int) -> None:
    """What AlterConfigs does not name returns to its default."""

    async def replace(name: str, *configs: tuple[str, str | None], dry: bool = False) -> int:
        resource = alter_configs.AlterConfigsResource(
            resource_type=TOPIC,
            resource_name=name,
            configs=[
                alter_configs.AlterableConfig(name=key, value=value) for key, value in configs
            ],
        )
        request = alter_configs.AlterConfigsRequest(resources=[resource], validate_only=dry)
        response = await ask(server, alter_configs, request, version)
        code: int = response.responses[0].error_code
        return code

    assert await replace("orders", ("retention.ms", "5"), dry=True) == 0
    assert server.topics.by_name["orders"].overrides == {"segment.bytes": "4096"}
    assert await replace("orders", ("retention.ms", "5")) == 0
    assert server.topics.by_name["orders"].overrides == {"retention.ms": "5"}
    assert await replace("orders", ("retention.ms", None)) == ErrorCode.INVALID_CONFIG
    assert await replace("orders", ("a", "1"), ("a", "2")) == ErrorCode.INVALID_REQUEST
    assert await replace("none") == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert await replace("orders") == 0
    assert server.topics.by_name["orders"].overrides == {}
