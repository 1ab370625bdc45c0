"""From a group's answers to the messages that carry them."""

from __future__ import annotations

from typing import Final

from logd.policy.group.values import JoinAnswer, SyncAnswer
from logd.wire.messages.join_group import JoinGroupResponse, JoinGroupResponseMember
from logd.wire.messages.sync_group import SyncGroupResponse

_FIRST_WITHOUT_PROTOCOL: Final = 7
"""From this version on there may be no protocol name; before, it is empty then."""


def join_response(answer: JoinAnswer, version: int) -> JoinGroupResponse:
    """Return the response to a JoinGroup."""
    name = answer.protocol_name
    return JoinGroupResponse(
        error_code=answer.error,
        generation_id=answer.generation,
        protocol_type=answer.protocol_type,
        protocol_name="" if name is None and version < _FIRST_WITHOUT_PROTOCOL else name,
        leader=answer.leader,
        skip_assignment=answer.skip_assignment,
        member_id=answer.member_id,
        members=[
            JoinGroupResponseMember(
                member_id=member_id, group_instance_id=instance_id, metadata=metadata
            )
            for member_id, instance_id, metadata in answer.members
        ],
    )


def sync_response(answer: SyncAnswer) -> SyncGroupResponse:
    """Return the response to a SyncGroup."""
    return SyncGroupResponse(
        error_code=answer.error,
        protocol_type=answer.protocol_type,
        protocol_name=answer.protocol_name,
        assignment=answer.assignment,
    )
