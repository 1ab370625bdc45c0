"""The beginning of a start: the catalog, made again if it is to be, and the cold tier on it.

Before logs are opened, because they have to know which of their .log files are rightly absent.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from logd.broker.offsets_log import settings_to_keep_all
from logd.clock import Clock
from logd.cold.nodes import NodeServices
from logd.cold.tier import ColdTier
from logd.offload import Offload
from logd.storage import layout
from logd.storage.catalog import SqliteCatalog
from logd.storage.data_directory import DataDirectory
from logd.storage.files import Files


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
