"""`logd consume --group`: read as a member of a consumer group, by the classic protocol.

The order of things is what makes it safe to stop at any moment:

    write a record ──▶ count it as printed ──▶ flush stdout ──▶ commit ──▶ leave

* Only what was flushed is committed: a record may be printed twice after a crash, never not at all.
* A signal only sets a flag. It is looked at between two records, so that what is committed is what
  was printed to the record; another signal, a second later or more, interrupts at once.
* Before partitions are given up to another member, what was printed of them is committed.
* While the server is away the commits of every few seconds fail and are made up for later; the last
  one of all must succeed, or the command fails.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from cli.committer import Committer
from cli.errors import EXIT_TERMINATED, Refused
from cli.kafka import CALL_TIMEOUT_S, Connection, Watermarks, list_watermarks
from cli.places import Where, clamp, locate
from cli.reading import (
    BATCH_RECORDS,
    STALL_S,
    UNREACHABLE_S,
    WAKE_S,
    Output,
    Progress,
    Write,
    stalled,
    take,
)
from cli.render import escape
from cli.stop_flag import stop_flag

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

COMMIT_EVERY_S: Final = 3.0
# How long the group waits for us after a crash, and the library at the end for a dead server.
SESSION_TIMEOUT_MS: Final = 10_000
# How soon we hear that others have come or gone.
HEARTBEAT_MS: Final = 1000
# Where the reader of a pipe leaves, this many records at most went to it uncommitted.
FLUSH_RECORDS: Final = 50
# A rebalance waits for members that are busy; who sits at a terminal is told after this time.
SAY_WAITING_S: Final = 10.0


def consume_in_group(
    connection: Connection,
    group: str,
    topic: str,
    where: Where,
    write: Write,
    *,
    count: int | None,
    follow: bool,
) -> None:
    """Print what the group gives this member; return at the end, with everything committed.

    Raises:
        Refused: the group does not take us, or what was printed could not be committed.
        KeyboardInterrupt: after SIGINT; everything is committed, the group is left.
        BrokenPipeError: the reader of stdout is gone; the same.
    """
    from confluent_kafka import Consumer

    committer = Committer()
    settings = connection.consumer_settings(group)
    settings |= {
        "on_commit": committer.confirm,
        "session.timeout.ms": SESSION_TIMEOUT_MS,
        "heartbeat.interval.ms": HEARTBEAT_MS,
    }
    consumer = Consumer(settings)
    member = Member(connection, consumer, committer, group, topic, where)
    with stop_flag() as stopping:
        try:
            member.begin(count=count, follow=follow)
            with Output() as out:
                member.read(out, write, lambda: stopping.signal is not None)
        finally:
            try:
                member.commit_the_last()
            finally:
                consumer.close()  # Leaves the group.
    if stopping.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if stopping.signal is not None:
        raise click.exceptions.Exit(EXIT_TERMINATED)


class Member:
    """One member of a group that reads one topic."""

    def __init__(
        self,
        connection: Connection,
        consumer: Consumer,
        committer: Committer,
        group: str,
        topic: str,
        where: Where,
    ) -> None:
        self._connection = connection
        self._consumer = consumer
        self._committer = committer
        self._group = group
        self._topic = topic
        self._where = where
        self._progress = Progress({}, None, None)
        self._ends: dict[int, int] | None = None
        self._is_assigned = False
        self._moved_at = time.monotonic()
        self._is_ending = False

    def begin(self, *, count: int | None, follow: bool) -> None:
        """Look at the topic, and ask to join the group."""
        numbers = self._connection.partitions(self._consumer, self._topic)
        if not follow:
            marks = list_watermarks(self._connection, self._topic, numbers)
            self._ends = {partition: mark.high for partition, mark in marks.items()}
        self._progress = Progress({}, None if follow else {}, count)
        if count != 0:
            self._consumer.subscribe(
                [self._topic],
                on_assign=self._take_over,
                on_revoke=self._give_up,
                on_lost=self._lose,
            )

    def read(self, out: Output, write: Write, stops: Callable[[], bool]) -> None:
        """Print records until the end, or until `stops()`."""
        began_at = committed_at = self._moved_at = time.monotonic()
        is_waiting_said = False
        while not self._is_finished() and not stops():
            messages = self._consumer.consume(num_messages=BATCH_RECORDS, timeout=WAKE_S)
            self._print(messages, write, out, stops)
            now = time.monotonic()
            if messages:
                self._moved_at = now
            else:
                out.check_reader()
                self._check_alive(now)
            if now - committed_at >= COMMIT_EVERY_S:
                committed_at = now
                self._commit_soon()
            if not is_waiting_said and now - began_at >= SAY_WAITING_S:
                is_waiting_said = True
                self._say_waiting()

    def _print(
        self, messages: list[Message], write: Write, out: Output, stops: Callable[[], bool]
    ) -> None:
        for count, message in enumerate(messages, 1):
            error = take(self._topic, message, self._progress, write, out.write)
            if error is not None:
                self._flush(out)
                self._check(error)
            if count % FLUSH_RECORDS == 0:
                self._flush(out)
            if stops():
                break
        if messages:
            self._flush(out)
            self._connection.trouble = ""

    def _flush(self, out: Output) -> None:
        out.flush()
        self._committer.flushed.update(self._progress.next_offset)

    def commit_the_last(self) -> None:
        """Commit everything that was printed; nothing is printed after it.

        Raises:
            Refused: it was not possible, so the group will read these records again.
            Unreachable: the server did not answer.
        """
        self._is_ending = True
        deadline = time.monotonic() + CALL_TIMEOUT_S
        self._committer.forgive()
        self._commit_soon()
        while self._committer.pending():
            if self._committer.error is not None or time.monotonic() > deadline:
                raise self._not_committed()
            self._consumer.poll(WAKE_S)  # Serves the commit's answer; what it reads is dropped.

    def _not_committed(self) -> click.ClickException:
        error = self._committer.error
        reason = error.str() if error is not None else "no answer"
        printed = sum(
            offset - self._committer.committed[p] for p, offset in self._committer.pending().items()
        )
        doing = (
            f"group {self._group}: the last {printed} offsets were printed but not committed "
            "and will be read again"
        )
        if error is None:
            return self._connection.unreachable(doing)
        return Refused(f"{doing}: {reason} [{error.name()}]")

    def _commit_soon(self) -> None:
        """Send what is pending; `Committer.confirm` hears of the answer."""
        pending = self._committer.pending()
        if pending:
            self._consumer.commit(offsets=self._places(pending), asynchronous=True)

    def _places(self, offsets: Mapping[int, int]) -> list[TopicPartition]:
        from confluent_kafka import TopicPartition

        return [TopicPartition(self._topic, p, offset) for p, offset in sorted(offsets.items())]

    def _is_finished(self) -> bool:
        # Between two assignments there is nothing to read, and that is not the end.
        return self._progress.left == 0 or (self._is_assigned and self._progress.finished())

    # --- what the group decides --------------------------------------------------------------

    def _take_over(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        numbers = [place.partition for place in places]
        begin = self._begin_of(consumer, places) if numbers else {}
        consumer.assign(self._places(begin))
        self._progress.next_offset.update(begin)
        if self._progress.stop_before is not None and self._ends is not None:
            ends = self._ends  # A partition that is newer than our look ends where it begins.
            self._progress.stop_before |= {p: ends.get(p, offset) for p, offset in begin.items()}
        self._committer.hold(begin)
        self._is_assigned = True
        self._moved_at = time.monotonic()
        if not numbers and self._ends is not None:
            self._say("other members have all partitions, there is nothing to read")

    def _begin_of(self, consumer: Consumer, places: list[TopicPartition]) -> dict[int, int]:
        topic, connection = self._topic, self._connection
        found = connection.call(
            f"offsets of group {self._group}",
            lambda: consumer.committed(places, timeout=CALL_TIMEOUT_S),
        )
        marks = list_watermarks(connection, topic, [place.partition for place in places])
        begin: dict[int, int] = {}
        for place in found:
            if place.error is not None:
                raise connection.translate(place.error, f"offsets of group {self._group}")
            if place.offset >= 0 and self._is_held(place, marks[place.partition]):
                begin[place.partition] = place.offset
        missing = {p: mark for p, mark in marks.items() if p not in begin}
        for p, offset in locate(connection, topic, missing, self._where).items():
            begin[p] = clamp(marks[p], offset)
        return begin

    def _is_held(self, place: TopicPartition, mark: Watermarks) -> bool:
        if mark.low <= place.offset <= mark.high:
            return True
        self._say(
            f"the committed offset {place.offset} of {self._topic} partition {place.partition} is "
            f"out of range ({mark.low} to before {mark.high}), it begins as --from says"
        )
        return False

    def _give_up(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        """Commit what was printed before others go on there. Nothing is read meanwhile."""
        from confluent_kafka import KafkaException

        pending = self._committer.pending()
        if pending and not self._is_ending:
            try:
                consumer.commit(offsets=self._places(pending), asynchronous=False)
            except KafkaException as exception:
                self._say(f"records will be printed again: {exception.args[0].str()}")
        self._lose(consumer, [])

    def _lose(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        consumer.unassign()
        self._is_assigned = False
        self._progress.next_offset.clear()
        if self._progress.stop_before is not None:
            self._progress.stop_before.clear()
        if not self._is_ending:
            self._committer.drop()
        self._moved_at = time.monotonic()

    # --- trouble -----------------------------------------------------------------------------

    def _check(self, error: Any) -> None:
        """Return if the member can go on after this; `error` came in place of a record.

        Raises:
            Refused, Unreachable: it cannot.
        """
        from confluent_kafka import KafkaError

        if error.code() == KafkaError._MAX_POLL_EXCEEDED:
            self._say("nobody took our output for so long that the group has gone on without us")
            return
        if error.code() == KafkaError.INCONSISTENT_GROUP_PROTOCOL:
            raise Refused(
                f"group {self._group} is no group of consumers, or its members assign partitions "
                "in another way than range or roundrobin; read without --group, or stop them first"
            )
        raise self._connection.translate(error, f"group {self._group}")

    def _check_alive(self, now: float) -> None:
        if self._ends is None:
            return  # --follow waits for the server, too.
        waited = now - self._moved_at
        if self._connection.trouble and waited > UNREACHABLE_S:
            raise self._connection.unreachable(f"group {self._group}")
        if self._is_assigned and waited > STALL_S:
            raise stalled(self._connection, self._topic, self._progress)

    def _say_waiting(self) -> None:
        if not self._is_assigned and sys.stderr.isatty():
            self._say("waiting until its other members have joined again")

    def _say(self, text: str) -> None:
        click.echo(escape(f"note: group {self._group}: {text}"), err=True)
