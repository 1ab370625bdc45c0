"""Coded segments of real record batches on nodes in memory, and readers of them, for tests."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import trio

from ec.codec import Codec
from ec.errors import StoreUnavailableError
from ec.kernels.portable import PortableKernel
from ec.manifest import Manifest
from ec.offload import InlineOffload, Offload
from ec.profile import Profile as CodedProfile
from ec.store.protocol import Store
from logd.clock import Clock
from logd.cold.loads import Waiter
from logd.cold.reading import ColdBatches, ColdReads
from logd.cold.runs import MemorySlice
from logd.events import EventLog
from logd.metrics import Registry
from logd.policy.cold.coverage import Coverage
from logd.policy.cold.values import ColdState, Generation, Placement, Profile, SegmentKey
from logd.record.build import encode_batch
from logd.storage.files import Files
from logd.storage.released import ReleasedRange
from tests.contract.check_store import MemoryStore
from tests.ec_samples import BATCH_RECORDS, TOPIC_ID, Encoded, encode

PARTITION = 3
FOUR_AND_TWO = Profile(4, 2)
KEY = (bytes.fromhex(TOPIC_ID), PARTITION)
MIB = 1024 * 1024
NOW_MS = 1_700_000_000_000


class Node(MemoryStore):
    """A node that may be gone, slow, or both; counts what it is asked for.

    Attributes:
        delay_s: before every answer.
        is_gone: every answer is "unavailable".
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.delay_s = 0.0
        self.is_gone = False
        self.read_bytes = 0
        self.reads = 0

    @property
    def node(self) -> str:
        return self.name

    async def read(self, chunk, start, end):  # type: ignore[no-untyped-def]  # As in MemoryStore.
        self.read_bytes += end - start
        self.reads += 1
        await trio.sleep(self.delay_s)
        if self.is_gone:
            raise StoreUnavailableError(f"{self.name}: gone")
        return await super().read(chunk, start, end)

    def flip(self, chunk: str, position: int) -> None:
        """Flip a bit of a chunk."""
        data = bytearray(self.files[chunk])
        data[position] ^= 1
        self.files[chunk] = bytes(data)


