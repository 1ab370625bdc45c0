"""What is known of every coded segment now: its chunks' conditions and its margins.

Put together from the catalog's image, the nodes' states and what is known to be wrong with chunks
(`chunk_findings`), by `policy.cold.condition`. Only what changed is looked at again, so asking is
cheap: ten thousand segments of which none changed cost some milliseconds.

It also remembers since when: a node is dead from the moment that somebody saw it dead, a chunk bad
from the moment of its finding. Of a node that comes, or comes back from the dead, nothing is known
until it was looked through (`looked_through`); what is missing there then was lost when it died, so
an empty node in a lost one's place starts no delay anew. What was found is kept, also when it is
mended and over a restart (`findings_book`): a disk that rots a block a week should be seen.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import trio

from ec.margin import margin
from ec.profile import Profile as CodedProfile
from logd.cold.chunk_findings import ChunkFindings
from logd.cold.tier import ColdTier
from logd.policy.cold.condition import (
    ALWAYS_MS,
    ChunkPlace,
    ChunkState,
    Finding,
    NodeCondition,
    SegmentCondition,
    examine,
)
from logd.policy.cold.finding_record import FindingRecord, shortened
from logd.policy.cold.margins import LOST_MARGIN, MarginCounts, SegmentMargin, count_margins
from logd.policy.cold.values import LIVE, Generation
from logd.policy.node_health import NodeHealth
from logd.storage.findings_note import RECORDS_MAX, FindingsNote

_OPEN: Final = "open"

IsHot = Callable[[Generation], bool]

TopicName = Callable[[bytes], str | None]
"""Returns the name of a topic, None where it is gone."""


def now_ms() -> int:
    """Return the monotonic time that delays are counted by."""
    return int(trio.current_time() * 1000)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A segment as it was looked at."""

    generation: Generation
    condition: SegmentCondition
    margin: SegmentMargin


