"""The serving loop: one task, one epoll, a plain object per connection.

A turn of the loop:

    1. receive from every ready connection, parse all whole frames, stage batches in their logs
    2. one write a log; syncs start
    3. the answers that are ready; then the fetches that have data now

A task per connection would pay a rescheduling and an epoll_ctl for each request; one task pays them
for all connections that are ready together (41 k against 97 k requests a second on 50 connections,
measured; docs/adr/0006). So Trio sees one task that waits for one descriptor: the epoll's.

What must wait does not wait here: syncs and slow writes run in threads and come back through an
eventfd in the same epoll; group requests are begun and answer by a call, from a timer or another
member's request; handlers that await run as tasks of their own while their connection is paused.

Buffers: most frames arrive whole and are parsed where they were received, in one arena for all
connections; a slice of it that must live on (a write in a thread) makes the loop take a new arena.
A frame that is not whole moves to a buffer of its own, which grows as bytes arrive, never by the
length that the client merely claims.

Between turns the loop waits in its epoll for a millisecond more before it goes back to Trio: the
next request of a client that sends one at a time, or the end of a sync, comes within that time, and
a pass of Trio costs as much as a request. It does so only while no other task could run, and the
interpreter is free for the syncing threads meanwhile.

Limits (all settings): frame size, requests in flight a connection, bytes of incomplete frames in
all, connections in all and per address, time to the first frame, idle time.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from socket import socket
from typing import Final

import trio

from logd.broker.context import Broker
from logd.broker.fetch import FetchHandler
from logd.broker.produce import ProduceHandler
from logd.broker.reply import Part, Reply, SmallSlice, bytes_in_memory
from logd.broker.services import PartitionServices
from logd.cold.runs import MemorySlice
from logd.errors import MalformedRequestError
from logd.net.buffers import Arena
from logd.net.connection import OUTBOX_BYTES_MAX, Connection
from logd.net.other_requests import OtherRequests
from logd.net.other_tasks import OtherTasks
from logd.net.partial_frames import PartialFrames, frame_problem
from logd.net.quiet import QuietConnections
from logd.net.requests import RequestMetrics
from logd.net.send import Outbox
from logd.offload import ThreadOffload
from logd.wire import fetch_response
from logd.wire.api_keys import FETCH, PRODUCE
from logd.wire.frame import LENGTH, LENGTH_BYTES, REQUEST_BYTES_MIN, REQUEST_START

_PRODUCE_FIRST: Final = 3
_PRODUCE_LAST: Final = 11

CONNECTION_TURN_BYTES: Final = 1024 * 1024
"""What one connection may send in a turn before the others have theirs."""

LINGER_S: Final = 0.001
"""How long the loop waits for more before it goes back to Trio; epoll knows no shorter time."""

CHECKPOINT_S: Final = 0.005
"""A busy loop lets the other tasks run this often."""


class ServeLoop:
    """Serves all connections. Made, then fed with sockets by the listener, then `run`."""

    def __init__(
        self,
        broker: Broker,
        services: PartitionServices,
        offload: ThreadOffload,
        *,
        produce: ProduceHandler,
        fetch: FetchHandler,
    ) -> None:
        settings = broker.config.settings
        self._broker = broker
        self._services = services
        self._turn = services.turn
        self._clock = services.clock
        self._events = broker.events
        self._offload = offload
        self._produce = produce
        self._fetch = fetch
        self._cold_reads = broker.cold_reads
        self._tasks = OtherTasks()
        self._frame_bytes_max = settings.socket_request_max_bytes
        self._requests_max = settings.queued_max_requests_per_connection
        self._epoll = select.epoll()
        self._epoll.register(offload.wake_fd, select.EPOLLIN | select.EPOLLET)
        self._hooks: dict[int, Callable[[], None]] = {offload.wake_fd: self._deliver}
        self.connections: dict[int, Connection] = {}
        self._ready: list[Connection] = []
        # Those that the next turn goes on with, though their sockets have nothing to tell.
        self._sending: list[Connection] = []
        self._rests = False
        self._arena = Arena()
        self._partial = PartialFrames(
            frame_bytes_max=self._frame_bytes_max,
            queued_bytes_max=settings.queued_max_request_bytes,
        )
        self._others = OtherRequests(broker, close=self.close, end_turn=self.end_turn)
        self._quiet = QuietConnections(
            self, self._epoll, services.timers, self._others.shortcuts, broker.groups
        )
        self._hooks[self._quiet.fd] = self._quiet.noticed
        self.metrics = RequestMetrics(broker.metrics)
        self.on_close: Callable[[Connection], None] = _ignore_close
        services.timers.after = self.end_turn

    # --- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._others.nursery = nursery
            trio.lowlevel.add_instrument(self._tasks)
            try:
                await self._run()
            finally:
                trio.lowlevel.remove_instrument(self._tasks)
                self._others.nursery = None

    async def _run(self) -> None:
        poll = self._epoll.poll
        epoll_fd = self._epoll.fileno()
        monotonic = self._clock.monotonic
        turn_ended = self.metrics.turn_ended
        while True:
            self._rests = True
            await trio.lowlevel.wait_readable(epoll_fd)
            self._rests = False
            now = monotonic()
            checkpoint_at = now + CHECKPOINT_S
            ready = poll(0)
            while ready or self._sending:
                self._serve_turn(ready, now)
                ended_at = monotonic()
                turn_ended(ended_at - now)
                if ended_at > checkpoint_at:
                    await trio.lowlevel.checkpoint()
                    checkpoint_at = monotonic() + CHECKPOINT_S
                ready = poll(self._linger_s(ended_at))
                now = monotonic()

    def _linger_s(self, now: float) -> float:
        """Return how long the loop may wait in its epoll: not while anything else is to be done.

        Nor while something is read from storage nodes: Trio hears of its end.
        """
        if self._sending or self._cold_reads.is_busy:
            return 0
        return min(LINGER_S, self._tasks.idle_s(now))

    def _serve_turn(self, ready: list[tuple[int, int]], now: float) -> None:
        turn = self._turn
        turn.started_at = now
        turn.now_ms = self._clock.now_ms()
        if self._sending:
            sending, self._sending = self._sending, []
            for sender in sending:
                sender.is_sending = False
                self._parse_kept(sender)
                self._send(sender)
        connections = self.connections
        for fd, events in ready:
            connection = connections.get(fd)
            if connection is None:
                hook = self._hooks.get(fd)
                if hook is not None:
                    hook()
                continue
            if events & ~(select.EPOLLIN | select.EPOLLOUT) and not events & select.EPOLLIN:
                self.close(connection, "")
                continue
            if events & select.EPOLLOUT:
                self._send(connection)
            if (
                events & select.EPOLLIN
                and connection.events & select.EPOLLIN
                and not connection.closed
                and not connection.pauses
            ):
                self._receive(connection)
        self.end_turn()

    def end_turn(self) -> None:
        """Write what was staged, send what is ready, then answer the fetches that have data."""
        turn = self._turn
        # Waking, closing and resuming may stage or complete more; the lists drain in the end.
        while True:
            while turn.touched or turn.woken or self._ready:
                turn.flush()
                self._send_ready()
                turn.wake()
                self._send_ready()
            pinned, turn.buffers_pinned = turn.buffers_pinned, False
            self._arena.restart(pinned=pinned)
            self._partial.end_turn(pinned=pinned)
            if not turn.touched and not self._ready:
                break

    def _deliver(self) -> None:
        self._offload.deliver()

    def hook(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` in each turn in which `fd` is readable."""
        self._hooks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def unhook(self, fd: int) -> None:
        """Watch `fd` no more."""
        if self._hooks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # --- connections ---------------------------------------------------------------------------

    def add(self, sock: socket, address: str) -> None:
        """Serve a connection that was accepted; the socket is non-blocking."""
        connection = Connection(sock, address, self, self._epoll, now=self._turn.started_at)
        self.connections[connection.fd] = connection
        connection.events = select.EPOLLIN
        self._epoll.register(connection.fd, select.EPOLLIN)

    def close(self, connection: Connection, reason: str) -> None:
        """Close a connection at once; what it waited for is let go. A reason is logged."""
        if connection.closed:
            return
        connection.closed = True
        if reason:
            self._events.mistake(
                "connection closed",
                client=connection.address,
                client_id=connection.client_id,
                reason=reason,
            )
        del self.connections[connection.fd]
        connection.epoll.unregister(connection.fd)
        connection.sock.close()
        connection.outbox.clear()
        self._partial.drop(connection)
        for reply in connection.replies:
            reply.abandon()
        connection.replies.clear()
        self.on_close(connection)

    def resume(self, connection: Connection) -> None:
        """Parse what came before the pause, in the next turn, then read on; both not before there
        is room for answers.
        """
        if connection.is_full:
            connection.pause_while_full()
        elif connection.has_whole_frame:
            self._go_on_next_turn(connection)
            return
        self._watch(connection)

    def mark_ready(self, connection: Connection) -> None:
        """The connection has an answer to send at the end of the turn."""
        self._ready.append(connection)

    def make_quiet(self, connection: Connection) -> None:
        """The connection sends heartbeats and nothing else: they are read with others'."""
        self._quiet.take(connection)

    def serve_now(self, ready: list[tuple[int, int]]) -> None:
        """Have a turn with these connections."""
        self._serve_turn(ready, self._clock.monotonic())

    def parse_received(self, connection: Connection, data: bytearray) -> None:
        """Handle what was received by somebody else."""
        self._parse_all(connection, data, 0, len(data))
        if connection.pauses and not connection.closed:
            self._watch(connection)  # Else what comes now would be told of again and again.

    def count_answers(self, api_key: int, count: int) -> None:
        """Count answers that were sent in the turn in which their requests were read."""
        self._count_answers(api_key, self._turn.started_at, count)

    def _watch(self, connection: Connection) -> None:
        takes_answers = connection.outbox.buffered_bytes <= OUTBOX_BYTES_MAX
        events = select.EPOLLIN if takes_answers and not connection.pauses else 0
        if connection.outbox and not connection.is_sending:
            events |= select.EPOLLOUT
        if events != connection.events and not connection.closed:
            connection.events = events
            connection.epoll.modify(connection.fd, events)

    def stop_reading(self) -> None:
        """Take no more requests; what was taken is still answered."""
        for connection in list(self.connections.values()):
            connection.pauses += 1
            self._watch(connection)

    def close_all(self) -> None:
        """Send what is ready, then close every connection."""
        self.end_turn()
        for connection in list(self.connections.values()):
            self.close(connection, "")

    # --- receiving -----------------------------------------------------------------------------

    def _receive(self, connection: Connection) -> None:
        connection.active_at = self._turn.started_at
        budget = CONNECTION_TURN_BYTES
        while budget > 0 and not connection.pauses and not connection.closed:
            if connection.input is not None:
                count = self._receive_rest(connection)
                if count <= 0:
                    break
                budget -= count
                continue
            arena = self._arena
            if arena.is_low:
                self.end_turn()
                arena = self._arena
            view = arena.free_view()
            count = self._receive_into(connection, view)
            if count <= 0:
                break
            start = arena.take(count)
            budget -= count
            self._parse_all(connection, arena.buffer, start, start + count)
            if count < len(view):
                break
        if connection.pauses and not connection.closed:
            self._watch(connection)

    def _receive_into(self, connection: Connection, view: memoryview) -> int:
        """Return the bytes received; 0 where there are none now or the connection ended."""
        try:
            count = connection.sock.recv_into(view)
        except BlockingIOError:
            return 0
        except OSError:
            self.close(connection, "")
            return 0
        if count == 0:
            self.close(connection, "")
        return count

    def _receive_rest(self, connection: Connection) -> int:
        """Receive more of an incomplete frame; parse it when it is whole."""
        buffer = connection.input
        assert buffer is not None
        if connection.filled == len(buffer):
            buffer = self._partial.grow(connection)
            if buffer is None:
                return 0
        end = min(connection.needed, len(buffer))
        count = self._receive_into(connection, memoryview(buffer)[connection.filled : end])
        if count <= 0:
            return 0
        connection.filled += count
        if connection.filled < connection.needed:
            return count
        filled = connection.filled
        self._parse_all(connection, self._partial.take(connection), 0, filled)
        return count

    def _parse_kept(self, connection: Connection) -> None:
        """Parse what came before a pause, if that is over."""
        if connection.pauses or not connection.has_whole_frame:
            return
        filled = connection.filled
        self._parse_all(connection, self._partial.take(connection), 0, filled)
        if not connection.closed:
            self._watch(connection)

    def _parse_all(
        self, connection: Connection, buffer: bytearray, position: int, end: int
    ) -> None:
        """Handle all whole frames, keep the rest for later."""
        unpack_length = LENGTH.unpack_from
        while end - position >= LENGTH_BYTES:
            (size,) = unpack_length(buffer, position)
            if not REQUEST_BYTES_MIN <= size <= self._frame_bytes_max:
                self.close(connection, frame_problem(size, self._frame_bytes_max))
                return
            frame_end = position + LENGTH_BYTES + size
            if frame_end > end or connection.pauses:
                break
            self._dispatch(connection, buffer, position + LENGTH_BYTES, frame_end)
            position = frame_end
            if connection.closed:
                return
            if end - position >= LENGTH_BYTES + size and connection.produce_route is not None:
                position = self._dispatch_run(connection, buffer, position, end)
        if position < end:
            rest = memoryview(buffer)[position:end]
            self._partial.keep(connection, rest, now=self._turn.started_at)

    # --- requests ------------------------------------------------------------------------------

    def _dispatch(self, connection: Connection, buffer: bytearray, position: int, end: int) -> None:
        """Handle one request; whatever is wrong with it ends at most this connection."""
        api_key, version, correlation_id = REQUEST_START.unpack_from(buffer, position)
        connection.requests += 1
        reply: Reply | None
        try:
            if api_key == PRODUCE and _PRODUCE_FIRST <= version <= _PRODUCE_LAST:
                reply = self._produce.handle(
                    connection, buffer, position, end, version, correlation_id
                )
            elif (
                api_key == FETCH
                and fetch_response.FIRST_VERSION <= version <= fetch_response.LAST_VERSION
            ):
                reply = self._fetch.handle(
                    connection, buffer, position, end, version, correlation_id
                )
            else:
                reply = self._others.begin(connection, buffer, position, end)
        except MalformedRequestError as error:
            self.close(connection, f"malformed request (api key {api_key} v{version}): {error}")
            return
        except Exception as error:  # A bug of ours must cost one connection, not the server.
            self._events.error(
                "request failed", api_key=api_key, version=version, reason=repr(error)
            )
            self.close(connection, "internal error")
            return
        if reply is None:
            self.metrics.unanswered.value += 1
            return
        self._expect(connection, reply, api_key)

    def _dispatch_run(
        self, connection: Connection, buffer: bytearray, position: int, end: int
    ) -> int:
        """Handle the requests that are like the one before, at once; return where they end."""
        room = self._requests_max - connection.in_flight
        run = self._produce.handle_run(connection, buffer, position, end, room)
        if run is None:
            return position
        reply, position = run
        connection.requests += reply.count
        self._expect(connection, reply, PRODUCE)
        return position

    def _expect(self, connection: Connection, reply: Reply, api_key: int) -> None:
        """Put an answer that is to come at the end of the connection's line."""
        reply.started_at = self._turn.started_at
        reply.api_key = api_key
        connection.replies.append(reply)
        connection.in_flight += reply.count
        data = reply.data
        if data is not None:
            connection.line_bytes += bytes_in_memory(data)
            if connection.is_full:
                connection.pause_while_full()
        if connection.in_flight >= self._requests_max:
            self._pause_until_answered(connection)

    def _pause_until_answered(self, connection: Connection) -> None:
        """Too many requests in flight: read on when the oldest of them are answered."""
        self.metrics.at_limit.value += 1
        last = connection.replies[-1]
        # One that has this set pauses the connection until then already.
        last.on_sent = last.on_sent or connection.pause()

    # --- sending -------------------------------------------------------------------------------

    def _send_ready(self) -> None:
        while self._ready:
            ready, self._ready = self._ready, []
            for connection in ready:
                connection.is_ready = False
                if not connection.closed:
                    self._send_replies(connection)
                    if connection.read_on is not None:
                        connection.read_on_if_room()

    def _send_replies(self, connection: Connection) -> None:
        """Move answers from the front of the line to the socket."""
        replies = connection.replies
        outbox = connection.outbox
        chunks: list[bytes] = []
        # Answers to requests of one turn and kind are counted together.
        api_key, started_at, count = -1, 0.0, 0
        while replies and (data := replies[0].data) is not None:
            reply = replies.popleft()
            if reply.started_at != started_at or reply.api_key != api_key:
                self._count_answers(api_key, started_at, count)
                api_key, started_at, count = reply.api_key, reply.started_at, 0
            count += reply.count
            connection.in_flight -= reply.count
            if isinstance(data, bytes):
                chunks.append(data)
            else:
                chunks = _add_parts(outbox, chunks, data)
            if reply.on_sent is not None:
                reply.on_sent()
        self._count_answers(api_key, started_at, count)
        if connection.line_bytes:
            connection.line_bytes = sum(
                bytes_in_memory(reply.data) for reply in replies if reply.data is not None
            )
        if not outbox and chunks:
            self.send_bytes(connection, chunks[0] if len(chunks) == 1 else b"".join(chunks))
            return
        if chunks:
            outbox.add(b"".join(chunks))
        self._send(connection)

    def send_bytes(self, connection: Connection, data: bytes) -> None:
        """The usual case: all that is to be sent is a few bytes, and the socket takes them."""
        try:
            if connection.outbox.send_now(data):
                return
        except OSError:
            self.close(connection, "")
            return
        self._watch(connection)

    def _count_answers(self, api_key: int, started_at: float, count: int) -> None:
        if count:
            self.metrics.answered(api_key, self._turn.started_at - started_at, count)

    def _send(self, connection: Connection) -> None:
        if connection.closed:
            return
        outbox = connection.outbox
        try:
            writable = outbox.send()
        except OSError as error:
            self.close(connection, "" if not error.filename else str(error))
            return
        if outbox and writable:
            self._go_on_next_turn(connection)  # Its share of this turn is used up.
        if outbox or connection.events != select.EPOLLIN:
            self._watch(connection)
        if connection.read_on is not None:
            connection.read_on_if_room()

    def _go_on_next_turn(self, connection: Connection) -> None:
        if not connection.is_sending:
            connection.is_sending = True
            self._sending.append(connection)
        if self._rests:  # Nothing but this would end its rest.
            self._rests = False
            self._offload.post(_ignore_wake, None)


def _add_parts(outbox: Outbox, chunks: list[bytes], parts: Sequence[Part]) -> list[bytes]:
    """Queue an answer of several parts behind `chunks`; return the bytes left over at its end."""
    for part in parts:
        if isinstance(part, bytes):
            chunks.append(part)
            continue
        if isinstance(part, SmallSlice):
            chunks.append(part.data)
            continue
        if chunks:
            outbox.add(b"".join(chunks))
            chunks = []
        outbox.add(part.data if isinstance(part, MemorySlice) else part)
    return chunks


def _ignore_close(_connection: Connection) -> None:
    """Until a listener counts its connections."""


def _ignore_wake(_result: object, _error: BaseException | None) -> None:
    """To be woken is all."""
