"""Topic names and counts: Kafka's rules, exactly."""

from __future__ import annotations

import pytest

from logd.broker import topic_names
from logd.errors import (
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    PolicyViolationError,
)


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 249, "...", "-", "__other"])
def test_allowed_names(name: str) -> None:
    """Letters, digits, dot, underscore and dash, up to 249 of them."""
    topic_names.check_topic_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "x" * 250, "a b", "a/b", "ä", "a\0", "a\n", "../x", "a:b"]
)
def test_refused_names(name: str) -> None:
    """Nothing else; so no name leaves its directory."""
    with pytest.raises(InvalidTopicError):
        topic_names.check_topic_name(name)


def test_names_that_differ_in_dot_and_underscore_collide() -> None:
    """`a.b` and `a_b` are one metric; the second is refused, other names are not."""
    with pytest.raises(InvalidTopicError, match="a_b"):
        topic_names.check_new_topic_name("a.b", ["x", "a_b"])
    topic_names.check_new_topic_name("a.b", ["a-b", "A_b", "a.b.c"])
    topic_names.check_new_topic_name("a.b", ["a.b"])  # That it exists is somebody else's error.


def test_the_servers_own_topics() -> None:
    """Clients may not create, write or delete them."""
    assert topic_names.is_internal("__consumer_offsets")
    assert not topic_names.is_internal("_consumer_offsets")
    with pytest.raises(InvalidTopicError):
        topic_names.check_not_internal("__consumer_offsets")
    topic_names.check_not_internal("orders")


def test_partition_counts() -> None:
    """One to the limit of a topic, and no more than the limit of all."""

    def check(count: int) -> None:
        topic_names.check_partition_count(count, others=10, topic_max=100, total_max=50)

    check(1)
    check(40)
    for count in (0, -1, -(2**31), 101, 2**31 - 1):
        with pytest.raises(InvalidPartitionsError):
            check(count)
    with pytest.raises(PolicyViolationError):
        check(41)


def test_replication_factor_is_one_or_the_default() -> None:
    """There is one broker."""
    topic_names.check_replication_factor(1)
    topic_names.check_replication_factor(-1)
    for factor in (0, 2, 3, -2):
        with pytest.raises(InvalidReplicationFactorError):
            topic_names.check_replication_factor(factor)
