"""Known mistakes of clients are read as they were meant, and nothing else is."""

from __future__ import annotations

import pytest

from logd.errors import MalformedRequestError
from logd.wire import quirks
from logd.wire.messages import metadata

# Captured from librdkafka 2.16.0: "all topics", with creation allowed.
LIBRDKAFKA_ALL_TOPICS = bytes.fromhex("0003000d00000003000772646b61666b6100" + "00000000010000")
BODY = len(LIBRDKAFKA_ALL_TOPICS) - 7


def test_librdkafkas_null_array_of_four_bytes_means_all_topics() -> None:
    """Refused as it stands, understood once repaired."""
    frame = LIBRDKAFKA_ALL_TOPICS
    with pytest.raises(MalformedRequestError):
        metadata.decode_request(frame, 13, BODY, len(frame))
    repaired = quirks.repair(3, 13, frame, BODY)
    request = metadata.decode_request(repaired, 13, BODY, len(repaired))
    assert request.topics is None
    assert request.allow_auto_topic_creation
    assert not request.include_topic_authorized_operations


def test_everything_else_is_left_alone() -> None:
    """Other requests, other versions, other lengths and honest requests are not touched."""
    frame = LIBRDKAFKA_ALL_TOPICS
    honest = frame[:BODY] + metadata.encode_request(metadata.MetadataRequest(topics=None), 13)
    assert quirks.repair(3, 13, honest, BODY) == honest
    assert quirks.repair(3, 8, frame, BODY) == frame
    assert quirks.repair(2, 13, frame, BODY) == frame
    assert quirks.repair(3, 13, frame + b"\0", BODY) == frame + b"\0"
