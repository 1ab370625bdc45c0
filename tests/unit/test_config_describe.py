"""Settings as clients see and change them."""

from __future__ import annotations

from typing import Literal

import pytest

from logd.config import (
    SERVER_SETTINGS,
    TOPIC_SETTINGS,
    ConfigEntry,
    ConfigOp,
    ServerConfig,
    apply_config_ops,
    describe_server_settings,
    describe_topic_settings,
    load_server_settings,
)
from logd.errors import InvalidConfigError


def load(**flags: str) -> ServerConfig:
    """Load settings from flags alone; a name is written with `_` for `.`."""
    named = {name.replace("_", "."): text for name, text in flags.items()}
    return load_server_settings(file=None, environment={}, flags=named)


def by_name(entries: list[ConfigEntry]) -> dict[str, ConfigEntry]:
    """Return the entries by name."""
    return {entry.name: entry for entry in entries}


def test_every_topic_setting_is_described() -> None:
    """A topic without settings of its own has every setting, each a default with its sentence."""
    entries = by_name(describe_topic_settings(load(), {}))
    assert list(entries) == list(TOPIC_SETTINGS)
    for entry in entries.values():
        assert entry.value is not None
        assert entry.is_default
        assert entry.source == 5
        assert not entry.read_only
        assert entry.documentation
    types = {name: entry.type for name, entry in entries.items()}
    assert types["preallocate"] == 1
    assert types["flush.mode"] == 2
    assert types["segment.bytes"] == 3
    assert types["retention.ms"] == 5
    assert types["min.cleanable.dirty.ratio"] == 6
    assert types["cleanup.policy"] == 7


def test_synonyms_list_the_strongest_source_first() -> None:
    """First a topic's own value, then what the server was given in any unit, then the default."""
    config = load(log_retention_hours="1").with_broker_overrides({"log.retention.ms": "7"})
    entry = by_name(describe_topic_settings(config, {"retention.ms": "5"}))["retention.ms"]
    assert (entry.value, entry.source, entry.is_default) == ("5", 1, False)
    assert entry.synonyms == [
        ("retention.ms", "5", 1),
        ("log.retention.ms", "7", 2),
        ("log.retention.hours", "1", 4),
        ("log.retention.hours", "168", 5),
    ]


def test_the_servers_value_is_a_topics_when_it_has_none() -> None:
    """A server setting shows as the topic's value, in the topic's unit, its source the broker."""
    entry = by_name(describe_topic_settings(load(log_retention_hours="2"), {}))["retention.ms"]
    assert (entry.value, entry.source) == ("7200000", 4)
    entry = by_name(describe_topic_settings(load(log_segment_bytes="1MiB"), {}))["segment.bytes"]
    assert entry.synonyms[0] == ("log.segment.bytes", "1048576", 4)


def test_both_names_of_cold_enable_are_described_alike() -> None:
    """Set under either name, both entries show it, with the topic as the source."""
    for name in ("cold.enable", "remote.storage.enable"):
        entries = by_name(describe_topic_settings(load(), {name: "true"}))
        for other in ("cold.enable", "remote.storage.enable"):
            assert (entries[other].value, entries[other].source) == ("true", 1)


def test_every_server_setting_is_described() -> None:
    """The server lists every setting; those that need a restart are read-only."""
    entries = by_name(describe_server_settings(load(num_partitions="3"), {"log.roll.ms": "5"}))
    assert list(entries) == list(SERVER_SETTINGS)
    assert entries["listeners"].read_only
    assert not entries["log.retention.ms"].read_only
    assert (entries["num.partitions"].value, entries["num.partitions"].source) == ("3", 4)
    assert (entries["log.roll.ms"].value, entries["log.roll.ms"].source) == ("5", 2)
    assert entries["log.retention.ms"].value is None
    assert entries["log.retention.ms"].is_default
    assert entries["max.connections"].synonyms == [("max.connections", "2147483647", 5)]


def test_the_static_value_stays_visible_under_a_dynamic_one() -> None:
    """What holds again once the override is deleted is listed behind it."""
    entry = by_name(describe_server_settings(load(num_partitions="3"), {"num.partitions": "9"}))
    assert entry["num.partitions"].synonyms == [
        ("num.partitions", "9", 2),
        ("num.partitions", "3", 4),
        ("num.partitions", "4", 5),
    ]


@pytest.mark.parametrize(
    ("current", "ops", "after"),
    [
        ({}, [("retention.ms", "SET", " 5 ")], {"retention.ms": "5"}),
        ({"retention.ms": "5"}, [("retention.ms", "DELETE", None)], {}),
        ({}, [("retention.ms", "DELETE", None)], {}),
        ({"gone": "5"}, [("gone", "DELETE", None)], {}),
        ({}, [("cleanup.policy", "APPEND", "compact")], {"cleanup.policy": "delete,compact"}),
        ({}, [("cleanup.policy", "SUBTRACT", "delete")], {"cleanup.policy": ""}),
        (
            {"cleanup.policy": "compact"},
            [("cleanup.policy", "APPEND", "compact,delete")],
            {"cleanup.policy": "compact,delete"},
        ),
        (
            {"cleanup.policy": "compact,delete"},
            [("cleanup.policy", "SUBTRACT", "delete")],
            {"cleanup.policy": "compact"},
        ),
        (
            {"segment.bytes": "20"},
            [("segment.bytes", "SET", "30"), ("flush.mode", "SET", "os")],
            {"segment.bytes": "30", "flush.mode": "os"},
        ),
    ],
)
def test_changes_are_applied(
    current: dict[str, str], ops: list[ConfigOp], after: dict[str, str]
) -> None:
    """Set, delete, append and subtract do what they say, and leave what they were given alone."""
    before = dict(current)
    assert apply_config_ops("topic", current, ops) == after
    assert current == before


@pytest.mark.parametrize(
    ("kind", "ops"),
    [
        ("topic", [("no.such", "SET", "1")]),
        ("topic", [("no.such", "DELETE", None)]),
        ("topic", [("no.such", "APPEND", "1")]),
        ("topic", [("retention.ms", "SET", None)]),
        ("topic", [("retention.ms", "APPEND", "1")]),
        ("topic", [("cleanup.policy", "APPEND", None)]),
        ("topic", [("cleanup.policy", "APPEND", "shred")]),
        ("topic", [("retention.ms", "SET", "1"), ("retention.ms", "DELETE", None)]),
        ("broker", [("listeners", "SET", "127.0.0.1:1")]),
        ("broker", [("retention.ms", "SET", "1")]),
    ],
)
def test_bad_changes_are_refused(kind: Literal["topic", "broker"], ops: list[ConfigOp]) -> None:
    """Unknown names, lists that are none, values not allowed, a name twice: refused."""
    with pytest.raises(InvalidConfigError):
        apply_config_ops(kind, {}, ops)
