"""`logd topic`: most of it over the Kafka port; adopt over the admin port."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from cli.errors import Refused
from cli.kafka import (
    CREATE_TIMEOUT_S,
    Connection,
    Watermarks,
    admin_types,
    describe_topics,
    list_watermarks,
    topic_id_text,
)
from cli.options import KEY_VALUE, Target, common_options, pass_target, require_consent
from cli.render import counted, print_json, print_table
from logd.units import format_byte_count, format_duration_ms

# What Kafka calls the place a value came from, by the protocol's number.
_SOURCES: Final = {1: "topic", 2: "broker (dynamic)", 4: "server", 5: "default"}
_DEFAULT_SOURCE: Final = 5
# Beyond it librdkafka raises an error of its own; the server's own limits are its settings.
PARTITIONS_MAX: Final = 100_000

FLUSH_MODE_CONSEQUENCE: Final = (
    "flush.mode={mode}: acknowledged records can be lost when the machine stops: "
    "promises 1 and 2 do not hold"
)


@click.group()
@common_options("bootstrap", "json")
def topic() -> None:
    """Create, look at, change and delete topics.

    \b
    Example:
      logd topic create orders --partitions 3 --config retention.ms=7d
      logd topic describe orders
    """


@topic.command()
@click.argument("name")
@click.option(
    "--partitions",
    type=click.IntRange(min=1, max=PARTITIONS_MAX),
    help="How many  [default: the server's num.partitions]",
)
@click.option(
    "--config", "configs", type=KEY_VALUE, multiple=True, help="A setting, as segment.bytes=64MiB."
)
@common_options("bootstrap", "json")
@pass_target
def create(
    target: Target, name: str, partitions: int | None, configs: Sequence[tuple[str, str]]
) -> None:
    """Create a topic.

    \b
    Example:
      logd topic create orders --partitions 3 --config segment.bytes=64MiB
    """
    settings = _plain(configs)
    connection = Connection(target.bootstrap)
    wanted = admin_types().NewTopic(
        name, num_partitions=partitions or -1, replication_factor=-1, config=settings
    )
    admin = connection.admin()
    futures = connection.call(
        f"create topic {name}",
        lambda: admin.create_topics([wanted], request_timeout=CREATE_TIMEOUT_S),
    )
    connection.result(f"create topic {name}", futures[name])
    (made,) = describe_topics(connection, [name])
    if target.json:
        print_json(_listed(made))
    else:
        click.echo(f"created topic {name} with {counted(len(made.partitions), 'partition')}")


@topic.command("list")
@common_options("bootstrap", "json")
@pass_target
def list_(target: Target) -> None:
    """List all topics.

    \b
    Example:
      logd topic list --json
    """
    connection = Connection(target.bootstrap)
    admin = connection.admin()
    metadata = connection.call("list topics", lambda: admin.list_topics(timeout=CREATE_TIMEOUT_S))
    rows = [_listed(found) for found in describe_topics(connection, sorted(metadata.topics))]
    if target.json:
        print_json(rows)
        return
    headers = ("topic", "id", "partitions", "internal")
    print_table(
        headers,
        [(r["name"], r["id"], r["partitions"], "yes" if r["internal"] else "no") for r in rows],
    )


@topic.command(short_help="Show a topic's partitions, and the settings it has of its own.")
@click.argument("name")
@common_options("bootstrap", "json")
@pass_target
def describe(target: Target, name: str) -> None:
    """Show a topic's partitions, and the settings that differ from the default.

    \b
    Example:
      logd topic describe orders
    """
    connection = Connection(target.bootstrap)
    (found,) = describe_topics(connection, [name])
    numbers = sorted(partition.id for partition in found.partitions)
    watermarks = list_watermarks(connection, name, numbers)
    entries = _settings(connection, name)
    document = _described(_listed(found), watermarks, entries)
    if target.json:
        print_json(document)
    else:
        _print_description(document)


@topic.command()
@click.argument("name")
@click.option(
    "--partitions",
    type=click.IntRange(min=1, max=PARTITIONS_MAX),
    help="Their new number; never fewer.",
)
@click.option("--config", "configs", type=KEY_VALUE, multiple=True, help="Set a setting.")
@click.option("--unset", multiple=True, metavar="KEY", help="Return a setting to its default.")
@common_options("bootstrap", "json")
@pass_target
def alter(
    target: Target,
    name: str,
    partitions: int | None,
    configs: Sequence[tuple[str, str]],
    unset: Sequence[str],
) -> None:
    """Add partitions, or change settings; both take effect at once.

    \b
    Example:
      logd topic alter orders --config retention.ms=30d --unset segment.bytes
    """
    if partitions is None and not configs and not unset:
        raise click.UsageError("nothing to change: give --partitions, --config or --unset")
    twice = {key for key, _ in configs} & set(unset)
    if twice:
        raise click.UsageError(f"{', '.join(sorted(twice))}: both --config and --unset")
    settings = _plain(configs)
    connection = Connection(target.bootstrap)
    describe_topics(connection, [name])
    if settings or unset:  # First: if it is refused, no partition has been added.
        _alter_settings(connection, name, settings, unset)
    if partitions is not None:
        _add_partitions(connection, name, partitions)
    (now,) = describe_topics(connection, [name])
    if target.json:
        print_json(_listed(now) | {"settings": _differing(_settings(connection, name))})
    else:
        click.echo(f"altered topic {name}")


@topic.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@common_options("bootstrap", "json")
@pass_target
def delete(target: Target, name: str, yes: bool, dry_run: bool) -> None:
    """Delete a topic and all its records.

    \b
    Example:
      logd topic delete orders --dry-run
      logd topic delete orders --yes
    """
    connection = Connection(target.bootstrap)
    (found,) = describe_topics(connection, [name])
    numbers = sorted(partition.id for partition in found.partitions)
    if dry_run:
        watermarks = list_watermarks(connection, name, numbers)
        offsets = sum(marks.high - marks.low for marks in watermarks.values())
        _say_deleted(target, name, len(numbers), dry_run=True, detail=f", {offsets} offsets")
        return
    require_consent(f"delete topic {name}, {len(numbers)} partitions, all records?", yes=yes)
    admin = connection.admin()
    futures = admin.delete_topics([name], request_timeout=CREATE_TIMEOUT_S)
    connection.result(f"delete topic {name}", futures[name])
    _say_deleted(target, name, len(numbers), dry_run=False, detail="")


@topic.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@click.option("--name", help="The topic's name  [default: from the directory's name]")
@click.option(
    "--partition",
    type=click.IntRange(min=0),
    help="The partition's number  [default: from the directory's name]",
)
@common_options("admin", "json")
@pass_target
def adopt(target: Target, directory: str, name: str | None, partition: int | None) -> None:
    """Take in a partition directory that the catalog does not know.

    It may be one of logd's own, reported at start, or one copied from a Kafka broker. The path is
    one that the server sees, so this works on the server's own machine.

    \b
    Example:
      logd topic adopt /var/lib/kafka/orders-0
    """
    from cli.admin import post

    asked = {"directory": os.path.abspath(directory), "name": name, "partition": partition}
    answer = post(target.admin, "/v1/adopt", asked)
    if target.json:
        print_json(answer)
        return
    if not isinstance(answer, dict):
        raise Refused(f"unexpected answer from the admin port: {answer!r}")
    where = f"{answer.get('topic', name)} partition {answer.get('partition', partition)}"
    click.echo(f"adopted {directory} as topic {where}")


def _plain(configs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return settings as they go over the wire: `7d` and `64MiB` become plain numbers.

    Raises:
        click.UsageError: one is given twice.
        InvalidConfigError: a value is not allowed; settings that are unknown here pass.
    """
    from logd.config import plain_topic_value

    twice = {key for key, _ in configs if sum(key == other for other, _ in configs) > 1}
    if twice:
        raise click.UsageError(f"--config gives {', '.join(sorted(twice))} more than once")
    return {key: plain_topic_value(key, value) for key, value in configs}


