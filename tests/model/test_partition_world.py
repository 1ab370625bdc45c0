"""Random lives of a partition on a disk that fails: every promise to its clients is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.partition_world import live

LIVES = 60
STEPS = 80
# What once failed: all records deleted, a kill before the next checkpoint, then a batch again.
FAILED_ONCE = (1152,)


@pytest.mark.parametrize("first", range(0, LIVES, 10))
async def test_whatever_fails_when_everybody_is_told_once_and_the_truth(
    tmp_path: Path, first: int
) -> None:
    """Acknowledged is readable, once and in order; refused for want of space is nowhere; nobody
    waits for ever; and no reader saw what a kill took back.
    """
    for seed in range(first, first + 10):
        print(f"seed {seed}")
        directory = tmp_path / str(seed)
        directory.mkdir()
        await live(directory, seed, steps=STEPS)


@pytest.mark.parametrize("seed", FAILED_ONCE)
async def test_what_failed_once(tmp_path: Path, seed: int) -> None:
    """The same promises, in lives that broke one of them."""
    await live(tmp_path, seed, steps=STEPS)
