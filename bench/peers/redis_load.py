"""Redis Streams on the wire: commands and replies of RESP, version 2.

An append is `XADD stream * v VALUE`, answered by the entry's id as a bulk string; a range is
`XRANGE`, answered by arrays of entries. An entry of one field is eight lines:

    *2  $3  0-7  *2  $1  v  $100  <value>

so a range of n entries is 1 + 8 n lines. Acknowledgements consist of digits, `$`, `-` and line
ends: any other byte among them is an error message.

Source: the protocol's description in the documentation of Redis.
"""

from __future__ import annotations

import socket
from typing import Final

from bench.load import RECEIVE_BYTES, connect
from bench.paced import Receiver, Sender
from bench.peers.raw_load import VALUE, RawLoad, RawSender, Speech, StreamReader, Tally
from bench.protocol import AnswerError

FIELD: Final = b"v"
LINES_OF_ENTRY: Final = 8
READ_BACK_RECORDS: Final = 20_000
BLOCK_MS: Final = 1000
FILL_RECORDS: Final = 1000  # in one request, when a stream is filled
_ID_BYTES: Final = b"0123456789$-\r\n"


def command(*words: bytes | str | int) -> bytes:
    """Return a command as an array of bulk strings."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in encoded)


def check_reply(reply: bytes) -> bytes:
    """Return the reply unless it is an error.

    Raises:
        AnswerError: it is; the text is Redis's.
    """
    if reply.startswith(b"-"):
        raise AnswerError(f"redis: {reply[1:200].decode(errors='replace').strip()}")
    return reply


class RedisTally(Tally):
    """Two lines for each acknowledgement: `$<length>` and the id."""

    def __init__(self) -> None:
        self.lines = 0
        self.lengths = 0

    def feed(self, piece: bytes) -> int:
        """Count the ids that are complete."""
        if piece.translate(None, _ID_BYTES):
            said = piece[max(0, piece.find(b"-")) :][:200].decode(errors="replace").strip()
            raise AnswerError(f"an answer that is no id: {said}")
        self.lines += piece.count(b"\n")
        self.lengths += piece.count(b"$")
        ids = self.lines // 2
        if not ids <= self.lengths <= ids + 1:
            raise AnswerError(f"{self.lengths} lengths in {self.lines} lines of ids")
        return ids


class Redis(Speech):
    """The protocol."""

    def connect(self, load: RawLoad, _: int, /) -> socket.socket:
        """Connect; Redis wants no greeting."""
        return connect(load.address)

    def request(self, load: RawLoad, _: int, /) -> bytes:
        """Return as many XADDs as a request has records."""
        return command(b"XADD", load.stream, b"*", FIELD, VALUE) * load.records

    def tally(self) -> Tally:
        """Return a count of ids."""
        return RedisTally()

    def read_back(self, load: RawLoad) -> tuple[int, int]:
        """Return XLEN, and how many values are in all ranges together."""
        with connect(load.address) as connection:
            connection.sendall(command(b"XLEN", load.stream))
            said = int(check_reply(read_lines(connection, 1))[1:])
            found, start = 0, b"-"
            while True:
                count = READ_BACK_RECORDS
                connection.sendall(command(b"XRANGE", load.stream, start, b"+", b"COUNT", count))
                reply = read_entries(connection)
                if not reply.count(b"\n") > 1:
                    return said, found
                found += reply.count(b"$%d\r\n%b\r\n" % (len(VALUE), VALUE))
                start = b"(" + last_id(reply)

    def reader(self, load: RawLoad, index: int, /) -> StreamReader:
        """Return a reader of ranges by XRANGE."""
        return RedisReader(load, index)

    def sender(self, load: RawLoad) -> Sender:
        """Return a producer after its first record."""
        sender = RawSender(connect(load.address), self.request(load, 0), RedisTally())
        sender.first()
        return sender

    def receiver(self, load: RawLoad) -> Receiver:
        """Return a consumer by XREAD BLOCK, behind the last entry."""
        return RedisTail(load)


def last_id(entries: bytes) -> bytes:
    """Return the id of the last entry of a whole reply."""
    mark = b"\r\n*2\r\n$%d\r\n%b\r\n" % (len(FIELD), FIELD)
    end = entries.rfind(mark)
    assert end > 0
    return entries[entries.rfind(b"\n", 0, end) + 1 : end]


def read_lines(connection: socket.socket, lines: int) -> bytes:
    """Receive until so many lines have come."""
    received = bytearray()
    while received.count(b"\n") < lines:
        _receive(connection, received)
    return bytes(received)


def read_entries(connection: socket.socket) -> bytes:
    """Receive one whole array of entries."""
    received = bytearray()
    wanted = 1
    lines = 0
    while lines < wanted:
        before = len(received)
        _receive(connection, received)
        lines += received.count(b"\n", before)
        if wanted == 1 and lines:
            wanted = lines_of_array(check_reply(bytes(received[:200])))
    return bytes(received)


def lines_of_array(head: bytes) -> int:
    """Return how many lines a reply has that is an array of entries."""
    if not head.startswith(b"*"):
        raise AnswerError(f"redis: {head[:40]!r} where an array was due")
    return 1 + LINES_OF_ENTRY * int(head[1 : head.index(b"\r")])


def _receive(connection: socket.socket, received: bytearray) -> None:
    piece = connection.recv(4 * RECEIVE_BYTES)
    if not piece:
        raise AnswerError("the server closed the connection")
    received += piece


class RedisReader(StreamReader):
    """Reads a stream whose entries have the ids 0-1, 0-2 and so on (`fill_redis`)."""

    def __init__(self, load: RawLoad, index: int) -> None:
        self.load = load
        self.socket = connect(load.address)
        self.position = index * load.total // load.connections
        self.lines = 0
        self.wanted = 0
        self.head = b""

    def ask(self) -> None:
        """Ask for the next `records` entries."""
        load = self.load
        if self.position + load.records > load.total:
            self.position = 0
        start = f"(0-{self.position}" if self.position else "-"
        self.lines, self.wanted, self.head = 0, 0, b""
        self.socket.sendall(command(b"XRANGE", load.stream, start, b"+", b"COUNT", load.records))

    def feed(self, piece: bytes) -> int:
        """Count lines up to those of a whole answer."""
        if not self.wanted:
            self.head += piece[:40]
            if b"\n" in self.head:
                self.wanted = lines_of_array(check_reply(self.head))
                if self.wanted != 1 + LINES_OF_ENTRY * self.load.records:
                    raise AnswerError(f"a range of {self.wanted} lines")
        self.lines += piece.count(b"\n")
        if not self.wanted or self.lines < self.wanted:
            return 0
        self.position += self.load.records
        return self.load.records


class RedisTail:
    """A consumer: one XREAD is always blocked at the server.

    An answer is `*1 *2 $<length> <stream> *<n>` and n entries, or `*-1` when nothing came in time.
    """

    def __init__(self, load: RawLoad) -> None:
        self.load = load
        self.socket = connect(load.address)
        self.buffer = bytearray()
        self.first_offset = 0
        self.offset = 0
        self.socket.sendall(command(b"XREVRANGE", load.stream, b"+", b"-", b"COUNT", 1))
        self.after = last_id(read_entries(self.socket))

    def ask(self) -> None:
        """Wait for what follows the last entry that came."""
        self.buffer.clear()
        words = (b"XREAD", b"BLOCK", BLOCK_MS, b"STREAMS", self.load.stream, self.after)
        self.socket.sendall(command(*words))

    def receive(self) -> int:
        """Receive once; when an answer is whole, ask again. Returns how many entries came."""
        _receive(self.socket, self.buffer)
        check_reply(bytes(self.buffer[:200]))
        if self.buffer == b"*-1\r\n":
            self.ask()
            return 0
        lines = self.buffer.split(b"\r\n", 5)
        if len(lines) < 6:
            return 0
        entries = int(lines[4][1:])
        if self.buffer.count(b"\n") < 5 + LINES_OF_ENTRY * entries:
            return 0
        self.after = last_id(bytes(self.buffer))
        self.offset += entries
        self.ask()
        return entries


def fill_redis(address: tuple[str, int], stream: str, total: int) -> None:
    """Append entries with the ids 0-1 to 0-`total`, some at a time."""
    with connect(address) as connection:
        tally = RedisTally()
        for first in range(1, total + 1, FILL_RECORDS):
            last = min(total, first + FILL_RECORDS - 1)
            connection.sendall(
                b"".join(
                    command(b"XADD", stream, f"0-{number}", FIELD, VALUE)
                    for number in range(first, last + 1)
                )
            )
            while tally.feed(connection.recv(RECEIVE_BYTES)) < last:
                continue


def ask_redis(address: tuple[str, int], *words: bytes | str | int) -> bytes:
    """Send one command on a connection of its own; return the first line of the reply."""
    with connect(address) as connection:
        connection.sendall(command(*words))
        return check_reply(read_lines(connection, 1))
