"""Jobs that the server does and a command watches: compaction, coding, verification, repair.

A job belongs to the server: Ctrl-C ends the watching, and the same command again finds the job.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from cli.admin import get
from cli.errors import Interrupted, Refused, Unreachable
from cli.options import Address
from cli.render import escape, progress

POLL_S_MIN: Final = 0.05
POLL_S_MAX: Final = 0.5
PROGRESS_STEPS: Final = 1000

Job = dict[str, Any]
"""A job as the admin port shows it: id, done, progress, and what is its own."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """What there is to say of a kind of job.

    Attributes:
        path: where the server is asked for it.
        name: in "has forgotten this …".
        if_stopped: what becomes of it when the server ends, and what to do then.
    """

    path: str
    name: str
    if_stopped: str


def watch(address: Address, kind: JobKind, job: Job, doing: str) -> Job:
    """Return the job when it is done, with a bar on a terminal meanwhile.

    Args:
        doing: what the server does, as "compacting orders".

    Raises:
        Interrupted: by Ctrl-C; the server goes on. Unreachable, Refused: the server ended.
    """
    try:
        return _watch(address, kind, job, doing)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; the server goes on {escape(doing)}: the same command again watches it"
        ) from None


def _watch(address: Address, kind: JobKind, job: Job, doing: str) -> Job:
    pause_s = POLL_S_MIN
    with progress(doing, PROGRESS_STEPS) as show:
        while not job["done"]:
            time.sleep(pause_s)
            pause_s = min(POLL_S_MAX, pause_s * 1.3)
            job = _look(address, kind, job["id"])
            show(int(job["progress"] * PROGRESS_STEPS))
    return job


def _look(address: Address, kind: JobKind, number: int) -> Job:
    try:
        answer = get(address, kind.path, id=number)
    except Unreachable as error:
        raise Unreachable(
            f"the server at {address} stopped answering; {kind.if_stopped}"
        ) from error
    except Refused as error:
        raise Refused(
            f"the server was restarted and has forgotten this {kind.name} ({error.message}); "
            f"{kind.if_stopped}"
        ) from error
    assert isinstance(answer, dict)
    return answer
