"""Brings a released segment back as a hot file, for as long as somebody wants it.

    lease ─▶ source bytes read from chunks, window by window, written under another name, synced
          ─▶ read back: digest compared with the manifest's, every batch checked
          ─▶ renamed to .log ─▶ COMMITTED and held, durable

Invariants: a file named .log is whole; the record follows the file. A crash in between leaves a hot
.log of a RELEASED segment, which is used as hot and goes again by the check of a release.

The source digest is that of the blocks' checksums, as the encoder computed them: so what was read,
decoded or not, is the segment that was coded, whatever nodes say.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Final

import trio

from ec.checksums import block_checksums
from ec.chunk_file import source_digest
from ec.errors import EcError
from ec.geometry import BLOCK_BYTES
from ec.manifest import Manifest
from ec.read import SegmentReader
from logd.cold.chunk_findings import ChunkFindings, ChunkPlace
from logd.cold.life_metrics import LifeMetrics
from logd.cold.partition_view import ColdPartition
from logd.cold.segment_errors import ColdFailedError, ColdRefusedError, busy
from logd.cold.tier import ColdTier
from logd.errors import CorruptFileError
from logd.events import EventLog
from logd.offload import Offload
from logd.policy.cold.leases import Work
from logd.policy.cold.proof import HotCopy
from logd.policy.cold.values import ColdState, Generation
from logd.storage.log_thaw import ThawWriter
from logd.units import MIB, format_byte_count

WINDOW_BYTES: Final = MIB
"""Read, written and checked at once: whole blocks of a chunk."""
assert WINDOW_BYTES % BLOCK_BYTES == 0


class Thawer:
    """Thaws segments, one call each.

    Args:
        room_bytes: returns how much may be written to the data directory.
    """

    def __init__(
        self,
        tier: ColdTier,
        findings: ChunkFindings,
        *,
        offload: Offload,
        room_bytes: Callable[[], int],
        events: EventLog,
        metrics: LifeMetrics,
    ) -> None:
        self._tier = tier
        self._findings = findings
        self._offload = offload
        self._room_bytes = room_bytes
        self._events = events
        self._metrics = metrics

    async def thaw(
        self, partition: ColdPartition, generation: Generation, on_bytes: Callable[[int], None]
    ) -> None:
        """Write the hot copy of a released segment, and record it as COMMITTED and held.

        Args:
            on_bytes: told how many bytes more are written.

        Raises:
            SegmentBusyError: somebody works on it. ColdRefusedError: there is no space, or it is
            not released. ColdFailedError: it cannot be read whole; nothing is left of the copy.
            ColdStateError, StorageError: the catalog or the log refused.
        """
        key = generation.key
        lease = self._tier.leases.take(Work.THAW, [key])
        if lease is None:
            raise busy(self._tier.leases, key)
        try:
            await self.thaw_leased(partition, generation, on_bytes, is_held=True)
        finally:
            self._tier.leases.give_back(lease)

    async def thaw_leased(
        self,
        partition: ColdPartition,
        generation: Generation,
        on_bytes: Callable[[int], None],
        *,
        is_held: bool,
    ) -> None:
        """As `thaw`, for who has the segment leased.

        Args:
            is_held: whether it stays hot until somebody asks for coding again; else it is released
                as others are, as soon as nobody has it leased.

        Raises:
            As `thaw`, but SegmentBusyError.
        """
        key = generation.key
        assert key in self._tier.leases
        self._refuse_unfit(generation)
        copy = await self._write_copy(partition, generation, on_bytes)
        await self._tier.thaw(generation.encoding, copy, is_held=is_held)
        self._metrics.thawed.add()
        self._events.info(
            "segment thawed",
            topic=partition.topic_name,
            partition=partition.index,
            base_offset=key.base_offset,
            bytes=generation.source_bytes,
        )

    def _refuse_unfit(self, generation: Generation) -> None:
        if generation.state is not ColdState.RELEASED:
            raise ColdRefusedError(f"{generation}: only what is released is thawed")
        room = self._room_bytes()
        if room < generation.source_bytes:
            raise ColdRefusedError(
                f"{generation}: thawing it takes {format_byte_count(generation.source_bytes)}, "
                f"there is room for {format_byte_count(max(room, 0))}"
            )

    async def _write_copy(
        self, partition: ColdPartition, generation: Generation, on_bytes: Callable[[int], None]
    ) -> HotCopy:
        manifest = await self._tier.manifest(generation.encoding)
        log, base_offset = partition.log, generation.key.base_offset
        writer = await self._offload.run("cold", log.thaw, base_offset)
        try:
            await self._copy(manifest, generation, writer, on_bytes)
            copy = await self._offload.run("cold", writer.finish, partial(_check, manifest))
            return HotCopy(copy.size_bytes, is_verified=True, is_synced=True)
        except BaseException as error:  # A cancellation too: nothing is left of half a copy.
            with trio.CancelScope(shield=True):
                await self._offload.run("cold", writer.abort)
            if isinstance(error, EcError | CorruptFileError):
                raise ColdFailedError(f"{generation}: {error}") from error
            raise

    async def _copy(
        self,
        manifest: Manifest,
        generation: Generation,
        writer: ThawWriter,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Write the source.

        Raises:
            ColdFailedError: a part of it cannot be read now. CorruptFileError, StorageError: as
            the writer.
        """
        reader = SegmentReader(
            manifest,
            self._tier.stores(generation),
            codec=self._tier.codec(generation.profile),
            offload=self._tier.offload,
            on_trouble=lambda index, error: self._findings.note(
                ChunkPlace(generation.encoding, index, generation.held[index]), error
            ),
        )
        for at in range(0, manifest.source_bytes, WINDOW_BYTES):
            result = await reader.read(at, min(at + WINDOW_BYTES, manifest.source_bytes))
            if result.gaps:
                gap = result.gaps[0].source
                raise ColdFailedError(
                    f"{generation}: bytes {gap.start} to {gap.end} cannot be read: fewer than "
                    f"{manifest.k} chunks answer"
                )
            data = result.data
            await self._offload.run("cold", writer.write, data)
            on_bytes(len(data))


def _check(manifest: Manifest, writer: ThawWriter) -> None:
    """Compare what is on the device with the digest of what was coded. Blocking.

    Raises:
        CorruptFileError: it is something else. OSError: it cannot be read.
    """
    buffer = memoryview(bytearray(WINDOW_BYTES))
    sums = []
    for start, end in pairwise(manifest.cuts):
        found = bytearray()
        for at in range(start, end, WINDOW_BYTES):
            got = writer.read_into(at, buffer[: min(WINDOW_BYTES, end - at)])
            found += block_checksums(buffer[:got])
        sums.append(bytes(found))
    if source_digest(sums) != manifest.source_digest:
        raise CorruptFileError(manifest.chunk_id(0).name, 0, "what was read is not what was coded")
