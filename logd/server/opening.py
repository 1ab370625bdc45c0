"""The beginning of a start: what is on disk beside the logs is opened.

The catalog, made again if it is to be, and the cold tier on it come before the logs, because those
have to know which of their .log files are rightly absent.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from logd.broker.dynamic_config import DynamicConfig
from logd.broker.offsets_log import settings_to_keep_all
from logd.clock import Clock
from logd.cold.nodes import NodeServices
from logd.cold.tier import ColdTier
from logd.offload import Offload
from logd.server.ground import Ground
from logd.storage import layout
from logd.storage.catalog import SqliteCatalog, TopicRow
from logd.storage.data_directory import DataDirectory
from logd.storage.files import Files
from logd.storage.sync_journal import SyncJournal


@dataclass(frozen=True, slots=True)
class Opened:
    """What was on disk beside the logs.

    Attributes:
        topics: as the catalog has them, those being deleted too.
        config: what was given at the start, with what the catalog keeps on top.
    """

    catalog: SqliteCatalog
    topics: list[TopicRow]
    config: DynamicConfig
    cold: ColdTier
    journal: SyncJournal


async def open_beside_logs(ground: Ground, offload: Offload) -> Opened:
    """Open the catalog, the cold tier and the journal; when told to, rebuild the catalog first.

    Raises:
        As `rebuild_catalog`, `open_catalog` and `open_cold_tier`.
    """
    directory, options, settings = ground.directory, ground.options, ground.settings
    services = _node_services(ground, offload)
    if options.rebuild_catalog:
        await rebuild_catalog(services, ground.clock, directory, without=options.rebuild_without)
    catalog = await open_catalog(offload, ground.files, directory)
    topics = await offload.run("catalog", catalog.topics)
    overrides = await offload.run("catalog", catalog.broker_overrides)
    config = DynamicConfig(options.config, overrides)
    cold = await open_cold_tier(catalog, services, ground.clock, nodes=settings.nodes)
    partitions = sum(topic.partitions for topic in topics)
    journal = await offload.run("disk", _open_journal, ground, partitions)
    return Opened(catalog, topics, config, cold, journal)


def _node_services(ground: Ground, offload: Offload) -> NodeServices:
    return NodeServices(
        files=ground.files,
        offload=offload,
        events=ground.events,
        cluster_id=ground.directory.cluster_id,
        settings=ground.settings,
        random=ground.random,
        token=ground.options.node_token,
    )


def _open_journal(ground: Ground, partitions: int) -> SyncJournal:
    return SyncJournal.open(
        ground.files,
        ground.directory.journal_path,
        boot_id=ground.boot_id,
        partitions_hint=partitions,
    )


async def open_catalog(offload: Offload, files: Files, directory: DataDirectory) -> SqliteCatalog:
    """Open the catalog, or make an empty one; finish a rebuild that a crash cut short.

    Raises:
        As `SqliteCatalog.open`. DataDirectoryError: a rebuild is to be run again.
    """

    def open_now() -> SqliteCatalog:
        if files.exists(f"{directory.path}/{layout.REBUILD_NAME}"):
            from logd.storage.catalog_rebuild import resume

            resume(files, directory.path)
        return SqliteCatalog.open(directory.catalog_path, directory.cluster_id)

    return await offload.run("catalog", open_now)


async def rebuild_catalog(
    services: NodeServices, clock: Clock, directory: DataDirectory, *, without: Collection[str]
) -> None:
    """Make the catalog again, from the nodes and the directories here.

    Args:
        without: nodes that are given up.

    Raises:
        As `Rebuild.run`.
    """
    from logd.cold.rebuild import Rebuild

    rebuild = Rebuild(
        services,
        clock,
        data_path=directory.path,
        topics_path=directory.topics_path,
        unknown_settings=partial(settings_to_keep_all, services.settings),
    )
    await rebuild.run(services.settings.nodes, without=without)


async def open_cold_tier(
    catalog: SqliteCatalog, services: NodeServices, clock: Clock, *, nodes: Sequence[str]
) -> ColdTier:
    """Return the cold tier, loaded, with its nodes.

    Args:
        nodes: to be registered, NAME=DIR_OR_URL each.

    Raises:
        As `ColdTier.load` and `StorageNodes.register`.
    """
    tier = ColdTier(catalog.cold, services, clock)
    await tier.load()
    await tier.nodes.register(nodes)
    return tier
