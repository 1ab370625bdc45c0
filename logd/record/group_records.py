"""Keys and values of `__consumer_offsets`, in Kafka's own formats.

A key begins with two bytes that say what it is the key of:

    0, 1   an offset: group, topic, partition (strings with 2 bytes of length, 4 bytes)
    2      a group: its id
    others of newer Kafka versions (KIP-848, share groups): known by number, kept apart

A value begins with its version; a record without a value is a tombstone. We write version 3 of
both values, which every Kafka since 2.1 (offsets) and 2.3 (groups) reads, version 1 of an offset
that expires at a time of its own, and read 0 to 4:

    offset value            0   1   2   3   4        group value             0   1   2   3   4
    offset         int64    x   x   x   x   x        protocol type  string   x   x   x   x   x
    leader epoch   int32    .   .   .   x   x        generation     int32    x   x   x   x   x
    metadata       string   x   x   x   x   x        protocol       string?  x   x   x   x   x
    commit time    int64    x   x   x   x   x        leader         string?  x   x   x   x   x
    expire time    int64    .   x   .   .   .        state time     int64    .   .   x   x   x
    tagged fields           .   .   .   .   x        members        list     x   x   x   x   x
                                                     tagged fields           .   .   .   .   x
    of a member: member id, instance id? (3+), client id, client host, rebalance timeout int32 (1+),
    session timeout int32, subscription bytes, assignment bytes, tagged fields (4)

Version 4 is flexible (`group_fields`). What does not fit raises; nothing is guessed.

Source: Apache Kafka, group-coordinator's message schemas OffsetCommitKey, OffsetCommitValue,
GroupMetadataKey, GroupMetadataValue; KIP-848 and KIP-932 for the newer keys.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from logd.errors import CorruptRecordsError
from logd.record.group_fields import INT16, INT32, INT64, FieldReader, write_bytes, write_string
from logd.units import INT16_MAX

OFFSET_KEY_VERSION: Final = 1
GROUP_KEY_VERSION: Final = 2
OFFSET_VALUE_VERSION: Final = 3
GROUP_VALUE_VERSION: Final = 3
VALUE_VERSION_MAX: Final = 4
_FLEXIBLE_FROM: Final = 4

NO_LEADER_EPOCH: Final = -1
NO_TIMESTAMP: Final = -1
NO_TIMEOUT: Final = -1
"""A member's rebalance time-out in version 0 of a group's value: its session time-out counts."""

_SIGN_BIT: Final = 0x80
_OFFSET_VALUE_HEAD: Final = struct.Struct(">hqih")  # version, offset, leader epoch, metadata length
_EXPIRING_VERSION: Final = 1
_EXPIRING_HEAD: Final = struct.Struct(">hqh")  # the same without the leader epoch
_TWO_TIMES: Final = struct.Struct(">qq")
_MEMBER_BYTES_MIN: Final = 15  # in version 4: seven lengths of one byte, two time-outs


class OffsetKey(NamedTuple):
    """The key of a committed offset."""

    group: str
    topic: str
    partition: int


class GroupKey(NamedTuple):
    """The key of a group's members and state."""

    group: str


class UnknownKey(NamedTuple):
    """A key of a version that this server does not know, nor needs."""

    version: int


class OffsetValue(NamedTuple):
    """A committed offset; `expire_timestamp_ms` only in records of version 1."""

    offset: int
    leader_epoch: int
    metadata: str
    commit_timestamp_ms: int
    expire_timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member as the log keeps it; see NO_TIMEOUT."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    subscription: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True)
class GroupValue:
    """A group as the log keeps it: what survives a crash.

    Attributes:
        protocol_name, leader: None while the group is empty.
        state_timestamp_ms: wall-clock time of the last change of state; -1 where not known.
    """

    protocol_type: str
    generation: int
    protocol_name: str | None
    leader: str | None
    state_timestamp_ms: int
    members: tuple[GroupMember, ...]


# --- keys -----------------------------------------------------------------------------------------


