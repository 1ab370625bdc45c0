"""Requests that come together are answered as if they had come one by one.

Pipelined requests of one shape take a way of their own through the server, many in one step. What a
client can see must not depend on it: the same requests are sent to two topics, to one of them
together and to the other one each behind the answer of the last.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from logd.record.build import encode_batch, set_crc
from logd.wire.messages import produce
from tests.interop.test_hostile_clients import create, produce_frame
from tests.server_process import ServerProcess, read_frame

pytestmark = pytest.mark.interop

ROUNDS = 25
REQUESTS = 40
SEGMENT_OFFSETS = 50  # Small, so that segments end inside of runs.
_LAST_OFFSET_DELTA_AT = 23
_HEADER_BYTES = 61

Answer = produce.PartitionProduceResponse


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("runs") / "data"
    limits = ("--set", "queued.max.requests.per.connection=16")
    offsets = ("--set", f"segment.offsets={SEGMENT_OFFSETS}")
    with ServerProcess(data, *limits, *offsets) as process:
        yield process


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def plain(value: bytes = b"v" * 20) -> bytes:
    return bytes(encode_batch([(None, value, [], now_ms())]))


def with_bad_crc() -> bytes:
    batch = bytearray(plain())
    batch[_HEADER_BYTES] ^= 1
    return bytes(batch)


def with_wrong_delta() -> bytes:
    batch = bytearray(plain())
    batch[_LAST_OFFSET_DELTA_AT + 3] = 5
    set_crc(batch)
    return bytes(batch)


def with_old_magic() -> bytes:
    batch = bytearray(plain())
    batch[16] = 1
    return bytes(batch)


def from_the_future() -> bytes:
    return bytes(encode_batch([(None, b"v" * 20, [], now_ms() + 10**10)]))


def of_two_records() -> bytes:
    return bytes(encode_batch([(None, b"v" * 6, [], now_ms()), (None, b"v" * 6, [], now_ms())]))


def compressed() -> bytes:
    return bytes(encode_batch([(None, b"v" * 20, [], now_ms())], codec=1))


def of_other_size() -> bytes:
    return plain(b"v" * 21)


def idempotent(sequence: int) -> bytes:
    records = [(None, b"v" * 20, [], now_ms())]
    return bytes(encode_batch(records, producer_id=7, producer_epoch=0, base_sequence=sequence))


ODD = (
    with_bad_crc, with_wrong_delta, with_old_magic, from_the_future, of_two_records, compressed,
    of_other_size,
)  # fmt: skip


def some_batches(rng: random.Random) -> list[bytes]:
    """Mostly one shape, with others between."""
    share_of_odd = rng.choice((0.0, 0.1, 0.5))
    batches, sequence = [], 0
    for _ in range(REQUESTS):
        if rng.random() >= share_of_odd:
            batches.append(plain())
        elif rng.random() < 0.3:
            batches.append(idempotent(sequence))
            sequence += rng.choice((0, 1, 1))
        else:
            batches.append(rng.choice(ODD)())
    return batches


def answers_of(server: ServerProcess, frames: list[bytes], *, together: bool) -> list[Answer]:
    """Send the requests, at once or one by one; return the answers in order."""
    answers = []
    with server.connect() as sock:
        if together:
            sock.sendall(b"".join(frames))
        for frame in frames:
            if not together:
                sock.sendall(frame)
            data = read_frame(sock)
            response = produce.decode_response(data, 7, 4, len(data))
            answers.append(response.responses[0].partition_responses[0])
    return answers


def visible(answers: list[Answer]) -> list[tuple[int, int, int, int]]:
    return [
        (one.error_code, one.base_offset, one.log_append_time_ms, one.log_start_offset)
        for one in answers
    ]


@pytest.mark.parametrize("acks", [1, -1])
def test_pipelined_requests_are_answered_as_single_ones(
    server: ServerProcess, rng: random.Random, acks: int
) -> None:
    """Errors, offsets and their order are the same, across rolls and the limit in flight."""
    for number in range(ROUNDS):
        topics = [f"{name}{acks}-{number}" for name in ("together", "separate")]
        for topic in topics:
            create(server, topic)
        batches = some_batches(rng)
        found = [
            visible(
                answers_of(
                    server,
                    [produce_frame(batch, acks=acks, topic=topic) for batch in batches],
                    together=topic.startswith("together"),
                )
            )
            for topic in topics
        ]
        assert found[0] == found[1]


def test_a_client_that_leaves_amid_its_requests_harms_nobody(server: ServerProcess) -> None:
    """What was whole may be appended, once and in order; the next client goes on behind it."""
    create(server, "left")
    frames = [produce_frame(plain(), topic="left") for _ in range(REQUESTS)]
    with server.connect() as sock:
        sock.sendall(b"".join(frames)[:-10])
    (answer,) = answers_of(server, frames[:1], together=False)
    assert answer.error_code == 0
    assert 0 <= answer.base_offset < REQUESTS


def correlation_ids(server: ServerProcess, count: int) -> list[int]:
    frames = []
    for number in range(count):
        frame = bytearray(produce_frame(plain(), topic="ids"))
        frame[8:12] = number.to_bytes(4, "big")
        frames.append(bytes(frame))
    with server.connect() as sock:
        sock.sendall(b"".join(frames))
        return [int.from_bytes(read_frame(sock)[:4], "big") for _ in range(count)]


def test_each_answer_carries_its_own_correlation_id(server: ServerProcess) -> None:
    """Answers made together leave in the order of the requests, each with its number."""
    create(server, "ids")
    count = 3 * REQUESTS
    assert correlation_ids(server, count) == list(range(count))
