"""The storage nodes of a server: which there are, how they are, and the stores that reach them.

The catalog says which nodes exist; `add`, `change` and `remove` change it first and what is here
afterwards. Each node is probed on a schedule of its own, with a time-out, so one that hangs delays
no other (`node_watch`). Every probe brings the node's identity:

* another node's, or none: the node is dead, and nothing is concluded from what is not there;
* one that has seen a later sequence than the catalog's: the catalog is an old copy. From then on
  nothing is written to any node, and nothing removed (`node_access.FencedStore`).

Nodes are told in the background how far the catalog has come; one that misses it is told after its
next good probe.

Without a node nothing of the coding library is imported: `node_access` and what stands on it come
with the first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final, Protocol

import trio

from logd.config import ServerSettings
from logd.errors import NodeRefusedError, UnknownNodeError
from logd.events import EventLog
from logd.offload import Offload
from logd.policy.cold.values import StorageNode
from logd.storage.files import Files

if TYPE_CHECKING:
    from ec.placement import Candidate
    from ec.store.guarded import GuardedStore
    from logd.cold.node_access import Access
    from logd.cold.node_watch import NodeWatch, Purpose
    from logd.policy.cold.preflight import NodeFacts
    from logd.policy.node_health import NodeHealth

FIRST_PROBE_S: Final = 2.0
"""How long a start waits for what its nodes say; who is later is seen by the next probe."""

PROBE_S_MAX: Final = 5.0
"""A node that takes longer to say how it is, is not well."""

PROBES_TO_SUSPECT: Final = 3
"""So many probes at least fall into node.suspect.ms."""

TELL_INTERVAL_S: Final = 0.25
"""How often nodes are told of the catalog's sequence at most: each keeps it by a sync."""


