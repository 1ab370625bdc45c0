"""Whatever a client sends, it gets a defined error or a closed connection, and the others are
served.

After each case a healthy client appends and reads back, the log holds only what was acknowledged,
and the server's memory has not grown by more than what a connection may use.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from logd.record.build import encode_batch
from logd.wire.messages import api_versions, metadata, produce
from tests.server_process import ANSWER_TIMEOUT_S, ServerProcess, read_frame, request

pytestmark = pytest.mark.interop

API_VERSIONS_V0 = request(18, 0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("hostile") / "data"
    with ServerProcess(data) as process:
        create(process, "t")
        yield process


def create(server: ServerProcess, topic: str) -> None:
    """Metadata creates the topic; ask until it is there."""
    body = metadata.encode_request(
        metadata.MetadataRequest(
            topics=[metadata.MetadataRequestTopic(name=topic)], allow_auto_topic_creation=True
        ),
        4,
    )
    with server.connect() as sock:
        sock.sendall(request(3, 4, body))
        assert read_frame(sock)


def produce_frame(batch: bytes, *, acks: int = -1, topic: str = "t", partition: int = 0) -> bytes:
    body = produce.encode_request(
        produce.ProduceRequest(
            acks=acks,
            timeout_ms=1000,
            topic_data=[
                produce.TopicProduceData(
                    name=topic,
                    partition_data=[produce.PartitionProduceData(index=partition, records=batch)],
                )
            ],
        ),
        7,
    )
    return request(0, 7, body)


def produced(answer: bytes) -> produce.PartitionProduceResponse:
    response = produce.decode_response(answer, 7, 4, len(answer))
    return response.responses[0].partition_responses[0]


def append_one(server: ServerProcess) -> int:
    """A healthy client's append; its offset."""
    batch = encode_batch([(b"k", b"v", [], 1)])
    with server.connect() as sock:
        sock.sendall(produce_frame(bytes(batch)))
        answer = produced(read_frame(sock))
    assert answer.error_code == 0
    return answer.base_offset


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


FRAMES = {
    "length 0": struct.pack(">i", 0),
    "negative length": struct.pack(">i", -5),
    "length 2^31 - 1": struct.pack(">i", 2**31 - 1),
    "length above socket.request.max.bytes": struct.pack(">i", 104857601),
    "length shorter than a header": struct.pack(">i", 7) + bytes(7),
    "TLS hello": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "HTTP GET": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown api key": request(999, 0),
    "negative api key": request(-1, 0),
    "unknown version": request(3, 99),
    "Produce version 2": request(0, 2),
    "one byte too many": request(18, 0, b"\0"),
    "one byte too few": request(3, 4, b"\0\0\0\0"),
    "array length bomb": request(3, 4, struct.pack(">i", 2**31 - 1) + b"\0"),
    "compact array bomb": request(3, 12, b"\0" + b"\xff\xff\xff\xff\x0f"),
    "over-long varint": request(3, 12, b"\0" + b"\xff" * 400),
    "invalid UTF-8": request(3, 4, struct.pack(">ih", 1, 2) + b"\xff\xfe" + b"\1"),
    "null where not nullable": request(19, 2, struct.pack(">i", -1) + struct.pack(">i?", 1, False)),
    "header cut in the client id": struct.pack(">i", 10) + struct.pack(">hhih", 18, 0, 1, 500),
}


@pytest.mark.parametrize("name", FRAMES)
def test_bad_frames_close_the_connection_and_nothing_else(server: ServerProcess, name: str) -> None:
    """The connection is closed; the next client is served; memory does not follow the claim."""
    before = append_one(server)
    resident = server.resident_bytes()
    with server.connect() as sock:
        sock.sendall(FRAMES[name])
        assert is_closed(sock)
    assert append_one(server) == before + 1
    assert server.resident_bytes() - resident < 16 * 1024 * 1024  # Claims are of 100 MiB or more.


