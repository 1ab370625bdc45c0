"""Fetch: from a frame to ranges of files, at once or as soon as there is enough.

A fetch looks at its partitions; if what they have reaches min.bytes, or one of them has an error,
it is answered in the same turn. Otherwise it hangs on its partitions as a waiter: the append or the
sync that moves a high watermark wakes it, and its time-out ends it. No task, no cancel scope.

What is not in memory (a segment that is not open, bytes not yet verified or not in the page cache)
is read by a thread first; then it is sent like the rest. So `os.sendfile` on the loop meets warm
pages.

What lies in coded segments is looked up in memory (`logd.cold.reading`). Where it is not there yet
it is read from storage nodes, and the fetch waits for it as it waits for data, at most
remote.fetch.max.wait.ms. Partitions that have enough are answered meanwhile: what comes too late is
left out, and is there when the client asks again.

Rules of Kafka's that are kept: whole batches only; the first batch of the first partition that has
data goes out even if it is larger than every limit; limits are bytes per partition and in all.

Source: Kafka's FetchRequest; KIP-74 (limits), KIP-227 (sessions), KIP-320 (leader epochs), KIP-516.
"""

from __future__ import annotations

from typing import Final, Protocol

from logd.broker.context import Broker
from logd.broker.fetch_coded import CodedLook
from logd.broker.fetch_sessions import (
    FINAL_EPOCH,
    INITIAL_EPOCH,
    NO_SESSION_ID,
    FetchItem,
    FetchSessions,
    PartitionKey,
)
from logd.broker.fetch_shape import FetchShape, learn
from logd.broker.fetch_waiting import WaitingFetch
from logd.broker.partition import Partition
from logd.broker.reply import MixedSlices, Part, Reply, ReplyOwner, SmallSlice, flat
from logd.broker.services import PartitionServices
from logd.cold.reading import ColdReads
from logd.errors import (
    FencedLeaderEpochError,
    LogdError,
    StorageError,
    UnknownLeaderEpochError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from logd.storage.file_slice import FileSlice
from logd.storage.released import ReleasedRange
from logd.wire import fetch_response
from logd.wire.error_codes import code_for
from logd.wire.fetch_response import PartitionFetched, TopicFetched
from logd.wire.messages import fetch as messages
from logd.wire.request_header import decode_request_header

_FIRST_VERSION_WITH_TOPIC_ID: Final = 13
_TOUCH_BYTES: Final = 256 * 1024
SMALL_BYTES: Final = 8 * 1024
"""Up to here a read and one send are cheaper than a send, a sendfile and a send."""

_SMALL_BYTES_IN_ALL: Final = 64 * 1024
"""What one answer holds in memory of such; hundreds of answers may have to wait to be sent."""

FETCH_WAIT_MS_MAX: Final = 10 * 60 * 1000
"""A client may ask to wait longer; it is answered, empty-handed, after this time."""


class FetchConnection(ReplyOwner, Protocol):
    """What Fetch keeps on the connection that a request came on."""

    fetch_shape: FetchShape | None


class FetchHandler:
    """Handles Fetch requests on the serving loop; never waits."""

    def __init__(
        self,
        broker: Broker,
        services: PartitionServices,
        sessions: FetchSessions,
        cold: ColdReads,
    ) -> None:
        self._topics = broker.topics
        self._services = services
        self._sessions = sessions
        self._coded = CodedLook(
            cold,
            services.timers,
            late_s=broker.config.settings.remote_fetch_max_wait_ms / 1000,
        )
        self._files = services.files
        self._bytes_out = broker.metrics.counter(
            "logd_fetch_bytes_total", "Bytes of record batches sent to consumers."
        )
        self.max_bytes = broker.config.settings.fetch_max_bytes

    # --- from the frame to a fetch ---------------------------------------------------------------

    def handle(
        self,
        connection: FetchConnection,
        buffer: bytearray,
        position: int,
        end: int,
        version: int,
        correlation_id: int,
    ) -> Reply:
        """Answer the request at once or later; return the answer to come.

        Raises:
            MalformedRequestError: the connection is to be closed.
        """
        shape = connection.fetch_shape
        if shape is not None and shape.version == version:
            offset_at = position + 8 + len(shape.head)
            if (
                end - offset_at - 8 == len(shape.tail)
                and buffer.startswith(shape.head, position + 8)
                and buffer.startswith(shape.tail, offset_at + 8)
            ):
                offset = int.from_bytes(buffer[offset_at : offset_at + 8], "big", signed=True)
                return self._start_one(connection, shape, offset, correlation_id)
        return self._handle_any(connection, buffer, position, end, version)

    def _start_one(
        self, connection: FetchConnection, shape: FetchShape, offset: int, correlation_id: int
    ) -> Reply:
        like = shape.item
        item = FetchItem(
            topic_name=like.topic_name,
            topic_id=like.topic_id,
            index=like.index,
            offset=offset,
            max_bytes=like.max_bytes,
            leader_epoch=like.leader_epoch,
        )
        fetch = WaitingFetch(
            connection,
            self,
            correlation_id=correlation_id,
            version=shape.version,
            request=shape.request,
            items=[item],
        )
        self._start(fetch, shape.request.max_wait_ms)
        return fetch

    def _handle_any(
        self,
        connection: FetchConnection,
        buffer: bytearray,
        position: int,
        end: int,
        version: int,
    ) -> Reply:
        correlation_id, _, body = decode_request_header(buffer, position, end, 1, version)
        request = messages.decode_request(buffer, version, body, end)
        items = [
            FetchItem(
                topic_name=topic.topic,
                topic_id=topic.topic_id,
                index=wanted.partition,
                offset=wanted.fetch_offset,
                max_bytes=wanted.partition_max_bytes,
                leader_epoch=wanted.current_leader_epoch,
            )
            for topic in request.topics
            for wanted in topic.partitions
        ]
        fetch = WaitingFetch(
            connection,
            self,
            correlation_id=correlation_id,
            version=version,
            request=request,
            items=items,
        )
        try:
            self._join_session(fetch, request)
        except LogdError as error:
            fetch.complete(self._refuse(fetch, error))
            return fetch
        if fetch.session is None and len(items) == 1 and not request.forgotten_topics_data:
            connection.fetch_shape = learn(buffer, position, end, version, request, items[0])
        self._start(fetch, request.max_wait_ms)
        return fetch

    def _join_session(self, fetch: WaitingFetch, request: messages.FetchRequest) -> None:
        now = self._services.turn.started_at
        epoch = request.session_epoch
        if epoch in (FINAL_EPOCH, INITIAL_EPOCH):
            if request.session_id != NO_SESSION_ID:
                self._sessions.close(request.session_id)
            if epoch == INITIAL_EPOCH and fetch.version >= 7:
                fetch.session = self._sessions.open(fetch.items, now=now)
        else:
            fetch.session = self._sessions.resume(
                request.session_id, epoch, fetch.items, _forgotten(request), now=now
            )
            fetch.sent_full = False
            fetch.items = list(fetch.session.items.values())
            if not fetch.items:
                self._sessions.close(request.session_id)
                fetch.session = None
        if fetch.session is not None:
            fetch.session_id = fetch.session.session_id

    def _refuse(self, fetch: WaitingFetch, error: LogdError) -> list[Part]:
        return fetch_response.encode(  # type: ignore[return-value]  # no records in it
            fetch.version,
            fetch.correlation_id,
            [],
            session_id=NO_SESSION_ID,
            error_code=int(code_for(error)),
            read_committed=fetch.read_committed,
        )

    def _start(self, fetch: WaitingFetch, max_wait_ms: int) -> None:
        # A malformed wish for a negative time is a wish for none.
        waits = max_wait_ms > 0 and bool(fetch.items)
        fetch.is_expired = not waits
        if not self.attempt(fetch, final=not waits) and waits and not fetch.pending_reads:
            delay_s = min(max_wait_ms, FETCH_WAIT_MS_MAX) / 1000
            self._services.timers.call_later(delay_s, fetch.expire)

    # --- looking at the partitions ---------------------------------------------------------------

    def attempt(self, fetch: WaitingFetch, *, final: bool) -> bool:
        """Answer if there is enough, or if this is the last chance; else wait on the partitions."""
        results: list[PartitionFetched] = []
        cold: list[tuple[int, Partition, FetchItem, int, int]] = []
        total = 0
        failed = False
        coded = fetch.coded
        if coded is not None:
            coded.is_late = coded.is_answered = False
        for item in fetch.items:
            budget = min(item.max_bytes, fetch.max_bytes - total)
            try:
                partition = self._partition(fetch, item)
                result, offset = self._look(fetch, partition, item, budget, len(results), total)
                if offset >= 0:
                    cold.append((len(results), partition, item, offset, budget))
                    total += max(budget, 1)
                elif result.records is not None:
                    total += result.records.size
            except LogdError as error:
                failed = True
                result = PartitionFetched(item.index, int(code_for(error)), -1, -1, None)
            results.append(result)
        if cold:
            self._read_cold(fetch, results, cold)
            return False
        if (
            failed
            or total >= fetch.min_bytes
            or (final and (total or fetch.coded is None or not fetch.coded.waits))
        ):
            self._answer(fetch, results)
            return True
        self._wait(fetch)
        return False

    def _look(
        self,
        fetch: WaitingFetch,
        partition: Partition,
        item: FetchItem,
        budget: int,
        at: int,
        before: int,
    ) -> tuple[PartitionFetched, int]:
        """Return what the partition has for the item, and what a thread must get.

        `at`: the item's place in the answer. `before`: the bytes of the partitions before it.
        What a thread must get is told by its offset; -1: nothing.
        """
        records: FileSlice | SmallSlice | MixedSlices | None = None
        high_watermark = partition.high_watermark
        cold_offset = -1
        if budget > 0 or not before:
            offset = item.offset
            found: FileSlice | MixedSlices | ReleasedRange | None
            found = partition.try_read(offset, max_bytes=max(budget, 0), min_one=not before)
            if found is None and fetch.coded is not None:
                found = fetch.coded.located.get(at)
            if isinstance(found, ReleasedRange):
                found, offset = self._coded.look(
                    fetch, partition, found, budget=budget, before=before
                )
            if isinstance(found, FileSlice):
                records = self._warm(found, before) if found.size else found
            else:
                records = found
            if records is None:
                cold_offset = offset  # -1 where it is late
        result = PartitionFetched(
            item.index, 0, high_watermark, partition.log.log_start_offset, records
        )
        return result, cold_offset

    def _warm(self, found: FileSlice, before: int) -> FileSlice | SmallSlice | None:
        """Return what can be sent without waiting for the disk; None where it cannot."""
        if found.size > SMALL_BYTES or before > _SMALL_BYTES_IN_ALL:
            cached = self._files.is_cached(found.file, found.position, found.size)
            return found if cached else None
        data = self._files.read_cached_at(found.file, found.position, found.size)
        return SmallSlice(data) if data is not None and len(data) == found.size else None

    def _partition(self, fetch: WaitingFetch, item: FetchItem) -> Partition:
        if fetch.version >= _FIRST_VERSION_WITH_TOPIC_ID:
            topic = self._topics.by_id.get(item.topic_id)
            if topic is None:
                raise UnknownTopicIdError("no topic has this id")
        else:
            topic = self._topics.by_name.get(item.topic_name)
            if topic is None:
                raise UnknownTopicOrPartitionError(f"there is no topic {item.topic_name!r}")
        partition = topic.partition(item.index)
        epoch = item.leader_epoch
        if epoch >= 0 and epoch != partition.leader_epoch:
            if epoch < partition.leader_epoch:
                raise FencedLeaderEpochError(f"leader epoch {epoch} is over")
            raise UnknownLeaderEpochError(f"there is no leader epoch {epoch} yet")
        return partition

    def _wait(self, fetch: WaitingFetch) -> None:
        fetch.stop_waiting()
        for item in fetch.items:
            partition = self._partition(fetch, item)
            partition.wait_for_data(fetch)
            fetch.waiting_on.append(partition)

    # --- what a thread must get ------------------------------------------------------------------

    def _read_cold(
        self,
        fetch: WaitingFetch,
        results: list[PartitionFetched],
        cold: list[tuple[int, Partition, FetchItem, int, int]],
    ) -> None:
        """Read the cold partitions in threads; the last one to finish sends the answer."""
        fetch.stop_waiting()
        fetch.pending_reads = len(cold)
        for number, (at, partition, item, offset, budget) in enumerate(cold):
            self._read_one(fetch, results, at, partition, item, offset, budget, min_one=number == 0)

    def _read_one(
        self,
        fetch: WaitingFetch,
        results: list[PartitionFetched],
        at: int,
        partition: Partition,
        item: FetchItem,
        offset: int,
        budget: int,
        *,
        min_one: bool,
    ) -> None:
        log = partition.log
        files = self._files
        below = partition.high_watermark
        located = frozenset(fetch.coded.located) if fetch.coded is not None else frozenset()

        def job() -> FileSlice | ReleasedRange:
            records = log.read(offset, max_bytes=max(budget, 0), below=below, min_one=min_one)
            if isinstance(records, ReleasedRange):
                return records
            for position in range(0, records.size, _TOUCH_BYTES):
                size = min(_TOUCH_BYTES, records.size - position)
                files.read_at(records.file, records.position + position, size)
            return records

        def deliver(outcome: object, error: BaseException | None) -> None:
            if isinstance(outcome, ReleasedRange):
                fetch.meet_coded().located[at] = outcome
            elif error is None:
                assert isinstance(outcome, FileSlice)
                results[at] = results[at]._replace(records=outcome)
            else:
                code = int(code_for(error if isinstance(error, LogdError) else StorageError))
                results[at] = PartitionFetched(item.index, code, -1, -1, None)
                self._note_failed_read(partition, error)
            fetch.pending_reads -= 1
            if fetch.pending_reads == 0 and fetch.data is None:
                if fetch.coded is not None and fetch.coded.located.keys() - located:
                    self.attempt(fetch, final=True)
                else:
                    self._answer(fetch, results)

        self._services.offload.submit("disk", job, deliver)

    def _note_failed_read(self, partition: Partition, error: BaseException) -> None:
        self._services.events.error(
            "read failed",
            topic=partition.topic_name,
            partition=partition.index,
            reason=str(error) or repr(error),
        )

    # --- the answer ---------------------------------------------------------------------------

    def _answer(self, fetch: WaitingFetch, results: list[PartitionFetched]) -> None:
        fetch.stop_waiting()
        topics: list[TopicFetched] = []
        last: tuple[str, bytes] | None = None
        sent = 0
        for item, result in zip(fetch.items, results, strict=True):
            if fetch.session is not None and not _is_news(fetch, item, result):
                continue
            name = (item.topic_name, item.topic_id)
            if name != last:
                topics.append(TopicFetched(item.topic_name, item.topic_id, []))
                last = name
            topics[-1].partitions.append(result)
            if result.records is not None:
                sent += result.records.size
        self._bytes_out.value += sent
        parts = fetch_response.encode(
            fetch.version,
            fetch.correlation_id,
            topics,
            session_id=fetch.session_id,
            error_code=0,
            read_committed=fetch.read_committed,
        )
        if fetch.coded is not None and fetch.coded.is_answered:
            fetch.complete(flat(parts))  # type: ignore[arg-type]  # all records here are slices
        else:
            fetch.complete(parts)  # type: ignore[arg-type]  # all records here are slices


def _is_news(fetch: WaitingFetch, item: FetchItem, result: PartitionFetched) -> bool:
    """Whether a session's client must hear of the partition; takes note of what it hears."""
    session = fetch.session
    assert session is not None
    has_records = result.records is not None and result.records.size > 0
    news = (
        fetch.sent_full
        or has_records
        or result.error_code != 0
        or result.high_watermark != item.sent_high_watermark
        or result.log_start_offset != item.sent_log_start
    )
    # After an error everything is news again.
    item.sent_high_watermark = result.high_watermark if not result.error_code else -2
    item.sent_log_start = result.log_start_offset
    if has_records and item.key in session.items:
        session.items.move_to_end(item.key)  # The others come first next time.
    return news


def _forgotten(request: messages.FetchRequest) -> list[PartitionKey]:
    return [
        (topic.topic, topic.topic_id, index)
        for topic in request.forgotten_topics_data
        for index in topic.partitions
    ]