def encode_offset_key(group: str, topic: str, partition: int) -> bytes:
    """Return the key of a committed offset.

    Raises:
        ValueError: a name that is longer than the format can hold.
    """
    out = bytearray(INT16.pack(OFFSET_KEY_VERSION))
    write_string(out, group)
    write_string(out, topic)
    return bytes(out) + INT32.pack(partition)


def encode_group_key(group: str) -> bytes:
    """Return the key of a group.

    Raises:
        ValueError: an id that is longer than the format can hold.
    """
    out = bytearray(INT16.pack(GROUP_KEY_VERSION))
    write_string(out, group)
    return bytes(out)


def decode_key(key: bytes) -> OffsetKey | GroupKey | UnknownKey:
    """Return what a record is about.

    Raises:
        CorruptRecordsError: of a known version, and malformed.
    """
    version = _version(key)
    if not is_known_key(key):
        return UnknownKey(version)
    return _decode_plain_offset_key(key) or _decode_known_key(key, version)


def _decode_plain_offset_key(key: bytes) -> OffsetKey | None:
    """The short way for what nearly all keys are; None leaves it to the other, errors too."""
    if key[1] != OFFSET_KEY_VERSION:
        return None
    try:
        topic_at = 4 + int.from_bytes(key[2:4], "big")
        end = topic_at + 2 + int.from_bytes(key[topic_at : topic_at + 2], "big")
        if end + INT32.size != len(key) or (key[2] | key[topic_at]) & _SIGN_BIT:
            return None
        (partition,) = INT32.unpack_from(key, end)
        return OffsetKey(key[4:topic_at].decode(), key[topic_at + 2 : end].decode(), partition)
    except UnicodeDecodeError:
        return None


def _decode_known_key(key: bytes, version: int) -> OffsetKey | GroupKey:
    fields = FieldReader(key, INT16.size)
    decoded: OffsetKey | GroupKey
    if version == GROUP_KEY_VERSION:
        decoded = GroupKey(fields.string())
    else:
        decoded = OffsetKey(fields.string(), fields.string(), fields.int32())
    fields.end()
    return decoded


def is_known_key(key: bytes) -> bool:
    """Return whether `decode_key` knows the version, by its first bytes alone."""
    return key[:2] in _KNOWN_KEYS


_KNOWN_KEYS: Final = frozenset(INT16.pack(v) for v in range(GROUP_KEY_VERSION + 1))


def key_version(key: bytes) -> int:
    """Return what a key says it is; -1 where it is too short to say anything."""
    return int.from_bytes(key[:2], "big", signed=True) if len(key) >= INT16.size else -1


def _version(data: bytes) -> int:
    if len(data) < INT16.size:
        raise CorruptRecordsError(f"{len(data)} bytes are too few for a version")
    return key_version(data)


# --- committed offsets ----------------------------------------------------------------------------


def encode_offset_value(
    offset: int,
    leader_epoch: int = NO_LEADER_EPOCH,
    metadata: str = "",
    *,
    commit_timestamp_ms: int,
    expire_timestamp_ms: int | None = None,
) -> bytes:
    """Return the value of a committed offset: version 3, or 1 if it expires at a time of its own.

    Version 1 has no leader epoch; the old clients that name a time do not send one.

    Raises:
        ValueError: metadata that is longer than the format can hold.
    """
    raw = metadata.encode()
    if len(raw) > INT16_MAX:
        raise ValueError(f"metadata of {len(raw)} bytes is longer than {INT16_MAX}")
    if expire_timestamp_ms is not None:
        head = _EXPIRING_HEAD.pack(_EXPIRING_VERSION, offset, len(raw))
        return head + raw + _TWO_TIMES.pack(commit_timestamp_ms, expire_timestamp_ms)
    head = _OFFSET_VALUE_HEAD.pack(OFFSET_VALUE_VERSION, offset, leader_epoch, len(raw))
    return head + raw + INT64.pack(commit_timestamp_ms)


def decode_offset_value(value: bytes) -> OffsetValue:
    """Return a committed offset.

    Raises:
        CorruptRecordsError: malformed, or of a version that does not exist yet.
    """
    return _decode_plain_offset_value(value) or _decode_offset_value(value)


