"""The storage nodes of a server: which there are, how they are, and the stores that reach them.

The catalog says which nodes exist; `add`, `change` and `remove` change it first and what is here
afterwards. Each node is probed on a schedule of its own, with a time-out, so one that hangs delays
no other; what the probes bring makes it live, suspect or dead (`policy.node_health`). Every probe
reads the node's identity:

* another node's, or none: the node is dead, and nothing is concluded from what is not there;
* one that has seen a later sequence than the catalog's: the catalog is an old copy. From then on
  nothing is written to any node, and nothing removed (`node_access.FencedStore`).

Nodes are told in the background how far the catalog has come; one that misses it is told after its
next good probe.

Without a node nothing of the coding library is imported: `node_access` comes with the first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final, Literal, Protocol

import trio

from logd.config import ServerSettings
from logd.errors import NodeRefusedError, UnknownNodeError
from logd.events import EventLog
from logd.offload import Offload
from logd.policy.cold.preflight import NodeFacts
from logd.policy.cold.removal import stale_catalog_refusal
from logd.policy.cold.values import NodeState, StorageNode
from logd.policy.node_health import (
    HealthLimits,
    NodeHealth,
    ProbeHistory,
    ProbeResult,
    describe_health,
    node_health,
)
from logd.storage.files import Files

if TYPE_CHECKING:
    from ec.node_identity import NodeIdentity
    from ec.placement import Candidate
    from ec.store.guarded import GuardedStore
    from ec.store.protocol import Health
    from ec.store.remote import RemoteStore
    from logd.cold.local_node import LocalNode
    from logd.cold.node_access import Access, FencedStore

FIRST_PROBE_S: Final = 2.0
"""How long a start waits for what its nodes say; who is later is seen by the next probe."""

PROBE_S_MAX: Final = 5.0
"""A node that takes longer to say how it is, is not well."""

TELL_INTERVAL_S: Final = 0.25
"""How often nodes are told of the catalog's sequence at most: each keeps it by a sync."""

TELL_S: Final = 5.0

Purpose = Literal["serve", "repair", "scrub"]
"""Who asks: each has breakers of its own, so that repair does not take a node from readers."""


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


