"""The cold catalog in SQLite: the moves of coded segments, each one transaction.

A method reads the record, asks the table of moves (`policy.cold.states`) and the guard
(`policy.cold.proof`), and writes, all in one transaction: so what was decided on is what is there.
What cannot be is forbidden by the schema as well (`catalog_schema`): two live or two planned
generations of a segment, two places of one chunk, two chunks of one generation on a node.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from logd.errors import ColdStateError, NodeRefusedError
from logd.policy.cold.proof import (
    HotCopy,
    ReleaseCheck,
    ReleaseTerms,
    commit_refusal,
    drop_refusal,
    is_hold_inherited,
    release_refusal,
    thaw_refusal,
)
from logd.policy.cold.states import ColdEvent, is_allowed, step
from logd.policy.cold.values import (
    LIVE,
    REMOVABLE,
    ColdState,
    Generation,
    NodeState,
    Placement,
    Profile,
    SegmentKey,
    StorageNode,
)
from logd.storage.catalog_database import BrokenRuleError, CatalogDatabase
from logd.storage.cold_catalog import Commit, EncodePlan

_GENERATION: Final = (
    "SELECT encoding, topic_id, partition, base_offset, number, k, m, next_offset, source_bytes, "
    "min_timestamp_ms, max_timestamp_ms, state, changed_ms, is_held, "
    "(SELECT name FROM topic WHERE topic.topic_id = generation.topic_id) FROM generation "
)
_ORDER: Final = " ORDER BY topic_id, partition, base_offset, number"


class SqliteColdCatalog:
    """See `ColdCatalog`."""

    def __init__(self, database: CatalogDatabase) -> None:
        assert database.path
        self._database = database

    def sequence(self) -> int:
        """See `ColdCatalog`."""
        with self._database.transaction("sequence"):
            [(sequence,)] = self._database.rows("SELECT sequence FROM cold")
        assert sequence >= 0
        return int(sequence)

    @contextlib.contextmanager
    def _change(self, name: str) -> Iterator[None]:
        """A transaction that may change what is on nodes; it counts."""
        assert name
        with self._database.transaction(name):
            _count(self._database)
            yield

    # --- nodes ------------------------------------------------------------------------------------

    def nodes(self) -> list[StorageNode]:
        """See `ColdCatalog`."""
        with self._database.transaction("nodes"):
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

    def add_node(self, node: StorageNode) -> None:
        """See `ColdCatalog`."""
        assert node.name
        with self._change("add_node"):
            self._insert_node(node)

    def change_node(self, node: StorageNode) -> None:
        """See `ColdCatalog`."""
        assert node.name
        with self._change("change_node"):
            try:
                changed = self._database.change(
                    "UPDATE node SET place = ?, rack = ?, state = ? "
                    "WHERE name = ? AND identity = ?",
                    (node.place, node.rack, node.state.value, node.name, _blob(node.identity)),
                )
            except BrokenRuleError as error:
                raise NodeRefusedError(f"node {node.name}: {error}") from error
            if changed == 0:
                raise NodeRefusedError(f"there is no node {node.name} with that identity")

    def replace_node(self, node: StorageNode) -> None:
        """See `ColdCatalog`."""
        assert node.name
        with self._change("replace_node"):
            try:
                changed = self._database.change(
                    "UPDATE node SET place = ?, identity = ?, rack = ?, state = ? WHERE name = ?",
                    (
                        node.place, _blob(node.identity), node.rack, node.state.value, node.name,
                    ),
                )  # fmt: skip
            except BrokenRuleError as error:
                raise NodeRefusedError(f"node {node.name}: {error}") from error
            if changed == 0:
                raise NodeRefusedError(f"there is no node {node.name}")
            self._give_up_removals(node.name)

    def _give_up_removals(self, name: str) -> None:
        """Forget what was to be removed from a disk that is gone: it is gone with it."""
        assert name
        for generation in self._select(
            "WHERE encoding IN (SELECT encoding FROM placement WHERE node = ?)", (name,)
        ):
            is_going = generation.state in REMOVABLE
            for at in generation.placements:
                if at.node == name and (is_going or at.is_leaving):
                    self._database.change(
                        "DELETE FROM placement WHERE encoding = ? AND chunk = ? AND node = ?",
                        (_blob(generation.encoding), at.index, name),
                    )
            self._forget_if_empty(generation.encoding)

    def rename_node(self, old_name: str, node: StorageNode) -> None:
        """See `ColdCatalog`."""
        assert node.name != old_name
        database = self._database
        with self._change("rename_node"):
            # Placements name the node; until the end of the transaction they may name nobody.
            database.rows("PRAGMA defer_foreign_keys = ON")
            try:
                changed = database.change(
                    "UPDATE node SET name = ?, place = ?, rack = ? WHERE name = ? AND identity = ?",
                    (node.name, node.place, node.rack, old_name, _blob(node.identity)),
                )
            except BrokenRuleError as error:
                raise NodeRefusedError(f"node {node.name}: {error}") from error
            if changed == 0:
                raise NodeRefusedError(f"there is no node {old_name} with that identity")
            database.change("UPDATE placement SET node = ? WHERE node = ?", (node.name, old_name))

    def remove_node(self, name: str) -> None:
        """See `ColdCatalog`."""
        database = self._database
        with self._change("remove_node"):
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
                self._forget_if_empty(encoding.hex())
            if database.change("DELETE FROM node WHERE name = ?", (name,)) == 0:
                raise NodeRefusedError(f"there is no node {name}")

    def _insert_node(self, node: StorageNode) -> None:
        assert node.place
        try:
            self._database.change(
                "INSERT INTO node VALUES (?, ?, ?, ?, ?)",
                (node.name, node.place, _blob(node.identity), node.rack, node.state.value),
            )
        except BrokenRuleError as error:
            raise NodeRefusedError(f"node {node.name} cannot be added: {error}") from error

    # --- reading ----------------------------------------------------------------------------------

    def generations(self) -> list[Generation]:
        """See `ColdCatalog`."""
        assert self._database.path
        with self._database.transaction("generations"):
            return self._select()

    def find(self, encodings: Sequence[str]) -> list[Generation]:
        """See `ColdCatalog`."""
        assert len(set(encodings)) == len(encodings)
        with self._database.transaction("find"):
            return [
                generation
                for encoding in encodings
                for generation in self._select("WHERE encoding = ?", (_blob(encoding),))
            ]

    def manifest(self, encoding: str) -> bytes | None:
        """See `ColdCatalog`."""
        assert encoding
        with self._database.transaction("manifest"):
            found = self._database.rows(
                "SELECT data FROM manifest WHERE encoding = ?", (_blob(encoding),)
            )
        return bytes(found[0][0]) if found else None

    def _select(self, where: str = "", values: Sequence[object] = ()) -> list[Generation]:
        rows = self._database.rows(_GENERATION + where + _ORDER, values)
        places: dict[bytes, list[Placement]] = {}
        statement = "SELECT encoding, chunk, node, is_leaving FROM placement "
        chosen: Sequence[object] = ()
        if len(rows) == 1:
            statement, chosen = statement + "WHERE encoding = ? ", (rows[0][0],)
        # A few nodes have all chunks: equal placements are one object.
        known: dict[tuple[int, str, int], Placement] = {}
        for encoding, chunk, node, is_leaving in self._database.rows(
            statement + "ORDER BY encoding, chunk, node", chosen
        ):
            at = known.get((chunk, node, is_leaving))
            if at is None:
                at = known[chunk, node, is_leaving] = Placement(chunk, node, bool(is_leaving))
            places.setdefault(encoding, []).append(at)
        found = [_generation(row, tuple(places.get(row[0], ()))) for row in rows]
        assert len(found) == len(rows)
        return found

    def _find(self, encoding: str) -> Generation:
        found = self._select("WHERE encoding = ?", (_blob(encoding),))
        assert len(found) <= 1
        if not found:
            raise ColdStateError(f"no generation has the encoding {encoding}")
        return found[0]

    # --- moves ------------------------------------------------------------------------------------

    def plan(self, plan: EncodePlan, *, now_ms: int) -> Generation:
        """See `ColdCatalog`."""
        key = plan.key
        with self._change("plan"):
            generation = Generation(
                key=key,
                number=self._next_number(key, plan.next_offset),
                encoding=plan.encoding,
                profile=plan.profile,
                next_offset=plan.next_offset,
                source_bytes=plan.source_bytes,
                min_timestamp_ms=plan.min_timestamp_ms,
                max_timestamp_ms=plan.max_timestamp_ms,
                state=step(ColdState.HOT, ColdEvent.PLAN).target,
                changed_ms=now_ms,
                placements=tuple(Placement(at, node) for at, node in enumerate(plan.nodes)),
            )
            live = self._database.rows(
                "SELECT 1 FROM topic WHERE topic_id = ? AND state = 'live'", (key.topic_id,)
            )
            if not live:
                raise ColdStateError(
                    f"{key}: it is not coded: its topic is not live, it was deleted"
                )
            self._insert(generation)
        assert not generation.missing
        return generation

    def _next_number(self, key: SegmentKey, next_offset: int) -> int:
        """Return a number above all that were given out for any of the offsets."""
        [(highest,)] = self._database.rows(
            "SELECT max(last_generation) FROM coded_segment "
            "WHERE topic_id = ?1 AND partition = ?2 AND (base_offset = ?3 OR base_offset IN ("
            "SELECT base_offset FROM generation WHERE topic_id = ?1 AND partition = ?2 "
            "AND base_offset < ?4 AND next_offset > ?3))",
            (key.topic_id, key.partition, key.base_offset, next_offset),
        )
        assert highest is None or highest >= 1
        return 1 if highest is None else int(highest) + 1

    def _insert(self, generation: Generation) -> None:
        key, encoding = generation.key, _blob(generation.encoding)
        assert generation.state not in (ColdState.HOT, ColdState.GONE)
        self._note_number(key, generation.number)
        try:
            profile = generation.profile
            self._database.change(
                "INSERT INTO generation VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(encoding, key.topic_id, key.partition, key.base_offset, generation.number),
                    *(profile.k, profile.m, generation.next_offset, generation.source_bytes),
                    *(generation.min_timestamp_ms, generation.max_timestamp_ms),
                    *(generation.state.value, generation.changed_ms, int(generation.is_held)),
                ),
            )
            for at in generation.placements:
                self._insert_placement(encoding, at)
        except BrokenRuleError as error:
            raise ColdStateError(f"{generation}: cannot be recorded: {error}") from error

    def _note_number(self, key: SegmentKey, number: int) -> None:
        """Remember that a segment's number was given out."""
        assert number >= 1
        try:
            self._database.change(
                "INSERT INTO coded_segment VALUES (?, ?, ?, ?) "
                "ON CONFLICT (topic_id, partition, base_offset) DO UPDATE SET "
                "last_generation = max(last_generation, excluded.last_generation)",
                (key.topic_id, key.partition, key.base_offset, number),
            )
        except BrokenRuleError as error:
            raise ColdStateError(f"{key}: cannot be recorded: {error}") from error

    def _insert_placement(self, encoding: bytes, at: Placement) -> None:
        assert at.index >= 0
        self._database.change(
            "INSERT INTO placement VALUES (?, ?, ?, ?) "
            "ON CONFLICT (encoding, chunk, node) DO UPDATE SET is_leaving = excluded.is_leaving",
            (encoding, at.index, at.node, int(at.is_leaving)),
        )

    def place_chunk(self, encoding: str, *, index: int, node: str) -> None:
        """See `ColdCatalog`."""
        with self._change("place_chunk"):
            generation = self._find(encoding)
            if generation.state not in LIVE | {ColdState.PLANNED}:
                raise ColdStateError(f"{generation}: its chunks get no new places")
            if index >= generation.profile.chunks:
                raise ColdStateError(f"{generation} has no chunk {index}")
            try:
                self._database.change(
                    "UPDATE placement SET is_leaving = 1 WHERE encoding = ? AND chunk = ?",
                    (_blob(encoding), index),
                )
                self._insert_placement(_blob(encoding), Placement(index, node))
            except BrokenRuleError as error:
                raise ColdStateError(f"{generation}: chunk {index} on {node}: {error}") from error
        assert index >= 0

    def commit(
        self, commits: Sequence[Commit], *, superseded: Sequence[str] = (), now_ms: int
    ) -> None:
        """See `ColdCatalog`."""
        assert commits
        with self._change("commit"):
            old = [self._find(encoding) for encoding in superseded]
            for generation in old:
                self._move(generation, ColdEvent.SUPERSEDE, now_ms)
            for each in commits:
                generation = self._find(each.encoding)
                _allow(generation, commit_refusal(generation, each.proof))
                held = is_hold_inherited(generation, old)
                self._move(generation, ColdEvent.COMMIT, now_ms, is_held=held)
                self._insert_manifest(each.encoding, each.manifest)
            for each in commits:
                self._check_alone(self._find(each.encoding))

    def _insert_manifest(self, encoding: str, data: bytes) -> None:
        assert data
        try:
            self._database.change("INSERT INTO manifest VALUES (?, ?)", (_blob(encoding), data))
        except BrokenRuleError as error:
            raise ColdStateError(f"the manifest of {encoding} cannot be kept: {error}") from error

    def _check_alone(self, generation: Generation) -> None:
        """Check that no other live generation has one of the offsets."""
        assert generation.state in LIVE
        key = generation.key
        others = self._database.rows(
            "SELECT base_offset, number FROM generation WHERE topic_id = ? AND partition = ? "
            "AND base_offset < ? AND next_offset > ? AND state IN ('committed', 'released') "
            "AND encoding != ?",
            (
                *(key.topic_id, key.partition, generation.next_offset, key.base_offset),
                _blob(generation.encoding),
            ),
        )
        if others:
            base, number = others[0]
            raise ColdStateError(f"{generation}: generation {number} at {base} has its offsets")

    def abort(self, encoding: str, *, now_ms: int) -> None:
        """See `ColdCatalog`."""
        assert encoding
        with self._change("abort"):
            self._move(self._find(encoding), ColdEvent.ABORT, now_ms)

    def release(
        self, encoding: str, check: ReleaseCheck, terms: ReleaseTerms, *, now_ms: int
    ) -> None:
        """See `ColdCatalog`."""
        with self._change("release"):
            generation = self._find(encoding)
            _allow(generation, release_refusal(generation, check, terms, now_ms=now_ms))
            self._move(generation, ColdEvent.RELEASE, now_ms)
        assert not generation.missing

    def thaw(self, encoding: str, copy: HotCopy, *, is_held: bool = True, now_ms: int) -> None:
        """See `ColdCatalog`."""
        with self._change("thaw"):
            generation = self._find(encoding)
            _allow(generation, thaw_refusal(generation, copy))
            # Without a hold it had its grace: that is not begun anew.
            at_ms = now_ms if is_held else generation.changed_ms
            self._move(generation, ColdEvent.THAW, at_ms, is_held=is_held)
        assert copy.is_synced

    def end_hold(self, encoding: str) -> None:
        """See `ColdCatalog`."""
        with self._change("end_hold"):
            generation = self._find(encoding)
            self._database.change(
                "UPDATE generation SET is_held = 0 WHERE encoding = ?", (_blob(encoding),)
            )
        assert generation.encoding == encoding

    def drop_superseded(self, encoding: str, *, has_hot_log: bool, now_ms: int) -> None:
        """See `ColdCatalog`."""
        assert encoding
        with self._change("drop_superseded"):
            generation = self._find(encoding)
            if generation.state is not ColdState.SUPERSEDED:
                raise ColdStateError(f"{generation}: it is not superseded")
            key = generation.key
            others = self._select(
                "WHERE topic_id = ? AND partition = ? AND base_offset < ? AND next_offset > ?",
                (key.topic_id, key.partition, generation.next_offset, key.base_offset),
            )
            _allow(generation, drop_refusal(generation, others, has_hot_log=has_hot_log))
            self._move(generation, ColdEvent.DELETE, now_ms)
            self._forget_if_empty(encoding)

    def delete_segments(self, keys: Sequence[SegmentKey], *, now_ms: int) -> None:
        """See `ColdCatalog`."""
        assert keys
        with self._change("delete_segments"):
            for key in keys:
                for generation in self._select(
                    "WHERE topic_id = ? AND partition = ? AND base_offset = ?",
                    (key.topic_id, key.partition, key.base_offset),
                ):
                    if is_allowed(generation.state, ColdEvent.DELETE):
                        self._move(generation, ColdEvent.DELETE, now_ms)
                        self._forget_if_empty(generation.encoding)

    def chunk_removed(self, encoding: str, *, index: int, node: str) -> bool:
        """See `ColdCatalog`."""
        assert index >= 0
        with self._change("chunk_removed"):
            found = self._select("WHERE encoding = ?", (_blob(encoding),))
            if not found:
                return False
            generation = found[0]
            if Placement(index, node) in generation.placements and (
                generation.state not in REMOVABLE
            ):
                raise ColdStateError(f"{generation}: chunk {index} on {node} is not to be removed")
            self._database.change(
                "DELETE FROM placement WHERE encoding = ? AND chunk = ? AND node = ?",
                (_blob(encoding), index, node),
            )
            return self._forget_if_empty(encoding)

    def _move(
        self, generation: Generation, event: ColdEvent, now_ms: int, *, is_held: bool = False
    ) -> None:
        """Record the target of an event; the guard was asked."""
        target = step(generation.state, event).target
        assert target is not ColdState.GONE
        try:
            self._database.change(
                "UPDATE generation SET state = ?, changed_ms = ?, is_held = ? WHERE encoding = ?",
                (target.value, now_ms, int(is_held), _blob(generation.encoding)),
            )
        except BrokenRuleError as error:
            raise ColdStateError(f"{generation}: cannot {event.value}: {error}") from error

    def _forget_if_empty(self, encoding: str) -> bool:
        """ABORTED | DELETING -> GONE, if no chunk has a place any more."""
        generation = self._find(encoding)
        if generation.placements or not is_allowed(generation.state, ColdEvent.FORGET):
            return False
        assert step(generation.state, ColdEvent.FORGET).target is ColdState.GONE
        self._database.change("DELETE FROM generation WHERE encoding = ?", (_blob(encoding),))
        if generation.state is ColdState.DELETING:
            # The offsets are never used again. After ABORTED the next attempt counts on.
            key = generation.key
            self._database.change(
                "DELETE FROM coded_segment WHERE topic_id = ?1 AND partition = ?2 "
                "AND base_offset = ?3 AND NOT EXISTS (SELECT 1 FROM generation WHERE "
                "topic_id = ?1 AND partition = ?2 AND base_offset = ?3)",
                (key.topic_id, key.partition, key.base_offset),
            )
        return True

    # --- rebuilding -------------------------------------------------------------------------------

    def restore(
        self,
        nodes: Sequence[StorageNode],
        generations: Sequence[tuple[Generation, bytes]],
        *,
        numbers: Sequence[tuple[SegmentKey, int]] = (),
        sequence: int,
        now_ms: int,
    ) -> None:
        """See `ColdCatalog`."""
        assert sequence >= 0
        database = self._database
        with self._change("restore"):
            [(several,)] = database.rows(
                "SELECT (SELECT count(*) FROM node) + (SELECT count(*) FROM coded_segment)"
            )
            if several:
                raise ColdStateError("the catalog knows storage nodes or coded segments already")
            for node in nodes:
                self._insert_node(node)
            for generation, manifest in generations:
                self._insert(generation)
                self._insert_manifest(generation.encoding, manifest)
            for key, number in numbers:
                self._note_number(key, number)
            database.change("UPDATE generation SET changed_ms = ?", (now_ms,))
            for generation, _ in generations:
                self._check_alone(generation)
            database.change("UPDATE cold SET sequence = max(sequence, ?)", (sequence,))


