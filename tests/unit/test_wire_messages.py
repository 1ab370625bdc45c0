"""What generated modules do at the edges: defaults, versions, tags, nulls, limits, shape."""

from __future__ import annotations

import pytest

from logd.errors import MalformedRequestError
from logd.wire.messages import (
    api_versions,
    create_topics,
    delete_topics,
    fetch,
    metadata,
    offset_delete,
    produce,
)
from logd.wire.primitives import ELEMENT_COUNT_MAX, NO_UUID, compact_string, varint

TOPIC_ID = bytes(range(16))


def test_a_produce_request_is_what_a_client_sends() -> None:
    """The bytes of a whole request, written out by hand, in both encodings."""
    # No transactional id, acks -1, 30,000 ms; one topic; one partition, number 7; its records.
    legacy = bytes.fromhex(
        "ffff ffff 00007530  00000001 0002 6869  00000001 00000007  00000003 616263"
    )
    flexible = bytes.fromhex("00 ffff 00007530  02 03 6869  02 00000007  04 616263 00 00 00")
    expected = produce.ProduceRequest(
        acks=-1,
        timeout_ms=30_000,
        topic_data=[
            produce.TopicProduceData(
                name="hi", partition_data=[produce.PartitionProduceData(index=7, records=b"abc")]
            )
        ],
    )
    for data, versions in ((legacy, range(3, 9)), (flexible, range(9, 13))):
        for version in versions:
            assert produce.decode_request(data, version, 0, len(data)) == expected
            assert produce.encode_request(expected, version) == data


def test_records_point_into_the_receive_buffer() -> None:
    """A decoded batch can be patched in place: its view is the buffer."""
    data = bytearray(produce.encode_request(_produce_request(b"batch"), 9))
    request = produce.decode_request(data, 9, 0, len(data))
    records = request.topic_data[0].partition_data[0].records
    assert isinstance(records, memoryview)
    records[:5] = b"BATCH"
    assert b"BATCH" in data


def _produce_request(records: bytes | None) -> produce.ProduceRequest:
    partition = produce.PartitionProduceData(records=records)
    return produce.ProduceRequest(topic_data=[produce.TopicProduceData(partition_data=[partition])])


def test_records_may_be_null_or_empty() -> None:
    """Null records and no bytes of records are different, and both are decoded as they came."""
    for version in (3, 9, 13):
        for records in (None, b""):
            data = produce.encode_request(_produce_request(records), version)
            request = produce.decode_request(data, version, 0, len(data))
            assert request.topic_data[0].partition_data[0].records == records


def test_defaults_are_the_schemas() -> None:
    """What a caller leaves out has the schema's default, arrays a list of their own."""
    partition = metadata.MetadataResponsePartition()
    assert (partition.leader_epoch, partition.error_code) == (-1, 0)
    assert metadata.MetadataResponseTopic().topic_authorized_operations == -(2**31)
    assert fetch.FetchRequest().max_bytes == 2**31 - 1
    assert fetch.FetchRequest().cluster_id is None
    assert fetch.FetchTopic().topic_id == NO_UUID
    assert create_topics.CreateTopicsRequest().timeout_ms == 60_000
    assert metadata.MetadataRequest().topics == []
    first, second = metadata.MetadataResponse(), metadata.MetadataResponse()
    first.topics.append(metadata.MetadataResponseTopic())
    assert second.topics == []
    assert first != second


def test_fields_outside_the_version_are_defaults() -> None:
    """Decoding an old version gives the fields that it lacks their defaults."""
    request = fetch.FetchRequest(
        session_id=5,
        rack_id="r",
        topics=[fetch.FetchTopic(topic="t", topic_id=TOPIC_ID)],
        forgotten_topics_data=[fetch.ForgottenTopic(topic="f", partitions=[1, 2])],
    )
    for version, kept in ((4, set()), (7, {"session_id", "forgotten"}), (11, {"rack_id"})):
        data = fetch.encode_request(request, version)
        decoded = fetch.decode_request(data, version, 0, len(data))
        assert decoded.topics == [fetch.FetchTopic(topic="t")]
        assert (decoded.session_id == 5) == (version >= 7), kept
        assert bool(decoded.forgotten_topics_data) == (version >= 7)
        assert (decoded.rack_id == "r") == (version >= 11)
    data = fetch.encode_request(request, 13)
    assert fetch.decode_request(data, 13, 0, len(data)).topics[0].topic == ""
    assert fetch.decode_request(data, 13, 0, len(data)).topics[0].topic_id == TOPIC_ID


def test_null_depends_on_the_version() -> None:
    """Metadata of all topics is null from version 1 on, and refused as null in version 0."""
    for version in range(1, 14):
        data = metadata.encode_request(metadata.MetadataRequest(topics=None), version)
        assert metadata.decode_request(data, version, 0, len(data)).topics is None
    with pytest.raises(MalformedRequestError):
        metadata.decode_request(b"\xff\xff\xff\xff", 0, 0, 4)
    with pytest.raises(AssertionError):
        metadata.encode_request(metadata.MetadataRequest(topics=None), 0)
    topic = metadata.MetadataResponseTopic(name=None, topic_id=TOPIC_ID)
    response = metadata.MetadataResponse(topics=[topic])
    assert metadata.encode_response(response, 12)
    with pytest.raises(AssertionError):
        metadata.encode_response(response, 11)


