"""The settings of the server: Kafka's names where Kafka has the same thing, and ours.

Three groups of rows make `SERVER_SETTINGS`: the defaults of all topics (made from the table of
topic settings, under Kafka's server names: retention.ms of a topic is log.retention.ms here), their
coarser forms (log.retention.hours), and the server's own. Only the last become fields of
`ServerSettings`; the others are worked into its `topic_defaults`.

Source: Apache Kafka's broker configs (names, defaults, limits); the sentences are ours.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Final

from logd.config.setting import Kind, Setting, Value
from logd.config.topic import NEVER, TOPIC_SETTINGS, TopicSettings
from logd.units import DAY_MS, GIB, INT32_MAX, KIB, MIB, MINUTE_MS, SECOND_MS

_PORT_MAX: Final = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The effective settings of the server, parsed; field names have `_` for `.`."""

    topic_defaults: TopicSettings

    node_id: int
    listeners: str
    advertised_listeners: str
    admin_listen: str
    log_dirs: str
    insecure: bool
    log_format: str
    nodes: tuple[str, ...]
    node_token_file: str

    num_partitions: int
    default_replication_factor: int
    auto_create_topics_enable: bool
    delete_topic_enable: bool
    max_partitions_per_topic: int
    max_partitions: int

    socket_request_max_bytes: int
    max_connections: int
    max_connections_per_ip: int
    connections_max_idle_ms: int
    connection_first_frame_ms: int
    queued_max_requests_per_connection: int
    queued_max_request_bytes: int
    fetch_max_bytes: int
    max_incremental_fetch_session_cache_slots: int
    remote_fetch_max_wait_ms: int
    cold_read_ahead_bytes: int

    flush_unsynced_max_bytes: int
    sync_threads: int
    open_files_max: int
    disk_reserve_bytes: int | None
    log_retention_check_interval_ms: int
    log_cleaner_enable: bool
    log_cleaner_threads: int
    log_cleaner_backoff_ms: int
    log_cleaner_dedupe_buffer_size: int
    log_cleaner_io_max_bytes_per_second: float
    log_cleaner_memory_max_bytes: int | None
    log_cleaner_coded_max_bytes: int

    producer_id_expiration_ms: int

    group_initial_rebalance_delay_ms: int
    group_min_session_timeout_ms: int
    group_max_session_timeout_ms: int
    group_max_size: int
    offset_metadata_max_bytes: int
    offsets_retention_minutes: int
    offsets_retention_check_interval_ms: int
    offsets_topic_num_partitions: int
    offsets_topic_replication_factor: int
    offsets_topic_segment_bytes: int
    metrics_group_lag_series_max: int

    node_suspect_ms: int
    node_dead_ms: int
    node_probe_interval_ms: int
    node_request_timeout_ms: int
    node_breaker_window: int
    node_breaker_calls_min: int
    node_breaker_failure_percent: int
    node_breaker_slow_percent: int
    node_breaker_slow_ms: int
    node_breaker_open_ms: int
    repair_delay_ms: int
    repair_rate_bytes: int
    scrub_rate_bytes: int
    scrub_cycle_ms: int

    @property
    def message_max_bytes(self) -> int:
        """The default of max.message.bytes."""
        return self.topic_defaults.max_message_bytes


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, `[IPV6]:PORT` or `PLAINTEXT://HOST:PORT`.

    Raises:
        ValueError: it is none of these. The message is the reason.
    """
    address = text.removeprefix("PLAINTEXT://")
    if "://" in address:
        raise ValueError(f"{text!r}: only PLAINTEXT is supported")
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not (port.isascii() and port.isdigit()) or len(port) > len(str(_PORT_MAX)):
        raise ValueError(f"{text!r} is not HOST:PORT")
    if int(port) > _PORT_MAX or not host or any(c in host for c in " ,/@[]"):
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def _check_address(value: Value) -> str | None:
    try:
        split_address(str(value))
    except ValueError as error:
        return str(error)
    return None


def _check_advertised(value: Value) -> str | None:
    return None if value == "" else _check_address(value)


def _check_path(value: Value) -> str | None:
    return None if value else "a path is needed"


def _check_nodes(value: Value) -> str | None:
    assert isinstance(value, tuple)
    names = [word.partition("=")[0] for word in value]
    if any(not name or "=" not in word for name, word in zip(names, value, strict=True)):
        return "each word must be NAME=DIR_OR_URL"
    return "a node is named twice" if len(set(names)) != len(names) else None


_COARSER: Final = (
    Setting(
        name="log.retention.hours", kind=Kind.INT, default=168, low=-1, unit="h",
        doc="log.retention.ms in hours; used where neither that nor log.retention.minutes is set.",
    ),
    Setting(
        name="log.retention.minutes", kind=Kind.INT, default=None, low=-1, unit="min",
        doc="log.retention.ms in minutes; used where that is not set.",
    ),
    Setting(
        name="log.roll.hours", kind=Kind.INT, default=168, low=1, unit="h",
        doc="log.roll.ms in hours; used where that is not set.",
    ),
    Setting(
        name="log.roll.jitter.hours", kind=Kind.INT, default=0, low=0, unit="h",
        doc="log.roll.jitter.ms in hours; used where that is not set.",
    ),
    Setting(
        name="log.flush.scheduler.interval.ms", kind=Kind.LONG, default=NEVER, low=0, unit="ms",
        doc="Used where log.flush.interval.ms is not set.",
    ),
)  # fmt: skip

_IDENTITY: Final = (
    Setting(
        name="node.id", kind=Kind.INT, default=1, low=1, high=1,
        doc="The broker's number; 1, the one broker of its cluster.",
    ),
    Setting(
        name="listeners", kind=Kind.STRING, default="127.0.0.1:9092", rule=_check_address,
        doc="HOST:PORT where Kafka's clients are served; port 0 takes a free one.",
    ),
    Setting(
        name="advertised.listeners", kind=Kind.STRING, default="", rule=_check_advertised,
        doc="HOST:PORT that clients are told to connect to; empty: where the server listens.",
    ),
    Setting(
        name="admin.listen", kind=Kind.STRING, default="127.0.0.1:9644", rule=_check_address,
        ours=True, doc="HOST:PORT of health, metrics and the storage commands; port 0: a free one.",
    ),
    Setting(
        name="log.dirs", kind=Kind.STRING, default="./logd-data", rule=_check_path,
        doc="The data directory, one; made when absent.",
    ),
    Setting(
        name="insecure", kind=Kind.BOOLEAN, default=False, ours=True,
        doc="Allows listening on other than loopback addresses, though nobody is authenticated.",
    ),
    Setting(
        name="log.format", kind=Kind.STRING, default="text", choices=("text", "json"),
        ours=True, doc="How log lines are written to stderr.",
    ),
    Setting(
        name="nodes", kind=Kind.LIST, default=(), rule=_check_nodes, ours=True,
        doc="Storage nodes to register at start, NAME=DIR_OR_URL each.",
    ),
    Setting(
        name="node.token.file", kind=Kind.STRING, default="", ours=True,
        doc="A file with the token that storage nodes are asked with; empty: none.",
    ),
)  # fmt: skip

_TOPICS: Final = (
    Setting(
        name="num.partitions", kind=Kind.INT, default=4, low=1, dynamic=True,
        doc="Partitions of a topic that is created on first use, or without saying how many.",
    ),
    Setting(
        name="default.replication.factor", kind=Kind.INT, default=1, low=1, high=1,
        doc="Replicas of a partition on brokers; 1 in this version.",
    ),
    Setting(
        name="auto.create.topics.enable", kind=Kind.BOOLEAN, default=True, dynamic=True,
        doc="Whether a topic is created when a client first asks for it.",
    ),
    Setting(
        name="delete.topic.enable", kind=Kind.BOOLEAN, default=True, dynamic=True,
        doc="Whether clients may delete topics.",
    ),
    Setting(
        name="max.partitions.per.topic", kind=Kind.INT, default=10_000, low=1, dynamic=True,
        ours=True, doc="More partitions in one topic are refused.",
    ),
    Setting(
        name="max.partitions", kind=Kind.INT, default=50_000, low=1, dynamic=True, ours=True,
        doc="More partitions in all topics together are refused.",
    ),
)  # fmt: skip

_NETWORK: Final = (
    Setting(
        name="socket.request.max.bytes", kind=Kind.INT, default=100 * MIB, low=1, unit="bytes",
        doc="The largest request; a longer one closes the connection before memory is taken.",
    ),
    Setting(
        name="max.connections", kind=Kind.INT, default=INT32_MAX, low=1, dynamic=True,
        doc="Connections in all; never more than the process's limit on descriptors allows.",
    ),
    Setting(
        name="max.connections.per.ip", kind=Kind.INT, default=INT32_MAX, low=1, dynamic=True,
        doc="Connections from one address; never more than max.connections comes to.",
    ),
    Setting(
        name="connections.max.idle.ms", kind=Kind.LONG, default=10 * MINUTE_MS, low=1, unit="ms",
        doc="A connection without a request for this long is closed.",
    ),
    Setting(
        name="connection.first.frame.ms", kind=Kind.LONG, default=30 * SECOND_MS, low=1, unit="ms",
        ours=True, doc="A connection that has not sent a whole first request by then is closed.",
    ),
    Setting(
        name="queued.max.requests.per.connection", kind=Kind.INT, default=256, low=1, ours=True,
        doc="Requests of one connection that are taken up before their answers are out; beyond, it "
        "is not read.",
    ),
    Setting(
        name="queued.max.request.bytes", kind=Kind.LONG, default=64 * MIB, low=-1, unit="bytes",
        doc="Bytes of requests in memory, all connections together; beyond, only who is in the "
        "middle of a request is read. -1: no limit.",
    ),
    Setting(
        name="fetch.max.bytes", kind=Kind.INT, default=55 * MIB, low=1024, unit="bytes",
        doc="The most that one fetch answers, its first batch aside.",
    ),
    Setting(
        name="max.incremental.fetch.session.cache.slots", kind=Kind.INT, default=1000, low=0,
        doc="Incremental fetch sessions that are remembered.",
    ),
    Setting(
        name="remote.fetch.max.wait.ms", kind=Kind.INT, default=500, low=1, unit="ms",
        doc="How long a fetch waits for its coded partitions.",
    ),
    Setting(
        name="cold.read.ahead.bytes", kind=Kind.LONG, default=64 * MIB, low=16 * MIB, unit="bytes",
        ours=True, doc="Memory for what was read of coded segments, all readers together: what is "
        "read ahead of those who read in sequence, and what is kept for others.",
    ),
)  # fmt: skip

_STORAGE: Final = (
    Setting(
        name="flush.unsynced.max.bytes", kind=Kind.LONG, default=64 * MIB, low=1, unit="bytes",
        ours=True, doc="Bytes written and not yet synced, all logs together; beyond, the producing "
        "connections are not read.",
    ),
    Setting(
        name="sync.threads", kind=Kind.INT, default=16, low=1, high=256, ours=True,
        doc="Threads that sync logs, each another one.",
    ),
    Setting(
        name="open.files.max", kind=Kind.INT, default=1024, low=16, ours=True,
        doc="Files of sealed segments that are kept open; the least recently used is closed first.",
    ),
    Setting(
        name="disk.reserve.bytes", kind=Kind.LONG, default=None, low=0, unit="bytes", ours=True,
        doc="With less free space, appends are refused. Not set: 1 GiB or 5 % of the file system, "
        "whichever is smaller.",
    ),
    Setting(
        name="log.retention.check.interval.ms", kind=Kind.LONG, default=5 * MINUTE_MS, low=1,
        unit="ms", doc="How often retention looks for segments to delete, so how late it may be.",
    ),
    Setting(
        name="log.cleaner.enable", kind=Kind.BOOLEAN, default=True,
        doc="Whether topics with cleanup.policy=compact are compacted by themselves; "
        "`logd compact` works either way.",
    ),
    Setting(
        name="log.cleaner.threads", kind=Kind.INT, default=1, low=0, dynamic=True,
        doc="Logs that are compacted at the same time, each in a process of its own; "
        "`logd compact` may have as many more.",
    ),
    Setting(
        name="log.cleaner.backoff.ms", kind=Kind.LONG, default=15 * SECOND_MS, low=0, unit="ms",
        dynamic=True, doc="How long the cleaner waits when no log needs it.",
    ),
    Setting(
        name="log.cleaner.dedupe.buffer.size", kind=Kind.LONG, default=128 * MIB, low=MIB,
        unit="bytes", dynamic=True,
        doc="Memory for the keys of the log.cleaner.threads compactions that run at the same time.",
    ),
    Setting(
        name="log.cleaner.io.max.bytes.per.second", kind=Kind.DOUBLE, default=sys.float_info.max,
        low=1, unit="bytes", dynamic=True,
        doc="What the log.cleaner.threads compactions together may read and write in a second.",
    ),
    Setting(
        name="log.cleaner.memory.max.bytes", kind=Kind.LONG, default=None, low=192 * MIB,
        unit="bytes", dynamic=True, ours=True,
        doc="Memory that one compaction's process may take before it is refused more. Not set: its "
        "share of log.cleaner.dedupe.buffer.size and 128 MiB.",
    ),
    Setting(
        name="log.cleaner.coded.max.bytes", kind=Kind.LONG, default=4 * GIB, low=1,
        unit="bytes", dynamic=True, ours=True,
        doc="How much of a partition that is in chunks a compaction thaws, and keeps from repair, "
        "at a time; one group of segments in any case. What is more is done in parts.",
    ),
    Setting(
        name="producer.id.expiration.ms", kind=Kind.INT, default=DAY_MS, low=1, unit="ms",
        dynamic=True, doc="An idempotent producer that wrote nothing for this long is forgotten.",
    ),
)  # fmt: skip

_GROUPS: Final = (
    Setting(
        name="group.initial.rebalance.delay.ms", kind=Kind.INT, default=3 * SECOND_MS, low=0,
        unit="ms", doc="How long a new group waits for more members before its first assignment.",
    ),
    Setting(
        name="group.min.session.timeout.ms", kind=Kind.INT, default=6 * SECOND_MS, low=1, unit="ms",
        doc="The shortest session time-out that a group member may ask for.",
    ),
    Setting(
        name="group.max.session.timeout.ms", kind=Kind.INT, default=30 * MINUTE_MS, low=1,
        unit="ms", doc="The longest session time-out that a group member may ask for.",
    ),
    Setting(
        name="group.max.size", kind=Kind.INT, default=INT32_MAX, low=1,
        doc="Members that a group may have.",
    ),
    Setting(
        name="offset.metadata.max.bytes", kind=Kind.INT, default=4 * KIB, low=0, unit="bytes",
        doc="The longest note that may be committed with an offset.",
    ),
    Setting(
        name="offsets.retention.minutes", kind=Kind.INT, default=7 * 24 * 60, low=1, unit="min",
        doc="How long the offsets of a group without members stay.",
    ),
    Setting(
        name="offsets.retention.check.interval.ms", kind=Kind.LONG, default=10 * MINUTE_MS, low=1,
        unit="ms", doc="How often offsets that expired are looked for.",
    ),
    Setting(
        name="offsets.topic.num.partitions", kind=Kind.INT, default=1, low=1,
        doc="Partitions of the internal topic that keeps committed offsets.",
    ),
    Setting(
        name="offsets.topic.replication.factor", kind=Kind.INT, default=1, low=1, high=1,
        doc="Replicas of the internal topic on brokers; 1 in this version.",
    ),
    Setting(
        name="offsets.topic.segment.bytes", kind=Kind.INT, default=100 * MIB, low=1, unit="bytes",
        doc="segment.bytes of the internal topic.",
    ),
    Setting(
        name="metrics.group.lag.series.max", kind=Kind.INT, default=1000, low=0, dynamic=True,
        ours=True, doc="Partitions whose lag is on /metrics; further ones are counted only.",
    ),
)  # fmt: skip

_NODES: Final = (
    Setting(
        name="node.suspect.ms", kind=Kind.LONG, default=10 * SECOND_MS, low=1, unit="ms", ours=True,
        doc="A storage node without a good probe for this long is suspect.",
    ),
    Setting(
        name="node.dead.ms", kind=Kind.LONG, default=MINUTE_MS, low=1, unit="ms", ours=True,
        doc="A storage node without a good probe for this long is dead.",
    ),
    Setting(
        name="node.probe.interval.ms", kind=Kind.LONG, default=2 * SECOND_MS, low=10, unit="ms",
        ours=True, doc="How often each storage node is asked how it is; at least three times in "
        "node.suspect.ms.",
    ),
    Setting(
        name="node.request.timeout.ms", kind=Kind.LONG, default=15 * SECOND_MS, low=10, unit="ms",
        ours=True, doc="How long a storage node has to begin its answer; what is long has a "
        "second more for each MiB.",
    ),
    Setting(
        name="node.breaker.window", kind=Kind.INT, default=100, low=1, high=10_000, ours=True,
        doc="The last calls to a storage node by which its circuit breaker judges.",
    ),
    Setting(
        name="node.breaker.calls.min", kind=Kind.INT, default=10, low=1, high=10_000, ours=True,
        doc="With fewer calls in its window a breaker does not open; never more than the window.",
    ),
    Setting(
        name="node.breaker.failure.percent", kind=Kind.INT, default=50, low=1, high=100, ours=True,
        doc="A breaker opens when so many of the last calls failed.",
    ),
    Setting(
        name="node.breaker.slow.percent", kind=Kind.INT, default=80, low=1, high=100, ours=True,
        doc="A breaker opens when so many of the last calls were slow.",
    ),
    Setting(
        name="node.breaker.slow.ms", kind=Kind.LONG, default=3 * SECOND_MS, low=1, unit="ms",
        ours=True, doc="A call to a storage node that takes longer was slow.",
    ),
    Setting(
        name="node.breaker.open.ms", kind=Kind.LONG, default=30 * SECOND_MS, low=1, unit="ms",
        ours=True, doc="How long an open breaker keeps calls back before it tries some.",
    ),
    Setting(
        name="repair.delay.ms", kind=Kind.LONG, default=15 * MINUTE_MS, low=0, unit="ms", ours=True,
        doc="Wait before repairing at margin 2 or more; a fifteenth of it at margin 1, none at 0.",
    ),
    Setting(
        name="repair.rate.bytes", kind=Kind.LONG, default=0, low=0, unit="bytes", ours=True,
        doc="Repair's bytes per node and second; 0: half of what the device was measured to give, "
        "for all nodes on it together, and never below 8 MiB.",
    ),
    Setting(
        name="scrub.rate.bytes", kind=Kind.LONG, default=0, low=0, unit="bytes", ours=True,
        doc="Scrub's bytes per node and second; 0: what scrub.cycle.ms needs.",
    ),
    Setting(
        name="scrub.cycle.ms", kind=Kind.LONG, default=14 * DAY_MS, low=MINUTE_MS, unit="ms",
        ours=True, doc="Every block is verified once in this time.",
    ),
)  # fmt: skip


def _defaults_of_topics() -> list[Setting]:
    """One server row per topic setting that has a server name, the coarser names left out.

    Where there are coarser names, the coarsest holds the default, as in Kafka.
    """
    rows: dict[str, Setting] = {}
    for topic_row in TOPIC_SETTINGS.values():
        if not topic_row.server_names or topic_row.server_names[0] in rows:
            continue
        name, *coarser = topic_row.server_names
        rows[name] = dataclasses.replace(
            topic_row,
            name=name,
            default=None if coarser else topic_row.default,
            doc=f"The default of the topics' {topic_row.name}. {topic_row.doc}",
            server_names=(),
            dynamic=True,
        )
    # One name stands for two topic settings: cold.enable and Kafka's word for it.
    rows["cold.enable"] = dataclasses.replace(rows["cold.enable"], ours=True)
    return list(rows.values())


# Read from the configuration, and by nobody yet. A test takes care that this stays true.
_LATER: Final = frozenset(("log.roll.jitter.hours",))

SERVER_SETTINGS: Final[dict[str, Setting]] = {
    row.name: dataclasses.replace(row, effect="later") if row.name in _LATER else row
    for row in (
        *_IDENTITY, *_TOPICS, *_NETWORK, *_STORAGE, *_GROUPS, *_NODES,
        *_defaults_of_topics(), *(dataclasses.replace(row, dynamic=True) for row in _COARSER),
    )
}  # fmt: skip
"""All settings of the server, by name."""


def _aliases() -> dict[str, str]:
    aliases = {"broker.id": "node.id", "log.dir": "log.dirs"}
    for topic_row in TOPIC_SETTINGS.values():
        if topic_row.server_names and topic_row.name not in SERVER_SETTINGS:
            aliases[topic_row.name] = topic_row.server_names[0]
    return aliases


SERVER_ALIASES: Final[dict[str, str]] = _aliases()
"""Other names for server settings: a topic's setting may be given under the topic's name."""
