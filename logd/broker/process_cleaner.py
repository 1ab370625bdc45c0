"""The server's side of the cleaner's process: hands over an order, hears how it goes and ends."""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING, Final

from logd.broker.cleaning import OnProgress
from logd.broker.worker import run_worker
from logd.offload import Offload
from logd.storage.clean_order import CleanOrder, CleanResult

if TYPE_CHECKING:
    from logd.cleaner_process import ProcessLine

LINES_MODULE: Final = "logd.broker.cleaner_lines"
PROCESS_MODULE: Final = "logd.cleaner_process"


class ProcessCleaner:
    """The real `Cleaner`: an interpreter for each round."""

    def __init__(self, offload: Offload) -> None:
        self._offload = offload

    async def clean(
        self,
        order: CleanOrder,
        *,
        memory_bytes: int,
        is_asked_for: bool,
        on_progress: OnProgress,
    ) -> CleanResult:
        """Carry out one round; see `Cleaner.clean`."""
        await self._offload.run("admin", importlib.import_module, LINES_MODULE)
        from logd.broker import cleaner_lines

        last: ProcessLine | None = None

        def hear(text: bytes) -> None:
            nonlocal last
            last = cleaner_lines.read_line(text)
            if last.progress is not None:
                on_progress(last.progress)

        # Ten thousand segments take a tenth of a second to write down: not on the loop.
        encode = partial(
            cleaner_lines.order_bytes, order, memory_bytes=memory_bytes, is_asked_for=is_asked_for
        )
        asked = await self._offload.run("admin", encode)
        await run_worker(self._offload, PROCESS_MODULE, asked, hear)
        return await self._offload.run("admin", cleaner_lines.result_of, last)
