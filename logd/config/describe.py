"""Settings as clients see them (DescribeConfigs) and change them (IncrementalAlterConfigs).

Numbers here are the protocol's: 1 topic, 2 broker set while running, 4 broker set at start, 5
default; and for types 1 boolean, 2 string, 3 int, 5 long, 6 double, 7 list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from logd.config.effective import (
    ServerConfig,
    check_broker_override,
    check_topic_override,
    topic_default,
    topic_settings,
)
from logd.config.server import SERVER_SETTINGS
from logd.config.setting import Kind, Setting, Source, Value, format_value, parse_value
from logd.config.sources import Given
from logd.config.topic import TOPIC_SETTINGS
from logd.errors import InvalidConfigError

ConfigOp = tuple[str, Literal["SET", "DELETE", "APPEND", "SUBTRACT"], str | None]
"""A change that a client asks for: the setting's name, what to do, the value."""

Synonym = tuple[str, str | None, int]
"""A place that gives a setting a value: name, value, source as the protocol numbers it."""

_DEFAULT: Final = 5
_SOURCE_NUMBERS: Final = {
    Source.TOPIC: 1,
    Source.BROKER: 2,
    Source.FLAG: 4,
    Source.ENVIRONMENT: 4,
    Source.FILE: 4,
    Source.DEFAULT: _DEFAULT,
}
_TYPE_NUMBERS: Final = {
    Kind.BOOLEAN: 1,
    Kind.STRING: 2,
    Kind.INT: 3,
    Kind.LONG: 5,
    Kind.DOUBLE: 6,
    Kind.LIST: 7,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigEntry:
    """One setting in an answer to DescribeConfigs.

    Attributes:
        source: the number of the strongest source that gives the value.
        synonyms: every source that gives one, the strongest first.
    """

    name: str
    value: str | None
    read_only: bool
    is_default: bool
    source: int
    sensitive: bool
    type: int
    documentation: str
    synonyms: list[Synonym]


def describe_topic_settings(
    config: ServerConfig, overrides: Mapping[str, str]
) -> list[ConfigEntry]:
    """Return every setting of a topic that has `overrides` of its own.

    Raises:
        InvalidConfigError: the overrides are not ones that `topic_settings` would take.
    """
    settings = topic_settings(config.settings, overrides)
    return [
        _entry(
            row,
            getattr(settings, row.attribute),
            _topic_synonyms(row, config.given, overrides),
            read_only=False,
        )
        for row in TOPIC_SETTINGS.values()
    ]


def describe_server_settings(
    config: ServerConfig, dynamic_overrides: Mapping[str, str]
) -> list[ConfigEntry]:
    """Return every setting of the server, with what was set while it runs.

    Raises:
        InvalidConfigError: the overrides are not ones that `with_broker_overrides` would take.
    """
    current = config.with_broker_overrides(dynamic_overrides)
    return [
        _entry(
            row, current.value(row.name), _server_synonyms(row, current), read_only=not row.dynamic
        )
        for row in SERVER_SETTINGS.values()
    ]


def apply_config_ops(
    kind: Literal["topic", "broker"], current: Mapping[str, str], ops: Iterable[ConfigOp]
) -> dict[str, str]:
    """Return the settings of a topic's, or the server's, own after a client's changes.

    The result is checked value by value; whether values fit each other is for `topic_settings` and
    `with_broker_overrides` to say. `current` is not changed.

    Raises:
        InvalidConfigError: an unknown setting, a bad value, a change that the setting's type does
            not allow, or a setting named twice; nothing of the change is to be applied then.
    """
    table = TOPIC_SETTINGS if kind == "topic" else SERVER_SETTINGS
    check = check_topic_override if kind == "topic" else check_broker_override
    changed = dict(current)
    seen: set[str] = set()
    for name, op, value in ops:
        if name in seen:
            raise InvalidConfigError(f"{name[:100]!r} is named twice")
        seen.add(name)
        if op == "DELETE":
            _delete(table, changed, name)
            continue
        if op in ("APPEND", "SUBTRACT"):
            value = _changed_list(table, changed, name, value, append=op == "APPEND")
        formatted = format_value(check(name, value))
        assert formatted is not None
        changed[name] = formatted
    return changed


def _delete(table: Mapping[str, Setting], changed: dict[str, str], name: str) -> None:
    if name not in table and name not in changed:
        raise InvalidConfigError(f"unknown setting {name[:100]!r}")
    changed.pop(name, None)


def _changed_list(
    table: Mapping[str, Setting],
    current: Mapping[str, str],
    name: str,
    value: str | None,
    *,
    append: bool,
) -> str:
    row = table.get(name)
    if row is None:
        raise InvalidConfigError(f"unknown setting {name[:100]!r}")
    if row.kind is not Kind.LIST or value is None:
        raise InvalidConfigError(f"{name}: only a list can be appended to or subtracted from")
    before = current.get(name, format_value(row.default) or "")
    words = [word.strip() for word in before.split(",") if word.strip()]
    named = [word.strip() for word in value.split(",") if word.strip()]
    if append:
        return ",".join([*words, *(word for word in named if word not in words)])
    return ",".join(word for word in words if word not in named)


def _entry(
    row: Setting, value: Value | None, synonyms: list[Synonym], *, read_only: bool
) -> ConfigEntry:
    source = synonyms[0][2] if synonyms else _DEFAULT
    return ConfigEntry(
        name=row.name,
        value=format_value(value),
        read_only=read_only,
        is_default=source == _DEFAULT,
        source=source,
        sensitive=False,
        type=_TYPE_NUMBERS[row.kind],
        documentation=row.documentation,
        synonyms=synonyms,
    )


def _topic_synonyms(
    row: Setting, given: Mapping[str, Given], overrides: Mapping[str, str]
) -> list[Synonym]:
    synonyms: list[Synonym] = [
        (name, overrides[name], _SOURCE_NUMBERS[Source.TOPIC])
        for name in _same_meaning(row.name)
        if name in overrides
    ]
    _, winner = topic_default(row, given)
    names = sorted(
        (name for name in row.server_names if name in given), key=lambda name: name != winner
    )
    synonyms.extend(_given_synonym(name, given[name]) for name in names)
    default_name = row.server_names[-1] if row.server_names else row.name
    default = SERVER_SETTINGS[default_name].default if row.server_names else row.default
    synonyms.append((default_name, format_value(default), _DEFAULT))
    return synonyms


def _given_synonym(name: str, given: Given) -> Synonym:
    # What was given passed the same parser at start; a person's `7d` is shown as clients read it.
    value = parse_value(SERVER_SETTINGS[name], given.text, with_units=True)
    return (name, format_value(value), _SOURCE_NUMBERS[given.source])


def _same_meaning(name: str) -> tuple[str, ...]:
    pair = ("cold.enable", "remote.storage.enable")
    return (name, *(other for other in pair if other != name)) if name in pair else (name,)


def _server_synonyms(row: Setting, config: ServerConfig) -> list[Synonym]:
    synonyms: list[Synonym] = []
    for given in (config.given.get(row.name), config.static.get(row.name)):
        if given is None:
            continue
        synonym = _given_synonym(row.name, given)
        if synonym not in synonyms:
            synonyms.append(synonym)
    if row.default is not None:
        synonyms.append((row.name, format_value(row.default), _DEFAULT))
    return synonyms
