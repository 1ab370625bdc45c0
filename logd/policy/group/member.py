"""One member of a group: what it asked for, what it was given, and which answers it waits for.

A member waits for at most one answer to a JoinGroup (it *is joining*) and one to a SyncGroup (it
*is syncing*). The reply that came with the request is parked here. When its connection has gone
the place stays taken, by `GONE`: for the group the member has joined all the same, and the answer
goes nowhere. That is what Kafka does, which cannot see connections from its coordinator; a client
that lost its connection joins again under its id, or its session ends.

A session does not end while its member waits: it cannot send heartbeats that say more than the
parked request does. Members that are new are the exception. They do not know their id yet, so a
client that gives up and tries again would leave one dead member behind at each try; what they wait
for ends after `NEW_MEMBER_WAIT_MS`.

Source: KIP-62 (sessions and rebalance time-outs), KIP-345 (static members).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from logd.policy.group.values import Join
from logd.units import MINUTE_MS

NEW_MEMBER_WAIT_MS: Final = 5 * MINUTE_MS
"""How long a newcomer's first join may wait; Kafka's constant, not a setting."""

GONE: Final = object()
"""In the place of a parked reply whose connection is gone."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a member asks for, each time that it joins.

    Attributes:
        session_timeout_ms: how long it may be silent.
        rebalance_timeout_ms: how long it may take to join again.
        protocols: metadata by name, in its order of preference; never empty.
    """

    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: dict[str, bytes]

    @classmethod
    def of(cls, join: Join) -> Terms:
        """Return what a join asks for."""
        return cls(join.session_timeout_ms, join.rebalance_timeout_ms, protocols_of(join))


class Member:
    """A member of a group, static if it has an instance id.

    Attributes:
        member_id: its id; a static member gets a new one each time that it starts.
        instance_id: what tells a static member from others over restarts; None for a dynamic one.
        client_id, client_host: who it says it is, for people.
        session_timeout_ms, rebalance_timeout_ms, protocols: its Terms, unpacked.
        assignment: what the leader gave it in this generation; empty until then.
        join_reply, sync_reply: the parked replies; None: not waiting.
        is_new: it has not been told yet that it is a member.
        deadline_ms: when its session ends, unless it waits.
    """

    __slots__ = (
        "assignment",
        "client_host",
        "client_id",
        "deadline_ms",
        "instance_id",
        "is_new",
        "join_reply",
        "member_id",
        "protocols",
        "rebalance_timeout_ms",
        "session_timeout_ms",
        "sync_reply",
    )

    def __init__(
        self,
        member_id: str,
        terms: Terms,
        *,
        instance_id: str | None,
        client_id: str,
        client_host: str,
        assignment: bytes = b"",
    ) -> None:
        assert member_id
        self.member_id = member_id
        self.instance_id = instance_id
        self.client_id = client_id
        self.client_host = client_host
        self.assignment = assignment
        self.join_reply: object | None = None
        self.sync_reply: object | None = None
        self.is_new = False
        self.deadline_ms = 0
        self.take_terms(terms)

    @classmethod
    def newcomer(cls, member_id: str, join: Join) -> Member:
        """Return the member that a join makes."""
        member = cls(
            member_id,
            Terms.of(join),
            instance_id=join.instance_id,
            client_id=join.client_id,
            client_host=join.client_host,
        )
        member.is_new = True
        return member

    @property
    def terms(self) -> Terms:
        """What it asks for."""
        return Terms(self.session_timeout_ms, self.rebalance_timeout_ms, self.protocols)

    def take_terms(self, terms: Terms) -> None:
        """Replace what it asks for; the roster does this for members, since it counts."""
        assert terms.protocols
        self.session_timeout_ms = terms.session_timeout_ms
        self.rebalance_timeout_ms = terms.rebalance_timeout_ms
        self.protocols = terms.protocols

    @property
    def is_static(self) -> bool:
        """Whether it has an instance id."""
        return self.instance_id is not None

    @property
    def is_joining(self) -> bool:
        """Whether it waits for the answer to a join: it takes part in the next generation."""
        return self.join_reply is not None

    @property
    def is_syncing(self) -> bool:
        """Whether it waits for its assignment."""
        return self.sync_reply is not None

    @property
    def can_expire(self) -> bool:
        """Whether its deadline counts: it does not wait, or it is new."""
        return self.is_new or (self.join_reply is None and self.sync_reply is None)

    @property
    def wait_ms(self) -> int:
        """How long it may be silent from now on."""
        return NEW_MEMBER_WAIT_MS if self.is_new else self.session_timeout_ms

    def metadata(self, protocol: str | None) -> bytes:
        """Return what it said for a protocol; nothing for one that it does not support."""
        return b"" if protocol is None else self.protocols.get(protocol, b"")

    def says_the_same(self, join: Join) -> bool:
        """Return whether a join has the protocols that are known of it, in the same order."""
        return list(self.protocols.items()) == list(protocols_of(join).items())


def protocols_of(join: Join) -> dict[str, bytes]:
    """Return a join's protocols by name, in order; of a name that comes twice the first counts."""
    protocols: dict[str, bytes] = {}
    for name, metadata in join.protocols:
        protocols.setdefault(name, metadata)
    return protocols
