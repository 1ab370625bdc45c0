"""The catalog's tables, by format version: what a new one is made with, and an older one grows by.

A new catalog gets the tables of version 1 and then each later version's additions, an older one
the additions that it lacks: so both end with the same schema, to the letter. A step never changes
what earlier steps made, so numbers stand here as they were then; tests hold them against the
constants of today. docs/formats/catalog.md says what is in each table.
"""

from __future__ import annotations

from typing import Final

_VERSION_1: Final = """
CREATE TABLE cluster (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    cluster_id TEXT NOT NULL CHECK (length(cluster_id) > 0),
    next_producer_id INTEGER NOT NULL CHECK (next_producer_id >= 0)
) STRICT;
CREATE TABLE topic (
    topic_id BLOB PRIMARY KEY CHECK (length(topic_id) = 16),
    name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 249),
    partitions INTEGER NOT NULL CHECK (partitions BETWEEN 1 AND 100000),
    state TEXT NOT NULL CHECK (state IN ('live', 'deleting'))
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX live_topic_name ON topic (name) WHERE state = 'live';
CREATE TABLE topic_override (
    topic_id BLOB NOT NULL REFERENCES topic ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (topic_id, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE broker_override (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


_VERSION_2: Final = """
CREATE TABLE cold (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    sequence INTEGER NOT NULL CHECK (sequence >= 0)
) STRICT;
INSERT INTO cold VALUES (1, 0);
CREATE TABLE node (
    name TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 249),
    place TEXT NOT NULL UNIQUE CHECK (length(place) BETWEEN 1 AND 4096),
    identity BLOB NOT NULL UNIQUE CHECK (length(identity) = 16),
    rack TEXT CHECK (length(rack) BETWEEN 1 AND 249),
    state TEXT NOT NULL CHECK (state IN ('active', 'draining'))
) STRICT, WITHOUT ROWID;
CREATE TABLE coded_segment (
    topic_id BLOB NOT NULL REFERENCES topic ON DELETE CASCADE,
    partition INTEGER NOT NULL CHECK (partition BETWEEN 0 AND 99999),
    base_offset INTEGER NOT NULL CHECK (base_offset >= 0),
    last_generation INTEGER NOT NULL CHECK (last_generation BETWEEN 1 AND 9007199254740991),
    PRIMARY KEY (topic_id, partition, base_offset)
) STRICT, WITHOUT ROWID;
CREATE TABLE generation (
    encoding BLOB PRIMARY KEY CHECK (length(encoding) = 16),
    topic_id BLOB NOT NULL,
    partition INTEGER NOT NULL,
    base_offset INTEGER NOT NULL,
    number INTEGER NOT NULL CHECK (number BETWEEN 1 AND 9007199254740991),
    k INTEGER NOT NULL CHECK (k BETWEEN 2 AND 16),
    m INTEGER NOT NULL CHECK (m BETWEEN 1 AND 4),
    next_offset INTEGER NOT NULL CHECK (next_offset >= base_offset),
    source_bytes INTEGER NOT NULL CHECK (source_bytes >= 0),
    min_timestamp_ms INTEGER NOT NULL CHECK (min_timestamp_ms >= -1),
    max_timestamp_ms INTEGER NOT NULL CHECK (max_timestamp_ms >= min_timestamp_ms),
    state TEXT NOT NULL CHECK (
        state IN ('planned', 'committed', 'released', 'superseded', 'aborted', 'deleting')
    ),
    changed_ms INTEGER NOT NULL,
    is_held INTEGER NOT NULL CHECK (is_held IN (0, 1)),
    UNIQUE (topic_id, partition, base_offset, number),
    FOREIGN KEY (topic_id, partition, base_offset) REFERENCES coded_segment
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX live_generation ON generation (topic_id, partition, base_offset)
    WHERE state IN ('committed', 'released');
CREATE UNIQUE INDEX planned_generation ON generation (topic_id, partition, base_offset)
    WHERE state = 'planned';
CREATE TABLE manifest (
    encoding BLOB PRIMARY KEY REFERENCES generation ON DELETE CASCADE,
    data BLOB NOT NULL CHECK (length(data) BETWEEN 1 AND 65536)
) STRICT;
CREATE TABLE placement (
    encoding BLOB NOT NULL REFERENCES generation ON DELETE CASCADE,
    chunk INTEGER NOT NULL CHECK (chunk BETWEEN 0 AND 19),
    node TEXT NOT NULL REFERENCES node,
    is_leaving INTEGER NOT NULL CHECK (is_leaving IN (0, 1)),
    PRIMARY KEY (encoding, chunk, node)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX place_of_chunk ON placement (encoding, chunk) WHERE is_leaving = 0;
CREATE UNIQUE INDEX chunk_on_node ON placement (encoding, node) WHERE is_leaving = 0;
CREATE INDEX placement_by_node ON placement (node);
"""

_VERSION_3: Final = """
CREATE TABLE gone_generation (
    entry INTEGER PRIMARY KEY,
    encoding BLOB NOT NULL UNIQUE CHECK (length(encoding) = 16),
    topic_id BLOB NOT NULL CHECK (length(topic_id) = 16),
    partition INTEGER NOT NULL,
    base_offset INTEGER NOT NULL,
    number INTEGER NOT NULL
) STRICT;
"""

STEPS: Final[tuple[str, ...]] = (_VERSION_1, _VERSION_2, _VERSION_3)
"""What each format version adds to the one before it."""

FORMAT_VERSION: Final = len(STEPS)


def statements_after(version: int) -> list[str]:
    """Return the statements that make a catalog of some version one of the newest; 0: a new one."""
    assert 0 <= version <= FORMAT_VERSION
    return [
        statement.strip()
        for step in STEPS[version:]
        for statement in step.split(";")
        if statement.strip()
    ]
