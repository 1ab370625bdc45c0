"""NATS JetStream on the wire: published messages, acknowledgements, pulled and pushed messages.

A publish is `PUB subject inbox size` and the value. The acknowledgement is a message to the inbox,
two lines: `MSG inbox sid size`, and JSON that holds `"seq":`, or `"error":` when nothing was kept.
So are the messages of a consumer, with the value as the second line. A PING may come in between; it
is one line, and may stay unanswered for minutes, which no window lasts.

The server queues at most `QUEUE_RECORDS_MAX` messages of a stream that it has not yet stored, and
refuses more: connections, depth and records of a load stay below that.

Source: the protocol's description in the documentation of NATS, and that of the JetStream API.
"""

from __future__ import annotations

import json
import socket
from typing import Any, Final

from bench.load import RECEIVE_BYTES, connect
from bench.paced import Receiver, Sender
from bench.peers.raw_load import (
    VALUE,
    PatternCounter,
    RawLoad,
    RawSender,
    Speech,
    StreamReader,
    Tally,
)
from bench.protocol import AnswerError

QUEUE_RECORDS_MAX: Final = 10_000
READ_BACK_RECORDS: Final = 10_000
FILL_RECORDS: Final = 1000
_OPTIONS: Final = {"verbose": False, "pedantic": False, "headers": True, "no_responders": False,
                   "lang": "logd-bench", "version": "1", "protocol": 1}  # fmt: skip
_API: Final = "$JS.API"


def publish(subject: str, reply: str, payload: bytes) -> bytes:
    """Return the command that publishes one message."""
    return f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n"


def subscribe(subject: str) -> bytes:
    """Return the command that subscribes this connection, as its subscription 1."""
    return f"SUB {subject} 1\r\n".encode()


def greet(address: tuple[str, int], inbox: str) -> socket.socket:
    """Return a connection that has said hello and is subscribed to its inbox.

    Raises:
        AnswerError: the server did not say hello in return.
    """
    connection = connect(address)
    connection.sendall(b"CONNECT " + json.dumps(_OPTIONS).encode() + b"\r\n")
    connection.sendall(subscribe(inbox) + b"PING\r\n")
    received = b""
    while b"PONG\r\n" not in received:
        piece = connection.recv(RECEIVE_BYTES)
        if not piece or b"-ERR" in piece:
            connection.close()
            raise AnswerError(f"nats: {(received + piece)[-200:]!r}")
        received += piece
    return connection


