"""The members of a group, and what follows from all of them together.

Who leads, who holds which instance id, how many have joined, and which protocols all support are
kept as members come and go, so that a join costs the same whether there are ten members or ten
thousand. The order of `members` is the order in which they came; the first one left inherits the
lead.

Invariants: there is a leader exactly if there are members, and it is one of them; every instance id
leads to a member with that instance id; while there are members, there is a protocol that all of
them support (a join that would end this is refused beforehand).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from logd.policy.group.member import Member, Terms


class Roster:
    """The members, the ids of members to come, and counts over them.

    Attributes:
        members: by member id, in the order in which they came.
        by_instance: member id of each static member.
        pending: ids that were given out and not used yet, with the time at which they lapse.
        leader: the leading member's id.
        joining_count: how many wait for the answer to a join.
    """

    __slots__ = ("_supporters", "by_instance", "joining_count", "leader", "members", "pending")

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.by_instance: dict[str, str] = {}
        self.pending: dict[str, int] = {}
        self.leader: str | None = None
        self.joining_count = 0
        self._supporters: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    @property
    def all_joined(self) -> bool:
        """Whether nobody is missing: every member joins, and every id that was given out."""
        return self.joining_count == len(self.members) and not self.pending

    @property
    def rebalance_timeout_ms(self) -> int:
        """How long the slowest member may take to join again."""
        return max((member.rebalance_timeout_ms for member in self), default=0)

    # --- Coming and going -------------------------------------------------------------------------

    def add(self, member: Member) -> None:
        """Take a member in that does not wait for anything yet; the first one leads."""
        assert member.member_id not in self.members
        assert not member.is_joining
        if member.instance_id is not None:
            assert member.instance_id not in self.by_instance
            self.by_instance[member.instance_id] = member.member_id
        self.members[member.member_id] = member
        self._supporters.update(member.protocols.keys())
        self.pending.pop(member.member_id, None)
        if self.leader is None:
            self.leader = member.member_id

    def remove(self, member: Member) -> None:
        """Let a member go that does not wait for anything any more."""
        assert not member.is_joining
        assert not member.is_syncing
        del self.members[member.member_id]
        self._count_supporters(member, -1)
        if member.instance_id is not None:
            del self.by_instance[member.instance_id]
        if self.leader == member.member_id:
            self.leader = next(iter(self.members), None)

    def rename(self, member: Member, member_id: str) -> None:
        """Give a static member another id; it keeps what it has, the lead as well.

        In the order of members it comes last from now on.
        """
        assert member.instance_id is not None
        assert member_id not in self.members
        del self.members[member.member_id]
        if self.leader == member.member_id:
            self.leader = member_id
        member.member_id = member_id
        self.members[member_id] = member
        self.by_instance[member.instance_id] = member_id

    def change(self, member: Member, terms: Terms) -> None:
        """Replace what a member asks for."""
        assert terms.protocols
        self._count_supporters(member, -1)
        member.take_terms(terms)
        self._count_supporters(member, 1)

    def _count_supporters(self, member: Member, step: int) -> None:
        for name in member.protocols:
            self._supporters[name] += step
            if not self._supporters[name]:
                del self._supporters[name]

    # --- Parking ----------------------------------------------------------------------------------

    def park_join(self, member: Member, reply: object) -> object | None:
        """Let a member wait for the answer to a join; returns the reply that it replaces."""
        previous = member.join_reply
        if previous is None:
            self.joining_count += 1
        member.join_reply = reply
        return previous

    def unpark_join(self, member: Member) -> object | None:
        """End a member's wait for the answer to a join; returns its reply."""
        reply = member.join_reply
        if reply is not None:
            self.joining_count -= 1
        member.join_reply = None
        return reply

    # --- Choosing ---------------------------------------------------------------------------------

    def supports_any(self, protocols: Collection[str]) -> bool:
        """Return whether all members support one of these protocols."""
        count = len(self.members)
        return any(self._supporters[name] == count for name in protocols)

    def elect_protocol(self) -> str:
        """Return the protocol with the most votes.

        Each member votes for the first in its list that all support. Of equal ones the one wins
        that the member who is longest in the group prefers.
        """
        assert self.members
        count = len(self.members)
        common = {name for name, number in self._supporters.items() if number == count}
        assert common
        votes = Counter(
            next(name for name in member.protocols if name in common) for member in self
        )
        return votes.most_common(1)[0][0]

    def elect_joined_leader(self) -> bool:
        """Make sure that the leader is one that joins; returns False if nobody does."""
        if self.leader is None:
            return False
        if not self.members[self.leader].is_joining:
            joined = next((member for member in self if member.is_joining), None)
            if joined is None:
                return False
            self.leader = joined.member_id
        return True
