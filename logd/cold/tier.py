"""What the catalog says of coded segments, in memory, and every change of it.

The catalog is the truth; what is here is its image. A change is one call here: its transaction runs
in the catalog's thread, what it changed is read back there, and the image follows before the call
returns, also where its caller was cancelled meanwhile. Changes go one at a time, so the image never
goes back. Who looks gets immutable values: a `Coverage` that a reader holds stays as it is.

Only what a change touched is read again: with ten thousand generations a change costs as much as
with ten.

Nothing here works on segments. Encoders, readers and the rest take leases (`leases`), change the
catalog through here, and hear of each other's changes (`on_change`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from logd.clock import Clock
from logd.cold.gate import Gate
from logd.cold.holdings import Holdings
from logd.cold.nodes import NodeServices, StorageNodes
from logd.errors import ColdStateError, DataDirectoryError, LogdError
from logd.policy.cold.coverage import Coverage
from logd.policy.cold.leases import Leases
from logd.policy.cold.proof import HotCopy, ReleaseCheck, ReleaseTerms
from logd.policy.cold.values import LIVE, Generation, Gone, Profile, SegmentKey, StorageNode
from logd.storage.cold_catalog import ColdCatalog, Commit, EncodePlan
from logd.storage.released import ReleasedSegment

if TYPE_CHECKING:
    from ec.codec import Codec
    from ec.kernels.operands import Kernel
    from ec.manifest import Manifest
    from ec.store.guarded import GuardedStore
    from logd.cold.node_watch import Purpose

T = TypeVar("T")

MANIFESTS_MAX: Final = 256
"""Manifests kept decoded: some 20 KiB each."""

MANIFESTS_AT_ONCE: Final = 32
"""So many are read before somebody else has the catalog's thread."""

PartitionKey = tuple[bytes, int]
"""Topic id and number."""

_NONE: Final = Coverage()


