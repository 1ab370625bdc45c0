"""Bytes that are no message: one typed error, in bounded time and memory, in every API and version.

Mutations start from valid messages, so that they get far into a decoder; both directions are
tried, because clients of ours read responses.
"""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from logd.errors import MalformedRequestError
from logd.units import MIB
from logd.wire.primitives import varint
from tests.property.wire_samples import Kind, kinds

MUTATIONS = 5000
# A body of a few hundred bytes takes microseconds; the bound is for a machine that stalls.
DECODE_SECONDS_MAX = 1.0
DECODE_BYTES_MAX = 4 * MIB
EVERY_KIND = pytest.mark.parametrize("kind", kinds(), ids=str)

LENGTH_BOMBS = (
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xfe",
    b"\x80\x00\x00\x00",
    b"\x7f\xff",
    b"\x80\x00",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\x07",
    b"\xff" * 40,
    varint(100_000),
)


@EVERY_KIND
def test_every_prefix_is_refused(kind: Kind, rng: random.Random) -> None:
    """A message cut anywhere is refused, whether the buffer ends there or goes on."""
    for version in kind.versions:
        message = kind.random(rng, version)
        data = kind.encode(message, version)
        step = max(1, len(data) // 150)  # Each length where there are few, evenly where many.
        for size in {*range(0, len(data), step), len(data) - 1} - {len(data), -1}:
            with pytest.raises(MalformedRequestError):
                kind.decode(data[:size], version)
            with pytest.raises(MalformedRequestError):
                kind.decode(data, version, 0, size)


@EVERY_KIND
def test_trailing_bytes_are_refused(kind: Kind, rng: random.Random) -> None:
    """A message with a byte too many is refused; bytes outside its place do not matter."""
    for version in kind.versions:
        message = kind.random(rng, version)
        data = kind.encode(message, version)
        with pytest.raises(MalformedRequestError):
            kind.decode(data + b"\x00", version)
        around = b"\xff" * 7 + data + b"\xff" * 9
        assert kind.decode(around, version, 7, 7 + len(data)) == message


def test_mutated_messages_raise_one_error(rng: random.Random) -> None:
    """Thousands of mutated bodies: a message or MalformedRequestError, fast, in little memory."""
    refused = 0
    slowest = 0.0
    tracemalloc.start()
    try:
        for kind, version, body in mutated_bodies(rng, MUTATIONS):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            started = time.process_time()
            try:
                kind.decode(body, version)
            except MalformedRequestError:
                refused += 1
            slowest = max(slowest, time.process_time() - started)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < DECODE_BYTES_MAX, (str(kind), version, body.hex())
    finally:
        tracemalloc.stop()
    assert slowest < DECODE_SECONDS_MAX
    assert refused > MUTATIONS // 3, "the mutations are too tame to show anything"


def mutated_bodies(rng: random.Random, count: int) -> Iterator[tuple[Kind, int, bytes]]:
    """Yield bodies that are almost right, or not at all."""
    for _ in range(count):
        kind = rng.choice(kinds())
        version = rng.choice(kind.versions)
        data = bytearray(kind.encode(kind.random(rng, version), version))
        for _ in range(rng.choice((1, 1, 2, 4))):
            mutate(rng, data)
        yield kind, version, bytes(data)


def mutate(rng: random.Random, data: bytearray) -> None:
    """Change the data in one of six ways."""
    place = rng.randrange(len(data) + 1)
    way = rng.randrange(6)
    if way == 0 and data:
        data[place % len(data)] ^= 1 << rng.randrange(8)
    elif way == 1:
        del data[place:]
    elif way == 2:
        bomb = rng.choice(LENGTH_BOMBS)
        data[place : place + len(bomb)] = bomb
    elif way == 3:
        data[place:place] = rng.randbytes(rng.randrange(1, 9))
    elif way == 4:
        del data[place : place + rng.randrange(1, 9)]
    else:
        data[:] = rng.randbytes(rng.randrange(200))


@EVERY_KIND
def test_unknown_tags_are_skipped(kind: Kind, rng: random.Random) -> None:
    """A tagged field from the future, at the end of a flexible message, changes nothing."""
    for version in kind.versions:
        if not kind.message.flexible or version < kind.message.flexible.low:
            continue
        message = type(kind.random(rng, version))()  # Its tags are all absent: the last byte is 0.
        data = kind.encode(message, version)
        assert data.endswith(b"\x00")
        unknown = varint(1) + varint(1000) + varint(300) + bytes(300)
        assert kind.decode(data[:-1] + unknown, version) == kind.decode(data, version)
        with pytest.raises(MalformedRequestError):
            kind.decode(data[:-1] + unknown[:-1], version)


@EVERY_KIND
def test_a_run_of_ones_ends_at_once(kind: Kind) -> None:
    """400 KB of 0xff, where some varint or length must be, take no time to refuse."""
    body = b"\xff" * 400_000
    started = time.process_time()
    for version in kind.versions:
        with pytest.raises(MalformedRequestError):
            kind.decode(body, version)
    assert time.process_time() - started < DECODE_SECONDS_MAX
