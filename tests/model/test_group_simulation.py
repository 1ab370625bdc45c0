"""Thousands of members on a clock of their own: whatever they do, the group keeps its promises.

Clients join, crash, leave, fall asleep, answer late, lose replies and come back, static ones under
their instance id. Writes take a while, fail now and then, and the server is killed with some under
way. After every stimulus the promises of logd.policy.group.group are checked.

A failure names its seed; `LOGD_GROUP_SEEDS=17,18` runs those, and `LOGD_GROUP_SEED_COUNT=500` more.
"""

from __future__ import annotations

import heapq
import itertools
import os
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from logd.policy.group.core import NOTHING_STORED
from logd.policy.group.group import Group
from logd.policy.group.values import (
    AnswerJoin,
    AnswerSync,
    Effect,
    GroupState,
    Join,
    JoinAnswer,
    Leaver,
    Persist,
    Sync,
    SyncAnswer,
)
from logd.record.group_records import GroupValue
from logd.wire.error_codes import ErrorCode
from tests.unit.group_driver import limits

E = ErrorCode
DELAY_MS = 3_000
WRITE_MS_MAX = 200
REBALANCE_MS_MAX = 30_000
SESSION_MS_MAX = 20_000
# A parked join waits for one phase, which may have begun just before; an unforeseen write more.
JOIN_WAIT_MS_MAX = REBALANCE_MS_MAX + DELAY_MS + WRITE_MS_MAX
SYNC_WAIT_MS_MAX = REBALANCE_MS_MAX + WRITE_MS_MAX
REJOIN = {
    E.REBALANCE_IN_PROGRESS,
    E.ILLEGAL_GENERATION,
    E.NOT_COORDINATOR,
    E.COORDINATOR_NOT_AVAILABLE,
    E.MEMBER_ID_REQUIRED,
}


@dataclass(eq=False)
class Reply:
    """A request's way back: whose it is, since when it waits, and what became of it."""

    client: Client
    since_ms: int
    limit_ms: int
    is_lost: bool
    is_forgotten: bool = False
    is_answered: bool = False


@dataclass(eq=False)
class Client:
    """A consumer, as its group sees it."""

    name: str
    random: Random
    instance_id: str | None
    needs_member_id: bool
    session_ms: int
    rebalance_ms: int
    slowness_ms: int
    member_id: str = ""
    generation: int = -1
    waits: Reply | None = None
    is_alive: bool = True
    is_settled: bool = False
    assignment: bytes | None = None
    metadata: bytes = b"0"
    turn: int = 0


@dataclass
class Chances:
    """How often things go wrong, each between 0 and 1."""

    lose_reply: float = 0.03
    crash: float = 0.02
    leave: float = 0.02
    sleep: float = 0.01
    change: float = 0.01
    fail_write: float = 0.05
    kill_server: float = 0.0


