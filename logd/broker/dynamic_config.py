"""The server's settings while it runs: as given at start, with what clients changed on top.

The changes are kept in the catalog and take effect at once. Whoever needs a setting that can change
asks `settings` each time, and keeps no copy.
"""

from __future__ import annotations

from collections.abc import Mapping

from logd.config import (
    ConfigEntry,
    ServerConfig,
    ServerSettings,
    TopicSettings,
    describe_server_settings,
    describe_topic_settings,
    topic_settings,
)


class DynamicConfig:
    """What is in force now. Read by everybody on the event loop, changed by `replace` alone."""

    def __init__(self, config: ServerConfig, overrides: Mapping[str, str]) -> None:
        """Put the overrides that the catalog keeps on top of what was given at start.

        Raises:
            InvalidConfigError: an override is none that this version takes.
        """
        self._config = config.with_broker_overrides(overrides)
        self.overrides = dict(overrides)

    @property
    def settings(self) -> ServerSettings:
        """The server's effective settings."""
        return self._config.settings

    def with_overrides(self, overrides: Mapping[str, str]) -> DynamicConfig:
        """Return what would be in force with other overrides; nothing is changed.

        Raises:
            InvalidConfigError: a setting is unknown, cannot change while running, or is not
                allowed.
        """
        return DynamicConfig(self._config, overrides)

    def replace(self, other: DynamicConfig) -> None:
        """Put other overrides in force."""
        self._config = other._config
        self.overrides = other.overrides

    def topic_settings(self, overrides: Mapping[str, str]) -> TopicSettings:
        """Return what is in force for a topic with these overrides.

        Raises:
            InvalidConfigError: a setting is unknown or its value not allowed.
        """
        return topic_settings(self.settings, overrides)

    def describe_server(self) -> list[ConfigEntry]:
        """Return every server setting as clients see it."""
        return describe_server_settings(self._config, self.overrides)

    def describe_topic(self, overrides: Mapping[str, str]) -> list[ConfigEntry]:
        """Return every setting of a topic with these overrides as clients see it."""
        return describe_topic_settings(self._config, overrides)
