"""Our server, started and asked in the same way as the peers."""

from __future__ import annotations

import compileall
import json
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.machine import commit
from bench.peers.kafka_speaker import COMPACT_POLICY, Compacted, KafkaSpeaker
from bench.peers.peer import free_ports
from bench.process import ROOT, BenchError

COMPACT_TIMEOUT_S: Final = 120.0
ASK_AGAIN_S: Final = 0.01


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

    def prepare(self) -> None:
        """Have all modules compiled, as they are where it is installed: its processes keep none."""
        super().prepare()
        compileall.compile_dir(ROOT / "logd", quiet=1)

    def compact(self, topic: str, end_offset: int) -> Compacted:
        """What `logd compact TOPIC` does: the active segment is sealed first."""
        assert end_offset > 0
        begin = time.monotonic()
        self.alter_topic(topic, COMPACT_POLICY)
        job = self._ask_admin(f"/v1/compact?topic={topic}", method="POST")
        while not job["done"]:
            if time.monotonic() > begin + COMPACT_TIMEOUT_S:
                raise BenchError(f"logd had not compacted {topic} in {COMPACT_TIMEOUT_S:g} s")
            time.sleep(ASK_AGAIN_S)
            job = self._ask_admin(f"/v1/compact?id={job['id']}")
        seconds = time.monotonic() - begin
        (row,) = job["rows"]
        if row["error"] or row["note"]:
            raise BenchError(f"logd did not compact {topic}: {row['error'] or row['note']}")
        return Compacted(seconds, row["seconds"])

    def _ask_admin(self, path: str, *, method: str = "GET") -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.admin_port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
            found = json.load(answer)
        assert isinstance(found, dict)
        return found

    def conditions(self) -> dict[str, Any]:
        """Return its version and the interpreter's."""
        from logd import __version__

        return {"version": __version__, "commit": commit(), "python": sys.version.split()[0],
                "settings": {}}  # fmt: skip
