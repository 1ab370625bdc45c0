"""What is wrong, as a value: `logd status` lists these, and decides its exit code by them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that an operator should know.

    Attributes:
        kind: a stable word for scripts: "partition_offline", "damaged_range", "disk_reserve", …
        severity: "damage" (data is at risk, damaged or lost: `status` exits with 4) or "warning".
        message: a sentence, with what to do next where there is something to do.
        topic: the topic's name, if it is about one.
        partition: the partition's index, if it is about one.
        path: the file or directory, if it is about one.
    """

    kind: str
    severity: str
    message: str
    topic: str | None = None
    partition: int | None = None
    path: str | None = None
