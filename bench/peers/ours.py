"""Our server, started and asked in the same way as the peers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.machine import commit
from bench.peers.kafka_speaker import KafkaSpeaker
from bench.peers.peer import free_ports
from bench.process import ROOT


class Logd(KafkaSpeaker):
    """`logd serve` with its defaults."""

    name = "logd"
    working_directory = ROOT

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        port, self.admin_port = free_ports(2)
        self.address = ("127.0.0.1", port)

    def command(self) -> Sequence[str]:
        """Return the command line of a server with default settings."""
        return [
            sys.executable, "-m", "logd", "serve", "--data", str(self.directory),
            "--listen", f"127.0.0.1:{self.address[1]}", "--admin", f"127.0.0.1:{self.admin_port}",
        ]  # fmt: skip

    def conditions(self) -> dict[str, Any]:
        """Return its version and the interpreter's."""
        from logd import __version__

        return {"version": __version__, "commit": commit(), "python": sys.version.split()[0],
                "settings": {}}  # fmt: skip
