"""What a server stands on: taken before the event loop runs, and lasting as long as the process.

The ports come first, so that a port in use is said at once, and before anything is touched. They
are bound here and do not listen yet: who connects now is refused.
"""

from __future__ import annotations

import os
import random
import socket
from dataclasses import dataclass
from typing import Final

from logd.clock import Clock
from logd.config import ServerSettings
from logd.events import EventLog
from logd.metrics import Registry
from logd.net.bind import open_listener
from logd.process_limits import raise_descriptor_limit
from logd.server.options import ServeOptions
from logd.storage.data_directory import DataDirectory
from logd.storage.files import Files

BOOT_ID_PATH: Final = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class Ground:
    """See the module.

    Attributes:
        started_at: monotonic seconds.
        descriptors: how many files and connections the process may have open.
        boot_id: the machine's, since it was last started.
        directory: held, with its lock, until it is closed.
    """

    options: ServeOptions
    clock: Clock
    events: EventLog
    started_at: float
    random: random.SystemRandom
    metrics: Registry
    files: Files
    descriptors: int
    boot_id: str
    kafka_socket: socket.socket
    admin_socket: socket.socket
    directory: DataDirectory

    @property
    def settings(self) -> ServerSettings:
        """The settings as given at the start, without the dynamic ones."""
        return self.options.config.settings


def take_ground(options: ServeOptions, clock: Clock, events: EventLog) -> Ground:
    """Bind both ports and lock the data directory. Blocking.

    Raises:
        OSError: a port cannot be bound. DataDirectoryError: as `DataDirectory.open`.
    """
    started_at = clock.monotonic()
    files = Files()
    descriptors = raise_descriptor_limit()
    boot_id = files.read_whole(BOOT_ID_PATH, limit_bytes=64).decode().strip()
    kafka_socket = open_listener(*options.listen)
    admin_socket = open_listener(*options.admin)
    return Ground(
        options=options,
        clock=clock,
        events=events,
        started_at=started_at,
        random=random.SystemRandom(),
        metrics=Registry(),
        files=files,
        descriptors=descriptors,
        boot_id=boot_id,
        kafka_socket=kafka_socket,
        admin_socket=admin_socket,
        directory=DataDirectory.open(files, options.data, boot_id=boot_id, pid=os.getpid()),
    )
