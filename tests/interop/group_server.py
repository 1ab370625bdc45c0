"""A server for the tests of consumer groups: short times, topics with records, members to kill.

Members that are to be killed, or that are written in another language, are programs of their own.
They all speak one small protocol, so that one test drives any of them: they take their address,
topic and group as arguments, print an event a line as JSON, and take a command a line.

    events    {"name": "assigned", "partitions": [0, 1]}     all that the member has now
              {"name": "record", "partition": 0, "offset": 7}
              {"name": "committed"}
    commands  commit: what was read so far;  leave: the group, and end.  End of input: leave.
"""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic

from tests.server_process import ServerProcess

TIMEOUT_S = 60  # Of a busy machine.
PARTITIONS = 4
INITIAL_DELAY_MS = 100
SESSION_MIN_MS = 500

# What members of these tests ask for, unless the test is about it. A session that ends by itself
# would hide a LeaveGroup that does not work, so it is longer than any test waits.
SESSION_MS = 120_000
HEARTBEAT_MS = 100
# For members that are killed.
SHORT_SESSION_MS = 1_500

_names = itertools.count()


def group_server(data: Path, *settings: str) -> ServerProcess:
    """Return a server, not started yet, that lets groups form quickly."""
    chosen = (
        f"group.initial.rebalance.delay.ms={INITIAL_DELAY_MS}",
        f"group.min.session.timeout.ms={SESSION_MIN_MS}",
        *settings,
    )
    return ServerProcess(data, *(f"--set={setting}" for setting in chosen))


def new_name(kind: str) -> str:
    """A name that no other test has."""
    return f"{kind}-{next(_names)}"


def new_topic(server: ServerProcess, partitions: int = PARTITIONS) -> str:
    """Create a topic and return its name."""
    name = new_name("topic")
    admin = AdminClient(quiet(server))
    admin.create_topics([NewTopic(name, partitions, 1)])[name].result(TIMEOUT_S)
    return name


def fill(
    server: ServerProcess, topic: str, per_partition: int, partitions: int = PARTITIONS
) -> None:
    """Append so many records to each partition; a record's value is its partition and offset in a
    new topic.
    """
    failures: list[object] = []
    producer = confluent_kafka.Producer(quiet(server))
    for number in range(per_partition):
        for partition in range(partitions):
            producer.produce(
                topic, f"{partition}:{number}", partition=partition,
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )  # fmt: skip
    assert producer.flush(TIMEOUT_S) == 0
    assert not failures


def quiet(server: ServerProcess) -> dict[str, Any]:
    """The least configuration of librdkafka; it does not tell stderr of servers that end."""
    return {"bootstrap.servers": server.bootstrap, "log_level": 0}


def group_status(server: ServerProcess, group: str) -> dict[str, Any]:
    """What the server itself says of a group."""
    host, port = server.admin
    path = urllib.parse.quote(group, safe="")
    with urllib.request.urlopen(
        f"http://{host}:{port}/v1/groups/{path}", timeout=TIMEOUT_S
    ) as answer:
        status = json.load(answer)
    assert isinstance(status, dict)
    return status


def until(condition: Callable[[], bool], step: Callable[[], object], what: str) -> None:
    """Take steps, which wait for the server a little each, until the condition holds."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT_S} s: {what}"
        step()


class MemberProcess:
    """A member of a group in a process of its own, always ended."""

    ENDED_WELL = 0  # Its exit code after it was told to leave.

    def __init__(self, *command: str, cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.partitions: list[int] = []
        self.rebalances = 0
        self.offsets: dict[int, list[int]] = {}
        self.commits = 0
        self._events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self._reap()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(line)

    def step(self) -> None:
        """Take in what the member says within a moment."""
        try:
            line = self._events.get(timeout=0.05)
        except queue.Empty:
            code = self.process.poll()
            assert code in (None, self.ENDED_WELL), f"ended with {code}"
            return
        self.take(json.loads(line))

    def take(self, event: dict[str, Any]) -> None:
        """Remember what an event says."""
        if event["name"] == "assigned":
            self.partitions = sorted(event["partitions"])
            self.rebalances += 1
        elif event["name"] == "record":
            self.offsets.setdefault(event["partition"], []).append(event["offset"])
        elif event["name"] == "committed":
            self.commits += 1

    def read_count(self) -> int:
        """Records read so far."""
        return sum(map(len, self.offsets.values()))

    def tell(self, command: str) -> None:
        """Give a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def leave(self) -> None:
        """Have it leave the group and end well."""
        self.tell("leave")
        assert self.process.wait(TIMEOUT_S) == self.ENDED_WELL

    def kill(self) -> None:
        """kill -9: it says no goodbye."""
        self.process.kill()
        self._reap()

    def _reap(self) -> None:
        self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def step_all(members: Sequence[MemberProcess]) -> Callable[[], None]:
    """Return a step that listens to each of them."""

    def step() -> None:
        for member in members:
            member.step()

    return step


def shares(members: Sequence[MemberProcess], partitions: int = PARTITIONS) -> bool:
    """Whether each has a part, and all parts together are the topic."""
    parts = [member.partitions for member in members]
    return all(parts) and sorted(itertools.chain(*parts)) == list(range(partitions))
