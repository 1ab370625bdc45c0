"""Settings: which value is in force, and where each came from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from logd.config import (
    NEVER,
    SERVER_ALIASES,
    SERVER_SETTINGS,
    TOPIC_SETTINGS,
    ServerConfig,
    ServerSettings,
    Setting,
    Source,
    TopicSettings,
    check_topic_override,
    load_server_settings,
    plain_topic_value,
    split_address,
    topic_settings,
)
from logd.config.sources import environment_name
from logd.errors import ConfigError, InvalidConfigError
from logd.units import DAY_MS, GIB, HOUR_MS, MINUTE_MS


def load(
    file: str | None = None,
    environment: Mapping[str, str] | None = None,
    **flags: str,
) -> ServerConfig:
    """Load settings; a flag's name is written with `_` for `.`."""
    named = {name.replace("_", "."): text for name, text in flags.items()}
    return load_server_settings(file=file, environment=environment or {}, flags=named)


# --- The tables -----------------------------------------------------------------------------------


def test_topic_settings_have_a_field_for_each_row() -> None:
    """The fields of TopicSettings are the rows of the table, in its order."""
    fields = [field.name for field in dataclasses.fields(TopicSettings)]
    assert fields == [row.attribute for row in TOPIC_SETTINGS.values()]


def test_each_server_setting_has_a_field_or_gives_a_default_of_topics() -> None:
    """No server setting is accepted and then forgotten."""
    fields = {field.name for field in dataclasses.fields(ServerSettings)} - {"topic_defaults"}
    of_topics = {name for row in TOPIC_SETTINGS.values() for name in row.server_names}
    rows = {row.attribute for name, row in SERVER_SETTINGS.items() if name not in of_topics}
    assert fields == rows
    assert of_topics <= set(SERVER_SETTINGS)


def test_every_row_has_a_sentence() -> None:
    """Each setting is explained in a sentence."""
    for row in (*TOPIC_SETTINGS.values(), *SERVER_SETTINGS.values()):
        assert row.doc.endswith("."), row.name
        assert 15 < len(row.doc) < 300, row.name


def test_environment_names_are_unique() -> None:
    """No two settings share an environment variable, and none is LOGD_BOOTSTRAP or LOGD_ADMIN."""
    names = [environment_name(name) for name in (*SERVER_SETTINGS, *SERVER_ALIASES)]
    assert len(set(names)) == len(names)
    assert not {"LOGD_BOOTSTRAP", "LOGD_ADMIN"} & set(names)


# Looked at by the configuration itself, or of one value only: there is nothing to act on.
NOT_READ_ELSEWHERE = {
    "node.id",
    "insecure",
    "default.replication.factor",
    "offsets.topic.replication.factor",
    "min.insync.replicas",
    "remote.storage.enable",  # Another name for cold.enable; the configuration makes them equal.
    "flush.ms",  # Others read what the configuration makes of it: flush_interval_ms.
}


@pytest.mark.parametrize("table", [TOPIC_SETTINGS, SERVER_SETTINGS], ids=["topic", "server"])
def test_settings_do_what_they_say(table: dict[str, Setting]) -> None:
    """A setting that claims an effect is read somewhere, one that claims none is not."""
    fields = {field.name for field in dataclasses.fields(ServerSettings)} | {
        field.name for field in dataclasses.fields(TopicSettings)
    }
    root = Path(__file__).parent.parent.parent
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for package in ("logd", "cli")
        for path in (root / package).rglob("*.py")
        if "config" not in path.parts[-2:]
    )
    read = set(re.findall(r"(?:settings|defaults|server|config)\.([a-z_]+)", source))
    maybe_read = set(re.findall(r"\.([a-z_]+)", source))
    wrong = [
        row.name
        for row in table.values()
        if row.attribute in fields and row.name not in NOT_READ_ELSEWHERE
        if row.attribute not in (maybe_read if row.effect == "now" else fields - read)
    ]
    assert wrong == []


