"""DescribeGroups, ListGroups, DeleteGroups.

Source: Kafka protocol guide; KIP-229 (DeleteGroups), KIP-430, KIP-518 (states), KIP-848 (types),
KIP-1043 (GROUP_ID_NOT_FOUND).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from logd.broker import permissions
from logd.broker.context import RequestContext
from logd.broker.group_deletes import delete_group
from logd.broker.group_entry import GroupEntry
from logd.broker.group_requests import check_group
from logd.broker.groups import Coordinator, write_error
from logd.broker.reply import Answer
from logd.errors import LogdError
from logd.policy.group.values import GroupState
from logd.wire.error_codes import ErrorCode
from logd.wire.messages.delete_groups import (
    DeletableGroupResult,
    DeleteGroupsRequest,
    DeleteGroupsResponse,
)
from logd.wire.messages.describe_groups import (
    DescribedGroup,
    DescribedGroupMember,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
)
from logd.wire.messages.list_groups import ListedGroup, ListGroupsRequest, ListGroupsResponse

GROUP_TYPE: Final = "classic"
"""The one kind of group that there is here, by Kafka's name."""

_FIRST_WITH_NOT_FOUND: Final = 6


# --- DescribeGroups ------------------------------------------------------------------------------


def begin_describe_groups(
    context: RequestContext, request: DescribeGroupsRequest, version: int, answer: Answer
) -> None:
    """Describe each group with its members; one that does not exist is dead.

    One that is named again is described once: an answer is no larger than what the groups hold.
    """
    groups = context.broker.groups
    described = [_describe(groups, name, version) for name in dict.fromkeys(request.groups)]
    if request.include_authorized_operations:
        for one in described:
            if not one.error_code:
                one.authorized_operations = permissions.ON_GROUP
    answer.answer(DescribeGroupsResponse(groups=described))


def _describe(groups: Coordinator, group_id: str, version: int) -> DescribedGroup:
    error = check_group(groups, group_id, may_be_empty=True)
    entry = groups.entries.get(group_id)
    # No offsets log, no group: that says more than the error.
    if entry is None and error in (ErrorCode.NONE, ErrorCode.NOT_COORDINATOR):
        return _not_found(group_id, version)
    if error or entry is None:
        return DescribedGroup(error_code=error, group_id=group_id)
    group = entry.group
    return DescribedGroup(
        group_id=group_id,
        group_state=group.state.value,
        protocol_type=group.protocol_type or "",
        protocol_data=(group.protocol_name or "") if group.state is GroupState.STABLE else "",
        members=_members(entry),
    )


def _not_found(group_id: str, version: int) -> DescribedGroup:
    described = DescribedGroup(group_id=group_id, group_state=GroupState.DEAD.value)
    if version >= _FIRST_WITH_NOT_FOUND:
        described.error_code = ErrorCode.GROUP_ID_NOT_FOUND
        described.error_message = "there is no group of this id"
    return described


def _members(entry: GroupEntry) -> list[DescribedGroupMember]:
    """What members said and were given is told once it is agreed on, as by Kafka."""
    group = entry.group
    is_stable = group.state is GroupState.STABLE
    return [
        DescribedGroupMember(
            member_id=member.member_id,
            group_instance_id=member.instance_id,
            client_id=member.client_id,
            client_host=member.client_host,
            member_metadata=member.metadata(group.protocol_name) if is_stable else b"",
            member_assignment=member.assignment if is_stable else b"",
        )
        for member in group.members.values()
    ]


# --- ListGroups ----------------------------------------------------------------------------------


def begin_list_groups(
    context: RequestContext, request: ListGroupsRequest, _version: int, answer: Answer
) -> None:
    """List all groups, or those in some states and of some types; both in any case of letters."""
    states = {name.lower() for name in request.states_filter}
    types = {name.lower() for name in request.types_filter}
    listed = []
    if not types or GROUP_TYPE in types:
        listed = [
            ListedGroup(
                group_id=group_id,
                protocol_type=entry.group.protocol_type or "",
                group_state=entry.group.state.value,
                group_type=GROUP_TYPE,
            )
            for group_id, entry in context.broker.groups.entries.items()
            if not states or entry.group.state.value.lower() in states
        ]
    answer.answer(ListGroupsResponse(groups=listed))


# --- DeleteGroups --------------------------------------------------------------------------------


def begin_delete_groups(
    context: RequestContext, request: DeleteGroupsRequest, _version: int, answer: Answer
) -> None:
    """Delete groups without members, with their offsets; answered when that is durable."""
    groups = context.broker.groups
    results = [DeletableGroupResult(group_id=one) for one in dict.fromkeys(request.groups_names)]
    outstanding = len(results) + 1

    def one_done() -> None:
        nonlocal outstanding
        outstanding -= 1
        if not outstanding:
            answer.answer(DeleteGroupsResponse(results=results))

    for result in results:
        _delete(groups, result, one_done)
    one_done()


def _delete(groups: Coordinator, result: DeletableGroupResult, then: Callable[[], None]) -> None:
    groups.tick(result.group_id)
    entry = groups.entries.get(result.group_id)
    result.error_code = _may_not_delete(groups, result.group_id, entry)
    if entry is None or result.error_code:
        then()
        return

    def done(error: LogdError | None) -> None:
        if error is not None:
            result.error_code = write_error(error)
        then()

    delete_group(groups, entry, done)


def _may_not_delete(groups: Coordinator, group_id: str, entry: GroupEntry | None) -> ErrorCode:
    error = check_group(groups, group_id, may_be_empty=True)
    if error is ErrorCode.NOT_COORDINATOR:
        return ErrorCode.GROUP_ID_NOT_FOUND  # Without an offsets log there is no group.
    if error:
        return error
    if entry is None or entry.group.state is GroupState.DEAD:
        return ErrorCode.GROUP_ID_NOT_FOUND
    return ErrorCode.NONE if entry.group.state is GroupState.EMPTY else ErrorCode.NON_EMPTY_GROUP
