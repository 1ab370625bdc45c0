"""Breakers and retries: opened by failures and slowness, closed by probes, jitter in between."""

from __future__ import annotations

from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from ec.breaker import Breaker, BreakerSettings, BreakerState
from ec.errors import ChunkDamagedError, ChunkMissingError, StoreUnavailableError
from ec.store.guarded import CircuitOpenError, GuardedStore, Retries
from tests.contract.check_store import SAMPLE, MemoryStore

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def call(breaker: Breaker, now_s: float, *, failed: bool = False, seconds: float = 0.1) -> bool:
    """Make one call, if it is let; return whether it was."""
    period = breaker.admit(now_s)
    if period is None:
        return False
    breaker.record(period, now_s, seconds=seconds, failed=failed)
    return True


def test_few_calls_say_nothing() -> None:
    """Nine failures in a row leave it closed, the tenth opens it."""
    breaker = Breaker()
    for _ in range(9):
        assert call(breaker, 0, failed=True)
    assert breaker.state(0) is CLOSED
    call(breaker, 0, failed=True)
    assert breaker.state(0) is OPEN
    assert not call(breaker, 0)
    assert breaker.times_opened == 1


@pytest.mark.parametrize(("bad", "expected"), [(49, CLOSED), (50, OPEN)])
def test_half_of_the_window_failing_opens_it(bad: int, expected: BreakerState) -> None:
    """50 of the last 100 calls, whatever came before them."""
    breaker = Breaker()
    for _ in range(500):
        call(breaker, 0)
    for at in range(2 * bad):
        call(breaker, 0, failed=at % 2 == 1)
    assert breaker.state(0) is expected


@pytest.mark.parametrize(("slow", "expected"), [(79, CLOSED), (80, OPEN)])
def test_slow_calls_open_it(slow: int, expected: BreakerState) -> None:
    """80 of 100 over three seconds."""
    breaker = Breaker()
    for _ in range(100 - slow):
        call(breaker, 0)
    for _ in range(slow):
        call(breaker, 0, seconds=3.01)
    assert breaker.state(0) is expected


def opened(at_s: float = 0) -> Breaker:
    breaker = Breaker()
    for _ in range(10):
        call(breaker, at_s, failed=True)
    return breaker


def test_probes_close_it() -> None:
    """After 30 s a few calls go through; when all are good it forgets what was."""
    breaker = opened()
    assert not call(breaker, 29.9)
    assert breaker.state(30) is HALF_OPEN
    *periods, fourth, fifth = [breaker.admit(30) for _ in range(5)]
    assert (fourth, fifth) == (None, None)
    for period in periods:
        assert period is not None
        breaker.record(period, 31, seconds=0.1, failed=False)
    assert breaker.state(31) is CLOSED
    for _ in range(9):
        call(breaker, 31, failed=True)
    assert breaker.state(31) is CLOSED


@pytest.mark.parametrize(("failed", "seconds"), [(True, 0.1), (False, 5.0)])
def test_a_bad_probe_opens_it_again(failed: bool, seconds: float) -> None:
    """For another 30 s; a late answer of another probe changes nothing."""
    breaker = opened()
    one, two = breaker.admit(30), breaker.admit(30)
    assert one
    assert two
    breaker.record(one, 31, seconds=seconds, failed=failed)
    assert breaker.state(60.9) is OPEN
    breaker.record(two, 32, seconds=0.1, failed=False)
    assert breaker.state(60.9) is OPEN
    assert breaker.state(61) is HALF_OPEN


@pytest.mark.parametrize("failed", [True, False])
def test_a_call_from_before_is_no_probe(failed: bool) -> None:
    """What was admitted before it opened, and ends while it is half open, decides nothing."""
    breaker = Breaker()
    late = breaker.admit(0)
    assert late
    for _ in range(10):
        call(breaker, 0, failed=True)
    probe = breaker.admit(30)
    assert probe
    for _ in range(3):
        breaker.record(late, 31, seconds=2, failed=failed)
        breaker.give_up(late, 31, seconds=0.1)
    assert breaker.state(31) is HALF_OPEN
    assert [breaker.admit(31) is None for _ in range(3)] == [False, False, True]


def test_a_probe_that_was_given_up_frees_its_place() -> None:
    """Otherwise a cancelled probe would keep it half open for ever."""
    breaker = opened()
    for _ in range(10):
        period = breaker.admit(40)
        assert period
        breaker.give_up(period, 40, seconds=0.1)
    assert call(breaker, 40)


