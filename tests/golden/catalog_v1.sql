CREATE TABLE broker_override (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE cluster (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    cluster_id TEXT NOT NULL CHECK (length(cluster_id) > 0),
    next_producer_id INTEGER NOT NULL CHECK (next_producer_id >= 0)
) STRICT;
CREATE UNIQUE INDEX live_topic_name ON topic (name) WHERE state = 'live';
CREATE TABLE topic (
    topic_id BLOB PRIMARY KEY CHECK (length(topic_id) = 16),
    name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 249),
    partitions INTEGER NOT NULL CHECK (partitions BETWEEN 1 AND 100000),
    state TEXT NOT NULL CHECK (state IN ('live', 'deleting'))
) STRICT, WITHOUT ROWID;
CREATE TABLE topic_override (
    topic_id BLOB NOT NULL REFERENCES topic ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (topic_id, name)
) STRICT, WITHOUT ROWID;