def test_empty_arrays_are_not_null() -> None:
    """Java clients fail on null where they expect a list: empty stays empty."""
    response = create_topics.CreateTopicsResponse(
        topics=[create_topics.CreatableTopicResult(name="t")]
    )
    for version in (5, 7):
        data = create_topics.encode_response(response, version)
        decoded = create_topics.decode_response(data, version, 0, len(data))
        assert decoded.topics[0].configs == []
    response.topics[0].configs = None
    data = create_topics.encode_response(response, 7)
    assert create_topics.decode_response(data, 7, 0, len(data)).topics[0].configs is None


def test_tagged_fields_are_written_only_when_set() -> None:
    """A tagged field with its default takes no byte; another value takes its place in order."""
    plain = api_versions.ApiVersionsResponse()
    assert api_versions.encode_response(plain, 3) == b"\x00\x00" + b"\x01" + bytes(4) + b"\x00"
    plain.finalized_features_epoch = 9
    plain.zk_migration_ready = True
    data = api_versions.encode_response(plain, 3)
    tags = b"\x02" + b"\x01\x08" + bytes(7) + b"\x09" + b"\x03\x01\x01"
    assert data == b"\x00\x00" + b"\x01" + bytes(4) + tags
    assert api_versions.decode_response(data, 3, 0, len(data)) == plain


_TAGGED_BODY = b"\x00\x00" + b"\x01" + bytes(4)


@pytest.mark.parametrize(
    "tags",
    [
        b"\x02" + b"\x03\x01\x01" + b"\x03\x01\x01",  # twice
        b"\x01" + b"\x03\x02\x01\x00",  # a byte more than the value
        b"\x01" + b"\x01\x07" + bytes(8),  # a byte less
        b"\x01" + b"\x00\x01\x02",  # an array with an element, but no bytes for it
        b"\x01" + b"\x03\x05\x01",  # a size beyond the end
        b"\x01",
        varint(33) + b"\x03\x01\x01" + b"".join(varint(t) + b"\x00" for t in range(50, 82)),
    ],
)
def test_known_tags_that_lie_are_refused(tags: bytes) -> None:
    """A known tag comes once and consumes exactly its size."""
    data = _TAGGED_BODY + tags
    with pytest.raises(MalformedRequestError):
        api_versions.decode_response(data, 3, 0, len(data))


def test_known_tags_are_found_among_unknown_ones() -> None:
    """Unknown tags before and behind a known one are skipped."""
    tags = b"\x03" + b"\x03\x01\x01" + b"\x09\x02zz" + varint(500) + b"\x00"
    data = _TAGGED_BODY + tags
    assert api_versions.decode_response(data, 3, 0, len(data)).zk_migration_ready


def test_invalid_utf8_is_refused() -> None:
    """A name that is not UTF-8 is no name; it is not mended."""
    for version, start in ((3, b"\x00\x00\x00\x01\x00\x01"), (9, b"\x02\x02")):
        data = start + b"\xff" + bytes(10)
        with pytest.raises(MalformedRequestError, match="UTF-8"):
            metadata.decode_request(data, version, 0, len(data))


@pytest.mark.parametrize("version", [3, 5])
def test_a_message_of_too_many_elements_is_refused(version: int) -> None:
    """A frame full of empty strings is refused before it becomes objects."""
    count = ELEMENT_COUNT_MAX + 1
    if version == 3:
        data = count.to_bytes(4) + bytes(2 * count + 4)
    else:
        data = varint(count + 1) + compact_string("") * count + bytes(5)
    with pytest.raises(MalformedRequestError, match="elements"):
        delete_topics.decode_request(data, version, 0, len(data))


def test_the_budget_is_the_messages_not_the_arrays() -> None:
    """Many arrays, each of them short enough, are together too many."""
    configs = [create_topics.CreatableTopicConfig()] * (ELEMENT_COUNT_MAX // 4)
    topics = [create_topics.CreatableTopic(configs=configs)] * 4
    fits = create_topics.CreateTopicsRequest(topics=topics[:3])
    data = create_topics.encode_request(fits, 5)
    assert len(create_topics.decode_request(data, 5, 0, len(data)).topics) == 3
    data = create_topics.encode_request(create_topics.CreateTopicsRequest(topics=topics), 5)
    with pytest.raises(MalformedRequestError, match="elements"):
        create_topics.decode_request(data, 5, 0, len(data))


def test_messages_without_flexible_versions_stay_legacy() -> None:
    """OffsetDelete never had compact types."""
    assert offset_delete.FIRST_FLEXIBLE_VERSION is None
    request = offset_delete.OffsetDeleteRequest(group_id="g")
    assert offset_delete.encode_request(request, 0) == b"\x00\x01g" + bytes(4)


def test_versions_outside_the_schema_are_a_bug_of_ours() -> None:
    """The dispatcher asks only for versions that exist."""
    with pytest.raises(AssertionError):
        produce.decode_request(b"", produce.MIN_VERSION - 1, 0, 0)
    with pytest.raises(AssertionError):
        produce.encode_response(produce.ProduceResponse(), produce.MAX_VERSION + 1)


def test_messages_show_and_compare_their_fields() -> None:
    """A message prints as its constructor call, compares by value, and takes no other attribute."""
    leader = produce.LeaderIdAndEpoch(leader_id=1, leader_epoch=2)
    assert repr(leader) == "LeaderIdAndEpoch(leader_epoch=2, leader_id=1)"
    assert leader == produce.LeaderIdAndEpoch(leader_id=1, leader_epoch=2)
    assert leader != produce.LeaderIdAndEpoch(leader_id=1)
    assert leader != (1, 2)
    with pytest.raises(AttributeError):
        leader.rack = "r"  # type: ignore[attr-defined]  # The point of the test.
