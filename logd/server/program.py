"""The server as a program: it starts, works until a signal, and stops.

In which order, the package says. The event loop owns every object here; what blocks goes through
the one gate to threads, which is opened first and closed last.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable
from typing import Final

import trio

from logd.broker.context import Broker
from logd.broker.gauges import register_gauges
from logd.broker.group_lag import register_group_metrics
from logd.broker.group_loading import load_groups
from logd.broker.node_status import register_node_metrics
from logd.broker.producer_ids import ProducerIds
from logd.clock import Clock
from logd.errors import LogdError
from logd.events import EventLog
from logd.offload import ThreadOffload
from logd.server.coded import CodedParts
from logd.server.ground import Ground, take_ground
from logd.server.groups import GroupParts
from logd.server.opening import open_beside_logs
from logd.server.options import ServeOptions
from logd.server.partitions import PartitionParts
from logd.server.ports import Ports
from logd.server.stopping import STOP_TIMEOUT_S, LogClosing, end_at_next_signal
from logd.server.upkeep import UpkeepParts

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1


def run(options: ServeOptions, *, on_ready: Callable[[str], None]) -> int:
    """Serve until told to stop; return the exit code.

    Args:
        on_ready: told `kafka=HOST:PORT admin=HOST:PORT` when both ports answer.
    """
    gc.disable()  # Until it is ready: a start makes many objects, and all of them stay.
    clock = Clock()
    events = EventLog(sys.stderr, options.log_format, clock)
    try:
        ground = take_ground(options, clock, events)
    except (LogdError, OSError) as error:
        events.error("cannot start", reason=str(error))
        return EXIT_FAILED
    return trio.run(Server(ground).serve, on_ready, strict_exception_groups=True)


class Server:
    """One running server, on ground that was taken."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._events = ground.events

    async def serve(self, on_ready: Callable[[str], None]) -> int:
        """Start, serve until a signal, stop; return the exit code."""
        offload = ThreadOffload(sync_threads=self._ground.settings.sync_threads)
        try:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                await self._start(offload)
                async with trio.open_nursery() as nursery:
                    self._start_tasks(nursery)
                    await self._open_ports(nursery, on_ready)
                    name = signal.Signals(await anext(signals)).name
                    self._events.info("stopping", signal=name)
                    nursery.start_soon(end_at_next_signal, signals)
                    code = await self._stop()
                    nursery.cancel_scope.cancel()
            return code
        finally:
            offload.close()

    # --- start -----------------------------------------------------------------------------------

    async def _start(self, offload: ThreadOffload) -> None:
        """Open what is on disk; when this returns, everything can be served."""
        self._offload = offload
        self._opened = await open_beside_logs(self._ground, offload)
        self._make_parts()
        directory = self._ground.directory
        for problem in (*directory.problems, *self._opened.journal.problems):
            self._events.warning("data directory", finding=problem)
        self._partitions.topics.load(self._opened.topics)
        await self._partitions.topics.open_all()
        await load_groups(self._groups.coordinator)
        self._partitions.report_recovery()
        self._partitions.report_relaxed_topics()
        await offload.run("disk", directory.remove_clean_stop)

    def _make_parts(self) -> None:
        """Make the objects of a server, each from those before it; nothing runs yet."""
        ground, opened = self._ground, self._opened
        self._partitions = parts = PartitionParts(
            ground, opened, self._offload, end_turn=self._end_turn
        )
        self._broker = broker = self._new_broker()
        self._coded = CodedParts(ground, opened, parts, broker)
        self._groups = GroupParts(ground, parts, broker)
        self._upkeep = UpkeepParts(ground, parts.services, broker, self._groups, self._coded)
        self._ports = Ports(ground, parts.services, broker, self._offload)
        register_gauges(ground.metrics, broker, lambda: self._ports.loop.connections)
        register_node_metrics(ground.metrics, opened.cold)
        register_group_metrics(ground.metrics, self._groups.coordinator)

    def _new_broker(self) -> Broker:
        ground, opened, parts = self._ground, self._opened, self._partitions
        return Broker(
            config=opened.config,
            topics=parts.topics,
            producer_ids=ProducerIds(opened.catalog, self._offload, on_full=parts.disk.found_full),
            clock=ground.clock,
            offload=self._offload,
            metrics=ground.metrics,
            events=ground.events,
            cluster_id=ground.directory.cluster_id,
            advertised=self._advertised,
            files=ground.files,
            data_path=ground.options.data,
            started_at=ground.started_at,
            disk=parts.disk,
        )

    def _end_turn(self) -> None:
        self._ports.loop.end_turn()

    def _advertised(self) -> tuple[str, int]:
        return self._ground.options.advertise or self._ports.kafka.address

    def _start_tasks(self, nursery: trio.Nursery) -> None:
        """Start what works until the nursery is cancelled, at the end of a stop."""
        for task in (
            self._ports.loop.run,
            self._partitions.timers.run,
            self._partitions.topics.deleted.run_reaper,
            self._upkeep.maintenance.run,
            self._groups.upkeep.run,
            self._upkeep.retention.run,
            self._upkeep.compaction.run,
            self._opened.cold.run,
            self._coded.segments.run,
            self._coded.reads.run,
            self._coded.mending.run,
            self._ports.close_idle,
        ):
            nursery.start_soon(task)

    async def _open_ports(self, nursery: trio.Nursery, on_ready: Callable[[str], None]) -> None:
        self._broker.not_ready = None
        on_ready(self._ports.listen())
        gc.freeze()
        gc.enable()
        await self._ports.serve_admin(nursery)

    # --- stop ------------------------------------------------------------------------------------

    async def _stop(self) -> int:
        """Let what was appended become durable and be answered; leave the clean-stop marker."""
        self._broker.not_ready = "stopping"
        self._ports.stop_reading()
        partitions = self._partitions.topics.open_partitions
        with trio.move_on_after(STOP_TIMEOUT_S) as patience:
            await self._upkeep.compaction.stop()
            await self._coded.segments.stop()
            await self._groups.upkeep.stop()
            await self._upkeep.retention.stop()
            async with trio.open_nursery() as closing:
                for partition in partitions():
                    closing.start_soon(partition.close)
        self._ports.loop.close_all()
        if patience.cancelled_caught:
            self._events.error("stopped without a clean-stop marker", reason="the disk is slow")
            return EXIT_FAILED
        await LogClosing(self._ground, self._offload).run(list(partitions()), self._opened.journal)
        self._opened.cold.nodes.close()
        await self._offload.run("catalog", self._opened.catalog.close)
        self._ground.directory.close()
        self._events.info("stopped")
        return EXIT_DONE
