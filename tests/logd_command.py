"""The command line as a person or a script uses it: a process a command, against one server.

The processes are forked ones (fork_server.py), since a test here may need a dozen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.forked import run_logd
from tests.server_process import ServerProcess

START_LIMIT_S = 120


class Logd:
    """Runs `logd` against one server, addresses by environment."""

    PROGRAM = (sys.executable, "-m", "logd")

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.environment = {
            **os.environ,
            "LOGD_BOOTSTRAP": server.bootstrap,
            "LOGD_ADMIN": "{}:{}".format(*server.admin),
        }

    def run(
        self, *arguments: str, stdin: bytes = b"", code: int = 0
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command; its exit code must be `code`, and there must be no traceback."""
        done = run_logd(
            *arguments, stdin=stdin, environment=self.environment, timeout_s=START_LIMIT_S
        )
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        assert b"Traceback" not in done.stderr
        if code:
            assert done.stderr.count(b"\n") == 1
        return done

    def json(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> Any:
        """Run a command with --json; return its document."""
        return json.loads(self.run(*arguments, "--json", stdin=stdin, code=code).stdout)

    def rows(self, *arguments: str) -> list[Any]:
        """Run a command that prints JSON lines; return them."""
        done = self.run(*arguments, "--json")
        return [json.loads(line) for line in done.stdout.splitlines()]
