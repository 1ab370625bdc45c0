"""What tests of the process gate run in the process: does what its order says."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time


def main() -> int:
    """Carry out the order: a JSON object with a name and arguments."""
    order = json.loads(sys.stdin.buffer.read())
    return int(ACTIONS[order["do"]](order) or 0)


def _say(document: object) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _describe(_order: dict[str, object]) -> None:
    _say(
        {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "session": os.getsid(0),
            "descriptors": [fd for fd in range(256) if os.path.exists(f"/proc/self/fd/{fd}")],
            "isolated": sys.flags.isolated,
            "modules": [name for name in sys.modules if name.startswith(("trio", "site"))],
        }
    )  # fmt: skip


def _count(order: dict[str, object]) -> None:
    for number in range(int(str(order["to"]))):
        _say(number)


def _hang(_order: dict[str, object]) -> None:
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
    _say(os.getpid())
    while True:
        time.sleep(60)


def _fail(_order: dict[str, object]) -> int:
    _say("before")
    sys.stderr.write("first\nthe last words\n")
    return 7


def _crash(_order: dict[str, object]) -> None:
    raise ValueError("planted")


def _die(_order: dict[str, object]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _half_line(_order: dict[str, object]) -> None:
    sys.stdout.write("half")


def _much(order: dict[str, object]) -> None:
    sys.stderr.write("x" * 1_000_000)
    sys.stdout.write("y" * int(str(order["bytes"])) + "\n")


ACTIONS = {
    "describe": _describe, "count": _count, "hang": _hang, "fail": _fail, "crash": _crash,
    "die": _die, "half": _half_line, "much": _much,
}  # fmt: skip
