"""Whether there are enough storage nodes, far enough apart and empty enough, for one encoding.

Rules: at most one chunk of a segment on a node, at most m in a rack (so that losing a rack loses no
segment); a node without a rack has a rack of its own. Nodes that are not live, draining, or short
of space get none. All chunks are at most as long as the longest, so each node is fit for any or for
none of them, and the most chunks that can be placed is the sum over the racks of what each can
take. If that is less than k+m the answer is a refusal with the sum in words.

Which of the fit nodes get the chunks is the coding library's choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from logd.policy.cold.values import NodeState, Profile
from logd.policy.node_health import NodeHealth
from logd.units import KIB, format_byte_count

# What a chunk file has besides payload, checksums and indexes: manifest and trailer, at most.
CHUNK_ENDING_BYTES: Final = 65 * KIB
_BLOCK_BYTES: Final = 64 * KIB
_CHECKSUM_BYTES: Final = 8
# The longest data chunk is at most that much longer than a k-th: `ec.geometry`'s bound.
_CUT_SHARE: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """A storage node, as far as placing a chunk on it goes.

    Attributes:
        rack: None: its own.
        free_bytes: of its disk; None: not known, so nothing is placed there.
        kept_bytes: not for chunks: the disk's reserve, and what other encodings were promised.
        device: what tells disks of one host apart; nodes on one device fail together.
        is_kept_from: its circuit breaker is open, so whatever is begun there fails at once.
    """

    name: str
    rack: str | None = None
    state: NodeState = NodeState.ACTIVE
    health: NodeHealth = NodeHealth.LIVE
    free_bytes: int | None = None
    kept_bytes: int = 0
    device: str | None = None
    is_kept_from: bool = False

    @property
    def failure_domain(self) -> tuple[bool, str]:
        """What fails together with the node; a node's name is never taken for a rack's."""
        return (False, self.name) if self.rack is None else (True, self.rack)

    @property
    def usable_bytes(self) -> int:
        """What chunks may take of its disk; 0 where that is not known."""
        return max((self.free_bytes or 0) - self.kept_bytes, 0)


@dataclass(frozen=True, slots=True)
class Fit:
    """Enough nodes are fit.

    Attributes:
        nodes: the names of all that are, sorted.
        warnings: what an operator should know, in words.
    """

    nodes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """There are not; `reason` shows the arithmetic."""

    reason: str


def chunk_bytes_max(source_bytes: int, profile: Profile, *, index_bytes: int) -> int:
    """Return the most that one chunk file of a segment can be.

    Args:
        index_bytes: of the segment's two indexes; parity chunks carry all of them.
    """
    assert source_bytes >= 0
    payload = -(-source_bytes // profile.k) + source_bytes // (_CUT_SHARE * profile.k)
    checksums = -(-payload // _BLOCK_BYTES) * _CHECKSUM_BYTES
    return payload + checksums + index_bytes + CHUNK_ENDING_BYTES


def preflight(profile: Profile, nodes: Sequence[NodeFacts], *, chunk_bytes: int) -> Fit | Refusal:
    """Return the nodes that are fit for a chunk, or why there are too few.

    Args:
        chunk_bytes: the longest chunk, see `chunk_bytes_max`.
    """
    assert len({node.name for node in nodes}) == len(nodes)
    unfit = [(node, reason) for node in nodes if (reason := unfit_reason(node, chunk_bytes))]
    fit = [node for node in nodes if unfit_reason(node, chunk_bytes) is None]
    racks = Counter(node.failure_domain for node in fit)
    places = sum(min(count, profile.m) for count in racks.values())
    if places >= profile.chunks:
        warnings = _warnings(profile, fit, places)
        return Fit(tuple(sorted(node.name for node in fit)), warnings)
    return Refusal(_arithmetic(profile, nodes, fit, unfit, racks, places))


def unfit_reason(node: NodeFacts, chunk_bytes: int) -> str | None:
    """Return why a node is not to get a chunk of that size, in words; None: it may."""
    if node.state is not NodeState.ACTIVE:
        return f"is {node.state.value}"
    if node.health is not NodeHealth.LIVE:
        return f"is {node.health.value}"
    if node.is_kept_from:
        return "is not asked for a while: too many of its last answers failed"
    if node.free_bytes is None:
        return "its free space is not known"
    if node.usable_bytes >= chunk_bytes:
        return None
    words = f"has {format_byte_count(node.usable_bytes)} for chunks"
    if node.kept_bytes:
        words += f" ({format_byte_count(node.free_bytes)} less {format_byte_count(node.kept_bytes)}"
        words += " kept)"
    return f"{words}, needs {format_byte_count(chunk_bytes)}"


def _arithmetic(
    profile: Profile,
    nodes: Sequence[NodeFacts],
    fit: Sequence[NodeFacts],
    unfit: Iterable[tuple[NodeFacts, str]],
    racks: Counter[tuple[bool, str]],
    places: int,
) -> str:
    """Return the sum, as a person would check it."""
    words = f"{profile} needs {profile.chunks} nodes, each with room for one chunk"
    words += f"; of {_count(len(nodes), 'node')} {len(fit)} can take one"
    if places < len(fit):
        terms = [
            f"{min(count, profile.m)} of the {count} in {name}"
            for (is_shared, name), count in sorted(racks.items())
            if is_shared
        ]
        alone = sum(count for (is_shared, _), count in racks.items() if not is_shared)
        terms += [f"{alone} without a rack"] if alone else []
        words += f", but a rack may have at most m = {profile.m}: {' + '.join(terms)} = {places}"
    out = [f"{node.name} {reason}" for node, reason in unfit]
    return words + (f". Left out: {'; '.join(out)}" if out else "")


def _warnings(profile: Profile, fit: Sequence[NodeFacts], places: int) -> tuple[str, ...]:
    warnings = []
    if places == profile.chunks:
        warnings.append(
            f"{profile} takes all {_count(places, 'place')} there are: a chunk that is lost has no "
            "target until a node is replaced or added"
        )
    devices = Counter(node.device for node in fit if node.device is not None)
    for device, count in sorted(devices.items()):
        if count > 1:
            names = ", ".join(sorted(node.name for node in fit if node.device == device))
            warnings.append(f"{names} are on one device, {device}: they fail together")
    return tuple(warnings)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
