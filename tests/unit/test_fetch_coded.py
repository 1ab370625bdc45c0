"""A fetch that meets coded segments: what it waits for, how long, and what goes out meanwhile."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from logd.broker.fetch import FetchHandler
from logd.broker.fetch_sessions import FetchSessions
from logd.broker.reply import Reply, SmallSlice
from logd.broker.timers import Timers
from logd.broker.turn import Turn
from logd.clock import Clock
from logd.cold.reading import RUN_BYTES, ColdReads
from logd.cold.runs import MemorySlice
from logd.config import load_server_settings
from logd.events import EventLog
from logd.metrics import Registry
from logd.offload import InlineOffload
from logd.record.build import encode_batch
from logd.storage.file_slice import FileSlice, empty_slice
from logd.storage.files import Files
from logd.storage.released import ReleasedRange
from logd.wire.error_codes import ErrorCode
from logd.wire.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    PartitionData,
    decode_response,
    encode_request,
)
from logd.wire.request_header import decode_response_header, request_header
from tests.cold_rig import KEY, MIB, FakeTier, Segment, make_segment

VERSION = 12
FETCH = 1
CODED = KEY[1]
HOT = 0
WAIT_S = 0.5


def hot_batches(first_offset: int, count: int) -> list[bytes]:
    """Batches of one record each."""
    found = []
    for offset in range(first_offset, first_offset + count):
        batch = bytearray(encode_batch([(None, b"hot" * 30, [], 1_700_000_000_000)]))
        batch[0:8] = offset.to_bytes(8, "big")
        found.append(bytes(batch))
    return found


class Partition:
    """Coded segments, and behind them a file: as much of a partition as a fetch needs."""

    topic_name = "orders"
    topic_id = KEY[0]
    leader_epoch = 0
    offline = None

    def __init__(self, path: Path, index: int, segments: Sequence[Segment], hot: int) -> None:
        self.index = index
        self.segments = segments
        self.hot_start = segments[-1].next_offset if segments else 0
        self.batches = hot_batches(self.hot_start, hot)
        self.high_watermark = self.hot_start + hot
        self.log = SimpleNamespace(log_start_offset=0, read=self.read)
        self.files = Files()
        path.write_bytes(b"".join(self.batches))
        self.file = self.files.open_read(str(path))
        self.waiting: list[Any] = []
        self.knows_index = True
        self.gap: ReleasedRange | None = None

    def try_read(self, offset: int, *, max_bytes: int, min_one: bool) -> Any:
        if not self.knows_index:
            return None
        return self.read(offset, max_bytes=max_bytes, below=self.high_watermark, min_one=min_one)

    def read(self, offset: int, *, max_bytes: int, below: int, min_one: bool) -> Any:
        if offset >= below:
            return empty_slice(offset)
        if self.gap is not None and offset == self.gap.wanted_offset:
            return self.gap
        for segment in self.segments:
            if segment.base_offset <= offset < segment.next_offset:
                return segment.at(offset)
        size = len(self.batches[0])
        at, count = offset - self.hot_start, max(max_bytes // size, int(min_one))
        count = min(count, len(self.batches) - at)
        return FileSlice(self.file, at * size, count * size, offset + count)

    def expected(self, offset: int, size: int) -> bytes:
        whole = b"".join(segment.source for segment in self.segments) + b"".join(self.batches)
        if self.segments and offset < self.hot_start:
            segment = next(each for each in self.segments if offset < each.next_offset)
            start = sum(
                len(each.source)
                for each in self.segments
                if each is not segment and each.base_offset < segment.base_offset
            )
            start += segment.positions[(offset - segment.base_offset) // 10]
        else:
            coded = sum(len(segment.source) for segment in self.segments)
            start = coded + (offset - self.hot_start) * len(self.batches[0])
        return whole[start : start + size]

    def wait_for_data(self, fetch: Any) -> None:
        self.waiting.append(fetch)

    def forget_fetch(self, fetch: Any) -> None:
        if fetch in self.waiting:
            self.waiting.remove(fetch)


class Owner:
    """A connection."""

    is_ready = False
    fetch_shape: Any = None

    def __init__(self) -> None:
        self.answered = trio.Event()

    def mark_ready(self) -> None:
        self.answered.set()

    def close_for(self, reason: str) -> None:
        raise AssertionError(reason)


class Rig:
    """A handler over two partitions: one of two coded segments and hot data, one that is hot."""

    def __init__(self, path: Path) -> None:
        first = make_segment([20_000] * 30)
        second = make_segment([90_000] * 40, base_offset=first.next_offset, seed=4)
        self.segments = (first, second)
        self.tier = FakeTier(self.segments)
        self.files, self.turn, self.timers = Files(), Turn(), Timers()
        self.offload = InlineOffload()
        self.events = EventLog(io.StringIO(), "text", Clock())
        config = load_server_settings(file=None, environment={}, flags={})
        self.coded = Partition(path / "coded", CODED, self.segments, hot=50)
        self.hot = Partition(path / "hot", HOT, (), hot=100)
        parts = {CODED: self.coded, HOT: self.hot}
        topic = SimpleNamespace(partition=parts.__getitem__)
        broker = SimpleNamespace(
            topics=SimpleNamespace(by_name={"orders": topic}, by_id={KEY[0]: topic}),
            metrics=Registry(), config=config,
        )  # fmt: skip
        services = SimpleNamespace(
            files=self.files, turn=self.turn, timers=self.timers, offload=self.offload,
            events=self.events,
        )  # fmt: skip
        self.reads = ColdReads(
            self.tier, covered=self.tier, files=self.files, events=self.events,
            metrics=Registry(), ahead_bytes=64 * MIB, wake=self._wake,
        )  # fmt: skip
        self.owner = Owner()
        sessions = FetchSessions(slots=10, random_id=lambda: 77)
        self.handler = FetchHandler(
            cast("Any", broker), cast("Any", services), sessions, self.reads
        )

    def _wake(self, waiters: Any) -> None:
        self.turn.woken.extend(waiters)
        self.turn.wake()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.reads.run)
            nursery.start_soon(self.timers.run)
            yield
            nursery.cancel_scope.cancel()

    def use(self, segments: Sequence[Segment]) -> None:
        """Let the partition have these coded segments instead."""
        made = FakeTier(segments)
        self.tier.segments, self.tier.nodes = made.segments, made.nodes
        self.coded.segments = segments

    def delay(self, seconds: float) -> None:
        """Let all nodes take so long."""
        for node in self.tier.nodes.values():
            node.delay_s = seconds

    def ask(
        self, *wanted: tuple[int, int], max_wait_ms: int = 30_000, min_bytes: int = 1,
        max_bytes: int = 50 * MIB, partition_bytes: int = MIB, session_epoch: int = -1,
        session_id: int = 0, version: int = VERSION,
    ) -> Reply:  # fmt: skip
        """Begin a fetch of (partition, offset) each."""
        request = FetchRequest(
            max_wait_ms=max_wait_ms, min_bytes=min_bytes, max_bytes=max_bytes,
            session_id=session_id, session_epoch=session_epoch,
            topics=[
                FetchTopic(
                    topic="orders",
                    partitions=[
                        FetchPartition(
                            partition=index, fetch_offset=offset,
                            partition_max_bytes=partition_bytes,
                        )
                        for index, offset in wanted
                    ],
                )
            ] if wanted else [],
        )  # fmt: skip
        frame = bytearray(request_header(FETCH, version, 5, "c") + encode_request(request, version))
        return self.handler.handle(self.owner, frame, 0, len(frame), version, 5)

    async def answer(self, reply: Reply, *, version: int = VERSION) -> dict[int, PartitionData]:
        """Wait for an answer; return it by partition."""
        while reply.data is None:
            self.owner.answered = trio.Event()
            await self.owner.answered.wait()
        return self.decoded(reply, version=version)

    def decoded(self, reply: Reply, *, version: int = VERSION) -> dict[int, PartitionData]:
        assert reply.data is not None
        data = b"".join(map(self._bytes, reply.data))
        _, at = decode_response_header(data, 4, len(data), FETCH, version)
        response = decode_response(data, version, at, len(data))
        assert response.error_code == 0
        return {
            part.partition_index: part for topic in response.responses for part in topic.partitions
        }

    def _bytes(self, part: Any) -> bytes:
        if isinstance(part, bytes):
            return part
        if isinstance(part, SmallSlice | MemorySlice):
            return bytes(part.data)
        assert isinstance(part, FileSlice)
        return self.files.read_at(part.file, part.position, part.size)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def records(part: PartitionData) -> bytes:
    return bytes(part.records or b"")


def next_offset(data: bytes, offset: int) -> int:
    """Where a consumer goes on."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 8 : at + 12], "big") + 12
        last = int.from_bytes(data[at + 23 : at + 27], "big")
        offset = int.from_bytes(data[at : at + 8], "big") + last + 1
        at += size
    assert at == len(data)
    return offset


