"""The settings of a topic: Kafka's, with Kafka's names and defaults, and those that logd adds.

Every setting that Kafka 4 lists for a topic is here, because clients set and describe them; where
one has no effect on this server, its `doc` says so. Refused are only values that promise what one
server cannot keep (`min.insync.replicas` above 1).

Source: Apache Kafka's topic configs (names, defaults, limits); the sentences are ours.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Final

from logd.config.setting import Kind, Setting, Value
from logd.units import DAY_MS, GIB, HOUR_MS, INT64_MAX, KIB, MIB, MINUTE_MS, SECOND_MS

NEVER: Final = INT64_MAX
"""Kafka's way to say "no limit" where -1 is not used."""

DEFAULT_FLUSH_INTERVAL_MS: Final = SECOND_MS
"""How often flush.mode=interval syncs where flush.ms was left at "never"."""

# Profiles go from 2+1 to 16+4: every loss pattern of these is tested.
DATA_CHUNKS_MIN: Final = 2
DATA_CHUNKS_MAX: Final = 16
PARITY_CHUNKS_MIN: Final = 1
PARITY_CHUNKS_MAX: Final = 4
_PROFILE: Final = re.compile(r"([0-9]{1,3})\+([0-9]{1,3})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSettings:
    """The effective settings of one topic, parsed. Field names are Kafka's with `_` for `.`."""

    cleanup_policy: tuple[str, ...]
    compression_gzip_level: int
    compression_lz4_level: int
    compression_type: str
    compression_zstd_level: int
    delete_retention_ms: int
    file_delete_delay_ms: int
    flush_messages: int
    flush_ms: int
    follower_replication_throttled_replicas: tuple[str, ...]
    index_interval_bytes: int
    leader_replication_throttled_replicas: tuple[str, ...]
    local_retention_bytes: int
    local_retention_ms: int
    max_compaction_lag_ms: int
    max_message_bytes: int
    message_timestamp_after_max_ms: int
    message_timestamp_before_max_ms: int
    message_timestamp_type: str
    min_cleanable_dirty_ratio: float
    min_compaction_lag_ms: int
    min_insync_replicas: int
    preallocate: bool
    remote_log_copy_disable: bool
    remote_log_delete_on_disable: bool
    remote_storage_enable: bool
    retention_bytes: int
    retention_ms: int
    segment_bytes: int
    segment_index_bytes: int
    segment_jitter_ms: int
    segment_ms: int
    unclean_leader_election_enable: bool
    segment_offsets: int
    flush_mode: str
    cold_enable: bool
    cold_profile: str
    cold_after_ms: int
    cold_after_bytes: int
    cold_grace_ms: int
    cold_hot_retention_ms: int
    cold_compression: str

    @property
    def compacted(self) -> bool:
        """Whether only the last record of each key is kept, so that each record needs a key."""
        return "compact" in self.cleanup_policy

    @property
    def flush_interval_ms(self) -> int:
        """How often flush.mode=interval syncs: flush.ms, or a second where that is "never"."""
        return DEFAULT_FLUSH_INTERVAL_MS if self.flush_ms == NEVER else self.flush_ms


def _check_gzip_level(value: Value) -> str | None:
    return "0 is not a level; -1 or 1 to 9 is" if value == 0 else None


def _check_profile(value: Value) -> str | None:
    if value == "auto":
        return None
    match = _PROFILE.fullmatch(str(value))
    if match is None:
        return f"{value!r} is neither auto nor k+m, e.g. 4+2"
    k, m = int(match[1]), int(match[2])
    if not (
        DATA_CHUNKS_MIN <= k <= DATA_CHUNKS_MAX and PARITY_CHUNKS_MIN <= m <= PARITY_CHUNKS_MAX
    ):
        return (
            f"k must be {DATA_CHUNKS_MIN} to {DATA_CHUNKS_MAX} "
            f"and m {PARITY_CHUNKS_MIN} to {PARITY_CHUNKS_MAX}, not {k}+{m}"
        )
    return None


_KAFKA: Final = (
    Setting(
        name="cleanup.policy", kind=Kind.LIST, default=("delete",), choices=("delete", "compact"),
        server_names=("log.cleanup.policy",),
        doc="delete: old segments go when retention allows; compact: the last record of each key "
        "stays; both may be given, or none: then all stays.",
    ),
    Setting(
        name="compression.gzip.level", kind=Kind.INT, default=-1, low=-1, high=9,
        rule=_check_gzip_level, server_names=("compression.gzip.level",), effect="never",
        doc="The level at which Kafka would compress with gzip.",
    ),
    Setting(
        name="compression.lz4.level", kind=Kind.INT, default=9, low=1, high=17,
        server_names=("compression.lz4.level",), effect="never",
        doc="The level at which Kafka would compress with lz4.",
    ),
    Setting(
        name="compression.type", kind=Kind.STRING, default="producer",
        choices=("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"),
        server_names=("compression.type",),
        effect="never",
        doc="How Kafka would compress batches again; here they stay as the producer sent them.",
    ),
    Setting(
        name="compression.zstd.level", kind=Kind.INT, default=3, low=-131072, high=22,
        server_names=("compression.zstd.level",),
        doc="The level of zstd where segments are compressed again before they are coded "
        "(`cold.compression`).",
    ),
    Setting(
        name="delete.retention.ms", kind=Kind.LONG, default=DAY_MS, low=0, unit="ms",
        server_names=("log.cleaner.delete.retention.ms",),
        doc="How long compaction keeps a tombstone, so that a reader that began at the start sees "
        "every deletion.",
    ),
    Setting(
        name="file.delete.delay.ms", kind=Kind.LONG, default=MINUTE_MS, low=0, unit="ms",
        server_names=("log.segment.delete.delay.ms",),
        doc="How long the files of a deleted segment stay on disk under their .deleted names.",
    ),
    Setting(
        name="flush.messages", kind=Kind.LONG, default=NEVER, low=1,
        server_names=("log.flush.interval.messages",),
        effect="never",
        doc="After how many records Kafka would sync; here flush.mode and flush.ms say when.",
    ),
    Setting(
        name="flush.ms", kind=Kind.LONG, default=NEVER, low=0, unit="ms",
        server_names=("log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
        doc="With flush.mode=interval, how often the log is synced; left at the default, that is "
        "once a second.",
    ),
    Setting(
        name="follower.replication.throttled.replicas", kind=Kind.LIST, default=(), effect="never",
        doc="Replicas whose copying Kafka would slow down at the follower.",
    ),
    Setting(
        name="index.interval.bytes", kind=Kind.INT, default=4 * KIB, low=0, unit="bytes",
        server_names=("log.index.interval.bytes",),
        doc="Bytes of log between two entries of the sparse indexes.",
    ),
    Setting(
        name="leader.replication.throttled.replicas", kind=Kind.LIST, default=(), effect="never",
        doc="Replicas whose copying Kafka would slow down at the leader.",
    ),
    Setting(
        name="local.retention.bytes", kind=Kind.LONG, default=-2, low=-2, unit="bytes",
        server_names=("log.local.retention.bytes",),
        effect="never",
        doc="How much Kafka would keep of a log that is also remote; here cold.after.bytes says.",
    ),
    Setting(
        name="local.retention.ms", kind=Kind.LONG, default=-2, low=-2, unit="ms",
        server_names=("log.local.retention.ms",),
        effect="never",
        doc="How long Kafka would keep what is also remote; here cold.hot.retention.ms says.",
    ),
    Setting(
        name="max.compaction.lag.ms", kind=Kind.LONG, default=NEVER, low=1, unit="ms",
        server_names=("log.cleaner.max.compaction.lag.ms",),
        doc="A record is compacted at the latest this long after it was written, whatever "
        "min.cleanable.dirty.ratio says; so its segment is sealed by then.",
    ),
    Setting(
        name="max.message.bytes", kind=Kind.INT, default=MIB + 12, low=0, unit="bytes",
        server_names=("message.max.bytes",),
        doc="The largest record batch that is accepted, as sent (compressed, with its header).",
    ),
    Setting(
        name="message.timestamp.after.max.ms", kind=Kind.LONG, default=HOUR_MS, low=0, unit="ms",
        server_names=("log.message.timestamp.after.max.ms",),
        doc="With CreateTime, how far a batch's timestamps may lie after the server's clock.",
    ),
    Setting(
        name="message.timestamp.before.max.ms", kind=Kind.LONG, default=NEVER, low=0, unit="ms",
        server_names=("log.message.timestamp.before.max.ms",),
        doc="With CreateTime, how far a batch's timestamps may lie before the server's clock.",
    ),
    Setting(
        name="message.timestamp.type", kind=Kind.STRING, default="CreateTime",
        choices=("CreateTime", "LogAppendTime"), server_names=("log.message.timestamp.type",),
        doc="CreateTime: the producer's timestamps stay; LogAppendTime: the time of the append "
        "replaces them.",
    ),
    Setting(
        name="min.cleanable.dirty.ratio", kind=Kind.DOUBLE, default=0.5, low=0, high=1,
        server_names=("log.cleaner.min.cleanable.ratio",),
        doc="The share of a log that must be uncompacted before compaction begins.",
    ),
    Setting(
        name="min.compaction.lag.ms", kind=Kind.LONG, default=0, low=0, unit="ms",
        server_names=("log.cleaner.min.compaction.lag.ms",),
        doc="A record stays uncompacted at least this long.",
    ),
    Setting(
        name="min.insync.replicas", kind=Kind.INT, default=1, low=1, high=1,
        server_names=("min.insync.replicas",),
        doc="A partition has one replica here; more cannot be promised and is refused.",
    ),
    Setting(
        name="preallocate", kind=Kind.BOOLEAN, default=False, server_names=("log.preallocate",),
        effect="never",
        doc="Whether Kafka would reserve the space of a new segment.",
    ),
    Setting(
        name="remote.log.copy.disable", kind=Kind.BOOLEAN, default=False, effect="never",
        doc="Whether Kafka would stop adding to a topic's remote log.",
    ),
    Setting(
        name="remote.log.delete.on.disable", kind=Kind.BOOLEAN, default=False, effect="never",
        doc="Whether Kafka would delete a topic's remote log when it is switched off.",
    ),
    Setting(
        name="remote.storage.enable", kind=Kind.BOOLEAN, default=False,
        server_names=("cold.enable",), doc="Kafka's name for cold.enable.",
    ),
    Setting(
        name="retention.bytes", kind=Kind.LONG, default=-1, low=-1, unit="bytes",
        server_names=("log.retention.bytes",),
        doc="How large a partition may grow before its oldest segments go; -1: no limit.",
    ),
    Setting(
        name="retention.ms", kind=Kind.LONG, default=7 * DAY_MS, low=-1, unit="ms",
        server_names=("log.retention.ms", "log.retention.minutes", "log.retention.hours"),
        doc="How long a segment stays after its newest record's timestamp; -1: for ever. An idle "
        "partition's last segment goes as well.",
    ),
    Setting(
        name="segment.bytes", kind=Kind.INT, default=GIB, low=14, unit="bytes",
        server_names=("log.segment.bytes",),
        doc="The size at which a segment is sealed and the next one begun.",
    ),
    Setting(
        name="segment.index.bytes", kind=Kind.INT, default=10 * MIB, low=4, unit="bytes",
        server_names=("log.index.size.max.bytes",),
        doc="The size up to which a segment's index may grow; a full index seals the segment.",
    ),
    Setting(
        name="segment.jitter.ms", kind=Kind.LONG, default=0, low=0, unit="ms",
        server_names=("log.roll.jitter.ms", "log.roll.jitter.hours"),
        doc="The most by which segment.ms is shortened, so that many logs do not roll at once.",
    ),
    Setting(
        name="segment.ms", kind=Kind.LONG, default=7 * DAY_MS, low=1, unit="ms",
        server_names=("log.roll.ms", "log.roll.hours"),
        doc="The age at which a segment is sealed, be it full or not; an eighth of retention.ms, "
        "where that deletes and is sooner, so that records do not stay much longer than that.",
    ),
    Setting(
        name="unclean.leader.election.enable", kind=Kind.BOOLEAN, default=False,
        server_names=("unclean.leader.election.enable",), effect="never",
        doc="Whether Kafka would let a replica lead that may miss records.",
    ),
)  # fmt: skip

_OURS: Final = (
    Setting(
        name="segment.offsets", kind=Kind.INT, default=1 << 20, low=1, ours=True,
        server_names=("segment.offsets",),
        doc="How many offsets a segment covers; a batch that would pass its end begins the next.",
    ),
    Setting(
        name="flush.mode", kind=Kind.STRING, default="commit", ours=True,
        choices=("commit", "interval", "os"), server_names=("flush.mode",),
        doc="commit: acks=all waits for the sync; interval: synced every flush.ms, os: when the "
        "kernel likes, and with both what was acknowledged can be lost in a power cut.",
    ),
    Setting(
        name="cold.enable", kind=Kind.BOOLEAN, default=False, ours=True,
        server_names=("cold.enable",),
        doc="Whether sealed segments are coded onto storage nodes; Kafka's remote.storage.enable "
        "is another name for it. Of compacted topics what was compacted is coded.",
    ),
    Setting(
        name="cold.profile", kind=Kind.STRING, default="auto", rule=_check_profile, ours=True,
        server_names=("cold.profile",),
        doc="k data and m parity chunks, written k+m; auto: by the number of storage nodes.",
    ),
    Setting(
        name="cold.after.ms", kind=Kind.LONG, default=0, low=0, unit="ms", ours=True,
        server_names=("cold.after.ms",),
        doc="How long after it was sealed a segment is coded at the earliest.",
    ),
    Setting(
        name="cold.after.bytes", kind=Kind.LONG, default=0, low=0, unit="bytes", ours=True,
        server_names=("cold.after.bytes",),
        doc="Bytes of sealed log that stay hot before older segments are coded.",
    ),
    Setting(
        name="cold.grace.ms", kind=Kind.LONG, default=10 * MINUTE_MS, low=0, unit="ms", ours=True,
        server_names=("cold.grace.ms",),
        doc="The time between a coded segment's commit and the release of its hot copy.",
    ),
    Setting(
        name="cold.hot.retention.ms", kind=Kind.LONG, default=0, low=0, unit="ms", ours=True,
        server_names=("cold.hot.retention.ms",),
        doc="How long the hot copy stays after its release is allowed.",
    ),
    Setting(
        name="cold.compression", kind=Kind.STRING, default="none", choices=("none", "zstd"),
        ours=True, server_names=("cold.compression",),
        doc="Whether a segment's batches are compressed again, with zstd, before it is coded; "
        "consumers older than Fetch version 10 cannot read them then.",
    ),
)  # fmt: skip

# Read from the configuration, and by nobody yet. A test takes care that this stays true.
_LATER: Final = frozenset(("segment.jitter.ms",))

TOPIC_SETTINGS: Final[dict[str, Setting]] = {
    row.name: dataclasses.replace(row, effect="later") if row.name in _LATER else row
    for row in (*_KAFKA, *_OURS)
}
"""All settings of a topic, by name."""