# Names and defaults as Apache Kafka 4 documents them for topics.
KAFKA_TOPIC_DEFAULTS = {
    "cleanup.policy": ("delete",),
    "compression.gzip.level": -1,
    "compression.lz4.level": 9,
    "compression.type": "producer",
    "compression.zstd.level": 3,
    "delete.retention.ms": 86400000,
    "file.delete.delay.ms": 60000,
    "flush.messages": 9223372036854775807,
    "flush.ms": 9223372036854775807,
    "follower.replication.throttled.replicas": (),
    "index.interval.bytes": 4096,
    "leader.replication.throttled.replicas": (),
    "local.retention.bytes": -2,
    "local.retention.ms": -2,
    "max.compaction.lag.ms": 9223372036854775807,
    "max.message.bytes": 1048588,
    "message.timestamp.after.max.ms": 3600000,
    "message.timestamp.before.max.ms": 9223372036854775807,
    "message.timestamp.type": "CreateTime",
    "min.cleanable.dirty.ratio": 0.5,
    "min.compaction.lag.ms": 0,
    "min.insync.replicas": 1,
    "preallocate": False,
    "remote.log.copy.disable": False,
    "remote.log.delete.on.disable": False,
    "remote.storage.enable": False,
    "retention.bytes": -1,
    "retention.ms": 604800000,
    "segment.bytes": 1073741824,
    "segment.index.bytes": 10485760,
    "segment.jitter.ms": 0,
    "segment.ms": 604800000,
    "unclean.leader.election.enable": False,
}
OUR_TOPIC_DEFAULTS = {
    "segment.offsets": 1048576,
    "flush.mode": "commit",
    "cold.enable": False,
    "cold.profile": "auto",
    "cold.after.ms": 0,
    "cold.after.bytes": 0,
    "cold.grace.ms": 600000,
    "cold.hot.retention.ms": 0,
    "cold.compression": "none",
}


def test_topic_defaults_are_kafkas() -> None:
    """Without any setting a topic has Kafka's defaults, and ours for what Kafka does not have."""
    defaults = load().settings.topic_defaults
    found = {row.name: getattr(defaults, row.attribute) for row in TOPIC_SETTINGS.values()}
    assert found == KAFKA_TOPIC_DEFAULTS | OUR_TOPIC_DEFAULTS
    assert {name for name, row in TOPIC_SETTINGS.items() if row.ours} == set(OUR_TOPIC_DEFAULTS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num.partitions", 4),
        ("offsets.topic.num.partitions", 1),
        ("node.suspect.ms", 10000),
        ("node.dead.ms", 60000),
        ("repair.delay.ms", 900000),
        ("repair.rate.bytes", 0),
        ("scrub.rate.bytes", 0),
        ("scrub.cycle.ms", 1209600000),
        ("disk.reserve.bytes", None),
        ("auto.create.topics.enable", True),
        ("group.initial.rebalance.delay.ms", 3000),
        ("group.min.session.timeout.ms", 6000),
        ("offsets.retention.minutes", 10080),
        ("socket.request.max.bytes", 104857600),
        ("producer.id.expiration.ms", 86400000),
        ("connections.max.idle.ms", 600000),
        ("max.incremental.fetch.session.cache.slots", 1000),
        ("fetch.max.bytes", 57671680),
    ],
)
def test_server_defaults(name: str, value: object) -> None:
    """The settings whose names and defaults are fixed have them."""
    config = load()
    assert getattr(config.settings, SERVER_SETTINGS[name].attribute) == value
    assert config.origin[name] is Source.DEFAULT


# --- Precedence -----------------------------------------------------------------------------------


