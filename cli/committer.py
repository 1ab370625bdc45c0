"""What a member of a group may commit, and what it knows to be committed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, TopicPartition


class Committer:
    """The offsets of the partitions that we hold.

    `flushed` is the next offset of each partition we hold, as far as stdout has taken the records.
    """

    def __init__(self) -> None:
        self.flushed: dict[int, int] = {}
        self.committed: dict[int, int] = {}
        self.error: KafkaError | None = None

    def pending(self) -> dict[int, int]:
        """Return what is flushed and not known to be committed."""
        return {p: offset for p, offset in self.flushed.items() if offset != self.committed.get(p)}

    def confirm(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        """Take note of a commit's answer; called by librdkafka from within its calls."""
        self.error = error
        for place in places:
            if error is None and place.error is None:
                self.committed[place.partition] = place.offset
            else:
                self.error = error if error is not None else place.error

    def forgive(self) -> None:
        """Forget an earlier refusal: what was pending is about to be committed again."""
        self.error = None

    def hold(self, offsets: Mapping[int, int]) -> None:
        """Begin at these offsets: partitions were given to us, and nothing of them is printed."""
        self.flushed.update(offsets)
        self.committed.update(offsets)

    def drop(self) -> None:
        """The partitions are somebody else's."""
        self.flushed.clear()
        self.committed.clear()
