"""A consumer's metadata is read where it is one, and refused where it is not."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.policy.group.subscription import read_topics, topics_of_all


def encode(topics: list[str], version: int = 0, rest: bytes = b"") -> bytes:
    names = b"".join(struct.pack(">h", len(t.encode())) + t.encode() for t in topics)
    return struct.pack(">hi", version, len(topics)) + names + rest


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=20), max_size=10), st.integers(0, 9), st.binary(max_size=30))
def test_topics_come_back(topics: list[str], version: int, rest: bytes) -> None:
    """Whatever version it is, and whatever stands behind the topics."""
    assert read_topics(encode(topics, version, rest)) == topics


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=40))
def test_any_bytes_are_topics_or_a_value_error(metadata: bytes) -> None:
    """Nothing else comes of a client's bytes, however they lie about lengths."""
    try:
        topics = read_topics(metadata)
    except ValueError:
        return
    assert encode(topics, struct.unpack_from(">h", metadata)[0]) == metadata[: len(encode(topics))]


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"\0\0\0\0\0",
        struct.pack(">hi", -1, 0),
        struct.pack(">hi", 0, -1),
        struct.pack(">hi", 0, 2**31 - 1),
        struct.pack(">hih", 0, 1, -1),
        struct.pack(">hih", 0, 1, 5) + b"four",
        struct.pack(">hih", 0, 2, 2) + b"ok",
        struct.pack(">hih", 0, 1, 1) + b"\xff",
    ],
)
def test_what_is_no_subscription(metadata: bytes) -> None:
    """Too short, negative, too long, or no UTF-8."""
    with pytest.raises(ValueError):
        read_topics(metadata)
    assert topics_of_all([encode(["t"]), metadata]) is None


def test_topics_of_all_are_the_union() -> None:
    """A topic that several subscribe to is one topic."""
    assert topics_of_all([encode(["t", "u"]), encode(["u"])]) == {"t", "u"}
    assert topics_of_all([]) == frozenset()