@dataclass(slots=True, eq=False)
class _Node:
    """A node that is watched.

    Attributes:
        seen: what its last good probe said.
        last_error: of its last probe that failed; empty: none did, or a good one came since.
        told: the highest sequence that it is known to have.
    """

    record: StorageNode
    store: LocalNode | RemoteStore
    guarded: dict[Purpose, FencedStore] = field(default_factory=dict)
    history: ProbeHistory = field(default_factory=ProbeHistory)
    seen: Health | None = None
    last_error: str = ""
    told: int = 0
    is_telling: bool = False
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class StorageNodes:
    """See the module. Everything here is for the event loop.

    Attributes:
        stale: why nothing may be changed on nodes: the catalog is an old copy; None: it is not.
        on_change: called with a node's name when its health, or its record, changed.
    """

    def __init__(self, records: NodeRecords, services: NodeServices) -> None:
        self._records = records
        self._services = services
        settings = services.settings
        self._limits = HealthLimits(
            suspect_ms=settings.node_suspect_ms, dead_ms=settings.node_dead_ms
        )
        self._nodes: dict[str, _Node] = {}
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

    def node(self, name: str) -> StorageNode:
        """Return a node's record.

        Raises:
            UnknownNodeError: there is no such node.
        """
        return self._find(name).record

    def _find(self, name: str) -> _Node:
        found = self._nodes.get(name)
        if found is None:
            raise UnknownNodeError(f"there is no storage node {name!r}")
        return found

    def store(self, name: str, purpose: Purpose = "serve") -> GuardedStore:
        """Return what reaches a node; it changes nothing while the catalog is an old copy.

        Raises:
            UnknownNodeError: there is no such node.
        """
        node = self._find(name)
        guarded = node.guarded.get(purpose)
        if guarded is None:
            assert self._access is not None
            guarded = node.guarded[purpose] = self._access.guard(node.store)
        return guarded

    def health(self, name: str) -> NodeHealth:
        """Return what the probes of a node brought.

        Raises:
            UnknownNodeError: there is no such node.
        """
        return node_health(self._find(name).history, self._limits)

    def describe(self, name: str) -> str:
        """Return a node's health with the reason, for people."""
        return describe_health(self._find(name).history, self._limits)

    def is_live(self, name: str) -> bool:
        """Return whether there is such a node, and it is live."""
        found = self._nodes.get(name)
        return found is not None and node_health(found.history, self._limits) is NodeHealth.LIVE

    def last_error(self, name: str) -> str | None:
        """Return why the last probe of a node failed; None: it did not."""
        return self._find(name).last_error or None

    def breaker(self, name: str, purpose: Purpose = "serve") -> str:
        """Return a breaker's state: closed, open or half-open."""
        guarded = self._find(name).guarded.get(purpose)
        return "closed" if guarded is None else guarded.state().value

    def free_bytes(self, name: str) -> int | None:
        """Return the free space of a node's disk as last seen; None: not known."""
        seen = self._find(name).seen
        return None if seen is None else seen.space.free_bytes

    def rack(self, name: str) -> str | None:
        """Return what a node shares its fate with: as recorded, else as it says itself."""
        node = self._find(name)
        return node.record.rack or (node.seen.rack if node.seen is not None else None)

    def facts(self) -> list[NodeFacts]:
        """Return all nodes as `policy.cold.preflight` wants them, by name."""
        return [self._facts(self._nodes[name]) for name in self.names()]

    def _facts(self, node: _Node) -> NodeFacts:
        record, seen = node.record, node.seen
        free = kept = None
        device = None
        if seen is not None:
            from logd.cold.node_access import device_of

            assert self._access is not None
            free, kept = seen.space.free_bytes, self._access.kept_bytes(record, seen)
            device = device_of(record, seen)
        return NodeFacts(
            name=record.name,
            rack=self.rack(record.name),
            state=record.state,
            health=node_health(node.history, self._limits),
            free_bytes=free,
            kept_bytes=kept or 0,
            device=device,
        )

    def candidates(self) -> list[Candidate]:
        """Return all nodes as `ec.placement` wants them; those that take no chunks are not live."""
        from ec.placement import Candidate

        return [
            Candidate(
                facts.name,
                max((facts.free_bytes or 0) - facts.kept_bytes, 0),
                rack=facts.rack,
                device=facts.device,
                is_live=facts.health is NodeHealth.LIVE and facts.state is NodeState.ACTIVE,
            )
            for facts in self.facts()
        ]

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
            self._nodes[record.name] = _Node(record, access.open(record))
        async with trio.open_nursery() as nursery:
            for node in self._nodes.values():
                nursery.start_soon(self._probe, node, FIRST_PROBE_S)

    async def _ready(self) -> Access:
        """Import what reaching nodes takes, once."""
        if self._access is None:
            services, settings = self._services, self._services.settings
            await services.offload.run("admin", importlib.import_module, "logd.cold.node_access")
            from logd.cold.node_access import Access, breaker_settings, node_timeouts

            self._access = Access(
                files=services.files,
                offload=services.offload,
                cluster_id=services.cluster_id,
                token=services.token,
                rng=services.random,
                breaker=breaker_settings(settings),
                timeouts=node_timeouts(settings),
                reserve_bytes=settings.disk_reserve_bytes,
                fence=lambda: self.stale,
            )
        return self._access

    # --- changing ---------------------------------------------------------------------------------

    async def add(self, name: str, place: str, rack: str | None = None) -> StorageNode:
        """Register a node: an empty place becomes it, or one that is it already; return its record.

        A node that the catalog knows is never initialised again. Adding it where it is changes
        nothing but its rack; adding the place where it is now moves its record there.

        Raises:
            NodeRefusedError: the name, the place, or what lies there. Nothing was changed, but an
                empty place may have become the node's; it is taken when it is added again.
        """
        access = await self._ready()
        from logd.cold import node_access

        node_access.check_name(name)
        place = node_access.written_place(place)
        async with self._changing:
            known = self._nodes.get(name)
            if known is not None and known.record.place == place:
                return await self._change_rack(known, rack)
            try:
                record = await self._identify(access, name, place, rack)
            except node_access.PLACE_ERRORS as error:
                raise NodeRefusedError(
                    f"{place} cannot be node {name}: {node_access.refusal(error)}"
                ) from error
            moved = self._nodes.get(record.name)
            if moved is not None:
                await self._change(record)
            else:
                with trio.CancelScope(shield=True):
                    await self._records.add_node(record)
                    self._watch(_Node(record, access.open(record)))
                self._services.events.info("storage node added", node=name, place=place)
            await self._probe(self._nodes[record.name], FIRST_PROBE_S)
            return record

    async def register(self, words: Iterable[str]) -> None:
        """Add what the setting `nodes` says, NAME=DIR_OR_URL each, at start.

        Raises:
            NodeRefusedError: a node that the catalog does not know cannot be added. One that it
                knows is only said not to be at its new place.
        """
        for word in words:
            name, _, place = word.partition("=")
            try:
                await self.add(name, place)
            except NodeRefusedError as error:
                if name not in self._nodes:
                    raise
                self._services.events.warning("storage node not moved", reason=str(error))

    async def _change_rack(self, known: _Node, rack: str | None) -> StorageNode:
        if rack is None or rack == known.record.rack:
            return known.record
        record = known.record
        await self._change(
            StorageNode(
                name=record.name, place=record.place, identity=record.identity, rack=rack,
                state=record.state,
            )
        )  # fmt: skip
        return self._nodes[record.name].record

    async def _identify(
        self, access: Access, name: str, place: str, rack: str | None
    ) -> StorageNode:
        """Return the record that a place should get; an empty one is made into the node."""
        found = await access.find_identity(place)
        identity, told_rack = found or (None, None)
        if identity is not None:
            moved = self._of_identity(identity)
            if moved is not None:
                old = moved.record
                return StorageNode(
                    name=old.name, place=place, identity=old.identity, rack=rack or old.rack,
                    state=old.state,
                )  # fmt: skip
        known = self._nodes.get(name)
        if known is not None:
            raise NodeRefusedError(
                f"node {name} is known, at {known.record.place}, and {place} is not it; an empty "
                "place takes a lost node's only by `node replace`"
            )
        if identity is None:
            identity = await self._initialise(access, name, place)
        self._check_new(identity, name, place)
        return StorageNode(
            name=name, place=place, identity=identity.node_id, rack=rack or told_rack
        )

    def _of_identity(self, identity: NodeIdentity) -> _Node | None:
        if identity.cluster_id != self._services.cluster_id:
            return None
        return next(
            (node for node in self._nodes.values() if node.record.identity == identity.node_id),
            None,
        )

    async def _initialise(self, access: Access, name: str, place: str) -> NodeIdentity:
        from ec.node_identity import NodeIdentity

        if any(node.record.place == place for node in self._nodes.values()):
            raise NodeRefusedError(f"{place} is another node's place")
        if self.stale is not None:
            raise NodeRefusedError(self.stale)
        node_id = self._services.random.randbytes(16).hex()
        wanted = NodeIdentity(self._services.cluster_id, name, node_id, self._records.sequence)
        return await access.initialise(place, wanted)

    def _check_new(self, identity: NodeIdentity, name: str, place: str) -> None:
        """Check the identity at a place that the catalog does not know."""
        if identity.cluster_id != self._services.cluster_id:
            raise NodeRefusedError(f"{place} belongs to cluster {identity.cluster_id}")
        if identity.node != name:
            raise NodeRefusedError(f"{place} is node {identity.node}, not {name}")
        refused = stale_catalog_refusal(self._records.sequence, {name: identity.catalog_sequence})
        if refused is not None:
            raise NodeRefusedError(refused)

    async def change(self, record: StorageNode) -> None:
        """Change a node's place, rack or state, in the catalog and here.

        Raises:
            NodeRefusedError: there is no such node, or the place is another's.
        """
        async with self._changing:
            await self._change(record)

    async def _change(self, record: StorageNode) -> None:
        node = self._nodes.get(record.name)
        if node is None:
            raise NodeRefusedError(f"there is no storage node {record.name!r}")
        with trio.CancelScope(shield=True):
            await self._records.change_node(record)
            if record.place == node.record.place:
                node.record = record
            else:
                assert self._access is not None
                self._forget(node)
                self._watch(_Node(record, self._access.open(record), told=node.told))
        self._services.events.info(
            "storage node changed", node=record.name, place=record.place,
            rack=record.rack, state=record.state.value,
        )  # fmt: skip
        self._changed(record.name)

    async def remove(self, name: str) -> None:
        """Forget a node that holds nothing; its directory stays as it is.

        Raises:
            UnknownNodeError: there is no such node.
            NodeRefusedError: chunks have their place there.
        """
        async with self._changing:
            node = self._find(name)
            with trio.CancelScope(shield=True):
                await self._records.remove_node(name)
                self._forget(node)
        self._services.events.info("storage node removed", node=name)
        self._changed(name)

    def _watch(self, node: _Node) -> None:
        self._nodes[node.record.name] = node
        if self._nursery is not None:
            self._nursery.start_soon(self._probe_for_ever, node)

    def _forget(self, node: _Node) -> None:
        del self._nodes[node.record.name]
        node.scope.cancel()
        node.store.close()

    def _changed(self, name: str) -> None:
        for tell in self.on_change:
            tell(name)

    # --- probing ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Probe all nodes, and tell them how far the catalog has come, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for node in self._nodes.values():
                nursery.start_soon(self._probe_for_ever, node)
            while True:
                await self._news.wait()
                self._news = trio.Event()
                for node in self._nodes.values():
                    self._begin_telling(node)
                await trio.sleep(TELL_INTERVAL_S)

    def close(self) -> None:
        """Let go of all directories and connections."""
        for node in list(self._nodes.values()):
            node.store.close()

    @property
    def _probe_interval_s(self) -> float:
        """At least three in the time after which a silent node is suspect."""
        settings = self._services.settings
        return min(settings.node_probe_interval_ms, settings.node_suspect_ms / 3) / 1000

    async def _probe_for_ever(self, node: _Node) -> None:
        interval_s = self._probe_interval_s
        timeout_s = min(PROBE_S_MAX, max(interval_s, self._limits.suspect_ms / 2000))
        with node.scope:
            while True:
                await trio.sleep(interval_s)
                await self._probe(node, timeout_s)

    async def _probe(self, node: _Node, timeout_s: float) -> None:
        from logd.cold.node_access import Failure

        assert self._access is not None
        answer = await self._access.ask(node.record, node.store, timeout_s=timeout_s)
        before = node_health(node.history, self._limits)
        now_ms = int(trio.current_time() * 1000)
        if isinstance(answer, Failure):
            node.last_error = answer.reason
            node.history = node.history.probed(answer.result, now_ms=now_ms)
        else:
            node.last_error, node.seen = "", answer
            node.told = answer.identity.catalog_sequence
            node.history = node.history.probed(ProbeResult.ANSWERED, now_ms=now_ms)
            self._check_sequence(node.record.name, node.told)
            self._begin_telling(node)
        after = node_health(node.history, self._limits)
        if after is not before and self._nodes.get(node.record.name) is node:
            self._say_health(node, after)
            self._changed(node.record.name)

    def _say_health(self, node: _Node, health: NodeHealth) -> None:
        events, name = self._services.events, node.record.name
        if health is NodeHealth.LIVE:
            events.info("storage node is live", node=name)
        else:
            events.warning(f"storage node is {health.value}", node=name, reason=node.last_error)

    def _check_sequence(self, name: str, seen: int) -> None:
        refused = stale_catalog_refusal(self._records.sequence, {name: seen})
        if refused is not None and self.stale is None:
            self.stale = refused
            self._services.events.error("nothing is changed on storage nodes", reason=refused)

    # --- the catalog's sequence -------------------------------------------------------------------

    def note_sequence(self) -> None:
        """Let all live nodes remember, soon, how far the catalog has come."""
        self._news.set()

    def _begin_telling(self, node: _Node) -> None:
        behind = node.told < self._records.sequence
        if behind and not node.is_telling and self._nursery is not None and self.stale is None:
            node.is_telling = True
            self._nursery.start_soon(self._tell, node)

    async def _tell(self, node: _Node) -> None:
        from ec.errors import EcError

        sequence = self._records.sequence
        try:
            with trio.move_on_after(TELL_S):
                await self.store(node.record.name).note_catalog_sequence(sequence)
                node.told = max(node.told, sequence)
        except (EcError, UnknownNodeError) as error:
            node.last_error = node.last_error or str(error)
        finally:
            node.is_telling = False