@dataclass(frozen=True)
class Segment:
    """A coded segment: its batches, and where each begins."""

    batches: tuple[bytes, ...]
    positions: tuple[int, ...]
    encoded: Encoded
    generation: Generation

    @property
    def source(self) -> bytes:
        return self.encoded.source

    @property
    def base_offset(self) -> int:
        return self.generation.key.base_offset

    @property
    def next_offset(self) -> int:
        return self.generation.next_offset

    def at(self, offset: int, *, back: int = 0) -> ReleasedRange:
        """What a log says of an offset; its index may name a batch some way before."""
        number = max(0, (offset - self.base_offset) // BATCH_RECORDS - back)
        return ReleasedRange(
            self.base_offset, self.positions[number], len(self.source), offset, self.next_offset
        )

    def expected(self, offset: int, max_bytes: int, *, min_one: bool = True) -> bytes:
        """What a read of hot data would give."""
        first = (offset - self.base_offset) // BATCH_RECORDS
        found = b""
        for batch in self.batches[first:]:
            if len(found) + len(batch) > max_bytes and (found or not min_one):
                break
            found += batch
        return found


def make_segment(
    sizes: Sequence[int],
    *,
    base_offset: int = 1000,
    profile: Profile = FOUR_AND_TWO,
    number: int = 1,
    state: ColdState = ColdState.RELEASED,
    seed: int = 1,
    codec: int = 0,
) -> Segment:
    """Code a segment of batches of about these sizes, ten records each."""
    rng = random.Random(seed)
    batches, positions, at = [], [], 0
    for index, size in enumerate(sizes):
        value = rng.randbytes(max(0, size - 200) // BATCH_RECORDS)
        records = [(None, value, [], NOW_MS + index)] * BATCH_RECORDS
        batch = bytearray(encode_batch(records, codec=codec))
        batch[0:8] = (base_offset + index * BATCH_RECORDS).to_bytes(8, "big")
        batches.append(bytes(batch))
        positions.append(at)
        at += len(batch)
    encoding = f"{base_offset:032x}"
    encoded = encode(
        b"".join(batches), CodedProfile(profile.k, profile.m), batches=positions,
        base_offset=base_offset, generation=number, encoding=encoding,
    )  # fmt: skip
    generation = Generation(
        key=SegmentKey(*KEY, base_offset), number=number, encoding=encoding, profile=profile,
        next_offset=encoded.manifest.next_offset, source_bytes=at, state=state,
        placements=tuple(Placement(index, f"n{index}") for index in range(profile.chunks)),
    )  # fmt: skip
    return Segment(tuple(batches), tuple(positions), encoded, generation)


class FakeTier:
    """The catalog and the nodes of some segments."""

    def __init__(self, segments: Iterable[Segment], offload: Offload | None = None) -> None:
        self.offload = offload or InlineOffload()
        self.segments = {each.generation.encoding: each for each in segments}
        self.nodes: dict[str, Node] = {}
        for segment in self.segments.values():
            for placement, chunk, data in zip(
                segment.generation.placements, segment.encoded.ids, segment.encoded.files,
                strict=True,
            ):  # fmt: skip
                node = self.nodes.setdefault(placement.node, Node(placement.node))
                node.files[chunk.name] = data

    def coverage(self, topic_id: bytes, partition: int) -> Coverage:
        assert (topic_id, partition) == KEY
        return Coverage([each.generation for each in self.segments.values()])

    def codec(self, profile: Profile) -> Codec:
        return Codec(CodedProfile(profile.k, profile.m), PortableKernel())

    async def manifest(self, encoding: str) -> Manifest:
        return self.segments[encoding].encoded.manifest

    def stores(self, generation: Generation) -> Mapping[int, Store]:
        return {index: self.nodes[name] for index, name in generation.held.items()}

    def set_state(self, segment: Segment, state: ColdState) -> None:
        """Change a generation's state."""
        changed = replace(segment.generation, state=state)
        self.segments[changed.encoding] = replace(segment, generation=changed)

    @property
    def read_bytes(self) -> int:
        return sum(node.read_bytes for node in self.nodes.values())


class Rig:
    """Readers of some coded segments."""

    def __init__(
        self,
        *segments: Segment,
        tier: FakeTier | None = None,
        ahead_bytes: int = 64 * MIB,
        files: Files | None = None,
    ) -> None:
        assert segments or tier is not None
        self.tier = tier or FakeTier(segments)
        self.metrics = Registry()
        self.log = io.StringIO()
        self.damage: list[tuple[str, int, str]] = []
        self.reads = ColdReads(
            self.tier, covered=self.tier, files=files or Files(),
            events=EventLog(self.log, "text", Clock()), metrics=self.metrics,
            ahead_bytes=ahead_bytes, wake=_wake,
        )  # fmt: skip
        self.reads.on_damage = lambda encoding, index, node, error: self.damage.append(
            (encoding, index, node)
        )

    async def read(self, at: ReleasedRange, max_bytes: int, *, min_one: bool = True) -> ColdBatches:
        return await self.reads.read(*KEY, at, max_bytes=max_bytes, below=2**62, min_one=min_one)

    def look(
        self, at: ReleasedRange, max_bytes: int = MIB, waiter: Waiter | None = None
    ) -> ColdBatches | None:
        return self.reads.look(
            *KEY, at, max_bytes=max_bytes, below=2**62, min_one=True, waiter=waiter
        )

    def count(self, name: str, **labels: str) -> float:
        """A counter's value."""
        inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
        wanted = f"{name}{{{inner}}} " if inner else f"{name} "
        lines = self.metrics.render().splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(wanted)), 0.0)


def _wake(waiters: Iterable[Waiter]) -> None:
    for waiter in waiters:
        waiter.wake()


def bytes_of(found: ColdBatches) -> bytes:
    """The bytes of an answer, from wherever they are."""
    files = Files()
    parts = [
        bytes(part.data)
        if isinstance(part, MemorySlice)
        else files.read_at(part.file, part.position, part.size)
        for part in found.slices
    ]
    assert sum(map(len, parts)) == found.size
    return b"".join(parts)
