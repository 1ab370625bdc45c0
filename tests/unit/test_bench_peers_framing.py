"""The raw clients of the peers' benchmark: what is counted is what came, wherever it was cut."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.peers import nats_load, redis_load
from bench.peers.nats_load import MessageCounter, NatsTally, Session
from bench.peers.raw_load import VALUE, PatternCounter, RawConnection, RawLoad
from bench.peers.redis_load import RedisReader, RedisTail, RedisTally
from bench.protocol import AnswerError

ADDRESS = ("127.0.0.1", 1)
ENTRY = b"*2\r\n$3\r\n0-%d\r\n*2\r\n$1\r\nv\r\n$100\r\n" + VALUE + b"\r\n"
ACK = b'MSG _INBOX.0 1 31\r\n{"stream":"bench", "seq":%d}\r\n'


def entries(count: int) -> bytes:
    """Return a range of Redis entries, numbered from 1, of one digit."""
    return b"*%d\r\n" % count + b"".join(ENTRY % number for number in range(1, count + 1))


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return `data` cut at the places, which may repeat or lie beyond it."""
    places = sorted(min(cut, len(data)) for cut in cuts)
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


CUTS = st.lists(st.integers(0, 400), max_size=12)


@given(cuts=CUTS, count=st.integers(0, 30))
@settings(deadline=None)
def test_a_pattern_is_counted_across_cuts(cuts, count) -> None:
    """However the bytes are cut, each occurrence is counted once."""
    data = b"PIPING\r\n PING\r\nPIN" * count
    counter = PatternCounter(b"PING\r\n")
    for piece in pieces_of(data, cuts):
        counter.feed(piece)
    assert counter.count == data.count(b"PING\r\n")


@given(cuts=CUTS)
@settings(deadline=None)
def test_redis_ids_are_counted_across_cuts(cuts) -> None:
    """An id counts when its line has ended, and not before."""
    data = b"$15\r\n1700000000000-0\r\n$16\r\n1700000000000-10\r\n" * 9
    tally = RedisTally()
    came = b""
    for piece in pieces_of(data, cuts):
        came += piece
        assert tally.feed(piece) == came.count(b"\n") // 2
    assert tally.feed(b"") == 18


@pytest.mark.parametrize(
    "answers",
    [
        b"-ERR unknown command\r\n",
        b"$3\r\n0-1\r\n-OOM command not allowed\r\n",
        b"+OK\r\n",
        b"0-1\r\n0-2\r\n",
    ],
)
def test_a_redis_error_is_no_acknowledgement(answers) -> None:
    """An error among the ids, or lines that are no ids, end the run."""
    with pytest.raises(AnswerError):
        RedisTally().feed(answers)


def test_redis_commands_are_arrays_of_bulk_strings() -> None:
    """A command is framed as the protocol says, numbers as text."""
    assert redis_load.command(b"XLEN", "s", 7) == b"*3\r\n$4\r\nXLEN\r\n$1\r\ns\r\n$1\r\n7\r\n"


def test_redis_ranges_are_measured_in_lines() -> None:
    """A range of n entries has 1 + 8 n lines, and its last id stands before its last field."""
    for count in (1, 3, 9):
        assert entries(count).count(b"\n") == redis_load.lines_of_array(entries(count)[:9])
        assert redis_load.last_id(entries(count)) == b"0-%d" % count
    with pytest.raises(AnswerError):
        redis_load.lines_of_array(b"$-1\r\n")


@given(cuts=CUTS)
@settings(deadline=None)
def test_a_redis_range_is_whole_at_its_last_line(cuts) -> None:
    """A reader waits for the whole range, however it is cut, and then moves on by it."""
    reader = RedisReader.__new__(RedisReader)
    reader.load = RawLoad(ADDRESS, "s", 1.0, records=4, total=8)
    reader.position, reader.lines, reader.wanted, reader.head = 0, 0, 0, b""
    *first, last = [piece for piece in pieces_of(entries(4), cuts) if piece]
    assert [reader.feed(piece) for piece in first] == [0] * len(first)
    assert reader.feed(last) == 4
    assert reader.position == 4


def test_a_short_redis_range_is_an_error() -> None:
    """Fewer entries than asked for are not counted as if they were all."""
    reader = RedisReader.__new__(RedisReader)
    reader.load = RawLoad(ADDRESS, "s", 1.0, records=4, total=8)
    reader.lines, reader.wanted, reader.head = 0, 0, b""
    with pytest.raises(AnswerError, match="a range of 25 lines"):
        reader.feed(entries(3))


