"""Which node gets which chunk: rules first, then space, then chance from a seed.

Rules: at most one chunk of a segment on a node, at most m on a rack, enough free space behind the
node's reserve, only nodes that are live. A node without a rack is a rack of its own. Nodes that
share a device are allowed, because a test machine has but one, and are named, because one disk
that fails takes all of them.

Within the rules the free space weighs: a node with twice as much gets twice as many chunks in the
long run. Which of the chosen nodes gets data and which parity is mixed, so that reads spread too.
All follows from the seed: the same call gives the same answer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ec import checksums
from ec.errors import PlacementError
from ec.profile import Profile

# Profiles by number of nodes to place on: the first line that has enough.
_DEFAULTS: Final = (
    (10, Profile(6, 3)), (7, Profile(4, 3)), (6, Profile(4, 2)), (5, Profile(3, 2)),
    (4, Profile(2, 2)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node as placement sees it.

    Attributes:
        rack: None for a rack of its own.
        device: which disk it is on, where it is known; equal devices fail together.
        free_bytes: what may be written, its reserve taken off.
        is_live: it answers and takes new chunks.
    """

    node: str
    free_bytes: int
    rack: str | None = None
    device: str | None = None
    is_live: bool = True

    @property
    def failure_domain(self) -> str:
        """What fails together: the rack, or the node where it has none."""
        # A node's name cannot be mistaken for a rack's: the first letter says which it is.
        return f"n {self.node}" if self.rack is None else f"r {self.rack}"


@dataclass(frozen=True, slots=True)
class Placement:
    """Chunk index -> node, and what is to be said about it.

    Attributes:
        nodes: in the order of chunk indexes.
        shared_devices: groups of those nodes that are on one device.
    """

    nodes: tuple[str, ...]
    shared_devices: tuple[tuple[str, ...], ...] = ()


def default_profile(nodes: int) -> Profile | None:
    """Return the profile for so many nodes; None where there are too few to code at all."""
    assert nodes >= 0
    return next((profile for least, profile in _DEFAULTS if nodes >= least), None)


def place(
    profile: Profile, candidates: Sequence[Candidate], *, chunk_bytes: int, seed: int
) -> Placement:
    """Return a node for each chunk.

    Args:
        chunk_bytes: the length of the longest chunk file.
        seed: decides between nodes that are equally good.

    Raises:
        PlacementError: the rules cannot be kept; the message shows the arithmetic.
    """
    assert chunk_bytes >= 0
    names = [candidate.node for candidate in candidates]
    assert len(set(names)) == len(names)
    chosen = choose_nodes(
        candidates, count=profile.chunks, per_domain=profile.m, chunk_bytes=chunk_bytes,
        seed=seed, what=f"{profile} needs",
    )  # fmt: skip
    order = sorted(chosen, key=lambda candidate: _draw(seed, candidate.node, "order"))
    return Placement(tuple(candidate.node for candidate in order), shared_devices(order))


def place_again(
    profile: Profile,
    candidates: Sequence[Candidate],
    holders: Collection[str],
    *,
    chunk_bytes: int,
    lost: int,
    seed: int,
) -> tuple[str, ...]:
    """Return nodes for `lost` chunks of a segment of which `holders` keep the others.

    Raises:
        PlacementError: there are none that keep the rules; the message shows the arithmetic.
    """
    assert 0 <= lost <= profile.chunks
    by_name = {candidate.node: candidate for candidate in candidates}
    # A holder that nobody knows any more still counts as a domain of its own.
    kept = [by_name.get(node, Candidate(node, 0)) for node in holders]
    taken = Counter(candidate.failure_domain for candidate in kept)
    others = [candidate for candidate in candidates if candidate.node not in holders]
    chosen = choose_nodes(
        others, count=lost, per_domain=profile.m, chunk_bytes=chunk_bytes, seed=seed,
        what=f"{lost} chunks of {profile} need", taken=taken,
    )  # fmt: skip
    return tuple(candidate.node for candidate in chosen)


def choose_nodes(
    candidates: Sequence[Candidate],
    *,
    count: int,
    per_domain: int,
    chunk_bytes: int,
    seed: int,
    what: str,
    taken: Counter[str] | None = None,
) -> list[Candidate]:
    """Return `count` nodes, the best first, at most `per_domain` of a failure domain.

    Taking the best that its domain still allows is never a dead end: the most that can be placed
    is the sum over domains of what each allows, and every choice uses up one of that sum.

    Args:
        what: the beginning of the refusal.
        taken: how many of each domain are in use already.

    Raises:
        PlacementError: there are not so many.
    """
    assert count >= 0
    assert per_domain >= 1
    room = [c for c in candidates if c.is_live and c.free_bytes >= chunk_bytes]
    used = Counter(taken or {})
    chosen: list[Candidate] = []
    for candidate in sorted(room, key=lambda c: (_rank(seed, c), c.node)):
        domain = candidate.failure_domain
        if len(chosen) < count and used[domain] < per_domain:
            used[domain] += 1
            chosen.append(candidate)
    if len(chosen) < count:
        raise PlacementError(
            _refusal(candidates, room, chosen, count, per_domain, chunk_bytes, what)
        )
    return chosen


def _refusal(
    candidates: Sequence[Candidate],
    room: Sequence[Candidate],
    chosen: Sequence[Candidate],
    count: int,
    per_domain: int,
    chunk_bytes: int,
    what: str,
) -> str:
    live = [candidate for candidate in candidates if candidate.is_live]
    parts = [f"{what} {count} nodes with {chunk_bytes} bytes free", f"{len(candidates)} known"]
    if len(live) < len(candidates):
        parts.append(f"{len(live)} live")
    if len(room) < len(live):
        free = ", ".join(f"{c.node} {c.free_bytes}" for c in live if c not in room)
        parts.append(f"{len(room)} with the space (too full: {free})")
    if len(chosen) < len(room):
        parts.append(f"{len(chosen)} with at most {per_domain} on a rack")
    return "; ".join(parts)


def shared_devices(chosen: Iterable[Candidate]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of nodes that are on one device, by name."""
    groups: dict[str, list[str]] = {}
    for candidate in chosen:
        if candidate.device is not None:
            groups.setdefault(candidate.device, []).append(candidate.node)
    return tuple(sorted(tuple(sorted(nodes)) for nodes in groups.values() if len(nodes) > 1))


def _rank(seed: int, candidate: Candidate) -> float:
    """Return a number that is small for a node which is drawn early.

    Drawing exponentially distributed times, with the free space as the rate, is drawing without
    replacement in proportion to the free space (Efraimidis and Spirakis 2006).
    """
    return -math.log(_draw(seed, candidate.node, "rank")) / max(1, candidate.free_bytes)


def _draw(seed: int, node: str, purpose: str) -> float:
    """Return a number in (0, 1] that looks random and depends on its arguments only."""
    return (checksums.checksum(f"{seed} {purpose} {node}".encode()) + 1) / 2**64
