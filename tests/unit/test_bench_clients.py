"""The clients of the benchmark against its bare servers: they count what is answered, and only
that."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

import pytest

from bench import bare_disk, protocol
from bench.fetch_load import FetchLoad, fetch
from bench.load import Connection, ProduceLoad, build_ring, make_batch, produce
from bench.process import BenchError, Child, cpu_seconds, memory_bytes, read_frame, run_job

TOPIC = "bench"
SECONDS = 0.2  # A busy machine answers something in it.


@contextlib.contextmanager
def bare_append(tmp_path, batch_bytes, *, sync=True):
    """The bare append server in a process of its own."""
    batch, _ = make_batch(batch_bytes, timestamp_ms=1)
    request = protocol.produce_request(TOPIC, 0, batch, acks=1)
    spec = {
        "topic": TOPIC, "directory": str(tmp_path), "sync": sync,
        "request_bytes": len(request.frame), "batch_position": request.batch_position,
        "batch_bytes": len(batch),
    }  # fmt: skip
    with Child("serve-append", spec) as child:
        yield ("127.0.0.1", child.answer(10)["port"]), child.process.pid


@contextlib.contextmanager
def server_that_answers(answers):
    """A server that answers each request with the next of `answers`, then closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(ConnectionError):
            for answer in answers:
                read_frame(connection)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        thread.join()
        listener.close()


def load_for(address, **fields):
    shape = {"acks": 1, "batch_bytes": 0, "connections": 1, "depth": 1, "seconds": SECONDS}
    return {"address": address, "topic": TOPIC, **shape, **fields}


@pytest.mark.parametrize(
    ("batch_bytes", "connections", "depth"),
    [(0, 1, 1), (0, 1, 100), (0, 20, 1), (16 * 1024, 2, 5), (1024 * 1024, 1, 3)],
)
def test_the_produce_client_counts_answers(tmp_path, batch_bytes, connections, depth) -> None:
    """For every shape of load: requests are answered, bytes and latencies fit their number."""
    with bare_append(tmp_path, batch_bytes, sync=False) as (address, pid):
        load = load_for(
            address, batch_bytes=batch_bytes, connections=connections, depth=depth, server_pid=pid
        )
        answer = run_job("produce", load, timeout_s=30)
    batch, _ = make_batch(batch_bytes, timestamp_ms=1)
    assert answer["requests"] > 0
    assert answer["bytes"] == answer["requests"] * len(batch)
    assert answer["requests"] < answer["requests_in_all"]
    assert 0 < answer["p50_us"] <= answer["p99_us"]
    assert answer["seconds"] >= SECONDS


def test_nothing_is_left_of_the_bare_servers_files(tmp_path) -> None:
    """The bare server's file has no name: a benchmark that is interrupted leaves no data behind."""
    with bare_append(tmp_path, 0) as (address, _):
        run_job("produce", load_for(address), timeout_s=30)
        assert list(tmp_path.iterdir()) == []


def test_requests_go_round_the_partitions() -> None:
    """The ring holds one request to each partition in turn, whole times."""
    load = ProduceLoad(**load_for(("127.0.0.1", 1), partitions=7))
    ring, first = build_ring(load, timestamp_ms=1)
    size = len(first.frame)
    assert len(ring) % (7 * size) == 0
    batch = make_batch(0, timestamp_ms=1)[0]
    for index in (0, 6, 7):
        expected = protocol.produce_request(TOPIC, index % 7, batch, acks=1).frame
        assert bytes(ring[index * size : (index + 1) * size]) == expected


def refusal(topic=TOPIC):
    """An answer as long as a success, with an error code."""
    frame = bytearray(protocol.produce_answer(topic, 0))
    place = protocol.produce_error_position(topic)
    frame[place : place + 2] = (56).to_bytes(2, "big")
    return bytes(frame)


SUCCESS = protocol.produce_answer(TOPIC, 0)


@pytest.mark.parametrize(
    "answers",
    [
        [refusal()],
        [SUCCESS, refusal()],
        [SUCCESS, SUCCESS, SUCCESS[:-1] + refusal()],
        [SUCCESS, protocol.produce_answer(TOPIC + "x", 0) * 3],
        [SUCCESS, SUCCESS],
    ],
    ids=["first", "second", "in the middle", "another length", "closed"],
)
def test_errors_are_never_counted_as_work(answers) -> None:
    """An answer with an error, of another length, or none at all ends the run with an error."""
    with server_that_answers(answers) as address, pytest.raises((protocol.AnswerError, OSError)):
        produce(ProduceLoad(**load_for(address, seconds=5)))


