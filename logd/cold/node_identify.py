"""Which node a place is, or becomes: what `node add` and --node decide and do.

    what lies there                       the name is new           the name is known
    nothing                               it becomes the node       refused: see `node replace`
    this node, as the catalog has it      -                         its record moves there
    another node of the catalog           it is renamed, and        refused
                                          its record moves there
    this node, the catalog lacks it       it is taken as it is      refused
    another node, cluster, or anything    refused                   refused

A known node is never initialised again. The identity is written before the catalog knows it, so
after a crash between the two the same command takes the place as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ec.errors import EcError
from ec.node_identity import NodeIdentity
from logd.cold.node_access import Access, check_name, refusal, written_place
from logd.errors import NodeRefusedError
from logd.policy.cold.removal import stale_catalog_refusal
from logd.policy.cold.values import NodeState, StorageNode


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for.

    Attributes:
        place: in its one form.
        rack: None: not said.
    """

    name: str
    place: str
    rack: str | None

    @classmethod
    def of(cls, name: str, place: str, rack: str | None) -> Wanted:
        """Return what was asked for, checked.

        Raises:
            NodeRefusedError: no name, no place, or no rack.
        """
        check_name(name)
        if rack is not None and not (rack.strip() and rack.isprintable() and len(rack) <= 64):
            raise NodeRefusedError(f"{rack!r} is no rack: 1 to 64 printable characters")
        return cls(name, written_place(place), rack)


async def identify(
    access: Access,
    wanted: Wanted,
    known: Mapping[str, StorageNode],
    *,
    sequence: int,
    new_id: str,
) -> StorageNode:
    """Return the record that a place is to have; an empty one is made into the node.

    Args:
        known: all nodes of the catalog; none has the wanted name and place.
        sequence: how far the catalog has come.
        new_id: for a node that is made.

    Raises:
        NodeRefusedError: the place is, or holds, something else. Nothing was changed.
    """
    try:
        found = await access.find_identity(wanted.place)
        identity, told_rack = found or (None, None)
        if identity is not None:
            _check_cluster(access, identity, wanted.place)
        moved = None if identity is None else _of_identity(access, identity, known)
        if moved is not None:
            _check_name_free(wanted, moved, known)
            return replace(
                moved, name=wanted.name, place=wanted.place, rack=wanted.rack or moved.rack
            )
        _check_free(wanted, known)
        if identity is None:
            made = NodeIdentity(access.cluster_id, wanted.name, new_id, sequence)
            identity = await access.initialise(wanted.place, made)
    except (EcError, OSError) as error:
        raise NodeRefusedError(
            f"{wanted.place} cannot be node {wanted.name}: {refusal(error, wanted.place)}"
        ) from error
    _check_new(access, identity, wanted, sequence)
    return StorageNode(
        name=wanted.name, place=wanted.place, identity=identity.node_id,
        rack=wanted.rack or told_rack,
    )  # fmt: skip


async def take_over(
    access: Access,
    old: StorageNode,
    place: str,
    known: Mapping[str, StorageNode],
    *,
    sequence: int,
    new_id: str,
) -> StorageNode:
    """Make an empty place into a node that takes another's name; return its record.

    A place that was made into it by an attempt that was cut short is taken as it is.

    Raises:
        NodeRefusedError: the place is not empty, or another node's. Nothing was changed.
    """
    place = written_place(place)
    for node in known.values():
        if node.place == place and node.name != old.name:
            raise NodeRefusedError(f"{place} is the place of node {node.name}; give an empty one")
    try:
        found = await access.find_identity(place)
        identity = None if found is None else found[0]
        if identity is not None and identity.node_id == old.identity:
            raise NodeRefusedError(
                f"{place} is node {old.name} itself, not an empty place; drain it, or take its "
                "disk away first"
            )
        if identity is None:
            made = NodeIdentity(access.cluster_id, old.name, new_id, sequence)
            identity = await access.initialise(place, made)
    except (EcError, OSError) as error:
        raise NodeRefusedError(
            f"{place} cannot take the place of node {old.name}: {refusal(error, place)}"
        ) from error
    _check_new(access, identity, Wanted(old.name, place, old.rack), sequence)
    if _of_identity(access, identity, known) is not None:
        raise NodeRefusedError(f"{place} is another node's already")
    return replace(old, place=place, identity=identity.node_id, state=NodeState.ACTIVE)


async def write_name(access: Access, record: StorageNode, *, sequence: int) -> None:
    """Let a node's identity have the name of its record; harmless where it does.

    Raises:
        NodeRefusedError: it could not be written.
    """
    identity = NodeIdentity(access.cluster_id, record.name, record.identity, sequence)
    try:
        await access.initialise(record.place, identity)
    except (EcError, OSError) as error:
        raise NodeRefusedError(
            f"{record.place} cannot be renamed {record.name}: {refusal(error, record.place)}"
        ) from error


def _check_name_free(wanted: Wanted, found: StorageNode, known: Mapping[str, StorageNode]) -> None:
    """Check that the wanted name is not another node's than the one that was found there."""
    same = known.get(wanted.name)
    if same is not None and same.identity != found.identity:
        raise NodeRefusedError(
            f"{wanted.place} is node {found.name}, and node {wanted.name} is another one, at "
            f"{same.place}"
        )


def _of_identity(
    access: Access, identity: NodeIdentity, known: Mapping[str, StorageNode]
) -> StorageNode | None:
    if identity.cluster_id != access.cluster_id:
        return None
    return next((node for node in known.values() if node.identity == identity.node_id), None)


def _check_free(wanted: Wanted, known: Mapping[str, StorageNode]) -> None:
    """Check that neither the name nor the place is another node's."""
    same = known.get(wanted.name)
    if same is not None:
        raise NodeRefusedError(
            f"node {wanted.name} is known, at {same.place}, and {wanted.place} is not it; an empty "
            "place takes a lost node's place by `logd node replace` only"
        )
    for node in known.values():
        if node.place == wanted.place:
            raise NodeRefusedError(
                f"{wanted.place} is the place of node {node.name}, which is not there now"
            )


def _check_cluster(access: Access, identity: NodeIdentity, place: str) -> None:
    """Check that a place is not another cluster's.

    Raises:
        NodeRefusedError: it is.
    """
    if identity.cluster_id != access.cluster_id:
        raise NodeRefusedError(
            f"{place} belongs to another cluster: it is node {identity.node} of cluster "
            f"{identity.cluster_id}, and this is {access.cluster_id}; its chunks are that one's. "
            "Take an empty place"
        )


def _check_new(access: Access, identity: NodeIdentity, wanted: Wanted, sequence: int) -> None:
    """Check the identity at a place that the catalog does not know."""
    _check_cluster(access, identity, wanted.place)
    if identity.node != wanted.name:
        raise NodeRefusedError(f"{wanted.place} is node {identity.node}, not {wanted.name}")
    refused = stale_catalog_refusal(sequence, {wanted.name: identity.catalog_sequence})
    if refused is not None:
        raise NodeRefusedError(refused)
