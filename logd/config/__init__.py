"""Settings: the tables of them, where their values come from, what is in force, and how they are
shown.

    setting    what one row of a table is; how a value is read and written
    topic      the topics' settings          server     the server's settings
    sources    file, environment, flags      effective  which value is in force
    describe   rows for clients and people; changes asked for by clients

Bad values never start anything half: the server's own settings raise `ConfigError`, which names the
key and where it was given; a client's raise `InvalidConfigError` with the reason.
"""

from __future__ import annotations

from logd.config.describe import (
    ConfigEntry,
    ConfigOp,
    apply_config_ops,
    describe_server_settings,
    describe_topic_settings,
)
from logd.config.effective import (
    ConfigRow,
    ServerConfig,
    check_broker_override,
    check_topic_override,
    is_loopback,
    load_server_settings,
    plain_topic_value,
    topic_settings,
)
from logd.config.server import SERVER_ALIASES, SERVER_SETTINGS, ServerSettings, split_address
from logd.config.setting import Kind, Setting, Source, Value, format_value, parse_value
from logd.config.topic import NEVER, TOPIC_SETTINGS, TopicSettings

__all__ = [
    "NEVER",
    "SERVER_ALIASES",
    "SERVER_SETTINGS",
    "TOPIC_SETTINGS",
    "ConfigEntry",
    "ConfigOp",
    "ConfigRow",
    "Kind",
    "ServerConfig",
    "ServerSettings",
    "Setting",
    "Source",
    "TopicSettings",
    "Value",
    "apply_config_ops",
    "check_broker_override",
    "check_topic_override",
    "describe_server_settings",
    "describe_topic_settings",
    "format_value",
    "is_loopback",
    "load_server_settings",
    "parse_value",
    "plain_topic_value",
    "split_address",
    "topic_settings",
]