def delete_topics_generations(database: CatalogDatabase, topic_id: bytes) -> None:
    """Inside the transaction that marks a topic: DELETING, or ABORTED, all that is coded of it."""
    targets = {
        state: step(state, ColdEvent.DELETE).target
        for state in ColdState
        if is_allowed(state, ColdEvent.DELETE)
    }
    assert set(targets.values()) == REMOVABLE
    changed = sum(
        database.change(
            "UPDATE generation SET state = ? WHERE topic_id = ? AND state = ?",
            (target.value, topic_id, state.value),
        )
        for state, target in targets.items()
    )
    if changed:
        _count(database)


def _count(database: CatalogDatabase) -> None:
    changed = database.change("UPDATE cold SET sequence = sequence + 1")
    assert changed == 1


def _allow(generation: Generation, refusal: str | None) -> None:
    assert generation.number >= 1
    if refusal is not None:
        raise ColdStateError(f"{generation}: {refusal}")


def _blob(hex_id: str) -> bytes:
    assert len(hex_id) == 32
    return bytes.fromhex(hex_id)


def _generation(row: tuple[object, ...], placements: tuple[Placement, ...]) -> Generation:
    (encoding, topic_id, partition, base_offset, number, k, m, *rest) = row
    next_offset, source_bytes, min_ms, max_ms, state, changed_ms, is_held, topic = rest
    assert isinstance(encoding, bytes)
    assert isinstance(topic_id, bytes)
    return Generation(
        key=SegmentKey(
            topic_id,
            _int(partition),
            _int(base_offset),
            # One object for all segments of a topic.
            topic=sys.intern(topic) if isinstance(topic, str) else "",
        ),
        number=_int(number),
        encoding=encoding.hex(),
        profile=Profile(_int(k), _int(m)),
        next_offset=_int(next_offset),
        source_bytes=_int(source_bytes),
        min_timestamp_ms=_int(min_ms),
        max_timestamp_ms=_int(max_ms),
        state=ColdState(state),
        changed_ms=_int(changed_ms),
        is_held=bool(is_held),
        placements=placements,
    )


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
