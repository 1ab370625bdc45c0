"""Both ports: the Kafka port with the loop that serves it, and the admin port.

They are bound already (`ground`). The Kafka port listens first; the admin port listens then, and is
answered as soon as what HTTP takes is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

import trio

from logd.broker.context import Broker
from logd.broker.fetch import FetchHandler
from logd.broker.fetch_sessions import FetchSessions
from logd.broker.produce import ProduceHandler
from logd.broker.services import PartitionServices
from logd.net.idle import close_idle
from logd.net.listen import KafkaListener
from logd.net.serve import ServeLoop
from logd.offload import ThreadOffload
from logd.process_limits import connection_limits
from logd.server.ground import Ground
from logd.units import INT32_MAX

if TYPE_CHECKING:
    from logd.net.http import Request


class Ports:
    """See the module.

    Attributes:
        loop: serves the Kafka port; also ends the turns of tasks that wrote or woke.
    """

    def __init__(
        self,
        ground: Ground,
        services: PartitionServices,
        broker: Broker,
        offload: ThreadOffload,
    ) -> None:
        self._ground = ground
        self._broker = broker
        sessions = FetchSessions(
            slots=ground.settings.max_incremental_fetch_session_cache_slots,
            random_id=lambda: ground.random.randrange(1, INT32_MAX),
        )
        self.loop: Final = ServeLoop(
            broker,
            services,
            offload,
            produce=ProduceHandler(broker),
            fetch=FetchHandler(broker, services, sessions, broker.cold_reads),
        )
        refused = ground.metrics.counter(
            "logd_connections_refused_total", "Connections beyond a limit, closed at once."
        )
        self.kafka: Final = KafkaListener(
            ground.kafka_socket,
            self.loop,
            timers=services.timers,
            events=ground.events,
            limits=self._connection_limits,
            on_refused=refused.add,
        )

    def listen(self) -> str:
        """Listen on both; return `kafka=HOST:PORT admin=HOST:PORT`.

        The admin port is not answered before `serve_admin`; who connects until then waits.
        """
        self.kafka.start()
        self._ground.admin_socket.listen()
        kafka_host, kafka_port = self.kafka.address
        admin_host, admin_port = self._ground.admin_socket.getsockname()[:2]
        return f"kafka={kafka_host}:{kafka_port} admin={admin_host}:{admin_port}"

    async def serve_admin(self, nursery: trio.Nursery) -> None:
        """Answer the admin port, whose clients may have connected already.

        What HTTP takes is imported here, in a thread: a tenth of the time that a start takes.
        """
        offload = self._broker.offload
        await offload.run("admin", importlib.import_module, "logd.net.admin_http")
        from logd.net.admin_http import AdminHandler
        from logd.net.http import HttpServer

        socket = trio.socket.from_stdlib_socket(self._ground.admin_socket)
        admin = HttpServer(AdminHandler(self._broker).handle, self._admin_failed)
        nursery.start_soon(admin.serve, trio.SocketListener(socket))

    async def close_idle(self) -> None:
        """Close connections of the Kafka port that are overdue, until cancelled."""
        settings = self._ground.settings
        await close_idle(
            self.loop,
            self._ground.clock,
            first_frame_s=settings.connection_first_frame_ms / 1000,
            idle_s=settings.connections_max_idle_ms / 1000,
        )

    def stop_reading(self) -> None:
        """Accept no more on the Kafka port, and read no more of what was accepted."""
        self.kafka.stop()
        self.loop.stop_reading()

    def _connection_limits(self) -> tuple[int, int]:
        return connection_limits(self._ground.descriptors, self._broker.config.settings)

    def _admin_failed(self, request: Request, error: Exception) -> None:
        self._ground.events.error("admin request failed", path=request.path, reason=repr(error))
