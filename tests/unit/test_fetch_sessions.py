"""Incremental fetch sessions: epochs, changes, a bounded cache."""

from __future__ import annotations

import itertools

import pytest

from logd.broker.fetch_sessions import EVICTION_S, FetchItem, FetchSessions
from logd.errors import FetchSessionIdNotFoundError, InvalidFetchSessionEpochError
from logd.units import INT32_MAX


def item(index: int, offset: int = 0) -> FetchItem:
    return FetchItem(
        topic_name="t", topic_id=bytes(16), index=index, offset=offset, max_bytes=100,
        leader_epoch=-1,
    )  # fmt: skip


def sessions(slots: int = 2) -> FetchSessions:
    ids = itertools.count(1)
    return FetchSessions(slots=slots, random_id=lambda: next(ids))


def test_changes_are_taken_over_and_the_rest_is_remembered() -> None:
    """A later fetch names only what changed; the session keeps the others."""
    cache = sessions()
    session = cache.open([item(0), item(1)], now=0)
    assert session is not None
    again = cache.resume(
        session.session_id, 1, [item(1, offset=9), item(2)], [("t", bytes(16), 0)], now=1
    )
    assert [(i.index, i.offset) for i in again.items.values()] == [(1, 9), (2, 0)]


def test_wrong_epoch_changes_nothing() -> None:
    """A request that was lost or repeated is told so, and the session stays as it was."""
    cache = sessions()
    session = cache.open([item(0)], now=0)
    assert session is not None
    with pytest.raises(InvalidFetchSessionEpochError):
        cache.resume(session.session_id, 2, [item(5)], [], now=1)
    assert [i.index for i in session.items.values()] == [0]
    cache.resume(session.session_id, 1, [], [], now=1)


def test_epoch_wraps_to_one() -> None:
    """After 2^31 - 1 comes 1: 0 and -1 have meanings of their own."""
    cache = sessions()
    session = cache.open([item(0)], now=0)
    assert session is not None
    session.epoch = INT32_MAX
    assert cache.resume(session.session_id, INT32_MAX, [], [], now=0).epoch == 1


def test_unknown_session_is_refused() -> None:
    """A session of an earlier run of the server is not found."""
    with pytest.raises(FetchSessionIdNotFoundError):
        sessions().resume(5, 1, [], [], now=0)


def test_cache_is_bounded_and_evicts_only_the_idle() -> None:
    """A full cache turns newcomers away, until its oldest session has been idle long enough."""
    cache = sessions(slots=2)
    first = cache.open([item(0)], now=0)
    cache.open([item(1)], now=1)
    assert cache.open([item(2)], now=2) is None
    assert len(cache) == 2
    assert cache.open([item(2)], now=EVICTION_S + 0.5) is not None
    assert first is not None
    with pytest.raises(FetchSessionIdNotFoundError):
        cache.resume(first.session_id, 1, [], [], now=EVICTION_S + 1)
    assert (len(cache), cache.evicted) == (2, 1)


def test_no_slots_means_no_sessions() -> None:
    """With the setting at 0 every fetch is a full one."""
    assert sessions(slots=0).open([item(0)], now=0) is None
