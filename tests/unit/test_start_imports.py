"""What a start of the server imports: every module is paid for at each start, needed or not."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import logd
from logd.record.crc32c import crc32c

# What a server without nodes has of the cold tier: the catalog in memory, the nodes (of which there
# are none), and what fetches and compaction ask on their way.
COLD = frozenset((
    "logd.cold.compacting", "logd.cold.gate", "logd.cold.holdings", "logd.cold.index_mending",
    "logd.cold.loads",
    "logd.cold.nodes", "logd.cold.partition_view", "logd.cold.read_failures",
    "logd.cold.read_metrics", "logd.cold.reading", "logd.cold.run_reader", "logd.cold.runs",
    "logd.cold.tier", "logd.cold.time_lookup", "logd.policy.cold.coverage",
    "logd.policy.cold.leases", "logd.policy.cold.proof", "logd.policy.cold.states",
    "logd.policy.cold.values",
))  # fmt: skip

# With the reason for which it may not come back.
LATER = {
    "ec": "comes with the first storage node",
    "h11": "comes with the admin port, behind readiness",
    "msgspec": "comes with the admin port, or a round of compaction",
    "logd.cleaner_process": "comes with a round of compaction",
    "logd.storage.cleaner": "runs in a process of its own",
    "logd.policy.tiering": "decides about segments to be coded",
    "logd.storage.scrub_note": "belongs to scrub",
    "crc32c": "imports modules for mail and archives; see logd.record.crc32c",
    "cramjam": "comes with the first compressed batch",
    "zstandard": "comes with the first compressed batch",
    "click": "is the command line's",
    "asyncio": "is another event loop",
}


# Nor may these come to the cleaner's process, which imports at each round what it needs.
NOT_FOR_A_ROUND = {
    "msgspec": "imports modules for dates, numbers and types; the server's end has it",
    "logd.storage.segment_files": "opens segments with their indexes",
    "logd.storage.log_state": "is what the parts of an open log share",
    "threading": "belongs to the server",
    "cramjam": "comes with the first compressed batch",
    "zstandard": "comes with the first compressed batch",
    "trio": "is the server's event loop",
}


@cache
def imported(module: str = "logd.server.program") -> frozenset[str]:
    """Return the modules that a process has when it begins with this one."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys, {module}; print(*sys.modules)"],
        env={"PYTHONPATH": os.pathsep.join([str(Path(logd.__file__).parent.parent), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return frozenset(done.stdout.split())


@pytest.mark.parametrize("name", LATER)
def test_a_start_does_not_import(name: str) -> None:
    """What is not needed to serve the first request is imported when it is needed."""
    assert name not in imported(), f"{name} {LATER[name]}"


@pytest.mark.parametrize("name", NOT_FOR_A_ROUND)
def test_a_round_does_not_import(name: str) -> None:
    """A round of compaction pays for no module that it does not need."""
    assert name not in imported("logd.cleaner_process"), f"{name} {NOT_FOR_A_ROUND[name]}"


def test_a_server_without_nodes_imports_little_of_the_cold_tier() -> None:
    """A start that codes nothing does not pay for coding; a module more is to be argued for."""
    names = (name for name in imported() if name.startswith(("logd.cold.", "logd.policy.cold.")))
    assert frozenset(names) <= COLD


def test_the_checksum_is_that_of_the_package() -> None:
    """The function without its package gives what the package's gives, and what the RFC says."""
    import crc32c as package

    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"6789", crc32c(b"12345")) == package.crc32c(b"123456789") == 0xE3069283
