"""What all tests share: one seed, printed, from which every random choice follows; a scratch
directory.

A failure is repeated with `pytest --seed N`, in one process or in several. Hypothesis prints its
own blob for its failures.
Tests that hang are ended by pytest-timeout; before that, faulthandler prints every thread's
traceback (pyproject.toml has the times).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "logd",
    deadline=None,  # Machines differ, and a shared one stalls.
    max_examples=100,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("logd")

_SEED = pytest.StashKey[int]()

# Tests that model the device themselves look at what the code asks of a file system: there a real
# sync is time that shows nothing. Those of real processes, and of what only a disk has (a cache
# that can be dropped, direct reads), have their files on one.
# Where a hanging disk is meant, the other disks are not to wait for the syncs of other tests.
_IN_MEMORY = ("crash/", "model/", "property/", "unit/test_hanging_disk", "unit/test_log_delete")
_ON_DISK = (
    "crash/test_compaction_kill", "crash/test_full_disk", "crash/test_groups_kill",
    "crash/test_kill_loop", "crash/test_real_faults",
)  # fmt: skip
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES_MIN = 2**30


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --seed and --every-step."""
    parser.addoption("--seed", type=int, default=None, help="repeat a run's random choices")
    parser.addoption(
        "--every-step", action="store_true", help="stop before every step, not before a share"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed of this run."""
    if config.option.seed is None:
        # An option, so that the processes which share a run's tests (pytest-xdist) all get it.
        config.option.seed = random.SystemRandom().randrange(2**32)
    config.stash[_SEED] = config.option.seed


def pytest_report_header(config: pytest.Config) -> str:
    """Print the seed, so that any failure can be repeated."""
    return f"seed: {config.stash[_SEED]}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed."""
    return request.config.stash[_SEED]


@pytest.fixture
def rng(request: pytest.FixtureRequest, seed: int) -> random.Random:
    """Random numbers that depend on the run's seed and on the test, not on the order."""
    return random.Random(f"{seed} {request.node.nodeid}")


@pytest.fixture
def one_step_in(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """Of a crash test's share, "one step in so many", makes what this run tries: that, or all."""
    every_step = bool(request.config.option.every_step)
    return lambda share: 1 if every_step else share


@pytest.fixture
def tmp_path(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """An empty directory of the test's own; in memory, and gone afterwards, where that will do."""
    name = request.path.relative_to(Path(__file__).parent).as_posix()
    is_modelled = name.startswith(_IN_MEMORY) and not name.startswith(_ON_DISK)
    if not (is_modelled and _has_memory()):
        yield tmp_path_factory.mktemp(re.sub(r"\W", "_", request.node.name)[:30])
        return
    with tempfile.TemporaryDirectory(
        prefix="logd-", dir=_MEMORY, ignore_cleanup_errors=True
    ) as path:
        yield Path(path)


def _has_memory() -> bool:
    """Whether there is a file system in memory, with space: a container's may have next to none."""
    usable = os.path.ismount(_MEMORY) and os.access(_MEMORY, os.W_OK)
    return usable and shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES_MIN


@pytest.fixture
def directory(tmp_path: Path) -> str:
    """An empty directory of the test's own, as a path in text."""
    return str(tmp_path)
