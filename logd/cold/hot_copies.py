"""Segments of which this server still has the file beside their chunks, or too few of them.

A committed segment has its hot copy until it is released, a thawed one until that ends. Where fewer
than k chunks are left, that copy is the segment: it is coded anew, as the next generation, and the
old one is superseded in the step that commits it. So what is not enough to decode is never mixed
with what is made now, and the encoder's proof holds for it as for any other. A copy that is known
to be damaged does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from logd.cold.encoding import Encoder
from logd.cold.partition_view import ColdPartition, Partitions
from logd.cold.segment_errors import ColdRefusedError, NodesRefusedError
from logd.cold.tiering import has_hot_file
from logd.policy.cold.values import Generation, Profile


class HotCopies:
    """See the module. Lives on the event loop."""

    def __init__(self, partitions: Partitions, encoder: Encoder) -> None:
        self._partitions = partitions
        self._encoder = encoder

    def look(self) -> Callable[[Generation], bool]:
        """Return what tells whether a generation's segment is here, by the partitions of now."""
        known = self._by_place()
        return lambda generation: _hot_in(known, generation) is not None

    def profiles(self, generations: Iterable[Generation]) -> dict[str, Profile]:
        """Return, of those that are here, what each would be coded with, by its encoding."""
        known = self._by_place()
        wanted: dict[str, Profile | None] = {}
        found = {}
        for generation in generations:
            partition = _hot_in(known, generation)
            if partition is None:
                continue
            setting = partition.settings.cold_profile
            if setting not in wanted:
                wanted[setting] = self._profile_of(partition)
            # Where the nodes are too few for any, the plan says so, by the profile it has.
            found[generation.encoding] = wanted[setting] or generation.profile
        return found

    def _profile_of(self, partition: ColdPartition) -> Profile | None:
        try:
            return self._encoder.profile_of(partition)
        except NodesRefusedError:
            return None

    async def code_anew(self, generation: Generation) -> Generation:
        """Code a segment from its hot copy; return the generation that supersedes this one.

        Raises:
            ColdRefusedError: it is not here any more. Others as `Encoder.encode`.
        """
        partition = _hot_in(self._by_place(), generation)
        if partition is None:
            raise ColdRefusedError(f"{generation}: its hot copy is not here any more")
        return await self._encoder.encode(
            partition, generation.key.base_offset, replaces=generation
        )

    def done_bytes(self, generation: Generation) -> int:
        """Return how much of a segment was read so far, while it is coded anew."""
        running = self._encoder.running.get(generation.key)
        return 0 if running is None else running.done_bytes

    def _by_place(self) -> dict[tuple[bytes, int], ColdPartition]:
        return {
            (each.topic_id, each.index): each for each in self._partitions() if each.offline is None
        }


def _hot_in(
    known: dict[tuple[bytes, int], ColdPartition], generation: Generation
) -> ColdPartition | None:
    """Return the partition that has a generation's segment, whole as far as is known."""
    key = generation.key
    partition = known.get((key.topic_id, key.partition))
    if partition is None or not has_hot_file(partition, generation):
        return None
    is_damaged = any(entry.base_offset == key.base_offset for entry in partition.log.damage.ranges)
    return None if is_damaged else partition
