"""Incremental fetch sessions: a client names its partitions once, then only what changes.

The broker remembers the partitions of a session and what it last said of each; a later fetch
carries changes only, and its answer leaves out partitions of which there is nothing new. The cache
is bounded: when it is full and nobody in it has been idle for EVICTION_S, a newcomer gets no
session (id 0) and goes on with full fetches.

Source: KIP-227.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from logd.errors import FetchSessionIdNotFoundError, InvalidFetchSessionEpochError
from logd.units import INT32_MAX

NO_SESSION_ID: Final = 0
FINAL_EPOCH: Final = -1
INITIAL_EPOCH: Final = 0
EVICTION_S: Final = 120.0
PARTITIONS_MAX: Final = 100_000
"""A session with more partitions than this is not kept."""

PartitionKey = tuple[str, bytes, int]
"""Topic name (empty from version 13 on), topic id (zeros before), partition index."""


class FetchItem:
    """One partition of a fetch, and in a session what the client was last told of it."""

    __slots__ = ("index", "key", "leader_epoch", "max_bytes", "offset", "sent_high_watermark",
                 "sent_log_start", "topic_id", "topic_name")  # fmt: skip

    def __init__(
        self,
        *,
        topic_name: str,
        topic_id: bytes,
        index: int,
        offset: int,
        max_bytes: int,
        leader_epoch: int,
    ) -> None:
        self.topic_name = topic_name
        self.topic_id = topic_id
        self.index = index
        self.key: PartitionKey = (topic_name, topic_id, index)
        self.offset = offset
        self.max_bytes = max_bytes
        self.leader_epoch = leader_epoch
        # -2: nothing was said yet, so whatever is true now is news.
        self.sent_high_watermark = -2
        self.sent_log_start = -2

    def take(self, newer: FetchItem) -> None:
        """Fetch from where the client says now."""
        self.offset = newer.offset
        self.max_bytes = newer.max_bytes
        self.leader_epoch = newer.leader_epoch


class FetchSession:
    """The partitions of one client's session, in the order in which they are served."""

    __slots__ = ("epoch", "items", "session_id", "used_at")

    def __init__(self, session_id: int, items: list[FetchItem], *, now: float) -> None:
        self.session_id = session_id
        self.items: OrderedDict[PartitionKey, FetchItem] = OrderedDict(
            (item.key, item) for item in items
        )
        self.epoch = 1
        self.used_at = now

    def update(self, changed: list[FetchItem], forgotten: list[PartitionKey]) -> None:
        """Take over what the client changed."""
        for item in changed:
            known = self.items.get(item.key)
            if known is None:
                self.items[item.key] = item
            else:
                known.take(item)
        for key in forgotten:
            self.items.pop(key, None)


class FetchSessions:
    """All sessions. Used by the serving loop alone.

    Args:
        slots: max.incremental.fetch.session.cache.slots.
        random_id: yields a number from 1 to 2^31 - 1; sessions must not be guessed across restarts.
    """

    def __init__(self, *, slots: int, random_id: Callable[[], int]) -> None:
        self._slots = slots
        self._random_id = random_id
        self._sessions: OrderedDict[int, FetchSession] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, items: list[FetchItem], *, now: float) -> FetchSession | None:
        """Return a new session, or None if there is no room for it."""
        if not items or len(items) > PARTITIONS_MAX or not self._make_room(now):
            return None
        session_id = self._random_id()
        while session_id in self._sessions:
            session_id = self._random_id()
        session = FetchSession(session_id, items, now=now)
        self._sessions[session_id] = session
        return session

    def _make_room(self, now: float) -> bool:
        if len(self._sessions) < self._slots:
            return True
        if not self._sessions:
            return False
        oldest_id = next(iter(self._sessions))
        if now - self._sessions[oldest_id].used_at < EVICTION_S:
            return False
        del self._sessions[oldest_id]
        self.evicted += 1
        return True

    def resume(
        self,
        session_id: int,
        epoch: int,
        changed: list[FetchItem],
        forgotten: list[PartitionKey],
        *,
        now: float,
    ) -> FetchSession:
        """Return the session with the client's changes taken over and its epoch moved on.

        Raises:
            FetchSessionIdNotFoundError: evicted, or of an earlier run of the server.
            InvalidFetchSessionEpochError: a request was lost or sent twice; nothing was changed.
        """
        session = self._sessions.get(session_id)
        if session is None:
            raise FetchSessionIdNotFoundError(f"there is no fetch session {session_id}")
        if session.epoch != epoch:
            raise InvalidFetchSessionEpochError(
                f"fetch session {session_id} expects epoch {session.epoch}, not {epoch}"
            )
        session.update(changed, forgotten)
        session.epoch = 1 if epoch == INT32_MAX else epoch + 1
        session.used_at = now
        self._sessions.move_to_end(session_id)
        return session

    def close(self, session_id: int) -> None:
        """Forget a session, if it is known."""
        self._sessions.pop(session_id, None)