@dataclass
class World:
    """The group, its driver and all clients; events in the order of their time."""

    seed: int
    chances: Chances
    now_ms: int = 0
    events: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.sequence = itertools.count()
        self.ids = itertools.count()
        self.group = Group("g")
        self.limits = limits(delay_ms=DELAY_MS)
        self.clients: list[Client] = []
        self.parked: dict[int, Reply] = {}
        self.writes: deque[Persist] = deque()
        self.durable: GroupValue = NOTHING_STORED
        self.told_of: GroupValue = NOTHING_STORED
        self.told: dict[str, bytes] = {}
        self.generation = 0
        self.slowness_choice = 6
        self.last_failed = False

    # --- Time -------------------------------------------------------------------------------------

    def at(self, delay_ms: int, do: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now_ms + delay_ms, next(self.sequence), do))

    def run_until(self, end_ms: int) -> None:
        """Let things happen, and the group be ticked when it asked for it, never sooner."""
        while True:
            event_ms = self.events[0][0] if self.events else end_ms + 1
            tick_ms = self.group.next_deadline_ms
            due_ms = event_ms if tick_ms is None else min(event_ms, max(tick_ms, self.now_ms))
            if due_ms > end_ms:
                break
            self.now_ms = due_ms
            if tick_ms is not None and tick_ms <= due_ms:
                self.counts["tick"] += 1
                self.carry_out(self.group.tick(self.now_ms))
            else:
                heapq.heappop(self.events)[2]()
            self.check()
        self.now_ms = end_ms

    # --- The driver -------------------------------------------------------------------------------

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                assert effect is effects[-1], "an effect comes behind a write"
                self.writes.append(effect)
                self.at(self.random.randint(0, WRITE_MS_MAX), self.end_write)
            else:
                self.answer(effect)

    def end_write(self) -> None:
        """End the oldest write: in order, as the log does it."""
        if not self.writes:
            return  # The server was killed meanwhile.
        write = self.writes.popleft()
        fails = self.random.random() < self.chances.fail_write
        self.last_failed = fails
        if not fails:
            self.durable = write.group
        error = E.KAFKA_STORAGE_ERROR if fails else None
        self.counts["write failed" if fails else "write"] += 1
        self.carry_out(self.group.persisted(write.write_id, error, now_ms=self.now_ms))

    def answer(self, effect: AnswerJoin | AnswerSync) -> None:
        reply = effect.reply
        assert isinstance(reply, Reply)
        assert not reply.is_answered, "answered twice"
        assert not reply.is_forgotten, "answered though it was forgotten"
        reply.is_answered = True
        del self.parked[id(reply)]
        if isinstance(effect, AnswerSync) and not effect.answer.error:
            self.check_durable(reply.client, effect.answer)
        if not reply.is_lost:
            delay_ms = self.random.randint(0, 5)
            self.at(delay_ms, lambda: self.receive(reply, effect.answer))

    def send(self, client: Client, limit_ms: int) -> Reply:
        """Return a new reply; with some of them, the connection will be gone."""
        is_lost = client.random.random() < self.chances.lose_reply
        reply = Reply(client, self.now_ms, limit_ms, is_lost)
        self.parked[id(reply)] = reply
        client.waits = reply
        client.turn += 1
        turn = client.turn
        # A client gives up, and tells nobody but the network.
        patience_ms = client.random.randint(10, 3_000) if is_lost else limit_ms + 5_000
        self.at(patience_ms, lambda: self.give_up(client, turn))
        return reply

    def forget(self, reply: Reply | None) -> None:
        if reply is not None and not reply.is_answered and not reply.is_forgotten:
            reply.is_forgotten = True
            self.counts["forgotten"] += 1
            self.group.forget_reply(reply)
            self.parked.pop(id(reply))

    def kill(self) -> None:
        """Kill the server; some of what was being written is there when it starts again."""
        self.counts["kill"] += 1
        for write in itertools.islice(self.writes, self.random.randint(0, len(self.writes))):
            self.durable = write.group
        self.writes.clear()
        for reply in self.parked.values():
            reply.is_forgotten = True
        self.parked.clear()
        self.group = Group.restore("g", self.durable, now_ms=self.now_ms)
        self.generation = self.durable.generation
        assert self.group.generation == self.durable.generation
        assert set(self.group.members) == {m.member_id for m in self.durable.members}

    # --- Clients ----------------------------------------------------------------------------------

    def add(self, **fixed: object) -> Client:
        """Start a client of some kind."""
        random = Random(self.random.random())
        number = len(self.clients)
        values: dict[str, Any] = {
            "instance_id": f"i{number}" if random.random() < 0.3 else None,
            "needs_member_id": random.random() < 0.8,
            "session_ms": random.randint(6_000, SESSION_MS_MAX),
            "rebalance_ms": random.randint(5_000, REBALANCE_MS_MAX),
            "slowness_ms": random.choice([0, 10, 500, 500, 5_000, 40_000][: self.slowness_choice]),
        }
        client = Client(name=f"c{number}", random=random, **(values | fixed))
        self.clients.append(client)
        self.at(random.randint(0, 2_000), lambda: self.join(client))
        return client

    def join(self, client: Client) -> None:
        if not client.is_alive:
            return
        client.is_settled = False
        self.counts["join"] += 1
        reply = self.send(client, JOIN_WAIT_MS_MAX)
        request = Join(
            member_id=client.member_id,
            new_member_id=f"{client.name}-{next(self.ids)}",
            instance_id=client.instance_id,
            client_id=client.name,
            client_host="h",
            session_timeout_ms=client.session_ms,
            rebalance_timeout_ms=client.rebalance_ms,
            protocol_type="consumer",
            protocols=(("range", client.metadata), ("sticky", b"")),
            needs_member_id=client.needs_member_id,
            skips_assignment_ok=client.needs_member_id,
        )
        self.carry_out(self.group.join(request, reply, self.limits, now_ms=self.now_ms))

    def receive(self, reply: Reply, answer: JoinAnswer | SyncAnswer) -> None:
        client = reply.client
        if client.waits is not reply or not client.is_alive or reply.is_forgotten:
            return
        client.waits = None
        client.turn += 1
        if answer.error:
            self.recover(client, answer)
        elif isinstance(answer, SyncAnswer):
            self.settle(client, answer)
        else:
            client.member_id, client.generation = answer.member_id, answer.generation
            self.at(self.think(client), lambda: self.sync(client, answer))

    def think(self, client: Client) -> int:
        """Return how long a client takes for the next step: some are too slow for anybody."""
        return client.random.randint(0, client.slowness_ms)

    def sync(self, client: Client, joined: JoinAnswer) -> None:
        if not client.is_alive or client.waits is not None:
            return
        self.counts["sync"] += 1
        reply = self.send(client, SYNC_WAIT_MS_MAX)
        assignments: tuple[tuple[str, bytes], ...] = ()
        if joined.leader == joined.member_id and not joined.skip_assignment:
            assignments = tuple(
                (member_id, f"{member_id}/{joined.generation}".encode())
                for member_id, _, _ in joined.members
            )
        request = Sync(
            member_id=client.member_id,
            generation=client.generation,
            instance_id=client.instance_id,
            protocol_type=joined.protocol_type,
            protocol_name=joined.protocol_name,
            assignments=assignments,
        )
        self.carry_out(self.group.sync(request, reply, now_ms=self.now_ms))

    def settle(self, client: Client, answer: SyncAnswer) -> None:
        self.counts["settled"] += 1
        client.is_settled = True
        client.assignment = answer.assignment
        self.at(client.session_ms // 3, lambda: self.live(client))

    def live(self, client: Client) -> None:
        """Do what a member does between rebalances: heartbeats, commits, or something worse."""
        if not client.is_alive or not client.is_settled or client.waits is not None:
            return
        dice = client.random.random() - self.chances.crash
        if dice < 0:
            self.crash(client)
            return
        if (dice := dice - self.chances.leave) < 0:
            self.leave(client)
            return
        if (dice := dice - self.chances.sleep) < 0:
            self.at(2 * client.session_ms, lambda: self.live(client))
            return
        if dice < self.chances.change:
            client.metadata = str(next(self.ids)).encode()
            self.join(client)
            return
        who = (client.member_id, client.generation, client.instance_id)
        error = self.group.heartbeat(*who, now_ms=self.now_ms)
        if not error and client.random.random() < 0.3:
            error = self.group.check_commit(*who, now_ms=self.now_ms)
        self.counts["heartbeat"] += 1
        if error:
            client.is_settled = False
            self.recover(client, SyncAnswer(error))
        else:
            self.at(client.session_ms // 3, lambda: self.live(client))

    def recover(self, client: Client, answer: JoinAnswer | SyncAnswer) -> None:
        """Do as clients do with an error."""
        self.counts[answer.error.name] += 1
        if answer.error is E.FENCED_INSTANCE_ID:
            client.is_alive = False
            return
        if isinstance(answer, JoinAnswer) and answer.error is E.MEMBER_ID_REQUIRED:
            client.member_id = answer.member_id
        elif answer.error is E.UNKNOWN_MEMBER_ID:
            client.member_id = ""
        else:
            assert answer.error in REJOIN, answer.error
        self.at(1 + self.think(client), lambda: self.join_if_idle(client))

    def join_if_idle(self, client: Client) -> None:
        if client.waits is None:
            self.join(client)

    def give_up(self, client: Client, turn: int) -> None:
        """The client's patience is over: its connection is closed, and it tries again."""
        if client.turn != turn or not client.is_alive:
            return
        self.counts["gave up"] += 1
        self.forget(client.waits)
        client.waits = None
        self.join(client)

    def crash(self, client: Client) -> None:
        """A client dies; some time later another one starts in its place.

        Now and then it was only taken for dead, and goes on beside the other one.
        """
        self.counts["crash"] += 1
        instance_id = client.instance_id
        if instance_id is not None and client.random.random() < 0.3:
            self.counts["taken for dead"] += 1
            self.at(1, lambda: self.live(client))
        else:
            client.is_alive = client.is_settled = False
        if client.random.random() < 0.7 or client.is_alive:
            delay_ms = client.random.randint(1, 30_000)
            self.at(delay_ms, lambda: void(self.add(instance_id=instance_id)))

    def leave(self, client: Client) -> None:
        self.counts["leave"] += 1
        client.is_alive = client.is_settled = False
        leavers = [Leaver(client.member_id, client.instance_id)]
        errors, effects = self.group.leave(leavers, now_ms=self.now_ms)
        assert len(errors) == 1
        self.carry_out(effects)
        if client.random.random() < 0.5:
            void(self.add())

    # --- Promises ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Check what holds after each stimulus; the costly things when the state has changed."""
        group = self.group
        assert group.generation >= self.generation, "the generation went back"
        members = group.members
        assert (group.leader is None) == (not members)
        assert group.leader is None or group.leader in members
        assert (group.state is GroupState.EMPTY) <= (not members)
        next_ms = group.next_deadline_ms
        # When all have synced, they wait for nothing but the write, which will end.
        assert next_ms or self.writes or not (members or group.pending_count), "nobody wakes it"
        self.check_oldest()
        if group.generation != self.generation or self.counts["check"] % (50 + len(members)) == 0:
            self.check_all()
        self.counts["check"] += 1
        self.generation = group.generation

    def check_oldest(self) -> None:
        """Nobody holds a request up for longer than the time-outs of a rebalance."""
        if self.parked:
            oldest = next(iter(self.parked.values()))
            assert self.now_ms - oldest.since_ms <= oldest.limit_ms, "a rebalance is held up"

    def check_all(self) -> None:
        group = self.group
        roster = group.roster
        assert roster.joining_count == sum(member.is_joining for member in roster)
        assert all(member.member_id == key for key, member in roster.members.items())
        statics = {m.instance_id: m.member_id for m in roster if m.instance_id is not None}
        assert statics == roster.by_instance
        assert not roster.members or roster.elect_protocol()
        assert not roster.pending.keys() & roster.members.keys()
        assert group.unsynced <= roster.members.keys()
        if next_ms := group.next_deadline_ms:
            assert all(m.deadline_ms >= next_ms for m in roster if m.can_expire), "wakes too late"
        waiting = {id(m.join_reply) for m in roster} | {id(m.sync_reply) for m in roster}
        assert self.parked.keys() <= waiting, "a reply is parked nowhere"
        for reply in self.parked.values():
            assert self.now_ms - reply.since_ms <= reply.limit_ms, "a rebalance is held up"

    def check_durable(self, client: Client, answer: SyncAnswer) -> None:
        """What a member is told has been written before."""
        if self.told_of is not self.durable:
            self.told_of = self.durable
            self.told = {m.member_id: m.assignment for m in self.durable.members}
        assert self.told.get(client.member_id) == answer.assignment, "told before it was durable"
        if answer.assignment:
            member_id, _, generation = answer.assignment.decode().rpartition("/")
            assert int(generation) == self.group.generation
            assert member_id == client.member_id or client.instance_id is not None

    def settled(self) -> list[Client]:
        return [client for client in self.clients if client.is_alive and client.is_settled]


def void(_: object) -> None:
    """Drop a value."""


def calm_down(world: World) -> None:
    """From now on nothing goes wrong, and who is alive is quick."""
    world.chances = Chances(0, 0, 0, 0, 0, 0)
    world.slowness_choice = 4
    for client in world.clients:
        client.slowness_ms = min(client.slowness_ms, 500)


def end_all(world: World) -> None:
    """Everybody is gone without a word: what is left has to go by itself."""
    for client in world.clients:
        client.is_alive = client.is_settled = False
        world.forget(client.waits)
    world.events = [event for event in world.events if event[2] == world.end_write]
    heapq.heapify(world.events)
    world.run_until(world.now_ms + 3 * (REBALANCE_MS_MAX + SESSION_MS_MAX) + 6 * 60_000)
    group = world.group
    assert group.state is GroupState.EMPTY
    assert not group.members
    assert group.pending_count == 0
    assert group.next_deadline_ms is None
    assert not world.parked, "a reply was never answered"
    assert world.durable == group.stored()
    assert world.last_failed or group.stored().members == ()


SEEDS = [int(seed) for seed in os.environ.get("LOGD_GROUP_SEEDS", "").split(",") if seed] or list(
    range(int(os.environ.get("LOGD_GROUP_SEED_COUNT", "20")))
)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kill", [0.0, 0.2], ids=["", "killed"])
def test_whatever_members_do_the_promises_hold(seed: int, kill: float) -> None:
    """Ten minutes of mischief, then calm: who is left is settled in one generation; then the end.

    In the calm every member that is alive has an assignment of the current generation.
    """
    world = World(seed, Chances(kill_server=kill))
    for _ in range(world.random.randint(1, 40)):
        world.add()
    for minute in range(1, 11):
        world.run_until(minute * 60_000)
        if world.random.random() < kill:
            world.kill()
    calm_down(world)
    world.run_until(world.now_ms + 4 * 60_000)
    alive = [client for client in world.clients if client.is_alive]
    assert world.settled() == alive, world.counts
    if alive:
        assert world.group.state is GroupState.STABLE
        assert {client.member_id for client in alive} == set(world.group.members)
        assert {client.generation for client in alive} == {world.group.generation}
        assert len({client.assignment for client in alive}) == len(alive)
    end_all(world)


def test_two_thousand_members_find_a_generation() -> None:
    """They start together, some crash, some are replaced; the rest ends up in one generation."""
    world = World(1, Chances(crash=0.0005, leave=0.0005, sleep=0, change=0, lose_reply=0.002))
    for _ in range(2_000):
        world.add(slowness_ms=500)
    world.run_until(40_000)
    calm_down(world)
    world.run_until(world.now_ms + 110_000)
    alive = [client for client in world.clients if client.is_alive]
    assert len(alive) > 1_500
    assert world.settled() == alive
    assert world.group.generation < 30, "the members never came to rest"
    end_all(world)


def test_the_simulation_does_what_it_says() -> None:
    """Over a few seeds everything that can happen to a member does: the checks have work."""
    counts: Counter[str] = Counter()
    for seed in range(3):
        world = World(seed, Chances())
        for _ in range(30):
            world.add()
        for second in range(0, 300, 5):
            world.run_until(second * 1_000)
            if seed == 0:
                world.kill()
        counts += world.counts
    for what in ("crash", "leave", "forgotten", "gave up", "write failed", "settled", "tick"):
        assert counts[what], what
    for code in REJOIN - {E.COORDINATOR_NOT_AVAILABLE} | {E.UNKNOWN_MEMBER_ID}:
        assert counts[code.name], code
    assert counts[E.FENCED_INSTANCE_ID.name]
