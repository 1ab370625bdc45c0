"""What is repaired, in which order, how, onto which nodes; and why each of the others waits.

The plan is made anew from facts whenever something changes, and nothing of it is kept: after a
crash the same facts give the same plan, and a node that comes back takes its items out of it.

* Order: the segment that survives the fewest further losses of nodes first, then of racks, then the
  one that lost a chunk longest ago.
* Delay: none at margin 0, a fifteenth of repair.delay.ms at margin 1, all of it above; counted for
  each chunk from the moment its node was found dead or it was found missing: both may come back. A
  corrupt chunk does not get better, so it waits for nothing. The first that is due takes all lost
  chunks of its segment along: they are made in one pass.
* Method: a chunk that can still be read on a node which is being drained is copied. What is lost is
  computed from k others; where that is the exclusive or of chunks 0 to k but one, the plan says so.
  Where fewer than k are left and the segment still is here, it is coded anew from that copy: all of
  its chunks, as the next generation, which supersedes this one.
* Target: where the node of a lost chunk is well, the same node, in place: so nodes of which one was
  replaced need no spare. Otherwise another by the rules of placement (`policy.cold.targets`).

What cannot be made now says why: delay, no target, source slow, rate, leased, retry, unrecoverable.
An item that cannot be made never stands in the way of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from logd.policy.cold.condition import (
    ChunkCondition,
    ChunkState,
    NodeCondition,
    SegmentCondition,
)
from logd.policy.cold.leases import Work
from logd.policy.cold.margins import SegmentMargin
from logd.policy.cold.preflight import chunk_bytes_max
from logd.policy.cold.targets import INDEX_SHARE, Targets, chunk_bytes_of
from logd.policy.cold.values import LIVE, Profile, SegmentKey
from logd.policy.node_health import NodeHealth
from logd.units import MINUTE_MS, format_duration_ms

MARGIN_1_SHARE: Final = 15
"""At margin 1 the delay is repair.delay.ms divided by this."""


class Method(Enum):
    """How a chunk is made; the order is that of preference."""

    COPY = "copy"
    XOR = "xor"
    DECODE = "decode"
    HOT_COPY = "hot copy"


class Hold(Enum):
    """Why an item is not being made now."""

    DELAY = "delay"
    NO_TARGET = "no-target"
    SOURCE_SLOW = "source-slow"
    RATE = "rate"
    LEASED = "leased"
    RETRY = "retry"
    UNRECOVERABLE = "unrecoverable"


STUCK: Final = frozenset((Hold.NO_TARGET, Hold.SOURCE_SLOW, Hold.LEASED, Hold.UNRECOVERABLE))
"""These end when something else changes; nobody can say when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRules:
    """How soon and how much at once.

    Attributes:
        delay_ms: repair.delay.ms.
        running_max: how many segments are repaired at once.
        ignores_delays: `logd repair`: now.
    """

    delay_ms: int = 15 * MINUTE_MS
    running_max: int = 2
    ignores_delays: bool = False

    def __post_init__(self) -> None:
        assert self.delay_ms >= 0
        assert self.running_max >= 1

    def delay_at(self, margin: int) -> int:
        """Return how long a loss waits that leaves this margin."""
        if self.ignores_delays or margin <= 0:
            return 0
        return self.delay_ms // MARGIN_1_SHARE if margin == 1 else self.delay_ms


