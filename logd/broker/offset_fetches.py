"""OffsetFetch: what a group has committed.

A group that is not known has committed nothing, which is no error: offset -1. A group whose part of
the offsets log cannot be read is refused instead, or its consumers would begin anew.

A stable fetch waits for the commits that are on their way, so that a partition's next owner does
not read again what its last one has just committed.

Source: Kafka protocol guide; KIP-447 (stable fetches), KIP-709 (several groups in one fetch).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from logd.broker.context import RequestContext
from logd.broker.group_entry import GroupEntry
from logd.broker.group_requests import check_group
from logd.broker.groups import Coordinator
from logd.broker.reply import Answer
from logd.policy.group.committed import CommittedOffset
from logd.policy.group.values import GroupState
from logd.wire.error_codes import ErrorCode
from logd.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)

_FIRST_WITH_SEVERAL_GROUPS: Final = 8
_FIRST_WITH_ERROR_CODE: Final = 2
_NOTHING: Final = CommittedOffset(-1, -1, "", -1)


class _Asked(NamedTuple):
    """What is asked of one group; topics with their partitions, None for all of them."""

    group_id: str
    topics: dict[str, dict[int, None]] | None


_Found = list[tuple[str, list[tuple[int, CommittedOffset]]]]


def begin_offset_fetch(
    context: RequestContext, request: OffsetFetchRequest, version: int, answer: Answer
) -> None:
    """Return what groups have committed.

    What is asked again in the same request is answered once: an answer is no larger than what was
    committed, plus some bytes for each that was not.
    """
    groups = context.broker.groups
    asked = _asked(request, version)
    waits_for = [
        entry
        for one in asked
        if request.require_stable and (entry := groups.entries.get(one.group_id)) is not None
    ]
    outstanding = len(waits_for) + 1

    def one_is_stable() -> None:
        nonlocal outstanding
        outstanding -= 1
        if not outstanding:
            answer.answer(_respond(groups, asked, version))

    for entry in waits_for:
        entry.when_stable(one_is_stable)
    one_is_stable()


def _asked(request: OffsetFetchRequest, version: int) -> list[_Asked]:
    if version < _FIRST_WITH_SEVERAL_GROUPS:
        return [_Asked(request.group_id, _once_each(None, request.topics))]
    asked: dict[str, _Asked] = {}
    for group in request.groups:
        before = asked.get(group.group_id)
        if before is None:
            asked[group.group_id] = _Asked(group.group_id, _once_each(None, group.topics))
        elif before.topics is not None:
            topics = _once_each(before.topics, group.topics)
            asked[group.group_id] = _Asked(group.group_id, topics)
    return list(asked.values())


def _once_each(
    before: dict[str, dict[int, None]] | None,
    topics: Sequence[OffsetFetchRequestTopic | OffsetFetchRequestTopics] | None,
) -> dict[str, dict[int, None]] | None:
    if topics is None:
        return None
    asked = before or {}
    for topic in topics:
        asked.setdefault(topic.name, {}).update(dict.fromkeys(topic.partition_indexes))
    return asked


def _respond(groups: Coordinator, asked: list[_Asked], version: int) -> OffsetFetchResponse:
    if version >= _FIRST_WITH_SEVERAL_GROUPS:
        return OffsetFetchResponse(groups=[_respond_group(groups, one) for one in asked])
    (one,) = asked
    error = check_group(groups, one.group_id, may_be_empty=True)
    # Before there was a code for the whole, each partition carries it.
    told = error if version < _FIRST_WITH_ERROR_CODE else ErrorCode.NONE
    found = [] if error and not told else _find(groups, one, refused=bool(error))
    return OffsetFetchResponse(
        error_code=error,
        topics=[
            OffsetFetchResponseTopic(
                name=name,
                partitions=[
                    OffsetFetchResponsePartition(
                        partition_index=index,
                        committed_offset=committed.offset,
                        committed_leader_epoch=committed.leader_epoch,
                        metadata=committed.metadata,
                        error_code=told,
                    )
                    for index, committed in partitions
                ],
            )
            for name, partitions in found
        ],
    )


def _respond_group(groups: Coordinator, asked: _Asked) -> OffsetFetchResponseGroup:
    error = check_group(groups, asked.group_id, may_be_empty=True)
    found = [] if error else _find(groups, asked, refused=False)
    return OffsetFetchResponseGroup(
        group_id=asked.group_id,
        error_code=error,
        topics=[
            OffsetFetchResponseTopics(
                name=name,
                partitions=[
                    OffsetFetchResponsePartitions(
                        partition_index=index,
                        committed_offset=committed.offset,
                        committed_leader_epoch=committed.leader_epoch,
                        metadata=committed.metadata,
                    )
                    for index, committed in partitions
                ],
            )
            for name, partitions in found
        ],
    )


def _find(groups: Coordinator, asked: _Asked, *, refused: bool) -> _Found:
    """Return what is committed, in the order in which it was asked for."""
    entry = None if refused else groups.entries.get(asked.group_id)
    offsets = {} if entry is None or _is_dead(entry) else entry.offsets
    if asked.topics is None:
        return by_topic(offsets.items())
    return [
        (name, [(index, offsets.get((name, index), _NOTHING)) for index in indexes])
        for name, indexes in asked.topics.items()
    ]


def _is_dead(entry: GroupEntry) -> bool:
    return entry.group.state is GroupState.DEAD


def by_topic(offsets: Iterable[tuple[tuple[str, int], CommittedOffset]]) -> _Found:
    """Return committed offsets as lists, one a topic."""
    topics: dict[str, list[tuple[int, CommittedOffset]]] = {}
    for (name, index), committed in offsets:
        topics.setdefault(name, []).append((index, committed))
    return list(topics.items())