def test_precedence_is_flag_environment_file_default(directory: str) -> None:
    """Each source overrides the weaker ones, and the origin is told."""
    path = f"{directory}/logd.toml"
    with open(path, "w", encoding="utf-8") as file:
        file.write('"num.partitions" = 5\n"repair.delay.ms" = "1m"\n"scrub.cycle.ms" = "1d"\n')
    config = load(
        path,
        {"LOGD_NUM_PARTITIONS": "6", "LOGD_REPAIR_DELAY_MS": "2m", "HOME": "/"},
        num_partitions="7",
    )
    assert config.settings.num_partitions == 7
    assert config.settings.repair_delay_ms == 2 * MINUTE_MS
    assert config.settings.scrub_cycle_ms == DAY_MS
    assert config.origin["num.partitions"] is Source.FLAG
    assert config.origin["repair.delay.ms"] is Source.ENVIRONMENT
    assert config.origin["scrub.cycle.ms"] is Source.FILE


def test_what_is_set_while_running_overrides_all_and_can_be_taken_back() -> None:
    """A dynamic override wins over a flag; without it the flag is in force again."""
    config = load(num_partitions="7")
    changed = config.with_broker_overrides({"num.partitions": "9", "log.retention.ms": "1000"})
    assert changed.settings.num_partitions == 9
    assert changed.settings.topic_defaults.retention_ms == 1000
    assert changed.origin["num.partitions"] is Source.BROKER
    assert changed.with_broker_overrides({}).settings == config.settings


@pytest.mark.parametrize(
    "overrides",
    [
        {"no.such.setting": "1"},
        {"listeners": "127.0.0.1:1"},
        {"num.partitions": "0"},
        {"num.partitions": "7d"},
        {"message.max.bytes": str(2**31 - 1)},
    ],
)
def test_bad_dynamic_overrides_are_refused(overrides: dict[str, str]) -> None:
    """Unknown, not changeable, out of range, with a unit, in contradiction: each is refused."""
    with pytest.raises(InvalidConfigError):
        load().with_broker_overrides(overrides)


@pytest.mark.parametrize(
    ("flags", "retention_ms"),
    [
        ({"log.retention.hours": "2"}, 2 * HOUR_MS),
        ({"log.retention.hours": "2", "log.retention.minutes": "3"}, 3 * MINUTE_MS),
        ({"log.retention.minutes": "3", "log.retention.ms": "4"}, 4),
        ({"log.retention.hours": "-1"}, -1),
        ({"log.retention.ms": "7d"}, 7 * DAY_MS),
        ({"retention.ms": "1h"}, HOUR_MS),
    ],
)
def test_finer_unit_wins_among_names_of_one_source(
    flags: dict[str, str], retention_ms: int
) -> None:
    """Of log.retention.ms, .minutes and .hours the finest that is given counts."""
    config = load_server_settings(file=None, environment={}, flags=flags)
    assert config.settings.topic_defaults.retention_ms == retention_ms


def test_stronger_source_wins_over_finer_unit() -> None:
    """A flag in hours overrides an environment variable in milliseconds."""
    config = load(environment={"LOGD_LOG_RETENTION_MS": "5"}, log_retention_hours="1")
    assert config.settings.topic_defaults.retention_ms == HOUR_MS


def test_topic_settings_under_their_own_names_set_the_default_of_all_topics() -> None:
    """Every topic setting that a server may default can be given under the topic's name."""
    config = load_server_settings(
        file=None,
        environment={"LOGD_COLD_PROFILE": "4+2"},
        flags={"segment.bytes": "64MiB", "flush.mode": "os", "remote.storage.enable": "true"},
    )
    defaults = config.settings.topic_defaults
    assert (defaults.segment_bytes, defaults.flush_mode) == (64 * 2**20, "os")
    assert defaults.cold_profile == "4+2"
    assert defaults.cold_enable is True
    assert defaults.remote_storage_enable is True


def test_one_setting_under_two_names_is_refused() -> None:
    """retention.ms and log.retention.ms are one server setting; both at once is a mistake."""
    with pytest.raises(ConfigError, match=r"log\.retention\.ms is given twice"):
        load(retention_ms="1", log_retention_ms="2")