def test_a_redis_tail_counts_each_entry_once() -> None:
    """A blocked read that ends empty is repeated; one that brings entries moves behind them."""
    server, client = socket.socketpair()
    with server, client:
        tail = RedisTail.__new__(RedisTail)
        tail.load, tail.socket, tail.buffer = RawLoad(ADDRESS, "s", 1.0), client, bytearray()
        tail.first_offset, tail.offset, tail.after = 0, 0, b"0-0"
        tail.ask()
        server.sendall(b"*-1\r\n")
        assert tail.receive() == 0
        whole = b"*1\r\n*2\r\n$1\r\ns\r\n" + entries(3)
        server.sendall(whole[:90])
        assert tail.receive() == 0
        server.sendall(whole[90:])
        assert tail.receive() == 3
        asked = server.recv(10_000)
        assert asked.count(b"XREAD") == 3
        assert asked.endswith(b"0-3\r\n")


# --- NATS ---------------------------------------------------------------------------------------


@given(cuts=CUTS, pings=st.lists(st.booleans(), min_size=9, max_size=9))
@settings(deadline=None)
def test_nats_acknowledgements_are_counted_across_cuts(cuts, pings) -> None:
    """A PING between acknowledgements is not counted, and hides none."""
    data = b"".join((b"PING\r\n" if ping else b"") + ACK % n for n, ping in enumerate(pings))
    tally = NatsTally()
    came = [tally.feed(piece) for piece in pieces_of(data, cuts)]
    assert came == sorted(came)
    assert came[-1] == 9


@pytest.mark.parametrize(
    "answers",
    [
        b'MSG _INBOX.0 1 44\r\n{"error":{"code":429,"description":"too many"}}\r\n',
        b"-ERR 'Maximum Payload Violation'\r\n",
        b"HMSG _INBOX.0 1 28 28\r\nNATS/1.0 503\r\n\r\n\r\n" * 2,
    ],
)
def test_a_nats_error_is_no_acknowledgement(answers) -> None:
    """A refusal, whatever its form, ends the run."""
    with pytest.raises(AnswerError):
        NatsTally().feed(answers)


def test_nats_messages_are_two_lines() -> None:
    """Pulled messages are counted by their lines, without the server's PINGs."""
    counter = MessageCounter()
    message = b"MSG s 1 $JS.ACK.s.r.1.1.1.1.0 100\r\n" + VALUE + b"\r\n"
    assert counter.feed(message * 3 + b"PI") == 3
    assert counter.feed(b"NG\r\n" + message[:50]) == 3
    assert counter.feed(message[50:]) == 4


def test_a_publish_says_its_size() -> None:
    """A publish names subject, inbox and the payload's bytes."""
    assert nats_load.publish("s", "in", b"abc") == b"PUB s in 3\r\nabc\r\n"


def test_nats_calls_have_one_answer_each() -> None:
    """A call skips a PING, answers it, and raises what the server refuses."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b'INFO {"server_id":"x"}\r\n')
            _receive_until(connection, b"PING\r\n")
            connection.sendall(b"PONG\r\n")
            asked.append(_receive_until(connection, b"\r\n\r\n"))
            body = json.dumps({"state": {"messages": 3}})
            connection.sendall(f"PING\r\nMSG _INBOX.calls 1 {len(body)}\r\n{body}\r\n".encode())
            asked.append(_receive_until(connection, b"\r\n\r\n"))
            connection.sendall(b'MSG _INBOX.calls 1 13\r\n{"error":404}\r\n')

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        session = Session(listener.getsockname())
        assert session.call("STREAM.INFO.s")["state"]["messages"] == 3
        with pytest.raises(AnswerError, match="404"):
            session.call("STREAM.INFO.t")
        session.close()
    finally:
        thread.join()
        listener.close()
    assert asked[0] == b"PUB $JS.API.STREAM.INFO.s _INBOX.calls 0\r\n\r\n"
    assert asked[1].startswith(b"PONG\r\n")


def _receive_until(connection: socket.socket, mark: bytes) -> bytes:
    received = b""
    while mark not in received:
        received += connection.recv(4096)
    return received


# --- The connection under the loop --------------------------------------------------------------


def test_a_request_is_answered_when_all_its_records_are() -> None:
    """Requests of several records count when the last of their answers has come."""
    server, client = socket.socketpair()
    with server, client:
        connection = RawConnection(client, b"x" * 10, RedisTally(), records=3)
        connection.submit(2, 0.0)
        assert len(server.recv(100)) == 20
        buffer = bytearray(1000)
        server.sendall(b"$3\r\n0-1\r\n" * 2)
        assert connection.receive(buffer) == 0
        server.sendall(b"$3\r\n0-1\r\n" * 4)
        assert connection.receive(buffer) == 2
        assert connection.settle(2, 1.0) == [(1.0, 2)]
