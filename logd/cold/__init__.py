"""DRIVER: the cold tier: what the catalog says, the storage nodes, and who works on coded segments.

The one place of the server where its own modules and the coding library `ec` meet. A server without
storage nodes imports no module of `ec`: so `tier`, `nodes`, and what fetches and compaction ask on
their way (`reading`, `time_lookup`, `compacting`, `index_mending`) name the library's types for the
type checker only, and everything else here is imported when a node exists. A test has the list.
"""