def _decode_plain_offset_value(value: bytes) -> OffsetValue | None:
    """The short way for what we write; None leaves it to the other, errors too."""
    if len(value) < _OFFSET_VALUE_HEAD.size + INT64.size:
        return None
    version, offset, leader_epoch, size = _OFFSET_VALUE_HEAD.unpack_from(value)
    end = _OFFSET_VALUE_HEAD.size + size
    if version != OFFSET_VALUE_VERSION or size < 0 or end + INT64.size != len(value):
        return None
    try:
        metadata = value[_OFFSET_VALUE_HEAD.size : end].decode()
    except UnicodeDecodeError:
        return None
    (commit_timestamp_ms,) = INT64.unpack_from(value, end)
    return OffsetValue(offset, leader_epoch, metadata, commit_timestamp_ms)


def _decode_offset_value(value: bytes) -> OffsetValue:
    version = _value_version(value, "a committed offset")
    fields = FieldReader(value, INT16.size, flexible=version >= _FLEXIBLE_FROM)
    offset = fields.int64()
    decoded = OffsetValue(
        offset=offset,
        leader_epoch=fields.int32() if version >= 3 else NO_LEADER_EPOCH,
        metadata=fields.string(),
        commit_timestamp_ms=fields.int64(),
        expire_timestamp_ms=_none_if_unset(fields.int64()) if version == 1 else None,
    )
    fields.end_structure()
    fields.end()
    return decoded


def _none_if_unset(timestamp_ms: int) -> int | None:
    return None if timestamp_ms == NO_TIMESTAMP else timestamp_ms


def _value_version(value: bytes, what: str) -> int:
    version = _version(value)
    if not 0 <= version <= VALUE_VERSION_MAX:
        raise CorruptRecordsError(
            f"{what} of version {version}; this server reads 0 to {VALUE_VERSION_MAX}"
        )
    return version


# --- groups ---------------------------------------------------------------------------------------


def encode_group_value(group: GroupValue) -> bytes:
    """Return the value of a group, version 3.

    Raises:
        ValueError: a string that is longer than the format can hold.
    """
    out = bytearray(INT16.pack(GROUP_VALUE_VERSION))
    write_string(out, group.protocol_type)
    out += INT32.pack(group.generation)
    write_string(out, group.protocol_name)
    write_string(out, group.leader)
    out += INT64.pack(group.state_timestamp_ms)
    out += INT32.pack(len(group.members))
    for member in group.members:
        _write_member(out, member)
    return bytes(out)


def _write_member(out: bytearray, member: GroupMember) -> None:
    write_string(out, member.member_id)
    write_string(out, member.instance_id)
    write_string(out, member.client_id)
    write_string(out, member.client_host)
    out += INT32.pack(member.rebalance_timeout_ms)
    out += INT32.pack(member.session_timeout_ms)
    write_bytes(out, member.subscription)
    write_bytes(out, member.assignment)


def decode_group_value(value: bytes) -> GroupValue:
    """Return a group.

    Raises:
        CorruptRecordsError: malformed, or of a version that does not exist yet.
    """
    version = _value_version(value, "a group")
    fields = FieldReader(value, INT16.size, flexible=version >= _FLEXIBLE_FROM)
    protocol_type, generation = fields.string(), fields.int32()
    protocol_name, leader = fields.nullable_string(), fields.nullable_string()
    state_timestamp_ms = fields.int64() if version >= 2 else NO_TIMESTAMP
    count = fields.list_length(_MEMBER_BYTES_MIN)
    members = tuple(_read_member(fields, version) for _ in range(count))
    fields.end_structure()
    fields.end()
    return GroupValue(protocol_type, generation, protocol_name, leader, state_timestamp_ms, members)


def _read_member(fields: FieldReader, version: int) -> GroupMember:
    # The order of the arguments is that of the bytes.
    member = GroupMember(
        member_id=fields.string(),
        instance_id=fields.nullable_string() if version >= 3 else None,
        client_id=fields.string(),
        client_host=fields.string(),
        rebalance_timeout_ms=fields.int32() if version >= 1 else NO_TIMEOUT,
        session_timeout_ms=fields.int32(),
        subscription=fields.byte_string(),
        assignment=fields.byte_string(),
    )
    fields.end_structure()
    return member
