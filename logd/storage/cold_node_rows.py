"""The rows of storage nodes: their names, places, identities.

Reading and writing inside a transaction that the caller began. No two nodes have a name, a place or
an identity in common: the schema (`catalog_schema`) refuses it, and here it becomes an error that
names the node. Chunks name the node on which they are, so a node that is the place of any can be
renamed or given another disk, but not removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from logd.errors import NodeRefusedError
from logd.policy.cold.values import REMOVABLE, NodeState, StorageNode
from logd.storage.catalog_database import BrokenRuleError, CatalogDatabase
from logd.storage.cold_generation_rows import GenerationRows, blob


class NodeRows:
    """See the module. Every method may raise StorageError; none begins or ends a transaction.

    Args:
        generations: what is coded, where a node goes that chunks were to be removed from.
    """

    def __init__(self, database: CatalogDatabase, generations: GenerationRows) -> None:
        assert database.path
        self._database = database
        self._generations = generations

    def all(self) -> list[StorageNode]:
        """Return all storage nodes by name."""
        found = self._database.rows(
            "SELECT name, place, identity, rack, state FROM node ORDER BY name"
        )
        assert all(len(identity) == 16 for _, _, identity, _, _ in found)
        return [
            StorageNode(
                name=name, place=place, identity=identity.hex(), rack=rack, state=NodeState(state)
            )
            for name, place, identity, rack, state in found
        ]

    def insert(self, node: StorageNode) -> None:
        """Add a node; see `ColdCatalog.add_node`."""
        assert node.name
        assert node.place
        try:
            self._database.change(
                "INSERT INTO node VALUES (?, ?, ?, ?, ?)",
                (node.name, node.place, blob(node.identity), node.rack, node.state.value),
            )
        except BrokenRuleError as error:
            raise NodeRefusedError(f"node {node.name} cannot be added: {error}") from error

    def change(self, node: StorageNode) -> None:
        """Change a node's place, rack or state; see `ColdCatalog.change_node`."""
        assert node.name
        with _refusing(node):
            changed = self._database.change(
                "UPDATE node SET place = ?, rack = ?, state = ? WHERE name = ? AND identity = ?",
                (node.place, node.rack, node.state.value, node.name, blob(node.identity)),
            )
        if changed == 0:
            raise NodeRefusedError(f"there is no node {node.name} with that identity")

    def replace(self, node: StorageNode) -> None:
        """Give a node's name to another disk; see `ColdCatalog.replace_node`."""
        assert node.name
        with _refusing(node):
            changed = self._database.change(
                "UPDATE node SET place = ?, identity = ?, rack = ?, state = ? WHERE name = ?",
                (node.place, blob(node.identity), node.rack, node.state.value, node.name),
            )
        if changed == 0:
            raise NodeRefusedError(f"there is no node {node.name}")
        self._give_up_removals(node.name)

    def _give_up_removals(self, name: str) -> None:
        """Forget what was to be removed from a disk that is gone: it is gone with it."""
        assert name
        for generation in self._generations.select(
            "WHERE encoding IN (SELECT encoding FROM placement WHERE node = ?)", (name,)
        ):
            is_going = generation.state in REMOVABLE
            for at in generation.placements:
                if at.node == name and (is_going or at.is_leaving):
                    self._generations.displace(generation.encoding, index=at.index, node=name)
            self._generations.forget_if_empty(generation.encoding)

    def rename(self, old_name: str, node: StorageNode) -> None:
        """Give a node another name; see `ColdCatalog.rename_node`."""
        assert node.name != old_name
        database = self._database
        # Placements name the node; until the end of the transaction they may name nobody.
        database.rows("PRAGMA defer_foreign_keys = ON")
        with _refusing(node):
            changed = database.change(
                "UPDATE node SET name = ?, place = ?, rack = ? WHERE name = ? AND identity = ?",
                (node.name, node.place, node.rack, old_name, blob(node.identity)),
            )
        if changed == 0:
            raise NodeRefusedError(f"there is no node {old_name} with that identity")
        database.change("UPDATE placement SET node = ? WHERE node = ?", (node.name, old_name))

    def remove(self, name: str) -> None:
        """Remove a node that holds nothing any more; see `ColdCatalog.remove_node`."""
        database = self._database
        [(held,)] = database.rows(
            "SELECT count(*) FROM placement JOIN generation USING (encoding) "
            "WHERE node = ? AND is_leaving = 0 AND state NOT IN ('aborted', 'deleting')",
            (name,),
        )
        if held:
            raise NodeRefusedError(
                f"node {name} is the place of {held} chunks; move them first (`logd node drain "
                f"{name}`), or let an empty place take its name (`logd node replace {name}`)"
            )
        given_up = database.rows("SELECT encoding FROM placement WHERE node = ?", (name,))
        database.change("DELETE FROM placement WHERE node = ?", (name,))
        for (encoding,) in given_up:
            self._generations.forget_if_empty(encoding.hex())
        if database.change("DELETE FROM node WHERE name = ?", (name,)) == 0:
            raise NodeRefusedError(f"there is no node {name}")


@contextmanager
def _refusing(node: StorageNode) -> Iterator[None]:
    try:
        yield
    except BrokenRuleError as error:
        raise NodeRefusedError(f"node {node.name}: {error}") from error
