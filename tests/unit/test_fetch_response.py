"""The hand-written Fetch response against the generated codec."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from logd.wire import fetch_response
from logd.wire.fetch_response import PartitionFetched, TopicFetched
from logd.wire.messages import fetch as messages

VERSIONS = range(fetch_response.FIRST_VERSION, fetch_response.LAST_VERSION + 1)
TOPIC_ID = bytes(range(16))


@dataclass
class Slice:
    """Record bytes that know only their size, as a file slice does."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)


def bytes_of(records: fetch_response.Records) -> bytes:
    assert isinstance(records, Slice)
    return records.data


def joined(parts: list[bytes | fetch_response.Records]) -> bytes:
    return b"".join(part if isinstance(part, bytes) else bytes_of(part) for part in parts)


@pytest.mark.parametrize("read_committed", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_encodes_what_the_codec_encodes(version: int, read_committed: bool) -> None:
    """Two topics, with and without records and with an error: the same bytes as the codec's."""
    records = bytes(300)
    topics = [
        TopicFetched(
            "one",
            TOPIC_ID,
            [
                PartitionFetched(0, 0, 100, 5, Slice(records)),
                PartitionFetched(1, 1, -1, -1, None),
            ],
        ),
        TopicFetched("two", bytes(16), [PartitionFetched(7, 0, 9, 0, Slice(b""))]),
    ]
    parts = fetch_response.encode(
        version, 42, topics, session_id=11, error_code=0, read_committed=read_committed
    )
    expected = messages.FetchResponse(
        throttle_time_ms=0,
        error_code=0,
        session_id=11,
        responses=[
            messages.FetchableTopicResponse(
                topic=topic.name,
                topic_id=topic.topic_id,
                partitions=[
                    messages.PartitionData(
                        partition_index=index,
                        error_code=code,
                        high_watermark=high_watermark,
                        last_stable_offset=high_watermark,
                        log_start_offset=start,
                        aborted_transactions=[] if read_committed else None,
                        preferred_read_replica=-1,
                        records=b"" if slice_ is None else bytes_of(slice_),
                    )
                    for index, code, high_watermark, start, slice_ in topic.partitions
                ],
            )
            for topic in topics
        ],
    )
    tags = b"\0" if version >= messages.FIRST_FLEXIBLE_VERSION else b""
    body = struct.pack(">i", 42) + tags + messages.encode_response(expected, version)
    assert joined(parts) == struct.pack(">i", len(body)) + body


@pytest.mark.parametrize("version", VERSIONS)
def test_records_are_passed_through_untouched(version: int) -> None:
    """The range of records is the very object that was given, between two runs of bytes."""
    records = Slice(b"x" * 70_000)
    parts = fetch_response.encode(
        version,
        1,
        [TopicFetched("t", TOPIC_ID, [PartitionFetched(0, 0, 1, 0, records)])],
        session_id=0,
        error_code=0,
        read_committed=False,
    )
    assert len(parts) == 3
    assert parts[1] is records
