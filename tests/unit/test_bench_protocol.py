"""The benchmark's hand-built requests are what Kafka's schemas say, judged by an independent
codec."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import pytest
from crc32c import crc32c

from bench import protocol

with warnings.catch_warnings():
    # kafka-python reads its schemas by a call that Python 3.11 deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.protocol.admin import (
        CreateTopicsRequest,
        CreateTopicsResponse,
        DeleteTopicsRequest,
        IncrementalAlterConfigsRequest,
        IncrementalAlterConfigsResponse,
    )
    from kafka.protocol.consumer import FetchRequest, FetchResponse
    from kafka.protocol.metadata import ApiVersionsRequest
    from kafka.protocol.producer import ProduceRequest, ProduceResponse
    from kafka.record import MemoryRecords


def decode(message_class, frame, version):
    """Decode a framed request or response with kafka-python, and check that nothing is left."""
    message = message_class.decode(bytes(frame), version=version, header=True, framed=True)
    assert bytes(message.encode(header=True, framed=True)) == bytes(frame)
    return message


def test_a_batch_is_intact_and_holds_what_was_asked_for() -> None:
    """kafka-python reads the batch: right CRC, right count, values of 100 bytes, one timestamp."""
    batch = protocol.record_batch(200, timestamp_ms=1_234_567)
    read = MemoryRecords(batch).next_batch()
    assert read.validate_crc()
    records = list(read)
    assert [record.offset for record in records] == list(range(200))
    assert {len(record.value) for record in records} == {100}
    assert {record.timestamp for record in records} == {1_234_567}
    assert all(record.key is None for record in records)
    assert crc32c(batch[protocol.BATCH_CRC_START :]) == int.from_bytes(batch[17:21], "big")


@pytest.mark.parametrize("size_bytes", [1_000, 16 * 1024, 64 * 1024, 1024 * 1024])
def test_a_batch_nearly_fills_its_size(size_bytes) -> None:
    """The largest batch that fits is never larger than asked, and misses it by two records at
    most."""
    batch, records = protocol.batch_within(size_bytes, timestamp_ms=0)
    assert size_bytes - 250 - records <= len(batch) <= size_bytes
    assert int.from_bytes(batch[57:61], "big") == records


@pytest.mark.parametrize("acks", [1, -1])
def test_produce_request(acks) -> None:
    """A Produce frame says what it was built from, and the batch lies where it claims."""
    batch = protocol.record_batch(2, timestamp_ms=7)
    request = protocol.produce_request("some-topic", 5, batch, acks=acks)
    end = request.batch_position + request.batch_bytes
    assert request.frame[request.batch_position : end] == batch
    message = decode(ProduceRequest, request.frame, protocol.PRODUCE_VERSION)
    (topic,) = message.topic_data
    (partition,) = topic.partition_data
    assert (message.acks, message.transactional_id) == (acks, None)
    assert (topic.name, partition.index, bytes(partition.records)) == ("some-topic", 5, batch)


def test_requests_of_all_partitions_have_one_length() -> None:
    """The client takes requests out of a ring by their length: it must not depend on the
    partition."""
    batch = protocol.record_batch(1, timestamp_ms=7)
    frames = [protocol.produce_request("t", p, batch, acks=1).frame for p in (0, 1, 99)]
    assert len({len(frame) for frame in frames}) == 1
    assert len(set(frames)) == 3


def test_fetch_request_is_patched_in_place() -> None:
    """A Fetch frame asks for the offset that was set last, and for no more than its limits."""
    request = protocol.fetch_request("topic", 3, max_bytes=1_000_000, max_wait_ms=250)
    for offset in (0, 123_456_789_012):
        message = decode(FetchRequest, request.at(offset), protocol.FETCH_VERSION)
        (topic,) = message.topics
        (partition,) = topic.partitions
        assert (message.max_wait_ms, message.min_bytes, message.max_bytes) == (250, 1, 1_000_000)
        assert (message.session_id, message.session_epoch) == (0, -1)
        assert (topic.topic, partition.partition, partition.fetch_offset) == ("topic", 3, offset)
        assert partition.partition_max_bytes == 1_000_000


def test_create_topic_request() -> None:
    """A CreateTopics frame carries name, partitions and settings."""
    frame = protocol.create_topic_request("t", 12, {"flush.mode": "os"})
    message = decode(CreateTopicsRequest, frame, protocol.CREATE_TOPICS_VERSION)
    (topic,) = message.topics
    assert (topic.name, topic.num_partitions, topic.replication_factor) == ("t", 12, 1)
    assert [(config.name, config.value) for config in topic.configs] == [("flush.mode", "os")]
    assert not message.validate_only


def test_delete_topics_and_api_versions_requests() -> None:
    """The two small requests decode, with our client id."""
    frame = protocol.delete_topics_request(["a", "bc"])
    message = decode(DeleteTopicsRequest, frame, protocol.DELETE_TOPICS_VERSION)
    assert list(message.topic_names) == ["a", "bc"]
    versions = decode(ApiVersionsRequest, protocol.api_versions_request(), 0)
    assert versions.header.client_id == protocol.CLIENT_ID.decode()


def test_alter_topic_request_and_answer() -> None:
    """It sets what is named, of one topic; an answer with an error code is an error."""
    frame = protocol.alter_topic_request("topic", {"a": "1", "b": "2"})
    message = decode(IncrementalAlterConfigsRequest, frame, protocol.ALTER_CONFIGS_VERSION)
    (resource,) = message.resources
    assert (resource.resource_type, resource.resource_name) == (2, "topic")
    configs = [(one.name, one.config_operation, one.value) for one in resource.configs]
    assert configs == [("a", 0, "1"), ("b", 0, "2")]
    for code in (0, 40):
        part = IncrementalAlterConfigsResponse.AlterConfigsResourceResponse(
            error_code=code, error_message=None, resource_type=2, resource_name="topic"
        )
        answer = IncrementalAlterConfigsResponse(version=0, throttle_time_ms=0, responses=[part])
        answer.with_header(correlation_id=protocol.CORRELATION_ID)
        data = bytes(answer.encode(header=True, framed=True))
        with pytest.raises(protocol.AnswerError, match="INVALID_CONFIG") if code else nullcontext():
            protocol.check_altered_answer(data, "alter")


def produce_answer(*, error, base_offset=0):
    """A Produce answer made by kafka-python."""
    partition = ProduceResponse.TopicProduceResponse.PartitionProduceResponse(
        index=0, error_code=error, base_offset=base_offset
    )
    topic = ProduceResponse.TopicProduceResponse(name="topic", partition_responses=[partition])
    answer = ProduceResponse(version=9, responses=[topic], throttle_time_ms=0)
    answer.with_header(correlation_id=protocol.CORRELATION_ID)
    return bytes(answer.encode(header=True, framed=True))


def test_the_error_code_is_where_the_client_looks() -> None:
    """In an answer of another codec, error and base offset stand at the position that is
    promised."""
    frame = produce_answer(error=56, base_offset=77)
    place = protocol.produce_error_position("topic")
    assert int.from_bytes(frame[place : place + 2], "big") == 56
    assert int.from_bytes(frame[place + 2 : place + 10], "big") == 77


def test_the_bare_servers_answer_is_a_produce_answer() -> None:
    """What the bare server sends decodes, and says that all is well."""
    message = decode(ProduceResponse, protocol.produce_answer("topic", 0), 9)
    (topic,) = message.responses
    (partition,) = topic.partition_responses
    assert (topic.name, partition.error_code, partition.base_offset) == ("topic", 0, 0)


def fetch_answer(*, error=0, records=b"", partitions=1):
    """A Fetch answer made by kafka-python."""
    response = FetchResponse.FetchableTopicResponse
    rows = [
        response.PartitionData(
            partition_index=index, error_code=error, high_watermark=900, last_stable_offset=900,
            log_start_offset=0, aborted_transactions=None, preferred_read_replica=-1,
            records=records,
        )
        for index in range(partitions)
    ]  # fmt: skip
    answer = FetchResponse(
        version=12, throttle_time_ms=0, error_code=0, session_id=0,
        responses=[response(topic="topic", partitions=rows)],
    )  # fmt: skip
    answer.with_header(correlation_id=protocol.CORRELATION_ID)
    return bytes(answer.encode(header=True, framed=True))


def test_the_head_of_a_fetch_answer() -> None:
    """Of another codec's answer, the head tells where the records lie; a part of it is not
    enough."""
    records = protocol.record_batch(50, timestamp_ms=1)
    frame = fetch_answer(records=records)
    head = protocol.read_fetch_head(frame, len(frame))
    assert head is not None
    assert (head.frame_bytes, head.high_watermark) == (len(frame), 900)
    end = head.records_position + head.records_bytes
    assert frame[head.records_position : end] == records
    for received in range(40):
        assert protocol.read_fetch_head(frame, received) is None


def test_the_head_of_an_empty_fetch_answer() -> None:
    """An answer without records has a head too, shorter than the longest one."""
    frame = fetch_answer()
    head = protocol.read_fetch_head(frame, len(frame))
    assert head is not None
    assert (head.frame_bytes, head.records_bytes) == (len(frame), 0)
    assert protocol.read_fetch_head(frame, len(frame) - 1) is None


@pytest.mark.parametrize("frame", [fetch_answer(error=1), fetch_answer(partitions=2)])
def test_a_fetch_answer_that_is_not_the_right_one(frame) -> None:
    """An error code, or more partitions than were asked for, ends the run."""
    with pytest.raises(protocol.AnswerError):
        protocol.read_fetch_head(frame, len(frame))


def test_the_bare_servers_fetch_answer() -> None:
    """Head, records and tail of the bare server make one answer that decodes."""
    records = protocol.record_batch(3, timestamp_ms=1)
    head = protocol.fetch_answer_head("topic", 0, records_bytes=len(records), end_offset=3)
    frame = head + records + protocol.FETCH_ANSWER_TAIL
    message = FetchResponse.decode(frame, version=12, header=True, framed=True)
    (topic,) = message.responses
    (partition,) = topic.partitions
    assert (partition.error_code, partition.high_watermark) == (0, 3)
    assert bytes(partition.records) == records


def test_last_offsets_counts_whole_batches_only() -> None:
    """Of two batches and a part of a third, the first two are told."""
    batch = bytearray(protocol.record_batch(10, timestamp_ms=1))
    later = bytearray(batch)
    later[:8] = (10).to_bytes(8, "big")
    records = memoryview(bytes(batch + later + batch[:-1]))
    assert protocol.last_offsets(records) == [9, 19]


@pytest.mark.parametrize(("error", "fails"), [(0, False), (36, True)])
def test_topics_answers_are_checked(error, fails) -> None:
    """A CreateTopics answer with an error code raises, one without does not."""
    topic = CreateTopicsResponse.CreatableTopicResult(name="t", error_code=error)
    answer = CreateTopicsResponse(version=4, throttle_time_ms=0, topics=[topic])
    answer.with_header(correlation_id=1)
    frame = bytes(answer.encode(header=True, framed=True))
    if fails:
        with pytest.raises(protocol.AnswerError, match="36"):
            protocol.check_topics_answer(frame, "create")
    else:
        protocol.check_topics_answer(frame, "create")


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**21, 2**31])
def test_varints_round_trip(value) -> None:
    """A varint is read back, with the position after it."""
    encoded = protocol.uvarint(value)
    assert protocol.read_uvarint(encoded + b"x", 0) == (value, len(encoded))


def test_an_endless_varint_is_refused() -> None:
    """Six bytes that all say "more" are no varint."""
    with pytest.raises(protocol.AnswerError):
        protocol.read_uvarint(b"\xff" * 10, 0)
