"""What all tests share: one seed, printed, from which every random choice follows; a scratch
directory.

A failure is repeated with `pytest --seed N`, in one process or in several. Hypothesis prints its
own blob for its failures.
Tests that hang are ended by pytest-timeout; before that, faulthandler prints every thread's
traceback (pyproject.toml has the times).
"""

from __future__ import annotations

import random
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --seed."""
    parser.addoption("--seed", type=int, default=None, help="repeat a run's random choices")


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
def directory(tmp_path: Path) -> str:
    """An empty directory of the test's own, as a path in text."""
    return str(tmp_path)
