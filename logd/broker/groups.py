"""The coordinator: it owns all groups, feeds their state machines and carries out the effects.

Everything happens on the event loop, and nothing waits: a write goes to the offsets log and comes
back as a call; a deadline is an entry among the timers, one a group. While a group's write is under
way the group goes on with other members' requests.

    request ──stimulus──▶ Group ──effects──▶ answers
                            ▲                writes ──▶ offsets log ──sync──▶ Group.persisted
                            └── timers ── tick

Invariants:

* Effects of a group are carried out in the order in which they came, also where carrying one out
  leads to more; so its writes reach the log in the order of their ids.
* A group's times are those of the monotonic clock; the wall clock only stamps records and decides
  what has expired.

Source: the Kafka protocol guide, "Group Membership API"; KIP-211 (expiry).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, cast

from logd.broker.dynamic_config import DynamicConfig
from logd.broker.group_entry import GroupEntry, GroupLog, LogRecord, OffsetOf
from logd.broker.group_replies import join_response, sync_response
from logd.broker.group_values import encode_stored_group
from logd.broker.reply import Answer
from logd.broker.services import PartitionServices
from logd.broker.topic_names import OFFSETS_TOPIC
from logd.broker.topics import Topics
from logd.errors import LogdError, StorageError
from logd.metrics import Registry
from logd.policy.group.group import Group
from logd.policy.group.values import (
    AnswerJoin,
    AnswerSync,
    Effect,
    GroupLimits,
    GroupState,
    Persist,
)
from logd.record.group_records import encode_group_key
from logd.wire.error_codes import ErrorCode

GROUP_ID_BYTES_MAX: Final = 4096
"""A longer group id is refused with INVALID_GROUP_ID. Kafka's record format ends at 32,767."""

GROUPS_MAX: Final = 1_000_000
"""Groups in all; one more is refused. Some 2 KiB of memory each."""