def test_unknown_version_of_api_versions_is_answered_in_version_0(server: ServerProcess) -> None:
    """Error 35, in a body that every client can read, so that it can ask again."""
    with server.connect() as sock:
        sock.sendall(request(18, 99, b"\0"))
        answer = read_frame(sock)
        response = api_versions.decode_response(answer, 0, 4, len(answer))
        assert response.error_code == 35
        ranges = [(k.api_key, k.min_version, k.max_version) for k in response.api_keys]
        assert ranges == [(18, 0, 4)]
        sock.sendall(API_VERSIONS_V0)
        assert read_frame(sock)


def bad_batches() -> dict[str, tuple[bytes, int]]:
    good = bytes(encode_batch([(b"k", b"v", [], 1), (b"k", b"w", [], 2)]))

    def patched(position: int, data: bytes, *, crc: bool = True) -> bytes:
        from crc32c import crc32c

        batch = bytearray(good)
        batch[position : position + len(data)] = data
        if crc:
            batch[17:21] = struct.pack(">I", crc32c(bytes(batch[21:])))
        return bytes(batch)

    return {
        "bad CRC": (patched(70, b"\xff", crc=False), 2),
        "magic 0": (patched(16, b"\0"), 87),
        "magic 1": (patched(16, b"\1"), 87),
        "magic 3": (patched(16, b"\3"), 2),
        "length too short": (patched(8, struct.pack(">i", 10)), 2),
        "length too long": (patched(8, struct.pack(">i", 10_000)), 2),
        "last offset delta": (patched(23, struct.pack(">i", 5)), 87),
        "count 0": (patched(57, struct.pack(">i", 0)), 87),
        "negative count": (patched(57, struct.pack(">i", -2)), 87),
        "control batch": (patched(21, struct.pack(">h", 0x20)), 87),
        "transactional batch": (patched(21, struct.pack(">h", 0x10)), 48),
        "unknown codec": (patched(21, struct.pack(">h", 5)), 76),
        "far future": (patched(27, struct.pack(">qq", 2**60, 2**60)), 32),
        "idempotent without sequence": (patched(43, struct.pack(">qhi", 7, 0, -1)), 87),
        "two batches": (good + good, 87),
        "empty": (b"", 87),
        "a header's half": (good[:30], 2),
        "1.1 MB": (bytes(encode_batch([(b"k", bytes(1_100_000), [], 1)])), 10),
    }


@pytest.mark.parametrize("name", bad_batches())
def test_bad_batches_get_kafkas_error_and_leave_the_log_unchanged(
    server: ServerProcess, name: str
) -> None:
    """Each case has its error code; the next good append gets the very next offset."""
    batch, expected = bad_batches()[name]
    before = append_one(server)
    with server.connect() as sock:
        sock.sendall(produce_frame(batch))
        assert produced(read_frame(sock)).error_code == expected
    assert append_one(server) == before + 1


@pytest.mark.parametrize(
    ("acks", "topic", "partition", "expected"),
    [
        (7, "t", 0, 21),
        (-1, "none", 0, 3),
        (-1, "t", -1, 3),
        (-1, "t", 2**31 - 1, 3),
        (-1, "", 0, 3),
    ],
)
def test_bad_addresses_get_an_error(
    server: ServerProcess, acks: int, topic: str, partition: int, expected: int
) -> None:
    """acks that do not exist, topics and partitions that do not exist: refused, connection kept."""
    batch = bytes(encode_batch([(b"k", b"v", [], 1)]))
    with server.connect() as sock:
        sock.sendall(produce_frame(batch, acks=acks, topic=topic, partition=partition))
        assert produced(read_frame(sock)).error_code == expected
        sock.sendall(API_VERSIONS_V0)
        assert read_frame(sock)


def test_refused_batch_with_acks_0_closes_the_connection(server: ServerProcess) -> None:
    """There is no answer to put the error into, so the client learns it this way."""
    with server.connect() as sock:
        sock.sendall(produce_frame(b"nonsense", acks=0))
        assert is_closed(sock)


def test_half_a_frame_and_silence_is_closed_after_the_time_out(tmp_path: Path) -> None:
    """A client that opens and says nothing, or half a request, holds its connection only so
    long.
    """
    with (
        # Of its own: elsewhere a client may be held up between opening and saying.
        ServerProcess(tmp_path / "data", "--set", "connection.first.frame.ms=500") as server,
        server.connect() as silent,
        server.connect() as half,
    ):
        half.sendall(API_VERSIONS_V0[:9])
        assert is_closed(silent)
        assert is_closed(half)


