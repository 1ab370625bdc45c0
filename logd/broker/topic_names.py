"""What a topic may be called, and how many partitions there may be. Pure checks.

Names are Kafka's: 1 to 249 of [a-zA-Z0-9._-], not "." and not "..". So a name is always a safe file
name, and `<name>-<partition>` fits the 255 bytes that file systems allow. Because Kafka's metric
names replace "." by "_", two names that differ only in that collide, and the second one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from logd.errors import (
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    PolicyViolationError,
)
from logd.storage.layout import PARTITIONS_MAX, TOPIC_NAME_CHARACTERS_MAX, is_topic_name

OFFSETS_TOPIC: Final = "__consumer_offsets"
INTERNAL_TOPICS: Final = frozenset({OFFSETS_TOPIC, "__transaction_state"})
"""Written by the server only; clients may read them."""


def check_topic_name(name: str) -> None:
    """Accept a name that a topic may have.

    Raises:
        InvalidTopicError: the name is empty, too long, "." or "..", or has other characters.
    """
    if not name:
        raise InvalidTopicError("a topic name must not be empty")
    if name in (".", ".."):
        raise InvalidTopicError(f"a topic cannot be called {name!r}")
    if len(name) > TOPIC_NAME_CHARACTERS_MAX:
        raise InvalidTopicError(
            f"a topic name has at most {TOPIC_NAME_CHARACTERS_MAX} characters, not {len(name)}"
        )
    if not is_topic_name(name):
        raise InvalidTopicError("a topic name is made of a-z, A-Z, 0-9, '.', '_' and '-' only")


def check_new_topic_name(name: str, existing: Iterable[str]) -> None:
    """Accept a name for a new topic beside the existing ones.

    Raises:
        InvalidTopicError: breaks the rules for names, or collides with an existing name once '.'
            and '_' are the same.
    """
    check_topic_name(name)
    if "." not in name and "_" not in name:
        return
    merged = _merge(name)
    for other in existing:
        if other != name and _merge(other) == merged:
            raise InvalidTopicError(
                f"topic {name!r} collides with existing topic {other!r}: "
                "names must differ in more than '.' and '_'"
            )


def check_not_internal(name: str) -> None:
    """Accept a name of a topic that clients may create, write and delete.

    Raises:
        InvalidTopicError: the topic is the server's own.
    """
    if name in INTERNAL_TOPICS:
        raise InvalidTopicError(f"topic {name!r} belongs to the server; clients may only read it")


def is_internal(name: str) -> bool:
    """Return whether the topic is the server's own."""
    return name in INTERNAL_TOPICS


def check_partition_count(count: int, *, others: int, topic_max: int, total_max: int) -> None:
    """Accept the number of partitions of one topic beside `others` in all the other topics.

    Args:
        topic_max: max.partitions.per.topic; a typing error should not make a million directories.
        total_max: max.partitions; each costs some kilobytes of memory, and a sync when written.

    Raises:
        InvalidPartitionsError: not positive, or more than a topic may have.
        PolicyViolationError: more than the server may have.
    """
    if count < 1:
        raise InvalidPartitionsError(f"a topic has at least one partition, not {count}")
    topic_max = min(topic_max, PARTITIONS_MAX)
    if count > topic_max:
        raise InvalidPartitionsError(
            f"a topic has at most {topic_max} partitions (max.partitions.per.topic), not {count}"
        )
    if others + count > total_max:
        raise PolicyViolationError(
            f"the server holds at most {total_max} partitions (max.partitions) "
            f"and has {others} already"
        )


def check_replication_factor(factor: int) -> None:
    """Accept 1, and -1 which stands for the default.

    Raises:
        InvalidReplicationFactorError: any other number: there is one broker.
    """
    if factor not in (1, -1):
        raise InvalidReplicationFactorError(
            f"the replication factor must be 1, there is one broker; not {factor}"
        )


def _merge(name: str) -> str:
    return name.replace(".", "_")
