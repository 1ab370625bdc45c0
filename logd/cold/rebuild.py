"""`logd serve --rebuild-catalog`: the catalog made again, from nodes and directories.

    look       who each node is, those that the old catalog knows too; one that does not answer ends
               the rebuild, because what it holds would be put aside elsewhere as incomplete
    list       every chunk of every node; its manifest read, and all its bytes verified there
    plan       which generations come back, and what goes to quarantine (`policy.cold.rebuild`)
    write      a new catalog beside the old one, put in its place when it is whole
    put aside  what the plan says, on the nodes; the catalog is durable by then

Nothing is deleted, on nodes or here: the old catalog stays under another name. Until the new one is
in place, nothing has changed; after that, a rebuild again gives the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from ec.chunk_dir import LIST_MAX
from ec.chunk_id import ChunkId
from ec.errors import (
    ChunkDamagedError,
    ChunkMissingError,
    ChunkVersionError,
    EcError,
    NodeIdentityError,
    NodeNotMountedError,
)
from ec.manifest import Manifest, encode_manifest
from ec.store.protocol import Store
from logd.clock import Clock
from logd.cold.node_access import Access, check_name, written_place
from logd.cold.nodes import NodeServices, open_access
from logd.errors import DataDirectoryError, LogdError, NodeRefusedError
from logd.policy.cold.rebuild import FoundChunk, ManifestFacts, RebuildPlan, plan_rebuild
from logd.policy.cold.removal import ChunkName
from logd.policy.cold.values import Profile, SegmentKey, StorageNode
from logd.storage import catalog_rebuild
from logd.storage.catalog_rebuild import FoundTopics, OldCatalog

CHUNKS_AT_ONCE: Final = 2
"""Verified at a time on one node: one is read while the next one's head is."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild came to, for people.

    Attributes:
        aside: where the old catalog is now; None: there was none.
    """

    plan: RebuildPlan
    topics: FoundTopics
    aside: str | None


@dataclass(slots=True)
class _Place:
    """A node that is read.

    Attributes:
        sequence: the highest of the catalog that it has seen.
        trouble: why not all of it could be read.
    """

    node: StorageNode
    store: Store
    sequence: int
    close: Callable[[], None]
    chunks: list[FoundChunk] = field(default_factory=list)
    trouble: LogdError | None = None


class Rebuild:
    """One rebuild.

    Args:
        data_path: of the data directory, which is locked.
        unknown_settings: of a topic by name, where nothing says them any more.
    """

    def __init__(
        self,
        services: NodeServices,
        clock: Clock,
        *,
        data_path: str,
        topics_path: str,
        unknown_settings: Callable[[str], Mapping[str, str]],
    ) -> None:
        self._services = services
        self._clock = clock
        self._data_path = data_path
        self._topics_path = topics_path
        self._unknown_settings = unknown_settings
        self._manifests: dict[bytes, ManifestFacts] = {}

    async def run(self, words: Sequence[str], *, without: Collection[str] = ()) -> Rebuilt:
        """Make the catalog again; when this returns it is in place, and durable.

        Args:
            words: NAME=DIR_OR_URL of the nodes. Those that the old catalog knows are read where it
                says, as far as it can be read and they are not among these.
            without: names of nodes that are given up.

        Raises:
            NodeRefusedError: a place is no node of this cluster, or does not answer.
            DataDirectoryError: what was found cannot be put together.
            LogdError, OSError: a directory cannot be read, the new catalog not written. Nothing was
                changed.
        """
        access = await open_access(self._services, fence=lambda: None)
        old = await self._services.offload.run("disk", self._begin)
        places: list[_Place] = []
        try:
            for word in self._all_nodes(words, old, without):
                place = await self._look(access, word)
                places.append(place)
            _check_different(places)
            async with trio.open_nursery() as nursery:
                for place in places:
                    nursery.start_soon(self._list, place)
            for place in places:
                if place.trouble is not None:
                    raise place.trouble
            rebuilt = await self._services.offload.run("disk", self._write, places, old)
            self._report(rebuilt)
            await self._put_aside(rebuilt, places)
        finally:
            for place in places:
                place.close()
        return rebuilt

    def _begin(self) -> OldCatalog:
        files, path = self._services.files, self._data_path
        with contextlib.suppress(DataDirectoryError):  # What is not whole is made anew.
            catalog_rebuild.resume(files, path)
        scratch = catalog_rebuild.begin(files, path)
        cluster_id = self._services.cluster_id
        return catalog_rebuild.read_old(files, path, cluster_id=cluster_id, scratch=scratch)

    def _all_nodes(
        self, words: Sequence[str], old: OldCatalog, without: Collection[str]
    ) -> list[str]:
        """Return NAME=DIR_OR_URL of all nodes that are to be read."""
        if old.trouble:
            self._services.events.warning("old catalog cannot be read", reason=old.trouble)
        named = {word.partition("=")[0] for word in words}
        known = [f"{node.name}={node.place}" for node in old.nodes if node.name not in named]
        unknown = set(without) - named - {node.name for node in old.nodes}
        if unknown:
            raise NodeRefusedError(f"there is no node {', '.join(sorted(unknown))} to go without")
        return [word for word in (*words, *known) if word.partition("=")[0] not in without]

    async def _look(self, access: Access, word: str) -> _Place:
        """Return the node at a place."""
        name, _, written = word.partition("=")
        check_name(name)
        place = written_place(written)
        try:
            found = await access.find_identity(place)
            if found is None:
                raise NodeNotMountedError(f"{place} is no node: no identity is there")
            identity, rack = found
            if (identity.cluster_id, identity.node) != (self._services.cluster_id, name):
                raise NodeIdentityError(
                    f"{place} is node {identity.node} of cluster {identity.cluster_id}, not {name} "
                    "of this one"
                )
            node = StorageNode(name=name, place=place, identity=identity.node_id, rack=rack)
            store = access.open(node)
            await store.health()
        except (EcError, OSError) as error:
            raise NodeRefusedError(
                f"node {name} cannot be read: {error}; --rebuild-without {name} gives its chunks "
                "up, and what is incomplete then is put aside on the other nodes"
            ) from error
        return _Place(node, access.guard(store), identity.catalog_sequence, store.close)

    async def _list(self, place: _Place) -> None:
        """Read and verify all chunks of a node, or note why that cannot be done."""
        after = ""
        limit = trio.CapacityLimiter(CHUNKS_AT_ONCE)
        while place.trouble is None:
            ids: tuple[ChunkId, ...] = ()
            with _trouble_of(place):
                ids = await place.store.list(after=after, limit=LIST_MAX)
            async with trio.open_nursery() as nursery:
                for chunk in ids:
                    nursery.start_soon(self._take, place, chunk, limit)
            if len(ids) < LIST_MAX:
                break
            after = ids[-1].name
            self._services.events.info(
                "reading chunks", node=place.node.name, chunks=len(place.chunks)
            )
        self._services.events.info("chunks read", node=place.node.name, chunks=len(place.chunks))

    async def _take(self, place: _Place, chunk: ChunkId, limit: trio.CapacityLimiter) -> None:
        async with limit:
            if place.trouble is None:
                with _trouble_of(place):
                    found = await self._examine(place, chunk)
                    place.chunks += [] if found is None else [found]

    async def _examine(self, place: _Place, chunk: ChunkId) -> FoundChunk | None:
        """Return what a chunk is; None: it has gone meanwhile."""
        name = _chunk_name(chunk, place.node.name)
        facts, is_right = None, False
        try:
            head = await place.store.head(chunk)
            if head.manifest.cluster_id == self._services.cluster_id:
                facts = self._facts(head.manifest)
                is_right = not await place.store.verify(chunk)
        except ChunkDamagedError as error:
            self._services.events.warning("chunk damaged", node=place.node.name, reason=str(error))
        except ChunkMissingError:
            return None
        return FoundChunk(name, facts, is_right)

    def _facts(self, manifest: Manifest) -> ManifestFacts:
        """Return what a manifest says; all chunks of an encoding share one value."""
        data = encode_manifest(manifest)
        known = self._manifests.get(data)
        if known is None:
            known = self._manifests[data] = ManifestFacts(
                Profile(manifest.k, manifest.m),
                manifest.next_offset,
                manifest.source_bytes,
                manifest.min_timestamp_ms,
                manifest.max_timestamp_ms,
                data,
            )
        return known

    # --- writing ----------------------------------------------------------------------------------

    def _write(self, places: Sequence[_Place], old: OldCatalog) -> Rebuilt:
        """Plan, and put the new catalog in place. In a thread."""
        files, cluster_id = self._services.files, self._services.cluster_id
        chunks = [chunk for place in places for chunk in place.chunks]
        bases = catalog_rebuild.coded_bases(
            [(each.name.key.topic_id, each.name.key.partition, each.name.key.base_offset)
             for each in chunks]
        )  # fmt: skip
        topics = catalog_rebuild.find_topics(
            files, self._topics_path, old, coded=bases, unknown_settings=self._unknown_settings
        )
        plan = plan_rebuild(
            chunks,
            catalog_rebuild.known_partitions(files, topics, bases),
            sequences_seen=[old.sequence, *(place.sequence for place in places)],
        )
        now_ms = self._clock.now_ms()
        catalog = catalog_rebuild.new_catalog(
            self._data_path, cluster_id=cluster_id, found=topics, old=old, now_ms=now_ms
        )
        try:
            catalog.cold.restore(
                _nodes(places, old), plan.generations,
                numbers=plan.numbers, sequence=plan.sequence, now_ms=now_ms,
            )  # fmt: skip
        finally:
            catalog.close()
        return Rebuilt(plan, topics, catalog_rebuild.put_in_place(files, self._data_path))

    def _report(self, rebuilt: Rebuilt) -> None:
        events, topics = self._services.events, rebuilt.topics
        events.info(
            "catalog rebuilt", topics=len(topics.rows), generations=len(rebuilt.plan.generations),
            quarantine=len(rebuilt.plan.quarantine), old_catalog=rebuilt.aside,
        )  # fmt: skip
        for row in topics.rows:
            if row.name in topics.unsettled:
                words = " ".join(f"{name}={value}" for name, value in row.overrides.items())
                events.warning("settings of a topic are lost", topic=row.name, now=words)
        for line in topics.unclear:
            events.warning("directory left alone", reason=line)

    async def _put_aside(self, rebuilt: Rebuilt, places: Sequence[_Place]) -> None:
        """Move what the plan says to quarantine; what cannot be moved stays, and is said."""
        stores = {place.node.name: place.store for place in places}
        names = {row.topic_id: row.name for row in rebuilt.topics.rows}
        for each in rebuilt.plan.quarantine:
            chunk = _chunk_id(each.name)
            trouble = ""
            try:
                await stores[each.name.node].quarantine(chunk)
            except EcError as error:
                trouble = str(error)
            self._services.events.warning(
                "chunk in quarantine" if not trouble else "chunk not put into quarantine",
                node=each.name.node, topic=names.get(each.name.key.topic_id, "not known"),
                partition=chunk.partition, base_offset=chunk.base_offset, chunk=chunk.name,
                reason=each.reason, trouble=trouble,
            )  # fmt: skip


def _nodes(places: Sequence[_Place], old: OldCatalog) -> list[StorageNode]:
    """Return the nodes' records; rack and state as the old catalog had them, where it says."""
    known = {node.identity: node for node in old.nodes}
    nodes = []
    for place in places:
        node, before = place.node, known.get(place.node.identity)
        if before is not None:
            node = replace(node, rack=before.rack or node.rack, state=before.state)
        nodes.append(node)
    return nodes


