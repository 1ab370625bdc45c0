"""The composition root: puts the server together, in the order of starting, and takes it apart.

Start: limits of the process, the data directory and its lock, the ports (bound, not yet listening),
the journal, the catalog, the partitions (recovered where the last stop was not clean), the groups
and their offsets; then the clean-stop marker is removed, durably, and only then both ports listen.
Before a port answers, it is ready to serve.

Stop (SIGTERM, SIGINT): accept and read no more, let what was appended be written and synced and its
answers leave, close the logs, write the clean-stop marker. A second signal ends the process at
once; what was acknowledged is on disk all the same.
"""

from __future__ import annotations

import gc
import importlib
import os
import random
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import trio

from logd.broker.cleaning import ProcessCleaner
from logd.broker.cold_problems import cold_read_problems
from logd.broker.cold_segments import ColdSegments
from logd.broker.compaction import Compaction
from logd.broker.context import Broker
from logd.broker.disk_space import DiskSpace
from logd.broker.dynamic_config import DynamicConfig
from logd.broker.fetch import FetchHandler
from logd.broker.fetch_sessions import FetchSessions
from logd.broker.gauges import register_gauges
from logd.broker.group_lag import register_group_metrics
from logd.broker.group_loading import load_groups
from logd.broker.group_status import group_problems
from logd.broker.group_upkeep import GroupUpkeep
from logd.broker.groups import Coordinator
from logd.broker.maintenance import BALLAST_BYTES, Maintenance, look_at_disk
from logd.broker.node_status import node_problems, register_node_metrics
from logd.broker.offsets_log import OffsetsLog
from logd.broker.partition import Partition
from logd.broker.partition_factory import LogPartitionFactory
from logd.broker.produce import ProduceHandler
from logd.broker.producer_ids import ProducerIds
from logd.broker.retention import Retention
from logd.broker.retention_clock import RetentionClock
from logd.broker.services import PartitionServices, partition_metrics
from logd.broker.timers import Timers
from logd.broker.topic import Topic
from logd.broker.topic_names import OFFSETS_TOPIC
from logd.broker.topics import Topics, TopicServices, random_topic_id
from logd.broker.turn import Turn
from logd.broker.unlinker import Unlinker
from logd.broker.upkeep_status import upkeep_problems
from logd.clock import Clock
from logd.cold.compacting import held_for_compaction
from logd.cold.index_mending import IndexMending
from logd.cold.nodes import NodeServices
from logd.cold.reading import ColdReads, Waiter
from logd.cold_start import open_catalog, open_cold_tier, rebuild_catalog
from logd.config import ServerConfig
from logd.errors import LogdError, StorageError
from logd.events import EventLog
from logd.metrics import LATENCY_BOUNDS_SECONDS, Registry
from logd.net.bind import open_listener
from logd.net.idle import close_idle
from logd.net.listen import KafkaListener
from logd.net.serve import ServeLoop
from logd.offload import ThreadOffload
from logd.policy.cold.coverage import uncoded_before
from logd.process_limits import connection_limits, raise_descriptor_limit
from logd.storage.clean_stop import CleanLog, CleanStop
from logd.storage.data_directory import DataDirectory
from logd.storage.files import Files
from logd.storage.open_files import OpenFiles
from logd.storage.sync_journal import SyncJournal
from logd.units import INT32_MAX

if TYPE_CHECKING:
    from logd.cold.life import LifeServices
    from logd.net.http import Request

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1

STOP_TIMEOUT_S: Final = 30.0
"""How long a clean stop waits for syncs before it gives up and leaves no marker."""

