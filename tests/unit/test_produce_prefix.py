"""The short way of Produce agrees with the generated codec, or steps aside."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.wire import produce_prefix
from logd.wire.messages import produce as messages

VERSIONS = range(produce_prefix.FIRST_VERSION, produce_prefix.LAST_VERSION + 1)
RECORDS = bytes(range(200))


def frame(
    version: int,
    *,
    topic: str = "events",
    index: int = 3,
    records: bytes = RECORDS,
    acks: int = -1,
    client_id: bytes = b"me",
) -> bytearray:
    request = messages.ProduceRequest(
        acks=acks,
        timeout_ms=30_000,
        topic_data=[
            messages.TopicProduceData(
                name=topic,
                partition_data=[messages.PartitionProduceData(index=index, records=records)],
            )
        ],
    )
    header = struct.pack(">hhih", 0, version, 77, len(client_id)) + client_id
    if version >= messages.FIRST_FLEXIBLE_VERSION:
        header += b"\0"
    return bytearray(header + messages.encode_request(request, version))


@pytest.mark.parametrize("version", VERSIONS)
def test_learn_and_locate_find_what_the_codec_finds(version: int) -> None:
    """The same acks, topic, partition and record bytes come out of both ways."""
    buffer = bytearray(b"xx") + frame(version)
    prefix = produce_prefix.learn(buffer, 2, len(buffer), version)
    assert prefix is not None
    assert (prefix.acks, prefix.topic) == (-1, "events")
    assert buffer.startswith(prefix.head, 2 + 8)
    located = prefix.locate(buffer, 2, len(buffer))
    assert located is not None
    index, position, size = located
    assert index == 3
    assert buffer[position : position + size] == RECORDS


@pytest.mark.parametrize("version", VERSIONS)
def test_answer_is_what_the_codec_writes(version: int) -> None:
    """The packed answer is byte for byte the generated codec's."""
    buffer = frame(version)
    prefix = produce_prefix.learn(buffer, 0, len(buffer), version)
    assert prefix is not None
    response = messages.ProduceResponse(
        responses=[
            messages.TopicProduceResponse(
                name="events",
                partition_responses=[
                    messages.PartitionProduceResponse(
                        index=5,
                        error_code=0,
                        base_offset=1234,
                        log_append_time_ms=-1,
                        log_start_offset=17,
                    )
                ],
            )
        ]
    )
    tags = b"\0" if version >= messages.FIRST_FLEXIBLE_VERSION else b""
    body = struct.pack(">i", 77) + tags + messages.encode_response(response, version)
    expected = struct.pack(">i", len(body)) + body
    assert prefix.pack_answer(77, 5, 1234, -1, 17) == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_every_truncation_steps_aside_or_is_refused_by_the_codec(version: int) -> None:
    """No prefix of a request is taken for a whole one."""
    buffer = frame(version)
    prefix = produce_prefix.learn(buffer, 0, len(buffer), version)
    assert prefix is not None
    for end in range(8, len(buffer)):
        assert prefix.locate(buffer, 0, end) is None
        learned = produce_prefix.learn(buffer, 0, end, version)
        assert learned is None or learned.locate(buffer, 0, end) is None


@settings(max_examples=100, deadline=None)
@given(
    version=st.sampled_from(VERSIONS),
    flips=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=6),
)
def test_mutated_requests_never_raise_and_never_lie(
    version: int, flips: list[tuple[int, int]]
) -> None:
    """Whatever the bytes, the short way raises nothing and never reaches beyond the frame."""
    buffer = frame(version)
    for at, value in flips:
        buffer[8 + at % (len(buffer) - 8)] = value
    prefix = produce_prefix.learn(buffer, 0, len(buffer), version)
    if prefix is None:
        return
    located = prefix.locate(buffer, 0, len(buffer))
    if located is not None:
        _, position, size = located
        assert 0 <= position <= position + size <= len(buffer)


def test_other_shapes_are_left_to_the_codec() -> None:
    """Two partitions, a transactional id, no topic: the short way steps aside."""
    two = messages.ProduceRequest(
        acks=1,
        topic_data=[
            messages.TopicProduceData(
                name="t",
                partition_data=[
                    messages.PartitionProduceData(index=0, records=b"a"),
                    messages.PartitionProduceData(index=1, records=b"b"),
                ],
            )
        ],
    )
    transactional = messages.ProduceRequest(
        transactional_id="x", acks=-1, topic_data=two.topic_data
    )
    empty = messages.ProduceRequest(acks=1)
    for version in VERSIONS:
        tags = b"\0" if version >= messages.FIRST_FLEXIBLE_VERSION else b""
        for request in (two, transactional, empty):
            header = struct.pack(">hhih", 0, version, 1, -1) + tags
            buffer = bytearray(header + messages.encode_request(request, version))
            assert produce_prefix.learn(buffer, 0, len(buffer), version) is None
