"""The states of a coded segment's generation, and what moves it from one to the next.

    HOT -> PLANNED -> COMMITTED <-> RELEASED
              |           |            |
              v           +-> SUPERSEDED ------+
           ABORTED        +-> DELETING <-------+
              |                   |
              +-----> GONE <------+

The table below is the law: what is not in it is refused. Every move is one transaction of the
catalog and durable before its effect, so a crash between the two leaves an effect to be done
again, never one that nobody remembers. Invariants, which a simulation checks:

* the hot file goes only after RELEASED is durable, and RELEASED needs the proof of that moment
  (`policy.cold.proof`); so a segment is readable from its hot file or from k chunks, always;
* a chunk is removed only where a record says ABORTED or DELETING, or that the copy is leaving; what
  no record explains is not removed (`policy.cold.removal`);
* a file named .log is whole: thawing writes under another name and renames after the sync.

A generation of one segment passes through the states once; a segment that is coded again gets a new
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from logd.errors import ColdStateError
from logd.policy.cold.values import ColdState, Generation

HOT, PLANNED, COMMITTED, RELEASED, SUPERSEDED, ABORTED, DELETING, GONE = ColdState


class ColdEvent(Enum):
    """What happens to a generation."""

    PLAN = "plan"
    COMMIT = "commit"
    ABORT = "abort"
    RELEASE = "release"
    THAW = "thaw"
    SUPERSEDE = "supersede"
    DELETE = "delete"
    START = "start"
    """The server starts: whoever worked on it is gone."""
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Transition:
    """A row of the table.

    Attributes:
        guard: what must be true, in words; empty: nothing.
        effect: what may be done once the new state is durable; empty: nothing.
    """

    state: ColdState
    event: ColdEvent
    target: ColdState
    guard: str = ""
    effect: str = ""


_SEALED: Final = "sealed, synced, below the high watermark; enough nodes and space; leased"
_PROVED: Final = "all k+m chunks read back and right; one decode compared with the source"
_CHECKED: Final = "grace over, not held, nothing degraded, all k+m chunks checked just now"
_ABORTED: Final = "its chunks are removed"
_REMOVED: Final = "its chunks are removed, each acknowledged by its node"
_ACKNOWLEDGED: Final = "no chunk of it has a place any more"

TRANSITIONS: Final[tuple[Transition, ...]] = (
    Transition(HOT, ColdEvent.PLAN, PLANNED, _SEALED, "chunks are written"),
    Transition(HOT, ColdEvent.START, HOT),
    Transition(PLANNED, ColdEvent.COMMIT, COMMITTED, _PROVED, "readers may use the chunks"),
    Transition(PLANNED, ColdEvent.ABORT, ABORTED, "", _ABORTED),
    Transition(PLANNED, ColdEvent.DELETE, ABORTED, "", _ABORTED),
    Transition(PLANNED, ColdEvent.START, ABORTED, "", _ABORTED),
    Transition(COMMITTED, ColdEvent.RELEASE, RELEASED, _CHECKED, "the hot .log is removed"),
    Transition(COMMITTED, ColdEvent.SUPERSEDE, SUPERSEDED, "its successors commit with it"),
    Transition(COMMITTED, ColdEvent.DELETE, DELETING, "", _REMOVED),
    Transition(COMMITTED, ColdEvent.START, COMMITTED),
    Transition(
        RELEASED, ColdEvent.THAW, COMMITTED, "the hot copy is whole, verified and synced", "held"
    ),
    Transition(RELEASED, ColdEvent.SUPERSEDE, SUPERSEDED, "its successors commit with it"),
    Transition(RELEASED, ColdEvent.DELETE, DELETING, "", _REMOVED),
    Transition(
        RELEASED, ColdEvent.START, RELEASED, "", "a hot .log that is still there is removed, proved"
    ),
    Transition(
        SUPERSEDED, ColdEvent.DELETE, DELETING, "hot, or its successors are released", _REMOVED
    ),
    Transition(SUPERSEDED, ColdEvent.START, SUPERSEDED),
    Transition(ABORTED, ColdEvent.FORGET, GONE, _ACKNOWLEDGED, "the record goes"),
    Transition(ABORTED, ColdEvent.START, ABORTED, "", _ABORTED),
    Transition(DELETING, ColdEvent.FORGET, GONE, _ACKNOWLEDGED, "the record goes"),
    Transition(DELETING, ColdEvent.START, DELETING, "", _REMOVED),
    Transition(GONE, ColdEvent.START, GONE),
)

_BY_STIMULUS: Final = {(row.state, row.event): row for row in TRANSITIONS}
assert len(_BY_STIMULUS) == len(TRANSITIONS), "one row a state and event"


def is_allowed(state: ColdState, event: ColdEvent) -> bool:
    """Return whether the table has a move for the event; its guard is another question."""
    return (state, event) in _BY_STIMULUS


def step(state: ColdState, event: ColdEvent) -> Transition:
    """Return the row for an event in a state.

    Raises:
        ColdStateError: there is none.
    """
    found = _BY_STIMULUS.get((state, event))
    if found is None:
        raise ColdStateError(f"what is {state.value} cannot {event.value}")
    return found


def format_transitions() -> str:
    """Return the table as the documentation shows it."""
    lines = ["| from | event | to | only if | then |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.state.value} | {row.event.value} | {row.target.value} "
        f"| {row.guard} | {row.effect} |"
        for row in TRANSITIONS
    ]
    return "\n".join(lines) + "\n"


# --- what a start does ----------------------------------------------------------------------------


class StartAction(Enum):
    """What a start does about a generation."""

    NOTHING = "nothing"
    ABORT = "abort"
    """Record it as ABORTED, then remove its chunks."""
    REMOVE_HOT = "check, then remove the hot file"
    """Check all chunks as for a release; if all are right the hot .log goes, otherwise it stays."""
    REMOVE_CHUNKS = "remove its chunks"
    LOOK_AT_SUCCESSORS = "delete it once its successors are proved"
    SAY_HOT_IS_MISSING = "say that the hot file is missing"
    """It is read from its chunks, and is released, or thawed, as others are."""


def on_start(generation: Generation, *, has_hot_log: bool) -> StartAction:
    """Return what a start does about a generation; nobody works on it yet.

    A hot file of a RELEASED segment is what a crash left between the record and the unlink. Nodes
    may have been lost since, and it is whole: so it goes by the same proof as before.
    """
    state = generation.state
    if state is PLANNED:
        return StartAction.ABORT
    if state in (ABORTED, DELETING):
        return StartAction.REMOVE_CHUNKS
    if state is SUPERSEDED:
        return StartAction.LOOK_AT_SUCCESSORS
    if state is RELEASED and has_hot_log:
        return StartAction.REMOVE_HOT
    if state is COMMITTED and not has_hot_log:
        return StartAction.SAY_HOT_IS_MISSING
    return StartAction.NOTHING
