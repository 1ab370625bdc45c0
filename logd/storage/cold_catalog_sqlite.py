"""The cold catalog in SQLite: the moves of coded segments, each one transaction.

A method reads the record, asks the table of moves (`policy.cold.states`) and the guard
(`policy.cold.proof`), and writes, all in one transaction: so what was decided on is what is there.
What the rows of a table owe each other is in `cold_generation_rows` and `cold_node_rows`. What
cannot be is forbidden by the schema as well (`catalog_schema`): two live or two planned generations
of a segment, two places of one chunk, two chunks of one generation on a node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from logd.errors import ColdStateError
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
    Gone,
    Placement,
    SegmentKey,
    StorageNode,
)
from logd.storage.catalog_database import CatalogDatabase
from logd.storage.cold_catalog import Commit, EncodePlan
from logd.storage.cold_generation_rows import GenerationRows, blob
from logd.storage.cold_node_rows import NodeRows


class SqliteColdCatalog:
    """See `ColdCatalog`."""

    def __init__(self, database: CatalogDatabase) -> None:
        assert database.path
        self._database = database
        self._generations = GenerationRows(database)
        self._nodes = NodeRows(database, self._generations)

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
            return self._nodes.all()

    def add_node(self, node: StorageNode) -> None:
        """See `ColdCatalog`."""
        with self._change("add_node"):
            self._nodes.insert(node)

    def change_node(self, node: StorageNode) -> None:
        """See `ColdCatalog`."""
        with self._change("change_node"):
            self._nodes.change(node)

    def replace_node(self, node: StorageNode) -> None:
        """See `ColdCatalog`."""
        with self._change("replace_node"):
            self._nodes.replace(node)

    def rename_node(self, old_name: str, node: StorageNode) -> None:
        """See `ColdCatalog`."""
        with self._change("rename_node"):
            self._nodes.rename(old_name, node)

    def remove_node(self, name: str) -> None:
        """See `ColdCatalog`."""
        with self._change("remove_node"):
            self._nodes.remove(name)

    # --- reading ----------------------------------------------------------------------------------

    def generations(self) -> list[Generation]:
        """See `ColdCatalog`."""
        with self._database.transaction("generations"):
            return self._generations.select()

    def find(self, encodings: Sequence[str]) -> list[Generation]:
        """See `ColdCatalog`."""
        assert len(set(encodings)) == len(encodings)
        with self._database.transaction("find"):
            found = [self._generations.find(encoding) for encoding in encodings]
        return [generation for generation in found if generation is not None]

    def gone(self, encoding: str) -> Gone | None:
        """See `ColdCatalog`."""
        with self._database.transaction("gone"):
            return self._generations.gone(encoding)

    def manifest(self, encoding: str) -> bytes | None:
        """See `ColdCatalog`."""
        assert encoding
        with self._database.transaction("manifest"):
            return self._generations.manifest(encoding)

    # --- moves ------------------------------------------------------------------------------------

    def plan(self, plan: EncodePlan, *, now_ms: int) -> Generation:
        """See `ColdCatalog`."""
        key = plan.key
        with self._change("plan"):
            generation = Generation(
                key=key,
                number=self._generations.next_number(key, plan.next_offset),
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
            self._generations.insert(generation)
        assert not generation.missing
        return generation

    def place_chunk(self, encoding: str, *, index: int, node: str) -> None:
        """See `ColdCatalog`."""
        assert index >= 0
        with self._change("place_chunk"):
            generation = self._generations.get(encoding)
            if generation.state not in LIVE | {ColdState.PLANNED}:
                raise ColdStateError(f"{generation}: its chunks get no new places")
            if index >= generation.profile.chunks:
                raise ColdStateError(f"{generation} has no chunk {index}")
            self._generations.place(generation, Placement(index, node))

    def commit(
        self, commits: Sequence[Commit], *, superseded: Sequence[str] = (), now_ms: int
    ) -> None:
        """See `ColdCatalog`."""
        assert commits
        rows = self._generations
        with self._change("commit"):
            old = [rows.get(encoding) for encoding in superseded]
            for generation in old:
                rows.move(generation, ColdEvent.SUPERSEDE, now_ms=now_ms)
            for each in commits:
                generation = rows.get(each.encoding)
                _allow(generation, commit_refusal(generation, each.proof))
                held = is_hold_inherited(generation, old)
                rows.move(generation, ColdEvent.COMMIT, is_held=held, now_ms=now_ms)
                rows.insert_manifest(each.encoding, each.manifest)
            for each in commits:
                rows.check_alone(rows.get(each.encoding))

    def abort(self, encoding: str, *, now_ms: int) -> None:
        """See `ColdCatalog`."""
        assert encoding
        with self._change("abort"):
            self._generations.move(self._generations.get(encoding), ColdEvent.ABORT, now_ms=now_ms)

    def release(
        self, encoding: str, check: ReleaseCheck, terms: ReleaseTerms, *, now_ms: int
    ) -> None:
        """See `ColdCatalog`."""
        with self._change("release"):
            generation = self._generations.get(encoding)
            _allow(generation, release_refusal(generation, check, terms, now_ms=now_ms))
            self._generations.move(generation, ColdEvent.RELEASE, now_ms=now_ms)
        assert not generation.missing

    def thaw(self, encoding: str, copy: HotCopy, *, is_held: bool = True, now_ms: int) -> None:
        """See `ColdCatalog`."""
        with self._change("thaw"):
            generation = self._generations.get(encoding)
            _allow(generation, thaw_refusal(generation, copy))
            # Without a hold it had its grace: that is not begun anew.
            at_ms = now_ms if is_held else generation.changed_ms
            self._generations.move(generation, ColdEvent.THAW, is_held=is_held, now_ms=at_ms)
        assert copy.is_synced

    def begin_grace(self, encoding: str, *, now_ms: int) -> None:
        """See `ColdCatalog`."""
        with self._change("begin_grace"):
            generation = self._generations.get(encoding)
            if generation.state is not ColdState.COMMITTED or generation.changed_ms <= now_ms:
                raise ColdStateError(f"{generation}: its grace time has begun")
            self._database.change(
                "UPDATE generation SET changed_ms = ? WHERE encoding = ?", (now_ms, blob(encoding))
            )

    def end_hold(self, encoding: str) -> None:
        """See `ColdCatalog`."""
        with self._change("end_hold"):
            generation = self._generations.get(encoding)
            self._database.change(
                "UPDATE generation SET is_held = 0 WHERE encoding = ?", (blob(encoding),)
            )
        assert generation.encoding == encoding

    def drop_superseded(self, encoding: str, *, has_hot_log: bool, now_ms: int) -> None:
        """See `ColdCatalog`."""
        assert encoding
        rows = self._generations
        with self._change("drop_superseded"):
            generation = rows.get(encoding)
            if generation.state is not ColdState.SUPERSEDED:
                raise ColdStateError(f"{generation}: it is not superseded")
            others = rows.overlapping(generation)
            _allow(generation, drop_refusal(generation, others, has_hot_log=has_hot_log))
            rows.move(generation, ColdEvent.DELETE, now_ms=now_ms)
            rows.forget_if_empty(encoding)

    def delete_segments(self, keys: Sequence[SegmentKey], *, now_ms: int) -> None:
        """See `ColdCatalog`."""
        assert keys
        rows = self._generations
        with self._change("delete_segments"):
            for key in keys:
                for generation in rows.at_key(key):
                    if is_allowed(generation.state, ColdEvent.DELETE):
                        rows.move(generation, ColdEvent.DELETE, now_ms=now_ms)
                        rows.forget_if_empty(generation.encoding)

    def chunk_removed(self, encoding: str, *, index: int, node: str) -> bool:
        """See `ColdCatalog`."""
        assert index >= 0
        with self._change("chunk_removed"):
            generation = self._generations.find(encoding)
            if generation is None:
                return False
            if Placement(index, node) in generation.placements and (
                generation.state not in REMOVABLE
            ):
                raise ColdStateError(f"{generation}: chunk {index} on {node} is not to be removed")
            self._generations.displace(encoding, index=index, node=node)
            return self._generations.forget_if_empty(encoding)

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
        database, rows = self._database, self._generations
        with self._change("restore"):
            [(several,)] = database.rows(
                "SELECT (SELECT count(*) FROM node) + (SELECT count(*) FROM coded_segment)"
            )
            if several:
                raise ColdStateError("the catalog knows storage nodes or coded segments already")
            for node in nodes:
                self._nodes.insert(node)
            for generation, manifest in generations:
                rows.insert(generation)
                rows.insert_manifest(generation.encoding, manifest)
            for key, number in numbers:
                rows.note_number(key, number)
            database.change("UPDATE generation SET changed_ms = ?", (now_ms,))
            for generation, _ in generations:
                rows.check_alone(generation)
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
