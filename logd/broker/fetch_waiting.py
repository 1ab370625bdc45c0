"""A fetch from its frame to its answer: what it asks for, what it has found, what it waits on.

Its partitions keep it as a waiter, a timer ends its patience, and a cold read tells it when its
range is there: all of them only have the handler look again, on the serving loop.
"""

from __future__ import annotations

from typing import Protocol

from logd.broker.fetch_coded import CodedState
from logd.broker.fetch_sessions import NO_SESSION_ID, FetchItem, FetchSession
from logd.broker.partition import Partition
from logd.broker.reply import Reply, ReplyOwner
from logd.wire.fetch_response import PartitionFetched
from logd.wire.messages import fetch as messages


class FetchLooks(Protocol):
    """Who looks at a fetch's partitions, and answers it.

    Attributes:
        max_bytes: of any answer.
    """

    max_bytes: int

    def attempt(self, fetch: WaitingFetch, *, final: bool) -> bool:
        """Answer the fetch if there is enough, or if this is `final`; return whether it was."""
        ...


class WaitingFetch(Reply):
    """One fetch, until it is answered. `wake` may come at any time, also afterwards.

    Attributes:
        is_expired: the client waits no longer for data to be appended.
    """

    __slots__ = (
        "coded",
        "correlation_id",
        "handler",
        "is_expired",
        "items",
        "max_bytes",
        "min_bytes",
        "pending_reads",
        "read_committed",
        "results",
        "sent_full",
        "session",
        "session_id",
        "version",
        "waiting_on",
    )  # fmt: skip

    def __init__(
        self,
        owner: ReplyOwner,
        handler: FetchLooks,
        *,
        correlation_id: int,
        version: int,
        request: messages.FetchRequest,
        items: list[FetchItem],
    ) -> None:
        super().__init__(owner)
        self.handler = handler
        self.correlation_id = correlation_id
        self.version = version
        self.items = items
        self.min_bytes = request.min_bytes
        self.max_bytes = min(request.max_bytes, handler.max_bytes)
        self.read_committed = request.isolation_level == 1
        self.session: FetchSession | None = None
        self.session_id = NO_SESSION_ID
        self.sent_full = True
        self.results: list[PartitionFetched] = []
        self.pending_reads = 0
        self.waiting_on: list[Partition] = []
        self.is_expired = False
        self.coded: CodedState | None = None

    def wake(self) -> None:
        """Look again: a high watermark moved, a partition went offline, a coded range was read."""
        if self.data is None and not self.pending_reads:
            self.handler.attempt(self, final=self.is_expired)

    def expire(self) -> None:
        """The client's patience is over: answer with what there is."""
        self.is_expired = True
        if self.data is None and not self.pending_reads:
            self.handler.attempt(self, final=True)

    def give_up_late(self) -> None:
        """Coded segments have had their time: answer without what is still being read."""
        coded = self.meet_coded()
        coded.is_too_late = True
        if self.data is None and not self.pending_reads and coded.is_late:
            self.handler.attempt(self, final=True)

    def meet_coded(self) -> CodedState:
        """Return what it knows of coded segments."""
        if self.coded is None:
            self.coded = CodedState()
        return self.coded

    def abandon(self) -> None:
        """The connection is gone."""
        self.stop_waiting()
        if self.data is None:
            self.data = b""

    def stop_waiting(self) -> None:
        """Take the fetch off its partitions."""
        for partition in self.waiting_on:
            partition.forget_fetch(self)
        self.waiting_on.clear()