class Coordinator:
    """All groups of the one broker.

    Args:
        new_uuid: returns the text of a random UUID; member ids end with one.

    Attributes:
        entries: the groups, by id.
        log: the offsets log.
        limits: the settings that groups obey.
        problems: what was wrong with the offsets log at the start, in words.
        stopped: nothing is written any more, since the logs are being closed.
        rebalances, commits: counters.
    """

    def __init__(
        self,
        log: GroupLog,
        topics: Topics,
        config: DynamicConfig,
        services: PartitionServices,
        *,
        metrics: Registry,
        new_uuid: Callable[[], str],
    ) -> None:
        self.log = log
        self.entries: dict[str, GroupEntry] = {}
        self.problems: list[str] = []
        self.stopped = False
        self.new_uuid = new_uuid
        self.services = services
        self.topics = topics
        self.config = config
        settings = config.settings
        self.limits = GroupLimits(
            initial_rebalance_delay_ms=settings.group_initial_rebalance_delay_ms,
            session_timeout_min_ms=settings.group_min_session_timeout_ms,
            session_timeout_max_ms=settings.group_max_session_timeout_ms,
            members_max=settings.group_max_size,
        )
        self.rebalances = metrics.counter(
            "logd_group_rebalances_total", "Generations that groups began."
        )
        self.commits = metrics.counter(
            "logd_offset_commits_total", "Offsets committed: made durable and acknowledged."
        )

    # --- time ------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Return the monotonic clock, in which groups count."""
        return int(self.services.clock.monotonic() * 1000)

    def wall_ms(self) -> int:
        """Return the wall clock."""
        return self.services.clock.now_ms()

    # --- finding ---------------------------------------------------------------------------------

    def refusal(self, group_id: str) -> ErrorCode:
        """Return NONE where the group can be served, or why clients must look elsewhere or wait."""
        topic = self.topics.by_name.get(OFFSETS_TOPIC)
        if topic is None:
            return ErrorCode.NOT_COORDINATOR
        if topic.why_not(self.log.partition_for(group_id)) is not None:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        return ErrorCode.NONE

    def is_served(self, entry: GroupEntry) -> bool:
        """Return whether a group that is here can be served now."""
        topic = self.topics.by_name.get(OFFSETS_TOPIC)
        if topic is None:
            return False
        partition = topic.partitions[entry.partition]
        return partition is not None and partition.offline is None

    async def make_ready(self, group_id: str) -> ErrorCode:
        """Create the offsets log unless it is there; return what `refusal` then says."""
        if not self.log.exists:
            try:
                await self.log.ensure_created()
            except (LogdError, OSError) as error:
                self.services.events.error("offsets topic not created", reason=str(error))
                return ErrorCode.COORDINATOR_NOT_AVAILABLE
        return self.refusal(group_id)

    def find_or_make(self, group_id: str) -> GroupEntry | None:
        """Return a group, made if need be; None where there are GROUPS_MAX already."""
        entry = self.entries.get(group_id)
        if entry is None and len(self.entries) < GROUPS_MAX:
            entry = self.entries[group_id] = GroupEntry(
                Group(group_id), self.log.partition_for(group_id)
            )
        return entry

    # --- effects ---------------------------------------------------------------------------------

    def run(self, entry: GroupEntry, effects: Iterable[Effect]) -> None:
        """Carry out what a stimulus led to, then see what has changed."""
        entry.effects.extend(effects)
        if entry.running:
            return  # The caller further up goes on with them.
        entry.running = True
        try:
            while entry.effects:
                self._carry_out(entry, entry.effects.popleft())
        finally:
            entry.running = False
        self._settle(entry)

    def _carry_out(self, entry: GroupEntry, effect: Effect) -> None:
        if isinstance(effect, Persist):
            self._persist(entry, effect)
            return
        answer = cast("Answer", effect.reply)
        if isinstance(effect, AnswerJoin):
            answer.answer(join_response(effect.answer, answer.version))
        else:
            assert isinstance(effect, AnswerSync)
            answer.answer(sync_response(effect.answer))

    def _persist(self, entry: GroupEntry, effect: Persist) -> None:
        group = entry.group
        value = encode_stored_group(effect.group, state_timestamp_ms=self.wall_ms())
        write = GroupWrite()
        entry.in_flight.add(write)

        def done(error: LogdError | None) -> None:
            if error is None:
                entry.stored = value
            entry.landed(write)
            code = None if error is None else write_error(error)
            if entry.group is group:
                self._stimulate(
                    entry, lambda: group.persisted(effect.write_id, code, now_ms=self.now_ms())
                )

        self.append(entry, [(encode_group_key(group.group_id), value)], done)

    def _stimulate(self, entry: GroupEntry, stimulus: Callable[[], Iterable[Effect]]) -> None:
        """Run what comes from no request, and so has nobody to fail for it."""
        try:
            self.run(entry, stimulus())
        except Exception as error:  # A bug of ours must cost one group, not the server.
            self.services.events.error(
                "group failed", group=entry.group.group_id, reason=repr(error)
            )

    def append(
        self,
        entry: GroupEntry,
        records: Sequence[LogRecord],
        done: Callable[[LogdError | None], None],
    ) -> None:
        """Append one batch of a group's records; `done` is called once, maybe at once."""
        if self.stopped:
            done(StorageError("the server is stopping"))
            return
        self.log.append(entry.partition, records, done)

    def _settle(self, entry: GroupEntry) -> None:
        """Count what has changed, set the timer, forget the group if it is nothing any more."""
        group = entry.group
        if group.generation != entry.generation:
            entry.generation = group.generation
            self.rebalances.value += 1
        if group.state is not entry.state:
            entry.state = group.state
            is_empty = group.state is GroupState.EMPTY
            entry.empty_since_ms = self.wall_ms() if is_empty else None
        self.arm(entry)
        self.forget_if_unused(entry)

    def forget_if_unused(self, entry: GroupEntry) -> None:
        """Let go of a group that holds nothing; it is made again when it is needed."""
        group_id = entry.group.group_id
        if entry.is_unused and self.entries.get(group_id) is entry:
            del self.entries[group_id]

    # --- time-outs -------------------------------------------------------------------------------

    def arm(self, entry: GroupEntry) -> None:
        """See to it that the group's next deadline is met."""
        deadline_ms = entry.group.next_deadline_ms
        if deadline_ms is None:
            return
        if entry.timer_at_ms is not None and entry.timer_at_ms <= deadline_ms:
            return  # That one sets the next.
        entry.timer_at_ms = deadline_ms
        delay_s = max(0, deadline_ms - self.now_ms()) / 1000
        self.services.timers.call_later(delay_s, partial(self._tick, entry, deadline_ms))

    def tick(self, group_id: str) -> None:
        """Do what is due in a group, if it exists; its timer may be some milliseconds late."""
        entry = self.entries.get(group_id)
        if entry is not None and not self.stopped:
            self._stimulate(entry, lambda: entry.group.tick(self.now_ms()))

    def _tick(self, entry: GroupEntry, deadline_ms: int) -> None:
        if entry.timer_at_ms != deadline_ms or self.stopped:
            return  # Else an earlier one was set meanwhile.
        entry.timer_at_ms = None
        self._stimulate(entry, lambda: entry.group.tick(self.now_ms()))


class GroupWrite:
    """A group's own record in flight; it sets no offset."""

    __slots__ = ()
    keys: Sequence[OffsetOf] = ()


def write_error(error: LogdError) -> ErrorCode:
    """Return what clients are told where the offsets log refused a write."""
    if isinstance(error, StorageError):
        return ErrorCode.COORDINATOR_NOT_AVAILABLE
    return ErrorCode.UNKNOWN_SERVER_ERROR
