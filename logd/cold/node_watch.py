"""One storage node: its record, its store, and what its probes brought.

Each probe asks past all breakers, never waits longer than its time-out, and checks the identity
that comes with the answer. `policy.node_health` makes live, suspect or dead of it.

Imported when the first node exists, as `node_access` is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

import trio

from ec.errors import EcError
from ec.placement import Candidate
from ec.store.protocol import Health, Store
from ec.store.remote import RemoteStore
from logd.cold.local_node import LocalNode
from logd.cold.node_access import Access, Failure, FencedStore, device_of
from logd.policy.cold.preflight import NodeFacts
from logd.policy.cold.values import NodeState, StorageNode
from logd.policy.node_health import (
    HealthLimits,
    NodeHealth,
    ProbeHistory,
    ProbeResult,
    describe_health,
    node_health,
)

TELL_S: Final = 5.0
"""How long a node has to remember how far the catalog has come."""

Purpose = Literal["serve", "encode", "repair", "scrub"]
"""Who asks: each has breakers of its own, so that repair does not take a node from readers.
Encoding has those of serving: where a node answers no reader, nothing is stored.

All but readers read what nobody will want again soon: past the page cache, on local disks."""


@dataclass(slots=True, eq=False)
class NodeWatch:
    """See the module.

    Attributes:
        seen: what the last good probe brought; None: there was none yet.
        last_error: of the last probe, or of telling it the sequence; empty: all was well.
        told: the highest sequence of the catalog that the node is known to remember.
        is_telling: it is being told; set by who begins it.
        scope: around the task that probes it.
    """

    record: StorageNode
    access: Access
    limits: HealthLimits
    store: LocalNode | RemoteStore
    guarded: dict[Purpose, FencedStore] = field(default_factory=dict)
    history: ProbeHistory = field(default_factory=ProbeHistory)
    seen: Health | None = None
    last_error: str = ""
    told: int = 0
    is_telling: bool = False
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @classmethod
    def begin(cls, record: StorageNode, access: Access, limits: HealthLimits) -> NodeWatch:
        """Return the watch of a node; nothing is asked yet."""
        return cls(record, access, limits, access.open(record))

    def close(self) -> None:
        """End the probing, and let go of the node's directory or connections."""
        self.scope.cancel()
        self.store.close()

    @property
    def health(self) -> NodeHealth:
        """What the probes brought."""
        return node_health(self.history, self.limits)

    @property
    def is_live(self) -> bool:
        """Whether it answers as it must."""
        return self.health is NodeHealth.LIVE

    def describe(self) -> str:
        """Return health and reason, for people."""
        return describe_health(self.history, self.limits)

    def for_purpose(self, purpose: Purpose) -> FencedStore:
        """Return the store behind the breaker of a purpose."""
        found = self.guarded.get(purpose)
        if found is None:
            breaker = self.for_purpose("serve").breaker if purpose == "encode" else None
            store: Store = self.store
            if purpose != "serve" and isinstance(store, LocalNode):
                store = store.past_cache()
            found = self.guarded[purpose] = self.access.guard(store, breaker)
        return found

    def breaker(self, purpose: Purpose) -> str:
        """Return the state of the breaker of a purpose."""
        guarded = self.guarded.get(purpose)
        return "closed" if guarded is None else guarded.state().value

    @property
    def rack(self) -> str | None:
        """What the node shares its fate with: as recorded, else as it says itself."""
        return self.record.rack or (None if self.seen is None else self.seen.rack)

    @property
    def facts(self) -> NodeFacts:
        """The node as `policy.cold.preflight` sees it."""
        record, seen = self.record, self.seen
        return NodeFacts(
            name=record.name,
            rack=self.rack,
            state=record.state,
            health=self.health,
            free_bytes=None if seen is None else seen.space.free_bytes,
            kept_bytes=0 if seen is None else self.access.kept_bytes(record, seen),
            device=None if seen is None else device_of(record, seen),
        )

    @property
    def candidate(self) -> Candidate:
        """The node as `ec.placement` sees it."""
        facts = self.facts
        return Candidate(
            facts.name,
            max((facts.free_bytes or 0) - facts.kept_bytes, 0),
            rack=facts.rack,
            device=facts.device,
            is_live=self.is_live and facts.state is NodeState.ACTIVE,
        )

    async def probe(self, timeout_s: float) -> bool:
        """Ask the node how it is, and tell its breakers; return whether anything changed by it."""
        asked_s = trio.current_time()
        answer = await self.access.ask(self.record, self.store, timeout_s=timeout_s)
        before, now_ms = self.health, int(trio.current_time() * 1000)
        if isinstance(answer, Failure):
            self.last_error = answer.reason
            self.history = self.history.probed(answer.result, now_ms=now_ms)
            for store in self.guarded.values():
                store.breaker.went_away()
        else:
            self.last_error, self.seen = "", answer
            self.told = answer.identity.catalog_sequence
            self.history = self.history.probed(ProbeResult.ANSWERED, now_ms=now_ms)
            closer = [store.breaker.answered(asked_s=asked_s) for store in self.guarded.values()]
            if any(closer):
                return True  # Who waits for the node looks again.
        return self.health is not before

    async def tell(self, sequence: int) -> None:
        """Let the node remember how far the catalog has come; if it does not, no harm is done."""
        assert self.is_telling
        try:
            with trio.move_on_after(TELL_S):
                await self.for_purpose("serve").note_catalog_sequence(sequence)
                self.told = max(self.told, sequence)
        except EcError as error:
            self.last_error = self.last_error or str(error)
        finally:
            self.is_telling = False
