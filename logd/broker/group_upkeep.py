"""What happens to groups without a request: expiry, commits of deleted topics, snapshots.

Expiry follows KIP-211: `policy/group/committed` says which offsets lapse, here they are removed.
A group that has neither members nor offsets left is removed with its last offset, or at the next
round.

When a topic is deleted, the commits to its partitions go with it, also those on their way: their
tombstones lie behind them in the log and before whatever is committed to a later topic of that name
(the deletion waits for them). If the server stops in between, the next start finds commits to a
topic that is not there, and removes them.

Source: KIP-211.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from logd.broker.group_deletes import delete_group, delete_offsets
from logd.broker.group_entry import GroupEntry, OffsetOf
from logd.broker.group_loading import snapshot_pairs
from logd.broker.groups import Coordinator
from logd.broker.topic import Topic
from logd.errors import LogdError
from logd.policy.group.committed import expired_offsets
from logd.policy.group.values import GroupState
from logd.units import MINUTE_MS, SECOND_MS

SNAPSHOT_CHECK_S: Final = 1.0
"""How often the offsets log is asked whether a snapshot is due."""

GROUPS_PER_TURN: Final = 100
"""Groups that are looked at before the loop has its turn."""


class GroupUpkeep:
    """The periodic tasks of the coordinator, and what a deleted topic leaves behind."""

    def __init__(self, groups: Coordinator) -> None:
        self._groups = groups
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def run(self) -> None:
        """Work until cancelled, or stopped."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._expire_rounds)
                    nursery.start_soon(self._snapshot_rounds)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """End the coordinator's own writes, so that logs can be closed; `run` must be running."""
        self._groups.stopped = True
        self._scope.cancel()
        await self._ended.wait()

    async def _expire_rounds(self) -> None:
        await self._guarded("commits of deleted topics", self.forget_unknown_topics)
        interval_ms = self._groups.config.settings.offsets_retention_check_interval_ms
        while True:
            await trio.sleep(interval_ms / SECOND_MS)
            await self._guarded("offset expiry", self.expire)

    async def _snapshot_rounds(self) -> None:
        while True:
            await trio.sleep(SNAPSHOT_CHECK_S)
            await self._guarded("snapshot of groups", self.write_due_snapshots)

    async def _guarded(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # One bad round must not end the rounds.
            self._groups.services.events.error("upkeep failed", task=name, reason=repr(error))

    # --- expiry ----------------------------------------------------------------------------------

    async def expire(self) -> None:
        """Remove what has lapsed by now."""
        groups = self._groups
        settings = groups.config.settings
        retention_ms = settings.offsets_retention_minutes * MINUTE_MS
        now_ms = groups.wall_ms()
        for number, entry in enumerate(list(groups.entries.values()), 1):
            self._expire(entry, now_ms=now_ms, retention_ms=retention_ms)
            if number % GROUPS_PER_TURN == 0:
                groups.services.end_turn()
                await trio.lowlevel.checkpoint()
        groups.services.end_turn()

    def _expire(self, entry: GroupEntry, *, now_ms: int, retention_ms: int) -> None:
        if entry.in_flight or entry.group.state is GroupState.DEAD:
            return  # What is being written now did not lapse; the next round looks again.
        expired = expired_offsets(
            entry.group,
            entry.offsets,
            empty_since_ms=entry.empty_since_ms,
            now_ms=now_ms,
            retention_ms=retention_ms,
        )
        if self._is_left_empty(entry, gone=len(expired)):
            delete_group(self._groups, entry, self._note)
        elif expired:
            delete_offsets(self._groups, entry, expired, self._note)

    def _is_left_empty(self, entry: GroupEntry, *, gone: int) -> bool:
        """Whether nothing is left of the group without so many of its offsets."""
        group = entry.group
        return (
            group.state is GroupState.EMPTY
            and gone == len(entry.offsets)
            and not group.pending_count
        )

    def _note(self, error: LogdError | None) -> None:
        if error is not None:
            # They are still there, and still expired at the next round.
            self._groups.services.events.warning("expired offsets remain", reason=str(error))

    # --- deleted topics --------------------------------------------------------------------------

    async def forget_topic(self, topic: Topic) -> None:
        """Remove the commits to a topic that was deleted; returns when that is durable, or refused.

        Refused, they remain in the log; they are removed after the next start.
        """
        await self._forget(frozenset((topic.name,)))

    async def forget_unknown_topics(self) -> None:
        """Remove the commits to topics that do not exist: the last run was cut short."""
        groups = self._groups
        named = {topic for entry in groups.entries.values() for topic, _ in entry.offsets}
        gone = frozenset(named - groups.topics.by_name.keys())
        if gone:
            groups.services.events.info("commits of deleted topics are removed", topics=len(gone))
            await self._forget(gone)

    async def _forget(self, topics: frozenset[str]) -> None:
        groups = self._groups
        outstanding = 0
        ended = trio.Event()

        def one_done(entry: GroupEntry, keys: set[OffsetOf], error: LogdError | None) -> None:
            nonlocal outstanding
            outstanding -= 1
            if error is not None:
                for key in keys:  # Nobody is to find them, whatever the log still says.
                    entry.offsets.pop(key, None)
                groups.services.events.warning(
                    "commits of a deleted topic remain in the log", reason=str(error)
                )
            if not outstanding:
                ended.set()

        by_entry = [(entry, entry.offsets_of(topics)) for entry in groups.entries.values()]
        affected = [(entry, keys) for entry, keys in by_entry if keys]
        if not affected:
            return
        outstanding = len(affected)
        for entry, keys in affected:
            delete_offsets(groups, entry, keys, partial(one_done, entry, keys))
        groups.services.end_turn()
        await ended.wait()

    # --- snapshots -------------------------------------------------------------------------------

    async def write_due_snapshots(self) -> None:
        """Write the snapshots that are due."""
        for partition in self._groups.log.snapshot_due():
            await self.write_snapshot(partition)

    async def write_snapshot(self, partition: int) -> None:
        """Write the snapshot of one partition of the offsets log."""
        groups = self._groups
        offset = groups.log.state_offset(partition)
        await groups.log.write_snapshot(partition, snapshot_pairs(groups, partition), offset)
