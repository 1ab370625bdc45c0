"""Where in a topic: earliest, latest, an offset, or a time, and what that is in each partition.

`consume --from` and `group reset --to` say it the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import click

from cli.errors import Refused
from cli.kafka import CALL_TIMEOUT_S, Connection, Watermarks, admin_types

METAVAR: Final = "earliest|latest|OFFSET|ISO-TIME"
OFFSET_MAX: Final = 2**63 - 1

Where = str | int | datetime
"""`earliest`, `latest`, an offset or a time."""


def parse_where(text: str, option: str) -> Where:
    """Return what an option says: "earliest", "latest", an offset, or a time.

    Raises:
        click.UsageError: none of these.
    """
    if text in ("earliest", "latest"):
        return text
    if text.isascii() and text.isdigit():  # 20260131 would be a date too: an offset is meant.
        if int(text) > OFFSET_MAX:
            raise click.UsageError(f"{option} {text}: an offset is at most {OFFSET_MAX}")
        return int(text)
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise click.UsageError(
            f"{option} {text!r} is none of earliest, latest, an offset, or a time as "
            "2026-01-31T12:00:00Z"
        ) from error


def locate(
    connection: Connection, topic: str, marks: Mapping[int, Watermarks], where: Where
) -> dict[int, int]:
    """Return the offset in each partition; one that was given as such may be out of range."""
    if where == "earliest":
        return {partition: mark.low for partition, mark in marks.items()}
    if where == "latest":
        return {partition: mark.high for partition, mark in marks.items()}
    if isinstance(where, datetime):
        return _offsets_at(connection, topic, marks, where)
    assert isinstance(where, int)
    return dict.fromkeys(marks, where)


def check_in_range(topic: str, marks: Mapping[int, Watermarks], offsets: Mapping[int, int]) -> None:
    """Return if every partition holds its offset, or ends there.

    Raises:
        Refused: one does not.
    """
    for partition, mark in marks.items():
        if not mark.low <= offsets[partition] <= mark.high:
            raise Refused(
                f"offset {offsets[partition]} is out of range: {topic} partition {partition} "
                f"holds offsets from {mark.low} to before {mark.high}"
                + ("" if len(marks) == 1 else "; choose one with --partition")
            )


def clamp(mark: Watermarks, offset: int) -> int:
    """Return the nearest offset that a partition holds, or its end."""
    return min(max(offset, mark.low), mark.high)


def _offsets_at(
    connection: Connection, topic: str, marks: Mapping[int, Watermarks], at: datetime
) -> dict[int, int]:
    from confluent_kafka import TopicPartition

    spec = admin_types().OffsetSpec.for_timestamp(max(0, round(at.timestamp() * 1000)))
    asked = {TopicPartition(topic, partition): spec for partition in marks}
    if not asked:
        return {}
    futures = connection.admin().list_offsets(asked, request_timeout=CALL_TIMEOUT_S)
    doing = f"offsets of {topic} by time"
    found = {place.partition: connection.result(doing, f).offset for place, f in futures.items()}
    # A negative offset: no record is that young. The end is meant.
    return {p: offset if offset >= 0 else marks[p].high for p, offset in found.items()}
