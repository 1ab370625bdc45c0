"""What the cold tier needs of a catalog: nodes, generations of coded segments, placements.

Every move of `logd.policy.cold.states` is one transaction here, with its proof, and durable before
the caller does what follows from it. If a method raises, nothing of it was done.

`sequence` grows with each change of what is on storage nodes or may be. Each node keeps the highest
it was told in its identity file, so a catalog that was put back from an old copy is found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from logd.policy.cold.proof import HotCopy, Proof, ReleaseCheck, ReleaseTerms
from logd.policy.cold.values import (
    Generation,
    Gone,
    Profile,
    SegmentKey,
    StorageNode,
    is_encoding,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodePlan:
    """An encoding that is to begin; `Generation` has the fields.

    Attributes:
        nodes: for each chunk, by index, the node that is to get it.
    """

    key: SegmentKey
    encoding: str
    profile: Profile
    next_offset: int
    source_bytes: int
    min_timestamp_ms: int = -1
    max_timestamp_ms: int = -1
    nodes: tuple[str, ...]

    def __post_init__(self) -> None:
        assert is_encoding(self.encoding)
        assert len(self.nodes) == self.profile.chunks == len(set(self.nodes))


@dataclass(frozen=True, slots=True)
class Commit:
    """A generation that is proved.

    Attributes:
        manifest: the bytes that all its chunks carry.
    """

    encoding: str
    manifest: bytes
    proof: Proof


class ColdCatalog(Protocol):
    """See the module. Every method may raise StorageError (DiskFullError)."""

    def sequence(self) -> int:
        """Return the number of changes so far."""
        ...

    # --- nodes ---

    def nodes(self) -> list[StorageNode]:
        """Return all storage nodes by name."""
        ...

    def add_node(self, node: StorageNode) -> None:
        """Add a node.

        Raises:
            NodeRefusedError: its name, place or identity is another's.
        """
        ...

    def change_node(self, node: StorageNode) -> None:
        """Change a node's place, rack or state; its name and identity tell which it is.

        Raises:
            NodeRefusedError: there is no such node, or the place is another's.
        """
        ...

    def replace_node(self, node: StorageNode) -> None:
        """Give a node's name to another disk, with another identity; its chunks keep their places.

        Raises:
            NodeRefusedError: there is no node of that name, or the place or identity is another's.
        """
        ...

    def rename_node(self, old_name: str, node: StorageNode) -> None:
        """Give a node another name, and the place and rack of the record; its chunks stay.

        Raises:
            NodeRefusedError: there is no such node of that identity, or the name or the place is
                another's.
        """
        ...

    def remove_node(self, name: str) -> None:
        """Remove a node that holds nothing any more; what was to be removed from it is given up.

        Raises:
            NodeRefusedError: there is no such node, or chunks have their place there.
        """
        ...

    # --- generations ---

    def generations(self) -> list[Generation]:
        """Return all generations, of every state, by segment and number."""
        ...

    def find(self, encodings: Sequence[str]) -> list[Generation]:
        """Return those of the encodings that there are, of every state, in the order asked for."""
        ...

    def gone(self, encoding: str) -> Gone | None:
        """Return what is remembered of a generation that was ABORTED or DELETING, and is gone.

        Of a great many only the latest are.
        """
        ...

    def manifest(self, encoding: str) -> bytes | None:
        """Return the manifest of a generation that was committed."""
        ...

    def plan(self, plan: EncodePlan, *, now_ms: int) -> Generation:
        """HOT -> PLANNED: record what is to be written, before any byte is.

        Its number is higher than any that was given out for the same offsets.

        Raises:
            ColdStateError: the topic is not live, a node is unknown, or another is planned.
        """
        ...

    def place_chunk(self, encoding: str, *, index: int, node: str) -> None:
        """Give a chunk a place; where it had one, that copy is leaving.

        For a planned chunk before it is written, for others when the new one was read back.

        Raises:
            ColdStateError: unknown, not planned or live, or a sibling is on that node.
        """
        ...

    def commit(
        self, commits: Sequence[Commit], *, superseded: Sequence[str] = (), now_ms: int
    ) -> None:
        """PLANNED -> COMMITTED, and in the same step what they follow becomes SUPERSEDED.

        Successors of several segments need not have their bounds: they have their offsets. One is
        held hot where something of what it follows was.

        Raises:
            ColdStateError: one is not planned or not proved, one that it follows is not live, or
            an offset would be in two live generations.
        """
        ...

    def abort(self, encoding: str, *, now_ms: int) -> None:
        """PLANNED -> ABORTED.

        Raises:
            ColdStateError: it is not planned.
        """
        ...

    def release(
        self, encoding: str, check: ReleaseCheck, terms: ReleaseTerms, *, now_ms: int
    ) -> None:
        """COMMITTED -> RELEASED; the hot file may go when this returns.

        Raises:
            ColdStateError: it is not committed, or the check does not allow it.
        """
        ...

    def thaw(self, encoding: str, copy: HotCopy, *, is_held: bool = True, now_ms: int) -> None:
        """RELEASED -> COMMITTED; held, unless it was thawed to be compacted: then it may be
        released as soon as its grace is over, counted from its release.

        Raises:
            ColdStateError: it is not released, or the copy is not as it must be.
        """
        ...

    def begin_grace(self, encoding: str, *, now_ms: int) -> None:
        """Let the grace of what is committed, or its hold, count from now instead of a later time.

        Raises:
            ColdStateError: it is not committed, or was before now.
        """
        ...

    def end_hold(self, encoding: str) -> None:
        """Let a thawed segment be released again; harmless where it is not held.

        Raises:
            ColdStateError: no such generation.
        """
        ...

    def drop_superseded(self, encoding: str, *, has_hot_log: bool, now_ms: int) -> None:
        """SUPERSEDED -> DELETING.

        Raises:
            ColdStateError: it is not superseded, or is the only proved copy.
        """
        ...

    def delete_segments(self, keys: Sequence[SegmentKey], *, now_ms: int) -> None:
        """Retention, delete-records: all generations of these segments become DELETING.

        What was planned becomes ABORTED; what is on its way already, and unknown keys, stay.
        """
        ...

    def chunk_removed(self, encoding: str, *, index: int, node: str) -> bool:
        """Note that a node has acknowledged a removal; again is harmless.

        Returns:
            Whether that was the last of its generation, which is gone then.

        Raises:
            ColdStateError: that chunk was not to be removed.
        """
        ...

    def restore(
        self,
        nodes: Sequence[StorageNode],
        generations: Sequence[tuple[Generation, bytes]],
        *,
        numbers: Sequence[tuple[SegmentKey, int]] = (),
        sequence: int,
        now_ms: int,
    ) -> None:
        """Fill an empty catalog with what was found on the nodes; each with its manifest.

        Args:
            numbers: per segment, the highest number that was ever seen; of existing topics.

        Raises:
            ColdStateError: it is not empty, or what was found contradicts itself.
        """
        ...