def readable_value(name: str, value: str | None) -> str | None:
    """Return a setting's value, with its meaning in brackets where it is a size or a duration."""
    unit = name.rsplit(".", 1)[-1]
    if value is None or unit not in ("ms", "bytes") or not value.isdigit():
        return value
    number = int(value)
    text = format_byte_count(number) if unit == "bytes" else format_duration_ms(number)
    return value if text in (f"{value} B", f"{value}ms") else f"{value} ({text})"


def _listed(found: Any) -> dict[str, Any]:
    return {
        "name": found.name,
        "id": topic_id_text(found.topic_id),
        "partitions": len(found.partitions),
        "internal": bool(found.is_internal),
    }


def _settings(connection: Connection, name: str) -> list[Any]:
    types = admin_types()
    resource = types.ConfigResource(types.ResourceType.TOPIC, name)
    futures = connection.admin().describe_configs([resource], request_timeout=CREATE_TIMEOUT_S)
    entries = connection.result(f"settings of {name}", futures[resource])
    return [entries[key] for key in sorted(entries)]


def _differing(entries: list[Any]) -> list[dict[str, Any]]:
    return [
        {"name": e.name, "value": e.value, "source": _SOURCES.get(_number(e.source), "unknown")}
        for e in entries
        if _number(e.source) != _DEFAULT_SOURCE
    ]


