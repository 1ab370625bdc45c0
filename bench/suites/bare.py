"""The bare append server for requests of one shape, as several suites use it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench import protocol
from bench.load import make_batch
from bench.runner import Run


@contextmanager
def bare_append(
    run: Run, topic: str, size: int, *, sync: bool, record_bytes: int = protocol.RECORD_VALUE_BYTES
) -> Iterator[tuple[tuple[str, int], int]]:
    """A bare append server for requests of this size: its address and its process id."""
    batch, _ = make_batch(size, timestamp_ms=time.time_ns() // 1_000_000, record_bytes=record_bytes)
    request = protocol.produce_request(topic, 0, batch, acks=1)
    with run.bare(
        "serve-append", topic=topic, directory=str(run.directory), sync=sync,
        request_bytes=len(request.frame), batch_position=request.batch_position,
        batch_bytes=request.batch_bytes,
    ) as bare:  # fmt: skip
        yield bare