class ChunkHealth:
    """See the module. Lives on the event loop.

    Args:
        wall_ms: the wall clock.
        looks_through: somebody looks nodes through as they come; if not, they are believed.
        hot: returns what tells whether a generation's segment is still here, as a hot copy.

    Attributes:
        on_change: called when a node's health, a finding or a generation changed.
        found: how many findings there ever were, by state.
        changes: grows with every finding that is new, or mended.
    """

    def __init__(
        self,
        tier: ColdTier,
        findings: ChunkFindings,
        *,
        wall_ms: Callable[[], int],
        looks_through: bool = True,
        hot: Callable[[], IsHot] = lambda: lambda _: False,
    ) -> None:
        self._tier = tier
        self._findings = findings
        self._wall_ms = wall_ms
        self._looks_through = looks_through
        self._has_changed = True
        self._hot = hot
        self._dead_since_ms: dict[str, int] = {}
        self._unseen_since_ms: dict[str, int] = {}
        self._looked_at: set[str] = set()
        self._views: dict[str, NodeCondition] = {}
        self._known: dict[ChunkPlace, Finding] = {}
        self._stale: set[str] = set()
        self._seen: dict[str, _Seen] = {}
        self._records: dict[ChunkPlace, FindingRecord] = {}
        self._mended: deque[FindingRecord] = deque(maxlen=RECORDS_MAX)
        self.found: Counter[ChunkState] = Counter()
        self.changes = 0
        self.on_change: list[Callable[[], None]] = []
        findings.on_change.append(self._findings_changed)
        tier.on_change.append(lambda _: self._changed())
        tier.nodes.on_change.append(self._node_changed)

    # --- looking ----------------------------------------------------------------------------------

    def nodes(self) -> dict[str, NodeCondition]:
        """Return every node, and since when it is dead."""
        nodes = self._tier.nodes
        found: dict[str, NodeCondition] = {}
        for facts in nodes.facts():
            found[facts.name] = NodeCondition(
                facts=facts,
                dead_since_ms=self._died_ms(facts.name, facts.health),
                is_refused=nodes.breaker(facts.name, "repair") == _OPEN,
                is_unseen=self._looks_through and facts.name not in self._looked_at,
            )
        return found

    def _died_ms(self, name: str, health: NodeHealth) -> int | None:
        """Return since when a node is dead, and note when that begins and ends."""
        if health is NodeHealth.DEAD:
            self._looked_at.discard(name)
            return self._dead_since_ms.setdefault(name, self._lost_ms(name))
        died_ms = self._dead_since_ms.pop(name, None)
        if died_ms is not None:
            self._unseen_since_ms[name] = died_ms
        return None

    def _lost_ms(self, name: str) -> int:
        """Return since when what a node has not, is lost: it may have died before it came."""
        return self._unseen_since_ms.get(name, now_ms())

    def looked_through(self, name: str) -> None:
        """A node's chunks were compared with the catalog's; what is missing there was noted."""
        self._follow_findings()
        self._unseen_since_ms.pop(name, None)
        if self._tier.nodes.is_live(name):
            self._looked_at.add(name)
        self._changed()

    def look(self) -> list[tuple[SegmentCondition, SegmentMargin]]:
        """Return condition and margins of every live generation."""
        self._has_changed = False
        views = self.nodes()
        stale = {name for name in views.keys() | self._views.keys() if self._differs(name, views)}
        self._views = views
        self._follow_findings()
        stale_encodings, self._stale = self._stale, set()
        before, self._seen = self._seen, {}
        for generation in self._tier.generations():
            if generation.state not in LIVE:
                continue
            seen = before.get(generation.encoding)
            if (
                seen is None
                or seen.generation is not generation
                or generation.encoding in stale_encodings
                or (stale and not stale.isdisjoint(generation.held.values()))
            ):
                condition = examine(generation, views, self._known)
                seen = _Seen(generation, condition, segment_margin(condition, views))
            self._seen[generation.encoding] = seen
        found = [(seen.condition, seen.margin) for seen in self._seen.values()]
        if any(margin.is_lost for _, margin in found):
            is_hot = self._hot()
            found = [(condition, _with_hot(margin, is_hot)) for condition, margin in found]
        return found

    def find(self, generation: Generation) -> tuple[SegmentCondition, SegmentMargin]:
        """Return condition and margins of one generation, as of the last change."""
        if self._has_changed:
            self.look()
        seen = self._seen.get(generation.encoding)
        if seen is not None:
            condition, margin = seen.condition, seen.margin
        else:
            condition = examine(generation, self._views, self._known)
            margin = segment_margin(condition, self._views)
        return condition, _with_hot(margin, self._hot()) if margin.is_lost else margin

    def _differs(self, name: str, views: dict[str, NodeCondition]) -> bool:
        """Return whether a node changed in what conditions and margins depend on."""
        now, before = views.get(name), self._views.get(name)
        return now is None or before is None or _essence(now) != _essence(before)

    def is_live(self, encoding: str, index: int) -> bool:
        """Return whether the chunk that has its place on record is there, as far as is known."""
        self.look()
        seen = self._seen.get(encoding)
        return seen is not None and seen.condition.chunks[index].state is ChunkState.LIVE

    def has_silent_nodes(self) -> bool:
        """Return whether a node is not dead and does not answer, or is not asked."""
        return any(
            node.is_refused or node.facts.health is NodeHealth.SUSPECT
            for node in self.nodes().values()
        )

    def counts(self) -> MarginCounts:
        """Return how many segments have which margin."""
        return count_margins(margin for _, margin in self.look())

    def replaced(self, name: str) -> None:
        """An empty disk took a node's place: its chunks are lost, nothing is to be waited for."""
        self._looked_at.discard(name)
        self._dead_since_ms.pop(name, None)
        self._unseen_since_ms[name] = ALWAYS_MS
        self._changed()

    # --- findings ---------------------------------------------------------------------------------

    def records(self) -> list[FindingRecord]:
        """Return what was found, mended or not, the oldest first; also before the last start."""
        self._follow_findings()
        both = [*self._mended, *self._records.values()]
        return sorted(both, key=lambda record: record.found_ms)[-RECORDS_MAX:]

    def unmended(self) -> list[FindingRecord]:
        """Return the findings that stand."""
        self._follow_findings()
        return list(self._records.values())

    def restore(self, note: FindingsNote) -> None:
        """Take over what the last run knew: what was not mended, and still has its place, stands.

        It is looked at again with its node, before the node's chunks count.
        """
        self.found.update(note.found)
        stand = []
        for record in note.records:
            if record.mended_ms is None and self._is_place(record.place):
                stand.append(self._records.setdefault(record.place, record))
            else:
                # What lost its place while nobody looked was mended by that.
                mended_ms = record.mended_ms or self._wall_ms()
                self._mended.append(replace(record, mended_ms=mended_ms))
        for record in stand:
            self._findings.restore(record.place, record.state, record.reason, record.block)
        self.changes += 1

    def _follow_findings(self) -> None:
        """Take over new findings with their time; those that are gone are mended."""
        now: dict[ChunkPlace, Finding] = {}
        for place, finding in self._findings:
            known = ChunkPlace(place.encoding, place.index, place.node)
            if not self._is_place(known):
                continue  # What is found of a copy that is to go concerns nobody.
            old = self._known.get(known)
            state = ChunkState(finding.state.value)
            if old is not None and old.state is state:
                now[known] = old
            else:
                is_gone = state is ChunkState.MISSING
                found_ms = self._lost_ms(place.node) if is_gone else now_ms()
                now[known] = Finding(state, found_ms, finding.reason, finding.block)
        for gone in sorted(self._known.keys() - now.keys()):
            record = self._records.pop(gone, None)
            if record is not None:
                self._mended.append(replace(record, mended_ms=self._wall_ms()))
                self.changes += 1
        for known, found in now.items():
            if known not in self._records:
                self._remember(known, found)
            if self._known.get(known) is not found:
                self._stale.add(known.encoding)
        self._stale.update(gone.encoding for gone in self._known.keys() - now.keys())
        self._known = now

    def _is_place(self, place: ChunkPlace) -> bool:
        generation = self._tier.generation(place.encoding)
        if generation is None or generation.state not in LIVE:
            return False
        return generation.held.get(place.index) == place.node

    def _remember(self, place: ChunkPlace, finding: Finding) -> None:
        generation = self._tier.generation(place.encoding)
        if generation is None:
            return
        self.found[finding.state] += 1
        self.changes += 1
        self._records[place] = FindingRecord(
            key=generation.key, generation=generation.number, place=place, state=finding.state,
            reason=shortened(finding.reason), block=finding.block, found_ms=self._wall_ms(),
        )  # fmt: skip

    # --- hearing ----------------------------------------------------------------------------------

    def _findings_changed(self) -> None:
        self._follow_findings()
        self._changed()

    def _node_changed(self, _name: str) -> None:
        self.nodes()  # Notes since when it is dead.
        self._changed()

    def _changed(self) -> None:
        self._has_changed = True
        for call in self.on_change:
            call()


