"""kill -9 under load, again and again: the independent checker finds every promise kept."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLS = 4
SECONDS = 6.0


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path, rng: random.Random) -> None:
    """Idempotent producers through several kills: all acknowledged records, once, in order.

    The checker runs as the separate program that it is, and its exit code is 0 only if enough was
    acknowledged and every kill took place.
    """
    seed = rng.randrange(2**32)
    command = [
        *(sys.executable, "-m", "bench.checker", "--data", str(tmp_path / "data")),
        *("--kills", str(KILLS), "--seconds", str(SECONDS), "--seed", str(seed)),
    ]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    log = tmp_path / "data.log"
    tail = log.read_text(errors="replace")[-2000:] if log.exists() else "(no log)"
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\nserver: {tail}"
    assert done.stdout.startswith("VALID"), done.stdout
