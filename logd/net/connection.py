"""One client's connection: a plain object, no task. The serving loop does all work on it.

Idle it holds its socket and this object, some 600 bytes; a partly received frame, answers that are
not ready and bytes that the client does not take are all that can be added to that, each with a
limit.

Source: docs/adr/0006 (why no task per connection), with the measurements.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from socket import socket
from typing import TYPE_CHECKING, Final

from logd.broker.fetch_shape import FetchShape
from logd.broker.group_shortcuts import CommitRoute
from logd.broker.partition import Partition
from logd.broker.produce_route import ProduceRoute
from logd.broker.reply import Reply
from logd.net.send import Outbox

if TYPE_CHECKING:
    from typing import Protocol

    class ConnectionOwner(Protocol):
        """What a connection needs of the loop."""

        def mark_ready(self, connection: Connection) -> None: ...
        def close(self, connection: Connection, reason: str) -> None: ...
        def resume(self, connection: Connection) -> None: ...
        def make_quiet(self, connection: Connection) -> None: ...


OUTBOX_BYTES_MAX: Final = 1024 * 1024
"""A client that does not read its answers is not read from beyond this."""


class Connection:
    """The state of a connection. Fields are written by the serving loop alone.

    Attributes:
        replies: one for each request that awaits its answer, in the order of the requests.
        in_flight: the requests that those answer.
        line_bytes: what the complete ones among them hold in memory.
        read_on: ends the pause for which there are too many answers; None where it is not paused
            for that.
        input: a frame that is not complete yet, its first `filled` bytes; None between frames.
        is_sending: whether the next turn goes on with it, whatever its socket tells.
        pauses: how many reasons there are not to read from the client now.
        frame_started_at: when the first byte of an incomplete frame came.
        epoll: which one watches the socket.
        heartbeat_at: which request was the last heartbeat, counted as `requests` does.
    """

    __slots__ = ("active_at", "address", "client_id", "closed", "commit_route", "epoll", "events",
                 "fd", "fetch_shape", "filled", "frame_started_at", "heartbeat_at",
                 "in_flight", "input", "is_ready", "is_sending", "line_bytes", "needed", "outbox",
                 "owner", "pauses", "produce_route", "read_on", "replies", "requests",
                 "sock")  # fmt: skip

    def __init__(
        self,
        sock: socket,
        address: str,
        owner: ConnectionOwner,
        epoll: select.epoll,
        *,
        now: float,
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.address = address
        self.owner = owner
        self.client_id: str | None = None
        self.replies: deque[Reply] = deque()
        self.in_flight = 0
        self.line_bytes = 0
        self.outbox = Outbox(sock)
        self.input: bytearray | None = None
        self.filled = 0
        self.needed = 0
        self.pauses = 0
        self.read_on: Callable[[], None] | None = None
        self.closed = False
        self.is_ready = False
        self.is_sending = False
        self.epoll = epoll
        self.events = 0  # what the epoll watches for
        self.requests = 0
        self.heartbeat_at = 0
        self.active_at = now
        self.frame_started_at = now
        self.produce_route: ProduceRoute | None = None
        self.fetch_shape: FetchShape | None = None
        self.commit_route: CommitRoute | None = None

    def mark_ready(self) -> None:
        """An answer was completed; it is sent at the end of the turn."""
        if not self.is_ready:
            self.is_ready = True
            self.owner.mark_ready(self)

    def note_heartbeat(self) -> None:
        """The request at hand is a heartbeat: after two in a row the connection is quiet."""
        if self.heartbeat_at == self.requests - 1:
            self.owner.make_quiet(self)
        self.heartbeat_at = self.requests

    def close_for(self, reason: str) -> None:
        """Close the connection, for a reason that is logged."""
        self.owner.close(self, reason)

    @property
    def has_whole_frame(self) -> bool:
        """Whether requests were received, but not parsed because the connection was paused."""
        return self.input is not None and self.filled >= self.needed

    @property
    def is_full(self) -> bool:
        """Whether it has more answers than are kept for a client that does not read them."""
        return self.line_bytes + self.outbox.buffered_bytes > OUTBOX_BYTES_MAX

    def pause_while_full(self) -> None:
        """Read and parse no more, whatever was received, until there is room for answers."""
        if self.read_on is None:
            self.read_on = self.pause()

    def read_on_if_room(self) -> None:
        """End that pause if the client has taken enough of its answers."""
        read_on = self.read_on
        assert read_on is not None
        if not self.is_full:
            self.read_on = None
            read_on()

    def pause_for(self, partition: Partition) -> None:
        """Read no more until the partition's syncs have caught up."""
        partition.when_decongested(self.pause())

    def pause(self) -> Callable[[], None]:
        """Read no more from the client; return what ends this pause (once)."""
        self.pauses += 1
        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self.pauses -= 1
                if self.pauses == 0 and not self.closed:
                    self.owner.resume(self)

        return end
