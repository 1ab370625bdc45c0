"""How a storage node is reached: stores for a directory or an address, behind breakers; identities.

Imported when the first node exists: this brings the coding library and its HTTP client.
"""

from __future__ import annotations

import ipaddress
import os.path
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from ec.breaker import Breaker, BreakerSettings
from ec.chunk_id import ChunkId
from ec.errors import (
    EcError,
    NodeAddressError,
    NodeIdentityError,
    NodeNotMountedError,
    StoreError,
    StoreUnavailableError,
)
from ec.file_system import FileSystem
from ec.node.home import is_node_name
from ec.node_dir import initialise
from ec.node_identity import NodeIdentity, read_identity
from ec.store.guarded import GuardedStore
from ec.store.patience import Timeouts
from ec.store.protocol import Health, Store, Upload
from ec.store.remote import RemoteStore, parse_node_url, who_is
from logd.cold.gate import AskingGate, LooseGate
from logd.cold.local_node import ExpectedIdentity, LocalNode, reserve_of
from logd.cold.work_gate import WorkGate
from logd.config import ServerSettings
from logd.errors import NodeRefusedError
from logd.offload import Offload
from logd.policy.cold.values import StorageNode
from logd.policy.node_health import ProbeResult

LOCAL_THREADS: Final = 4
"""Threads of one local node; a disk that hangs takes these and no others."""

_URL: Final = "http://"


class StaleCatalogError(StoreError):
    """Nothing is written to nodes, and nothing removed: the catalog is an old copy."""


class FencedStore(GuardedStore):
    """A guarded store that changes nothing while a fence is up.

    Args:
        fence: returns why nothing may be changed; None: it may.
    """

    def __init__(
        self, inner: Store, *, breaker: Breaker, rng: Random, fence: Callable[[], str | None]
    ) -> None:
        super().__init__(inner, breaker=breaker, rng=rng)
        self._fence = fence

    def _check_fence(self) -> None:
        reason = self._fence()
        if reason is not None:
            raise StaleCatalogError(f"{self.node}: {reason}")

    async def begin(self, chunk: ChunkId, file_bytes: int) -> Upload:
        """See `Store`."""
        self._check_fence()
        return await super().begin(chunk, file_bytes)

    async def delete(self, chunk: ChunkId) -> bool:
        """See `Store`."""
        self._check_fence()
        return await super().delete(chunk)

    async def quarantine(self, chunk: ChunkId) -> None:
        """See `Store`."""
        self._check_fence()
        await super().quarantine(chunk)

    async def note_catalog_sequence(self, sequence: int) -> None:
        """See `Store`."""
        self._check_fence()
        await super().note_catalog_sequence(sequence)


@dataclass(frozen=True, slots=True)
class Failure:
    """What a probe brought instead of health."""

    result: ProbeResult
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """All that reaching nodes takes.

    Attributes:
        token: sent to servers with every request; None: none.
        reserve_bytes: free space that chunks leave on local disks; None: the default.
        fence: as `FencedStore`.
    """

    files: FileSystem
    offload: Offload
    cluster_id: str
    token: str | None
    rng: Random
    breaker: BreakerSettings
    timeouts: Timeouts
    reserve_bytes: int | None
    fence: Callable[[], str | None]

    def open(self, node: StorageNode) -> LocalNode | RemoteStore:
        """Return the store of a node; nothing is asked yet."""
        if node.place.startswith(_URL):
            host, port = parse_node_url(node.place)
            return RemoteStore(
                host, port, node=node.name, node_id=node.identity, cluster_id=self.cluster_id,
                token=self.token, timeouts=self.timeouts,
            )  # fmt: skip
        work, asking = f"node {node.identity}", f"health {node.identity}"
        self.offload.add_kind(work, LOCAL_THREADS)
        self.offload.add_kind(asking, 1)
        return LocalNode(
            self.files, node.place, self.expected(node),
            work=WorkGate(self.offload, work, place=node.place),
            reading=LooseGate(self.offload, work),
            asking=AskingGate(self.offload, asking), timeouts=self.timeouts,
            reserve_bytes=self.reserve_bytes,
        )  # fmt: skip

    def guard(self, store: Store, breaker: Breaker | None = None) -> FencedStore:
        """Return the store behind a breaker: of its own, where none is given."""
        breaker = breaker or Breaker(self.breaker)
        return FencedStore(store, breaker=breaker, rng=self.rng, fence=self.fence)

    def expected(self, node: StorageNode) -> ExpectedIdentity:
        """Return what a node's identity must say."""
        return ExpectedIdentity(self.cluster_id, node.name, node.identity)

    def kept_bytes(self, node: StorageNode, health: Health) -> int:
        """Return the free space that chunks must leave on a node."""
        is_local = not node.place.startswith(_URL)
        return reserve_of(health.space.total_bytes, self.reserve_bytes if is_local else None)

    async def ask(self, node: StorageNode, store: Store, *, timeout_s: float) -> Health | Failure:
        """Ask a node how it is, and check that it is the node; never waits longer than that."""
        try:
            with trio.fail_after(timeout_s):
                health = await store.health()
            self.expected(node).check(health.identity, where=node.place)
        except trio.TooSlowError:
            return Failure(ProbeResult.NO_ANSWER, f"no answer within {timeout_s:g} s")
        except NodeNotMountedError as error:
            return Failure(ProbeResult.NOT_MOUNTED, str(error))
        except NodeIdentityError as error:
            return Failure(ProbeResult.WRONG_IDENTITY, str(error))
        except EcError as error:
            return Failure(ProbeResult.NO_ANSWER, str(error))
        return health

    # --- identities -------------------------------------------------------------------------------

    async def find_identity(self, place: str) -> tuple[NodeIdentity, str | None] | None:
        """Return which node is at a place, and the rack it says; None: none yet.

        Raises:
            EcError: it does not answer, or is damaged.
        """
        if place.startswith(_URL):
            host, port = parse_node_url(place)
            try:
                health = await who_is(host, port, token=self.token, timeouts=self.timeouts)
            except NodeNotMountedError:
                return None
            return health.identity, health.rack
        try:
            return await self.offload.run("disk", read_identity, self.files, place), None
        except NodeNotMountedError:
            return None

    async def initialise(self, place: str, identity: NodeIdentity) -> NodeIdentity:
        """Make an empty place into a node; return its identity, which may be there already.

        Raises:
            EcError: it is not empty, or another node's. OSError: the file system refuses.
        """
        if place.startswith(_URL):
            host, port = parse_node_url(place)
            store = RemoteStore(
                host, port, node=identity.node, token=self.token, timeouts=self.timeouts
            )
            try:
                return (await store.initialise(identity)).identity
            finally:
                store.close()
        return await self.offload.run("disk", self._initialise_here, place, identity)

    def _initialise_here(self, place: str, identity: NodeIdentity) -> NodeIdentity:
        initialise(self.files, place, identity)
        return read_identity(self.files, place)