class ColdTier:
    """See the module. Everything here is for the event loop.

    Attributes:
        catalog: for those who only read, in the catalog's thread; changes go through the methods.
        nodes: the storage nodes.
        leases: who works on which segments.
        holdings: what each node holds, by number and bytes.
        kernel_in_use: what computes here, for people; None before the first node.
        offload: threads for coding, as the library wants them.
        on_change: called with the partitions whose generations changed, after each change.
    """

    def __init__(self, catalog: ColdCatalog, services: NodeServices, clock: Clock) -> None:
        self.catalog: Final = catalog
        self.nodes: Final = StorageNodes(self, services)
        self.leases: Final = Leases()
        self.holdings: Final = Holdings()
        self.offload: Final = Gate(services.offload, "cold")
        self.on_change: Final[list[Callable[[Collection[PartitionKey]], None]]] = []
        self._services = services
        self._clock = clock
        self._changing = trio.Lock()
        self._sequence = 0
        self._generations: dict[str, Generation] = {}
        self._by_partition: dict[PartitionKey, dict[str, Generation]] = {}
        self._coverages: dict[PartitionKey, Coverage] = {}
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._choosing = Lock()
        self._kernel: Kernel | None = None
        self.kernel_in_use: str | None = None
        self._codecs: dict[Profile, Codec] = {}

    # --- start ------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the catalog, open the nodes, and ask each once how it is.

        Raises:
            DataDirectoryError: a node has seen a later catalog than this one.
            StorageError: the catalog cannot be read.
        """
        catalog = self.catalog

        def read() -> tuple[int, list[StorageNode], list[Generation]]:
            return catalog.sequence(), catalog.nodes(), catalog.generations()

        self._sequence, nodes, generations = await self._services.offload.run("catalog", read)
        self._take(generations, ())
        await self.nodes.open(nodes)
        if self.nodes.stale is not None:
            raise DataDirectoryError(self.nodes.stale)

    async def run(self) -> None:
        """Watch the nodes, and find out in the background what they hold, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.nodes.run)
            nursery.start_soon(self._learn_lengths)

    async def _learn_lengths(self) -> None:
        """Read the lengths of chunk files from all manifests, some at a time."""
        if self.nodes.names():
            await self._services.offload.run("cold", self._choose_kernel)
        waiting = self.holdings.unknown(self._generations.values())
        for at in range(0, len(waiting), MANIFESTS_AT_ONCE):
            encodings = waiting[at : at + MANIFESTS_AT_ONCE]
            try:
                found = await self._services.offload.run("catalog", self._lengths, encodings)
            except LogdError as error:
                self._services.events.error("manifests cannot be read", reason=str(error))
                return
            for encoding, lengths in found.items():
                generation = self._generations.get(encoding)
                if generation is not None:
                    self.holdings.learn(generation, lengths)
        self.holdings.is_complete = True

    def _lengths(self, encodings: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Return the lengths of chunk files, of those that have a manifest. In a thread."""
        from ec.segment import file_bytes

        lengths = {}
        for encoding in encodings:
            data = self.catalog.manifest(encoding)
            if data is not None:
                try:
                    lengths[encoding] = file_bytes(_decoded(encoding, data))
                except ColdStateError as error:
                    self._services.events.error("manifest cannot be read", reason=str(error))
        return lengths

    # --- looking ----------------------------------------------------------------------------------

    @property
    def sequence(self) -> int:
        """How far the catalog has come, as nodes are told."""
        return self._sequence

    def generation(self, encoding: str) -> Generation | None:
        """Return the generation of an encoding, of whatever state; None: there is none."""
        return self._generations.get(encoding)

    def generations(
        self, topic_id: bytes | None = None, partition: int | None = None
    ) -> tuple[Generation, ...]:
        """Return generations of every state: all, of a topic, or of one of its partitions.

        Sorted by segment and number where a topic is named.
        """
        if topic_id is None:
            return tuple(self._generations.values())
        found = [
            each
            for key, several in self._of_topic(topic_id, partition)
            for each in several.values()
        ]
        return tuple(sorted(found, key=lambda each: (each.key, each.number)))

    def _of_topic(
        self, topic_id: bytes, partition: int | None
    ) -> Iterable[tuple[PartitionKey, dict[str, Generation]]]:
        if partition is not None:
            found = self._by_partition.get((topic_id, partition))
            return () if found is None else (((topic_id, partition), found),)
        return ((key, found) for key, found in self._by_partition.items() if key[0] == topic_id)

    def coverage(self, topic_id: bytes, partition: int) -> Coverage:
        """Return the live generations of a partition; the value never changes."""
        return self._coverages.get((topic_id, partition), _NONE)

    def released(self, topic_id: bytes, partition: int) -> Sequence[ReleasedSegment]:
        """Return the segments of which the .log may be absent, by offset.

        Committed ones are among them: a .log that somebody lost is read from chunks, as any other
        that is in chunks only, and start-up says that it is missing.
        """
        return [
            ReleasedSegment(
                base_offset=each.key.base_offset,
                next_offset=each.next_offset,
                size_bytes=each.source_bytes,
                max_timestamp_ms=each.max_timestamp_ms,
                min_timestamp_ms=each.min_timestamp_ms,
            )
            for each in self.coverage(topic_id, partition).generations
            if each.source_bytes and each.next_offset > each.key.base_offset
        ]

    def is_live(self, encoding: str) -> bool:
        """Return whether an encoding is COMMITTED or RELEASED. May be called in threads."""
        found = self._generations.get(encoding)
        return found is not None and found.state in LIVE

    async def gone(self, encoding: str) -> Gone | None:
        """Return what the catalog remembers of a generation that is gone.

        Raises:
            StorageError: the catalog cannot be read.
        """
        return await self._services.offload.run("catalog", self.catalog.gone, encoding)

    async def manifest(self, encoding: str) -> Manifest:
        """Return a committed generation's manifest, decoded.

        Raises:
            ColdStateError: there is none, or it cannot be read.
            StorageError: the catalog cannot be read.
        """
        kept = self._manifests.get(encoding)
        if kept is not None:
            self._manifests.move_to_end(encoding)
            return kept
        data = await self._services.offload.run("catalog", self.catalog.manifest, encoding)
        if data is None:
            raise ColdStateError(f"no manifest is known of the encoding {encoding}")
        generation = self._generations.get(encoding)
        try:
            manifest = _decoded(encoding, data)
        except ColdStateError as error:
            raise ColdStateError(f"{error}{_where_else(generation)}") from error
        if generation is not None:
            self._keep(encoding, manifest)
        return manifest

    def _keep(self, encoding: str, manifest: Manifest) -> None:
        self._manifests[encoding] = manifest
        while len(self._manifests) > MANIFESTS_MAX:
            self._manifests.popitem(last=False)

    def stores(self, generation: Generation, purpose: Purpose = "serve") -> dict[int, GuardedStore]:
        """Return the store of each chunk that has a place, by the chunk's index."""
        return {index: self.nodes.store(node, purpose) for index, node in generation.held.items()}

    def codec(self, profile: Profile) -> Codec:
        """Return what codes a profile; may be called in threads.

        The first call tries out which kernel computes right; `run` makes it, where there are nodes.
        """
        found = self._codecs.get(profile)
        if found is None:
            from ec.codec import Codec
            from ec.profile import Profile as CodedProfile

            coded = CodedProfile(profile.k, profile.m)
            found = self._codecs.setdefault(profile, Codec(coded, self._choose_kernel()))
        return found

    def _choose_kernel(self) -> Kernel:
        from ec.kernels.choose import choose

        with self._choosing:
            if self._kernel is None:
                self._kernel, reason = choose()
                self.kernel_in_use = reason
                self._services.events.info("coding kernel", kernel=reason)
            return self._kernel

    # --- changes of nodes -------------------------------------------------------------------------

    async def add_node(self, node: StorageNode) -> None:
        """As `ColdCatalog.add_node`; for `StorageNodes`."""
        await self._change(lambda: self.catalog.add_node(node), lambda: ())

    async def change_node(self, node: StorageNode) -> None:
        """As `ColdCatalog.change_node`; for `StorageNodes`."""
        await self._change(lambda: self.catalog.change_node(node), lambda: ())

    async def replace_node(self, node: StorageNode) -> None:
        """As `ColdCatalog.replace_node`; for `StorageNodes`."""
        await self._change(
            lambda: self.catalog.replace_node(node), lambda: self._on_node(node.name)
        )

    async def rename_node(self, old_name: str, node: StorageNode) -> None:
        """As `ColdCatalog.rename_node`; for `StorageNodes`."""
        await self._change(
            lambda: self.catalog.rename_node(old_name, node), lambda: self._on_node(old_name)
        )

    def _on_node(self, name: str) -> Sequence[str]:
        """Return the encodings that have, or had, a chunk on a node."""
        return [
            each.encoding
            for each in self._generations.values()
            if any(at.node == name for at in each.placements)
        ]

    async def remove_node(self, name: str) -> None:
        """As `ColdCatalog.remove_node`; for `StorageNodes`."""
        await self._change(lambda: self.catalog.remove_node(name), lambda: self._on_node(name))

    # --- changes of generations -------------------------------------------------------------------

    async def plan(self, plan: EncodePlan) -> Generation:
        """As `ColdCatalog.plan`."""
        self._check_fresh()
        now_ms = self._clock.now_ms()
        return await self._change(
            lambda: self.catalog.plan(plan, now_ms=now_ms), lambda: (plan.encoding,)
        )

    async def place_chunk(self, encoding: str, *, index: int, node: str) -> None:
        """As `ColdCatalog.place_chunk`."""
        self._check_fresh()
        await self._change(
            lambda: self.catalog.place_chunk(encoding, index=index, node=node), lambda: (encoding,)
        )

    async def commit(self, commits: Sequence[Commit], *, superseded: Sequence[str] = ()) -> None:
        """As `ColdCatalog.commit`; what is no manifest is refused (ColdStateError)."""
        self._check_fresh()
        now_ms = self._clock.now_ms()
        manifests = {each.encoding: _decoded(each.encoding, each.manifest) for each in commits}
        await self._change(
            lambda: self.catalog.commit(commits, superseded=superseded, now_ms=now_ms),
            lambda: (*(each.encoding for each in commits), *superseded),
        )
        self._learn(manifests)

    def _learn(self, manifests: Mapping[str, Manifest]) -> None:
        from ec.segment import file_bytes

        for encoding, manifest in manifests.items():
            generation = self._generations.get(encoding)
            if generation is not None:
                self._keep(encoding, manifest)
                self.holdings.learn(generation, file_bytes(manifest))

    async def abort(self, encoding: str) -> None:
        """As `ColdCatalog.abort`."""
        now_ms = self._clock.now_ms()
        await self._change(lambda: self.catalog.abort(encoding, now_ms=now_ms), lambda: (encoding,))

    async def release(self, encoding: str, check: ReleaseCheck, terms: ReleaseTerms) -> None:
        """As `ColdCatalog.release`."""
        self._check_fresh()
        now_ms = self._clock.now_ms()
        await self._change(
            lambda: self.catalog.release(encoding, check, terms, now_ms=now_ms),
            lambda: (encoding,),
        )

    async def thaw(self, encoding: str, copy: HotCopy, *, is_held: bool = True) -> None:
        """As `ColdCatalog.thaw`."""
        now_ms = self._clock.now_ms()
        await self._change(
            lambda: self.catalog.thaw(encoding, copy, is_held=is_held, now_ms=now_ms),
            lambda: (encoding,),
        )

    def lease_ended(self, topic_id: bytes, partition: int) -> None:
        """Have those look again who waited for segments of a partition."""
        for tell in self.on_change:
            tell(frozenset({(topic_id, partition)}))

    async def begin_grace(self, encoding: str) -> None:
        """As `ColdCatalog.begin_grace`."""
        now_ms = self._clock.now_ms()
        await self._change(
            lambda: self.catalog.begin_grace(encoding, now_ms=now_ms), lambda: (encoding,)
        )

    async def end_hold(self, encoding: str) -> None:
        """As `ColdCatalog.end_hold`."""
        await self._change(lambda: self.catalog.end_hold(encoding), lambda: (encoding,))

    async def drop_superseded(self, encoding: str, *, has_hot_log: bool) -> None:
        """As `ColdCatalog.drop_superseded`."""
        self._check_fresh()
        now_ms = self._clock.now_ms()
        await self._change(
            lambda: self.catalog.drop_superseded(encoding, has_hot_log=has_hot_log, now_ms=now_ms),
            lambda: (encoding,),
        )

    async def delete_segments(self, keys: Sequence[SegmentKey]) -> None:
        """As `ColdCatalog.delete_segments`."""
        if not keys:
            return
        now_ms, wanted = self._clock.now_ms(), frozenset(keys)

        def touched() -> Sequence[str]:
            partitions = {(key.topic_id, key.partition) for key in wanted}
            return [
                each.encoding
                for partition in sorted(partitions)
                for each in self._by_partition.get(partition, {}).values()
                if each.key in wanted
            ]

        await self._change(lambda: self.catalog.delete_segments(keys, now_ms=now_ms), touched)

    async def chunk_removed(self, encoding: str, *, index: int, node: str) -> bool:
        """As `ColdCatalog.chunk_removed`."""
        return await self._change(
            lambda: self.catalog.chunk_removed(encoding, index=index, node=node),
            lambda: (encoding,),
        )

    async def topic_deleted(self, topic_id: bytes) -> None:
        """Take note of what the catalog did when it marked a topic as being deleted."""

        def touched() -> Sequence[str]:
            return [each.encoding for each in self.generations(topic_id)]

        if touched():
            await self._change(lambda: None, touched)

    async def look_again(self, encoding: str) -> None:
        """Take note of what the catalog has of a generation now."""
        await self._change(lambda: None, lambda: (encoding,))

    def _check_fresh(self) -> None:
        if self.nodes.stale is not None:
            raise ColdStateError(self.nodes.stale)

    # --- the image --------------------------------------------------------------------------------

    async def _change(
        self, transaction: Callable[[], T], touched: Callable[[], Iterable[str]]
    ) -> T:
        """Run a transaction, read back the generations it touched, and follow it here.

        Args:
            touched: which encodings; asked when no other change is under way.
        """
        catalog = self.catalog
        async with self._changing:
            encodings = tuple(touched())

            def run() -> tuple[T, list[Generation], int]:
                result = transaction()
                found = catalog.find(encodings) if encodings else []
                return result, found, catalog.sequence()

            with trio.CancelScope(shield=True):
                result, found, sequence = await self._services.offload.run("catalog", run)
                self._sequence = max(self._sequence, sequence)
                changed = self._take(found, encodings)
        self.nodes.note_sequence()
        if changed:
            for tell in self.on_change:
                tell(changed)
        return result

    def _take(self, found: Iterable[Generation], asked: Iterable[str]) -> frozenset[PartitionKey]:
        """Put generations in their places, forget those that are gone; return whose they are."""
        gone: dict[PartitionKey, list[Generation]] = {}
        come: dict[PartitionKey, list[Generation]] = {}
        for encoding in asked:
            old = self._generations.pop(encoding, None)
            if old is not None:
                gone.setdefault(_partition(old), []).append(old)
        for each in found:
            self._generations[each.encoding] = each
            come.setdefault(_partition(each), []).append(each)
        for partition in sorted(gone.keys() | come.keys()):
            self._follow(partition, gone.get(partition, ()), come.get(partition, ()))
        return frozenset(gone.keys() | come.keys())

    def _follow(
        self, partition: PartitionKey, gone: Sequence[Generation], come: Sequence[Generation]
    ) -> None:
        """Bring what is kept of a partition up to date."""
        self.holdings.follow(gone, come)
        several = self._by_partition.setdefault(partition, {})
        for each in gone:
            del several[each.encoding]
        for each in come:
            several[each.encoding] = each
        for each in gone:
            if each.encoding not in several:
                self._manifests.pop(each.encoding, None)
        if several:
            before = self._coverages.get(partition)
            made = Coverage(come) if before is None else before.with_changes(gone, come)
            self._coverages[partition] = made
        else:
            del self._by_partition[partition]
            self._coverages.pop(partition, None)


def _decoded(encoding: str, data: bytes) -> Manifest:
    """Return a manifest.

    Raises:
        ColdStateError: the bytes are none.
    """
    from ec.manifest import ManifestError, decode_manifest

    try:
        return decode_manifest(data)
    except ManifestError as error:
        raise ColdStateError(f"the manifest of {encoding} {error}") from error


def _where_else(generation: Generation | None) -> str:
    """Return where a manifest can be had that the catalog does not give, for people."""
    if generation is None or not generation.held:
        return ""
    places = ", ".join(f"{index} on {node}" for index, node in sorted(generation.held.items()))
    return f"; every chunk of {generation} has it as well: {places}"


def _partition(generation: Generation) -> PartitionKey:
    return generation.key.topic_id, generation.key.partition
