"""The rows of what is coded: generations, the places of their chunks, manifests, numbers given out.

Reading and writing inside a transaction that the caller began; what may be written it has asked
(`cold_catalog_sqlite`). Here is held what rows owe each other:

* a number is given out once for any of a segment's offsets, also after its generation is gone;
* an offset is in one live generation;
* a generation that is going is forgotten with the place of its last chunk, but for its name: of a
  chunk that turns up later, from a crash or an old disk, it is known why it may go.

The schema (`catalog_schema`) forbids what a single row can do wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from logd.errors import ColdStateError
from logd.policy.cold.states import ColdEvent, is_allowed, step
from logd.policy.cold.values import (
    LIVE,
    ColdState,
    Generation,
    Gone,
    Placement,
    Profile,
    SegmentKey,
)
from logd.storage.catalog_database import BrokenRuleError, CatalogDatabase

_GENERATION: Final = (
    "SELECT encoding, topic_id, partition, base_offset, number, k, m, next_offset, source_bytes, "
    "min_timestamp_ms, max_timestamp_ms, state, changed_ms, is_held, "
    "(SELECT name FROM topic WHERE topic.topic_id = generation.topic_id) FROM generation "
)
_PLACEMENT: Final = "SELECT encoding, chunk, node, is_leaving FROM placement "
_OF_CHOSEN: Final = "WHERE encoding IN (SELECT encoding FROM generation "
_ORDER: Final = " ORDER BY topic_id, partition, base_offset, number"


GONE_KEPT_MAX: Final = 100_000
"""Generations that are remembered when they are gone: a few MB. Of one that is older a chunk that
turns up is put aside."""


class GenerationRows:
    """See the module. Every method may raise StorageError; none begins or ends a transaction."""

    def __init__(self, database: CatalogDatabase) -> None:
        assert database.path
        self._database = database

    # --- reading ----------------------------------------------------------------------------------

    def select(self, where: str = "", values: Sequence[object] = ()) -> list[Generation]:
        """Return the generations that a WHERE clause chooses, with their placements, in order.

        Args:
            where: of the table generation, by an index of it; empty: all.
        """
        rows = self._database.rows(_GENERATION + where + _ORDER, values)
        places: dict[bytes, list[Placement]] = {}
        # Of a few generations the places are found by their key, whatever else is coded.
        chosen = _OF_CHOSEN + where + ") " if where else ""
        # A few nodes have all chunks: equal placements are one object.
        known: dict[tuple[int, str, int], Placement] = {}
        for encoding, chunk, node, is_leaving in self._database.rows(
            _PLACEMENT + chosen + "ORDER BY encoding, chunk, node", values
        ):
            at = known.get((chunk, node, is_leaving))
            if at is None:
                at = known[chunk, node, is_leaving] = Placement(chunk, node, bool(is_leaving))
            places.setdefault(encoding, []).append(at)
        found = [_generation(row, tuple(places.get(row[0], ()))) for row in rows]
        assert len(found) == len(rows)
        return found

    def find(self, encoding: str) -> Generation | None:
        """Return the generation of an encoding, if there is one."""
        found = self.select("WHERE encoding = ?", (blob(encoding),))
        assert len(found) <= 1
        return found[0] if found else None

    def get(self, encoding: str) -> Generation:
        """Return the generation of an encoding.

        Raises:
            ColdStateError: there is none.
        """
        found = self.find(encoding)
        if found is None:
            raise ColdStateError(f"no generation has the encoding {encoding}")
        return found

    def at_key(self, key: SegmentKey) -> list[Generation]:
        """Return all generations of a segment."""
        return self.select(
            "WHERE topic_id = ? AND partition = ? AND base_offset = ?",
            (key.topic_id, key.partition, key.base_offset),
        )

    def overlapping(self, generation: Generation) -> list[Generation]:
        """Return all that have one of a generation's offsets, itself among them."""
        key = generation.key
        return self.select(
            "WHERE topic_id = ? AND partition = ? AND base_offset < ? AND next_offset > ?",
            (key.topic_id, key.partition, generation.next_offset, key.base_offset),
        )

    def manifest(self, encoding: str) -> bytes | None:
        """Return the manifest that is kept of a generation."""
        found = self._database.rows(
            "SELECT data FROM manifest WHERE encoding = ?", (blob(encoding),)
        )
        assert len(found) <= 1
        return bytes(found[0][0]) if found else None

    # --- numbers ----------------------------------------------------------------------------------

    def next_number(self, key: SegmentKey, next_offset: int) -> int:
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

    def note_number(self, key: SegmentKey, number: int) -> None:
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

    # --- writing ----------------------------------------------------------------------------------

    def insert(self, generation: Generation) -> None:
        """Record a generation with its placements and its number.

        Raises:
            ColdStateError: the schema forbids it: another is live or planned, a node is unknown.
        """
        key, encoding = generation.key, blob(generation.encoding)
        assert generation.state not in (ColdState.HOT, ColdState.GONE)
        self.note_number(key, generation.number)
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

    def place(self, generation: Generation, at: Placement) -> None:
        """Give a chunk a place; the copies that it has elsewhere are leaving.

        Raises:
            ColdStateError: the node is unknown, or has another chunk of the generation.
        """
        encoding = blob(generation.encoding)
        try:
            self._database.change(
                "UPDATE placement SET is_leaving = 1 WHERE encoding = ? AND chunk = ?",
                (encoding, at.index),
            )
            self._insert_placement(encoding, at)
        except BrokenRuleError as error:
            raise ColdStateError(f"{generation}: chunk {at.index} on {at.node}: {error}") from error

    def _insert_placement(self, encoding: bytes, at: Placement) -> None:
        assert at.index >= 0
        self._database.change(
            "INSERT INTO placement VALUES (?, ?, ?, ?) "
            "ON CONFLICT (encoding, chunk, node) DO UPDATE SET is_leaving = excluded.is_leaving",
            (encoding, at.index, at.node, int(at.is_leaving)),
        )

    def displace(self, encoding: str, *, index: int, node: str) -> None:
        """Forget that a chunk has a place on a node, if it has."""
        assert index >= 0
        self._database.change(
            "DELETE FROM placement WHERE encoding = ? AND chunk = ? AND node = ?",
            (blob(encoding), index, node),
        )

    def insert_manifest(self, encoding: str, data: bytes) -> None:
        """Keep a generation's manifest.

        Raises:
            ColdStateError: there is one already, or no such generation.
        """
        assert data
        try:
            self._database.change("INSERT INTO manifest VALUES (?, ?)", (blob(encoding), data))
        except BrokenRuleError as error:
            raise ColdStateError(f"the manifest of {encoding} cannot be kept: {error}") from error

    def check_alone(self, generation: Generation) -> None:
        """Check that no other live generation has one of the offsets.

        Raises:
            ColdStateError: one has.
        """
        assert generation.state in LIVE
        key = generation.key
        others = self._database.rows(
            "SELECT base_offset, number FROM generation WHERE topic_id = ? AND partition = ? "
            "AND base_offset < ? AND next_offset > ? AND state IN ('committed', 'released') "
            "AND encoding != ?",
            (
                *(key.topic_id, key.partition, generation.next_offset, key.base_offset),
                blob(generation.encoding),
            ),
        )
        if others:
            base, number = others[0]
            raise ColdStateError(f"{generation}: generation {number} at {base} has its offsets")

    def move(
        self, generation: Generation, event: ColdEvent, *, is_held: bool = False, now_ms: int
    ) -> None:
        """Record the target of an event; the guard was asked.

        Raises:
            ColdStateError: its state does not allow the event, or the schema the target.
        """
        target = step(generation.state, event).target
        assert target is not ColdState.GONE
        try:
            self._database.change(
                "UPDATE generation SET state = ?, changed_ms = ?, is_held = ? WHERE encoding = ?",
                (target.value, now_ms, int(is_held), blob(generation.encoding)),
            )
        except BrokenRuleError as error:
            raise ColdStateError(f"{generation}: cannot {event.value}: {error}") from error

    def forget_if_empty(self, encoding: str) -> bool:
        """ABORTED | DELETING -> GONE, if no chunk has a place any more; return whether it went."""
        generation = self.get(encoding)
        if generation.placements or not is_allowed(generation.state, ColdEvent.FORGET):
            return False
        assert step(generation.state, ColdEvent.FORGET).target is ColdState.GONE
        self._database.change("DELETE FROM generation WHERE encoding = ?", (blob(encoding),))
        self._note_gone(generation)
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

    def _note_gone(self, generation: Generation) -> None:
        """Remember that a generation was removed, instead of the one longest ago."""
        key, number = generation.key, generation.number
        self._database.change(
            "INSERT INTO gone_generation (encoding, topic_id, partition, base_offset, number) "
            "VALUES (?, ?, ?, ?, ?)",
            (blob(generation.encoding), key.topic_id, key.partition, key.base_offset, number),
        )
        self._database.change(
            "DELETE FROM gone_generation WHERE entry <= "
            "(SELECT max(entry) FROM gone_generation) - ?",
            (GONE_KEPT_MAX,),
        )

    def gone(self, encoding: str) -> Gone | None:
        """Return what is remembered of a generation that was removed."""
        found = self._database.rows(
            "SELECT topic_id, partition, base_offset, number FROM gone_generation "
            "WHERE encoding = ?",
            (blob(encoding),),
        )
        assert len(found) <= 1
        for topic_id, partition, base_offset, number in found:
            return Gone(SegmentKey(bytes(topic_id), partition, base_offset), number)
        return None


def blob(hex_id: str) -> bytes:
    """Return the bytes of an encoding's or a disk's identity, as the tables have it."""
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
