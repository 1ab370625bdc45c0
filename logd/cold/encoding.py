"""Codes one segment: from a lease to a commit.

    lease ─▶ preflight ─▶ PLANNED, durable ─▶ k+m chunks, each read back ─▶ one decode, compared
          ─▶ COMMITTED, durable, with the proof

Invariants:

* No byte goes to a node before the record that names its chunk is durable, so what a crash leaves
  is known, and removed.
* COMMITTED is recorded with a proof of all k+m chunks, or not at all. Whatever fails before, a
  cancellation too, the generation is aborted; its chunks are for `cold.removal`.
* Two encoders never work on one segment: the second has no lease, and would have no record.

Memory: two windows of every chunk (`ec.segment_coder`), however long the segment is. A few segments
are coded at a time; the others wait for a slot. Nothing blocks the loop: the source is read, coded
and compared in threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio

import logd
from ec import placement
from ec.encode import encode
from ec.errors import EcError
from ec.manifest import Manifest, encode_manifest
from ec.profile import Profile as EcProfile
from ec.prove import left_out, prove
from ec.segment import Segment as EcSegment
from ec.segment import draft
from logd.cold.coding_source import CodingSource, CountedSource, Cut, cut_segment, source_of
from logd.cold.life_metrics import LifeMetrics
from logd.cold.partition_view import ColdPartition, key_of
from logd.cold.recompressing import Recompression
from logd.cold.segment_errors import (
    AlreadyCodedError,
    ColdFailedError,
    ColdRefusedError,
    NodesRefusedError,
    busy,
)
from logd.cold.tier import ColdTier
from logd.cold.watched_store import DeviceGate, WatchedStore
from logd.errors import ColdStateError, StorageError
from logd.events import EventLog
from logd.offload import Offload
from logd.policy.cold.leases import Work
from logd.policy.cold.preflight import NodeFacts, Refusal, chunk_bytes_max, preflight
from logd.policy.cold.proof import ChunkCheck, Proof
from logd.policy.cold.values import (
    ENCODING_BYTES,
    ColdState,
    Generation,
    Profile,
    SegmentKey,
)
from logd.policy.tiering import choose_profile
from logd.storage.cold_catalog import Commit, EncodePlan
from logd.storage.segment_source import SegmentSource
from logd.units import MIB

ENCODES_AT_ONCE: Final = 1
"""Segments that are coded at a time: one keeps k+m nodes busy, and two made appends on the same
disk wait twice as long without being done sooner."""

WINDOW_BYTES: Final = MIB
"""Of each chunk at a time. All chunks of a window are written before the next, two at once on a
device: an append that is synced meanwhile waits for little of it."""

SLOWEST_BYTES_PER_S: Final = MIB
PATIENCE_S: Final = 60.0
"""An encoding that takes longer than this and its bytes at that rate is given up: it hangs."""

WRITER: Final = f"logd {logd.__version__}"

AVOIDED_S: Final = 60.0
"""How long a node at which an encoding failed gets no chunk, where others can take it."""


@dataclass(slots=True, eq=False)
class Running:
    """An encoding that is under way.

    Attributes:
        done_bytes: what was read of the source so far.
    """

    source_bytes: int
    done_bytes: int = 0


class Encoder:
    """Codes segments; used by the tiering loop, by `logd cold encode`, and by whoever recodes.

    Attributes:
        running: what is under way, by segment.

    Args:
        random_bytes: gives so many random bytes, for the names of encodings.
        recompression: makes another form of segments of which the topic wants it.
    """

    def __init__(
        self,
        tier: ColdTier,
        *,
        cluster_id: str,
        offload: Offload,
        events: EventLog,
        metrics: LifeMetrics,
        random_bytes: Callable[[int], bytes],
        recompression: Recompression,
        at_once: int = ENCODES_AT_ONCE,
    ) -> None:
        self._tier = tier
        self._cluster_id = cluster_id
        self._offload = offload
        self._events = events
        self._metrics = metrics
        self._random_bytes = random_bytes
        self._recompression = recompression
        self._slots = trio.Semaphore(at_once)
        self._choosing_kernel = trio.Lock()
        self._promised: Counter[str] = Counter()
        self._failed_at_s: dict[str, float] = {}
        self.running: dict[SegmentKey, Running] = {}

    async def encode(
        self, partition: ColdPartition, base_offset: int, *, replaces: Generation | None = None
    ) -> Generation:
        """Code a sealed, hot segment; return its generation, COMMITTED.

        Args:
            replaces: its encoding so far, superseded in the step that commits the new one.

        Raises:
            SegmentBusyError: somebody else works on it. AlreadyCodedError: it is coded.
            ColdRefusedError: it cannot be.
            NodesRefusedError: the nodes cannot take it; the message shows the arithmetic.
            ColdFailedError: given up. StorageError: the catalog or the log could not be used.
        """
        key = key_of(partition, base_offset)
        async with self._slots:
            lease = self._tier.leases.take(Work.ENCODE, [key])
            if lease is None:
                raise busy(self._tier.leases, key)
            try:
                # Somebody may have coded it while this one waited for its slot.
                live = self._tier.coverage(*_place(key)).find(base_offset)
                if live is not None and (replaces is None or live.encoding != replaces.encoding):
                    raise AlreadyCodedError(f"{key}: it is coded already")
                return await self._encode_leased(partition, key, live)
            finally:
                self._tier.leases.give_back(lease)

    async def _encode_leased(
        self, partition: ColdPartition, key: SegmentKey, live: Generation | None
    ) -> Generation:
        if partition.offline is not None:
            raise ColdRefusedError(f"{key}: its partition is offline: {partition.offline}")
        self._check_nodes(partition, key)
        superseded = () if live is None else (live.encoding,)
        return await self._encode_opened(
            partition,
            key,
            partial(source_of, partition.log, key.base_offset),
            end_of=lambda source: _end_offset(partition, key, source),
            settle=lambda commit: self.commit([commit], superseded=superseded),
        )

    async def encode_uncommitted(
        self,
        partition: ColdPartition,
        key: SegmentKey,
        open_source: Callable[[], SegmentSource],
        *,
        end_offset: int,
    ) -> Commit:
        """Code what is to become a segment; return what `commit` takes. It stays PLANNED.

        Who calls this has the segment leased, and commits it or gives it up.

        Args:
            open_source: blocking; opens its bytes.
            end_offset: where the next segment will begin.

        Raises:
            As `encode`; nothing is left of it then.
        """
        assert key in self._tier.leases
        made: list[Commit] = []

        async def keep(commit: Commit) -> None:
            made.append(commit)

        async with self._slots:
            await self._encode_opened(
                partition, key, open_source, end_of=lambda _: end_offset, settle=keep
            )
        return made[0]

    async def _encode_opened(
        self,
        partition: ColdPartition,
        key: SegmentKey,
        open_source: Callable[[], SegmentSource],
        *,
        end_of: Callable[[CodingSource], int],
        settle: Callable[[Commit], Awaitable[None]],
    ) -> Generation:
        await self._abort_left_over(key)
        source = await self._open(partition, open_source)
        try:
            end_offset = end_of(source)
            self.running[key] = Running(source.size_bytes)
            with _in_time(key, source.size_bytes):
                index_bytes = await self._offload.run("cold", _index_bytes, source)
                profile = self.profile_of(
                    partition, source_bytes=source.size_bytes, index_bytes=index_bytes
                )
                return await self._encode_source(
                    partition, key, source, profile, end_offset=end_offset, settle=settle
                )
        finally:
            self.running.pop(key, None)
            with trio.CancelScope(shield=True):
                await self._offload.run("cold", source.close)

    async def _abort_left_over(self, key: SegmentKey) -> None:
        """Abort what a crash cut short; the tiering loop leaves alone what is leased."""
        assert key in self._tier.leases
        for generation in self._tier.generations(key.topic_id, key.partition):
            if generation.key == key and generation.state is ColdState.PLANNED:
                await self._tier.abort(generation.encoding)

    async def _open(
        self, partition: ColdPartition, open_source: Callable[[], SegmentSource]
    ) -> CodingSource:
        """Open what is to be coded: the segment, or its recompressed form.

        Raises:
            StorageError, LogdError: it cannot be read, or there is no space for the other form.
        """
        log = partition.log
        source = await self._offload.run("cold", open_source)
        try:
            return await self._recompression.apply(log, source, partition.settings)
        except BaseException:  # A cancellation too: nobody else closes it.
            source.close()
            raise

    def profile_of(
        self,
        partition: ColdPartition,
        *,
        source_bytes: int = 0,
        index_bytes: int = 0,
        counts_dead: bool = False,
    ) -> Profile:
        """Return the profile of what is coded now (`choose_profile`).

        Raises:
            NodesRefusedError: there are too few nodes for any.
        """
        found = choose_profile(
            partition.settings.cold_profile,
            self._facts(),
            source_bytes=source_bytes,
            index_bytes=index_bytes,
            counts_dead=counts_dead,
        )
        if isinstance(found, str):
            raise NodesRefusedError(found)
        return found

    def is_outdated(self, partition: ColdPartition, live: Generation) -> bool:
        """Return whether a coded segment is to be coded anew: its profile is another one's by now.

        Raises:
            NodesRefusedError: there are too few nodes for any; or nodes are away that count.
        """
        size = live.source_bytes
        wanted = self.profile_of(partition, source_bytes=size, counts_dead=True)
        if live.profile == wanted:
            return False
        now = self.profile_of(partition, source_bytes=size)
        if now != wanted:
            raise NodesRefusedError(
                f"cold.profile=auto means {wanted} with all nodes there, and {now} while some are "
                "dead; bring them back, or say which by cold.profile"
            )
        return True

    def _check_nodes(self, partition: ColdPartition, key: SegmentKey) -> None:
        """Refuse what the nodes cannot take, by the little that is known before it is read.

        Raises:
            NodesRefusedError: so it is; the message shows the arithmetic.
        """
        segment = partition.log.segment_list.with_base(key.base_offset)
        is_shrunk = partition.settings.cold_compression != "none"
        size = 0 if segment is None or is_shrunk else max(segment.size, 0)
        profile = self.profile_of(partition, source_bytes=size)
        needed = chunk_bytes_max(size, profile, index_bytes=0)
        fit = preflight(profile, self._facts(), chunk_bytes=needed)
        if isinstance(fit, Refusal):
            raise NodesRefusedError(fit.reason)

    async def _encode_source(
        self,
        partition: ColdPartition,
        key: SegmentKey,
        source: CodingSource,
        profile: Profile,
        *,
        end_offset: int,
        settle: Callable[[Commit], Awaitable[None]],
    ) -> Generation:
        async with self._choosing_kernel:
            # The first time it is tried out which kernel computes right: not on the loop.
            await self._offload.run("cold", self._tier.codec, profile)
        cut = await self._offload.run("cold", cut_segment, source, profile.k)
        encoding = self._random_bytes(ENCODING_BYTES)
        longest = chunk_bytes_max(source.size_bytes, profile, index_bytes=cut.indexes.size)
        nodes = self._choose_nodes(
            profile, chunk_bytes=longest, seed=int.from_bytes(encoding, "big")
        )
        with self._promise(nodes, longest):
            generation = await self._tier.plan(
                EncodePlan(
                    key=key,
                    encoding=encoding.hex(),
                    profile=profile,
                    next_offset=end_offset,
                    source_bytes=source.size_bytes,
                    min_timestamp_ms=source.min_timestamp_ms,
                    max_timestamp_ms=source.max_timestamp_ms,
                    nodes=nodes,
                )
            )
            try:
                await settle(await self._write_all(partition, generation, source, cut))
            except BaseException as error:  # A cancellation too: nobody goes on with it.
                reason = self._reason(generation, error)
                await self.give_up(generation.encoding, error)
                if isinstance(error, EcError | OSError | ColdStateError):
                    raise ColdFailedError(reason) from error
                raise
        return self._tier.generation(generation.encoding) or generation

    def _reason(self, generation: Generation, error: BaseException) -> str:
        """Return why an encoding is given up, for people; nobody has recorded that yet."""
        now = self._tier.generation(generation.encoding)
        is_planned = now is not None and now.state is ColdState.PLANNED
        if is_planned or not isinstance(error, ColdStateError):
            return f"{generation.key}: {error}"
        return (
            f"{generation.key}: its topic, or these records, were deleted while it was coded, so "
            "the encoding was given up and its chunks are removed; where the topic is still there, "
            "`logd cold encode` codes what is left of it"
        )

    # --- nodes ------------------------------------------------------------------------------------

    def _choose_nodes(self, profile: Profile, *, chunk_bytes: int, seed: int) -> tuple[str, ...]:
        """Return a node for each chunk; those that failed of late only where there are no others.

        Raises:
            NodesRefusedError: there are too few; the message shows the arithmetic.
        """
        facts = self._facts()
        avoided = self._avoided()
        fit = preflight(
            profile, [node for node in facts if node.name not in avoided], chunk_bytes=chunk_bytes
        )
        if isinstance(fit, Refusal) and avoided:
            fit = preflight(profile, facts, chunk_bytes=chunk_bytes)
        if isinstance(fit, Refusal):
            raise NodesRefusedError(fit.reason)
        candidates = [
            replace(each, free_bytes=each.free_bytes - self._promised[each.node])
            for each in self._tier.nodes.candidates()
            if each.node in fit.nodes
        ]
        try:
            placed = placement.place(
                EcProfile(profile.k, profile.m), candidates, chunk_bytes=chunk_bytes, seed=seed
            )
        except EcError as error:
            raise NodesRefusedError(str(error)) from error
        return placed.nodes

    def _facts(self) -> list[NodeFacts]:
        return [self._as_it_is_now(node) for node in self._tier.nodes.facts()]

    def _as_it_is_now(self, node: NodeFacts) -> NodeFacts:
        """Return a node less what others were promised; an open breaker would refuse its chunk."""
        return replace(
            node,
            kept_bytes=node.kept_bytes + self._promised[node.name],
            is_kept_from=self._tier.nodes.breaker(node.name) == "open",
        )

    def _avoided(self) -> frozenset[str]:
        now_s = trio.current_time()
        return frozenset(
            name for name, at_s in self._failed_at_s.items() if now_s - at_s < AVOIDED_S
        )

    @contextmanager
    def _promise(self, nodes: Sequence[str], chunk_bytes: int) -> Iterator[None]:
        """Keep the space of an encoding from those that begin meanwhile."""
        self._promised.update(dict.fromkeys(nodes, chunk_bytes))
        try:
            yield
        finally:
            self._promised.subtract(dict.fromkeys(nodes, chunk_bytes))

    # --- bytes ------------------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit], *, superseded: Sequence[str]) -> None:
        """Commit what is proved, and supersede what it follows, in one transaction.

        Raises:
            ColdStateError, StorageError: the catalog refused; nothing has changed.
        """
        await self._tier.commit(commits, superseded=superseded)
        for commit in commits:
            generation = self._tier.generation(commit.encoding)
            self._metrics.encoded.add()
            self._metrics.encoded_bytes.add(0 if generation is None else generation.source_bytes)

    async def _write_all(
        self,
        partition: ColdPartition,
        generation: Generation,
        source: CodingSource,
        cut: Cut,
    ) -> Commit:
        """Write and prove all chunks; return what is committed then."""
        devices = {node.name: node.device or node.name for node in self._tier.nodes.facts()}
        gates = {device: DeviceGate() for device in devices.values()}
        stores = {
            index: WatchedStore(store, gates[devices[store.node]])
            for index, store in self._tier.stores(generation, "encode").items()
        }
        try:
            manifest = await self._write(partition, generation, source, cut, stores)
        finally:
            self._note_troubles(stores)
        data = encode_manifest(manifest)
        return Commit(generation.encoding, data, _proof(generation, manifest))

    async def _write(
        self,
        partition: ColdPartition,
        generation: Generation,
        source: CodingSource,
        cut: Cut,
        stores: dict[int, WatchedStore],
    ) -> Manifest:
        """Write all chunks and try out what they are good for; return the manifest.

        Raises:
            EcError, OSError: a chunk is not there, or does not give the source back.
        """
        codec, gate = self._tier.codec(generation.profile), self._tier.offload
        encoded = await encode(
            CountedSource(source, partial(self._count, generation.key)),
            draft(
                _described(self._cluster_id, partition, generation, cut),
                codec.profile,
                generation=generation.number,
                encoding=generation.encoding,
                writer=WRITER,
            ),
            cut.indexes,
            [stores[index] for index in range(generation.profile.chunks)],
            codec=codec,
            offload=gate,
            window_bytes=WINDOW_BYTES,
        )
        await prove(source, encoded.manifest, stores, codec=codec, offload=gate)
        return encoded.manifest

    def _count(self, key: SegmentKey, count: int) -> None:
        running = self.running.get(key)
        if running is not None:
            running.done_bytes += count

    def _note_troubles(self, stores: dict[int, WatchedStore]) -> None:
        failed = [store for store in stores.values() if store.trouble is not None]
        # Where none failed and it ended all the same, those hung that had not answered by then.
        failed = failed or [store for store in stores.values() if store.was_cancelled]
        for store in stores.values():
            self._failed_at_s.pop(store.node, None)
        self._failed_at_s.update((store.node, trio.current_time()) for store in failed)

    async def give_up(self, encoding: str, error: BaseException) -> None:
        """Record that nobody goes on; its chunks are removed from now on.

        Where even that fails, the record stays PLANNED and the tiering loop sees to it.
        """
        self._metrics.given_up.add()
        with trio.CancelScope(shield=True):
            try:
                await self._tier.abort(encoding)
            except ColdStateError:
                pass  # Its topic was deleted meanwhile: it is aborted already.
            except StorageError as refused:
                self._events.error(
                    "encoding not recorded as given up",
                    encoding=encoding,
                    reason=str(refused),
                    after=repr(error),
                )


def _end_offset(partition: ColdPartition, key: SegmentKey, source: CodingSource) -> int:
    """Return the offset at which the next segment begins: nothing of this one lies behind it.

    Raises:
        ColdRefusedError: it is empty, gone, or not synced and visible as a whole.
    """
    segment = partition.log.segment_list.with_base(key.base_offset)
    if segment is None or segment.is_active:
        raise ColdRefusedError(f"{key}: there is no sealed segment of that offset any more")
    end_offset = segment.end_bound
    assert source.next_offset <= end_offset
    visible = min(partition.high_watermark, partition.log.synced_offset)
    if source.size_bytes == 0:
        raise ColdRefusedError(f"{key}: it has no records")
    if end_offset > visible:
        raise ColdRefusedError(f"{key}: its records are visible up to offset {visible} only")
    return end_offset


@contextmanager
def _in_time(key: SegmentKey, size_bytes: int) -> Iterator[None]:
    patience_s = PATIENCE_S + size_bytes / SLOWEST_BYTES_PER_S
    with trio.move_on_after(patience_s) as scope:
        yield
    if scope.cancelled_caught:
        raise ColdFailedError(f"{key}: given up after {patience_s:.0f} s: a node hangs")


def _index_bytes(source: CodingSource) -> int:
    """Return the length of a source's two indexes. Blocking."""
    return sum(map(len, source.indexes()))


def _place(key: SegmentKey) -> tuple[bytes, int]:
    return key.topic_id, key.partition


def _described(
    cluster_id: str, partition: ColdPartition, generation: Generation, cut: Cut
) -> EcSegment:
    return EcSegment(
        cluster_id=cluster_id,
        topic=partition.topic_name,
        topic_id=generation.key.topic_id.hex(),
        partition=partition.index,
        base_offset=generation.key.base_offset,
        next_offset=generation.next_offset,
        min_timestamp_ms=generation.min_timestamp_ms,
        max_timestamp_ms=generation.max_timestamp_ms,
        indexes=cut.indexes,
        cuts=cut.cuts,
        first_batches=cut.first_batches,
    )


def _proof(generation: Generation, manifest: Manifest) -> Proof:
    """Return what `encode` and `prove` have shown: both raise where it is not so."""
    checks = tuple(
        ChunkCheck(index, node, is_right=True) for index, node in generation.held.items()
    )
    return Proof(checks, decoded_without=left_out(manifest), decode_is_equal=True)