@pytest.mark.parametrize("partition_bytes", [1, 50_000, MIB])
@pytest.mark.parametrize("lost", [0, 2])
async def test_a_consumer_crosses_the_border(
    rig: Rig, autojump_clock: MockClock, partition_bytes: int, lost: int
) -> None:
    """From coded segments into hot data, every byte once, whatever the limit."""
    for index in range(lost):
        rig.tier.nodes[f"n{index}"].is_gone = True
    offset = rig.coded.segments[0].base_offset
    async with rig.running():
        while offset < rig.coded.high_watermark:
            reply = rig.ask((CODED, offset), partition_bytes=partition_bytes)
            part = (await rig.answer(reply))[CODED]
            assert part.error_code == 0
            assert part.high_watermark == rig.coded.high_watermark
            data = records(part)
            assert data, "it waits rather than answer with nothing"
            assert data == rig.coded.expected(offset, len(data))
            offset = next_offset(data, offset)
    assert offset == rig.coded.high_watermark


async def test_a_late_partition_comes_back_empty_and_is_there_next_time(
    rig: Rig, autojump_clock: MockClock
) -> None:
    """A fetch waits remote.fetch.max.wait.ms; its read goes on, so the next one has it at once."""
    rig.delay(0.9)
    base = rig.coded.segments[0].base_offset
    async with rig.running():
        began = trio.current_time()
        part = (await rig.answer(rig.ask((CODED, base))))[CODED]
        assert (part.error_code, records(part)) == (0, b"")
        assert trio.current_time() - began == pytest.approx(WAIT_S, abs=0.05)
        await trio.sleep(1)
        reply = rig.ask((CODED, base))
        assert reply.data is not None
        assert (
            records(rig.decoded(reply)[CODED])
            == rig.coded.expected(base, 600_000)[: len(records(rig.decoded(reply)[CODED]))]
        )