BOOT_ID_PATH: Final = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line says beside the settings.

    Attributes:
        listen, admin: host and port; port 0 takes a free one.
        advertise: what clients are told to connect to; None: where the Kafka port listens.
        rebuild_catalog: make the catalog again, from nodes and directories, first.
        rebuild_without: nodes that are given up in that.
        node_token: what storage nodes that are servers are asked with; None: none.
    """

    data: str
    listen: tuple[str, int]
    admin: tuple[str, int]
    advertise: tuple[str, int] | None
    config: ServerConfig
    log_format: Literal["text", "json"] = "text"
    node_token: str | None = None
    rebuild_catalog: bool = False
    rebuild_without: tuple[str, ...] = ()


def run(options: ServeOptions, *, on_ready: Callable[[str], None]) -> int:
    """Serve until told to stop; return the exit code.

    Args:
        on_ready: told `kafka=HOST:PORT admin=HOST:PORT` when both ports answer.
    """
    gc.disable()  # Until it is ready: a start makes many objects, and all of them stay.
    clock = Clock()
    events = EventLog(sys.stderr, options.log_format, clock)
    try:
        server = Server(options, clock, events)
    except (LogdError, OSError) as error:
        events.error("cannot start", reason=str(error))
        return EXIT_FAILED
    return trio.run(server.serve, on_ready, strict_exception_groups=True)


class Server:
    """One running server: `open` blocks and takes the directory and the ports, `serve` does the
    rest.
    """

    def __init__(self, options: ServeOptions, clock: Clock, events: EventLog) -> None:
        self._options = options
        self._settings = options.config.settings
        self._clock = clock
        self._events = events
        self._started_at = clock.monotonic()
        self._random = random.SystemRandom()
        self._metrics = Registry()
        self._files = Files()
        self._descriptors = raise_descriptor_limit()
        self._boot_id = self._files.read_whole(BOOT_ID_PATH, limit_bytes=64).decode().strip()
        # Bound before anything else is done, so that a port in use is said at once.
        self._kafka_socket = open_listener(*options.listen)
        self._admin_socket = open_listener(*options.admin)
        self._directory = DataDirectory.open(
            self._files, options.data, boot_id=self._boot_id, pid=os.getpid()
        )

    async def serve(self, on_ready: Callable[[str], None]) -> int:
        """Start, serve until a signal, stop; return the exit code."""
        offload = ThreadOffload(sync_threads=self._settings.sync_threads)
        try:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                await self._start(offload)
                async with trio.open_nursery() as nursery:
                    self._start_tasks(nursery)
                    await self._open_ports(nursery, on_ready)
                    name = signal.Signals(await anext(signals)).name
                    self._events.info("stopping", signal=name)
                    nursery.start_soon(_end_at_next_signal, signals)
                    code = await self._stop()
                    nursery.cancel_scope.cancel()
            return code
        finally:
            offload.close()

    # --- start -----------------------------------------------------------------------------------

    async def _start(self, offload: ThreadOffload) -> None:
        """Open what is on disk; when this returns, everything can be served."""
        self._offload = offload
        directory, clock, node_services = self._directory, self._clock, self._node_services(offload)
        if self._options.rebuild_catalog:
            without = self._options.rebuild_without
            await rebuild_catalog(node_services, clock, directory, without=without)
        self._catalog = catalog = await open_catalog(offload, self._files, directory)
        rows = await offload.run("catalog", catalog.topics)
        overrides = await offload.run("catalog", catalog.broker_overrides)
        self._config = DynamicConfig(self._options.config, overrides)
        self._cold = await open_cold_tier(catalog, node_services, clock, nodes=self._settings.nodes)
        self._journal = await offload.run(
            "disk", self._open_journal, sum(row.partitions for row in rows)
        )
        self._make_services()
        self._make_broker()
        for problem in (*self._directory.problems, *self._journal.problems):
            self._events.warning("data directory", finding=problem)
        self._topics.load(rows)
        await self._topics.open_all()
        await load_groups(self._groups)
        self._report_recovery()
        self._report_relaxed_topics()
        await offload.run("disk", self._directory.remove_clean_stop)

    def _node_services(self, offload: ThreadOffload) -> NodeServices:
        return NodeServices(
            files=self._files,
            offload=offload,
            events=self._events,
            cluster_id=self._directory.cluster_id,
            settings=self._settings,
            random=self._random,
            token=self._options.node_token,
        )

    def _open_journal(self, partitions: int) -> SyncJournal:
        return SyncJournal.open(
            self._files,
            self._directory.journal_path,
            boot_id=self._boot_id,
            partitions_hint=partitions,
        )

    def _make_services(self) -> None:
        self._timers = Timers()
        turn = Turn()
        turn.now_ms = self._clock.now_ms()
        self._disk = DiskSpace(
            reserve_bytes=self._directory.reserve_bytes(self._settings.disk_reserve_bytes)
        )
        look_at_disk(self._disk, self._directory)
        self._disk.on_change = self._disk_changed
        self._unlinker = Unlinker(self._files, self._offload, self._timers, self._events)
        self._services = PartitionServices(
            clock=self._clock,
            offload=self._offload,
            timers=self._timers,
            turn=turn,
            files=self._files,
            journal=self._journal,
            disk=self._disk,
            events=self._events,
            metrics=partition_metrics(self._metrics),
            unsynced_max_bytes=self._settings.flush_unsynced_max_bytes,
            end_turn=self._end_turn,
            unlink_later=self._unlinker.unlink_later,
            lend_ballast=self._directory.lent_ballast,
            retention_check_ms=self._settings.log_retention_check_interval_ms,
        )

    def _end_turn(self) -> None:
        self._loop.end_turn()

    def _make_cold_reads(self) -> None:
        reads = self._cold_reads = self._broker.cold_reads = ColdReads(
            self._cold,
            covered=self._cold,
            files=self._files,
            events=self._events,
            metrics=self._metrics,
            ahead_bytes=self._settings.cold_read_ahead_bytes,
            wake=self._wake_fetches,
        )
        problems = partial(cold_read_problems, reads, self._topics)
        self._broker.problem_sources.append(problems)

    def _make_index_mending(self) -> IndexMending:
        mending = IndexMending(
            self._cold, self._topics.open_partitions, self._offload, self._events
        )
        self._cold_reads.on_bad_index = mending.distrust
        return mending

    def _wake_fetches(self, waiters: Iterable[Waiter]) -> None:
        self._services.turn.woken.extend(waiters)
        self._end_turn()

    def _make_broker(self) -> None:
        self._factory = LogPartitionFactory(
            self._services,
            OpenFiles(self._files, limit=self._settings.open_files_max),
            topics_path=self._directory.topics_path,
            clean=self._directory.clean_stop,
            boot_id=self._boot_id,
            last_boot_id=self._directory.last_boot_id,
            released=self._cold.released,
        )
        self._topics = Topics(
            TopicServices(
                catalog=self._catalog,
                offload=self._offload,
                files=self._files,
                topics_path=self._directory.topics_path,
                factory=self._factory,
                events=self._events,
                config=self._config,
                new_topic_id=partial(random_topic_id, self._random.randbytes),
            )
        )
        self._broker = Broker(
            config=self._config,
            topics=self._topics,
            producer_ids=ProducerIds(self._catalog, self._offload),
            clock=self._clock,
            offload=self._offload,
            metrics=self._metrics,
            events=self._events,
            cluster_id=self._directory.cluster_id,
            advertised=self._advertised,
            files=self._files,
            data_path=self._options.data,
            started_at=self._started_at,
            disk=self._disk,
        )
        self._broker.cold = self._cold
        self._make_cold_reads()
        self._broker.problem_sources.append(partial(node_problems, self._cold))
        self._make_coded()
        self._make_groups()
        self._retention = self._broker.retention = self._make_retention()
        self._broker.problem_sources.append(self._retention.problems)
        self._make_compaction()
        sessions = FetchSessions(
            slots=self._settings.max_incremental_fetch_session_cache_slots,
            random_id=lambda: self._random.randrange(1, INT32_MAX),
        )
        self._loop = ServeLoop(
            self._broker,
            self._services,
            self._offload,
            produce=ProduceHandler(self._broker),
            fetch=FetchHandler(self._broker, self._services, sessions, self._cold_reads),
        )
        refused = self._metrics.counter(
            "logd_connections_refused_total", "Connections beyond a limit, closed at once."
        )
        register_gauges(self._metrics, self._broker, lambda: self._loop.connections)
        register_node_metrics(self._metrics, self._cold)
        register_group_metrics(self._metrics, self._groups)
        self._kafka = KafkaListener(
            self._kafka_socket,
            self._loop,
            timers=self._timers,
            events=self._events,
            limits=self._connection_limits,
            on_refused=refused.add,
        )

    def _make_coded(self) -> None:
        self._coded = self._broker.coded = ColdSegments(
            self._cold, self._offload, self._life_services, topic_name=self._name_of_topic
        )
        self._cold_reads.on_damage = self._coded.found
        self._broker.problem_sources.append(self._coded.problems)
        self._broker.problem_sources.append(partial(upkeep_problems, self._coded, self._cold))

    def _life_services(self) -> LifeServices:
        from logd.cold.life import LifeServices
        from logd.cold.upkeep import upkeep_services

        disk = self._disk
        return LifeServices(
            partitions=self._topics.open_partitions,
            offload=self._offload,
            events=self._events,
            metrics=self._metrics,
            cluster_id=self._directory.cluster_id,
            now_ms=self._clock.now_ms,
            random_bytes=self._random.randbytes,
            unlink_later=self._unlinker.unlink_later,
            room_bytes=lambda: disk.free_bytes - disk.reserve_bytes,
            reserve_bytes=disk.reserve_bytes,
            clock=self._clock,
            forget_topic=self._forget_topic,
            upkeep=upkeep_services(
                self._settings, self._directory, self._random, self._name_of_topic
            ),
        )

    def _name_of_topic(self, topic_id: bytes) -> str | None:
        topic = self._topics.by_id.get(topic_id)
        return None if topic is None else topic.name

    async def _forget_topic(self, topic_id: bytes) -> None:
        """Nothing coded is left of a topic: if it was deleted, and its files are gone, so is it."""
        if topic_id not in self._topics.by_id and topic_id not in self._topics.deleting:
            await self._offload.run("catalog", self._catalog.forget_topic, topic_id)

    def _make_groups(self) -> None:
        broker = self._broker
        self._offsets_log = OffsetsLog(broker, self._services)
        self._groups = broker.groups = Coordinator(
            self._offsets_log,
            self._topics,
            self._config,
            self._services,
            metrics=self._metrics,
            new_uuid=lambda: str(uuid.UUID(bytes=self._random.randbytes(16), version=4)),
        )
        self._group_upkeep = GroupUpkeep(self._groups)
        self._topics.on_deleted = self._topic_deleted
        broker.problem_sources.append(partial(group_problems, self._groups))

    async def _topic_deleted(self, topic: Topic) -> None:
        await self._cold.topic_deleted(topic.topic_id)
        await self._group_upkeep.forget_topic(topic)

    def _make_retention(self) -> Retention:
        clock = RetentionClock(
            self._services,
            boot_id=self._boot_id,
            last=self._directory.last_clock,
            write_note=self._directory.write_clock_note,
        )
        return Retention(self._topics, self._services, self._metrics, clock)

    def _make_compaction(self) -> None:
        self._compaction = self._broker.compaction = Compaction(
            self._topics,
            self._config,
            self._services,
            ProcessCleaner(self._offload),
            self._metrics,
            bound=self._compaction_bound,
            hold=lambda partition, bases: held_for_compaction(
                self._cold, (partition.topic_id, partition.index), bases
            ),
            now_ms=self._retention.clock.now_ms,
            prepare=self._prepare_compaction,
        )
        self._broker.problem_sources.append(self._compaction.problems)

    def _compaction_bound(self, partition: Partition) -> int:
        if partition.topic_name != OFFSETS_TOPIC:
            coded = self._cold.generations(partition.topic_id, partition.index)
            return min(partition.high_watermark, uncoded_before(coded))
        return min(partition.high_watermark, self._offsets_log.compaction_bound(partition.index))

    async def _prepare_compaction(self, partition: Partition) -> None:
        if partition.topic_name == OFFSETS_TOPIC:
            await self._group_upkeep.write_snapshot(partition.index)

    def _connection_limits(self) -> tuple[int, int]:
        return connection_limits(self._descriptors, self._config.settings)

    def _advertised(self) -> tuple[str, int]:
        return self._options.advertise or self._kafka.address

    def _disk_changed(self, full: bool) -> None:
        if full:
            self._events.error("disk full: appends are refused", reason=self._disk.reason)
        else:
            self._events.info("disk has space again: appends are accepted")

    def _report_recovery(self) -> None:
        for report in self._factory.recovered:
            for line in report.lines():
                self._events.warning("recovered", finding=line)

    def _report_relaxed_topics(self) -> None:
        for topic in self._topics.by_name.values():
            mode = topic.settings.flush_mode
            if mode != "commit":
                self._events.warning(
                    "topic may lose acknowledged records when the machine stops",
                    topic=topic.name,
                    flush_mode=mode,
                )

    def _start_tasks(self, nursery: trio.Nursery) -> None:
        lag = self._metrics.histogram(
            "logd_loop_lag_seconds",
            "How late a task of the event loop woke up.",
            LATENCY_BOUNDS_SECONDS,
        )
        nursery.start_soon(self._loop.run)
        nursery.start_soon(self._timers.run)
        nursery.start_soon(self._topics.run_reaper)
        maintenance = Maintenance(
            self._broker,
            self._services,
            lag=lag,
            ensure_ballast=lambda: self._directory.ensure_ballast(BALLAST_BYTES),
        )
        nursery.start_soon(maintenance.run)
        nursery.start_soon(self._group_upkeep.run)
        nursery.start_soon(self._retention.run)
        nursery.start_soon(self._compaction.run)
        nursery.start_soon(self._cold.run)
        nursery.start_soon(self._coded.run)
        nursery.start_soon(self._cold_reads.run)
        nursery.start_soon(self._make_index_mending().run)
        nursery.start_soon(self._close_idle)

    async def _close_idle(self) -> None:
        await close_idle(
            self._loop,
            self._clock,
            first_frame_s=self._settings.connection_first_frame_ms / 1000,
            idle_s=self._settings.connections_max_idle_ms / 1000,
        )

    async def _open_ports(self, nursery: trio.Nursery, on_ready: Callable[[str], None]) -> None:
        self._broker.not_ready = None
        self._kafka.start()
        self._admin_socket.listen()
        kafka_host, kafka_port = self._kafka.address
        admin_host, admin_port = self._admin_socket.getsockname()[:2]
        on_ready(f"kafka={kafka_host}:{kafka_port} admin={admin_host}:{admin_port}")
        gc.freeze()
        gc.enable()
        await self._serve_admin(nursery)

    async def _serve_admin(self, nursery: trio.Nursery) -> None:
        """Answer the admin port, whose clients may have connected already.

        What HTTP takes is imported here, in a thread: a tenth of the time that a start takes.
        """
        await self._offload.run("admin", importlib.import_module, "logd.net.admin_http")
        from logd.net.admin_http import AdminHandler
        from logd.net.http import HttpServer

        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._admin_socket))
        admin = HttpServer(AdminHandler(self._broker).handle, self._admin_failed)
        nursery.start_soon(admin.serve, listener)

    def _admin_failed(self, request: Request, error: Exception) -> None:
        self._events.error("admin request failed", path=request.path, reason=repr(error))

    # --- stop ------------------------------------------------------------------------------------

    async def _stop(self) -> int:
        """Let what was appended become durable and be answered; leave the clean-stop marker."""
        self._broker.not_ready = "stopping"
        self._kafka.stop()
        self._loop.stop_reading()
        with trio.move_on_after(STOP_TIMEOUT_S) as patience:
            await self._compaction.stop()
            await self._coded.stop()
            await self._group_upkeep.stop()
            await self._retention.stop()
            async with trio.open_nursery() as closing:
                for partition in self._topics.open_partitions():
                    closing.start_soon(partition.close)
        self._loop.close_all()
        await self._loop.sync_points.wait_idle()
        if patience.cancelled_caught:
            self._events.error("stopped without a clean-stop marker", reason="the disk is slow")
            return EXIT_FAILED
        await self._close_logs()
        self._cold.nodes.close()
        await self._offload.run("catalog", self._catalog.close)
        self._directory.close()
        self._events.info("stopped")
        return EXIT_DONE

    async def _close_logs(self) -> None:
        """Close all logs; those that cannot be closed cleanly are recovered at the next start.

        A log is synced several times, and a thousand of them one by one would take longer than
        what stops services is willing to wait: as many threads as syncs have, each the next log.
        """
        logs: dict[tuple[bytes, int], CleanLog] = {}
        waiting = list(self._topics.open_partitions())
        async with trio.open_nursery() as closing:
            for _ in range(min(self._settings.sync_threads, len(waiting))):
                closing.start_soon(self._offload.run, "sync", self._close_each, waiting, logs)
        await self._offload.run("disk", self._journal.close)
        await self._offload.run("disk", self._directory.write_clean_stop, CleanStop(logs=logs))

    def _close_each(
        self, waiting: list[Partition], logs: dict[tuple[bytes, int], CleanLog]
    ) -> None:
        """Close logs until none is waiting. In several threads at a time."""
        while True:
            try:
                partition = waiting.pop()
            except IndexError:
                return
            try:
                logs[partition.topic_id, partition.index] = partition.log.close()
            except StorageError as error:
                self._events.error(
                    "log not closed cleanly",
                    topic=partition.topic_name,
                    partition=partition.index,
                    reason=str(error),
                )


async def _end_at_next_signal(signals: AsyncIterator[int]) -> None:
    number = await anext(signals)
    # What was acknowledged is on disk; nothing else matters now. The signal ends the process.
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
