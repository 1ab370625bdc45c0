"""Open load: requests are due at their times whatever the server does, and it pays for a stall."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from bench import protocol
from bench.measurement import Window, summarize
from bench.open_load import OpenLoad, Schedule, open_produce
from bench.process import read_frame

TOPIC = "bench"
ANSWER = protocol.produce_answer(TOPIC, 0)
STALL_S = 0.3


def load_for(address, **fields):
    shape = {"acks": 1, "per_second": 200, "seconds": 0.5, **fields}
    return OpenLoad(address=address, topic=TOPIC, **shape)


@contextlib.contextmanager
def server_that_stalls(*, at, stall_s):
    """Answers each request of one connection; waits once, before the answer number `at`."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(ConnectionError, Exception):
            for number in range(10**9):
                read_frame(connection)
                if number == at:
                    done.wait(stall_s)
                connection.sendall(ANSWER)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        done.set()
        thread.join()
        listener.close()


def test_a_stall_is_charged_with_all_that_were_due() -> None:
    """A stall of 0.3 s at 200 requests a second makes about sixty slow ones, not one.

    A closed loop would count one; its 90th percentile would not know of it.
    """
    with server_that_stalls(at=60, stall_s=STALL_S) as address:
        answer = open_produce(load_for(address))
    assert answer["requests"] == 100
    slow = [count for bucket, count in answer["histogram"]["counts"] if bucket > 3000]
    assert sum(count for _, count in answer["histogram"]["counts"]) == 100
    assert answer["p50_us"] > STALL_S * 1e6 / 8
    assert answer["p99_us"] > STALL_S * 1e6 * 0.9
    assert slow or answer["p50_us"] > 0


def test_all_that_was_due_is_waited_for() -> None:
    """A stall at the end does not cut off the requests that it made slow."""
    with server_that_stalls(at=118, stall_s=STALL_S) as address:
        answer = open_produce(load_for(address))
    assert answer["requests"] == 100
    assert answer["p99_us"] > STALL_S * 1e6 * 0.9
    assert answer["seconds"] > STALL_S


def test_the_rate_is_that_of_the_schedule() -> None:
    """At 200 a second a window of half a second has a hundred requests, however fast the server."""
    with server_that_stalls(at=-1, stall_s=0) as address:
        begin = time.perf_counter()
        answer = open_produce(load_for(address))
        elapsed = time.perf_counter() - begin
    assert answer["requests"] == 100
    assert elapsed >= 0.59
    assert answer["late_p99_us"] is not None


def test_what_is_due_follows_from_the_clock_alone() -> None:
    """A client that comes late finds all that was due meanwhile, with the times it was due at."""
    schedule = Schedule(load_for(("", 0), per_second=1000, seconds=0.1), begin=10.0)
    assert (schedule.first, schedule.last) == (20, 120)
    assert schedule.due_now(10.0) == range(1)
    late = schedule.due_now(10.05)
    assert late.start == 1
    assert late.stop in (50, 51)
    assert schedule.due(late.start) == pytest.approx(10.001)
    assert schedule.due_now(99.0).stop == schedule.last
    # The lateness of those in the warm-up is not counted; the last ones were 89 s late.
    assert len(schedule.lateness) == 100


def test_requests_of_the_warm_up_are_not_counted() -> None:
    """Only latencies of requests that were due in the window stay."""
    schedule = Schedule(load_for(("", 0), per_second=1000, seconds=0.1), begin=10.0)
    schedule.settle([(0.001, 1)], 10.001)  # due at 10.000
    schedule.settle([(0.001, 1)], 10.051)  # due at 10.050
    assert len(schedule.latencies) == 1
    assert schedule.answered == 2


def test_a_client_that_was_late_is_the_bottleneck() -> None:
    """Where half of the latency is the client's own lateness, the row says so."""
    fine = Window(100, p99_us=100, notes={"late_p99_us": 20})
    late = Window(100, p99_us=100, notes={"late_p99_us": 60})
    assert "bottleneck" not in summarize("r", "us", [fine]).conditions
    assert summarize("r", "us", [late]).conditions["bottleneck"] == "client"