@pytest.mark.parametrize("cut", [1, 5, 40, 59])
def test_answers_in_pieces_are_counted_once(cut) -> None:
    """Wherever the stream is cut, each answer counts when its last byte is there."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection.__new__(Connection)
        connection.socket = ours
        connection.answer_bytes = len(SUCCESS)
        connection.length_byte = SUCCESS[3]
        connection.error_position = protocol.produce_error_position(TOPIC)
        connection.received_bytes = connection.answered = 0
        stream, counted, buffer = SUCCESS * 5, 0, bytearray(4096)
        for start in range(0, len(stream), cut):
            theirs.sendall(stream[start : start + cut])
            counted += connection.receive(buffer)
            assert counted == min(start + cut, len(stream)) // len(SUCCESS)


@pytest.mark.parametrize("connections", [1, 3])
def test_the_fetch_client_counts_whole_batches(tmp_path, connections) -> None:
    """Against bare sendfile: bytes are whole batches, and every connection gets its share."""
    batch, records = make_batch(16 * 1024, timestamp_ms=1)
    path = tmp_path / "log"
    path.write_bytes(batch * 64)
    load = {
        "topic": TOPIC, "max_bytes": 128 * 1024, "connections": connections, "seconds": SECONDS,
        "batch_bytes": len(batch), "batch_records": records, "end_offset": 64 * records,
    }  # fmt: skip
    bare = {"topic": TOPIC, "file": str(path), "records_bytes": 8 * len(batch)}
    with Child("serve-send", {**bare, "unasked": False}) as child:
        address = ("127.0.0.1", child.answer(10)["port"])
        answer = run_job("fetch", {"address": address, **load}, timeout_s=30)
    assert answer["requests"] > 0
    assert answer["bytes"] == answer["requests"] * 8 * len(batch)


def test_a_fetch_answer_without_a_batch_ends_the_run() -> None:
    """A server that answers fetches with nothing is not a fast server."""
    empty = protocol.fetch_answer_head(TOPIC, 0, records_bytes=0, end_offset=0)
    answers = [empty + protocol.FETCH_ANSWER_TAIL]
    with server_that_answers(answers) as address:
        load = FetchLoad(address, TOPIC, 1024, 1, SECONDS, 100, 1, 10)
        with pytest.raises(protocol.AnswerError, match="without a whole batch"):
            fetch(load)


@pytest.mark.parametrize("job", [bare_disk.write_and_sync, bare_disk.write_only])
def test_bare_disk_loops(tmp_path, job) -> None:
    """The loops write what they count and leave nothing behind."""
    answer = job({"directory": str(tmp_path), "bytes": 3 * 1024 * 1024 + 5, "seconds": 0.05})
    assert answer["bytes"] == answer["requests"] * (3 * 1024 * 1024 + 5)
    assert list(tmp_path.iterdir()) == []


def test_round_robin_syncs_every_file(tmp_path) -> None:
    """All threads work, and the syncs are counted."""
    spec = {"directory": str(tmp_path), "bytes": 100, "files": 5, "threads": 3, "seconds": 0.05}
    answer = bare_disk.round_robin(spec)
    assert answer["requests"] >= 3
    assert list(tmp_path.iterdir()) == []


def test_priming_is_bounded(tmp_path) -> None:
    """No more is touched than was asked for, and the file is gone afterwards."""
    assert bare_disk.prime_page_cache(tmp_path, size_bytes=3_000_000) <= 3_000_000
    assert list(tmp_path.iterdir()) == []


def test_processes_are_watched_by_id() -> None:
    """CPU seconds and memory of this very process are plausible."""
    assert 0 <= cpu_seconds(os.getpid()) < 10_000
    assert 1_000_000 < memory_bytes(os.getpid()) <= memory_bytes(os.getpid(), "VmHWM")


def test_a_child_that_fails_is_an_error() -> None:
    """A job that ends without an answer is an error with its exit code, not a hang."""
    with pytest.raises(BenchError, match="exit code 1"):
        run_job("produce", load_for(("127.0.0.1", 1)), timeout_s=20)