@dataclass(frozen=True, slots=True)
class Step:
    """Chunks that are made in one pass.

    Attributes:
        targets: index and node of each; sorted. Of HOT_COPY they show that there are nodes enough:
            which are taken is decided when it is coded.
        sources: the indexes that are read: k of them, or the chunk itself where it is copied.
            HOT_COPY reads as much, of the segment's file.
    """

    method: Method
    targets: tuple[tuple[int, str], ...]
    sources: tuple[int, ...]

    def __str__(self) -> str:
        if self.method is Method.HOT_COPY:
            return f"code all {len(self.targets)} chunks anew from the hot copy"
        what = ", ".join(f"{index} to {node}" for index, node in self.targets)
        if self.method is Method.COPY:
            return f"copy chunk {what}"
        return f"{self.method.value} chunk {what} from {', '.join(map(str, self.sources))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairItem:
    """One segment that is to be repaired, or moved off a node that leaves.

    Attributes:
        steps: what can be made, lost chunks before copies; empty where nothing can.
        hold: why it is not made now; None: it may begin, or runs.
        reason: in words; also what a partial repair leaves.
        due_ms: when its delay ends, by the monotonic clock; None: there is none.
        is_running: it has begun.
    """

    condition: SegmentCondition
    margin: SegmentMargin
    steps: tuple[Step, ...]
    hold: Hold | None
    reason: str
    due_ms: int | None = None
    is_running: bool = False

    @property
    def encoding(self) -> str:
        """Which generation it is."""
        return self.condition.generation.encoding

    @property
    def write_bytes(self) -> int:
        """What its steps write, about."""
        return self._chunk_bytes * sum(len(step.targets) for step in self.steps)

    @property
    def read_bytes(self) -> int:
        """What its steps read, about: each source once."""
        return self._chunk_bytes * sum(len(step.sources) for step in self.steps)

    @property
    def is_coded_anew(self) -> bool:
        """Whether its steps make another generation, from the hot copy."""
        return any(step.method is Method.HOT_COPY for step in self.steps)

    @property
    def _chunk_bytes(self) -> int:
        generation = self.condition.generation
        return -(-generation.source_bytes // generation.profile.k)

    @property
    def state(self) -> str:
        """One word for listings: running, ready, or why it waits."""
        if self.is_running:
            return "running"
        return "ready" if self.hold is None else self.hold.value

    def __str__(self) -> str:
        what = "; ".join(map(str, self.steps)) or "nothing can be made"
        words = f"{self.condition.generation}: {self.state}: {what}"
        return f"{words} ({self.reason})" if self.reason else words


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """All items, the most urgent first."""

    items: tuple[RepairItem, ...]

    @property
    def ready(self) -> tuple[RepairItem, ...]:
        """What may begin now."""
        return tuple(each for each in self.items if each.hold is None and not each.is_running)

    @property
    def next_ms(self) -> int | None:
        """When the next item is due that waits for its time; None: none does."""
        waits = (Hold.DELAY, Hold.RETRY)
        times = (each.due_ms for each in self.items if each.hold in waits)
        return min((at for at in times if at is not None), default=None)

    @property
    def unrecoverable(self) -> tuple[RepairItem, ...]:
        """What cannot be made any more from what is there."""
        return tuple(each for each in self.items if each.hold is Hold.UNRECOVERABLE)

    def __str__(self) -> str:
        return "\n".join(map(str, self.items)) or "nothing to repair"


@dataclass(frozen=True, slots=True)
class RepairFacts:
    """What repair goes by, beside the segments.

    Attributes:
        nodes: by name.
        leased: what is done to segments by others; repair's own are in `running`.
        running: encodings whose repair has begun.
        retry_at_ms: of encodings whose last attempt failed: when the next may begin.
        anew: encodings whose segment is still here, and the profile that it would be coded with.
    """

    nodes: Mapping[str, NodeCondition]
    leased: Mapping[SegmentKey, Work] = field(default_factory=dict)
    running: frozenset[str] = frozenset()
    retry_at_ms: Mapping[str, int] = field(default_factory=dict)
    anew: Mapping[str, Profile] = field(default_factory=dict)


def plan_repairs(
    segments: Iterable[tuple[SegmentCondition, SegmentMargin]],
    facts: RepairFacts,
    rules: RepairRules,
    *,
    now_ms: int,
) -> RepairPlan:
    """Return what is to be repaired, of all segments.

    Segments that are not live, or have all their chunks on nodes that stay, have no item.
    """
    work = [
        (condition, margin)
        for condition, margin in segments
        if condition.generation.state in LIVE and (condition.lost or condition.leaving)
    ]
    work.sort(key=lambda pair: _urgency(*pair))
    targets = Targets(node.facts for node in facts.nodes.values())
    items = []
    free = rules.running_max - len(facts.running)
    for condition, margin in work:
        item = _plan_item(condition, margin, facts, rules, targets, now_ms=now_ms)
        if item.hold is None and not item.is_running:
            if free <= 0:
                item = _held(item, Hold.RATE, f"{rules.running_max} others are being repaired")
            free -= 1
        items.append(item)
    return RepairPlan(tuple(items))


def _urgency(condition: SegmentCondition, margin: SegmentMargin) -> tuple[object, ...]:
    """Sorts what is nearest to loss first; what only leaves a node has its full margin, so last."""
    since_ms = min((chunk.since_ms for chunk in condition.lost), default=0)
    return not condition.lost, margin.rank, since_ms, condition.generation.key


def _plan_item(
    condition: SegmentCondition,
    margin: SegmentMargin,
    facts: RepairFacts,
    rules: RepairRules,
    targets: Targets,
    *,
    now_ms: int,
) -> RepairItem:
    """Return what is done about one segment, and promise its targets."""
    due_ms = _due_ms(condition, margin, rules)
    is_running = condition.generation.encoding in facts.running
    steps, hold, reason = _plan_steps(condition, facts, targets)
    item = RepairItem(
        condition=condition, margin=margin, steps=steps, hold=hold, reason=reason,
        due_ms=due_ms, is_running=is_running,
    )  # fmt: skip
    if hold is not None or is_running:
        return item
    other = facts.leased.get(condition.generation.key)
    if other is not None:
        return _held(item, Hold.LEASED, f"it is being worked on: {other.value}")
    retry_ms = facts.retry_at_ms.get(item.encoding, now_ms)
    if retry_ms > now_ms:
        rest = format_duration_ms(retry_ms - now_ms)
        return _held(item, Hold.RETRY, f"the last attempt failed, the next is in {rest}", retry_ms)
    if due_ms is not None and due_ms > now_ms:
        rest = format_duration_ms(due_ms - now_ms)
        return _held(item, Hold.DELAY, f"margin {margin.nodes}: begins in {rest}", due_ms)
    return item


def _held(item: RepairItem, hold: Hold, reason: str, due_ms: int | None = None) -> RepairItem:
    assert item.hold is None
    words = f"{reason}; {item.reason}" if item.reason else reason
    return RepairItem(
        condition=item.condition, margin=item.margin, steps=item.steps, hold=hold, reason=words,
        due_ms=item.due_ms if due_ms is None else due_ms,
    )  # fmt: skip


def _due_ms(condition: SegmentCondition, margin: SegmentMargin, rules: RepairRules) -> int | None:
    """Return when the first of its lost chunks is due; None: it has none."""
    delay_ms = rules.delay_at(margin.nodes)
    return min(
        (
            chunk.since_ms + (0 if chunk.state is ChunkState.CORRUPT else delay_ms)
            for chunk in condition.lost
        ),
        default=None,
    )


# --- steps ----------------------------------------------------------------------------------------


def _plan_steps(
    condition: SegmentCondition, facts: RepairFacts, targets: Targets
) -> tuple[tuple[Step, ...], Hold | None, str]:
    """Return what can be made of a segment, and why not more."""
    steps: list[Step] = []
    anew = facts.anew.get(condition.generation.encoding)
    hold, reason = None, ""
    kept = set(condition.present.values())
    if condition.lost:
        hold, reason = _source_hold(condition)
        if hold is Hold.UNRECOVERABLE and anew is not None:
            return _code_anew(condition, anew, targets, reason)
        if hold is None:
            wanted = _lost_targets(condition, kept, facts.nodes, targets)
            if wanted:
                steps.append(_rebuild(condition, wanted))
                kept.update(wanted.values())
            left = len(condition.lost) - len(wanted)
            if left:
                reason = _no_target(condition, kept, left, targets)
                hold = None if wanted else Hold.NO_TARGET
    copies, why = _copies(condition, kept, targets)
    steps += copies
    if why and not hold:
        reason = f"{reason}; {why}" if reason else why
        hold = None if steps else Hold.NO_TARGET
    # What can be copied is: a lost chunk that nothing gives back does not keep the others there.
    return tuple(steps), None if steps else hold, reason


def _source_hold(condition: SegmentCondition) -> tuple[Hold | None, str]:
    """Return why lost chunks cannot be computed now; None: they can."""
    k = condition.generation.profile.k
    live, unknown = len(condition.live), len(condition.unknown)
    if live >= k:
        return None, ""
    if live + unknown < k:
        return Hold.UNRECOVERABLE, f"{live + unknown} chunks are left, {k} are needed"
    where = ", ".join(f"{chunk.index} on {chunk.node}" for chunk in condition.unknown)
    words = f"{live} of the {k} chunks that are needed can be read now; nothing is known of {where}"
    return Hold.SOURCE_SLOW, words


def _code_anew(
    condition: SegmentCondition, profile: Profile, targets: Targets, why: str
) -> tuple[tuple[Step, ...], Hold | None, str]:
    """Return the step that codes a segment anew, all chunks or none."""
    size = condition.generation.source_bytes
    longest = chunk_bytes_max(size, profile, index_bytes=size // INDEX_SHARE)
    found = targets.pick(profile, (), count=profile.chunks, chunk_bytes=longest)
    reason = f"{why}; its hot copy is here, and is to be coded anew"
    if len(found) == profile.chunks:
        step = Step(Method.HOT_COPY, tuple(enumerate(found)), tuple(range(profile.k)))
        return (step,), None, reason
    for node in found:
        targets.take_back(node, longest)
    left = profile.chunks - len(found)
    words = targets.refusal(profile, found, count=left, chunk_bytes=longest)
    return (), Hold.NO_TARGET, f"{reason}: {words}"


def _lost_targets(
    condition: SegmentCondition,
    kept: set[str],
    nodes: Mapping[str, NodeCondition],
    targets: Targets,
) -> dict[int, str]:
    """Return index and node for as many lost chunks as there are nodes for: in place first."""
    generation = condition.generation
    chunk_bytes = chunk_bytes_of(generation)
    wanted: dict[int, str] = {}
    for chunk in condition.lost:
        home = chunk.node
        if home is None or home in kept or not _is_well(chunk, nodes):
            continue
        if home in generation.leaving_nodes:
            continue
        if targets.has_room(home, chunk_bytes):
            targets.promise(home, chunk_bytes)
            wanted[chunk.index] = home
    others = [chunk.index for chunk in condition.lost if chunk.index not in wanted]
    found = targets.pick(
        generation.profile, kept | set(wanted.values()), count=len(others),
        chunk_bytes=chunk_bytes, barred=generation.leaving_nodes,
    )  # fmt: skip
    return wanted | dict(zip(others, found, strict=False))


def _is_well(chunk: ChunkCondition, nodes: Mapping[str, NodeCondition]) -> bool:
    """Return whether a lost chunk's own node can take it again."""
    node = None if chunk.node is None else nodes.get(chunk.node)
    if node is None or chunk.is_leaving or node.is_refused:
        return False
    return node.facts.health is NodeHealth.LIVE


def _rebuild(condition: SegmentCondition, wanted: Mapping[int, str]) -> Step:
    k = condition.generation.profile.k
    sources = condition.live[:k]
    lost = tuple(sorted(wanted.items()))
    is_xor = len(lost) == 1 and {*sources, lost[0][0]} == set(range(k + 1))
    return Step(Method.XOR if is_xor else Method.DECODE, lost, sources)


def _copies(
    condition: SegmentCondition, kept: set[str], targets: Targets
) -> tuple[list[Step], str]:
    """Return a copy of each chunk whose node leaves, where there is a node for it."""
    generation = condition.generation
    steps: list[Step] = []
    without = 0
    for chunk in condition.leaving:
        assert chunk.node is not None
        others = kept - {chunk.node}
        found = targets.pick(
            generation.profile, others, count=1, chunk_bytes=chunk_bytes_of(generation),
            barred=generation.leaving_nodes,
        )  # fmt: skip
        if not found:
            without += 1
            continue
        kept.discard(chunk.node)
        kept.update(found)
        steps.append(Step(Method.COPY, ((chunk.index, found[0]),), (chunk.index,)))
    return steps, _no_target(condition, kept, without, targets) if without else ""


def _no_target(condition: SegmentCondition, kept: set[str], count: int, targets: Targets) -> str:
    generation = condition.generation
    return targets.refusal(
        generation.profile, kept, count=count, chunk_bytes=chunk_bytes_of(generation)
    )
