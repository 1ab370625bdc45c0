"""`logd group`: list, describe, delete; `reset` is in a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from cli.errors import Refused, Unreachable
from cli.group_facts import (
    by_topic,
    commit_times,
    committed_offsets,
    describe_members,
    end_offsets,
    find_group,
    list_groups,
    no_group,
    offset_rows,
    places_of,
)
from cli.group_reset import reset
from cli.kafka import CREATE_TIMEOUT_S, Connection
from cli.options import GROUP_ID, Target, common_options, pass_target, require_consent
from cli.render import counted, escape, print_json, print_table, readable_time


@click.group()
@common_options("bootstrap", "admin", "json")
def group() -> None:
    """Look at consumer groups, move their offsets, delete them.

    \b
    Example:
      logd group describe billing
      logd group reset billing --topic orders --to earliest --dry-run
    """


@group.command("list")
@common_options("bootstrap", "json")
@pass_target
def list_(target: Target) -> None:
    """List all groups.

    \b
    Example:
      logd group list --json
    """
    rows = [found.row() for found in list_groups(Connection(target.bootstrap))]
    if target.json:
        print_json(rows)
        return
    headers = ("group", "state", "protocol type", "members")
    print_table(
        headers,
        [(r["group"], r["state"], r["protocol_type"] or "-", r["members"]) for r in rows],
    )


@group.command(short_help="Show a group's members, its offsets, and how far behind it is.")
@click.argument("group", type=GROUP_ID)
@common_options("bootstrap", "admin", "json")
@pass_target
def describe(target: Target, group: str) -> None:
    """Show a group's members, what it has committed, and how far behind it is.

    The time of the last commit comes from the admin port; without that it is not known.

    \b
    Example:
      logd group describe billing
    """
    connection = Connection(target.bootstrap)
    document, trouble = _describe(connection, target, group)
    if target.json:
        print_json(document)
        return
    if trouble:
        click.echo(f"note: no times of commits: {escape(trouble)}", err=True)
    _print_description(document)


def _describe(connection: Connection, target: Target, group: str) -> tuple[dict[str, Any], str]:
    """Return the document, and why the times of commits are missing from it."""
    listed = find_group(connection, group)
    if listed is None:
        raise no_group(group)
    members = describe_members(connection, listed)
    committed = committed_offsets(connection, group)
    trouble = ""
    times: dict[tuple[str, int, int], int] = {}
    if committed:
        try:
            times = commit_times(target.admin, group)
        except (Refused, Unreachable) as error:
            trouble = error.format_message()
    document = {
        "group": group,
        "state": listed.state,
        "protocol_type": listed.protocol_type,
        "protocol": listed.protocol,
        "members": members,
        "offsets": offset_rows(committed, end_offsets(connection, committed), times),
        "uncommitted": by_topic(places_of(members) - committed.keys()),
    }
    return document, trouble


def _print_description(document: dict[str, Any]) -> None:
    kind = document["protocol_type"] or "no protocol type"
    protocol = f", {document['protocol']}" if document["protocol"] else ""
    members = document["members"]
    click.echo(
        escape(f"group {document['group']}  {document['state']}  {kind}{protocol}")
        + f"  {counted(len(members), 'member')}"
    )
    if members:
        click.echo()
        headers = ("client id", "host", "member", "instance", "assignment")
        print_table(headers, [_member_cells(member) for member in members])
    click.echo()
    if document["offsets"]:
        _print_offsets(document["offsets"])
    else:
        click.echo("no committed offsets")
    if document["uncommitted"]:
        places = escape(assignment_text(document["uncommitted"]))
        click.echo(f"\nassigned, and nothing committed yet: {places}")


def _member_cells(member: dict[str, Any]) -> tuple[str, ...]:
    return (
        member["client_id"],
        member["client_host"],
        member["member_id"],
        member["instance_id"] or "-",
        assignment_text(member["assignment"]) or "-",
    )


def assignment_text(assignment: list[dict[str, Any]]) -> str:
    """Return partitions by topic in one line: `orders 0-3,7 payments 1`."""
    return " ".join(f"{a['topic']} {ranges(a['partitions'])}" for a in assignment)


def ranges(numbers: list[int]) -> str:
    """Return ascending numbers with runs drawn together: `0-3,7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _print_offsets(rows: list[dict[str, Any]]) -> None:
    headers = ("topic", "partition", "committed offset", "log end offset", "lag", "last commit")
    print_table(
        headers,
        [
            (
                row["topic"],
                row["partition"],
                row["committed_offset"],
                row["log_end_offset"],
                row["lag"],
                readable_time(row["committed_at_ms"]),
            )
            for row in rows
        ],
    )


@group.command()
@click.argument("group", type=GROUP_ID)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@common_options("bootstrap", "json")
@pass_target
def delete(target: Target, group: str, yes: bool, dry_run: bool) -> None:
    """Delete a group that has no members, and its committed offsets.

    \b
    Example:
      logd group delete billing --yes
    """
    connection = Connection(target.bootstrap)
    listed = find_group(connection, group)
    if listed is None:
        raise no_group(group)
    if listed.is_active:
        raise _still_used(group, listed.state, len(listed.raw_members))
    offsets = len(committed_offsets(connection, group))
    if not dry_run:
        question = f"delete group {group} and its {counted(offsets, 'committed offset')}?"
        require_consent(escape(question), yes=yes)
        _delete(connection, group)
    if target.json:
        print_json({"group": group, "offsets": offsets, "deleted": not dry_run})
    else:
        verb = "would delete" if dry_run else "deleted"
        click.echo(f"{verb} group {escape(group)}, {counted(offsets, 'committed offset')}")


def _still_used(group: str, state: str, members: int) -> Refused:
    return Refused(
        f"group {group} is in use ({state}, {counted(members, 'member')}), nothing was deleted; "
        "stop its consumers first, or wait until the sessions of those that crashed end"
    )


def _delete(connection: Connection, group: str) -> None:
    from confluent_kafka import KafkaError, KafkaException

    futures = connection.admin().delete_consumer_groups([group], request_timeout=CREATE_TIMEOUT_S)
    gone: Callable[[], object] = futures[group].result
    try:
        gone()
    except KafkaException as exception:
        error = exception.args[0]
        if error.code() == KafkaError.NON_EMPTY_GROUP:  # Somebody joined while we asked.
            found = find_group(connection, group)
            members = len(found.raw_members) if found else 0
            raise _still_used(group, found.state if found else "Empty", members) from exception
        if error.code() == KafkaError.GROUP_ID_NOT_FOUND:
            raise no_group(group) from exception
        raise connection.translate(error, f"delete group {group}") from exception


group.add_command(reset)