class NodeRecords(Protocol):
    """The catalog, as far as nodes go; `ColdTier` is it."""

    @property
    def sequence(self) -> int:
        """How far the catalog has come."""
        ...

    async def add_node(self, node: StorageNode) -> None:
        """As `ColdCatalog.add_node`."""
        ...

    async def change_node(self, node: StorageNode) -> None:
        """As `ColdCatalog.change_node`."""
        ...

    async def replace_node(self, node: StorageNode) -> None:
        """As `ColdCatalog.replace_node`."""
        ...

    async def rename_node(self, old_name: str, node: StorageNode) -> None:
        """As `ColdCatalog.rename_node`."""
        ...

    async def remove_node(self, name: str) -> None:
        """As `ColdCatalog.remove_node`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeServices:
    """What `StorageNodes` works with.

    Attributes:
        random: for ids of new nodes, and for the times between attempts.
        token: what nodes that are servers are asked with; None: none.
    """

    files: Files
    offload: Offload
    events: EventLog
    cluster_id: str
    settings: ServerSettings
    random: Random
    token: str | None = None


async def open_access(services: NodeServices, *, fence: Callable[[], str | None]) -> Access:
    """Import what reaching nodes takes, in a thread, and return it set up.

    Args:
        fence: returns why nothing may be changed on nodes; None: it may.
    """
    for name in ("node_access", "node_watch", "node_identify"):
        await services.offload.run("admin", importlib.import_module, f"logd.cold.{name}")
    from logd.cold.node_access import Access, breaker_settings, node_timeouts

    return Access(
        files=services.files,
        offload=services.offload,
        cluster_id=services.cluster_id,
        token=services.token,
        rng=services.random,
        breaker=breaker_settings(services.settings),
        timeouts=node_timeouts(services.settings),
        reserve_bytes=services.settings.disk_reserve_bytes,
        fence=fence,
    )


class StorageNodes:
    """See the module. Everything here is for the event loop.

    Attributes:
        stale: why nothing may be changed on nodes: the catalog is an old copy; None: it is not.
        on_change: called with a node's name when its health, or its record, changed.
    """

    def __init__(self, records: NodeRecords, services: NodeServices) -> None:
        self._records = records
        self._services = services
        self._nodes: dict[str, NodeWatch] = {}
        self._access: Access | None = None
        self._changing = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self._news = trio.Event()
        self.stale: str | None = None
        self.on_change: list[Callable[[str], None]] = []

    # --- looking ----------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """Return the names of all nodes, sorted."""
        return tuple(sorted(self._nodes))

    def _find(self, name: str) -> NodeWatch:
        found = self._nodes.get(name)
        if found is None:
            raise UnknownNodeError(
                f"there is no storage node {name!r}; `logd node list` shows those there are"
            )
        return found

    def node(self, name: str) -> StorageNode:
        """Return a node's record.

        Raises:
            UnknownNodeError: there is no such node; the other methods raise it too.
        """
        return self._find(name).record

    def store(self, name: str, purpose: Purpose = "serve") -> GuardedStore:
        """Return what reaches a node; it changes nothing while the catalog is an old copy."""
        return self._find(name).for_purpose(purpose)

    def health(self, name: str) -> NodeHealth:
        """Return what the probes of a node brought."""
        return self._find(name).health

    def describe(self, name: str) -> str:
        """Return a node's health with the reason, for people."""
        return self._find(name).describe()

    def is_live(self, name: str) -> bool:
        """Return whether there is such a node, and it is live."""
        found = self._nodes.get(name)
        return found is not None and found.is_live

    def last_error(self, name: str) -> str | None:
        """Return what was wrong with a node's last probe; None: nothing."""
        return self._find(name).last_error or None

    def breaker(self, name: str, purpose: Purpose = "serve") -> str:
        """Return a breaker's state: closed, open or half-open."""
        return self._find(name).breaker(purpose)

    def free_bytes(self, name: str) -> int | None:
        """Return the free space of a node's disk as last seen; None: not known."""
        return self._find(name).facts.free_bytes

    def rack(self, name: str) -> str | None:
        """Return what a node shares its fate with: as recorded, else as it says itself."""
        return self._find(name).rack

    def device(self, name: str) -> str | None:
        """Return what tells a node's disk from others; nodes on one device fail together."""
        return self._find(name).facts.device

    def facts(self) -> list[NodeFacts]:
        """Return all nodes as `policy.cold.preflight` wants them, by name."""
        return [self._nodes[name].facts for name in self.names()]

    def candidates(self) -> list[Candidate]:
        """Return all nodes as `ec.placement` wants them; those that take no chunks are not live."""
        return [self._nodes[name].candidate for name in self.names()]

    # --- opening ----------------------------------------------------------------------------------

    async def open(self, records: Iterable[StorageNode]) -> None:
        """Take over the nodes of the catalog, and ask each once how it is.

        Returns after `FIRST_PROBE_S` at the latest; `stale` is set if a node says so.
        """
        records = list(records)
        if not records:
            return
        access = await self._ready()
        for record in records:
            self._nodes[record.name] = self._begin(record, access)
        async with trio.open_nursery() as nursery:
            for watch in self._nodes.values():
                nursery.start_soon(self._probe, watch, FIRST_PROBE_S)

    async def register(self, words: Iterable[str]) -> None:
        """Add what the setting `nodes` says, NAME=DIR_OR_URL each, at start.

        Raises:
            NodeRefusedError: a node that the catalog does not know cannot be added. One that it
                knows is only said not to be at its new place.
        """
        places: dict[str, str] = {}
        for word in words:
            name, _, place = word.partition("=")
            other = places.setdefault(place, name)
            if other != name:
                raise NodeRefusedError(f"{place} is said to be two nodes, {other} and {name}")
            try:
                record = await self.add(name, place, may_rename=False)
                if record.name != name:
                    self._services.events.warning(
                        "storage node keeps its name", node=record.name, said=name, place=place
                    )
            except NodeRefusedError as error:
                if name not in self._nodes:
                    raise
                self._services.events.warning("storage node not moved", reason=str(error))

    async def _ready(self) -> Access:
        """Import what reaching nodes takes, once."""
        if self._access is None:
            self._access = await open_access(self._services, fence=lambda: self.stale)
        return self._access

    def _begin(self, record: StorageNode, access: Access) -> NodeWatch:
        from logd.cold.node_watch import NodeWatch
        from logd.policy.node_health import HealthLimits

        settings = self._services.settings
        limits = HealthLimits(suspect_ms=settings.node_suspect_ms, dead_ms=settings.node_dead_ms)
        return NodeWatch.begin(record, access, limits)

    # --- changing ---------------------------------------------------------------------------------

    async def add(
        self, name: str, place: str, rack: str | None = None, *, may_rename: bool = True
    ) -> StorageNode:
        """Register a node, or the new name, place or rack of one; return its record.

        See `node_identify`. Adding a node where it is already, changes nothing.

        Args:
            may_rename: a place that is one of the nodes gets the name; if not, it keeps its own.

        Raises:
            NodeRefusedError: the name, the place, or what lies there. Nothing was changed, but an
                empty place may have become the node's; it is taken when it is added again.
            StorageError: the catalog cannot be written; likewise.
        """
        access = await self._ready()
        from logd.cold.node_identify import Wanted, identify

        wanted = Wanted.of(name, place, rack)
        async with self._changing:
            if self.stale is not None:
                raise NodeRefusedError(self.stale)
            known = self._nodes.get(name)
            if known is not None and known.record.place == wanted.place:
                record = replace(known.record, rack=rack or known.record.rack)
            else:
                record = await identify(
                    access,
                    wanted,
                    {each.record.name: each.record for each in self._nodes.values()},
                    sequence=self._records.sequence,
                    new_id=self._services.random.randbytes(16).hex(),
                )
                if not may_rename:
                    record = self._under_old_name(record)
            old = self._of_identity(record.identity)
            if old is not None and old.record.name != record.name:
                await self._rename(old, record, access)
            else:
                await self._record(record, access)
        return record

    def _of_identity(self, identity: str) -> NodeWatch | None:
        return next(
            (each for each in self._nodes.values() if each.record.identity == identity), None
        )

    def _under_old_name(self, record: StorageNode) -> StorageNode:
        old = self._of_identity(record.identity)
        return record if old is None else replace(record, name=old.record.name)

    async def _rename(self, old: NodeWatch, record: StorageNode, access: Access) -> None:
        """Let a node be called otherwise: on its disk, then in the catalog, then here.

        After a crash between the first two it is nobody known; adding it again goes on.

        Raises:
            NodeRefusedError: it cannot be, and is called what it was; StorageError.
        """
        from logd.cold.node_identify import write_name

        before = old.record.name
        old.close()
        try:
            await write_name(access, record, sequence=self._records.sequence)
            with trio.CancelScope(shield=True):
                await self._records.rename_node(before, record)
                del self._nodes[before]
                self._nodes[record.name] = self._begin(record, access)
        finally:
            watch = self._nodes.get(record.name)
            if watch is None:
                watch = self._nodes[before] = self._begin(old.record, access)
            with trio.CancelScope(shield=True):
                await self._probe(watch, FIRST_PROBE_S)
            if self._nursery is not None:
                self._nursery.start_soon(self._probe_for_ever, watch)
            self._changed(watch.record.name)
        self._services.events.info(
            "storage node renamed", node=record.name, was=before, place=record.place
        )
        self._changed(before)

    async def change(self, record: StorageNode) -> None:
        """Change a node's place, rack or state, in the catalog and here.

        Raises:
            UnknownNodeError: there is no such node.
            NodeRefusedError: the place is another's.
        """
        access = await self._ready()
        async with self._changing:
            self._find(record.name)
            await self._record(record, access)

    async def _record(self, record: StorageNode, access: Access) -> None:
        """Put a node's record into the catalog, follow it here, and probe what is new."""
        old = self._nodes.get(record.name)
        if old is not None and old.record == record:
            return
        with trio.CancelScope(shield=True):  # What the catalog knows is followed here, always.
            if old is None:
                await self._records.add_node(record)
            else:
                await self._records.change_node(record)
            if old is not None and old.record.place == record.place:
                old.record = record
            else:
                if old is not None:
                    old.close()
                watch = self._nodes[record.name] = self._begin(record, access)
                await self._probe(watch, FIRST_PROBE_S)
                if self._nursery is not None:
                    self._nursery.start_soon(self._probe_for_ever, watch)
        self._services.events.info(
            "storage node added" if old is None else "storage node changed",
            node=record.name, place=record.place, rack=record.rack, state=record.state.value,
        )  # fmt: skip
        self._changed(record.name)

    async def replace(self, name: str, place: str | None = None) -> StorageNode:
        """Let an empty place take a node's place and name; return its record.

        Its chunks keep their places on record, and are missing there: repair makes them again. The
        disk that was the node is a stranger from then on.

        Args:
            place: None: where the node was.

        Raises:
            UnknownNodeError: there is no such node.
            NodeRefusedError: the place is not empty, or another node's. Nothing was changed.
        """
        access = await self._ready()
        from logd.cold.node_identify import take_over

        async with self._changing:
            if self.stale is not None:
                raise NodeRefusedError(self.stale)
            old = self._find(name)
            record = await take_over(
                access,
                old.record,
                place or old.record.place,
                {each.record.name: each.record for each in self._nodes.values()},
                sequence=self._records.sequence,
                new_id=self._services.random.randbytes(16).hex(),
            )
            with trio.CancelScope(shield=True):
                await self._records.replace_node(record)
                old.close()
                watch = self._nodes[name] = self._begin(record, access)
                await self._probe(watch, FIRST_PROBE_S)
                if self._nursery is not None:
                    self._nursery.start_soon(self._probe_for_ever, watch)
        self._services.events.info("storage node replaced", node=name, place=record.place)
        self._changed(name)
        return record

    async def remove(self, name: str) -> None:
        """Forget a node that holds nothing; its directory stays as it is.

        Raises:
            UnknownNodeError: there is no such node.
            NodeRefusedError: chunks have their place there.
        """
        async with self._changing:
            watch = self._find(name)
            with trio.CancelScope(shield=True):
                await self._records.remove_node(name)
                del self._nodes[name]
                watch.close()
        self._services.events.info("storage node removed", node=name)
        self._changed(name)

    def _changed(self, name: str) -> None:
        for tell in self.on_change:
            tell(name)

    # --- probing ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Probe all nodes, and tell them how far the catalog has come, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for watch in self._nodes.values():
                nursery.start_soon(self._probe_for_ever, watch)
            while True:
                await self._news.wait()
                self._news = trio.Event()
                for watch in self._nodes.values():
                    self._tell_if_behind(watch)
                await trio.sleep(TELL_INTERVAL_S)

    def close(self) -> None:
        """Let go of all directories and connections."""
        for watch in self._nodes.values():
            watch.close()

    async def _probe_for_ever(self, watch: NodeWatch) -> None:
        settings = self._services.settings
        suspect_s = settings.node_suspect_ms / 1000
        interval_s = min(settings.node_probe_interval_ms / 1000, suspect_s / PROBES_TO_SUSPECT)
        timeout_s = min(PROBE_S_MAX, max(interval_s, suspect_s / 2))
        with watch.scope:
            while True:
                await trio.sleep(interval_s)
                await self._probe(watch, timeout_s)

    async def _probe(self, watch: NodeWatch, timeout_s: float) -> None:
        before = watch.health
        has_changed = await watch.probe(timeout_s)
        self._check_sequence(watch)
        self._tell_if_behind(watch)
        if has_changed and self._nodes.get(watch.record.name) is watch:
            if watch.health is not before:
                self._say_health(watch)
            self._changed(watch.record.name)

    def _say_health(self, watch: NodeWatch) -> None:
        events, name = self._services.events, watch.record.name
        if watch.is_live:
            events.info("storage node is live", node=name)
        else:
            state = watch.health.value
            events.warning(f"storage node is {state}", node=name, reason=watch.last_error)

    def _check_sequence(self, watch: NodeWatch) -> None:
        from logd.policy.cold.removal import stale_catalog_refusal

        refused = stale_catalog_refusal(self._records.sequence, {watch.record.name: watch.told})
        if refused is not None and self.stale is None:
            self.stale = refused
            self._services.events.error("nothing is changed on storage nodes", reason=refused)

    # --- the catalog's sequence -------------------------------------------------------------------

    def note_sequence(self) -> None:
        """Let all live nodes remember, soon, how far the catalog has come."""
        self._news.set()

    def _tell_if_behind(self, watch: NodeWatch) -> None:
        sequence = self._records.sequence
        is_free = not watch.is_telling and self._nursery is not None and self.stale is None
        if is_free and watch.told < sequence and watch.is_live:
            assert self._nursery is not None
            watch.is_telling = True
            self._nursery.start_soon(watch.tell, sequence)
