"""`python -m logd`: refused where asserts are switched off."""

from __future__ import annotations

import subprocess
import sys


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments; return what came of it."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_refuses_to_run_without_asserts() -> None:
    """Under -O there is one clear sentence, no traceback, and nothing starts."""
    outcome = run("-O", "-m", "logd", "--version")
    assert outcome.returncode != 0
    assert outcome.stdout == ""
    assert outcome.stderr.count("\n") == 1
    assert "asserts" in outcome.stderr


def test_it_runs_with_asserts() -> None:
    """Otherwise it is the command line."""
    outcome = run("-m", "logd", "--version")
    assert outcome.returncode == 0
    assert "logd" in outcome.stdout