def test_client_that_vanishes_in_a_request_leaves_no_half_batch(server: ServerProcess) -> None:
    """Cut at every length of a produce request: the log only ever grows by whole batches."""
    frame = produce_frame(bytes(encode_batch([(b"k", b"v", [], 1)])))
    before = append_one(server)
    for cut in range(1, len(frame)):
        with server.connect() as sock:
            sock.sendall(frame[:cut])
    assert append_one(server) == before + 1


def test_dribbled_bytes_make_a_request(server: ServerProcess) -> None:
    """One byte at a time is slow, not wrong."""
    frame = produce_frame(bytes(encode_batch([(b"k", b"v", [], 1)])))
    with server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(frame)):
            sock.sendall(frame[at : at + 1])
        assert produced(read_frame(sock)).error_code == 0


def test_ten_thousand_pipelined_requests_are_answered_in_order(server: ServerProcess) -> None:
    """More requests than may be in flight: reading pauses, nothing is lost, order is kept."""
    count = 10_000
    batch = bytes(encode_batch([(b"k", b"v", [], 1)]))
    one = bytearray(produce_frame(batch, acks=1))
    frames = bytearray()
    for number in range(count):
        one[8:12] = struct.pack(">i", number)
        frames += one
    with server.connect() as sock:
        sock.settimeout(ANSWER_TIMEOUT_S)
        sent = 0
        answers = 0
        sock.setblocking(False)
        received = bytearray()
        import select

        while answers < count:
            readable, writable, _ = select.select(
                [sock], [sock] if sent < len(frames) else [], [], ANSWER_TIMEOUT_S
            )
            assert readable or writable
            if writable:
                sent += sock.send(frames[sent : sent + 65536])
            if readable:
                received += sock.recv(1 << 20)
                while len(received) >= 4:
                    (size,) = struct.unpack_from(">i", received)
                    if len(received) < 4 + size:
                        break
                    assert struct.unpack_from(">i", received, 4) == (answers,)
                    answers += 1
                    del received[: 4 + size]


def test_a_client_that_never_reads_holds_only_its_own_memory(server: ServerProcess) -> None:
    """Answers that are not taken stop the reading of requests; others are served meanwhile."""
    resident = server.resident_bytes()
    frames = API_VERSIONS_V0 * 2000
    with server.connect() as sock:
        sock.setblocking(False)
        blocked = 0
        while blocked < 3:
            try:
                sock.send(frames)
            except BlockingIOError:
                blocked += 1
                append_one(server)
        assert server.resident_bytes() - resident < 16 * 1024 * 1024


def test_appends_whose_answers_are_not_read_stop_being_read(server: ServerProcess) -> None:
    """Half a million appends without reading an answer: the server stops reading, not growing."""
    frames = produce_frame(bytes(encode_batch([(b"k", b"v", [], 1)])), acks=1) * 500
    resident = server.resident_bytes()
    with server.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(2)
        sent = 0
        try:
            while sent < 1000 * len(frames):
                sent += sock.send(frames)
        except TimeoutError:
            sent = -sent
        assert sent < 0, "the server went on reading"
        append_one(server)
        assert server.resident_bytes() - resident < 32 * 1024 * 1024


def test_mutated_requests_never_stop_the_server(server: ServerProcess, rng: random.Random) -> None:
    """5,000 mutations of real requests: each connection is answered or closed, never the server."""
    batch = bytes(encode_batch([(b"k", b"v", [], 1)]))
    seeds = [produce_frame(batch), API_VERSIONS_V0, FRAMES["invalid UTF-8"]]
    body = metadata.encode_request(metadata.MetadataRequest(topics=None), 12)
    seeds.append(request(3, 12, b"\0" + body))
    before = append_one(server)
    for _ in range(5000):
        frame = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 5)):
            frame[rng.randrange(8, len(frame))] = rng.choice(
                (0, 1, 127, 128, 255, rng.randrange(256))
            )
        with server.connect() as sock:
            sock.sendall(frame)
            sock.shutdown(socket.SHUT_WR)
    after = append_one(server)
    assert after > before
    assert "Traceback" not in Path(server.log_path).read_text()