# --- Bad values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("num.partitions", "four"),
        ("num.partitions", "4.5"),
        ("num.partitions", "1e30"),
        ("num.partitions", "nan"),
        ("num.partitions", "-1"),
        ("num.partitions", "2147483648"),
        ("num.partitions", ""),
        ("num.partitions", "1_000"),
        ("num.partitions", "9" * 5000),
        ("log.retention.ms", "7 fortnights"),
        ("log.segment.bytes", "13"),
        ("log.segment.bytes", "2GiB"),
        ("auto.create.topics.enable", "yes"),
        ("auto.create.topics.enable", "1"),
        ("log.cleanup.policy", "delete,delete"),
        ("log.cleanup.policy", "shred"),
        ("log.cleaner.min.cleanable.ratio", "NaN"),
        ("log.cleaner.min.cleanable.ratio", "1e30"),
        ("log.cleaner.min.cleanable.ratio", "-0.1"),
        ("log.cleaner.min.cleanable.ratio", "inf"),
        ("log.cleaner.min.cleanable.ratio", "1e999"),
        ("cold.profile", "1+0"),
        ("cold.profile", "249+2"),
        ("listeners", "127.0.0.1"),
        ("listeners", "127.0.0.1:99999"),
        ("listeners", "SSL://127.0.0.1:9092"),
        ("log.dirs", "a\nb"),
        ("node.id", "2"),
        ("nodes", "a"),
        ("nodes", "a=x,a=y"),
    ],
)
def test_bad_values_name_the_key_and_the_place(name: str, text: str) -> None:
    """A value that is not allowed is a ConfigError with the key's name, wherever it is given."""
    with pytest.raises(ConfigError) as by_flag:
        load_server_settings(file=None, environment={}, flags={name: text})
    assert name in str(by_flag.value)
    assert "command line" in str(by_flag.value)
    with pytest.raises(ConfigError) as by_variable:
        load_server_settings(file=None, environment={environment_name(name): text}, flags={})
    assert environment_name(name) in str(by_variable.value)
    assert len(str(by_variable.value)) < 6000


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"node.suspect.ms": "2m"}, "node.dead.ms"),
        ({"group.min.session.timeout.ms": "1h"}, "group.max.session.timeout.ms"),
        ({"message.max.bytes": "200MiB"}, "socket.request.max.bytes"),
        (
            {"log.cleaner.min.compaction.lag.ms": "2", "log.cleaner.max.compaction.lag.ms": "1"},
            "max.compaction.lag.ms",
        ),
        ({"listeners": "0.0.0.0:9092"}, "listeners"),
        ({"admin.listen": "example.invalid:1"}, "admin.listen"),
    ],
)
def test_values_that_contradict_each_other_are_refused(flags: dict[str, str], named: str) -> None:
    """Two settings that cannot both hold are refused by name."""
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        load_server_settings(file=None, environment={}, flags=flags)


def test_insecure_allows_other_addresses() -> None:
    """With `insecure` any address may be listened on; loopback ones need nothing."""
    assert load(listeners="0.0.0.0:9092", insecure="true").settings.insecure
    for address in ("localhost:0", "127.8.9.1:5", "[::1]:5", "PLAINTEXT://127.0.0.1:5"):
        load(listeners=address)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9092", ("127.0.0.1", 9092)),
        ("PLAINTEXT://a.example:1", ("a.example", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("::1:80", ("::1", 80)),
    ],
)
def test_split_address(text: str, address: tuple[str, int]) -> None:
    """Addresses are split at the last colon, brackets and PLAINTEXT:// left out."""
    assert split_address(text) == address


