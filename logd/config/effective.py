"""Which value is in force: of the server's settings, and of each topic's.

A server setting: what was set while running (kept in the catalog), else flag, else environment,
else file, else the default. A topic setting: the topic's own, else the server's default of it,
which may stand under several names (log.retention.ms, .minutes, .hours). There the stronger source
wins first, and the finer unit among names of one source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from logd.config.server import SERVER_SETTINGS, ServerSettings, split_address
from logd.config.setting import Kind, Setting, Source, Value, format_value, parse_value
from logd.config.sources import Given, read_environment, read_file, read_flags
from logd.config.topic import TOPIC_SETTINGS, TopicSettings
from logd.errors import ConfigError, InvalidConfigError
from logd.units import HOUR_MS, MINUTE_MS

_UNITS_MS: Final = {"ms": 1, "min": MINUTE_MS, "h": HOUR_MS}
_SERVER_FIELDS: Final = frozenset(field.name for field in dataclasses.fields(ServerSettings))


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """A line of `logd config`; a value of None is worked out at start.

    `value` and `default` are as they are written in a file; `parsed` and `parsed_default` are the
    numbers, booleans and lists that they mean.
    """

    name: str
    value: str | None
    default: str | None
    unit: str | None
    source: Source
    parsed: Value | None
    parsed_default: Value | None

    def as_json(self) -> dict[str, Value | None]:
        """Return the row as JSON has it: plain numbers, and the word for the source."""
        return {
            "name": self.name,
            "value": self.parsed,
            "default": self.parsed_default,
            "unit": self.unit,
            "source": self.source.value,
        }


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The server's settings, and where each came from. Never changed: changes make a new one.

    Attributes:
        settings: what is in force.
        given: what somebody gave and nothing stronger replaced, by name.
        static: the same without what was set while running.
    """

    settings: ServerSettings
    given: Mapping[str, Given]
    static: Mapping[str, Given]

    @property
    def origin(self) -> dict[str, Source]:
        """Where each setting's value comes from."""
        return {
            name: self.given[name].source if name in self.given else Source.DEFAULT
            for name in SERVER_SETTINGS
        }

    def value(self, name: str) -> Value | None:
        """Return the parsed value of a server setting, None where it has none."""
        return _server_value(name, self.given)

    def with_broker_overrides(self, overrides: Mapping[str, str]) -> ServerConfig:
        """Return the configuration with what was set while running, in place of what was before.

        Raises:
            InvalidConfigError: an unknown setting, one that cannot change while running, a bad
                value, or values that contradict each other.
        """
        given = dict(self.static)
        for name, text in overrides.items():
            check_broker_override(name, text)
            given[name] = Given(text, Source.BROKER, "set while running")
        try:
            return ServerConfig(_effective(given), MappingProxyType(given), self.static)
        except ConfigError as error:
            raise InvalidConfigError(str(error)) from error

    def describe(self) -> list[ConfigRow]:
        """Return every setting in alphabetical order, for `logd config`."""
        origin = self.origin
        return [
            ConfigRow(
                name=name,
                value=format_value(self.value(name)),
                default=format_value(row.default),
                unit=row.unit,
                source=origin[name],
                parsed=self.value(name),
                parsed_default=row.default,
            )
            for name, row in sorted(SERVER_SETTINGS.items())
        ]


def load_server_settings(
    *, file: str | None, environment: Mapping[str, str], flags: Mapping[str, str]
) -> ServerConfig:
    """Return the server's configuration: flag before environment before file before default.

    Args:
        file: path of a TOML file, or None.
        environment: the process's environment; only LOGD_ variables are looked at.
        flags: setting names and values, from --set and from the options that stand for settings.

    Raises:
        ConfigError: names the key, where it was given, and what is wrong with it.
    """
    given: dict[str, Given] = {}
    if file is not None:
        given.update(read_file(file))
    given.update(read_environment(environment))
    given.update(read_flags(flags))
    static = MappingProxyType(given)
    return ServerConfig(_effective(static), static, static)


def topic_settings(server: ServerSettings, overrides: Mapping[str, str]) -> TopicSettings:
    """Return what is in force for a topic that has these settings of its own.

    Raises:
        InvalidConfigError: an unknown setting, a bad value, or values that contradict each other.
    """
    if not overrides:
        return server.topic_defaults
    # Checked first: an unknown name has no attribute.
    parsed = {name: check_topic_override(name, text) for name, text in overrides.items()}
    values = {TOPIC_SETTINGS[name].attribute: value for name, value in parsed.items()}
    _settle_cold_enable(values)
    # The fields are the table's names, a test compares them, so the values have the right types.
    changes: dict[str, Any] = values
    settings = dataclasses.replace(server.topic_defaults, **changes)
    reason = _contradiction_in_topic(settings)
    if reason is not None:
        raise InvalidConfigError(reason)
    return settings


def check_topic_override(name: str, value: str | None) -> Value:
    """Check one topic setting as a client sends it; return its parsed value.

    Raises:
        InvalidConfigError: the setting is unknown or the value not allowed; the text says why.
    """
    setting = TOPIC_SETTINGS.get(name)
    if setting is None:
        raise InvalidConfigError(f"unknown topic setting {name[:100]!r}")
    return _parse_for_client(setting, value, with_units=False)


def check_broker_override(name: str, value: str | None) -> Value:
    """Check one server setting as a client sends it, to be changed while the server runs.

    Raises:
        InvalidConfigError: unknown, not changeable while running, or not allowed; the text says
            why.
    """
    setting = SERVER_SETTINGS.get(name)
    if setting is None:
        raise InvalidConfigError(f"unknown server setting {name[:100]!r}")
    if not setting.dynamic:
        raise InvalidConfigError(f"{name} cannot be changed while the server runs")
    return _parse_for_client(setting, value, with_units=False)