@given(st.lists(st.tuples(st.sampled_from(["ok", "bad", "slow", "leave"]), st.floats(0, 20))))
def test_it_always_lets_a_probe_through_in_the_end(steps: list[tuple[str, float]]) -> None:
    """Whatever happened, good calls after the open time close it."""
    breaker = Breaker(BreakerSettings(window=5, calls_min=2))
    now_s = 0.0
    for what, wait_s in steps:
        now_s += wait_s
        period = breaker.admit(now_s)
        if period is not None:
            if what == "leave":
                breaker.give_up(period, now_s, seconds=0.1)
            else:
                seconds = 4.0 if what == "slow" else 0.1
                breaker.record(period, now_s, seconds=seconds, failed=what == "bad")
    # What is remembered may open it once more; then only good calls are.
    for _ in range(2):
        now_s += 31
        for _ in range(6):
            call(breaker, now_s)
    assert breaker.state(now_s) is CLOSED


# --- The store ------------------------------------------------------------------------------------


class Flaky(MemoryStore):
    """Unavailable for the next `failures` calls."""

    failures = 0
    calls = 0

    async def list(self, **arguments):  # type: ignore[no-untyped-def]  # As in MemoryStore.
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise StoreUnavailableError("not now")
        return await super().list(**arguments)


def guarded(**settings: float) -> tuple[Flaky, GuardedStore]:
    flaky = Flaky()
    retries = Retries(**settings) if settings else None  # type: ignore[arg-type]  # numbers all
    return flaky, GuardedStore(flaky, breaker=Breaker(), rng=Random(5), retries=retries)


async def test_unavailable_is_tried_again(autojump_clock: MockClock) -> None:
    """Three times in all, with growing waits that are drawn."""
    flaky, store = guarded()
    flaky.failures = 2
    assert await store.list() == ()
    assert flaky.calls == 3
    assert 0 < trio.current_time() < 0.3
    flaky.failures = 3
    with pytest.raises(StoreUnavailableError):
        await store.list()
    assert flaky.calls == 6


async def test_answers_are_not_tried_again(autojump_clock: MockClock) -> None:
    """Missing and damaged are answers; a hundred of them open nothing."""
    flaky, store = guarded()
    data = bytearray(SAMPLE.files[0])
    data[5] ^= 1
    flaky.files[SAMPLE.ids[0].name] = bytes(data)
    for _ in range(60):
        with pytest.raises(ChunkMissingError):
            await store.head(SAMPLE.ids[1])
        with pytest.raises(ChunkDamagedError):
            await store.read(SAMPLE.ids[0], 0, 10)
    assert store.state() is CLOSED
    assert trio.current_time() == 0


def test_a_node_that_answers_is_tried_before_the_time() -> None:
    """A good answer past the breaker lets probes through at once; three good ones close it."""
    breaker = opened()
    assert breaker.answered(asked_s=2)
    assert breaker.state(2) is HALF_OPEN
    for _ in range(3):
        assert call(breaker, 2)
    assert breaker.state(2) is CLOSED


def test_an_answer_from_before_says_nothing() -> None:
    """What was asked before the breaker opened does not speak for the node as it is now."""
    breaker = opened(5)
    assert not breaker.answered(asked_s=4.9)
    assert breaker.state(6) is OPEN


def test_a_node_that_answers_and_fails_is_tried_once() -> None:
    """After a bad try the breaker keeps its time, however often it answers; unless it was away."""
    breaker = opened()
    assert breaker.answered(asked_s=2)
    assert call(breaker, 2, failed=True)
    assert breaker.state(2) is OPEN
    assert not breaker.answered(asked_s=4)
    assert breaker.state(31) is OPEN
    breaker.went_away()
    assert breaker.answered(asked_s=31)
    assert breaker.state(31) is HALF_OPEN


async def test_an_open_breaker_refuses_at_once(autojump_clock: MockClock) -> None:
    """The node is left alone, but for health; later it is tried, and used again."""
    flaky, store = guarded(attempts=1)
    flaky.failures = 10
    for _ in range(10):
        with pytest.raises(StoreUnavailableError):
            await store.list()
    assert store.state() is OPEN
    with pytest.raises(CircuitOpenError):
        await store.list()
    assert flaky.calls == 10
    assert (await store.health()).identity.node == store.node
    await trio.sleep(30)
    for _ in range(3):
        assert store.state() is HALF_OPEN
        await store.list()
    assert store.state() is CLOSED


async def test_a_call_given_up_early_says_nothing(autojump_clock: MockClock) -> None:
    """A reader that took its bytes from others does not blame the node, unless it waited long."""

    class Hanging(MemoryStore):
        async def list(self, **arguments):  # type: ignore[no-untyped-def]  # As in MemoryStore.
            await trio.sleep_forever()

    store = GuardedStore(Hanging(), breaker=Breaker(), rng=Random(1))
    for wait_s, expected in ((0.4, CLOSED), (0.5, OPEN)):
        for _ in range(50):
            with trio.move_on_after(wait_s):
                await store.list()
            if store.state() is OPEN:
                break
        assert store.state() is expected