async def test_a_client_that_does_not_wait_is_waited_for_all_the_same(
    rig: Rig, autojump_clock: MockClock
) -> None:
    """max_wait 0: what lies in coded segments still has its time, as in Kafka."""
    rig.delay(0.2)
    base = rig.coded.segments[0].base_offset
    async with rig.running():
        for max_wait_ms in (0, 50):
            part = (await rig.answer(rig.ask((CODED, base), max_wait_ms=max_wait_ms)))[CODED]
            assert records(part)
            base += 500


async def test_hot_partitions_are_answered_meanwhile(rig: Rig, autojump_clock: MockClock) -> None:
    """What is hot does not wait for what is coded; nor does data that is appended meanwhile."""
    rig.delay(1000)
    base = rig.coded.segments[0].base_offset
    async with rig.running():
        reply = rig.ask((CODED, base), (HOT, 0))
        found = rig.decoded(reply)
        assert records(found[CODED]) == b""
        assert records(found[HOT]) == b"".join(rig.hot.batches)
        rig.hot.high_watermark = 90
        reply = rig.ask((CODED, base), (HOT, 90))
        await trio.sleep(0.1)
        assert reply.data is None
        rig.hot.high_watermark = 100
        for fetch in list(rig.hot.waiting):
            fetch.wake()
        assert records(rig.decoded(reply)[HOT]) == b"".join(rig.hot.batches[90:])


async def test_a_late_partition_takes_no_room_from_others(
    rig: Rig, autojump_clock: MockClock
) -> None:
    """With a limit that one partition fills, the ones behind a late one are still served."""
    rig.delay(1000)
    base = rig.coded.segments[0].base_offset
    async with rig.running():
        found = rig.decoded(rig.ask((CODED, base), (HOT, 0), max_bytes=10, partition_bytes=10))
        assert records(found[HOT]) == rig.hot.batches[0]


async def test_limits_hold_for_both(rig: Rig) -> None:
    """Bytes a partition and in all; the first batch of the first partition in any case."""
    base = rig.coded.segments[0].base_offset
    async with rig.running():
        rig.ask((CODED, base))
        await wait_all_tasks_blocked()
        found = await rig.answer(rig.ask((CODED, base), (HOT, 0), max_bytes=10))
        assert records(found[CODED]) == rig.coded.segments[0].batches[0]
        assert records(found[HOT]) == b""
        found = await rig.answer(rig.ask((HOT, 0), (CODED, base), partition_bytes=30_000))
        assert records(found[CODED]) == rig.coded.segments[0].batches[0]
        assert len(records(found[HOT])) <= 30_000
        found = await rig.answer(rig.ask((HOT, 0), (CODED, base), partition_bytes=100))
        assert records(found[HOT])
        assert records(found[CODED]) == b""


