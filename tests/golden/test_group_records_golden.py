"""Keys and values of `__consumer_offsets` as Kafka 4.1.1's own classes wrote them, kept as hex.

`group_records_kafka.txt` has a line for each: what it is, version, bytes. We must read all of
them, and what we write must be, byte for byte, what Kafka writes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from logd.broker.offsets_log import java_hash
from logd.record.group_records import (
    GroupKey,
    GroupMember,
    GroupValue,
    OffsetKey,
    OffsetValue,
    UnknownKey,
    decode_group_value,
    decode_key,
    decode_offset_value,
    encode_group_key,
    encode_group_value,
    encode_offset_key,
    encode_offset_value,
)
from logd.storage.files import Files
from logd.storage.group_snapshot import (
    GroupSnapshot,
    group_snapshot_path,
    read_group_snapshot,
    write_group_snapshot,
)

HERE = Path(__file__).parent
LINES = [line.split() for line in (HERE / "group_records_kafka.txt").read_text().splitlines()]
KAFKA = {(name, int(version)): bytes.fromhex(raw) for name, version, raw in LINES}
VERSIONS = range(5)

TIME_MS = 1_700_000_000_123
GROUP = GroupValue(
    "consumer",
    12,
    "range",
    "member-1",
    1_700_000_000_456,
    (
        GroupMember(
            "member-1", "static-1", "client", "/127.0.0.1", 300_000, 45_000, b"\0\1\2", b"\3\4"
        ),
        GroupMember("member-2", None, "", "/::1", -1, 6_000, b"", b""),
    ),
)
EMPTY = GroupValue("", 0, None, None, -1, ())


def as_of(version: int) -> GroupValue:
    """Return the group with what a version has no place for left out."""
    members = GROUP.members
    if version < 3:
        members = tuple(replace(member, instance_id=None) for member in members)
    if version < 1:
        members = tuple(replace(member, rebalance_timeout_ms=-1) for member in members)
    stamp_ms = GROUP.state_timestamp_ms if version >= 2 else -1
    return replace(GROUP, members=members, state_timestamp_ms=stamp_ms)


def test_keys() -> None:
    """Versions 0 to 2 are read, 1 and 2 written as Kafka does; newer ones are told by number."""
    key = OffsetKey("grüppe", "orders", 7)
    assert decode_key(KAFKA["offset_key", 0]) == decode_key(KAFKA["offset_key", 1]) == key
    assert encode_offset_key(*key) == KAFKA["offset_key", 1]
    assert decode_key(KAFKA["group_key", 2]) == GroupKey("grüppe")
    assert encode_group_key("grüppe") == KAFKA["group_key", 2]
    assert decode_key(KAFKA["unknown_key", 3]) == UnknownKey(3)


@pytest.mark.parametrize("version", VERSIONS)
def test_offset_values(version: int) -> None:
    """All versions are read; version 3 is written as Kafka does."""
    value = OffsetValue(
        1_234_567_890_123,
        9 if version >= 3 else -1,
        "note é",
        TIME_MS,
        1_700_000_600_123 if version == 1 else None,
    )
    assert decode_offset_value(KAFKA["offset_value", version]) == value
    if version == 3:
        written = encode_offset_value(
            value.offset, value.leader_epoch, value.metadata, commit_timestamp_ms=TIME_MS
        )
        assert written.hex() == KAFKA["offset_value", 3].hex()


def test_a_tagged_field_of_a_newer_kafka_is_skipped() -> None:
    """Kafka 4.1 puts the topic's id behind a commit."""
    assert decode_offset_value(KAFKA["offset_value_tagged", 4]) == OffsetValue(5, -1, "", 6)


@pytest.mark.parametrize("version", VERSIONS)
def test_group_values(version: int) -> None:
    """All versions are read, with members and without; version 3 is written as Kafka does."""
    assert decode_group_value(KAFKA["group_value", version]) == as_of(version)
    assert decode_group_value(KAFKA["group_value_empty", version]) == EMPTY
    if version == 3:
        assert encode_group_value(GROUP).hex() == KAFKA["group_value", 3].hex()
        assert encode_group_value(EMPTY).hex() == KAFKA["group_value_empty", 3].hex()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("group", 98_629_247),
        ("grüppe", 1_233_264_812),
        ("polygenelubricants", 0),  # Java's hash is -2^31, which has no positive counterpart
        ("😀 emoji", 1_572_615_351),
        ("console-consumer-12345", 158_455_506),
    ],
)
def test_the_hash_that_gives_a_group_its_partition(text: str, expected: int) -> None:
    """The numbers are those of Kafka's Utils.abs(String.hashCode())."""
    assert java_hash(text) == expected


def test_snapshot(directory: str) -> None:
    """Payload version 1 of groups.snapshot: we read it, and write the same."""
    old = bytes.fromhex((HERE / "groups_snapshot_v1.hex").read_text())
    pairs = [
        (KAFKA["offset_key", 1], KAFKA["offset_value", 3]),
        (KAFKA["group_key", 2], KAFKA["group_value", 3]),
    ]
    topic_id = bytes(range(16))
    path = group_snapshot_path(directory)
    Path(path).write_bytes(old)
    assert read_group_snapshot(Files(), path) == GroupSnapshot(topic_id, 3, 77_000, pairs)
    write_group_snapshot(Files(), directory, pairs, topic_id=topic_id, partition=3, offset=77_000)
    assert Path(path).read_bytes().hex() == old.hex()