def _number(source: Any) -> int:
    """The protocol's number of a source; older librdkafka bindings give it without the enum."""
    return int(getattr(source, "value", source))


def _described(
    listed: dict[str, Any], watermarks: Mapping[int, Watermarks], entries: list[Any]
) -> dict[str, Any]:
    partitions = [
        {"partition": number, "log_start_offset": marks.low, "high_watermark": marks.high}
        for number, marks in sorted(watermarks.items())
    ]
    modes = [e.value for e in entries if e.name == "flush.mode" and e.value != "commit"]
    return listed | {
        "partitions": partitions,
        "settings": _differing(entries),
        "warnings": [FLUSH_MODE_CONSEQUENCE.format(mode=mode) for mode in modes],
    }


def _print_description(document: dict[str, Any]) -> None:
    internal = ", internal" if document["internal"] else ""
    count = counted(len(document["partitions"]), "partition")
    click.echo(f"topic {document['name']}  id {document['id']}  {count}{internal}")
    for warning in document["warnings"]:
        click.secho(f"warning: {warning}", fg="yellow")
    click.echo()
    print_table(
        ("partition", "log start offset", "high watermark"),
        [tuple(partition.values()) for partition in document["partitions"]],
    )
    click.echo()
    if not document["settings"]:
        click.echo("all settings have their defaults")
        return
    print_table(
        ("setting", "value", "from"),
        [
            (s["name"], readable_value(s["name"], s["value"]), s["source"])
            for s in document["settings"]
        ],
    )


def _alter_settings(
    connection: Connection, name: str, settings: Mapping[str, str], unset: Sequence[str]
) -> None:
    types = admin_types()
    operations = types.AlterConfigOpType
    changes = [
        types.ConfigEntry(key, value, incremental_operation=operations.SET)
        for key, value in settings.items()
    ] + [
        types.ConfigEntry(key, None, incremental_operation=operations.DELETE)
        for key in dict.fromkeys(unset)
    ]
    resource = types.ConfigResource(types.ResourceType.TOPIC, name, incremental_configs=changes)
    futures = connection.admin().incremental_alter_configs(
        [resource], request_timeout=CREATE_TIMEOUT_S
    )
    connection.result(f"alter topic {name}", futures[resource])


def _add_partitions(connection: Connection, name: str, count: int) -> None:
    futures = connection.admin().create_partitions(
        [admin_types().NewPartitions(name, count)], request_timeout=CREATE_TIMEOUT_S
    )
    connection.result(f"alter topic {name}", futures[name])


def _say_deleted(target: Target, name: str, partitions: int, *, dry_run: bool, detail: str) -> None:
    if target.json:
        print_json({"topic": name, "partitions": partitions, "deleted": not dry_run})
    else:
        verb = "would delete" if dry_run else "deleted"
        click.echo(f"{verb} topic {name}, {counted(partitions, 'partition')}{detail}")