def _check_different(places: Sequence[_Place]) -> None:
    """Check that no node was named twice."""
    for what in ("name", "place", "identity"):
        values = [getattr(place.node, what) for place in places]
        if len(set(values)) != len(values):
            raise NodeRefusedError(f"two of the nodes have the same {what}")


def _chunk_name(chunk: ChunkId, node: str) -> ChunkName:
    key = SegmentKey(bytes.fromhex(chunk.topic_id), chunk.partition, chunk.base_offset)
    return ChunkName(key, chunk.generation, chunk.encoding, chunk.index, node)


def _chunk_id(name: ChunkName) -> ChunkId:
    key = name.key
    return ChunkId(
        topic_id=key.topic_id.hex(), partition=key.partition, base_offset=key.base_offset,
        generation=name.number, encoding=name.encoding, index=name.index,
    )  # fmt: skip


@contextlib.contextmanager
def _trouble_of(place: _Place) -> Iterator[None]:
    """Keep what goes wrong with a node for later: tasks that fail would take each other down."""
    try:
        yield
    except ChunkVersionError as error:
        place.trouble = DataDirectoryError(f"a newer version wrote a chunk: {error}")
    except EcError as error:
        place.trouble = NodeRefusedError(f"node {place.node.name} cannot be read: {error}")
