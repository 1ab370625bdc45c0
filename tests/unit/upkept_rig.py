"""A cold tier that looks after itself: real log and catalog, nodes in memory, repair and scrub."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio

from logd.cold.life import LifeServices
from logd.cold.repairing import RepairSettings
from logd.cold.scrubbing import ScrubSettings
from logd.cold.upkeep import Upkeep, UpkeepServices
from logd.storage.findings_note import FindingsNote
from logd.storage.scrub_note import ScrubNote
from logd.units import DAY_MS, HOUR_MS
from tests.unit.life_rig import ColdRig
from tests.unit.test_cold_life import until


class UpkeptRig(ColdRig):
    """See the module.

    Attributes:
        findings_note: what is kept over `restart`.
    """

    findings_note = FindingsNote()

    def _keep_findings(self, note: FindingsNote) -> None:
        self.findings_note = note

    def services(self) -> LifeServices:
        upkeep = UpkeepServices(
            repair=RepairSettings(delay_ms=HOUR_MS, rate_bytes=0),
            scrub=ScrubSettings(cycle_ms=14 * DAY_MS, rate_bytes=0), dead_ms=60_000,
            random=self.rng, topic_name=lambda _: "t", read_note=ScrubNote,
            write_note=lambda _: None, read_findings=lambda: self.findings_note,
            write_findings=self._keep_findings,
        )  # fmt: skip
        return replace(super().services(), upkeep=upkeep)

    @property
    def upkeep(self) -> Upkeep:
        """What looks after the segments."""
        assert self.life.upkeep is not None
        return self.life.upkeep

    def queue(self) -> list[dict[str, Any]]:
        """The items of the repair queue as people see them."""
        items: list[dict[str, Any]] = self.upkeep.repair_queue()["items"]
        return items

    def lose(self, names: str) -> None:
        """Nodes die with all that they have."""
        for name in names:
            self.nodes[name].files.clear()
            self.nodes.set_live(name, is_live=False)


@asynccontextmanager
async def coded(directory: str, names: str, **changes: Any) -> AsyncIterator[UpkeptRig]:
    """Two committed segments whose hot copies stay an hour; everything runs."""
    rig = UpkeptRig(directory, names=names)
    await rig.start(segments=2, **({"cold_grace_ms": HOUR_MS} | changes))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.life.run)
        await until(lambda: rig.states() == ["committed"] * 2)
        yield rig
        await rig.life.stop()