def plain_topic_value(name: str, text: str) -> str:
    """Return a topic setting's value as Kafka's clients send it, from what a person wrote (`7d`).

    An unknown name is left as it is: the server may be newer, and it will say so if not.

    Raises:
        InvalidConfigError: the value is not allowed; the text says why.
    """
    setting = TOPIC_SETTINGS.get(name)
    if setting is None:
        return text
    plain = format_value(_parse_for_client(setting, text, with_units=True))
    assert plain is not None
    return plain


def _parse_for_client(setting: Setting, value: str | None, *, with_units: bool) -> Value:
    if value is None:
        raise InvalidConfigError(f"{setting.name} needs a value, not null")
    try:
        return parse_value(setting, value, with_units=with_units)
    except ValueError as error:
        raise InvalidConfigError(f"{setting.name}: {error}") from error


# --- The server's values --------------------------------------------------------------------------


def _effective(given: Mapping[str, Given]) -> ServerSettings:
    values: dict[str, Any] = {}
    for name, row in SERVER_SETTINGS.items():
        value = _server_value(name, given)
        if row.attribute in _SERVER_FIELDS:
            values[row.attribute] = value
    settings = ServerSettings(topic_defaults=_topic_defaults(given), **values)
    for check in _SERVER_CHECKS:
        reason = check(settings)
        if reason is not None:
            raise ConfigError(reason)
    return settings


def _server_value(name: str, given: Mapping[str, Given]) -> Value | None:
    row = SERVER_SETTINGS[name]
    entry = given.get(name)
    if entry is None:
        return row.default
    try:
        return parse_value(row, entry.text, with_units=True)
    except ValueError as error:
        raise ConfigError(f"{entry.where}: {name}: {error}") from error


def _topic_defaults(given: Mapping[str, Given]) -> TopicSettings:
    values: dict[str, Any] = {
        row.attribute: topic_default(row, given)[0] for row in TOPIC_SETTINGS.values()
    }
    settings = TopicSettings(**values)
    reason = _contradiction_in_topic(settings)
    if reason is not None:
        raise ConfigError(f"defaults of topics: {reason}")
    return settings


def topic_default(row: Setting, given: Mapping[str, Given]) -> tuple[Value, str | None]:
    """Return a topic setting's default on this server, and the setting that gave it, if any."""
    names = [name for name in row.server_names if name in given]
    if not names:
        assert row.default is not None
        return row.default, None
    # max() takes the first of equals, and the names are in their order of precedence.
    name = max(names, key=lambda candidate: given[candidate].source.rank)
    value = _server_value(name, given)
    assert value is not None
    unit = SERVER_SETTINGS[name].unit
    if row.unit != "ms" or unit in (None, "ms"):
        return value, name
    assert isinstance(value, int)
    return (value if value < 0 else value * _UNITS_MS[str(unit)]), name


# --- Values that contradict each other ------------------------------------------------------------


def _settle_cold_enable(values: dict[str, Value]) -> None:
    """Make cold.enable and Kafka's name for it say the same."""
    ours, kafkas = values.get("cold_enable"), values.get("remote_storage_enable")
    if ours is not None and kafkas is not None and ours != kafkas:
        raise InvalidConfigError("cold.enable and remote.storage.enable contradict each other")
    chosen = kafkas if ours is None else ours
    if chosen is not None:
        values["cold_enable"] = values["remote_storage_enable"] = chosen


def _contradiction_in_topic(settings: TopicSettings) -> str | None:
    if settings.min_compaction_lag_ms > settings.max_compaction_lag_ms:
        return (
            f"min.compaction.lag.ms ({settings.min_compaction_lag_ms}) is more than "
            f"max.compaction.lag.ms ({settings.max_compaction_lag_ms})"
        )
    return None


def _check_batch_fits_request(settings: ServerSettings) -> str | None:
    if settings.message_max_bytes <= settings.socket_request_max_bytes:
        return None
    return (
        f"message.max.bytes ({settings.message_max_bytes}) is more than "
        f"socket.request.max.bytes ({settings.socket_request_max_bytes}) lets in"
    )


def _check_node_times(settings: ServerSettings) -> str | None:
    if settings.node_suspect_ms <= settings.node_dead_ms:
        return None
    return (
        f"node.suspect.ms ({settings.node_suspect_ms}) is more than "
        f"node.dead.ms ({settings.node_dead_ms})"
    )


def _check_session_times(settings: ServerSettings) -> str | None:
    if settings.group_min_session_timeout_ms <= settings.group_max_session_timeout_ms:
        return None
    return (
        f"group.min.session.timeout.ms ({settings.group_min_session_timeout_ms}) is more than "
        f"group.max.session.timeout.ms ({settings.group_max_session_timeout_ms})"
    )


def _check_loopback(settings: ServerSettings) -> str | None:
    if settings.insecure:
        return None
    for name, address in (
        ("listeners", settings.listeners),
        ("admin.listen", settings.admin_listen),
    ):
        if not is_loopback(split_address(address)[0]):
            return (
                f"{name}: {address} is not a loopback address, and nobody is authenticated; "
                "say --insecure if that is meant"
            )
    return None


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach what listens there."""
    if host in ("localhost", "127.0.0.1", "::1"):
        return True
    # Milliseconds to import, and the usual addresses are known by sight.
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False  # A name may stand for any address.


_SERVER_CHECKS: Final[tuple[Callable[[ServerSettings], str | None], ...]] = (
    _check_batch_fits_request,
    _check_node_times,
    _check_session_times,
    _check_loopback,
)

assert all(
    setting.kind in (Kind.INT, Kind.LONG)
    for setting in SERVER_SETTINGS.values()
    if setting.unit in _UNITS_MS
)
