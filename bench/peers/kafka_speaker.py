"""A server that speaks the Kafka protocol, ours or theirs: its topics, its first record, and how
it is told to compact.
"""

from __future__ import annotations

import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import protocol
from bench.load import connect
from bench.peers.peer import FIRST_RECORD_TIMEOUT_S, TRY_AGAIN_S, NotYetError, Peer
from bench.peers.readback import end_offset
from bench.process import read_frame

FIRST_TOPIC: Final = "first"
TOPIC_ALREADY_EXISTS: Final = 36
COMPACT_POLICY: Final = {"cleanup.policy": "compact"}
_TIMESTAMP_MS: Final = 1_700_000_000_000


@dataclass(frozen=True, slots=True)
class Compacted:
    """One compaction of a topic.

    Attributes:
        seconds: from being told to until all of it was compacted, as anybody can see.
        own_seconds: how long it took by the server's own account.
    """

    seconds: float
    own_seconds: float


class KafkaSpeaker(Peer, ABC):
    """A broker at `address`. Its subclasses say how it is started."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.address = ("127.0.0.1", 0)
        self.topics = 0

    @abstractmethod
    def compact(self, topic: str, end_offset: int) -> Compacted:
        """Have the one partition of a topic, whose policy is another one, compacted up to
        `end_offset`; return when it is.

        Raises:
            BenchError: it failed, or took too long.
        """

    def ask(self, request: bytes) -> bytes:
        """Send one framed request on a connection of its own; return the framed answer."""
        with connect(self.address) as connection:
            connection.sendall(request)
            return read_frame(connection)

    def first_record(self) -> None:
        """Append one record to a topic that is made for it unless it is there."""
        answer = self.ask(protocol.create_topic_request(FIRST_TOPIC, 1, {}))
        name_bytes = int.from_bytes(answer[16:18], "big")
        (code,) = struct.unpack_from(">h", answer, 18 + name_bytes)
        if code not in (0, TOPIC_ALREADY_EXISTS):
            raise NotYetError(f"create topic: error {code}")
        batch = protocol.record_batch(1, timestamp_ms=_TIMESTAMP_MS)
        answer = self.ask(protocol.produce_request(FIRST_TOPIC, 0, batch, acks=1).frame)
        place = protocol.produce_error_position(FIRST_TOPIC)
        (code,) = struct.unpack_from(">h", answer, place)
        if code:
            raise NotYetError(f"produce: error {code}")

    @contextmanager
    def topic(self, *, partitions: int = 1, configs: Mapping[str, str]) -> Iterator[str]:
        """A topic of its own, led and empty; deleted afterwards, so that the disk does not fill."""
        name = self.create_topic(partitions=partitions, configs=configs)
        yield name
        answer = self.ask(protocol.delete_topics_request([name]))
        protocol.check_topics_answer(answer, f"{self.name}: delete topic {name}")

    def create_topic(self, *, partitions: int, configs: Mapping[str, str]) -> str:
        """Create a topic; return its name when all its partitions can be written."""
        self.topics += 1
        name = f"bench-{self.topics:04d}"
        request = protocol.create_topic_request(name, partitions, configs)
        protocol.check_topics_answer(self.ask(request), f"{self.name}: create topic {name}")
        for partition in range(partitions):
            self._await_leader(name, partition)
        return name

    def alter_topic(self, topic: str, configs: Mapping[str, str]) -> None:
        """Set some settings of a topic."""
        answer = self.ask(protocol.alter_topic_request(topic, configs))
        protocol.check_altered_answer(answer, f"{self.name}: alter topic {topic}")

    def _await_leader(self, topic: str, partition: int) -> None:
        """Kafka answers the creation before the broker leads the partition."""
        deadline = time.monotonic() + FIRST_RECORD_TIMEOUT_S
        while True:
            try:
                end_offset(self.address, topic, partition)
            except protocol.AnswerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(TRY_AGAIN_S)
            else:
                return