@pytest.mark.parametrize("text", ["", ":", "a:", ":1", "a:b", "a:-1", "a:65536", "a b:1", "a:1٣"])
def test_split_address_refuses(text: str) -> None:
    """What is not HOST:PORT is refused."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        split_address(text)


# --- A topic's settings ---------------------------------------------------------------------------


def test_topic_overrides_win_over_the_server() -> None:
    """A topic's own settings hold, the server's defaults everywhere else."""
    server = load(log_retention_hours="1").settings
    settings = topic_settings(server, {"segment.bytes": "100", "cleanup.policy": "compact, delete"})
    assert settings.segment_bytes == 100
    assert settings.cleanup_policy == ("compact", "delete")
    assert settings.compacted
    assert settings.retention_ms == HOUR_MS


def test_topics_without_settings_share_one_object() -> None:
    """Thousands of topics without settings of their own cost no memory for them."""
    server = load().settings
    assert topic_settings(server, {}) is topic_settings(server, {})


def test_both_names_of_cold_enable_mean_the_same() -> None:
    """remote.storage.enable is cold.enable, and a contradiction of the two is refused."""
    server = load().settings
    for name in ("cold.enable", "remote.storage.enable"):
        settings = topic_settings(server, {name: "true"})
        assert settings.cold_enable
        assert settings.remote_storage_enable
    with pytest.raises(InvalidConfigError):
        topic_settings(server, {"cold.enable": "true", "remote.storage.enable": "false"})


def test_interval_mode_without_flush_ms_syncs_every_second() -> None:
    """flush.mode=interval with Kafka's default of flush.ms, never, still syncs."""
    server = load().settings
    settings = topic_settings(server, {"flush.mode": "interval"})
    assert settings.flush_ms == NEVER
    assert settings.flush_interval_ms == 1000
    assert topic_settings(server, {"flush.ms": "50"}).flush_interval_ms == 50


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no.such.setting", "1"),
        ("retention.ms", None),
        ("retention.ms", "7d"),
        ("retention.ms", "-2"),
        ("retention.ms", "1e30"),
        ("retention.bytes", "9223372036854775808"),
        ("min.insync.replicas", "2"),
        ("min.cleanable.dirty.ratio", "nan"),
        ("flush.mode", "sometimes"),
        ("compression.gzip.level", "0"),
        ("segment.bytes", "٣٣٣"),
        ("preallocate", ""),
        ("x" * 10_000, "1"),
    ],
)
def test_bad_topic_settings_are_refused(name: str, value: str | None) -> None:
    """Unknown names and bad values are refused with a reason that names the setting, briefly."""
    with pytest.raises(InvalidConfigError) as caught:
        check_topic_override(name, value)
    assert name[:50] in str(caught.value)
    assert len(str(caught.value)) < 300


def test_topic_values_that_contradict_each_other_are_refused() -> None:
    """A minimum above its maximum is refused, even if each value alone is fine."""
    with pytest.raises(InvalidConfigError, match=r"min\.compaction\.lag\.ms"):
        topic_settings(
            load().settings, {"min.compaction.lag.ms": "2", "max.compaction.lag.ms": "1"}
        )


def test_people_write_units_and_clients_get_numbers() -> None:
    """What a person writes for a topic becomes what Kafka's clients send."""
    assert plain_topic_value("retention.ms", "7d") == str(7 * DAY_MS)
    assert plain_topic_value("segment.bytes", "1GiB") == str(GIB)
    assert plain_topic_value("preallocate", "TRUE") == "true"
    assert plain_topic_value("from.the.future", "x") == "x"
    with pytest.raises(InvalidConfigError):
        plain_topic_value("retention.ms", "soon")


# --- logd config ----------------------------------------------------------------------------------


def test_describe_lists_every_setting_with_its_origin() -> None:
    """`logd config` has a row for every setting, sorted, values as written and as JSON has them."""
    rows = load(log_segment_bytes="64MiB").describe()
    assert [row.name for row in rows] == sorted(SERVER_SETTINGS)
    by_name = {row.name: row for row in rows}
    assert by_name["log.segment.bytes"].as_json() == {
        "name": "log.segment.bytes",
        "value": 64 * 2**20,
        "default": GIB,
        "unit": "bytes",
        "source": "flag",
    }
    assert by_name["log.segment.bytes"].value == str(64 * 2**20)
    assert by_name["disk.reserve.bytes"].value is None
    assert by_name["insecure"].value == "false"