async def test_min_bytes_are_waited_for(rig: Rig) -> None:
    """More than one run holds is read before the answer, as far as the segment goes."""
    second = rig.coded.segments[1]
    async with rig.running():
        reply = rig.ask(
            (CODED, second.base_offset), min_bytes=2 * RUN_BYTES, partition_bytes=3 * MIB
        )
        data = records((await rig.answer(reply))[CODED])
        assert len(data) >= 2 * RUN_BYTES
        assert data == rig.coded.expected(second.base_offset, len(data))


async def test_offsets_that_cannot_be_read_are_an_error_of_their_partition(
    rig: Rig, autojump_clock: MockClock
) -> None:
    """KAFKA_STORAGE_ERROR for it, records for the others, in every fetch."""
    for index in (0, 1, 2):
        rig.tier.nodes[f"n{index}"].is_gone = True
    base = rig.coded.segments[0].base_offset
    async with rig.running():
        part = (await rig.answer(rig.ask((CODED, base))))[CODED]
        assert part.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        for _ in range(3):
            found = rig.decoded(rig.ask((CODED, base), (HOT, 0)))
            assert found[CODED].error_code == ErrorCode.KAFKA_STORAGE_ERROR
            assert records(found[HOT])


async def test_an_index_that_is_not_open_is_opened_by_a_thread(
    rig: Rig, autojump_clock: MockClock
) -> None:
    """The log finds the place in a thread; then the fetch goes on as any other."""
    rig.coded.knows_index = False
    base = rig.coded.segments[0].base_offset
    async with rig.running():
        reply = rig.ask((CODED, base))
        assert reply.data is None
        rig.offload.deliver()
        part = (await rig.answer(reply))[CODED]
        assert records(part) == rig.coded.expected(base, len(records(part)))
        assert records(part)


async def test_a_session_hears_of_what_was_late(rig: Rig, autojump_clock: MockClock) -> None:
    """Left out when it is late, there with the next fetch of the session."""
    rig.delay(0.9)
    base = rig.coded.segments[0].base_offset
    async with rig.running():
        found = await rig.answer(rig.ask((CODED, base), session_epoch=0))
        assert records(found[CODED]) == b""
        await trio.sleep(1)
        found = await rig.answer(rig.ask(session_id=77, session_epoch=1))
        assert records(found[CODED])


@pytest.mark.parametrize(("version", "is_read"), [(9, False), (10, True)])
async def test_zstd_is_not_sent_to_clients_from_before_it(
    rig: Rig, version: int, is_read: bool
) -> None:
    """Segments may have been compressed again for their chunks; old clients are told (KIP-110)."""
    segment = make_segment([5_000] * 5, codec=4, seed=11)
    rig.use([segment])
    async with rig.running():
        found = await rig.answer(
            rig.ask((CODED, segment.base_offset), version=version), version=version
        )
        if is_read:
            assert records(found[CODED]) == segment.source
        else:
            assert found[CODED].error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE


async def test_an_abandoned_fetch_is_left_alone(rig: Rig, autojump_clock: MockClock) -> None:
    """Its connection is gone; the read goes on, and nobody is answered twice."""
    rig.delay(0.3)
    async with rig.running():
        reply = rig.ask((CODED, rig.coded.segments[0].base_offset))
        reply.abandon()
        await trio.sleep(2)
        await wait_all_tasks_blocked()
        assert reply.data == b""


async def test_where_a_segment_has_nothing_left_the_next_one_is_read(rig: Rig) -> None:
    """Compaction left a gap at a segment's end: the reader is led on into what follows."""
    first = rig.coded.segments[0]
    gap = 7
    generation = first.generation
    object.__setattr__(generation, "next_offset", generation.next_offset + gap)
    second = make_segment([1000] * 3, base_offset=generation.next_offset, seed=9)
    rig.tier.segments = {each.generation.encoding: each for each in (first, second)}
    for placement, chunk, data in zip(
        second.generation.placements, second.encoded.ids, second.encoded.files, strict=True
    ):
        rig.tier.nodes[placement.node].files[chunk.name] = data
    rig.coded.segments = (first, second)
    wanted = first.next_offset - 2
    rig.coded.gap = ReleasedRange(
        first.base_offset, first.positions[-1], len(first.source), wanted, first.next_offset
    )
    async with rig.running():
        part = (await rig.answer(rig.ask((CODED, wanted))))[CODED]
        assert records(part) == second.source