class Session:
    """A connection for single calls of the JetStream API, with whole answers."""

    INBOX: Final = "_INBOX.calls"

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = greet(address, self.INBOX)
        self.received = b""

    def call(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call the API; return its answer.

        Raises:
            AnswerError: the answer is an error; the text is the server's.
        """
        payload = json.dumps(body).encode() if body else b""
        return self._answer(publish(f"{_API}.{name}", self.INBOX, payload), name)

    def append(self, subject: str, payload: bytes) -> dict[str, Any]:
        """Append one message; return the acknowledgement."""
        return self._answer(publish(subject, self.INBOX, payload), "publish")

    def _answer(self, request: bytes, what: str) -> dict[str, Any]:
        self.socket.sendall(request)
        answer = json.loads(self._message())
        if not isinstance(answer, dict) or "error" in answer:
            raise AnswerError(f"nats: {what}: {answer}")
        return answer

    def _message(self) -> bytes:
        line = self._line()
        while line == b"PING":
            self.socket.sendall(b"PONG\r\n")
            line = self._line()
        if not line.startswith(b"MSG "):
            raise AnswerError(f"nats: {line[:200]!r} where a message was due")
        size = int(line.split()[-1])
        while len(self.received) < size + 2:
            self._receive()
        payload, self.received = self.received[:size], self.received[size + 2 :]
        return payload

    def _line(self) -> bytes:
        while b"\r\n" not in self.received:
            self._receive()
        line, _, self.received = self.received.partition(b"\r\n")
        return line

    def _receive(self) -> None:
        piece = self.socket.recv(RECEIVE_BYTES)
        if not piece:
            raise AnswerError("the server closed the connection")
        self.received += piece

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def create_stream(self, stream: str) -> None:
        """Create a stream of one subject, its own name, in files; nothing if it is there."""
        body = {"name": stream, "subjects": [stream], "storage": "file", "retention": "limits",
                "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0,
                "num_replicas": 1}  # fmt: skip
        self.call(f"STREAM.CREATE.{stream}", body)

    def delete_stream(self, stream: str) -> None:
        """Delete a stream."""
        self.call(f"STREAM.DELETE.{stream}")

    def create_consumer(self, stream: str, name: str, first: int) -> None:
        """Create a consumer that is pulled from, beginning at a sequence number; acks are off."""
        config = {"ack_policy": "none", "deliver_policy": "by_start_sequence",
                  "opt_start_seq": first, "replay_policy": "instant", "mem_storage": True,
                  "name": name, "inactive_threshold": 60_000_000_000}  # fmt: skip
        body = {"stream_name": stream, "config": config, "action": ""}
        self.call(f"CONSUMER.CREATE.{stream}.{name}", body)

    def delete_consumer(self, stream: str, name: str) -> None:
        """Delete a consumer."""
        self.call(f"CONSUMER.DELETE.{stream}.{name}")

    def push_to(self, stream: str, inbox: str) -> None:
        """Have all that is appended from now on sent to a subject."""
        config = {"ack_policy": "none", "deliver_policy": "new", "deliver_subject": inbox,
                  "replay_policy": "instant", "mem_storage": True}  # fmt: skip
        self.call(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})


class MessageCounter:
    """How many messages of two lines have come."""

    def __init__(self) -> None:
        self.lines = 0
        self.pings = PatternCounter(b"PING\r\n")

    def feed(self, piece: bytes) -> int:
        """Return how many messages are complete since the beginning."""
        self.lines += piece.count(b"\n")
        self.pings.feed(piece)
        return (self.lines - self.pings.count) // 2


class NatsTally(Tally):
    """Each acknowledgement is a message with one sequence number, and no error."""

    def __init__(self) -> None:
        self.messages = MessageCounter()
        self.sequences = PatternCounter(b'"seq":')
        self.errors = PatternCounter(b'"error":')
        self.refusals = PatternCounter(b"-ERR")

    def feed(self, piece: bytes) -> int:
        """Count the acknowledgements that are complete."""
        self.sequences.feed(piece)
        self.errors.feed(piece)
        self.refusals.feed(piece)
        if self.errors.count or self.refusals.count:
            raise AnswerError(f"nats: {piece[:300].decode(errors='replace')}")
        complete = self.messages.feed(piece)
        if not complete <= self.sequences.count <= complete + 1:
            raise AnswerError(f"nats: {self.sequences.count} numbers in {complete} answers")
        return complete


class Nats(Speech):
    """The protocol."""

    def connect(self, load: RawLoad, index: int, /) -> socket.socket:
        """Connect, with an inbox of this connection's own."""
        return greet(load.address, _inbox(index))

    def request(self, load: RawLoad, index: int, /) -> bytes:
        """Return as many PUBs as a request has records."""
        assert load.connections * load.depth * load.records < QUEUE_RECORDS_MAX
        return publish(load.stream, _inbox(index), VALUE) * load.records

    def tally(self) -> Tally:
        """Return a count of acknowledgements."""
        return NatsTally()

    def read_back(self, load: RawLoad) -> tuple[int, int]:
        """Return the stream's own count, and how many values come when all of it is pulled."""
        session = Session(load.address)
        said = int(session.call(f"STREAM.INFO.{load.stream}")["state"]["messages"])
        session.create_consumer(load.stream, "readback", 1)
        found = 0
        with greet(load.address, _inbox(0)) as connection:
            values = PatternCounter(b"\r\n" + VALUE + b"\r\n")
            while found < said:
                batch = min(READ_BACK_RECORDS, said - found)
                connection.sendall(pull(load.stream, "readback", _inbox(0), batch))
                messages = MessageCounter()
                while messages.feed(_received(connection, values)) < batch:
                    continue
                found += batch
        session.delete_consumer(load.stream, "readback")
        session.close()
        return said, values.count

    def reader(self, load: RawLoad, index: int, /) -> StreamReader:
        """Return a reader by a consumer that is pulled from."""
        return NatsReader(load, index)

    def sender(self, load: RawLoad) -> Sender:
        """Return a producer after its first message."""
        sender = RawSender(self.connect(load, 0), self.request(load, 0), NatsTally())
        sender.first()
        return sender

    def receiver(self, load: RawLoad) -> Receiver:
        """Return a consumer that messages are pushed to."""
        return NatsTail(load)


def _inbox(index: int) -> str:
    return f"_INBOX.{index}"


def _received(connection: socket.socket, values: PatternCounter) -> bytes:
    piece = connection.recv(RECEIVE_BYTES)
    if not piece:
        raise AnswerError("the server closed the connection")
    values.feed(piece)
    return piece


def pull(stream: str, consumer: str, inbox: str, batch: int) -> bytes:
    """Return the command that asks a consumer for its next messages."""
    body = json.dumps({"batch": batch}).encode()
    return publish(f"{_API}.CONSUMER.MSG.NEXT.{stream}.{consumer}", inbox, body)


class NatsReader(StreamReader):
    """Pulls ranges; at the end of the stream it begins again with a new consumer."""

    def __init__(self, load: RawLoad, index: int) -> None:
        self.load = load
        self.inbox = _inbox(index)
        self.consumer = f"reader{index}"
        self.position = index * load.total // load.connections
        self.session = Session(load.address)
        self.session.create_consumer(load.stream, self.consumer, self.position + 1)
        self.socket = greet(load.address, self.inbox)
        self.messages = MessageCounter()
        self.asked = 0

    def ask(self) -> None:
        """Pull the next `records` messages."""
        load = self.load
        if self.position + load.records > load.total:
            self.position = 0
            self.session.delete_consumer(load.stream, self.consumer)
            self.session.create_consumer(load.stream, self.consumer, 1)
        self.asked += load.records
        self.socket.sendall(pull(load.stream, self.consumer, self.inbox, load.records))

    def feed(self, piece: bytes) -> int:
        """Count messages up to those that were asked for."""
        if self.messages.feed(piece) < self.asked:
            return 0
        self.position += self.load.records
        return self.load.records


class NatsTail:
    """A consumer that messages are pushed to."""

    def __init__(self, load: RawLoad) -> None:
        self.session = Session(load.address)
        self.socket = greet(load.address, "_INBOX.tail")
        self.session.push_to(load.stream, "_INBOX.tail")
        self.messages = MessageCounter()
        self.first_offset = 0
        self.offset = 0

    def ask(self) -> None:
        """Nothing is to be asked for: the server pushes."""

    def receive(self) -> int:
        """Receive once; return how many messages came."""
        piece = self.socket.recv(RECEIVE_BYTES)
        if not piece:
            raise AnswerError("the server closed the consumer's connection")
        came = self.messages.feed(piece) - self.offset
        self.offset += came
        return came


def fill_nats(address: tuple[str, int], stream: str, total: int) -> None:
    """Append messages, some at a time."""
    with greet(address, _inbox(0)) as connection:
        tally = NatsTally()
        for first in range(0, total, FILL_RECORDS):
            count = min(FILL_RECORDS, total - first)
            connection.sendall(publish(stream, _inbox(0), VALUE) * count)
            while tally.feed(connection.recv(RECEIVE_BYTES)) < first + count:
                continue