def breaker_settings(settings: ServerSettings) -> BreakerSettings:
    """Return what the node.breaker settings say."""
    window = settings.node_breaker_window
    return BreakerSettings(
        window=window,
        calls_min=min(settings.node_breaker_calls_min, window),
        failure_rate=settings.node_breaker_failure_percent / 100,
        slow_rate=settings.node_breaker_slow_percent / 100,
        slow_s=settings.node_breaker_slow_ms / 1000,
        open_s=settings.node_breaker_open_ms / 1000,
    )


def node_timeouts(settings: ServerSettings) -> Timeouts:
    """Return what node.request.timeout.ms says, and four times that for what is synced."""
    answer_s = settings.node_request_timeout_ms / 1000
    return Timeouts(connect_s=min(5.0, answer_s), answer_s=answer_s, durable_s=4 * answer_s)


def device_of(node: StorageNode, health: Health) -> str:
    """Return what tells disks apart: nodes of one host and device fail together."""
    host = "here"
    if node.place.startswith(_URL):
        name = parse_node_url(node.place)[0]
        host = "here" if _is_loopback(name) else name
    return f"{host}:{health.space.device}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def written_place(place: str) -> str:
    """Return a node's place in its one form: an absolute path, or `http://HOST:PORT`.

    Raises:
        NodeRefusedError: it is neither.
    """
    if "://" in place:
        try:
            host, port = parse_node_url(place)
        except NodeAddressError as error:
            raise NodeRefusedError(str(error)) from error
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if not place or "\0" in place:
        raise NodeRefusedError("a node's place is a directory, or http://HOST:PORT")
    return os.path.abspath(place)


def check_name(name: str) -> None:
    """Check that a node may be called that.

    Raises:
        NodeRefusedError: it may not.
    """
    if not is_node_name(name) or name in (".", ".."):
        raise NodeRefusedError(
            f"{name!r} is no name of a node: 1 to 64 letters, digits, '.', '_' and '-'"
        )


def refusal(error: EcError | OSError, place: str) -> str:
    """Return why a place cannot be a node, with what to do where the error does not say."""
    if isinstance(error, FileNotFoundError):
        return "the directory above it does not exist; make it, or mount its disk, first"
    if isinstance(error, OSError):
        return f"{error.strerror or error}; see to that, or give another directory"
    reason = str(error).removeprefix(f"{place}: ").removeprefix(f"{place.removeprefix(_URL)}: ")
    if isinstance(error, NodeIdentityError):
        return f"{reason}; a node's place is empty, or was this node before"
    if isinstance(error, StoreUnavailableError) and place.startswith(_URL):
        return f"{reason}; is `logd node serve` running there?"
    return reason