def _essence(node: NodeCondition) -> tuple[object, ...]:
    facts = node.facts
    known = (node.dead_since_ms, node.is_refused, node.is_unseen)
    return facts.health, facts.state, facts.rack, known


def _with_hot(margin: SegmentMargin, is_hot: IsHot) -> SegmentMargin:
    if margin.is_lost and is_hot(margin.generation):
        return replace(margin, has_hot_copy=True)
    return margin


def segment_margin(condition: SegmentCondition, nodes: dict[str, NodeCondition]) -> SegmentMargin:
    """Return a segment's margins: by a matching of chunks with nodes, and by racks."""
    generation = condition.generation
    profile = CodedProfile(generation.profile.k, generation.profile.m)
    holders = {index: (node,) for index, node in condition.present.items()}
    found = margin(profile, holders, _domains(condition.present.values(), nodes))
    return SegmentMargin(
        generation=generation,
        chunks=max(found.chunks - profile.k, LOST_MARGIN),
        nodes=found.nodes,
        domains=found.domains,
        present=found.chunks,
        unknown=len(condition.unknown),
    )


def _domains(names: Iterable[str], nodes: dict[str, NodeCondition]) -> dict[str, str]:
    """Return the rack of each node that has one; the others are their own."""
    return {
        name: f"r {nodes[name].facts.rack}"
        for name in names
        if name in nodes and nodes[name].facts.rack is not None
    }
